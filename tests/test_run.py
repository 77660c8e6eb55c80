# SPDX-License-Identifier: Apache-2.0
"""What `make run` starts: an application in the foreground, until a signal."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from node import APPS_DIR, ROOT, Output
from processes import children, descendants, wait_until_gone

READY = r"Hornbeam ready on (\S+)\n"
TIMEOUT_SECONDS = 30.0


class Run:
    """`scripts/run.sh` with what it printed."""

    def __init__(self, **settings: str) -> None:
        variables = {
            "APP": "foreground:app",
            "APP_DIR": str(APPS_DIR),
            "BIND": "127.0.0.1:0",
            "WORKERS": "1",
            "OPTS": "",
            "RUN_PYTHON": sys.executable,
        }
        self._terminal, terminal = os.openpty()
        # Without this the terminal would turn line ends into two characters.
        attributes = termios.tcgetattr(terminal)
        attributes[1] &= ~termios.OPOST
        termios.tcsetattr(terminal, termios.TCSANOW, attributes)
        self.process = subprocess.Popen(
            [str(ROOT / "scripts" / "run.sh")],
            env={**os.environ, **variables, **settings},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(terminal)
        self.output = Output()
        self._stop_read, self._stop_write = os.pipe()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, pattern: str) -> re.Match[str]:
        return self.output.wait_for(re.compile(pattern), TIMEOUT_SECONDS)

    def wait(self) -> int:
        """Wait for the end and return the exit status."""
        status = self.process.wait(TIMEOUT_SECONDS)
        self._reader.join(TIMEOUT_SECONDS)
        return status

    def press_ctrl_c(self) -> None:
        os.write(self._terminal, b"\x03")

    def hang_up(self) -> None:
        """Close the terminal's window."""
        if self._terminal >= 0:
            # A terminal that is being read is not closed.
            os.close(self._stop_write)
            self._reader.join(TIMEOUT_SECONDS)
            os.close(self._terminal)
            os.close(self._stop_read)
            self._terminal = -1

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.wait()

        self.hang_up()

    def _read(self) -> None:
        awaited = [self._terminal, self._stop_read]

        # Reading fails when the last process has let go of the terminal.
        try:
            while self._terminal in select.select(awaited, [], [])[0]:
                self.output.append(os.read(self._terminal, 65536))
        except OSError:
            pass


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # Tests under nohup, or in the background, would hand down that they are ignored.
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


Start = Callable[..., Run]


@pytest.fixture
def start() -> Iterator[Start]:
    runs: list[Run] = []

    def start(**settings: str) -> Run:
        runs.append(Run(**settings))
        return runs[-1]

    yield start

    for run in runs:
        run.close()


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "SIGHUP", "Ctrl-C"])
def test_serves_until_told_to_stop(start: Start, way: str) -> None:
    """Each way to stop is clean: lifespan shutdown, status 0, nothing left behind."""
    run = start()
    url = run.wait_for(READY)[1]
    assert httpx.get(f"{url}/hello").text == "/hello"
    assert f"application: started in {APPS_DIR}\n" in run.output.text
    processes = descendants(run.process.pid)

    if way == "Ctrl-C":
        run.press_ctrl_c()
    else:
        run.process.send_signal(signal.Signals[way])

    assert run.wait() == 0
    assert "application: shut down\n" in run.output.text
    assert processes
    wait_until_gone(processes)


def test_terminal_is_closed(start: Start, tmp_path: Path) -> None:
    """The node and its workers outlive the terminal for as long as they take to end."""
    mark = tmp_path / "mark"
    run = start(MARK=str(mark))
    run.wait_for(READY)
    processes = descendants(run.process.pid)
    run.hang_up()
    # What a shell does to its jobs then.
    os.killpg(run.process.pid, signal.SIGHUP)
    assert run.wait() == 0
    assert mark.exists()
    wait_until_gone(processes)


@pytest.mark.parametrize("way", ["SIGTERM", "Ctrl-C"])
def test_running_request_is_answered(start: Start, way: str) -> None:
    """A stop waits for what has begun, and the signal does not reach the workers."""
    run = start()
    url = run.wait_for(READY)[1]
    answers: list[Any] = []
    client = threading.Thread(
        target=lambda: answers.append(httpx.get(f"{url}/slow").text)
    )
    client.start()
    run.wait_for("application: slow request\n")

    if way == "Ctrl-C":
        run.press_ctrl_c()
    else:
        run.process.terminate()

    client.join(TIMEOUT_SECONDS)
    assert answers == ["/slow"]
    assert run.wait() == 0


