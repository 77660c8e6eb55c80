# SPDX-License-Identifier: Apache-2.0
"""Many WebSockets that echo; `make soak SOAK=echo` does it with more, and longer."""

from __future__ import annotations

import asyncio
import random

import pytest

from e2e.soak import Client, Result, Wrong, serving_echoes, soak
from node import Node

SOCKETS = 200
SECONDS = 4.0


def test_echoes(node: Node) -> None:
    """Over two workers: no message is lost, doubled, changed or out of order."""
    with serving_echoes(node, "#{workers => 2}") as url:
        result = asyncio.run(soak(url, "/", SOCKETS, SECONDS, seed=1))

    print(result)  # noqa: T201
    assert result.messages > SOCKETS * 10


@pytest.mark.parametrize("fault", ["lost", "doubled", "changed", "swapped", "extra"])
def test_faults_are_seen(fault: str) -> None:
    """The check above can fail."""
    with pytest.raises((Wrong, asyncio.TimeoutError)):
        asyncio.run(asyncio.wait_for(_run_with(fault), 1))


async def _run_with(fault: str) -> None:

    client = Client(1, random.Random(1), Result(1))
    socket = Faulty(fault)

    for _ in range(3):
        await client._send(socket)  # type: ignore[arg-type]  # what is used of one

    for _ in range(3):
        await client._check(socket)  # type: ignore[arg-type]  # as above

    await client._end(socket)  # type: ignore[arg-type]  # as above


class Faulty:
    """A socket whose other end has a fault."""

    close_code = 1000

    def __init__(self, fault: str) -> None:
        self._fault = fault
        self._echoes: list[str | bytes] = []

    async def send(self, message: str | bytes) -> None:
        echoes = self._echoes
        echoes.append(message)

        if len(echoes) != 2:
            return

        if self._fault == "lost":
            echoes.pop()
        elif self._fault == "doubled":
            echoes.append(message)
        elif self._fault == "changed":
            echoes[-1] = message[:-1]
        elif self._fault == "swapped":
            echoes.reverse()
        elif self._fault == "extra":
            self._extra = message

    async def recv(self) -> str | bytes:
        if not self._echoes:
            await asyncio.Event().wait()

        return self._echoes.pop(0)

    async def close(self) -> None:
        pass

    def __aiter__(self) -> Faulty:
        return self

    async def __anext__(self) -> str | bytes:
        if self._fault == "extra" and self._extra:
            message, self._extra = self._extra, b""
            return message

        raise StopAsyncIteration
