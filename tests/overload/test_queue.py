# SPDX-License-Identifier: Apache-2.0
"""Who waits in front of a server that is busy, who is served next, and who is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from e2e.http2 import Client
from e2e.observe import Server
from e2e.raw import Connection, chunked, request, wait_until
from e2e.support import serving, unique
from node import Node
from overload.client import Connection as Asker
from overload.client import connect
from overload.soak_overload import TESTS_DIR

ONE_PLACE = (
    "#{max_concurrency => 1, queue_timeout => 30000, shutdown_timeout => 1000,"
    " keepalive => 60000}"
)
FEW = 20


@pytest.fixture
def server(node: Node) -> Iterator[Server]:
    name = unique("queue").replace("-", "_")

    with serving(
        node, "overload.apps.busy:app", ONE_PLACE, name=name, app_dir=TESTS_DIR
    ) as url:
        yield Server(node, name, url)


@pytest.fixture
def holder(server: Server) -> Iterator[Connection]:
    """Has the only place until it is released."""
    with Connection(server.url) as connection:
        connection.send(request(target="/hold"))
        wait_until(lambda: server.in_flight() == 1, "the place is taken")
        yield connection


def release(server: Server, holder: Connection) -> None:
    """Have it leave its place, and wait until nobody waits for it any more."""
    holder.close()
    wait_until(lambda: server.queue() == 0, "nobody waits any more")


def order(server: Server) -> list[int]:
    """The numbers of the work in the order in which the application got it."""
    with Connection(server.url) as client:
        return list(json.loads(client.get("/order").body))


def await_queue(server: Server, size: int) -> None:
    wait_until(lambda: server.queue() == size, f"{size} wait, not {server.queue()}")


# Order.


def test_oldest_first(server: Server, holder: Connection) -> None:
    """Whatever they came on: HTTP/2 streams wait among connections of HTTP/1."""
    with ExitStack() as stack:
        many = stack.enter_context(Client(server.url))
        singles = []

        for number in range(FEW):
            target = f"/work/{number}"

            if number % 3:
                many.request(target)
            else:
                single = stack.enter_context(Connection(server.url))
                single.send(request(target=target))
                singles.append(single)

            await_queue(server, number + 1)

        release(server, holder)
        assert {single.read_response().status for single in singles} == {200}
        many.pump(
            lambda: all(stream.is_over for stream in many.streams.values()),
            "all served",
        )

    assert order(server) == list(range(FEW))


def test_who_comes_later_does_not_overtake(server: Server) -> None:
    """One that asks now and then among many that ask all the time gets its turns."""

    async def run() -> tuple[int, int]:
        crowd = [await connect(server.url) for _ in range(FEW)]
        single = await connect(server.url)
        served = 0
        is_over = False

        async def press(asker: Asker, first: int) -> None:
            nonlocal served

            while not is_over:
                assert await asker.work(first, 2)
                served += 1

        tasks = [
            asyncio.ensure_future(press(asker, number))
            for number, asker in enumerate(crowd)
        ]
        worst = 0

        for number in range(10):
            before = served
            assert await single.work(1000 + number, 2)
            worst = max(worst, served - before)

        is_over = True
        await asyncio.gather(*tasks)

        for asker in [*crowd, single]:
            asker.leave()

        return worst, served

    worst, served = asyncio.run(run())
    # Those that were there before it, and two whose answers were on their way.
    assert worst <= FEW + 2
    assert served > 5 * FEW


# Those who leave.


@pytest.mark.parametrize("resets", [False, True])
def test_who_leaves_is_not_served(
    server: Server, holder: Connection, resets: bool
) -> None:
    """The place in the queue is free at once; the application never sees it."""
    clients = [Connection(server.url) for _ in range(FEW)]

    for number, client in enumerate(clients):
        client.send(request(target=f"/work/{number}"))

    await_queue(server, FEW)

    for client in clients[1:]:
        (client.reset if resets else client.close)()

    await_queue(server, 1)
    release(server, holder)

    with clients[0] as stays:
        assert stays.read_response().text == "0"

    assert order(server) == [0]


def test_streams_that_are_cancelled_are_not_served(
    server: Server, holder: Connection
) -> None:
    with Client(server.url) as client:
        streams = [client.request(f"/work/{number}") for number in range(FEW)]
        await_queue(server, FEW)

        for stream in streams[1:]:
            client.reset(stream)

        await_queue(server, 1)
        release(server, holder)
        assert client.finish(streams[0]).text == "0"

    assert order(server) == [0]


def test_who_leaves_with_a_body_half_sent(server: Server, holder: Connection) -> None:
    with Connection(server.url) as client:
        client.send(request("POST", "/work/1", [("Content-Length", "1000")]) + b"x")
        await_queue(server, 1)

    await_queue(server, 0)
    release(server, holder)
    assert order(server) == []


def test_end_behind_what_is_not_read(server: Server, holder: Connection) -> None:
    """Nobody can know of it before the body is read; then it ends the request."""
    with Connection(server.url) as client:
        client.send(request("POST", "/upload", [("Content-Length", str(1 << 30))]))
        await_queue(server, 1)
        client.socket.settimeout(0.2)

        with pytest.raises(TimeoutError):
            client.send(bytes(1 << 26))

    release(server, holder)
    wait_until(lambda: server.in_flight() == 0, "the application is told")


def test_connection_that_breaks_while_it_waits(
    server: Server, holder: Connection
) -> None:
    """A fault of the client's behind a request that waits ends both.

    Where Cowboy reads what comes behind it, that is: TE makes the first one Cowboy's.
    """
    with Connection(server.url) as client:
        client.send(request(target="/work/1", headers=[("TE", "trailers")]))
        await_queue(server, 1)
        client.send(
            request("POST", "/work/2", [("Transfer-Encoding", "chunked")])
            + chunked(b"x")
        )
        client.read_eof()

    await_queue(server, 0)
    release(server, holder)
    assert order(server) == []
