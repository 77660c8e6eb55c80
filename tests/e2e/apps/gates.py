# SPDX-License-Identifier: Apache-2.0
"""Events by name, which tests set and wait for over HTTP, in place of sleeping."""

from __future__ import annotations

import anyio
import anyio.from_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PATIENCE_SECONDS = 10.0

_gates: dict[str, anyio.Event] = {}


def _gate(name: str) -> anyio.Event:
    return _gates.setdefault(name, anyio.Event())


def open_gate(name: str) -> None:
    """Let everybody through from now on; call it on the event loop."""
    _gate(name).set()


async def pass_gate(name: str) -> None:
    """Wait until the gate is open.

    Raises:
        TimeoutError: nobody has opened it for a long time.
    """
    with anyio.fail_after(PATIENCE_SECONDS):
        await _gate(name).wait()


def open_gate_from_thread(name: str) -> None:
    """Do `open_gate` in a thread of anyio's."""
    anyio.from_thread.run_sync(open_gate, name)


def pass_gate_from_thread(name: str) -> None:
    """Do `pass_gate` in a thread of anyio's."""
    anyio.from_thread.run(pass_gate, name)


async def _handle(request: Request) -> Response:
    name = request.path_params["name"]

    if request.method == "POST":
        open_gate(name)
        return Response(status_code=204)

    try:
        await pass_gate(name)
    except TimeoutError:
        return Response(f"gate {name} is shut", status_code=504)

    return Response(status_code=204)


route = Route("/gates/{name}", _handle, methods=["GET", "POST"])
"""`POST` opens a gate, `GET` waits for it."""
