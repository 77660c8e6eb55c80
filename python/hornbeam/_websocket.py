# SPDX-License-Identifier: Apache-2.0
"""One WebSocket: ASGI on one side, messages of the protocol on the other.

It goes through these stages; `_stage` says what the application may send next:

    CONNECTING  websocket.accept; websocket.close, which is 403; or a denial
    OPEN        websocket.send, websocket.close, attachments to topics
    DENIED      the parts of the denial's body: the base class has its phases
    CLOSED      nothing: sends raise ClientDisconnected, as a socket does

A session that the client ends stays OPEN to the application, which is told by receive()
and by the OSError of its next send().

Flow control, to the client. Messages are never cut. One that does not fit the window
waits, and others behind it; each is sent by its own task, so that a send() which is
cancelled has sent nothing, and one that returns has. So does a large one for which this
turn of the event loop has no room, see `_pacer`. From the client: the application pays
for each message that it takes.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from hornbeam import _protocol as protocol
from hornbeam import _websocket_messages as messages
from hornbeam._asgi import (
    AsgiOrderError,
    ClientDisconnected,
    Message,
    Scope,
    message_type,
)
from hornbeam._bridge import CallFailed
from hornbeam._errors import RemoteError
from hornbeam._protocol import ProtocolError
from hornbeam._runtime import Waiter
from hornbeam._session import UNAVAILABLE, Session, SessionHost
from hornbeam._terms import Atom

__all__ = (
    "MIN_MESSAGE_BYTES",
    "PACED_MESSAGE_BYTES",
    "WebSocketHost",
    "WebSocketSession",
)

MIN_MESSAGE_BYTES: Final = 64
"""What a message counts for at least in a window: an empty one costs memory too."""

PACED_MESSAGE_BYTES: Final = 8192
"""Smaller ones wait for no turn: to wake a task for each takes longer than to send it.

