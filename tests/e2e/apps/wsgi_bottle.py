# SPDX-License-Identifier: Apache-2.0
"""A Bottle application."""

# Bottle has no type annotations.
# mypy: disable-error-code="import-untyped, misc, untyped-decorator"

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import bottle

from hornbeam_erlang import state_incr

app = bottle.Bottle()


@app.get("/views/<name>")
def views(name: str) -> dict[str, int]:
    return {"views": state_incr(f"bottle:{name}")}


@app.post("/upload")
def upload() -> dict[str, object]:
    file = bottle.request.files.file
    body = file.file.read()
    digest = hashlib.sha256(body).hexdigest()
    return {"name": file.raw_filename, "size": len(body), "sha256": digest}


@app.post("/form")
def form() -> dict[str, str]:
    return dict(bottle.request.forms.decode())


@app.post("/body")
def body() -> str:
    return hashlib.sha256(bottle.request.body.read()).hexdigest()


@app.get("/stream")
def stream() -> Iterator[str]:
    for number in range(3):
        yield f"part {number}\n"


@app.get("/file/<name>")
def file(name: str) -> object:
    return bottle.static_file(name, root=bottle.request.query.root)


@app.get("/teapot")
def teapot() -> object:
    return bottle.HTTPResponse("short and stout", status=418, headers={"X-Pot": "1"})


@app.get("/fails")
def fails() -> str:
    raise RuntimeError("bottle failed on purpose")
