# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests share: servers for a block, clients, gates."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import httpx

from e2e.raw import Connection, Response
from node import Node, literal

E2E_DIR = Path(__file__).resolve().parent

TIMEOUT_SECONDS = 15.0
"""How long one read of a client waits before the test fails."""

KEEPALIVE_SECONDS = 2.0
"""How long a client keeps an idle connection: less than the server, far enough."""

_server_numbers = count(1)


@contextmanager
def serving(
    node: Node,
    app: str,
    options: str = "#{}",
    *,
    name: str | None = None,
    app_dir: Path | None = None,
) -> Iterator[str]:
    """Serve an application of `apps`; gives the URL.

    Args:
        node: where.
        app: `module:attribute`, of `apps` unless a folder is given.
        options: text of an Erlang map, on top of the defaults of `Node.start_server`.
        name: of the server; one of its own where not given.
        app_dir: folder of the module.
    """
    name = name or f"e2e_{next(_server_numbers)}"
    url = node.start_server(
        app if app_dir else f"e2e.apps.{app}",
        options,
        name=name,
        app_dir=app_dir or E2E_DIR.parent,
    )

    try:
        yield url
    finally:
        # A test may have stopped it by itself.
        node.eval(f"hornbeam:stop({name})")


def make_client(url: str) -> httpx.Client:
    """A client that follows no redirects and asks no proxy."""
    limits = httpx.Limits(keepalive_expiry=KEEPALIVE_SECONDS)
    return httpx.Client(
        base_url=url, timeout=TIMEOUT_SECONDS, limits=limits, trust_env=False
    )


def make_async_client(
    url: str, *, connections: int, http2: bool = False
) -> httpx.AsyncClient:
    """The same for many requests at a time, by HTTP/2 alone if so wanted."""
    limits = httpx.Limits(
        max_connections=connections,
        max_keepalive_connections=connections,
        keepalive_expiry=KEEPALIVE_SECONDS,
    )
    return httpx.AsyncClient(
        base_url=url,
        timeout=TIMEOUT_SECONDS,
        limits=limits,
        trust_env=False,
        http1=not http2,
        http2=http2,
    )


def ask_many(
    url: str, method: str, target: str, *, times: int, connections: int
) -> list[Response]:
    """Send a request so many times over so many connections at a time.

    With sockets, for what httpx does for one request costs more than the server's work.
    """
    left = iter(range(times))

    def ask(_: int) -> list[Response]:
        with Connection(url, timeout=TIMEOUT_SECONDS) as connection:
            return [connection.exchange(method, target) for _ in left]

    with ThreadPoolExecutor(connections) as pool:
        return [each for asked in pool.map(ask, range(connections)) for each in asked]


def unique(prefix: str) -> str:
    """A name that no other test has used, for a gate or a key of the shared state."""
    return f"{prefix}-{uuid.uuid4().hex}"


def open_gate(client: httpx.Client, name: str) -> None:
    """Let go on what waits at a gate in the application; see `apps/gates.py`."""
    assert client.post(f"/gates/{name}").status_code == 204


def wait_for_gate(client: httpx.Client, name: str) -> None:
    """Wait until the application has opened a gate."""
    assert client.get(f"/gates/{name}").status_code == 204, f"{name} was never opened"


def env_option(variables: dict[str, str]) -> str:
    """Text of a map for the option `env`."""
    pairs = (
        f"{literal(name)} => {literal(value)}" for name, value in variables.items()
    )
    return f"#{{{', '.join(pairs)}}}"
