# SPDX-License-Identifier: Apache-2.0
"""socket.io's own server and client: polling, WebSockets, and from one to the other."""

# python-socketio has no type annotations.
# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import engineio
import pytest
import socketio

from e2e.reference import serving_any
from e2e.support import unique
from node import Node

# The client leaves connections to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TIMEOUT_SECONDS = 10
CLIENTS = 20
NUMBERS = 500

# The client refuses answers to a poll of more than 16 packets; the server gives them.
engineio.payload.Payload.max_decode_packets = NUMBERS

TRANSPORTS = {
    "polling": ["polling"],
    "websocket": ["websocket"],
    "upgrade": ["polling", "websocket"],
}
EACH_WAY = pytest.mark.parametrize("transports", TRANSPORTS.values(), ids=TRANSPORTS)


@pytest.fixture(scope="module")
def url(node: Node) -> Iterator[str]:
    with serving_any(node, "socketio_app:app") as url:
        yield url


class Client:
    """A client that keeps what it was told."""

    def __init__(self) -> None:
        self.io = socketio.AsyncClient(reconnection=False)
        self.events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.is_gone = asyncio.Event()
        self.io.on("said", lambda data: self._keep("said", data))
        self.io.on("number", lambda data: self._keep("number", data))
        self.io.on("disconnect", lambda *_: self.is_gone.set())

    def _keep(self, name: str, data: Any) -> None:
        self.events.put_nowait((name, data))

    async def call(self, event: str, *args: Any) -> Any:
        return await self.io.call(event, args, timeout=TIMEOUT_SECONDS)

    async def take(self) -> tuple[str, Any]:
        return await asyncio.wait_for(self.events.get(), TIMEOUT_SECONDS)


@asynccontextmanager
async def connected(
    url: str, transports: list[str], auth: object = None
) -> AsyncIterator[Client]:
    client = Client()
    await client.io.connect(url, auth=auth, transports=transports)

    try:
        yield client
    finally:
        await client.io.disconnect()


Body = Callable[[Client], Awaitable[None]]


def with_client(
    url: str, transports: list[str], body: Body, auth: object = "a"
) -> None:
    async def main() -> None:
        async with connected(url, transports, auth) as client:
            await body(client)

    asyncio.run(main())


@EACH_WAY
def test_answers(url: str, transports: list[str]) -> None:
    """Texts, numbers, structures and bytes come back as they were.

    What was polling has become a WebSocket where the client wants one.
    """
    user = unique("user")

    async def body(client: Client) -> None:
        assert client.io.transport() == transports[-1]
        assert await client.call("whoami") == [user, transports[-1]]
        blob = os.urandom(100_000)

        for args in (["größe"], [1, {"a": [None, True]}], [b"\0\xff"], [blob, "x"]):
            assert await client.call("echo", *args) == args

    with_client(url, transports, body, user)


@EACH_WAY
def test_events_in_a_row(url: str, transports: list[str]) -> None:
    """None is lost, doubled or out of order."""

    async def body(client: Client) -> None:
        await client.io.emit("count", NUMBERS)
        events = [await client.take() for _ in range(NUMBERS)]
        assert events == [("number", each) for each in range(NUMBERS)]

    with_client(url, transports, body)


def test_room_of_many(url: str) -> None:
    """Clients of all transports hear one another, but not those of another room."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            ways = [TRANSPORTS["websocket"], TRANSPORTS["upgrade"]]
            clients = [
                await stack.enter_async_context(connected(url, transports))
                for transports in (["polling"], *ways * (CLIENTS // 2))
            ]
            outside = await stack.enter_async_context(connected(url, ["websocket"]))

            for client in clients:
                await client.call("join", "room")

            await outside.call("join", "other")

            for number, client in enumerate(clients):
                await client.call("say", "room", number)

            for number, client in enumerate(clients):
                heard = [await client.take() for _ in range(len(clients) - 1)]
                assert heard == [
                    ("said", each) for each in range(len(clients)) if each != number
                ]

            assert outside.events.empty()

    asyncio.run(main())


def test_refused(url: str) -> None:
    async def main() -> None:
        with pytest.raises(
            socketio.exceptions.ConnectionError, match="failed to connect"
        ):
            async with connected(url, ["websocket"], "wrong"):
                raise AssertionError("it was let in")

    asyncio.run(main())


@EACH_WAY
def test_client_leaves(url: str, transports: list[str]) -> None:
    """The server is told at once."""
    user = unique("user")

    async def body(client: Client) -> None:
        async with connected(url, transports, user) as other:
            assert (await other.call("whoami"))[0] == user

        assert await client.call("wait_for_leave", user) == "left"

    with_client(url, ["websocket"], body)


def test_server_ends_it(url: str) -> None:
    async def body(client: Client) -> None:
        await client.io.emit("bye")
        await asyncio.wait_for(client.is_gone.wait(), TIMEOUT_SECONDS)

    with_client(url, TRANSPORTS["upgrade"], body)


def test_pings_keep_it(url: str) -> None:
    """socket.io's own pings go through while nothing else is said."""

    async def body(client: Client) -> None:
        with pytest.raises(asyncio.TimeoutError):
            # Longer than an interval and the wait for its answer.
            await asyncio.wait_for(client.is_gone.wait(), 2.5)

        assert await client.call("echo", "x") == ["x"]

    with_client(url, TRANSPORTS["upgrade"], body)
