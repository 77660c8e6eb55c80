# SPDX-License-Identifier: Apache-2.0
"""The same as `reload_app`, as far as WSGI can do it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

VERSION = b"one"

PARTS = 5

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]


def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [])

    if environ["PATH_INFO"] == "/stream":
        for _ in range(PARTS):
            yield VERSION
            time.sleep(0.02)
    else:
        yield VERSION + b" " + environ["wsgi.input"].read()
