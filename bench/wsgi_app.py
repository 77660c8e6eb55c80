# SPDX-License-Identifier: Apache-2.0
"""The applications of `wsgi.py`."""

from flask import Flask, render_template_string


def hello(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello, world!"]


page = Flask(__name__)
ROWS = [(number, f"row {number}") for number in range(10)]
TEMPLATE = "<ul>{% for n, text in rows %}<li>{{ n }}: {{ text }}</li>{% endfor %}</ul>"


@page.get("/")
def rows():
    return render_template_string(TEMPLATE, rows=ROWS)
