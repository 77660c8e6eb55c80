# SPDX-License-Identifier: Apache-2.0
"""The server that the fuzzing client is let loose on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from node import Node

OPTIONS = "#{websocket_compress => true}"


@contextmanager
def echo_server(node: Node) -> Iterator[str]:
    """Serve the echo application with compression; gives its `ws` URL."""
    name = "conformance"
    url = node.start_server(
        "conformance.echo_app:app", OPTIONS, name=name, app_dir="tests"
    )

    try:
        yield url.replace("http://", "ws://", 1)
    finally:
        node.stop_server(name)
