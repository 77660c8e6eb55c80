# SPDX-License-Identifier: Apache-2.0
"""FastAPI: the files of a folder, below middleware of the kind that wraps responses."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

FOLDER = Path(os.environ["FILES_FOLDER"])

app = FastAPI()
app.mount("/static", StaticFiles(directory=FOLDER))


@app.middleware("http")
async def mark(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    response = await call_next(request)
    response.headers["x-mark"] = "1"
    return response


@app.api_route("/file/{name}", methods=["GET", "HEAD"])
def file(name: str) -> FileResponse:
    """A plain function, so in a thread."""
    return FileResponse(FOLDER / name)
