# SPDX-License-Identifier: Apache-2.0
"""Applications whose lifespans differ; on any loop."""

from __future__ import annotations

import asyncio
import json
from typing import Any


async def answer(send: Any, result: Any) -> None:
    body = json.dumps(result).encode()
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body})


async def whole(scope: Any, receive: Any, send: Any) -> None:
    """With state, and a task that goes on."""
    if scope["type"] == "http":
        scope["state"]["of_request"] = 1
        await asyncio.sleep(0.01)
        names = sorted(scope["state"])
        await answer(send, [names, scope["state"]["ticks"]])
        return

    ticks: list[int] = []

    async def tick() -> None:
        while True:
            ticks.append(len(ticks))
            await asyncio.sleep(0.001)

    assert (await receive())["type"] == "lifespan.startup"
    scope["state"]["ticks"] = ticks
    task = asyncio.ensure_future(tick())
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    task.cancel()
    print("shutting down")
    await send({"type": "lifespan.shutdown.complete"})
    print("after shutdown")


def script(*steps: Any) -> Any:
    """Make an application of steps: None receives, dicts are sent, others raised."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await answer(send, "state" in scope)
            return

        for step in steps:
            if step is None:
                await receive()
            elif isinstance(step, dict):
                await send(step)
            else:
                raise step

    return app


started = {"type": "lifespan.startup.complete"}
failed = {"type": "lifespan.startup.failed", "message": "no database"}

completes = script(None, started, None, {"type": "lifespan.shutdown.complete"})
fails_early = script(failed)
fails_late = script(None, started, ValueError("late"))
fails_and_raises = script(None, failed, ValueError("again"))
raises = script(ValueError("no lifespan here"))
returns = script()
silent = script(None, None)
stop_fails = script(
    None, started, None, {"type": "lifespan.shutdown.failed", "message": "no disk"}
)
stop_raises = script(None, started, None, ValueError("no disk"))
stop_silent = script(None, started, None, None)
