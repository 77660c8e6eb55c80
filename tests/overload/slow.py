# SPDX-License-Identifier: Apache-2.0
"""Clients that send, or take, a byte a second: many of them, in a process of their own.

    PYTHONPATH=tests python -m overload.slow URL --heads 100 --bodies 100 --readers 100

Prints `ready` when all are connected and the readers have an answer to take: a client
is connected for its own system while the server has yet to hear of it. Goes on until
its input ends, and then prints how many of each kind have been cut off, by the status
that they got, as JSON. Readers do not count: the end waits behind what they have not
taken.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import select
import socket
import sys
import time
from collections import Counter
from urllib.parse import urlsplit

MAX_SEGMENT_BYTES = 1460
"""As on a real network: the segments of the loopback device would fill buffers."""

RECEIVE_BUFFER_BYTES = 4096

HEAD = b"GET /work/1 HTTP/1.1\r\nHost: x\r\nX: "
BODY = b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
DOWNLOAD = b"GET /trickle HTTP/1.1\r\nHost: x\r\n\r\n"

ANSWER_SECONDS = 30.0
"""What the server may need to begin all answers."""

BEGINNINGS = {"heads": HEAD, "bodies": BODY, "readers": DOWNLOAD}


class Slow:
    """One of them.

    Args:
        url: of the server.
        kind: `heads` and `bodies` send what never ends, `readers` take it.
    """

    def __init__(self, url: str, kind: str) -> None:
        parts = urlsplit(url)
        self.kind = kind
        self.status = ""
        self.is_cut = False
        self._socket = socket.socket()
        self._socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES
        )
        self._socket.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_MAXSEG, MAX_SEGMENT_BYTES
        )
        self._socket.connect((parts.hostname, parts.port))
        self._socket.sendall(BEGINNINGS[kind])
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def tick(self) -> None:
        """Take a byte, or see whether there is an answer and send one."""
        try:
            if self.kind == "readers":
                self._socket.recv(1)
            else:
                self._read_answer()
                self._socket.send(b"x")
        except BlockingIOError:
            pass
        except OSError:
            self.is_cut = True

    def look(self) -> None:
        """See whether there is an answer, for the last time."""
        if self.kind != "readers" and not self.is_cut:
            with contextlib.suppress(OSError):
                self._read_answer()

    def _read_answer(self) -> None:
        """Before a byte is sent: it would be answered with a reset at the end."""
        with contextlib.suppress(BlockingIOError):
            answer = self._socket.recv(RECEIVE_BUFFER_BYTES)
            self.status = self.status or answer[9:12].decode()
            self.is_cut = True


def wait_for_answers(readers: list[Slow]) -> None:
    """Wait until each has something to take.

    Raises:
        TimeoutError: some have nothing.
    """
    deadline = time.monotonic() + ANSWER_SECONDS
    waiting = {reader.fileno() for reader in readers}
    poll = select.poll()

    for descriptor in waiting:
        poll.register(descriptor, select.POLLIN)

    while waiting:
        left_ms = (deadline - time.monotonic()) * 1000

        if left_ms <= 0:
            raise TimeoutError(f"{len(waiting)} of {len(readers)} have no answer")

        for descriptor, _ in poll.poll(left_ms):
            poll.unregister(descriptor)
            waiting.discard(descriptor)


def tick_all(clients: list[Slow]) -> None:
    """A byte of each, spread over a second."""
    began = time.monotonic()

    for number, client in enumerate(clients):
        if not client.is_cut:
            client.tick()

        early = began + number / len(clients) - time.monotonic()

        if early > 0.01:
            time.sleep(early)


def report(clients: list[Slow]) -> dict[str, dict[str, int]]:
    cut: dict[str, Counter[str]] = {kind: Counter() for kind in BEGINNINGS}

    for client in clients:
        if client.is_cut:
            cut[client.kind][client.status] += 1

    return {kind: dict(counts) for kind, counts in cut.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")

    for kind in BEGINNINGS:
        parser.add_argument(f"--{kind}", type=int, default=0)

    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients = [
        Slow(args.url, kind) for kind in BEGINNINGS for _ in range(getattr(args, kind))
    ]
    wait_for_answers([client for client in clients if client.kind == "readers"])
    sys.stdout.write("ready\n")
    sys.stdout.flush()

    with contextlib.suppress(KeyboardInterrupt):
        while not select.select([sys.stdin], [], [], 0)[0]:
            tick_all(clients)

    for client in clients:
        client.look()

    json.dump(report(clients), sys.stdout)


if __name__ == "__main__":
    main()
