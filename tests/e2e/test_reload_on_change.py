# SPDX-License-Identifier: Apache-2.0
"""The option `reload`: files change, and the new version is served."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.observe import command_line
from e2e.raw import wait_until
from e2e.support import env_option, make_client
from e2e.talk import closing, connect, take
from e2e.test_reload import (
    SOURCE,
    STARTUP,
    VERSION_ONE,
    WSGI_SOURCE,
    Deployment,
)
from node import Node, literal
from processes import children, wait_until_gone


class Development(Deployment):
    """An application that is served while somebody works on it."""

    def __init__(
        self, node: Node, folder: Path, options: str, source: str = SOURCE
    ) -> None:
        self.folder = folder
        self._output_start = len(node.logged())
        super().__init__(node, folder, options, source)
        self.await_watching(1)

    @property
    def output(self) -> str:
        return self.node.logged()[self._output_start :]

    def events(self, what: str) -> int:
        return len(re.findall(rf"what: {what}\n", self.output))

    def await_watching(self, times: int) -> None:
        wait_until(lambda: self.events("watching_files") >= times, "files are watched")

    def await_answer(self, answer: str) -> None:
        wait_until(lambda: self.ask() == answer, f"{answer} is served")

    def watcher(self) -> int:
        """The process id of what watches."""
        (found,) = [
            process
            for parent in children(self.node.os_pid)
            for process in children(parent)
            if "watch" in command_line(process).split("\0")
        ]
        return found

    def new_version(self, version: str) -> str:
        return SOURCE.replace(VERSION_ONE, f'VERSION = b"{version}"')


@contextmanager
def developing(
    node: Node,
    folder: Path,
    options: str = "#{}",
    *,
    reload: str = "true",
    source: str = SOURCE,
) -> Iterator[Development]:
    options = (
        f"maps:merge(#{{reload => {reload}, shutdown_timeout => 60000}}, {options})"
    )
    development = Development(node, folder, options, source)

    try:
        yield development
    finally:
        if node.is_alive():
            node.eval(f"hornbeam:stop({development.name})")


@pytest.fixture(params=["watchfiles", "polling"])
def library(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """With the library and without it: its name in the log, and options."""
    if request.param == "watchfiles":
        return "watchfiles", "#{}"

    folder = tmp_path / "without"
    folder.mkdir()
    (folder / "watchfiles.py").write_text('raise ImportError("not here")')
    return "polling", f"#{{env => {env_option({'PYTHONPATH': str(folder)})}}}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of the application."""
    path = tmp_path / f"app_{tmp_path.name}"
    path.mkdir()
    return path


def test_change_is_served(node: Node, folder: Path, library: tuple[str, str]) -> None:
    """Written, replaced by a rename, of the same size and in the same second."""
    name, options = library

    with developing(node, folder, options) as live:
        assert f"by: {name}" in live.output

        for number, version in enumerate(("two", "six", "ten")):
            path = folder / ("live.py" if number % 2 else "live.py.new")
            path.write_text(live.new_version(version))
            path.replace(folder / "live.py")
            live.await_answer(f"{version} ?")

        assert "files: [<<" in live.output


def test_change_of_wsgi(node: Node, folder: Path) -> None:
    """What watches stands beside its workers, whatever their interface is."""
    with developing(node, folder, source=WSGI_SOURCE) as live:
        assert live.ask() == "one ?"
        watcher = live.watcher()

        for version in ("second", "the third"):
            live.deploy(version)
            live.await_answer(f"{version} ?")

        assert live.watcher() == watcher
        assert live.events("watching_files") == 1


FAILING_LIBRARY = """
import os, time

def watch(*folders, **options):
    yield set()

    while not os.path.exists(os.environ["NO_MORE_WATCHES"]):
        time.sleep(0.01)

    raise OSError("OS file watch limit reached")
"""


