# SPDX-License-Identifier: Apache-2.0
"""An application that shows what the server gives, and does what the test wants."""

from __future__ import annotations

import asyncio
import time
from ast import literal_eval
from collections.abc import Iterator
from http import HTTPStatus
from urllib.parse import unquote

from e2e.raw_apps.toolbox import (
    Message,
    Receive,
    Routes,
    Scope,
    Send,
    end,
    gate,
    read_body,
    respond,
    rest_of_path,
    send_part,
    start,
)

application = Routes()

paths: list[str] = []


@application.add
async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, "hello")


@application.add
async def seen(scope: Scope, receive: Receive, send: Send) -> None:
    """GET /seen/NAME: whether a request for /see/NAME has come."""
    await respond(send, repr(rest_of_path(scope) in paths))


@application.add
async def see(scope: Scope, receive: Receive, send: Send) -> None:
    paths.append(rest_of_path(scope))
    await respond(send)


@application.add
async def scope(scope: Scope, receive: Receive, send: Send) -> None:
    """The scope, as Python writes it."""
    await respond(send, repr(scope))


@application.add
async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, await read_body(receive))


@application.add
async def messages(scope: Scope, receive: Receive, send: Send) -> None:
    """All messages of receive() up to the end of the body, as Python writes them."""
    got = [await receive()]

    while got[-1].get("more_body"):
        got.append(await receive())

    await respond(send, repr(got))


@application.add
async def hold(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers when the gate of that name is opened."""
    name = rest_of_path(scope)
    gate(f"held-{name}").open()
    await gate(name).wait()
    await respond(send, name)


@application.add
async def parts(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends `one`, and at the gate's opening `two`."""
    await start(send)
    await send_part(send, b"one")
    await gate(rest_of_path(scope)).wait()
    await send_part(send, b"two")
    await end(send)


@application.add
async def counting(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads part by part; the gate NAME-COUNT opens when COUNT bytes are there."""
    count, more = 0, True

    while more:
        message = await receive()
        count += len(message["body"])
        more = message["more_body"]
        gate(f"{rest_of_path(scope)}-{count}").open()

    await respond(send, str(count))


@application.add
async def script(scope: Scope, receive: Receive, send: Send) -> None:
    """/script/NAME?STEPS: takes steps, and leaves how each went at the gate NAME.

    A step is a message to send, or one of the words below. An error of send() ends it
    unless an earlier step was `catch`.
    """
    outcomes: list[object] = []

    try:
        await _take_steps(scope, receive, send, outcomes)
    finally:
        gate(rest_of_path(scope)).open(outcomes)


async def _take_steps(
    scope: Scope, receive: Receive, send: Send, outcomes: list[object]
) -> None:
    catches = False

    for step in literal_eval(unquote(scope["query_string"].decode())):
        if step == "catch":
            catches = True
        elif step == "receive":
            outcomes.append(await receive())
        elif step == "raise":
            raise RuntimeError("the script says so")
        elif isinstance(step, str):
            # Tells that it is here, and waits to be sent on.
            gate(f"{step}-reached").open()
            await gate(step).wait()
        else:
            error = await _send(send, step)
            outcomes.append(describe(error) if error else "sent")

            if error and not catches:
                raise error


async def _send(send: Send, message: Message) -> Exception | None:
    try:
        await send(message)
    except Exception as exc:
        return exc

    return None


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


@application.add
async def generated(scope: Scope, receive: Receive, send: Send) -> None:
    """Headers from a generator, the status from an enum, the body from a memoryview."""

    def headers() -> Iterator[list[bytes]]:
        yield [b"x-first", b"1"]
        yield [b"x-second", b"2"]

    await send(
        {
            "type": "http.response.start",
            "status": HTTPStatus.ACCEPTED,
            "headers": headers(),
        }
    )
    await send({"type": "http.response.body", "body": memoryview(b"view")})


@application.add
async def after_body(scope: Scope, receive: Receive, send: Send) -> None:
    """What receive() does after the body: waits; and once the response is complete."""
    await read_body(receive)
    waiting = asyncio.ensure_future(receive())
    other = asyncio.ensure_future(receive())
    done, _ = await asyncio.wait((waiting, other), timeout=0.2)
    has_waited = not done
    await respond(send, "done")
    got = [await waiting, await other, await receive()]
    gate(rest_of_path(scope)).open((has_waited, got))


@application.add
async def until_disconnect(scope: Scope, receive: Receive, send: Send) -> None:
    """Waits for the client's end; leaves when that was, and what send() says then."""
    await read_body(receive)
    gate(f"{rest_of_path(scope)}-waits").open()
    message = await receive()
    noticed = time.monotonic()
    error: BaseException | None = None

    try:
        await start(send)
        await end(send)
    except BaseException as exc:
        error = exc

    again = await receive()
    gate(rest_of_path(scope)).open(
        {
            "message": message,
            "again": again,
            "noticed": noticed,
            "error": describe(error) if error else None,
            "is_os_error": isinstance(error, OSError),
        }
    )


@application.add
async def background(scope: Scope, receive: Receive, send: Send) -> None:
    """Goes on after the response is complete, and leaves that it could."""
    name = rest_of_path(scope)
    await respond(send, "early")
    await gate(f"{name}-go").wait()
    gate(name).open("went on")


@application.add
async def silence(scope: Scope, receive: Receive, send: Send) -> None:
    """A stream that says nothing for SECONDS between two parts."""
    await start(send, headers=[(b"content-type", b"text/event-stream")])
    await send_part(send, b"data: 1\n\n")
    await asyncio.sleep(float(rest_of_path(scope)))
    await end(send, b"data: 2\n\n")
