# SPDX-License-Identifier: Apache-2.0
"""An application that calls from many threads and tasks at once and checks each answer.

/threads/KEY, /tasks/KEY and /both/KEY do so for the seconds of SECONDS; /blocked/KEY
calls from a thread while the event loop is blocked. They answer with JSON.
"""

from __future__ import annotations

import json
import os
import threading
import time
from typing import Any

import anyio
import anyio.to_thread

import hornbeam_erlang as erlang
from hornbeam_erlang import aio

CALLERS = 200
MAX_BLOCKED_S = 60.0

_seconds = float(os.environ.get("SECONDS", "3"))


class Checks:
    """What was asked and what was wrong."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls = 0
        self.wrong: list[str] = []

    def count(self, calls: int) -> None:
        with self._lock:
            self.calls += calls

    def expect(self, got: object, expected: object) -> None:
        if got != expected:
            with self._lock:
                self.wrong.append(f"{got!r}, not {expected!r}")


def in_thread(key: str, number: int, end: float, checks: Checks) -> None:
    own = f"{key}:{number}"
    rounds = 0

    while time.monotonic() < end:
        rounds += 1
        checks.expect(erlang.state_incr(own), rounds)
        checks.expect(erlang.state_get(own), rounds)
        checks.expect(erlang.call("add", number, rounds, timeout=60), number + rounds)
        erlang.state_incr(key)

    checks.count(rounds * 4)
    erlang.state_incr(f"{key}:rounds", rounds)


async def in_task(key: str, number: int, end: float, checks: Checks) -> None:
    own = f"{key}:t{number}"
    rounds = 0

    while time.monotonic() < end:
        rounds += 1
        checks.expect(await aio.state_incr(own), rounds)
        checks.expect(await aio.state_get(own), rounds)
        added = await aio.call("add", number, rounds, timeout=60)
        checks.expect(added, number + rounds)

        # A call that is cancelled now and then disturbs nobody.
        with anyio.move_on_after(0 if rounds % 10 == 0 else 60):
            await aio.state_get_multi([own, f"{key}:none"])

        await aio.state_incr(key)

    checks.count(rounds * 5)
    await aio.state_incr(f"{key}:rounds", rounds)


async def put_load(key: str, kinds: str) -> dict[str, Any]:
    checks = Checks()
    end = time.monotonic() + _seconds
    threads = []

    if kinds != "tasks":
        threads = [
            threading.Thread(target=in_thread, args=(key, number, end, checks))
            for number in range(CALLERS)
        ]

    for thread in threads:
        thread.start()

    async with anyio.create_task_group() as group:
        if kinds != "threads":
            for number in range(CALLERS):
                group.start_soon(in_task, key, number, end, checks)

    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)

    checks.expect(await aio.state_get(key), await aio.state_get(f"{key}:rounds"))
    return {"calls": checks.calls, "wrong": checks.wrong[:5]}


def call_while_blocked(key: str) -> dict[str, Any]:
    """Runs on the event loop and blocks it for as long as the calls take."""
    durations_ms: list[float] = []
    started = threading.Event()

    def work() -> None:
        started.set()

        for _ in range(100):
            begin = time.perf_counter()
            erlang.state_incr(key)
            durations_ms.append((time.perf_counter() - begin) * 1000)

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    # Lets go of the interpreter's lock, as most of what blocks does.
    thread.join(MAX_BLOCKED_S)
    is_done = not thread.is_alive()
    return {"calls": len(durations_ms), "max_ms": max(durations_ms), "done": is_done}


async def app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    _, kind, key = scope["path"].split("/")

    if kind == "blocked":
        answer = call_while_blocked(key)
    else:
        answer = await put_load(key, kind)

    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})
