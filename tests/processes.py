# SPDX-License-Identifier: Apache-2.0
"""What tests ask about processes of the operating system (Linux)."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def children(os_pid: int) -> set[int]:
    """The processes that a process has started and that have not ended."""
    tasks = Path(f"/proc/{os_pid}/task")
    found: set[int] = set()

    for path in tasks.glob("*/children"):
        # The thread may be gone, and the process.
        with suppress(FileNotFoundError, ProcessLookupError):
            found.update(map(int, path.read_text().split()))

    return found


def descendants(os_pid: int) -> set[int]:
    """The children, their children, and so on."""
    direct = children(os_pid)
    return direct.union(*(descendants(child) for child in direct))


def wait_until_gone(os_pids: Iterable[int], timeout: float = 30.0) -> None:
    """Wait until all of them have ended.

    Raises:
        TimeoutError: One of them did not within `timeout` seconds.
    """
    for os_pid in os_pids:
        try:
            pidfd = os.pidfd_open(os_pid)
        except ProcessLookupError:
            continue

        try:
            # Readable as soon as the process has ended.
            if not select.select([pidfd], [], [], timeout)[0]:
                raise TimeoutError(f"process {os_pid} is still there")
        finally:
            os.close(pidfd)
