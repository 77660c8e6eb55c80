# SPDX-License-Identifier: Apache-2.0
"""Workers that are replaced while real clients ask: no request fails, ever."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.http2_websocket import WebSocket
from e2e.observe import Server
from e2e.raw import wait_until
from e2e.support import E2E_DIR, make_async_client, make_client
from e2e.talk import closing, connect, take
from node import Node

SOURCE = (E2E_DIR / "apps" / "reload_app.py").read_text()
WSGI_SOURCE = (E2E_DIR / "apps" / "reload_wsgi_app.py").read_text()
VERSION_ONE = 'VERSION = b"one"'
STARTUP = 'STARTUP = "completes"'

UPLOAD = b"u" * 100_000


class Deployment:
    """An application in a folder of its own, which is served and changed."""

    def __init__(
        self, node: Node, folder: Path, options: str, source: str = SOURCE
    ) -> None:
        self.node = node
        self._source = source
        self._path = folder / "live.py"
        self.write(source)
        name = f"reload_{folder.name}"
        url = node.start_server(
            "live:app",
            f"maps:merge(#{{shutdown_timeout => 5000}}, {options})",
            name=name,
            app_dir=folder,
        )
        self.server = Server(node, name, url)
        self.url = url
        self.name = name

    def write(self, source: str) -> None:
        """Put a version in place, of another size than each before (see the docs)."""
        self._path.write_text(source)

    def deploy(self, version: str) -> None:
        assert VERSION_ONE in self._source
        self.write(self._source.replace(VERSION_ONE, f'VERSION = b"{version}"'))

    def startup(self, kind: str) -> None:
        assert STARTUP in SOURCE
        self.write(SOURCE.replace(STARTUP, f'STARTUP = "{kind}"'))

    def call(self, call: str) -> str:
        """The answer of `hornbeam:reload`, or of another function, as Erlang has it."""
        return self.node.eval(f"hornbeam:{call}")

    def reload(self) -> str:
        return self.call(f"reload({self.name})")

    def ask(self) -> str:
        with make_client(self.url) as client:
            return client.post("/", content=b"?").text


@contextmanager
def deployed(
    node: Node, folder: Path, options: str, source: str = SOURCE
) -> Iterator[Deployment]:
    deployment = Deployment(node, folder, options, source)

    try:
        yield deployment
    finally:
        node.eval(f"hornbeam:stop({deployment.name})")


class Load:
    """Clients that ask all the time, in a thread; every answer is checked.

    The block that it is used for fails where one of them was wrong.
    """

    def __init__(self, url: str, *, http2: bool = False) -> None:
        self._url = url
        self._http2 = http2
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.versions: Counter[str] = Counter()
        self._faults: list[BaseException] = []

    def __enter__(self) -> Load:
        self._thread.start()
        wait_until(lambda: self.count >= 20, "the load runs")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert self._faults == []

    @property
    def count(self) -> int:
        assert self._faults == []
        return self.versions.total()

    def await_more(self, count: int) -> None:
        """Wait for so many answers from now on."""
        before = self.count
        wait_until(lambda: self.count >= before + count, "the load goes on")

    def _run(self) -> None:
        try:
            asyncio.run(self._ask_all())
        except BaseException as exc:  # it is raised in the test's thread
            self._faults.append(exc)

    async def _ask_all(self) -> None:
        async with make_async_client(
            self._url, connections=16, http2=self._http2
        ) as client:
            version_of_http = "HTTP/2" if self._http2 else "HTTP/1.1"

            async def small() -> None:
                answer = await client.post("/", content=b"small")
                assert answer.status_code == 200
                assert answer.http_version == version_of_http
                version, body = answer.text.split()
                assert body == "small"
                self.versions[version] += 1

            async def upload() -> None:
                answer = await client.post("/", content=slowly(UPLOAD))
                assert answer.status_code == 200
                version, body = answer.content.split()
                assert body == UPLOAD
                self.versions[version.decode()] += 1

            async def stream() -> None:
                answer = await client.get("/stream")
                assert answer.status_code == 200
                version = answer.text[: len(answer.text) // 5]
                assert answer.text == version * 5
                self.versions[version] += 1

            kinds = [small] * 4 + [upload, upload, stream, stream]

            async def again_and_again(number: int) -> None:
                while not self._stop.is_set():
                    await kinds[number]()

            await asyncio.gather(*map(again_and_again, range(len(kinds))))


async def slowly(body: bytes) -> AsyncIterator[bytes]:
    """A body in parts, for a worker to leave between them."""
    for at in range(0, len(body), 25_000):
        yield body[at : at + 25_000]
        await asyncio.sleep(0.01)


# Reload.


@pytest.mark.parametrize("workers", [1, 2])
def test_reload_under_load(node: Node, tmp_path: Path, workers: int) -> None:
    """Not one request fails, and after it only the new version answers."""
    with deployed(node, tmp_path, f"#{{workers => {workers}}}") as live:
        with Load(live.url) as load:
            for version in ("second", "thethird"):
                live.deploy(version)
                assert live.reload() == "ok"
                assert live.ask() == f"{version} ?"
                load.await_more(50)

        assert set(load.versions) == {"one", "second", "thethird"}
        assert live.server.worker_facts("worker_id").count("1") >= 1


@pytest.mark.parametrize(
    ("source", "http2"),
    [
        pytest.param(SOURCE, True, id="asgi-http2"),
        pytest.param(WSGI_SOURCE, False, id="wsgi-http1"),
        pytest.param(WSGI_SOURCE, True, id="wsgi-http2"),
    ],
)
def test_all_replacements_under_load(
    node: Node, tmp_path: Path, source: str, http2: bool
) -> None:
    """WSGI and HTTP/2 as well: reload, recycling and scale, and no request fails."""
    options = "#{workers => 2, max_requests => 40, max_requests_jitter => 10}"

    with deployed(node, tmp_path, options, source) as live:
        with Load(live.url, http2=http2) as load:
            wait_until(
                lambda: sum(map(int, live.server.worker_facts("restarts"))) >= 3,
                "workers were replaced",
            )
            live.deploy("second")
            assert live.reload() == "ok"
            assert live.ask() == "second ?"

            for count in (3, 1):
                assert live.call(f"scale({live.name}, {count})") == "ok"
                load.await_more(30)

        assert set(load.versions) == {"one", "second"}


def test_import_that_fails(node: Node, tmp_path: Path) -> None:
    """The reason has the traceback, the old version serves on, under load."""
    with deployed(node, tmp_path, "#{workers => 2}") as live:
        before = live.server.worker_pids()

        with Load(live.url) as load:
            live.write("async def app(scope, receive, send:\n    pass\n")
            answer = live.reload()
            assert answer.startswith("{error,{app_import_failed,")
            assert "SyntaxError" in answer
            assert "line 1" in answer
            live.write("def broken():\n    return 1 / 0\n\n\napp = broken()\n")
            answer = live.reload()
            assert answer.startswith("{error,{app_import_failed,")
            assert "Traceback" in answer
            assert "in broken" in answer
            assert "ZeroDivisionError" in answer

        assert set(load.versions) == {"one"}
        assert live.server.worker_pids() == before
        node.wait_for_output("reload_failed")


def test_startup_that_fails(node: Node, tmp_path: Path) -> None:
    with deployed(node, tmp_path, "#{lifespan => on}") as live:
        live.startup("fails")
        answer = live.reload()
        assert answer == '{error,{lifespan_failed,#{message => <<"no database">>}}}'
        assert live.ask() == "one ?"
        live.deploy("repaired")
        assert live.reload() == "ok"
        assert live.ask() == "repaired ?"


def test_startup_that_hangs(node: Node, tmp_path: Path) -> None:
    with deployed(node, tmp_path, "#{lifespan_timeout => 1500}") as live:
        live.startup("hangs")

        with Load(live.url) as load:
            answer = live.reload()

        assert answer == "{error,{startup_timeout,#{timeout_ms => 1500}}}"
        assert set(load.versions) == {"one"}


def test_websockets_are_told(node: Node, tmp_path: Path) -> None:
    """1012: come again. And who does finds the new version."""
    with deployed(node, tmp_path, "#{workers => 1}") as live:
        with connect(live.url, "/") as client:
            client.send("before")
            assert take(client) == "before"
            assert live.reload() == "ok"
            assert closing(client)[0] == 1012

        with connect(live.url, "/") as client:
            client.send("after")
            assert take(client) == "after"


def test_websockets_are_kept(node: Node, tmp_path: Path) -> None:
    """With `keep` they talk on with the former version, and end with it."""
    options = "#{websocket_drain => keep, shutdown_timeout => 3000}"

    with deployed(node, tmp_path, options) as live:
        with connect(live.url, "/") as client, connect(live.url, "/") as other:
            for each in (client, other):
                each.send("before")
                assert take(each) == "before"

            live.deploy("second")
            assert live.reload() == "ok"
            assert live.ask() == "second ?"
            assert "draining" in live.server.worker_facts("state")
            client.send("after")
            assert take(client) == "after"
            # Who is done may go, the other is told when the time is over.
            client.close()
            assert client.close_code == 1000
            assert closing(other)[0] == 1012

        wait_until(
            lambda: live.server.worker_facts("state") == ["ready"], "it has left"
        )


def test_http2_websockets_are_told(node: Node, tmp_path: Path) -> None:
    """On a stream as on a connection of its own."""
    with deployed(node, tmp_path, "#{workers => 1}") as live:
        with WebSocket(live.url, "/") as client:
            client.send("before")
            assert client.take() == "before"
            assert live.reload() == "ok"
            assert client.closing() == 1012

        with WebSocket(live.url, "/") as client:
            client.send("after")
            assert client.take() == "after"


def test_http2_websockets_are_kept(node: Node, tmp_path: Path) -> None:
    options = "#{websocket_drain => keep, shutdown_timeout => 3000}"

    with (
        deployed(node, tmp_path, options) as live,
        WebSocket(live.url, "/") as client,
        WebSocket(live.url, "/") as other,
    ):
        for each in (client, other):
            each.send("before")
            assert each.take() == "before"

        live.deploy("second")
        assert live.reload() == "ok"
        assert live.ask() == "second ?"
        client.send("after")
        assert client.take() == "after"
        client.close()
        assert client.closing() == 1000
        assert other.closing() == 1012


def test_kept_websockets_at_a_stop(node: Node, tmp_path: Path) -> None:
    """Those of a worker that was replaced are told as all others are."""
    options = "#{websocket_drain => keep, shutdown_timeout => 60000}"

    with deployed(node, tmp_path, options) as live:
        with connect(live.url, "/") as client:
            client.send("before")
            assert take(client) == "before"
            assert live.reload() == "ok"
            assert live.call(f"stop({live.name})") == "ok"
            assert closing(client)[0] == 1001


@pytest.mark.parametrize("is_on", [True, False])
def test_hangup_of_the_node(fresh_node: Node, tmp_path: Path, is_on: bool) -> None:
    """`reload_on_sighup` holds from the start of the node: all servers, or its end."""
    fresh_node.eval(
        "ok = application:load(hornbeam),"
        f" application:set_env(hornbeam, reload_on_sighup, {str(is_on).lower()})"
    )
    first, second = (tmp_path / name for name in ("first", "other"))
    first.mkdir()
    second.mkdir()

    with (
        deployed_or_gone(fresh_node, first) as one,
        deployed_or_gone(fresh_node, second) as two,
    ):
        for each in (one, two):
            each.deploy("hungup")

        os.kill(fresh_node.os_pid, signal.SIGHUP)

        if is_on:
            wait_until(
                lambda: [one.ask(), two.ask()] == ["hungup ?"] * 2, "both are served"
            )
        else:
            wait_until(lambda: not fresh_node.is_alive(), "it has ended")


@contextmanager
def deployed_or_gone(node: Node, folder: Path) -> Iterator[Deployment]:
    """The same where the node may not be there at the end."""
    deployment = Deployment(node, folder, "#{}")
    yield deployment

    if node.is_alive():
        node.eval(f"hornbeam:stop({deployment.name})")


# Recycling.


def test_max_requests_under_load(node: Node, tmp_path: Path) -> None:
    """Workers come and go, and no request fails."""
    options = "#{workers => 2, max_requests => 30, max_requests_jitter => 10}"

    with deployed(node, tmp_path, options) as live:
        with Load(live.url) as load:
            wait_until(
                lambda: sum(map(int, live.server.worker_facts("restarts"))) >= 6,
                "workers were replaced again and again",
            )

        assert set(load.versions) == {"one"}


def test_application_that_leaks(node: Node, tmp_path: Path) -> None:
    """It is replaced above `max_memory`; its clients do not notice."""
    limit = 100 << 20
    options = f"#{{workers => 1, heartbeat => 100, max_memory => {limit}}}"

    with deployed(node, tmp_path, options) as live, make_client(live.url) as client:
        before = live.server.worker_pids()

        with Load(live.url):
            for _ in range(100):
                assert client.get("/leak").text == "one"

            wait_until(
                # Twice, where the successor has got much of it.
                lambda: int(live.server.worker_facts("restarts")[0]) >= 1,
                "replaced",
            )

        assert "ready" in live.server.worker_facts("state")
        assert set(live.server.worker_pids()) != set(before)
        exits = live.server.worker_facts("last_exit")
        assert any("bytes of memory" in each for each in exits)


# Number of workers.


def await_workers(live: Deployment, count: int) -> None:
    wait_until(
        lambda: live.server.worker_facts("state") == ["ready"] * count,
        "those that are too many have gone",
    )


def test_scale_under_load(node: Node, tmp_path: Path) -> None:
    """Up and down, and no request fails."""
    with deployed(node, tmp_path, "#{workers => 1}") as live:
        with Load(live.url) as load:
            for count in (3, 1, 2):
                assert live.call(f"scale({live.name}, {count})") == "ok"
                load.await_more(30)
                await_workers(live, count)

        assert set(load.versions) == {"one"}
