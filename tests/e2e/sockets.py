# SPDX-License-Identifier: Apache-2.0
"""WebSocket clients of the tests, by the package `websockets`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

from websockets.asyncio.client import connect as connect_async
from websockets.sync.client import ClientConnection as SyncConnection
from websockets.sync.client import connect as connect_sync
from websockets.typing import Subprotocol

__all__ = ("TIMEOUT_SECONDS", "SyncConnection", "connect", "connect_later")

TIMEOUT_SECONDS = 10.0


def socket_url(url: str, path: str) -> str:
    """The address of a WebSocket on a server of this URL."""
    return f"ws{url.removeprefix('http')}{path}"


def connect(
    url: str, path: str, *, protocols: Sequence[str] = (), **options: Any
) -> AbstractContextManager[SyncConnection]:
    """Open a WebSocket for a block."""
    connection: AbstractContextManager[SyncConnection] = connect_sync(
        socket_url(url, path),
        subprotocols=cast("Sequence[Subprotocol]", protocols) or None,
        proxy=None,
        open_timeout=TIMEOUT_SECONDS,
        close_timeout=TIMEOUT_SECONDS,
        **options,
    )
    return connection


def connect_later(url: str, path: str, **options: Any) -> connect_async:
    """The same for asyncio."""
    return connect_async(
        socket_url(url, path), proxy=None, open_timeout=60, close_timeout=60, **options
    )
