# SPDX-License-Identifier: Apache-2.0
"""How descriptors come from the node, with a node that does what it should not."""

from __future__ import annotations

import errno
import os
import resource
import socket
import struct
import sys
import threading
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from hornbeam import _lending
from hornbeam._lending import Lending
from hornbeam._runtime import Runtime
from worker_support import LOOPS, run, until

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs abstract names of sockets, and /proc"
)

NOBODY = 65534
SO_COOKIE = 57

FORK_SECONDS = 0.2
"""More than a fork takes that nothing holds up."""

Taken = list[tuple[int, socket.socket | None]]


class Node:
    """The node's end, and the worker's."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.taken: Taken = []
        self.lending = Lending(
            runtime, 1.0, lambda request_id, client: self.take(request_id, client)
        )
        name = self.lending.listen()
        assert name is not None
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX)

    def take(self, request_id: int, client: socket.socket | None) -> None:
        self.taken.append((request_id, client))

    async def connect(self) -> None:
        self.socket.connect(self.name)
        await until(self.runtime, lambda: self.lending.is_open)

    def pass_on(self, data: bytes, *sockets: socket.socket) -> None:
        rights = array("i", [one.fileno() for one in sockets])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if sockets else []
        self.socket.sendmsg([data], ancillary)

    async def await_taken(self, count: int) -> None:
        await until(self.runtime, lambda: len(self.taken) == count)

    def close(self) -> None:
        self.socket.close()
        self.lending.close()

        for client in list(self.lending.lent):
            self.lending.give_back(client)


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The client's end of a connection, and the node's."""
    client, here = socket.socketpair()

    with client, here:
        client.settimeout(5)
        yield client, here


def message(number: int, client: socket.socket) -> bytes:
    """A request's id, with what says which socket is meant."""
    cookie = client.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)
    return struct.pack(">Q", number) + cookie


@pytest.mark.parametrize("loop", LOOPS)
def test_arrives(loop: str) -> None:
    """It is the client's; given back, nothing of it is left."""

    async def test(runtime: Runtime) -> None:
        node = Node(runtime)
        assert not node.lending.is_open
        await node.connect()

        with pair() as (client, here):
            node.pass_on(message(1 << 40, here), here)
            await node.await_taken(1)
            [(number, lent)] = node.taken
            assert number == 1 << 40
            assert lent is not None
            assert node.lending.lent == {lent}
            assert not lent.get_inheritable()
            lent.send(b"x")
            assert client.recv(1) == b"x"
            here.close()
            node.lending.give_back(lent)
            assert client.recv(1) == b""
            assert not node.lending.lent

        node.close()

    run(test, loop)


def test_many_at_once() -> None:
    """Each with its own, though they are read in one go."""

    async def test(runtime: Runtime) -> None:
        node = Node(runtime)
        await node.connect()
        pairs = [socket.socketpair() for _ in range(20)]

        for number, (_, here) in enumerate(pairs):
            node.pass_on(message(number, here), here)

        await node.await_taken(20)

        for number, lent in node.taken:
            assert lent is not None
            lent.send(b"%d" % number)
            assert pairs[number][0].recv(9) == b"%d" % number

        for client, here in pairs:
            client.close()
            here.close()

        node.close()

    run(test)


def test_name_is_no_secret_but_new() -> None:
    async def test(runtime: Runtime) -> None:
        nodes = [Node(runtime), Node(runtime)]
        assert len({node.name for node in nodes}) == 2
        assert all(node.name.startswith(b"\0hornbeam-") for node in nodes)
        assert all(len(node.name) <= 107 for node in nodes)

        for node in nodes:
            node.close()

    run(test)


def test_one_node() -> None:
    """Who comes later finds nobody who listens."""

    async def test(runtime: Runtime) -> None:
        node = Node(runtime)
        await node.connect()

        with socket.socket(socket.AF_UNIX) as other:
            assert other.connect_ex(node.name) == errno.ECONNREFUSED

        node.close()

    run(test)


