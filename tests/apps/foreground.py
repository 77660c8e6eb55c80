# SPDX-License-Identifier: Apache-2.0
"""An application that says when it starts and stops, and can be slow to answer."""

import asyncio
import os
from pathlib import Path
from typing import Any

SLOW_SECONDS = 0.5


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await live(receive, send)
    else:
        await answer(scope["path"], send)


async def live(receive: Any, send: Any) -> None:
    await receive()
    print("application: started in", os.getcwd(), flush=True)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    leave_mark()
    print("application: shut down", flush=True)
    await send({"type": "lifespan.shutdown.complete"})


def leave_mark() -> None:
    """Make the file that the variable MARK names: also seen without a terminal."""
    if path := os.environ.get("MARK"):
        Path(path).touch()


async def answer(path: str, send: Any) -> None:
    if path == "/slow":
        print("application: slow request", flush=True)
        await asyncio.sleep(SLOW_SECONDS)

    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": path.encode()})


not_callable = 42
