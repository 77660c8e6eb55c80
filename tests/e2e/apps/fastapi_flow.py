# SPDX-License-Identifier: Apache-2.0
"""FastAPI: what takes its time. Threads, background tasks, streams, files, uploads."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, FastAPI, Form, HTTPException, UploadFile
from fastapi.responses import FileResponse, StreamingResponse

from e2e.apps import gates

BARRIER_SIZE = 4

app = FastAPI()
app.router.routes.append(gates.route)

_barrier = threading.Barrier(BARRIER_SIZE)


# Threads.


@app.get("/thread")
def thread() -> dict[str, bool]:
    return {"is_main": threading.current_thread() is threading.main_thread()}


@app.get("/barrier")
def barrier() -> dict[str, int]:
    """Return when as many requests as the barrier has places are in here."""
    return {"place": _barrier.wait(gates.PATIENCE_SECONDS)}


# Background tasks: each waits at the gate NAME-go and opens NAME-done.


@app.get("/background/async/{name}")
async def background_async(name: str, tasks: BackgroundTasks) -> dict[str, str]:
    async def task() -> None:
        await gates.pass_gate(f"{name}-go")
        gates.open_gate(f"{name}-done")

    tasks.add_task(task)
    return {"answered": name}


@app.get("/background/sync/{name}")
def background_sync(name: str, tasks: BackgroundTasks) -> dict[str, str]:
    def task() -> None:
        gates.pass_gate_from_thread(f"{name}-go")
        gates.open_gate_from_thread(f"{name}-done")

    tasks.add_task(task)
    return {"answered": name}


@app.get("/background/broken/{name}")
async def background_broken(name: str, tasks: BackgroundTasks) -> dict[str, str]:
    async def task() -> None:
        raise RuntimeError(f"background task broken on purpose: {name}")

    tasks.add_task(task)
    return {"answered": name}


# Dependencies.


class Connection:
    """Something that must be closed."""

    def __init__(self) -> None:
        self.is_open = True


async def open_connection(name: str) -> AsyncIterator[Connection]:
    """Open NAME-committed or NAME-rolled-back in the end."""
    connection = Connection()

    try:
        yield connection
    except HTTPException:
        gates.open_gate(f"{name}-rolled-back")
        raise
    else:
        gates.open_gate(f"{name}-committed")
    finally:
        connection.is_open = False


def open_connection_in_thread(name: str) -> Iterator[Connection]:
    """Open NAME-closed in the end."""
    yield Connection()
    gates.open_gate_from_thread(f"{name}-closed")


@app.get("/dependency/async")
async def dependency_async(
    connection: Annotated[Connection, Depends(open_connection)], fail: bool = False
) -> dict[str, bool]:
    if fail:
        raise HTTPException(409, "as asked")

    return {"is_open": connection.is_open}


@app.get("/dependency/sync")
def dependency_sync(
    connection: Annotated[Connection, Depends(open_connection_in_thread)],
) -> dict[str, bool]:
    return {"is_open": connection.is_open}


# Streams: after each part they wait at the gate NAME-PART.


@app.get("/stream/async/{name}")
async def stream_async(name: str) -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        for part in range(3):
            yield f"part {part}\n"
            await gates.pass_gate(f"{name}-{part}")

    return StreamingResponse(parts(), media_type="text/plain")


@app.get("/stream/sync/{name}")
def stream_sync(name: str) -> StreamingResponse:
    def parts() -> Iterator[str]:
        for part in range(3):
            yield f"part {part}\n"
            gates.pass_gate_from_thread(f"{name}-{part}")

    return StreamingResponse(parts(), media_type="text/plain")


@app.get("/stream/broken/{name}")
async def stream_broken(name: str) -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        yield b"whole part\n"
        raise RuntimeError(f"stream broken on purpose: {name}")

    return StreamingResponse(parts())


@app.get("/stream/large")
async def stream_large() -> StreamingResponse:
    """Give 64 parts of 64 KiB, each of a letter of its own."""

    async def parts() -> AsyncIterator[bytes]:
        for number in range(64):
            yield bytes([number + 32]) * 65536

    return StreamingResponse(parts(), media_type="application/octet-stream")


# Files.


@app.get("/file")
async def file() -> FileResponse:
    return FileResponse(os.environ["E2E_FILE"], filename="sämple.bin")


async def _describe(upload: UploadFile) -> dict[str, Any]:
    digest = hashlib.sha256()

    while chunk := await upload.read(65536):
        digest.update(chunk)

    return {
        "filename": upload.filename,
        "content_type": upload.content_type,
        "size": upload.size,
        "sha256": digest.hexdigest(),
    }


@app.post("/upload")
async def upload(file: UploadFile, comment: Annotated[str, Form()]) -> dict[str, Any]:
    return {"comment": comment, **await _describe(file)}


@app.post("/uploads")
async def uploads(files: list[UploadFile]) -> list[dict[str, Any]]:
    return [await _describe(file) for file in files]
