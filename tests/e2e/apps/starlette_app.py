# SPDX-License-Identifier: Apache-2.0
"""Starlette: routing, middleware, request streams, sessions, static files, mounts."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from e2e.apps import gates

STATIC_DIR = Path(__file__).resolve().parent.parent / "static"

POLL_SECONDS = 0.01


class TagMiddleware(BaseHTTPMiddleware):
    """Starlette's own kind of middleware: runs the application in a task of its own."""

    async def dispatch(
        self, request: Request, call_next: RequestResponseEndpoint
    ) -> Response:
        response = await call_next(request)
        response.headers["x-tag"] = request.method
        return response


class CountMiddleware:
    """Plain ASGI middleware: counts the messages that are sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_mark(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], (b"x-plain", b"1")]
                message = {**message, "headers": headers}

            await send(message)

        await self._app(scope, receive, send_with_mark)


class Things(HTTPEndpoint):
    """An endpoint that is a class, with a method of its own for each of HTTP's."""

    async def get(self, request: Request) -> Response:
        return PlainTextResponse(f"get {request.path_params['thing']}")

    def post(self, request: Request) -> Response:
        return PlainTextResponse(f"post {request.path_params['thing']}")


async def describe(request: Request) -> Response:
    scope = request.scope
    return JSONResponse(
        {
            "path": scope["path"],
            "root_path": scope["root_path"],
            "url": str(request.url),
            "inner": str(request.url_for("inner:describe")),
            "things": request.app.url_path_for("things", thing="1"),
        }
    )


async def describe_inner(request: Request) -> Response:
    scope = request.scope
    return JSONResponse(
        {
            "path": scope["path"],
            "root_path": scope["root_path"],
            "url": str(request.url),
        }
    )


async def converters(request: Request) -> Response:
    params = request.path_params
    return JSONResponse({name: repr(value) for name, value in params.items()})


async def upload(request: Request) -> Response:
    """Open the gate NAME-N after N parts have been read; give the digest in the end.

    Open NAME-left if the client leaves in between.
    """
    name = request.query_params["name"]
    digest = hashlib.sha256()
    parts = 0

    try:
        async for chunk in request.stream():
            if chunk:
                digest.update(chunk)
                parts += 1
                gates.open_gate(f"{name}-{parts}")
    except ClientDisconnect:
        gates.open_gate(f"{name}-left")
        raise

    return PlainTextResponse(digest.hexdigest())


async def echo(request: Request) -> Response:
    """Send each part of the body back as it comes."""
    return StreamingResponse(request.stream(), media_type="application/octet-stream")


async def poll_disconnect(request: Request) -> Response:
    """Start a stream that goes on until the client is seen to have gone."""
    name = request.query_params["name"]

    async def parts() -> AsyncIterator[bytes]:
        yield b"started\n"

        # Polling is what is_disconnected() is for.
        while not await request.is_disconnected():  # noqa: ASYNC110
            await anyio.sleep(POLL_SECONDS)

        gates.open_gate(f"{name}-disconnected")

    return StreamingResponse(parts())


async def endless(request: Request) -> Response:
    """Send for ever; the generator's end opens the gate NAME-closed."""
    name = request.query_params["name"]

    async def parts() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 1024
                await anyio.sleep(POLL_SECONDS)
        finally:
            gates.open_gate(f"{name}-closed")

    return StreamingResponse(parts())


async def count_visits(request: Request) -> Response:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JSONResponse(request.session)


async def form(request: Request) -> Response:
    async with request.form() as data:
        return JSONResponse({name: data.getlist(name) for name in data})


inner = Starlette(routes=[Route("/describe/{rest:path}", describe_inner)])

app = Starlette(
    routes=[
        gates.route,
        Route("/describe", describe),
        Route("/things/{thing}", Things, name="things"),
        Route("/convert/{i:int}/{f:float}/{u:uuid}/{p:path}", converters),
        Route("/upload", upload, methods=["PUT"]),
        Route("/echo", echo, methods=["POST"]),
        Route("/poll-disconnect", poll_disconnect),
        Route("/endless", endless),
        Route("/visits", count_visits),
        Route("/form", form, methods=["POST"]),
        Mount("/static", StaticFiles(directory=STATIC_DIR), name="static"),
        Mount("/pages", StaticFiles(directory=STATIC_DIR, html=True), name="pages"),
        Mount(
            "/inner",
            routes=[Route("/describe", describe_inner, name="describe")],
            name="inner",
        ),
        Mount("/sub", inner),
    ],
    middleware=[
        Middleware(CountMiddleware),
        Middleware(SessionMiddleware, secret_key="only for tests", max_age=None),
    ],
)

tagged = Starlette(routes=app.routes, middleware=[Middleware(TagMiddleware)])
"""The same below Starlette's own kind of middleware."""