def test_options_and_addresses(start: Start, tmp_path: Path) -> None:
    """OPTS is an Erlang map; each address is announced."""
    path = tmp_path / "app.sock"
    run = start(OPTS=f'#{{bind => ["127.0.0.1:0", "unix:{path}"], root_path => "/x"}}')
    url, unix = run.wait_for(r"Hornbeam ready on (\S+) and (\S+)\n").groups()
    assert unix == f"unix:{path}"
    assert httpx.get(f"{url}/hello").status_code == 200

    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
        assert client.get("http://localhost/hello").status_code == 200


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"APP": "no_such:app"}, "hornbeam: the application no_such:app was not found"),
        (
            {"APP": "foreground:not_callable"},
            "hornbeam: the application foreground:not_callable is no callable"
            " but of type int",
        ),
        ({"APP_DIR": "/no/such"}, "hornbeam: changing the directory to /no/such"),
        ({"WORKERS": "two"}, 'workers is "two", expected an integer from 1 to 1024'),
        ({"BIND": "nowhere"}, 'bind is "nowhere", expected an address with a port'),
        ({"RUN_PYTHON": "/no/python"}, "the Python interpreter /no/python was not"),
        ({"OPTS": "#{timeout =>"}, "the options are no Erlang map like"),
        ({"OPTS": "#{lifespan => maybe}"}, "lifespan is maybe, expected auto, on or"),
    ],
)
def test_failure_is_a_sentence_and_a_status(
    start: Start, settings: dict[str, str], message: str
) -> None:
    """What is wrong is said in words, without a crash report, and nothing stays."""
    run = start(**settings)
    assert run.wait() == 1
    assert message in run.output.text
    assert "crash" not in run.output.text.lower()


def test_hangup_of_the_node_reloads(start: Start, tmp_path: Path) -> None:
    """SIGHUP to the node, not to the script: the new version is served."""
    source = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first"})
"""
    (tmp_path / "live.py").write_text(source)
    run = start(APP="live:app", APP_DIR=str(tmp_path))
    url = run.wait_for(READY)[1]
    assert httpx.get(url).text == "first"
    (tmp_path / "live.py").write_text(source.replace("first", "another"))
    (node,) = children(run.process.pid)
    os.kill(node, signal.SIGHUP)
    run.wait_for("what: reloaded")
    assert httpx.get(url).text == "another"
    (tmp_path / "live.py").write_text("raise ValueError('broken')")
    os.kill(node, signal.SIGHUP)
    run.wait_for("reload_failed: .*ValueError: broken")
    assert httpx.get(url).text == "another"


def test_files_are_watched(start: Start, tmp_path: Path) -> None:
    """`make run OPTS='#{reload => true}'`."""
    source = (APPS_DIR / "foreground.py").read_text()
    (tmp_path / "live.py").write_text(source)
    run = start(APP="live:app", APP_DIR=str(tmp_path), OPTS="#{reload => true}")
    url = run.wait_for(READY)[1]
    run.wait_for("what: watching_files")
    (tmp_path / "live.py").write_text(source + "\nprint('the new version')\n")
    run.wait_for("the new version")
    run.wait_for("what: reloaded")
    assert httpx.get(f"{url}/hello").text == "/hello"


def test_port_in_use(start: Start) -> None:
    """The second server names the address that the first one has."""
    first = start()
    address = first.wait_for(READY)[1].removeprefix("http://")
    second = start(BIND=address)
    assert second.wait() == 1
    assert f"hornbeam: the address {address} is in use" in second.output.text


def test_killed_node_ends_the_run(start: Start) -> None:
    """The script does not outlive the node, nor hide that it was killed."""
    run = start()
    run.wait_for(READY)
    processes = descendants(run.process.pid)
    (node,) = children(run.process.pid)
    os.kill(node, signal.SIGKILL)
    assert run.wait() == 128 + signal.SIGKILL
    wait_until_gone(processes)


def test_second_ctrl_c_hurries(start: Start, tmp_path: Path) -> None:
    """The first one would wait for ten minutes."""
    log = tmp_path / "log"
    run = start(
        APP="e2e.apps.shutdown_app:application",
        APP_DIR=str(ROOT / "tests"),
        SHUTDOWN_LOG=str(log),
        OPTS="#{shutdown_timeout => 600000}",
    )
    url = run.wait_for(READY)[1]
    processes = descendants(run.process.pid)

    with httpx.Client(timeout=TIMEOUT_SECONDS) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            with client.stream("GET", f"{url}/events") as events:
                parts = events.iter_raw()
                next(parts)
                run.press_ctrl_c()
                run.wait_for("SIGTERM received")
                run.press_ctrl_c()

                for _ in parts:
                    pass

    assert run.wait() == 0
    assert "shutdown_hurried" in run.output.text
    assert log.read_text().splitlines()[-1] == "lifespan.shutdown"
    wait_until_gone(processes)
