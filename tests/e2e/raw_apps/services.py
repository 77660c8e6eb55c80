# SPDX-License-Identifier: Apache-2.0
"""An application that evaluates what it is asked, with all names of `hornbeam_erlang`.

`application` asks and listens to the topics below `news:`; `provider` also answers for
the paths that the functions below name.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import hornbeam_erlang as erlang
from e2e.raw_apps.toolbox import Message, Receive, Scope, Send, read_body, respond

news: list[object] = []


class Shop:
    """The service `shop`."""

    def where(self) -> list[object]:
        return [erlang.node(), erlang.worker_id()]

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def fail(self, text: str) -> None:
        raise LookupError(text)

    def count(self, end: int) -> Iterator[int]:
        yield from range(end)

    def die_at(self, end: int) -> Iterator[int]:
        yield from range(end)
        self.die()


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _live(receive, send)
        return

    expression = (await read_body(receive)).decode()
    # In a thread, where all of the synchronous functions may wait.
    await respond(send, await asyncio.to_thread(_evaluate, expression))


async def provider(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        erlang.register_hook("shop", Shop())

    await application(scope, receive, send)


async def _live(receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "lifespan.startup"
    subscription: Any = erlang.subscribe("news:*", _remember)
    await send({"type": "lifespan.startup.complete"})
    message: Message = await receive()
    assert message["type"] == "lifespan.shutdown"
    subscription.close()
    await send({"type": "lifespan.shutdown.complete"})


def _remember(topic: str, message: object) -> None:
    news.append([topic, message])


def _evaluate(expression: str) -> str:
    try:
        return repr(eval(expression, {**vars(erlang), "news": news}))
    except Exception as exc:
        names = [kind.__name__ for kind in type(exc).__mro__]
        return f"{'|'.join(names)}: {exc}"
