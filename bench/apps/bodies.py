# SPDX-License-Identifier: Apache-2.0
"""Bodies in and out: an echo, a length, much, and little by little.

/echo gives the body back, /length its length in decimal, /much a mebibyte, /chunks
10,000 parts of 64 bytes.
"""

from typing import Any

from hello import Receive, Send, live

MUCH = bytes(range(256)) * 4096
CHUNK = b"0123456789abcdef" * 4
CHUNKS = 10_000


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await live(receive, send)
    elif scope["path"] == "/echo":
        await _answer(send, b"".join(await _parts(receive)))
    elif scope["path"] == "/length":
        await _answer(send, b"%d" % await _length(receive))
    elif scope["path"] == "/chunks":
        await _send_chunks(send)
    else:
        await _answer(send, MUCH)


async def _answer(send: Send, body: bytes) -> None:
    await _start(send, [(b"content-length", b"%d" % len(body))])
    await send({"type": "http.response.body", "body": body})


async def _start(send: Send, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _parts(receive: Receive) -> list[bytes]:
    message = await receive()
    parts = [message.get("body", b"")]

    while message.get("more_body"):
        message = await receive()
        parts.append(message.get("body", b""))

    return parts


async def _length(receive: Receive) -> int:
    """Count the body without keeping it."""
    message = await receive()
    length = len(message.get("body", b""))

    while message.get("more_body"):
        message = await receive()
        length += len(message.get("body", b""))

    return length


async def _send_chunks(send: Send) -> None:
    await _start(send, [(b"content-type", b"application/octet-stream")])
    message = {"type": "http.response.body", "body": CHUNK, "more_body": True}

    for _ in range(CHUNKS):
        await send(message)

    await send({"type": "http.response.body"})
