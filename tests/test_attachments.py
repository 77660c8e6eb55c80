# SPDX-License-Identifier: Apache-2.0
"""`attach` and `detach` of `hornbeam_erlang`: what they take, what they send."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from starlette.websockets import WebSocket

import hornbeam_erlang
from hornbeam import _bridge
from hornbeam_erlang import HornbeamError, _local, aio, attach, detach


class Socket:
    """The scope of a WebSocket, and what went to the send() in it."""

    def __init__(self, answer: object = True) -> None:
        self.answer = answer
        self.sent: list[Any] = []
        self.scope = {
            "type": "websocket",
            "headers": [],
            "extensions": {"hornbeam.topics": {"send": self.send}},
        }

    async def send(self, message: Any) -> object:
        self.sent.append(message)
        return self.answer


@pytest.fixture
def worker() -> Iterator[None]:
    """As if this process was a worker."""
    bridge = _bridge.Bridge(caller=_local.LocalNode(), worker_id=1)
    _bridge.install(bridge)
    yield
    _bridge.install(None)


async def no_send(message: object) -> None:
    raise AssertionError("a framework's send() is not asked")


@pytest.mark.parametrize("kind", ["scope", "proxy", "object", "starlette"])
def test_what_is_sent(kind: str) -> None:
    socket = Socket()
    targets: dict[str, Callable[[], object]] = {
        "scope": lambda: socket.scope,
        "proxy": lambda: MappingProxyType(socket.scope),
        "object": lambda: SimpleNamespace(scope=socket.scope),
        "starlette": lambda: WebSocket(socket.scope, no_send, no_send),  # type: ignore[arg-type]  # not called
    }
    target = targets[kind]()
    asyncio.run(attach(target, "room:*"))
    asyncio.run(attach(target, "room:1", overflow="drop_oldest", max_queue=5))
    assert asyncio.run(detach(target, "room:*")) is True
    assert socket.sent == [
        {
            "type": "hornbeam.topics.attach",
            "topic": "room:*",
            "overflow": "close",
            "max_queue": 1000,
        },
        {
            "type": "hornbeam.topics.attach",
            "topic": "room:1",
            "overflow": "drop_oldest",
            "max_queue": 5,
        },
        {"type": "hornbeam.topics.detach", "topic": "room:*"},
    ]


def test_detach_from_what_was_not_attached() -> None:
    assert asyncio.run(detach(Socket(False).scope, "room:1")) is False


@pytest.mark.parametrize("name", ["attach", "detach"])
@pytest.mark.parametrize(
    "scope",
    [
        {"type": "websocket"},
        {"type": "websocket", "extensions": None},
        {"type": "websocket", "extensions": {"websocket.http.response": {}}},
        {"type": "websocket", "extensions": {"hornbeam.topics": {}}},
    ],
)
def test_outside_of_hornbeam(name: str, scope: dict[str, Any]) -> None:
    """As under another server, or in the test client of a framework."""
    with pytest.raises(HornbeamError, match="does not run under Hornbeam"):
        asyncio.run(getattr(hornbeam_erlang, name)(scope, "room:1"))


@pytest.mark.usefixtures("worker")
def test_scope_of_another_kind() -> None:
    with pytest.raises(HornbeamError, match="of type 'http' without the extension"):
        asyncio.run(attach({"type": "http", "extensions": {}}, "room:1"))


@pytest.mark.parametrize("target", [None, "scope", SimpleNamespace(scope=None)])
def test_what_has_no_scope(target: object) -> None:
    with pytest.raises(TypeError, match=r"expected a WebSocket with an ASGI scope"):
        asyncio.run(attach(target, "room:1"))


def test_aio_has_the_same() -> None:
    assert (aio.attach, aio.detach) == (attach, detach)
