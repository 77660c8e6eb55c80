# SPDX-License-Identifier: Apache-2.0
"""Starlette: the files of a folder, by `StaticFiles` and by `FileResponse`."""

from __future__ import annotations

import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

FOLDER = Path(os.environ["FILES_FOLDER"])


async def file(request: Request) -> FileResponse:
    return FileResponse(FOLDER / request.path_params["name"], filename="größe.bin")


async def once(request: Request) -> FileResponse:
    """The file is gone when it was sent."""
    path = FOLDER / request.path_params["name"]
    return FileResponse(path, background=BackgroundTask(os.unlink, path))


app = Starlette(
    routes=[
        Route("/file/{name}", file),
        Route("/once/{name}", once),
        Mount("/static", StaticFiles(directory=FOLDER)),
    ]
)