Twice what it is of bodies, whose parts wait without their tasks.
"""

_GONE: Final = 1006
_NORMAL: Final = 1000
_FAILED: Final = 1011
_RESTART: Final = 1012

_ATTACH: Final = Atom("attach")
_DETACH: Final = Atom("detach")


class WebSocketHost(SessionHost, Protocol):
    """What the sessions of one worker share."""

    async def call_service(self, function: Atom, args: tuple[object, ...]) -> object:
        """Call the node.

        Raises:
            CallFailed: the node answered with an error.
        """


class _Stage(enum.Enum):
    """The stages; their values are what the application may do in them, in words."""

    CONNECTING = (
        "'websocket.accept', 'websocket.close' or 'websocket.http.response.start'"
    )
    OPEN = "'websocket.send' or 'websocket.close'"
    DENIED = "a part of the denial"
    CLOSED = "nothing more, the WebSocket is closed"


_CONNECTING: Final = _Stage.CONNECTING
_OPEN: Final = _Stage.OPEN
_DENIED: Final = _Stage.DENIED
_CLOSED: Final = _Stage.CLOSED


# Parts of a denial, and the stage in which they may come.
_DENIALS: Final = {
    "websocket.http.response.start": _CONNECTING,
    "websocket.http.response.body": _DENIED,
}


class _Sender:
    """A message that waits for room."""

    __slots__ = ("is_woken", "size_bytes", "waiter")

    def __init__(self, size_bytes: int, waiter: Waiter) -> None:
        self.size_bytes = size_bytes
        self.waiter = waiter
        self.is_woken = False


class WebSocketSession(Session):
    """One WebSocket of one application.

    Args:
        host: what it shares with others.
        request_id: the node's number for it.
        scope: its ASGI scope.
    """

    __slots__ = (
        "_end",
        "_inbox",
        "_is_connect_given",
        "_is_ending",
        "_is_leaving",
        "_senders",
        "_stage",
        "_subprotocols",
        "_websocket_host",
    )

    def __init__(self, host: WebSocketHost, request_id: int, scope: Scope) -> None:
        self._begin(host, request_id, scope, b"", True)
        self._websocket_host = host
        self._stage = _CONNECTING
        self._subprotocols = tuple(scope["subprotocols"])
        self._is_connect_given = False
        # The worker is to end.
        self._is_leaving = False
        # What came before a fault of the client may be answered.
        self._is_ending = False
        # Code and reason of websocket.disconnect, once there is one to be given.
        self._end: tuple[int, str] | None = None
        # What the client has sent and the application has not taken: text or bytes, and
        # its size in the window. A list: an empty deque takes 600 bytes.
        self._inbox: list[tuple[str | bytes, int]] = []
        self._senders: deque[_Sender] | None = None
        scope["extensions"]["hornbeam.topics"]["send"] = self.send_raw

    # What the node says.

    def add_message(self, kind: object, data: bytes) -> None:
        """Take a message of the client.

        Raises:
            ProtocolError: it is neither text nor binary, or text that is no UTF-8.
        """
        payload: str | bytes = data

        if kind is protocol.TEXT:
            try:
                payload = data.decode()
            except UnicodeDecodeError as exc:
                raise ProtocolError(f"a text message: {exc}", data) from exc
        elif kind is not protocol.BINARY:
            raise ProtocolError("a message is text or binary", repr(kind))

        self._inbox.append((payload, max(len(data), MIN_MESSAGE_BYTES)))
        self._wake_receivers()

    def end(self, code: int, reason: bytes) -> None:
        """Note that the session is over for a fault of the client.

        What came before it may be answered: the application can send until it takes
        the end, of which the node then is told.
        """
        if self._end is None:
            self._end = (code, reason.decode("utf-8", "replace"))
            self._is_ending = True
            self._wake_receivers()

    def close(self, code: int, reason: bytes) -> None:
        """Note that the session is over."""
        self._finish(code, reason.decode("utf-8", "replace"))

    def disconnect(self) -> None:
        """Note that the client has gone before the handshake was complete."""
        self._finish(_GONE, "")

    def acknowledge(self, sent_bytes: int) -> None:
        """Note that the client has taken that much."""
        super().acknowledge(sent_bytes)

        if self._senders:
            self._wake_sender()

    def go_away(self) -> None:
        """Close the session, as the worker is to end; its application is told so."""
        self._is_leaving = True

        if self._stage is _OPEN and not self._is_gone:
            self._host.post(protocol.close(self._request_id, _RESTART, b""))
            self._finish(_RESTART, "")

    def _finish(self, code: int, reason: str) -> None:
        if self._end is None:
            self._end = (code, reason)

        # Wakes a denial's send() and all who wait in receive().
        super().disconnect()
        self._fail_senders()

    # For the base.

    @property
    def _is_complete(self) -> bool:
        if self._stage is _DENIED:
            return super()._is_complete

        return self._stage is _CLOSED

    @property
    def _expected(self) -> str:
        if self._stage is _DENIED:
            return str(super()._expected).replace("'http.", "'websocket.http.")

        return str(self._stage.value)

    @property
    def _where(self) -> str:
        return f"WebSocket {self._scope.get('path')}"

    @property
    def _progress(self) -> str:
        match self._stage:
            case _Stage.CONNECTING:
                return "before it accepted the WebSocket"
            case _Stage.OPEN:
                return "on an open WebSocket"
            case _Stage.DENIED:
                return "while it denied the WebSocket"
            case _Stage.CLOSED:
                return "after the WebSocket was closed"

    def _handle_error(self, error: BaseException) -> None:
        if self._stage is _CLOSED:
            # What raised may be a send() after the close, of another task.
            self._is_gone = True

        super()._handle_error(error)

    def _handle_return(self) -> None:
        if self._stage is _OPEN:
            self._close(_RESTART if self._is_stopping else _NORMAL)
        else:
            super()._handle_return()

    def _conclude(self, answer: tuple[int, bytes]) -> None:
        if self._stage is _OPEN:
            self._close(_RESTART if answer == UNAVAILABLE else _FAILED)
        elif self._stage is not _CLOSED:
            super()._conclude(answer)

    def _on_complete(self) -> None:
        # The denial's, or of an answer in its place.
        self._finish(_GONE, "")

    async def run(self) -> None:
        """Call the application; never raises."""
        await super().run()
        # Its extension holds this session.
        self._scope = {}
        self._stage = _CLOSED
        # Of this id nothing comes any more, for which another task may wait.
        self._finish(_GONE, "")

    # receive()

    def _receive_nowait(self) -> Message | None:
        if not self._is_connect_given:
            self._is_connect_given = True
            return {"type": "websocket.connect"}

        if self._inbox:
            payload, size_bytes = self._inbox.pop(0)
            self._pay(size_bytes)
            # One key, as of uvicorn: some frameworks look whether it is there.
            key = "text" if type(payload) is str else "bytes"
            return {"type": "websocket.receive", key: payload}

        if self._end is not None:
            code, reason = self._end

            if self._is_ending:
                self._end_answers(code)

            return {"type": "websocket.disconnect", "code": code, "reason": reason}

        return None

    def _end_answers(self, code: int) -> None:
        self._is_ending = False

        if self._stage is _OPEN and not self._is_gone:
            self._host.post(protocol.close(self._request_id, code, b""))
            self._finish(code, "")

    def _pay(self, size_bytes: int) -> None:
        self._credit_due_bytes += size_bytes

        if self._credit_due_bytes * 4 >= self._host.window_bytes and not self._is_gone:
            self._host.post(protocol.credit(self._request_id, self._credit_due_bytes))
            self._credit_due_bytes = 0

    # send()

    async def send(self, message: Message) -> None:
        """Take a message of the application.

        Raises:
            AsgiOrderError: ASGI does not allow it now.
            ClientDisconnected: the session is over.
            TypeError, ValueError: something in it is not what ASGI or HTTP want.
            RemoteError: an attachment to a topic failed.
        """
        kind = message.get("type") if type(message) is dict else message_type(message)

        if kind == "websocket.send":
            self._check_open(kind)
            opcode, data = messages.parse_send(message)
            size_bytes = max(len(data), MIN_MESSAGE_BYTES)

            if size_bytes >= PACED_MESSAGE_BYTES:
                await self._send_large(opcode, data)
                return

            if self._senders or not self._has_room(size_bytes):
                await self._wait_for_room(size_bytes)

            self._unacknowledged_bytes += size_bytes
            self._host.post(protocol.message(self._request_id, opcode, data))

            if self._senders:
                self._wake_sender()

        else:
            await self._send_rest(message_type(message), message)

    async def _send_large(self, opcode: Atom, data: bytes) -> None:
        """Send a message that has its turn, so that those of others come in between."""
        size_bytes = len(data)

        if self._senders or not self._has_room(size_bytes) or not self._has_turn():
            await self._wait_for_room(size_bytes)
            # Of the turn it has its share already; it is counted with what is posted.
            self._host.pacer.left_bytes += size_bytes

        self._unacknowledged_bytes += size_bytes
        self._host.post_part(protocol.message(self._request_id, opcode, data))
        self._wake_sender()

    async def _send_rest(self, kind: str, message: Message) -> None:
        if kind in (messages.ATTACH, messages.DETACH):
            await self._call_topics(kind, message)
        elif kind.startswith("websocket.http.response."):
            await self._deny(kind, message)
        else:
            self._send_event(kind, message)

    async def send_raw(self, message: Message) -> Any:
        """As `send`; of an attachment's end returns whether there was one.

        Frameworks refuse types of messages that they don't know, so this is in the
        scope.
        """
        kind = message_type(message)

        if kind in (messages.ATTACH, messages.DETACH):
            return await self._call_topics(kind, message)

        return await self.send(message)

    def _check_open(self, kind: str) -> None:
        if self._stage is not _OPEN and self._stage is not _CLOSED:
            raise AsgiOrderError(self._expected, repr(kind))

        self._check_not_over()

    def _check_not_over(self) -> None:
        if self._is_gone:
            raise ClientDisconnected("the WebSocket is closed, the client has gone")

        if self._stage is _CLOSED:
            raise ClientDisconnected("the WebSocket is closed")

    def _send_event(self, kind: str, message: Message) -> None:
        act = _EVENTS.get((self._stage, kind))

        if act is None:
            # Before the order: whoever sends after the end may not know of it.
            if self._stage is _CLOSED:
                self._check_not_over()

            raise AsgiOrderError(self._expected, repr(kind))

        self._check_not_over()
        act(self, message)

    def _accept(self, message: Message) -> None:
        subprotocol, headers = messages.parse_accept(message, self._subprotocols)
        self._stage = _OPEN
        self._host.post(protocol.accept(self._request_id, subprotocol, headers))

        if self._is_leaving:
            self.go_away()

    def _refuse(self, message: Message) -> None:
        # Code and reason reach nobody, and FastAPI gives a list for the reason.
        self._stage = _CLOSED
        self._host.post(protocol.response(self._request_id, 403, [], b""))
        self._finish(_GONE, "")

    def _end_well(self, message: Message) -> None:
        self._close(*messages.parse_close(message))

    def _close(self, code: int, reason: bytes = b"") -> None:
        """Begin the close handshake; `closed` tells of its end."""
        self._stage = _CLOSED

        if not self._is_gone:
            self._host.post(protocol.close(self._request_id, code, reason))

        self._fail_senders()

    async def _deny(self, kind: str, message: Message) -> None:
        if self._stage is _CLOSED:
            self._check_not_over()

        if _DENIALS.get(kind) is not self._stage:
            raise AsgiOrderError(self._expected, repr(kind))

        response = messages.as_response(kind, message)

        try:
            await super().send(response)
        except AsgiOrderError:
            raise AsgiOrderError(self._expected, repr(kind)) from None

        self._stage = _DENIED

    # Flow control of send().

    def _has_room(self, size_bytes: int) -> bool:
        """Tell whether a message may go out.

        The node may owe acknowledgements for up to a quarter of the window, so what is
        under way can stay at that for ever; then a message of any size may go.
        """
        under_way_bytes = self._unacknowledged_bytes
        window_bytes = self._host.window_bytes
        return (
            under_way_bytes + size_bytes <= window_bytes
            or under_way_bytes * 4 < window_bytes
        )

    async def _wait_for_room(self, size_bytes: int) -> None:
        if self._senders is None:
            self._senders = deque()

        senders = self._senders
        sender = _Sender(size_bytes, self._host.runtime.create_waiter())
        senders.append(sender)
        # It may be the turn alone for which it waits.
        self._wake_sender()

        try:
            await sender.waiter.wait()
        except BaseException:
            senders.remove(sender)
            self._wake_sender()
            raise

        senders.remove(sender)
        self._check_not_over()

    def send_pending(self) -> None:
        """Go on in a further turn, with messages or with the body of a denial."""
        if self._stage is _DENIED:
            super().send_pending()
        else:
            self._wake_sender()

    def _wake_sender(self) -> None:
        """Let the first of those who wait send, if there is room for its message."""
        if not self._senders:
            return

        sender = self._senders[0]

        if sender.is_woken or not self._has_room(sender.size_bytes):
            return

        if sender.size_bytes >= PACED_MESSAGE_BYTES:
            if not self._has_turn():
                self._host.pacer.wait(self)
                return

            # Others ask before it has sent.
            self._host.pacer.left_bytes -= sender.size_bytes

        sender.is_woken = True
        sender.waiter.set()

    def _fail_senders(self) -> None:
        for sender in self._senders or ():
            sender.waiter.set()

    # Topics.

    async def _call_topics(self, kind: str, message: Message) -> object:
        self._check_open(kind)
        args: tuple[object, ...]

        if kind == messages.ATTACH:
            function, args = _ATTACH, messages.parse_attach(message)
        else:
            function, args = _DETACH, (messages.parse_detach(message),)

        try:
            return await self._websocket_host.call_service(
                function, (self._request_id, *args)
            )
        except CallFailed as exc:
            raise _translate(function, exc) from None


def _translate(function: Atom, failure: CallFailed) -> Exception:
    if failure.name == "not_open":
        return ClientDisconnected("the WebSocket is closed, the client has gone")

    return RemoteError(function.name, failure.name)


_EVENTS: Final[
    dict[tuple[_Stage, str], Callable[[WebSocketSession, Message], None]]
] = {
    (_CONNECTING, "websocket.accept"): WebSocketSession._accept,
    (_CONNECTING, "websocket.close"): WebSocketSession._refuse,
    (_OPEN, "websocket.close"): WebSocketSession._end_well,
}
