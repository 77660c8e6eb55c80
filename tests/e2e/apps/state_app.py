# SPDX-License-Identifier: Apache-2.0
"""The shared state, from everywhere that an application's code can run."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any

from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import JSONResponse

from e2e.apps import gates
from hornbeam_erlang import state_get, state_incr, state_set

app = FastAPI()
app.router.routes.append(gates.route)

VALUES: dict[str, Any] = {
    "none": None,
    "true": True,
    "int": -(2**70),
    "float": 0.1,
    "str": "čaj ☕",
    "bytes": b"\x00\xff",
    "empty": [b"", "", [], (), {}],
    "nested": {"list": [1, (2, b"3")], 4: {"five": None}, (6,): 7.5},
}


def _answer(value: object) -> dict[str, Any]:
    return {"worker": os.getpid(), "value": value}


# Counting.


@app.post("/incr/async/{key}")
async def incr_async(key: str) -> dict[str, Any]:
    return _answer(state_incr(key))


@app.post("/incr/def/{key}")
def incr_def(key: str) -> dict[str, Any]:
    return _answer(state_incr(key))


@app.post("/incr/to_thread/{key}")
async def incr_to_thread(key: str) -> dict[str, Any]:
    return _answer(await asyncio.to_thread(state_incr, key))


@app.post("/incr/own_thread/{key}")
def incr_own_thread(key: str) -> dict[str, Any]:
    """In a thread that no framework knows of."""
    values: list[int] = []
    thread = threading.Thread(target=lambda: values.append(state_incr(key)))
    thread.start()
    thread.join()
    return _answer(values[0])


@app.post("/incr/background/{key}")
async def incr_background(key: str, tasks: BackgroundTasks) -> dict[str, Any]:
    """After the response; then the gate KEY-done opens."""

    async def count() -> None:
        state_incr(key)
        gates.open_gate(f"{key}-done")

    tasks.add_task(count)
    return _answer(None)


@app.post("/incr/busy/{key}")
async def incr_busy(key: str) -> dict[str, Any]:
    """In a thread, while the event loop is blocked until the thread is done."""
    values: list[int] = []
    thread = threading.Thread(target=lambda: values.append(state_incr(key)))
    thread.start()
    thread.join(gates.PATIENCE_SECONDS)
    return _answer(values[0] if values else None)


@app.post("/incr/by/{key}/{delta}")
async def incr_by(key: str, delta: int) -> dict[str, Any]:
    return _answer(state_incr(key, delta))


@app.post("/race/{key}")
async def race(key: str, times: int) -> dict[str, Any]:
    """Count on the loop and in threads at the same time."""
    in_threads = [asyncio.to_thread(state_incr, key) for _ in range(times)]
    pending = asyncio.gather(*in_threads)
    on_loop = []

    for _ in range(times):
        on_loop.append(state_incr(key))
        await asyncio.sleep(0)

    return _answer(sorted([*on_loop, *await pending]))


# Values.


@app.put("/values/{prefix}")
async def set_values(prefix: str) -> dict[str, Any]:
    for name, value in VALUES.items():
        state_set(f"{prefix}:{name}", value)

    return _answer(None)


@app.get("/values/{prefix}")
def compare_values(prefix: str) -> dict[str, Any]:
    """The names of those that have not come back as they were, in value and in type."""
    different = [
        name
        for name, value in VALUES.items()
        if repr(state_get(f"{prefix}:{name}", "missing")) != repr(value)
    ]
    return _answer(different)


@app.get("/get/{key}")
async def get(key: str) -> dict[str, Any]:
    return _answer(state_get(key, "the default"))


@app.put("/text/{key}")
async def set_text(key: str, text: str) -> dict[str, Any]:
    state_set(key, text)
    return _answer(None)


def _error_of(call: Callable[[], object]) -> JSONResponse:
    try:
        return JSONResponse({"value": call()})
    except Exception as exc:
        kinds = [kind.__name__ for kind in type(exc).__mro__]
        return JSONResponse({"kinds": kinds, "text": str(exc)}, status_code=409)


@app.post("/errors/incr/{key}")
async def incr_text(key: str) -> JSONResponse:
    return _error_of(lambda: state_incr(key))


@app.post("/errors/set/{key}")
def set_object(key: str) -> JSONResponse:
    return _error_of(lambda: state_set(key, {"a": [1, object()]}))
