# SPDX-License-Identifier: Apache-2.0
"""Server-sent events with sse-starlette."""

# What is printed here, the tests wait for.
# ruff: noqa: T201

from __future__ import annotations

from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from e2e.apps import gates

EVENTS = 3


async def events(request: Request) -> EventSourceResponse:
    """Wait before event N > 0 at the gate NAME-N; the end opens NAME-closed."""
    name = request.path_params["name"]

    async def generate() -> AsyncIterator[ServerSentEvent]:
        try:
            for number in range(EVENTS):
                if number > 0:
                    await gates.pass_gate(f"{name}-{number}")

                yield ServerSentEvent(f"čaj {number}", event="tea", id=str(number))
        finally:
            gates.open_gate(f"{name}-closed")

    return EventSourceResponse(generate())


async def silent(request: Request) -> EventSourceResponse:
    """Never send an event, only pings; the end opens the gate NAME-closed."""
    name = request.path_params["name"]

    async def generate() -> AsyncIterator[ServerSentEvent]:
        gates.open_gate(f"{name}-open")

        try:
            await gates.pass_gate(f"{name}-never")
            yield ServerSentEvent("late")
        finally:
            gates.open_gate(f"{name}-closed")
            print(f"sse: {name} closed", flush=True)

    ping_s = float(request.query_params.get("ping_s", "15"))
    return EventSourceResponse(generate(), ping=ping_s)


app = Starlette(
    routes=[
        gates.route,
        Route("/events/{name}", events),
        Route("/silent/{name}", silent),
    ]
)
