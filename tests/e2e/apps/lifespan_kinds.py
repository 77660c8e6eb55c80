# SPDX-License-Identifier: Apache-2.0
"""The ways in which an application can take its lifespan.

E2E_LIFESPAN chooses one, E2E_MARK is in all that is printed.
"""

# What is printed here, the tests wait for.
# ruff: noqa: T201

from __future__ import annotations

import asyncio
import os
from typing import Any

KIND = os.environ.get("E2E_LIFESPAN", "complete")
MARK = os.environ.get("E2E_MARK", "")


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await run_lifespan(receive, send)
        return

    print(f"{MARK} serves", flush=True)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": KIND.encode()})


async def run_lifespan(receive: Any, send: Any) -> None:
    print(f"{MARK} was asked", flush=True)

    if KIND == "returns_unasked":
        return

    assert (await receive())["type"] == "lifespan.startup"

    if KIND == "raises":
        raise RuntimeError("raised in startup")

    if KIND == "returns":
        return

    if KIND == "silent":
        await asyncio.Event().wait()

    if KIND in ("failed_late", "complete_late"):
        await asyncio.sleep(0.05)

    if KIND.startswith("failed"):
        await send(
            {"type": "lifespan.startup.failed", "message": f"sorry, čaj: {KIND}"}
        )
        return

    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"

    if KIND == "shutdown_raises":
        raise RuntimeError("raised in shutdown")

    if KIND == "shutdown_failed":
        await send({"type": "lifespan.shutdown.failed", "message": "could not flush"})
        return

    await send({"type": "lifespan.shutdown.complete"})
    print(f"{MARK} was shut down", flush=True)
