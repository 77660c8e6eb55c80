# SPDX-License-Identifier: Apache-2.0
"""Sessions in memory, and channels with a node in a thread."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest

from fake_node import TIMEOUT_S
from hornbeam import _asgi
from hornbeam._asgi import AsgiApp, Receive, Scope, Send
from hornbeam._channel import Channel
from hornbeam._etf import decode_packet, encode_message, pack_batch
from hornbeam._http import HttpSession
from hornbeam._loan import LoanHost
from hornbeam._pacer import Pacer
from hornbeam._protocol import LogLevel, PacketSplitter
from hornbeam._runtime import Runtime, make_runtime
from hornbeam._session import Session
from hornbeam._terms import Atom
from hornbeam._websocket import WebSocketSession

LOOPS = ("asyncio", "uvloop", "trio")
QUICK_TURNS = 50

Message = tuple[Any, ...]
Sent = tuple[Any, ...]
Answer = Callable[["Peer", Message], None]
Test = Callable[[Runtime], Coroutine[Any, Any, None]]


def run(test: Test, loop: str = "asyncio") -> None:
    """Run an async test on a loop; its failure is the caller's."""
    runtime = make_runtime(loop, 2)  # type: ignore[arg-type]  # one of LOOPS
    failures: list[BaseException] = []

    async def main() -> None:
        try:
            await test(runtime)
        except Exception as exc:
            failures.append(exc)

    runtime.run(main)

    for failure in failures:
        raise failure


async def pass_turns(runtime: Runtime, turns: int = 5) -> None:
    """Let other tasks run."""
    for _ in range(turns):
        waiter = runtime.create_waiter()
        runtime.call_soon(waiter.set)
        await waiter.wait()


async def until(runtime: Runtime, condition: Callable[[], bool]) -> None:
    """Let other tasks, and at length other threads, run until a condition holds."""
    deadline = time.monotonic() + TIMEOUT_S
    turns = 0

    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("the condition did not come true")

        turns += 1

        if turns < QUICK_TURNS:
            await pass_turns(runtime, 1)
        else:
            waiter = runtime.create_waiter()
            runtime.call_later(0.001, waiter.set)
            await waiter.wait()


class Conversation:
    """One request or WebSocket, with the test as its node.

    Args:
        runtime: the loop.
        app: the application.
        window: in bytes.
    """

    session: Session

    def __init__(self, runtime: Runtime, app: AsgiApp, window: int = 65536) -> None:
        self.runtime = runtime
        self.app = app
        self.window_bytes = window
        self.loans: LoanHost | None = None
        self.pacer = Pacer(lambda: runtime.call_soon(self.pacer.renew))
        self.sent: list[Sent] = []
        """The messages of the session, headed by str."""
        self.logs: list[tuple[str, str]] = []
        self.is_over = False
        self.held_starts = 0

    # The host.

    def post(self, encoded: bytes) -> None:
        (message,) = decode_packet(pack_batch([encoded])[4:])
        assert isinstance(message, tuple)
        head, request_id, *fields = message
        assert request_id == 1
        assert not self.is_over
        self.sent.append((head.name, *fields))

    def post_part(self, encoded: bytes) -> None:
        self.post(encoded)

    def claim(self, request_id: int, default: None, /) -> object:
        assert request_id == 1
        return True

    def note_held_start(self) -> None:
        self.held_starts += 1

    def log(self, level: LogLevel, text: str, request_id: int | None = None) -> None:
        assert request_id == 1
        self.logs.append((level, text))

    def forget(self, request_id: int) -> None:
        assert request_id == 1
        assert self.sent[-1] == ("done",)
        self.is_over = True

    # For tests.

    async def finish(self) -> list[Sent]:
        """Run the request to its end; return what was sent, without `done`."""
        self.session.start()
        return await self.end()

    async def end(self) -> list[Sent]:
        """Wait for the end of a request that runs; return as `finish`."""
        await until(self.runtime, lambda: self.is_over)
        return self.sent[:-1]

    async def turn(self) -> None:
        """Let the application run until it waits."""
        await pass_turns(self.runtime)

    @property
    def kinds(self) -> list[str]:
        """The heads of what was sent."""
        return [message[0] for message in self.sent]

    @property
    def errors(self) -> str:
        """The texts of what was logged at level error."""
        return "\n".join(text for level, text in self.logs if level == "error")


