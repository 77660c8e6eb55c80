# SPDX-License-Identifier: Apache-2.0
"""Each way for a worker to die, and what becomes of its requests and of its place.

`e2e/test_workers.py` has the plain cases.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from e2e.http2 import Client as Http2Client
from e2e.http2_websocket import WebSocket
from e2e.observe import Server, survivors
from e2e.raw import Connection, Cut, request, wait_until
from faults.kills import OPTIONS, ask, serving, wait_until_all_ready
from node import Node
from processes import children


@pytest.fixture
def server(node: Node, tmp_path: Path) -> Iterator[Server]:
    with serving(node, tmp_path) as running:
        yield running


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """The file that has one request kill its worker."""
    path = tmp_path / "marker"
    path.touch()
    return path


def test_killed_by_the_kernel(server: Server, marker: Path) -> None:
    """Beyond a limit, as out of memory, it is SIGKILL: safe requests do not notice.

    The limit is that of CPU time: that of address space makes Python raise MemoryError
    (see test_no_memory), and one of a control group needs root.
    """
    assert ask(server, "/die/limit/before/marker") == 200
    assert not marker.exists()
    wait_until_all_ready(server)
    assert "ended by signal 9 (SIGKILL)" in "".join(server.worker_facts("last_exit"))


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_unsafe_methods(server: Server, marker: Path, method: str) -> None:
    """Nobody knows what they have done: 502, also without a body."""
    assert ask(server, "/die/exit/before/marker", method) == 502
    wait_until_all_ready(server)
    assert ask(server, "/echo/x", method) == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("when", ["before", "unread"])
def test_body_partly_sent(server: Server, marker: Path, method: str, when: str) -> None:
    """What had come of it has gone with the worker: 502, and the connection ends."""
    with Connection(server.url) as client:
        length = [("Content-Length", "6")]
        client.send(request(method, f"/die/exit/{when}/marker", length))
        client.send(b"abc")

        if when == "before":
            # The application reads all of it first.
            wait_until(lambda: server.in_flight() == 1, "the worker has it")
            (pid,) = {
                pid
                for pid, busy in zip(
                    server.worker_pids(), server.worker_facts("in_flight"), strict=True
                )
                if busy == "1"
            }
            os.kill(pid, signal.SIGKILL)

        answer = client.read_response(method)
        assert answer.status == 502
        assert not answer.keeps_alive

    wait_until_all_ready(server)


@pytest.mark.parametrize("how", ["kill", "segfault", "exit", "abort"])
def test_begun_stream_is_cut(server: Server, marker: Path, how: str) -> None:
    """Never a well-formed end, and no second try."""
    with Connection(server.url) as client:
        client.send(request(target=f"/die/{how}/start/marker"))

        with pytest.raises(Cut) as caught:
            client.read_response()

        assert caught.value.received == b"part"

    wait_until_all_ready(server)


def test_begun_http2_stream_is_reset(server: Server, marker: Path) -> None:
    """Others of the connection go on."""
    with Http2Client(server.url) as client:
        stream = client.get("/die/kill/start/marker")
        assert (stream.status, stream.body) == (200, b"part")
        assert stream.reset == "INTERNAL_ERROR"
        assert client.get("/echo/x").text == "GET x"

    wait_until_all_ready(server)


def test_second_death_is_502(server: Server) -> None:
    """A request that kills each worker that it meets is tried twice, not for ever."""
    assert ask(server, "/die/always/before/x") == 502
    wait_until_all_ready(server)
    assert server.worker_facts("restarts") == ["1", "1"]


def close_code(socket: ClientConnection) -> int | None:
    """What the server has closed with, if it has."""
    try:
        socket.send("still there?")
        socket.recv(10)
    except ConnectionClosed as closed:
        assert closed.rcvd is not None, "cut without a close frame"
        return closed.rcvd.code

    return None


@pytest.mark.parametrize("how", ["kill", "segfault", "exit", "abort"])
def test_websockets_are_told_to_come_back(server: Server, how: str) -> None:
    """All of the dead worker get a close frame with 1012; those of others go on."""
    url = server.url.replace("http", "ws")

    with ExitStack() as stack:
        sockets = [stack.enter_context(connect(url, proxy=None)) for _ in range(10)]
        homes = [home_of(each) for each in sockets]
        others = sum(home != homes[0] for home in homes)
        sockets[0].send(f"die {how}")
        wait_until(lambda: server.in_flight() == others, "those of one worker are over")
        codes = [close_code(each) for each in sockets]
        assert codes == [1012 if home == homes[0] else None for home in homes]

    wait_until_all_ready(server)

    with connect(url, proxy=None) as again:
        again.send("hello")
        assert again.recv(10) == "hello"


def home_of(socket: ClientConnection) -> str:
    """Which worker has it."""
    socket.send("who")
    return str(socket.recv(10))


def test_http2_websockets_are_told_to_come_back(server: Server) -> None:
    with ExitStack() as stack:
        sockets = [stack.enter_context(WebSocket(server.url, "/")) for _ in range(4)]
        homes = []

        for each in sockets:
            each.send("who")
            homes.append(each.take())

        sockets[0].send("die kill")

        for each, home in zip(sockets, homes, strict=True):
            if home == homes[0]:
                assert each.closing() == 1012
            else:
                each.send("still there?")
                assert each.take() == "still there?"

    wait_until_all_ready(server)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("exit", r"exited with status 3"),
        ("segfault", r"ended by signal 11 \(SIGSEGV\)"),
        ("raise", r"(?s)importing.*Traceback.*app\.py.*ZeroDivisionError: told to"),
    ],
)
def test_crash_loop(
    node: Node, server: Server, tmp_path: Path, how: str, why: str
) -> None:
    """Of a worker that can't be imported any more: the others serve, and it comes back.

    It is tried later and later, and `info` and the log say why it can't start.
    """
    before = len(node.logged())
    (tmp_path / "import").write_text(how)
    os.kill(server.worker_pids()[0], signal.SIGKILL)
    wait_until(lambda: int(server.worker_facts("restarts")[0]) >= 4, "it fails on")
    (shown,) = [fact for fact in server.worker_facts("last_exit") if fact != "none"]
    assert re.search(why, shown)
    log = node.logged()[before:]
    assert re.search(why, log)
    delays = [int(ms) for ms in re.findall(r"restart_in_ms: (\d+)", log)]
    assert delays == sorted(delays)
    assert delays[:2] != [0, 0]
    assert {ask(server, f"/echo/{number}") for number in range(10)} == {200}

    (tmp_path / "import").unlink()
    wait_until_all_ready(server)
    assert ask(server, "/echo/x") == 200


@pytest.mark.parametrize("how", ["exit", "segfault", "kill"])
def test_death_in_lifespan_shutdown(node: Node, tmp_path: Path, how: str) -> None:
    """A reload and a stop go on; no process is left."""
    with serving(node, tmp_path) as server:
        pids = server.worker_pids()
        (tmp_path / "shutdown").write_text(how)
        assert node.eval(f"hornbeam:reload({server.name})") == "ok"
        assert survivors(pids) == []
        assert ask(server, "/echo/x") == 200
        successors = server.worker_pids()
        assert node.eval(f"hornbeam:stop({server.name})") == "ok"

    assert survivors(successors) == []


def test_no_memory(server: Server) -> None:
    """An application that gets no more has failed with that request, and no other."""
    for _ in range(10):
        assert ask(server, f"/limit_memory/{32 << 20}") == 200

    pids = server.worker_pids()
    assert {ask(server, f"/take_memory/{256 << 20}") for _ in range(4)} == {500}
    assert {ask(server, "/echo/x") for _ in range(4)} == {200}
    assert server.worker_pids() == pids


def test_no_memory_at_all(node: Node, tmp_path: Path) -> None:
    """Nobody gets a wrong answer, whatever can't be read, run or sent for want of it.

    A worker that has lost what it read leaves: what comes next would be taken for
    something else.
    """
    options = f"{OPTIONS}, timeout => 3000, stall_timeout => 2000, heartbeat => 100"

    with serving(node, tmp_path, options) as server:
        for _ in range(10):
            assert ask(server, "/limit_memory/0") == 200

        def upload(number: int) -> int:
            body = bytes((number,)) * (8 << 20)

            with Connection(server.url) as client:
                try:
                    answer = client.post(f"/echo/{number}", body)
                except (Cut, ConnectionError):
                    return 502

            if answer.status == 200:
                assert answer.body == b"POST " + body

            return answer.status

        with ThreadPoolExecutor(8) as threads:
            statuses = set(threads.map(upload, range(16)))

        assert statuses <= {200, 500, 502, 503, 504}
        wait_until_all_ready(server)


def exits(server: Server) -> list[str]:
    """Why workers have ended, of those that have."""
    return [fact for fact in server.worker_facts("last_exit") if fact != "none"]


@contextmanager
def unreaped(node: Node) -> Iterator[None]:
    """For a block the node does not learn how its processes have ended."""
    os_pid = int(node.eval_text("os:getpid()"))
    (reaper,) = [
        pid
        for pid in children(os_pid)
        if Path(f"/proc/{pid}/comm").read_text().startswith("erl_child_setup")
    ]
    os.kill(reaper, signal.SIGSTOP)

    try:
        yield
    finally:
        os.kill(reaper, signal.SIGCONT)


def wait_until_dead(pid: int) -> None:
    """Reaped it need not be."""
    stat = Path(f"/proc/{pid}/stat")
    wait_until(lambda: ") Z " in stat.read_text(), "it has ended")


@pytest.mark.parametrize("body", [b"x", b"x" * (1 << 20)], ids=["little", "full"])
def test_written_to_when_dead(node: Node, tmp_path: Path, body: bytes) -> None:
    """It is known how a worker has died to which requests are sent that it can't read.

    Which is so for a part of a millisecond: here until the processes are reaped.
    """
    with serving(node, tmp_path, "workers => 1") as server:
        (pid,) = server.worker_pids()

        with unreaped(node), Connection(server.url) as client:
            os.kill(pid, signal.SIGSEGV)
            wait_until_dead(pid)
            length = [("Content-Length", str(len(body)))]
            client.send(request("POST", "/echo/x", length) + body)
            wait_until(lambda: server.in_flight() == 1, "it is sent to the dead one")
            os.kill(pid, 0)

        wait_until(lambda: exits(server) != [], "its end is known")
        wait_until_all_ready(server, 1)
        assert exits(server) == ['<<"ended by signal 11 (SIGSEGV)">>']
        assert ask(server, "/echo/x") == 200


def test_closed_input(node: Node, tmp_path: Path, marker: Path) -> None:
    """A worker that can't be written to is not waited for as a busy one is."""
    options = "workers => 2, heartbeat => 100, stall_timeout => 600000"

    with serving(node, tmp_path, options) as server:
        # It does not answer, but goes on.
        assert ask(server, "/die/deafen/before/marker") == 500
        wait_until(lambda: exits(server) != [], "it has been replaced")
        wait_until_all_ready(server)
        assert "ended while it was written to" in exits(server)[0]
        assert {ask(server, "/echo/x") for _ in range(4)} == {200}


