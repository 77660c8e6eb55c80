# SPDX-License-Identifier: Apache-2.0
"""A WebSocket client for tests, and questions to the applications at the other end."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Response
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_sync

from e2e.support import TIMEOUT_SECONDS, make_client


@contextlib.contextmanager
def connect(url: str, path: str, **options: Any) -> Iterator[ClientConnection]:
    options = {
        "open_timeout": TIMEOUT_SECONDS,
        "close_timeout": TIMEOUT_SECONDS,
        "proxy": None,
        "compression": None,
        "max_size": None,
        **options,
    }

    with connect_sync(url.replace("http", "ws", 1) + path, **options) as client:
        yield client


def answer_of(client: ClientConnection) -> Response:
    """The response to the handshake."""
    assert client.response is not None
    return client.response


def take(client: ClientConnection) -> Any:
    return client.recv(timeout=TIMEOUT_SECONDS)


def take_json(client: ClientConnection) -> Any:
    return json.loads(take(client))


def closing(client: ClientConnection) -> tuple[int | None, str | None]:
    """Wait for the close handshake, and return code and reason of the server."""
    with pytest.raises(ConnectionClosed):
        while True:
            take(client)

    return client.close_code, client.close_reason


def end_of(url: str, path: str) -> tuple[int | None, str | None]:
    """Connect, and return code and reason of the server."""
    with connect(url, path) as client:
        return closing(client)


def get(url: str, path: str) -> Any:
    with make_client(url) as client:
        return client.get(path).raise_for_status().json()


def ended(url: str, name: str) -> Any:
    """What the application saw of the end: code, reason, and what it raised."""
    return get(url, f"/ended/{name}")


def refusal(url: str, path: str) -> Response:
    with pytest.raises(InvalidStatus) as caught, connect(url, path):
        pass

    return caught.value.response


def cut(client: ClientConnection) -> None:
    """End the connection without a word."""
    client.socket.shutdown(socket.SHUT_RDWR)
