# SPDX-License-Identifier: Apache-2.0
"""What the tests of WSGI applications share: servers of `apps/wsgi_raw.py`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from e2e import support
from e2e.observe import Server
from e2e.raw import Connection, Response
from e2e.support import unique
from node import Node


@contextmanager
def serving(
    node: Node, options: str = "#{}", *, app: str = "wsgi_raw:app"
) -> Iterator[Server]:
    """Serve an application of `apps` for a block."""
    # An atom.
    name = unique("wsgi").replace("-", "_")

    with support.serving(node, app, options, name=name) as url:
        yield Server(node, name, url)


def get(server: Server, target: str, *headers: tuple[str, str]) -> Response:
    """Send one request on a connection of its own."""
    with Connection(server.url) as connection:
        return connection.get(target, *headers)


def target(path: str, /, **parameters: str | Path) -> str:
    return f"{path}?{urlencode({key: str(v) for key, v in parameters.items()})}"