def test_packet_that_never_comes(node: Node, tmp_path: Path, marker: Path) -> None:
    """A worker that announces 4 GiB is blocked: others serve, and it is replaced."""
    options = "workers => 2, heartbeat => 100, stall_timeout => 1000"

    with serving(node, tmp_path, options) as server, Connection(server.url) as client:
        pids = server.worker_pids()
        client.send(request("POST", "/die/promise/before/marker"))
        wait_until(lambda: not marker.exists(), "it does so")
        assert {ask(server, "/echo/x") for _ in range(4)} == {200}
        assert client.read_response("POST").status == 502
        wait_until(lambda: exits(server) != [], "it has been ended")
        (last_exit,) = exits(server)
        assert "its event loop was blocked for" in last_exit
        wait_until_all_ready(server)
        assert server.worker_pids() != pids
        assert ask(server, "/echo/x") == 200


def test_swallowed_cancellation(node: Node, tmp_path: Path) -> None:
    """Its client has a 504; the log says so, and when it is over."""
    (tmp_path / "swallow").touch()

    with serving(node, tmp_path, "workers => 1, timeout => 1000") as server:
        assert ask(server, "/swallow") == 504
        node.wait_for_output(
            r"GET /swallow: was cancelled 0\.2 s ago and still runs: "
            "the application swallowed the cancellation"
        )
        assert ask(server, "/echo/x") == 200
        (tmp_path / "swallow").unlink()
        node.wait_for_output(
            r"GET /swallow: has ended, \d+\.\d s after it was cancelled"
        )
