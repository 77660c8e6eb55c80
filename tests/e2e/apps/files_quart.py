# SPDX-License-Identifier: Apache-2.0
"""Quart: the files of a folder, by its static route and by `send_file`."""

from __future__ import annotations

import os
from pathlib import Path

from quart import Quart, Response, send_file

FOLDER = Path(os.environ["FILES_FOLDER"])

app = Quart(__name__, static_folder=str(FOLDER), static_url_path="/static")


@app.get("/file/<name>")
async def file(name: str) -> Response:
    return await send_file(FOLDER / name, conditional=True)
