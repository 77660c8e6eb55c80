# SPDX-License-Identifier: Apache-2.0
"""FastAPI with a lifespan that leaves objects, a task and a thread behind."""

# What is printed here, the tests wait for.
# ruff: noqa: T201

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypedDict

from fastapi import FastAPI, Request

TICK_SECONDS = 0.01
PATIENCE_SECONDS = 10.0


class Pool:
    """Stands for the connections to a database: no copy of it would do."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.used = 0
        self.ticks = 0
        self.ticked = asyncio.Event()


class State(TypedDict):
    """What requests find in their state."""

    pool: Pool
    names: list[str]
    scalar: int


async def tick(pool: Pool) -> None:
    """What a startup leaves running."""
    while True:
        await asyncio.sleep(TICK_SECONDS)
        pool.ticks += 1
        pool.ticked.set()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[State]:
    pool = Pool()
    ticking = asyncio.create_task(tick(pool))
    print("lifespan_state: started", flush=True)
    yield {"pool": pool, "names": [], "scalar": 1}
    alive = not ticking.done()
    ticking.cancel()
    print(f"lifespan_state: stopped, task alive: {alive}", flush=True)


app = FastAPI(lifespan=lifespan)


@app.get("/use")
async def use(request: Request) -> dict[str, Any]:
    """The same object in all requests."""
    pool: Pool = request.state.pool

    async with pool.lock:
        pool.used += 1
        return {"used": pool.used, "pool": id(pool)}


@app.get("/own")
async def own(request: Request, name: str) -> dict[str, Any]:
    """What a request adds to its state is its own; objects in it are everybody's."""
    before = sorted(request.state._state)
    setattr(request.state, f"own_{name}", name)
    request.state.scalar += 1
    request.state.names.append(name)
    return {
        "before": before,
        "scalar": request.state.scalar,
        "names": request.state.names,
    }


@app.get("/tick")
async def wait_for_tick(request: Request) -> dict[str, int]:
    """Wait for the startup's task to do something."""
    pool: Pool = request.state.pool
    before = pool.ticks
    pool.ticked.clear()
    await asyncio.wait_for(pool.ticked.wait(), PATIENCE_SECONDS)
    return {"before": before, "after": pool.ticks}


@app.get("/slow")
async def slow() -> dict[str, bool]:
    """Still running when the server is stopped."""
    print("lifespan_state: slow began", flush=True)
    await asyncio.sleep(0.3)
    print("lifespan_state: slow ends", flush=True)
    return {"finished": True}
