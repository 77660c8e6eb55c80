# SPDX-License-Identifier: Apache-2.0
"""WSGI: a plain application, and a page of Flask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Flask, render_template_string

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

ROWS = [(number, f"row {number}") for number in range(10)]
TEMPLATE = "<ul>{% for n, text in rows %}<li>{{ n }}: {{ text }}</li>{% endfor %}</ul>"

page = Flask(__name__)


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello, world!"]


@page.get("/")
def rows() -> str:
    return render_template_string(TEMPLATE, rows=ROWS)