@pytest.mark.parametrize("length", [1, 8, 15])
def test_short_message(length: int) -> None:
    """There is no telling what comes next; what came with it does not stay."""

    async def test(runtime: Runtime) -> None:
        node = Node(runtime)
        await node.connect()

        with pair() as (client, here):
            node.pass_on(b"x" * length, here)
            await until(runtime, lambda: not node.lending.is_open)
            here.close()
            assert client.recv(1) == b""

        assert not node.taken
        node.close()

    run(test)


def test_without_a_descriptor() -> None:
    async def test(runtime: Runtime) -> None:
        node = Node(runtime)
        await node.connect()
        node.pass_on(bytes(16))
        await node.await_taken(1)
        assert node.taken == [(0, None)]
        node.close()

    run(test)


def test_another_socket_than_was_meant() -> None:
    """Of a client that has nothing to do with the request: it must not get a byte."""

    async def test(runtime: Runtime) -> None:
        node = Node(runtime)
        await node.connect()

        with pair() as (_, meant), pair() as (stranger, there):
            node.pass_on(message(7, meant), there)
            await node.await_taken(1)
            assert node.taken == [(7, None)]
            assert not node.lending.lent
            there.close()
            assert stranger.recv(1) == b""

        node.close()

    run(test)


def test_too_many_descriptors() -> None:
    """The kernel closes those that there is no room for."""

    async def test(runtime: Runtime) -> None:
        node = Node(runtime)
        await node.connect()

        with pair() as (client, here), pair() as (second, there):
            node.pass_on(message(7, here), here, there)
            await node.await_taken(1)
            here.close()
            there.close()
            assert second.recv(1) == b""
            _, lent = node.taken[0]
            assert lent is not None
            node.lending.give_back(lent)
            assert client.recv(1) == b""

        node.close()

    run(test)


def test_no_place_for_descriptors() -> None:
    """The request is told so; the next one can be lent again."""

    async def test(runtime: Runtime) -> None:
        node = Node(runtime)
        await node.connect()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)

        with pair() as (_, here):
            lowest = os.dup(0)
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))

            try:
                node.pass_on(message(7, here), here)
                await node.await_taken(1)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)

            assert node.taken == [(7, None)]
            node.pass_on(message(8, here), here)
            await node.await_taken(2)
            assert node.taken[1][1] is not None
            node.close()

    run(test)


