# SPDX-License-Identifier: Apache-2.0
"""Chromium without a window, driven by its DevTools protocol."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

START_TIMEOUT_SECONDS = 30.0
ANSWER_TIMEOUT_SECONDS = 20.0

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """Its path, or None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """A running browser; see `running_browser`."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._last_id = 0

    def open(self, url: str) -> Page:
        """Open a page in a tab of its own, with cookies of its own."""
        context = self.ask("Target.createBrowserContext")["browserContextId"]
        target = self.ask("Target.createTarget", url=url, browserContextId=context)
        attached = self.ask(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        return Page(self, attached["sessionId"])

    def ask(self, method: str, *, session: str | None = None, **params: Any) -> Any:
        """Send a command and return its result.

        Raises:
            RuntimeError: the browser says that it failed.
        """
        self._last_id += 1
        command: dict[str, Any] = {
            "id": self._last_id,
            "method": method,
            "params": params,
        }

        if session is not None:
            command["sessionId"] = session

        self._connection.send(json.dumps(command))

        # Events come in between.
        while True:
            answer = json.loads(self._connection.recv(ANSWER_TIMEOUT_SECONDS))

            if answer.get("id") == self._last_id:
                break

        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")

        return answer["result"]


class Page:
    """A page in a tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def evaluate(self, expression: str) -> Any:
        """Evaluate JavaScript in the page and return the value.

        Raises:
            RuntimeError: it has thrown.
        """
        answer = self._browser.ask(
            "Runtime.evaluate",
            session=self._session,
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
        )

        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")

        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true.

        Raises:
            TimeoutError: it does not become so; the text has what the page shows.
        """
        deadline = time.monotonic() + ANSWER_TIMEOUT_SECONDS

        while not self.evaluate(expression):
            if time.monotonic() > deadline:
                shown = self.evaluate("document.body && document.body.innerText")
                raise TimeoutError(f"not true: {expression}; the page shows {shown!r}")

            time.sleep(0.02)


@contextmanager
def running_browser(path: str) -> Iterator[Browser]:
    """Run a browser with a profile of its own for a block."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [
                path,
                "--headless=new",
                # Where tests run as root, in containers.
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--no-first-run",
                "--no-proxy-server",
                "--remote-debugging-port=0",
                f"--user-data-dir={folder}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        try:
            url = _wait_for_address(Path(folder) / "DevToolsActivePort", process)

            with connect(url, max_size=None, proxy=None) as connection:
                yield Browser(connection)
        finally:
            process.terminate()

            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_address(file: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS

    while time.monotonic() < deadline and process.poll() is None:
        lines = file.read_text().split("\n") if file.exists() else []

        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"

        time.sleep(0.05)

    raise TimeoutError(f"Chromium did not start; its status is {process.poll()}")