def test_library_fails_in_between(node: Node, tmp_path: Path, folder: Path) -> None:
    """As where the system has no more watches to give: files are looked at then."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "watchfiles.py").write_text(FAILING_LIBRARY)
    full = tmp_path / "full"
    env = env_option({"PYTHONPATH": str(library), "NO_MORE_WATCHES": str(full)})

    with developing(node, folder, f"#{{env => {env}}}") as live:
        assert "by: watchfiles" in live.output
        full.touch()
        live.await_watching(2)
        assert "by: polling" in live.output
        assert "watchfiles failed: OS file watch limit reached" in live.output
        live.deploy("noticed")
        live.await_answer("noticed ?")


def test_fault_is_mended(node: Node, folder: Path) -> None:
    """What does not start leaves the old version serving, and the log says why."""
    with developing(node, folder) as live:
        live.write("async def app(scope, receive, send:\n    pass\n")
        wait_until(lambda: "reload_failed: " in live.output, "it was tried")
        assert "SyntaxError" in live.output.split("reload_failed: ")[1]
        assert live.ask() == "one ?"
        live.deploy("mended")
        live.await_answer("mended ?")


def test_modules_come_and_go(
    node: Node, folder: Path, library: tuple[str, str]
) -> None:
    """A package that is new, a change in it, and that it is renamed."""
    with developing(node, folder, library[1]) as live:
        package = folder / "shop"
        package.mkdir()
        (package / "names.py").write_text('NAME = b"packaged"\n')
        live.write(
            SOURCE.replace(VERSION_ONE, "from shop.names import NAME as VERSION")
        )
        live.await_answer("packaged ?")
        (package / "names.py").write_text('NAME = b"packagedagain"\n')
        live.await_answer("packagedagain ?")
        package.rename(folder / "store")
        wait_until(lambda: "No module named 'shop'" in live.output, "it is missed")
        (folder / "store").rename(package)
        wait_until(lambda: live.events("reloaded") >= 3, "it is back")


def test_what_is_no_change(node: Node, folder: Path) -> None:
    """Logs, caches, hidden files, environments: nothing of that reloads."""
    with developing(node, folder) as live:
        pids = live.server.worker_pids()

        for name in (
            *("app.log", "page.html", "__pycache__/live.cpython-311.pyc"),
            *(".git/hooks.py", ".#live.py", "node_modules/x.py", "env/lib/y.py"),
        ):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / "pyvenv.cfg").touch() if "env" in name else None
            path.write_text("changed")

        assert live.server.worker_pids() == pids
        # The first that is told is the first that counts; a write would be two changes.
        (folder / "live.py.new").write_text(live.new_version("seen"))
        (folder / "live.py.new").replace(folder / "live.py")
        live.await_answer("seen ?")
        assert live.events("files_changed") == 1
        (changed,) = re.findall(r"files: \[(.*)\]", live.output)
        assert changed == literal(str(folder / "live.py")).replace("/utf8", "")
        assert not (folder / "__pycache__" / "live.cpython-311.pyc").read_bytes()[7:]


def test_patterns_and_folders(node: Node, tmp_path: Path, folder: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "static").mkdir(parents=True)
    reload = (
        f"#{{dirs => [{literal(str(elsewhere))}, {literal(str(tmp_path / 'none'))}],"
        ' include => "*.html", exclude => ["static"]}'
    )

    with developing(node, folder, reload=reload) as live:
        assert re.search(r"missing: \[<<\"\S*/none\">>\]", live.output)
        (elsewhere / "static" / "a.html").write_text("left out")
        live.deploy("unseen")
        # At once: to make it and to write it would be two changes.
        (tmp_path / "page.html").write_text("a change")
        (tmp_path / "page.html").replace(elsewhere / "page.html")
        # What triggers it is not what is loaded.
        live.await_answer("unseen ?")
        assert live.events("files_changed") == 1
        assert "page.html" in live.output
        assert "static" not in live.output


def test_many_changes(node: Node, folder: Path) -> None:
    """However quickly they come, the last one is served in the end."""
    with developing(node, folder, "#{workers => 2}") as live:
        for number in range(30):
            live.deploy(f"v{number}")

        live.deploy("last")
        live.await_answer("last ?")
        wait_until(
            lambda: (
                "starting" not in live.server.worker_facts("state")
                and {live.ask() for _ in range(4)} == {"last ?"}
            ),
            "both serve it",
        )


def test_change_while_a_reload_hangs(node: Node, folder: Path) -> None:
    """It is not waited for: the newest files count."""
    with developing(node, folder) as live:
        live.write(SOURCE.replace(STARTUP, 'STARTUP = "hangs"; print("it hangs")'))
        wait_until(lambda: "it hangs" in live.output, "a worker hangs")
        live.deploy("goeson")
        live.await_answer("goeson ?")


def test_who_asked_gets_the_newest(node: Node, folder: Path) -> None:
    """A call of `hornbeam:reload` that files overtake answers for these."""
    with developing(node, folder) as live:
        live.write(SOURCE.replace(STARTUP, 'STARTUP = "hangs"; print("it hangs")'))
        wait_until(lambda: "it hangs" in live.output, "a worker hangs")
        asked = node.eval(
            f"Self = self(), spawn(fun() -> Answer = hornbeam:reload({live.name}),"
            " persistent_term:put(reload_answer, Answer) end), Self, ok"
        )
        assert asked == "ok"
        live.deploy("overtaken")
        live.await_answer("overtaken ?")
        wait_until(
            lambda: node.eval("persistent_term:get(reload_answer, none)") == "ok",
            "it is answered",
        )
        node.eval("persistent_term:erase(reload_answer)")


def test_clients_do_not_hold_it_up(node: Node, folder: Path) -> None:
    """WebSockets are told to come again, streams end: the old version is soon gone."""
    with developing(node, folder) as live:
        endless = live.new_version("endless")
        live.write(endless.replace("range(PARTS)", "iter(int, 1)"))
        live.await_answer("endless ?")

        with (
            connect(live.url, "/") as socket,
            make_client(live.url) as client,
            client.stream("GET", "/stream") as answer,
        ):
            socket.send("before")
            assert take(socket) == "before"
            parts = answer.iter_raw()
            assert next(parts)
            live.deploy("another")
            live.await_answer("another ?")
            assert closing(socket)[0] == 1012

            # The shutdown_timeout is a minute.
            with pytest.raises(Exception, match="incomplete|closed|peer"):
                for _ in parts:
                    pass

        wait_until(
            lambda: live.server.worker_facts("state") == ["ready"], "it has left"
        )


def test_watcher_dies(node: Node, folder: Path) -> None:
    """Another one comes, which sees what has changed in between."""
    with developing(node, folder) as live:
        for times, version in enumerate(("killed", "killedagain"), 2):
            os.kill(live.watcher(), signal.SIGKILL)
            live.deploy(version)
            live.await_answer(f"{version} ?")
            live.await_watching(times)

        assert live.events("watcher_down") == 2
        live.deploy("watchedagain")
        live.await_answer("watchedagain ?")


def test_watcher_without_its_interpreter(
    node: Node, folder: Path, tmp_path: Path
) -> None:
    """As while a virtual environment is made anew: the server serves on."""
    python, aside = tmp_path / "python", tmp_path / "aside"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)

    with developing(node, folder, f"#{{python => {literal(str(python))}}}") as live:
        workers = live.server.worker_facts("os_pid")
        python.rename(aside)
        os.kill(live.watcher(), signal.SIGKILL)
        wait_until(lambda: live.events("watcher_down") >= 2, "it could not be started")
        aside.rename(python)
        live.await_watching(2)
        assert live.server.worker_facts("os_pid") == workers


def test_folder_is_replaced(node: Node, folder: Path) -> None:
    """As by a tool that writes all files anew."""
    with developing(node, folder) as live:
        shutil.copytree(folder, folder.with_suffix(".new"))
        folder.rename(folder.with_suffix(".old"))
        folder.with_suffix(".new").rename(folder)
        live.deploy("replaced")
        live.await_answer("replaced ?")
        live.deploy("replacedagain")
        live.await_answer("replacedagain ?")


def test_watcher_leaves_with_its_server(node: Node, folder: Path) -> None:
    with developing(node, folder) as live:
        watcher = live.watcher()
        assert live.call(f"stop({live.name})") == "ok"
        wait_until_gone([watcher])


def test_watcher_leaves_with_the_node(fresh_node: Node, folder: Path) -> None:
    with developing(fresh_node, folder) as live:
        watcher = live.watcher()
        fresh_node.kill()
        wait_until_gone([watcher])


def test_without_the_option_nobody_watches(node: Node, folder: Path) -> None:
    live = Deployment(node, folder, "#{}")

    try:
        before = live.server.worker_pids()
        live.deploy("unseen")
        assert live.ask() == "one ?"
        assert live.server.worker_pids() == before
        assert (
            node.eval(
                "[Id || {Id, _, _, _} <- supervisor:which_children("
                f"hornbeam_servers_sup:server_sup({live.name}))]"
            )
            == "[hornbeam_listener,hornbeam_pool,hornbeam_workers_sup]"
        )
    finally:
        live.call(f"stop({live.name})")
