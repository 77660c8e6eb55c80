# SPDX-License-Identifier: Apache-2.0
"""What counts are taken of, and what counts inside of the worker.

`/count/calls`, `/count/instructions` and `/count/blocks` begin to count one of these in
the thread of the event loop; `/count/stop` answers with what was counted since.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LARGE = bytes(65536 - 3) + b"end"
CHUNK = b"0123456789abcdef" * 4
CHUNKS = 100


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await echo(receive, send)
    elif scope["type"] == "http":
        await ROUTES[scope["path"]](receive, send)
    else:
        raise ValueError(f"nothing to do for {scope['type']}")


async def echo(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})

    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def answer(send: Send, body: bytes) -> None:
    headers = [
        (b"content-type", b"text/plain"),
        (b"content-length", b"%d" % len(body)),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def hello(receive: Receive, send: Send) -> None:
    await answer(send, b"Hello, world!")


async def read(receive: Receive, send: Send) -> None:
    """Take the body before the answer."""
    while (await receive())["more_body"]:
        pass

    await answer(send, b"Thank you.")


async def large(receive: Receive, send: Send) -> None:
    await answer(send, LARGE)


async def chunks(receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})

    for _ in range(CHUNKS):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})

    await send({"type": "http.response.body"})


async def spin(receive: Receive, send: Send) -> None:
    """Cost a hundred calls more than hello, each of some instructions, and a block."""
    for _ in range(100):
        _keep(object())

    await answer(send, b"Hello, world!")


def _keep(thing: object) -> None:
    _kept.append(thing)


_kept: list[object] = []


# Counting.


class Counter:
    """What is being counted; one thing at a time."""

    def __init__(self) -> None:
        self.calls = 0
        self.instructions = 0
        self.blocks = 0

    def note_call(self, frame: FrameType, event: str, arg: object) -> None:
        # Coming back to a coroutine counts as one, and so do functions written in C.
        if event in ("call", "c_call"):
            self.calls += 1

    def note_instruction(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        elif event == "opcode":
            self.instructions += 1

        return self.note_instruction


_counter = Counter()


async def count_calls(receive: Receive, send: Send) -> None:
    await answer(send, b"calls")
    _counter.calls = 0
    sys.setprofile(_counter.note_call)


async def count_instructions(receive: Receive, send: Send) -> None:
    await answer(send, b"instructions")
    _counter.instructions = 0
    # Python 3.12 looks at it only when tracing is switched on.
    sys._getframe().f_trace_opcodes = True
    sys.settrace(_counter.note_instruction)


async def count_blocks(receive: Receive, send: Send) -> None:
    await answer(send, b"blocks")
    gc.collect()
    _counter.blocks = sys.getallocatedblocks()


async def stop(receive: Receive, send: Send) -> None:
    sys.setprofile(None)
    sys.settrace(None)
    gc.collect()
    found = {
        "calls": _counter.calls,
        "instructions": _counter.instructions,
        "blocks": max(0, sys.getallocatedblocks() - _counter.blocks),
    }
    await answer(send, json.dumps(found).encode() + b".")


ROUTES: dict[str, Callable[[Receive, Send], Awaitable[None]]] = {
    "/": hello,
    "/read": read,
    "/large": large,
    "/chunks": chunks,
    "/spin": spin,
    "/count/calls": count_calls,
    "/count/instructions": count_instructions,
    "/count/blocks": count_blocks,
    "/count/stop": stop,
}
