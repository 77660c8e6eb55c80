# SPDX-License-Identifier: Apache-2.0
"""The same tests under another server, to tell a fault of Hornbeam from one of a test.

HORNBEAM_TEST_SERVER=uvicorn .venv/bin/python -m pytest tests/e2e/test_socketio.py
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.support import E2E_DIR, serving
from node import Node
from ports import free_port

START_TIMEOUT_SECONDS = 20.0


@contextmanager
def serving_any(
    node: Node, app: str, options: str = "#{}", *, app_dir: Path | None = None
) -> Iterator[str]:
    """Serve as `serving` does, or with uvicorn where the environment says so.

    Args:
        node: where.
        app: `module:attribute`, of `apps` unless a folder is given.
        options: of Hornbeam; uvicorn does not get them.
        app_dir: folder of the module.
    """
    if os.environ.get("HORNBEAM_TEST_SERVER") == "uvicorn":
        name = app if app_dir else f"e2e.apps.{app}"

        with _serving_uvicorn(name, app_dir or E2E_DIR.parent) as url:
            yield url
    else:
        with serving(node, app, options, app_dir=app_dir) as url:
            yield url


@contextmanager
def _serving_uvicorn(app: str, folder: Path) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", app, "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--log-level", "warning"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(E2E_DIR.parent.parent / "python")},
    )

    try:
        _wait_for_port(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(START_TIMEOUT_SECONDS)


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS

    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return

        time.sleep(0.05)

    raise TimeoutError("uvicorn did not start")
