# SPDX-License-Identifier: Apache-2.0
"""A Starlette application that runs on asyncio and on trio alike."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from hornbeam_erlang import state_incr

events: list[str] = []


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep_forever)
        yield {"answer": 42}
        tasks.cancel_scope.cancel()

    print("lifespan is over")


async def state(request: Request) -> Response:
    return JSONResponse([request.state.answer, state_incr("n")])


def in_thread(request: Request) -> Response:
    name = threading.current_thread() is threading.main_thread()
    return JSONResponse([name, state_incr("n")])


async def post(request: Request) -> Response:
    body = await request.body()
    return Response(
        body[::-1], background=BackgroundTask(events.append, "background task")
    )


async def stream(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        for number in range(5):
            yield b"%d" % number
            await anyio.sleep(0.001)

    return StreamingResponse(parts())


async def endless(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
                await anyio.sleep(0.001)
        finally:
            events.append("endless stream is over")

    return StreamingResponse(parts())


async def slow(request: Request) -> Response:
    try:
        await anyio.sleep_forever()
    finally:
        events.append("slow is over")

    return Response()


async def boom(request: Request) -> Response:
    raise ValueError("boom")


async def show_events(request: Request) -> Response:
    return JSONResponse(events)


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/state", state),
        Route("/thread", in_thread),
        Route("/post", post, methods=["POST"]),
        Route("/stream", stream),
        Route("/endless", endless),
        Route("/slow", slow),
        Route("/boom", boom),
        Route("/events", show_events),
    ],
)