class Exchange(Conversation):
    """One HTTP request.

    Args:
        runtime, app, window: as of any.
        method, path, headers: of the scope.
        body, more: of the request.
    """

    session: HttpSession

    def __init__(
        self,
        runtime: Runtime,
        app: AsgiApp,
        *,
        method: str = "GET",
        path: str = "/",
        body: bytes = b"",
        more: bool = False,
        window: int = 65536,
    ) -> None:
        super().__init__(runtime, app, window)
        scope: Scope = {"type": "http", "method": method, "path": path}
        self.session = HttpSession(self, 1, scope, body, more)

    @property
    def body(self) -> bytes:
        """What was sent of the response's body."""
        return b"".join(
            message[-1]
            for message in self.sent
            if message[0] in ("response", "start", "data", "last")
        )


class Dialogue(Conversation):
    """One WebSocket.

    Args:
        runtime, app, window: as of any.
        subprotocols: that the client offers.
    """

    session: WebSocketSession

    def __init__(
        self,
        runtime: Runtime,
        app: AsgiApp,
        *,
        subprotocols: tuple[str, ...] = (),
        window: int = 65536,
    ) -> None:
        super().__init__(runtime, app, window)
        self.calls: list[tuple[Any, ...]] = []
        """Functions and arguments of the calls of the node."""
        self.answer: object = True
        """What a call gives; an exception is raised."""
        self.scope: Scope = {
            "type": "websocket",
            "path": "/ws",
            "subprotocols": list(subprotocols),
            "extensions": {"hornbeam.topics": {}},
        }
        self.session = WebSocketSession(self, 1, self.scope)

    async def call_service(self, function: Atom, args: tuple[object, ...]) -> object:
        self.calls.append((function.name, *args))

        if isinstance(self.answer, Exception):
            raise self.answer

        return self.answer

    def text(self, text: str) -> None:
        """Let the client send a text."""
        self.session.add_message(Atom("text"), text.encode())

    def binary(self, data: bytes) -> None:
        """Let the client send a binary message."""
        self.session.add_message(Atom("binary"), data)


def sends(*messages: _asgi.Message) -> AsgiApp:
    """Make an application that sends these and returns."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(dict(message))

    return app


def start(status: int = 200, headers: object = (), **more: object) -> _asgi.Message:
    """Make an `http.response.start`."""
    return {
        "type": "http.response.start",
        "status": status,
        "headers": headers,
        **more,
    }


def body(part: object = b"", **more: object) -> _asgi.Message:
    """Make an `http.response.body`."""
    return {"type": "http.response.body", "body": part, **more}


async def raised_by(awaitable: Awaitable[object]) -> BaseException:
    """Return what an awaitable raises."""
    try:
        await awaitable
    except Exception as exc:
        return exc

    pytest.fail("nothing was raised")


def echo(peer: Peer, call: Message) -> None:
    """Answer with the arguments."""
    peer.reply(call, list(call[3]))


class Peer:
    """The node's end of the pipes, in a thread.

    Args:
        answer: called for each call.
    """

    def __init__(self, answer: Answer = echo) -> None:
        self.answer = answer
        self.packets: list[list[Message]] = []
        """What has come, by packet; without calls."""
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        self.descriptors = (read, write)

        for descriptor in self.descriptors:
            os.set_blocking(descriptor, False)

        self.channel = Channel(read, write)
        self._lock = threading.Lock()
        self._may_read = threading.Event()
        self._may_read.set()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._may_read.set()
        os.close(self.descriptors[1])
        self._thread.join()

        for descriptor in (self.descriptors[0], self._read, self._write):
            os.close(descriptor)

    def send(self, *messages: Message) -> None:
        self.send_bytes(pack_batch([encode_message(message) for message in messages]))

    def send_bytes(self, packet: bytes) -> None:
        with self._lock:
            view = memoryview(packet)

            while view:
                view = view[os.write(self._write, view) :]

    def reply(self, call: Message, value: object) -> None:
        self.send((Atom("reply"), call[1], Atom("ok"), value))

    @property
    def messages(self) -> list[Message]:
        return [message for packet in self.packets for message in packet]

    @contextlib.contextmanager
    def not_reading(self) -> Iterator[None]:
        self._may_read.clear()

        try:
            yield
        finally:
            self._may_read.set()

    def _run(self) -> None:
        splitter = PacketSplitter()

        while self._may_read.wait() and (data := os.read(self._read, 65536)):
            for packet in splitter.feed(data):
                messages: Any = decode_packet(packet)
                self.packets.append([m for m in messages if m[0] != Atom("call")])

                for message in messages:
                    if message[0] == Atom("call"):
                        self.answer(self, message)
