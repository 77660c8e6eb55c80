# SPDX-License-Identifier: Apache-2.0
"""The worker: from the first message of the node to the last one to it."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NoReturn, cast

from hornbeam import _bridge, _process
from hornbeam import _protocol as protocol
from hornbeam._asgi import AsgiApp
from hornbeam._channel import Channel
from hornbeam._etf import CODEC
from hornbeam._http import HttpSession
from hornbeam._leaving import die_of
from hornbeam._lending import Lending
from hornbeam._lifespan import Lifespan, Phase
from hornbeam._loader import LoadError, enter_directory, extend_path, load_app
from hornbeam._loops import current_loop
from hornbeam._protocol import IncomingMessage, LogLevel, ProtocolError
from hornbeam._runtime import (
    LoopUnavailable,
    Runtime,
    Timer,
    Waiter,
    make_runtime,
)
from hornbeam._scope import ScopeFactory
from hornbeam._session import Session
from hornbeam._settings import Settings
from hornbeam._terms import Atom
from hornbeam._watchdog import Watchdog
from hornbeam._websocket import WebSocketSession
from hornbeam._wsgi import WsgiApp, WsgiSession
from hornbeam._wsgi_host import WsgiHost

__all__ = ("main",)

READ_DESCRIPTOR: Final = 3
WRITE_DESCRIPTOR: Final = 4

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 64

HELD_START_S: Final = 0.02
"""How long the head of a response may wait for the first part of the body."""

CANCEL_GRACE_S: Final = 1.0
"""How long cancelled requests may clean up before the lifespan is shut down."""


def main() -> None:
    """Run a worker on the descriptors that the node gave; returns when it is to end."""
    try:
        for descriptor in (READ_DESCRIPTOR, WRITE_DESCRIPTOR):
            _process.prepare_pipe(descriptor)
    except OSError as exc:
        text = f"hornbeam worker: descriptors 3 and 4 are the node's pipes: {exc}\n"
        os.write(2, text.encode())
        _process.leave(EXIT_USAGE)

    _process.set_up()
    channel = Channel(READ_DESCRIPTOR, WRITE_DESCRIPTOR)
    channel.close_in_forks()

    try:
        settings = Settings.parse(channel.receive_first())
    except ProtocolError as exc:
        die_of(exc)

    bridge = _bridge.Bridge(caller=channel, worker_id=settings.worker_id)
    _bridge.install(bridge)

    try:
        if settings.chdir is not None:
            enter_directory(settings.chdir)

        extend_path(settings.pythonpath)
        runtime = make_runtime(settings.loop, settings.threads)
    except LoadError as exc:
        _fail(channel, exc.name, exc.facts)
    except LoopUnavailable as exc:
        facts = {"loop": Atom(exc.loop), "message": exc.message}
        _fail(channel, "loop_unavailable", facts)

    worker = _Worker(channel, runtime, settings, bridge)
    runtime.run(worker.serve)


def _fail(channel: Channel, name: str, facts: Mapping[str, object]) -> NoReturn:
    """Tell the node why there will be no worker, and leave."""
    channel.post(protocol.failed(name, facts))
    channel.flush()
    _process.leave(EXIT_FAILED)


class _Worker:
    """What runs on the event loop: takes the node's messages, holds the requests."""

    app: AsgiApp

    def __init__(
        self,
        channel: Channel,
        runtime: Runtime,
        settings: Settings,
        bridge: _bridge.Bridge,
    ) -> None:
        self.runtime = runtime
        self.window_bytes = settings.window_bytes
        self.post = channel.post
        self.post_part = channel.post_part
        self.pacer = channel.pacer
        self.call_service = channel.call_async
        self.claim = channel.arrivals.claim
        self._has_arrived = channel.arrivals.has
        self._channel = channel
        self._settings = settings
        self._bridge = bridge
        self._watchdog = Watchdog(channel, self)
        self._scopes = ScopeFactory(settings.root_path)
        self._sessions: dict[int, Session | WsgiSession] = {}
        # There if the node can lend sockets.
        self._lending: Lending | None = None
        # There if the application is a WSGI one.
        self._wsgi: WsgiHost | None = None
        # Requests that were cancelled; those in threads may go on for ever.
        self._cancelled: set[int] = set()
        self._lifespan: Lifespan | None = None
        self._is_output_expected = False
        self._held_timer: Timer | None = None
        # Set when the node asks for the end: seconds for running requests. It may ask
        # again, for less.
        self._shutdown_timeout_s: float | None = None
        self._shutdown_asked: Waiter
        # There while somebody waits for the last request to end.
        self._idle: Waiter | None = None
        self._handlers: dict[Atom, Callable[[IncomingMessage], None]] = {
            protocol.BODY: self._handle_body,
            protocol.ACK: self._handle_ack,
            protocol.OPENED: self._handle_opened,
            protocol.REFUSED: self._handle_refused,
            protocol.KEPT: self._handle_kept,
            protocol.DISCONNECT: self._handle_disconnect,
            protocol.CANCEL: self._handle_cancel,
            protocol.PING: self._handle_ping,
            protocol.SHUTDOWN: self._handle_shutdown,
            protocol.PUBLISH: self._handle_publish,
            protocol.DROPPED: self._handle_dropped,
            protocol.WEBSOCKET: self._handle_websocket,
            protocol.MESSAGE: self._handle_message,
            protocol.ENDING: self._handle_ending,
            protocol.CLOSED: self._handle_closed,
        }

    # Life.

    async def serve(self) -> None:
        """Load the application, serve, and shut down when the node says so."""
        self._shutdown_asked = self.runtime.create_waiter()
        self._attach_hooks()
        self._channel.attach(self.runtime, self)

        # With the loop running: applications may create tasks while they are imported.
        try:
            loaded = load_app(self._settings.app, self._settings.worker_class)
        except LoadError as exc:
            _fail(self._channel, exc.name, _as_atoms(exc.facts))

        if loaded.worker_class == "wsgi":
            lifespan = "off"
            self._wsgi = WsgiHost(
                cast("WsgiApp", loaded.call),
                self._settings,
                self._channel.send_all,
                self._forget_from_thread,
                self.claim,
                lambda: self.loans,
            )
        else:
            self.app = cast("AsgiApp", loaded.call)
            lifespan = await self._start_lifespan()

        facts = self._describe(loaded.worker_class, lifespan)
        self._offer_to_borrow(facts)
        _process.settle_collector()
        self.post(protocol.ready(facts))
        self._watchdog.start()
        await self._shutdown_asked.wait()
        await self._end_requests()
        facts = await self._stop_lifespan()

        if self._lending is not None:
            self._lending.close()

        self._bridge.hooks.clear()
        self.post(protocol.stopped(facts))
        # That was the last message: what tasks still say that are left comes too late.
        self.post = self.post_part = _drop
        self._bridge.hooks.attach(_drop)
        self._channel.detach()

    def _attach_hooks(self) -> None:
        hooks, channel = self._bridge.hooks, self._channel
        hooks.attach(channel.send, current_loop(), self._settings.threads)
        channel.take_directly(protocol.INVOKE, hooks.handle_invoke)
        channel.take_directly(protocol.INVOKE_CANCEL, hooks.handle_cancel)
        channel.take_directly(protocol.INVOKE_CREDIT, hooks.handle_credit)

    def _describe(self, worker_class: str, lifespan: str) -> dict[str, object]:
        return {
            "os_pid": os.getpid(),
            "python": platform.python_version(),
            "codec": Atom(CODEC),
            "loop": Atom(self.runtime.name),
            "worker_class": Atom(worker_class),
            "lifespan": Atom(lifespan),
        }

    def _offer_to_borrow(self, facts: dict[str, object]) -> None:
        lending = Lending(self.runtime, self._settings.send_timeout_s, self._take_loan)
        name = lending.listen()

        if name is not None:
            facts["lending"] = name
            self._lending = lending

    def _take_loan(self, request_id: int, client: socket.socket | None) -> None:
        session = self._sessions.get(request_id)

        if isinstance(session, HttpSession | WsgiSession) and session.take_loan(client):
            return

        # The client has gone meanwhile.
        if client is not None and self._lending is not None:
            self._lending.give_back(client)

    async def _start_lifespan(self) -> str:
        mode, timeout_s = self._settings.lifespan, self._settings.lifespan_timeout_s

        if mode == "off":
            return "off"

        lifespan = Lifespan(self.app, self.runtime, self.log)

        if not await lifespan.start(timeout_s):
            assert timeout_s is not None
            timeout_ms = round(timeout_s * 1000)
            _fail(self._channel, "startup_timeout", {"timeout_ms": timeout_ms})

        if lifespan.phase is Phase.FAILED:
            _fail(self._channel, "lifespan_failed", {"message": lifespan.message})

        if lifespan.phase is Phase.UNSUPPORTED:
            if mode == "on":
                facts = {"message": lifespan.message}
                _fail(self._channel, "lifespan_unsupported", facts)

            self.log("info", f"the application has no lifespan: {lifespan.message}")
            return "unsupported"

        self._lifespan = lifespan
        self._scopes.state = lifespan.state
        return "started"

    async def _stop_lifespan(self) -> dict[str, object]:
        if self._lifespan is None:
            return {"lifespan": Atom("off")}

        outcome = await self._lifespan.stop(self._settings.lifespan_timeout_s)
        facts: dict[str, object] = {"lifespan": Atom(outcome)}

        if outcome == "failed":
            facts["message"] = self._lifespan.message

        return facts

    async def _end_requests(self) -> None:
        """Wait for requests, cancel those that take too long."""
        if self._settings.websocket_drain == "close":
            self._let_go_away()

        await self._wait_until_idle(self._shutdown_timeout_s)
        self._let_go_away()

        for session in list(self._sessions.values()):
            session.stop()

        self._cancelled.clear()
        await self._wait_until_idle(CANCEL_GRACE_S)

    def _let_go_away(self) -> None:
        for session in list(self._sessions.values()):
            session.go_away()

    def list_begun(self) -> list[tuple[int, Session | WsgiSession]]:
        """Return the requests whose application runs; from any thread."""
        # As in Arrivals.take_back().
        found = [(key, self._sessions.get(key)) for key in list(self._sessions)]
        return [(key, one) for key, one in found if one is not None and one.has_begun]

    def _is_idle(self) -> bool:
        """Tell whether nobody waits for a request; its client has gone if cancelled."""
        return self._cancelled.issuperset(list(self._sessions))

    async def _wait_until_idle(self, timeout_s: float | None) -> None:
        if self._is_idle():
            return

        self._idle = self.runtime.create_waiter()
        timer = None

        # Once more: a thread that ends the last one meanwhile did not see the waiter.
        if self._is_idle():
            return

        if timeout_s is not None:
            timer = self.runtime.call_later(timeout_s, self._idle.set)

        await self._idle.wait()

        if timer is not None:
            timer.cancel()

    # For the channel.

    def handle(self, message: IncomingMessage) -> None:
        """Take one message of the node.

        Raises:
            ProtocolError: the node may not send it.
        """
        head = message[0]

        if head is protocol.REQUEST:
            self._handle_request(message)
            return

        protocol.check_message(message)
        handler = self._handlers.get(head)  # type: ignore[call-overload]  # an Atom

        if handler is None:
            raise ProtocolError("unexpected message", repr(message))

        handler(message)

    def is_output_expected(self) -> bool:
        """Say whether tasks were started that run in the next turn."""
        expected, self._is_output_expected = self._is_output_expected, False
        return expected

    # For the sessions.

    @property
    def loans(self) -> Lending | None:
        """What large bodies are sent by; None: the node lends no sockets."""
        lending = self._lending
        return lending if lending is not None and lending.is_open else None

    def log(self, level: LogLevel, text: str, request_id: int | None = None) -> None:
        """Write to the node's log."""
        self.post(protocol.log(level, text, request_id))

    def note_held_start(self) -> None:
        """Have heads that wait for their bodies go out alone soon.

        One timer for all of them: most have gone with their bodies when it fires.
        """
        if self._held_timer is None:
            self._held_timer = self.runtime.call_later(
                HELD_START_S, self._send_held_starts
            )

    def _send_held_starts(self) -> None:
        self._held_timer = None

        for session in list(self._sessions.values()):
            session.send_held_start()

    def forget(self, request_id: int) -> None:
        """Take note that a request is over."""
        del self._sessions[request_id]

        if self._idle is not None and self._is_idle():
            self._idle.set()

    def forget_returned(self, request_ids: Iterable[int]) -> None:
        """Take note that these were given back; from any thread.

        Those of ASGI leave in their tasks, which begin as soon as the loop comes round;
        those of WSGI may wait for a thread for ever.
        """
        if self._wsgi is not None:
            for request_id in request_ids:
                self._forget_from_thread(request_id)

    def _forget_from_thread(self, request_id: int) -> None:
        # One that was given back: it is forgotten then, and once more where the loop
        # was just about to add it, when a thread takes it.
        self._sessions.pop(request_id, None)
        idle = self._idle

        if idle is not None and self._is_idle():
            self.runtime.call_soon_threadsafe(idle.set)

    # Messages of the node. Late ones, for requests that are over, are dropped.

    def _handle_request(self, message: IncomingMessage) -> None:
        # By hand and not by check_message(): it is once per request.
        if len(message) != 5:
            protocol.check_message(message)

        _, request_id, fields, body, more = message

        if (
            type(request_id) is not int
            or type(body) is not bytes
            or type(more) is not bool
        ):
            protocol.check_message(message)
            raise AssertionError("check_message() takes what is not of these types")

        if not self._has_arrived(request_id):
            # Another worker has it: see Watchdog.
            return

        if self._wsgi is not None:
            thread = self._wsgi.make_session(request_id, fields, body, more)
            self._sessions[request_id] = thread
            thread.start()
            return

        scope = self._scopes.make(fields)
        session = HttpSession(self, request_id, scope, body, more)
        self._sessions[request_id] = session

        if more and self.runtime.is_eager:
            # Its body may be in the same packet: an application that begins before it
            # is looked at would have the node told that it waits.
            self.runtime.call_soon(session.start)
            self._is_output_expected = True
            return

        session.start()
        self._is_output_expected = not self.runtime.is_eager

    def _handle_body(self, message: IncomingMessage) -> None:
        _, request_id, part, more = cast("tuple[Atom, int, bytes, bool]", message)
        session = self._sessions.get(request_id)

        if isinstance(session, HttpSession | WsgiSession):
            session.add_body(part, more)
        elif session is not None:
            raise ProtocolError("a body for a WebSocket", repr(message))

    def _handle_websocket(self, message: IncomingMessage) -> None:
        _, request_id, fields, subprotocols = cast(
            "tuple[Atom, int, object, list[bytes]]", message
        )

        if not self._has_arrived(request_id):
            return

        scope = self._scopes.make_websocket(fields, subprotocols)
        session = WebSocketSession(self, request_id, scope)
        self._sessions[request_id] = session
        session.start()
        self._is_output_expected = True

    def _handle_message(self, message: IncomingMessage) -> None:
        _, request_id, kind, payload = cast("tuple[Atom, int, Atom, bytes]", message)
        session = self._find_websocket(message)

        if session is not None:
            session.add_message(kind, payload)
            # Who waits in receive() answers in the next turn.
            self._is_output_expected = True

    def _handle_ending(self, message: IncomingMessage) -> None:
        _, _, code, reason = cast("tuple[Atom, int, int, bytes]", message)
        session = self._find_websocket(message)

        if session is not None:
            session.end(code, reason)
            self._is_output_expected = True

    def _handle_closed(self, message: IncomingMessage) -> None:
        _, _, code, reason = cast("tuple[Atom, int, int, bytes]", message)
        session = self._find_websocket(message)

        if session is not None:
            session.close(code, reason)

    def _find_websocket(self, message: IncomingMessage) -> WebSocketSession | None:
        session = self._sessions.get(cast(int, message[1]))

        if session is None or isinstance(session, WebSocketSession):
            return session

        raise ProtocolError("a message of a WebSocket for a request", repr(message))

    def _handle_ack(self, message: IncomingMessage) -> None:
        _, request_id, sent_bytes = cast("tuple[Atom, int, int]", message)
        session = self._sessions.get(request_id)

        if session is not None:
            session.acknowledge(sent_bytes)

    def _handle_opened(self, message: IncomingMessage) -> None:
        session = self._sessions.get(cast("tuple[Atom, int]", message)[1])

        if session is not None:
            session.handle_opened()

    def _handle_refused(self, message: IncomingMessage) -> None:
        _, request_id, reason, size = cast("tuple[Atom, int, Atom, int]", message)
        session = self._sessions.get(request_id)

        if session is not None:
            session.handle_refused(reason.name, size)

    def _handle_kept(self, message: IncomingMessage) -> None:
        session = self._sessions.get(cast("tuple[Atom, int]", message)[1])

        if isinstance(session, HttpSession | WsgiSession):
            session.handle_kept()

    def _handle_disconnect(self, message: IncomingMessage) -> None:
        session = self._sessions.get(cast("tuple[Atom, int]", message)[1])

        if session is not None:
            session.disconnect()

    def _handle_cancel(self, message: IncomingMessage) -> None:
        _, request_id = cast("tuple[Atom, int]", message)
        session = self._sessions.get(request_id)

        if session is None:
            return

        session.cancel()

        if isinstance(session, WsgiSession):
            self._cancelled.add(request_id)

            if self._idle is not None and self._is_idle():
                self._idle.set()

    def _handle_ping(self, message: IncomingMessage) -> None:
        self.post(protocol.pong(cast("tuple[Atom, int]", message)[1]))

    def _handle_publish(self, message: IncomingMessage) -> None:
        _, topic, encoded = cast("tuple[Atom, bytes, bytes]", message)
        self._bridge.hub.deliver(topic.decode("utf-8", "replace"), encoded)

    def _handle_dropped(self, message: IncomingMessage) -> None:
        self._bridge.hub.count_dropped(cast("tuple[Atom, int]", message)[1])

    def _handle_shutdown(self, message: IncomingMessage) -> None:
        timeout_s = protocol.parse_timeout_ms(message[1])

        self._shutdown_timeout_s = timeout_s
        self._shutdown_asked.set()

        if self._idle is not None and timeout_s is not None:
            self.runtime.call_later(timeout_s, self._idle.set)


def _drop(encoded: bytes) -> None:
    pass


def _as_atoms(facts: Mapping[str, str]) -> dict[str, object]:
    """Facts of a failed load, all of which are text but the worker's class."""
    return {
        name: Atom(fact) if name == "worker_class" else fact
        for name, fact in facts.items()
    }
