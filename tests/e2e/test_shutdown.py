# SPDX-License-Identifier: Apache-2.0
"""The end of a server that has all kinds of things open, in each of the ways."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import hyperframe.frame as frames
import pytest
import trustme

from e2e.http2 import Frames
from e2e.observe import descendants, survivors
from e2e.raw import Connection, Cut, request, wait_until
from e2e.support import env_option
from e2e.talk import closing, connect
from node import Node, literal

# The ways to stop, but for the signal.
WAYS = {
    "stop": "hornbeam:stop()",
    "application": "application:stop(hornbeam)",
    "init": "init:stop()",
}


class Served:
    """A server of `apps/shutdown_app.py` on a node of its own."""

    def __init__(self, node: Node, folder: Path, options: str, **env: str) -> None:
        self.node = node
        self.log = folder / "log"
        self.log.touch()
        variables = env_option({"SHUTDOWN_LOG": str(self.log), **env})
        self.url = node.start_server(
            "e2e.apps.shutdown_app:application",
            f"maps:merge(#{{env => {variables}}}, {options})",
            app_dir=Path(__file__).resolve().parent.parent,
        )
        self._ending: threading.Thread | None = None

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def await_line(self, line: str) -> None:
        wait_until(lambda: line in self.lines(), line)

    def go(self) -> None:
        Path(f"{self.log}.go").touch()

    def begin_end(self, way: str) -> None:
        """Stop it, or the node, in a thread."""
        if way == "signal":
            os.kill(self.node.os_pid, signal.SIGTERM)
            return

        def call() -> None:
            # The node may go before the answer.
            with suppress(ConnectionError):
                self.node.eval(WAYS[way])

        self._ending = threading.Thread(target=call)
        self._ending.start()

    def await_end(self, way: str) -> None:
        if self._ending is not None:
            self._ending.join(30)
            assert not self._ending.is_alive()

        if way in ("signal", "init"):
            wait_until(lambda: not self.node.is_alive(), "the node has gone")


def is_refused(url: str) -> bool:
    try:
        Connection(url).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    except ConnectionResetError:
        # It was in the queue of the listener when that was closed: the next one tells.
        pass

    return False


def opened(stack: ExitStack, url: str, target: str) -> Connection:
    connection = stack.enter_context(Connection(url))
    connection.send(request(target=target))
    return connection


def read_to_end(http2: Frames) -> dict[int, bytes]:
    """The bodies that end well on a connection that says goodbye first.

    Not by the library h2, which takes nothing after a GOAWAY.
    """
    bodies: dict[int, bytes] = {}
    ended: set[int] = set()
    goodbyes = []

    while (frame := http2.read_frame()) is not None:
        if isinstance(frame, frames.GoAwayFrame):
            goodbyes.append(frame.error_code)
        elif isinstance(frame, frames.DataFrame):
            bodies[frame.stream_id] = bodies.get(frame.stream_id, b"") + frame.data

            if "END_STREAM" in frame.flags:
                assert goodbyes
                ended.add(frame.stream_id)

    assert goodbyes[0] == 0
    assert ended == set(bodies)
    return bodies


@pytest.mark.parametrize("way", [*WAYS, "signal"])
def test_all_kinds_at_once(fresh_node: Node, tmp_path: Path, way: str) -> None:
    """Each gets its due: an answer, a close frame, a GOAWAY; then nothing is left."""
    served = Served(fresh_node, tmp_path, "#{workers => 2, shutdown_timeout => 20000}")
    pids = list(descendants(fresh_node.os_pid))

    with ExitStack() as stack:
        idle = stack.enter_context(Connection(served.url))
        assert idle.get("/hello").text == "hello"
        slow = opened(stack, served.url, "/slow")
        stream = opened(stack, served.url, "/stream")
        streaming = stream.start_response()
        assert streaming.read_part() == b"first "
        upload = stack.enter_context(Connection(served.url))
        upload.send(request("POST", "/upload", [("Content-Length", "6")]) + b"abc")
        socket = stack.enter_context(connect(served.url, "/socket"))
        http2 = stack.enter_context(Frames(served.url))

        for stream_id, path in ((1, b"/slow"), (3, b"/stream"), (5, b"/slow")):
            block = http2.block((b":path", path), without=b":path")
            flags = ["END_HEADERS", "END_STREAM"]
            http2.send(frames.HeadersFrame(stream_id, block, flags=flags))

        for kind in ("slow", "stream", "upload", "socket"):
            served.await_line(f"{kind} began")

        wait_until(lambda: served.lines().count("slow began") == 3, "all of them")
        served.begin_end(way)
        assert closing(socket)[0] == 1001
        idle.read_eof()
        wait_until(lambda: is_refused(served.url), "new connections are refused")
        assert "lifespan.shutdown" not in served.lines()
        upload.send(b"def")
        assert upload.read_response("POST").text == "6"
        served.go()
        answer = slow.read_response()
        assert answer.text == "slow"
        assert answer.one("connection") == b"close"
        assert streaming.finish().body == b"first last"
        assert read_to_end(http2) == {1: b"slow", 3: b"first last", 5: b"slow"}
        served.await_end(way)

    assert served.lines().count("lifespan.shutdown") == 2
    assert "socket 1001" in served.lines()
    assert not [line for line in served.lines() if "cancelled" in line]

    if way in ("signal", "init"):
        assert survivors(pids) == []
    else:
        assert fresh_node.eval(
            "{ets:info(hornbeam_selection, size), ranch:info()}"
        ) in (
            "{0,#{}}",
            "{undefined,#{}}",
        )


def test_what_does_not_end_is_cut(fresh_node: Node, tmp_path: Path) -> None:
    """After `shutdown_timeout`: never as if it were complete. The lifespan ends."""
    served = Served(fresh_node, tmp_path, "#{shutdown_timeout => 500}")
    pids = list(descendants(fresh_node.os_pid))

    with ExitStack() as stack:
        events = opened(stack, served.url, "/events")
        never = opened(stack, served.url, "/never")
        served.await_line("events began")
        served.await_line("never began")
        served.begin_end("signal")

        for each in (events, never):
            with pytest.raises(Cut):
                each.read_response()

        served.await_end("signal")

    assert served.lines()[-1] == "lifespan.shutdown"
    assert "never cancelled" in served.lines()
    assert survivors(pids) == []


def test_queued_requests_are_answered(fresh_node: Node, tmp_path: Path) -> None:
    """What has been accepted is served, also what waits for a place."""
    served = Served(fresh_node, tmp_path, "#{max_concurrency => 1}")

    with ExitStack() as stack:
        clients = [opened(stack, served.url, "/slow")]
        served.await_line("slow began")
        clients += [opened(stack, served.url, "/hello") for _ in range(4)]
        wait_until(
            lambda: fresh_node.eval("maps:get(queue, hornbeam:info())") == "4", "queued"
        )
        served.begin_end("stop")
        wait_until(lambda: is_refused(served.url), "new connections are refused")
        served.go()
        assert [client.read_response().text for client in clients] == [
            "slow",
            *["hello"] * 4,
        ]
        served.await_end("stop")


def test_lifespan_that_hangs_is_bounded(fresh_node: Node, tmp_path: Path) -> None:
    """It is killed after `lifespan_timeout`."""
    served = Served(
        fresh_node, tmp_path, "#{lifespan_timeout => 1500}", SHUTDOWN_HANGS="1"
    )
    pids = list(descendants(fresh_node.os_pid))
    served.begin_end("signal")
    served.await_end("signal")
    assert served.lines() == ["lifespan.shutdown"]
    assert survivors(pids) == []


def open_never(stack: ExitStack, served: Served) -> Callable[[], None]:
    """What is drained for as long as it may, and how its client sees it end."""
    client = opened(stack, served.url, "/never")
    served.await_line("never began")

    def check() -> None:
        with pytest.raises(Cut):
            client.read_response()

    return check


def hurried(served: Served, pids: list[int]) -> None:
    os.kill(served.node.os_pid, signal.SIGTERM)
    # Minutes would be left.
    wait_until(lambda: not served.node.is_alive(), "the node has gone", seconds=20)
    assert survivors(pids) == []


def test_second_sigterm_ends_the_drain(fresh_node: Node, tmp_path: Path) -> None:
    """Connections are cut, tasks cancelled, and the lifespan still ends."""
    served = Served(fresh_node, tmp_path, "#{shutdown_timeout => 600000, workers => 2}")
    pids = list(descendants(fresh_node.os_pid))

    with ExitStack() as stack:
        check = open_never(stack, served)
        served.begin_end("signal")
        wait_until(lambda: is_refused(served.url), "it drains")
        hurried(served, pids)
        check()

    assert served.lines().count("lifespan.shutdown") == 2
    assert "never cancelled" in served.lines()


def test_second_sigterm_ends_a_lifespan(fresh_node: Node, tmp_path: Path) -> None:
    """Also one that is already at its end, and may take for ever."""
    options = "#{lifespan_timeout => infinity}"
    served = Served(fresh_node, tmp_path, options, SHUTDOWN_HANGS="1")
    pids = list(descendants(fresh_node.os_pid))
    served.begin_end("signal")
    served.await_line("lifespan.shutdown")
    hurried(served, pids)


def test_stop_is_not_hurried_by_one_signal(fresh_node: Node, tmp_path: Path) -> None:
    """The first SIGTERM stops in order, also while a server is being stopped."""
    served = Served(fresh_node, tmp_path, "#{shutdown_timeout => 20000}")

    with ExitStack() as stack:
        client = opened(stack, served.url, "/slow")
        served.await_line("slow began")
        served.begin_end("stop")
        wait_until(lambda: is_refused(served.url), "it drains")
        os.kill(fresh_node.os_pid, signal.SIGTERM)
        fresh_node.wait_for_output("SIGTERM received")
        served.go()
        assert client.read_response().text == "slow"
        wait_until(lambda: not fresh_node.is_alive(), "the node has gone")

    assert "slow cancelled" not in served.lines()


@pytest.mark.parametrize("kind", ["http", "https"])
def test_unix_socket(fresh_node: Node, tmp_path: Path, kind: str) -> None:
    """Its file goes first, so that nobody finds a server that does not answer."""
    path = tmp_path / "s"
    tls = "" if kind == "http" else tls_options(tmp_path)
    options = f'#{{bind => ["127.0.0.1:0", "unix:{path}"]{tls}}}'
    served = Served(fresh_node, tmp_path, options)

    # A connection that says nothing, and one below TLS that has not even begun.
    with ExitStack() as stack:
        stack.enter_context(Connection(served.url.replace("https", "http")))
        assert path.is_socket()
        served.begin_end("stop")
        served.await_end("stop")
        assert not path.exists()
        assert is_refused(served.url.replace("https", "http"))


def tls_options(folder: Path) -> str:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "pem")
    pem = literal(str(folder / "pem"))
    return f", ssl => true, certfile => {pem}, keyfile => {pem}"


WSGI = """
import time, pathlib

def app(environ, start_response):
    pathlib.Path("began").touch()
    while True:
        time.sleep(3600)
"""


def test_wsgi_threads_do_not_outlive_a_killed_node(
    fresh_node: Node, tmp_path: Path
) -> None:
    """Also when all of them are busy for ever."""
    (tmp_path / "busy.py").write_text(WSGI)
    url = fresh_node.start_server(
        "busy:app",
        f"#{{threads => 2, chdir => {literal(str(tmp_path))}}}",
        app_dir=tmp_path,
    )
    pids = list(descendants(fresh_node.os_pid))

    with ExitStack() as stack:
        for _ in range(3):
            opened(stack, url, "/")

        wait_until((tmp_path / "began").exists, "a thread is busy")
        fresh_node.kill()

    assert survivors(pids, seconds=5) == []
