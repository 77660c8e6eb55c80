# SPDX-License-Identifier: Apache-2.0
"""A Flask application."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from flask import (
    Flask,
    Response,
    abort,
    g,
    jsonify,
    render_template_string,
    request,
    send_file,
    session,
    stream_with_context,
)

from e2e.apps.wsgi_raw import wait_for
from hornbeam_erlang import call, state_get, state_incr

app = Flask(__name__)
app.secret_key = "only for tests"


@app.before_request
def count() -> None:
    g.views = state_incr(f"views:{request.path}")


@app.get("/views/<name>")
def views(name: str) -> Response:
    assert state_get(f"views:{request.path}") >= g.views
    return jsonify(views=g.views)


@app.get("/sum")
def total() -> Response:
    return jsonify(sum=call("wsgi_add", int(request.args["a"]), int(request.args["b"])))


@app.get("/page")
def page() -> str:
    return render_template_string("<p>{{ name }}</p>", name=request.args["name"])


@app.get("/visits")
def visits() -> Response:
    session["visits"] = session.get("visits", 0) + 1
    return jsonify(visits=session["visits"])


@app.post("/upload")
def upload() -> Response:
    file = request.files["file"]
    body = file.read()
    digest = hashlib.sha256(body).hexdigest()
    return jsonify(name=file.filename, size=len(body), sha256=digest)


@app.post("/json")
def echo_json() -> Response:
    return jsonify(request.get_json())


@app.get("/stream")
def stream() -> Response:
    """Two parts, with the file that the query names between them."""

    def parts() -> Iterator[str]:
        yield "first\n"
        wait_for(request.args["until"])
        yield f"second by {request.method}\n"

    return Response(stream_with_context(parts()), mimetype="text/plain")


@app.get("/file")
def file() -> Response:
    return send_file(Path(request.args["path"]), conditional=True)


@app.get("/url")
def url() -> Response:
    return jsonify(
        url=request.url, client=request.remote_addr, root=request.script_root
    )


@app.get("/fails")
def fails() -> Response:
    raise RuntimeError(f"flask failed on purpose: {request.args['mark']}")


@app.get("/forbidden")
def forbidden() -> Response:
    abort(403)
