# SPDX-License-Identifier: Apache-2.0
"""An application that runs the scenario that the path names: /CALLER/NAME/KEY."""

from __future__ import annotations

import os
from typing import Any

from apps.scenarios import plain
from apps.scenarios.callers import run_plain, run_task

_in_lifespan: dict[str, str] = {}


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await live(receive, send)
        return

    _, caller, name, key = scope["path"].split("/")

    if caller == "coroutine":
        report = await run_task(name, key)
    elif caller == "lifespan":
        report = _in_lifespan[name]
    else:
        report = await run_plain(caller, name, key)

    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": report.encode()})


async def live(receive: Any, send: Any) -> None:
    await receive()

    if "SCENARIOS_IN_LIFESPAN" in os.environ:
        for name in plain.SCENARIOS:
            _in_lifespan[name] = await run_plain("task", name, f"{name}-{os.getpid()}")

    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