def test_more_than_half_of_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The application needs some, and clients may be slow."""

    async def test(runtime: Runtime) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(resource, "getrlimit", lambda _: (6, 6))
            node = Node(runtime)

        await node.connect()

        with pair() as (_, here):
            for number in range(5):
                node.pass_on(message(number, here), here)

            await node.await_taken(5)
            is_lent = [client is not None for _, client in node.taken]
            assert is_lent == [True, True, True, False, False]
            node.lending.give_back(next(iter(node.lending.lent)))
            node.pass_on(message(5, here), here)
            await node.await_taken(6)
            assert node.taken[5][1] is not None

        node.close()

    run(test)


@pytest.mark.parametrize("limit", [resource.RLIM_INFINITY, 1 << 40])
def test_as_many_as_there_are(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    async def test(runtime: Runtime) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(resource, "getrlimit", lambda _: (limit, limit))
            node = Node(runtime)

        await node.connect()

        with pair() as (_, here):
            node.pass_on(message(1, here), here)
            await node.await_taken(1)
            assert node.lending.lent

        node.close()

    run(test)


@pytest.mark.parametrize("loop", LOOPS)
def test_node_that_goes(loop: str) -> None:
    """What has been lent stays, nothing more comes."""

    async def test(runtime: Runtime) -> None:
        node = Node(runtime)
        await node.connect()

        with pair() as (client, here):
            node.pass_on(message(7, here), here)
            await node.await_taken(1)
            node.socket.close()
            await until(runtime, lambda: not node.lending.is_open)
            _, lent = node.taken[0]
            assert lent is not None
            lent.send(b"x")
            assert client.recv(1) == b"x"

        node.close()

    run(test, loop)


def test_what_is_no_socket() -> None:
    """Of a node that has gone mad: as if nothing had come with it."""

    async def test(runtime: Runtime) -> None:
        node = Node(runtime)
        await node.connect()
        read, write = os.pipe()
        rights = array("i", [write])
        node.socket.sendmsg(
            [bytes(16)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
        )
        await node.await_taken(1)
        assert node.taken == [(0, None)]
        os.close(write)
        assert os.read(read, 1) == b""
        os.close(read)
        node.close()

    run(test)


@pytest.mark.parametrize("timeout_s", [None, 5.0])
def test_default_timeout_of_sockets(timeout_s: float | None) -> None:
    """An application may set one: who writes does not wait for it."""

    async def test(runtime: Runtime) -> None:
        socket.setdefaulttimeout(timeout_s)

        try:
            node = Node(runtime)
            await node.connect()

            with pair() as (_, here):
                here.setblocking(False)
                node.pass_on(message(7, here), here)
                await node.await_taken(1)
                _, lent = node.taken[0]
                assert lent is not None
                assert lent.gettimeout() == 0
                # The node's own must not wait either.
                assert not os.get_blocking(here.fileno())

            node.close()
        finally:
            socket.setdefaulttimeout(None)

    run(test)


def in_child(does: Callable[[], None]) -> int:
    """Its exit status."""
    child = os.fork()

    if child == 0:
        try:
            does()
        except BaseException:
            os._exit(1)

        os._exit(0)

    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_fork() -> None:
    """The child has nothing of it."""

    async def test(runtime: Runtime) -> None:
        node = Node(runtime)
        await node.connect()

        with pair() as (_, here):
            node.pass_on(message(7, here), here)
            await node.await_taken(1)
            _, lent = node.taken[0]
            assert lent is not None
            channel = node.lending._channel
            assert channel is not None
            descriptors = [lent.fileno(), channel.fileno()]

            def check() -> None:
                for descriptor in descriptors:
                    with pytest.raises(OSError):
                        os.fstat(descriptor)

                assert not node.lending.lent
                assert not node.lending.is_open

            assert in_child(check) == 0
            assert node.lending.is_open
            lent.send(b"x")

        node.close()

    run(test)


def test_fork_while_a_socket_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    """By another thread, when the socket is open, and not yet known for lent."""
    cookie_of = _lending._cookie_of
    statuses: list[int] = []

    async def test(runtime: Runtime) -> None:
        node = Node(runtime)
        await node.connect()

        with pair() as (_, here):
            inode = os.fstat(here.fileno()).st_ino
            mine = [here.fileno()]

            def check() -> None:
                assert open_sockets(inode) == mine

            def fork() -> None:
                statuses.append(in_child(check))

            thread = threading.Thread(target=fork)

            def look(client: socket.socket) -> bytes:
                # Not until this is over.
                thread.start()
                thread.join(FORK_SECONDS)
                return cookie_of(client)

            monkeypatch.setattr(_lending, "_cookie_of", look)
            node.pass_on(message(7, here), here)
            await node.await_taken(1)
            thread.join()

        node.close()

    run(test)
    assert statuses == [0]


def open_sockets(inode: int) -> list[int]:
    """The descriptors of this process for that socket."""
    found = []

    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.stat(f"/proc/self/fd/{name}").st_ino == inode:
                found.append(int(name))

    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="has to become somebody else")
def test_foreign_user() -> None:
    """Is not let in; the node still is."""

    async def test(runtime: Runtime) -> None:
        node = Node(runtime)

        def connect() -> None:
            os.setuid(NOBODY)

            with socket.socket(socket.AF_UNIX) as foreign:
                foreign.connect(node.name)
                foreign.settimeout(5)
                # The loop of the parent waits for this process: it takes it later.

        assert in_child(connect) == 0
        await node.connect()

        with pair() as (_, here):
            node.pass_on(message(7, here), here)
            await node.await_taken(1)

        node.close()

    run(test)


def test_after_its_end() -> None:
    async def test(runtime: Runtime) -> None:
        node = Node(runtime)
        await node.connect()
        node.close()
        node.lending.close()
        assert not node.lending.is_open

    run(test)
