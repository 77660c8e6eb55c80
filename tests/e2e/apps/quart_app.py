# SPDX-License-Identifier: Apache-2.0
"""Quart: routes, bodies, streams, sessions, what is run before and after serving."""

# What is printed here, the tests wait for.
# ruff: noqa: T201

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

from quart import Quart, Response, abort, jsonify, request, session, url_for

PATIENCE_SECONDS = 10.0

app = Quart(__name__)
app.secret_key = "only for tests"

_started: list[str] = []
_gates: dict[str, asyncio.Event] = {}


def _gate(name: str) -> asyncio.Event:
    return _gates.setdefault(name, asyncio.Event())


@app.before_serving
async def start() -> None:
    _started.append("before_serving")
    print("quart: before_serving", flush=True)


@app.after_serving
async def stop() -> None:
    print("quart: after_serving", flush=True)


@app.after_request
async def mark(response: Response) -> Response:
    response.headers["x-mark"] = "after_request"
    return response


@app.get("/started")
async def started() -> Response:
    return jsonify(_started)


@app.post("/gates/<name>")
async def open_gate(name: str) -> tuple[str, int]:
    _gate(name).set()
    return "", 204


@app.get("/gates/<name>")
async def pass_gate(name: str) -> tuple[str, int]:
    await asyncio.wait_for(_gate(name).wait(), PATIENCE_SECONDS)
    return "", 204


@app.get("/items/<int:item_id>/<path:rest>")
async def item(item_id: int, rest: str) -> Response:
    return jsonify(
        item_id=item_id,
        rest=rest,
        tags=request.args.getlist("tag"),
        url=request.url,
        here=url_for("item", item_id=item_id, rest=rest, _external=True),
        client=request.remote_addr,
    )


@app.post("/json")
async def echo_json() -> Response:
    return jsonify(await request.get_json())


@app.post("/form")
async def form() -> Response:
    fields = await request.form
    files = await request.files
    return jsonify(
        fields=fields.to_dict(flat=False),
        files={
            name: [file.filename, hashlib.sha256(file.read()).hexdigest()]
            for name, file in files.items()
        },
    )


@app.put("/upload")
async def upload() -> str:
    digest = hashlib.sha256()

    async for chunk in request.body:
        digest.update(chunk)

    return digest.hexdigest()


@app.get("/stream/<name>")
async def stream(name: str) -> Response:
    """Wait after each part at the gate NAME-PART; the end opens NAME-closed."""

    async def parts() -> AsyncIterator[bytes]:
        try:
            for part in range(3):
                yield b"part %d\n" % part
                await asyncio.wait_for(_gate(f"{name}-{part}").wait(), PATIENCE_SECONDS)
        finally:
            _gate(f"{name}-closed").set()

    return Response(parts(), mimetype="text/plain")


@app.get("/visits")
async def visits() -> Response:
    session["visits"] = session.get("visits", 0) + 1
    return jsonify(visits=session["visits"])


@app.get("/sync")
def in_thread() -> str:
    return "from a thread"


@app.get("/abort")
async def give_up() -> str:
    abort(403)


@app.get("/broken/<mark>")
async def broken(mark: str) -> str:
    raise RuntimeError(f"quart broken on purpose: {mark}")


@app.errorhandler(404)
async def not_found(error: Exception) -> tuple[Response, int]:
    return jsonify(missing=request.path), 404
