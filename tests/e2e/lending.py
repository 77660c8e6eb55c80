# SPDX-License-Identifier: Apache-2.0
"""What the tests of lent sockets share: who has which, and clients that are slow."""

from __future__ import annotations

import os
import time
from pathlib import Path

from e2e.observe import Server
from e2e.raw import Connection, Incoming, wait_until

MEBIBYTE = 1 << 20
SIZE = 24 * MEBIBYTE
"""More than the buffers of a loopback connection hold."""

SEND_TIMEOUT_S = 1.0
"""Of servers whose clients are slow."""


def sockets_of(pid: int) -> list[str]:
    """The sockets of a process: names that say which, the same in all processes."""
    found = []

    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue

        if target.startswith("socket:"):
            found.append(target)

    return found


def lent(server: Server, pid: int | None = None) -> int:
    """How many sockets the node has in common with its worker, or another process."""
    pid = pid or server.worker_pids()[0]
    return len(set(sockets_of(pid)) & set(sockets_of(server.node.os_pid)))


def wait_until_lent(server: Server, count: int) -> None:
    wait_until(lambda: lent(server) == count, f"{count} sockets are lent")


def ask(server: Server, target: str) -> str:
    with Connection(server.url) as connection:
        answer = connection.exchange("GET", target, [("Connection", "close")])

    assert answer.status == 200, answer
    return answer.text


def read_slowly(incoming: Incoming, pieces: int, piece_bytes: int) -> None:
    """Read so many pieces, each a third of `SEND_TIMEOUT_S` after the one before."""
    for piece in range(1, pieces + 1):
        time.sleep(SEND_TIMEOUT_S / 3)
        incoming.read_until(piece_bytes * piece)
