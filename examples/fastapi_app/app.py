# SPDX-License-Identifier: Apache-2.0
"""FastAPI with counters and a cache that all workers share.

Start it with `make run` and open http://127.0.0.1:8000 and http://127.0.0.1:8000/items/1;
http://127.0.0.1:8000/docs describes the rest.
"""

import asyncio
from typing import Any

from fastapi import FastAPI

from hornbeam_erlang import state_get, state_incr, state_set

app = FastAPI(title="Hornbeam example")

SLOW_LOOKUP_SECONDS = 0.1


async def fetch_item(item_id: int) -> dict[str, Any]:
    """Stand for a database that takes its time."""
    await asyncio.sleep(SLOW_LOOKUP_SECONDS)
    return {"id": item_id, "name": f"Item {item_id}"}


@app.get("/")
async def root() -> dict[str, int]:
    """Count the views, over all workers."""
    views = state_incr("api_views")
    return {"views": views}


@app.get("/items/{item_id}")
async def get_item(item_id: int) -> dict[str, Any]:
    """Give an item: slowly the first time, from the shared state after that."""
    cached: dict[str, Any] | None = state_get(f"item:{item_id}")

    if cached:
        return cached

    item = await fetch_item(item_id)
    state_set(f"item:{item_id}", item)
    return item


@app.post("/items/")
async def create_item(item: dict[str, Any]) -> dict[str, Any]:
    """Store an item under the next number of a sequence that all workers share."""
    item_id = state_incr("item_id_seq")
    item["id"] = item_id
    state_set(f"item:{item_id}", item)
    return item
