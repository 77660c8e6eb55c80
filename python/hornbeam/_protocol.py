# SPDX-License-Identifier: Apache-2.0
"""The messages between the node and this worker, and how packets are cut from a stream.

Pure: no descriptors, no loop. `docs/protocol.md` explains each message; the Erlang twin
of this module is `hornbeam_protocol.erl`.

What goes out is made by one function a message and comes back as the encoded message,
to be put into a batch. What comes in is a tuple headed by one of the atoms below;
`check_message` says whether its form is one of those that the node may send.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias

from hornbeam._etf import decode_packet, encode_message
from hornbeam._terms import Atom, DecodeError

__all__ = (
    "MAX_PACKET_BYTES",
    "PacketSplitter",
    "ProtocolError",
    "check_message",
    "parse_packet",
)

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
IncomingMessage: TypeAlias = tuple[object, ...]
LogLevel: TypeAlias = Literal["error", "warning", "info", "debug"]

MAX_PACKET_BYTES: Final = 256 * 1024 * 1024
"""Longest packet that is taken from the node; windows keep real ones far below."""

READ_BYTES: Final = 65536
"""How much of the pipe is read at once."""

MAX_READ_BYTES: Final = 262144
"""The same where a packet has begun that is longer."""

VIEWED_BYTES: Final = 16384
"""Of a part of what was read: from there on it is not copied, but looked at."""

NODE_READ_BYTES: Final = 65536
"""How much the node reads of the pipe at once."""

_PIECE_BYTES: Final = NODE_READ_BYTES - 512
"""A part of a body that is one such read, with what is around it in its packet.

That is little, but for the headers of a first part: also theirs are, usually.
"""

SHOWN_BYTES: Final = 64
"""How much of a packet that makes no sense is shown."""

_LENGTH_BYTES: Final = 4
_unpack_length: Final = struct.Struct(">I").unpack_from

# Heads of the node's messages.
CONFIGURE: Final = Atom("configure")
REQUEST: Final = Atom("request")
BODY: Final = Atom("body")
ACK: Final = Atom("ack")
OPENED: Final = Atom("opened")
REFUSED: Final = Atom("refused")
KEPT: Final = Atom("kept")
DISCONNECT: Final = Atom("disconnect")
CANCEL: Final = Atom("cancel")
REPLY: Final = Atom("reply")
PING: Final = Atom("ping")
REVOKE: Final = Atom("revoke")
INSPECT: Final = Atom("inspect")
SHUTDOWN: Final = Atom("shutdown")
PUBLISH: Final = Atom("publish")
DROPPED: Final = Atom("dropped")
INVOKE: Final = Atom("invoke")
INVOKE_CANCEL: Final = Atom("invoke_cancel")
INVOKE_CREDIT: Final = Atom("invoke_credit")
ITEM: Final = Atom("item")
STREAM_END: Final = Atom("stream_end")
STREAM_ERROR: Final = Atom("stream_error")
WEBSOCKET: Final = Atom("websocket")
MESSAGE: Final = Atom("message")
ENDING: Final = Atom("ending")
CLOSED: Final = Atom("closed")

# Kinds of WebSocket messages.
TEXT: Final = Atom("text")
BINARY: Final = Atom("binary")

OK: Final = Atom("ok")
ERROR: Final = Atom("error")
INFINITY: Final = Atom("infinity")

# Heads of the worker's messages.
_READY: Final = Atom("ready")
_FAILED: Final = Atom("failed")
_STOPPED: Final = Atom("stopped")
_PONG: Final = Atom("pong")
_LOG: Final = Atom("log")
_RESPONSE: Final = Atom("response")
_START: Final = Atom("start")
_DATA: Final = Atom("data")
_LAST: Final = Atom("last")
_FILE: Final = Atom("file")
_TRAILERS: Final = Atom("trailers")
_INFORM: Final = Atom("inform")
_ABORT: Final = Atom("abort")
_BORROW: Final = Atom("borrow")
_WRITTEN: Final = Atom("written")
_CREDIT: Final = Atom("credit")
_WAITING: Final = Atom("waiting")
_DONE: Final = Atom("done")
_RETURNED: Final = Atom("returned")
_BLOCKED: Final = Atom("blocked")
_ACCEPT: Final = Atom("accept")
_CLOSE: Final = Atom("close")
_CALL: Final = Atom("call")
_CAST: Final = Atom("cast")
_RESULT: Final = Atom("result")
_PRODUCE: Final = Atom("produce")

_REQUEST_ID: Final = Atom("request_id")

# The form of each message of the node: types of what follows its head.
_FORMS: Final[Mapping[Atom, tuple[type | tuple[type, ...], ...]]] = {
    CONFIGURE: (dict,),
    REQUEST: (int, tuple, bytes, bool),
    BODY: (int, bytes, bool),
    ACK: (int, int),
    OPENED: (int,),
    REFUSED: (int, Atom, int),
    KEPT: (int,),
    DISCONNECT: (int,),
    CANCEL: (int,),
    REPLY: (int, Atom, object),
    PING: (int,),
    REVOKE: (),
    INSPECT: (),
    SHUTDOWN: ((int, Atom),),
    PUBLISH: (bytes, bytes),
    DROPPED: (int,),
    INVOKE: (int, bytes, (bytes, type(None)), bytes, bytes, Atom),
    INVOKE_CANCEL: (int,),
    INVOKE_CREDIT: (int, int),
    ITEM: (int, bytes),
    STREAM_END: (int,),
    STREAM_ERROR: (int, tuple),
    WEBSOCKET: (int, tuple, list),
    MESSAGE: (int, Atom, bytes),
    ENDING: (int, int, bytes),
    CLOSED: (int, int, bytes),
}


class ProtocolError(Exception):
    """The node sent what this worker can't understand.

    Args:
        reason: what is wrong.
        first_bytes: the beginning of the packet, or of the message as text.
    """

    reason: str
    first_bytes: bytes | str

    def __init__(self, reason: str, first_bytes: bytes | str) -> None:
        super().__init__(reason, first_bytes)
        self.reason = reason
        self.first_bytes = first_bytes[:SHOWN_BYTES]

    def __str__(self) -> str:
        return f"{self.reason}; it begins with {self.first_bytes!r}"


# Incoming.


class PacketSplitter:
    """Cuts the byte stream of the node into packets."""

    __slots__ = ("_held", "_held_bytes", "_wanted_bytes", "read_bytes")

    read_bytes: int
    """How much to read next: more than usual where a long packet has begun."""

    def __init__(self) -> None:
        # The beginning of a packet, as it came.
        self._held: list[bytes | memoryview] = []
        self._held_bytes = 0
        # No packet is complete before that much is held.
        self._wanted_bytes = _LENGTH_BYTES
        self.read_bytes = READ_BYTES

    def feed(self, data: bytes) -> list[bytes | memoryview]:
        """Take what was read; return the packets that are complete, without lengths.

        A large one is a view of what was read: decoding it copies what it consists of.

        Raises:
            ProtocolError: a length is above `MAX_PACKET_BYTES`.
        """
        packets: list[bytes | memoryview] = []
        begin = 0

        if self._held:
            missing = self._wanted_bytes - self._held_bytes

            if len(data) < missing:
                self._hold(data)
                return packets

            if self._wanted_bytes == _LENGTH_BYTES:
                data = b"".join((*self._held, data))
            else:
                # Nothing but this packet is copied once more.
                rest = memoryview(data)[:missing]
                packets.append(_cut(b"".join((*self._held, rest)), _LENGTH_BYTES))
                begin = missing

            self._held = []
            self.read_bytes = READ_BYTES

        size = len(data)

        while size - begin >= _LENGTH_BYTES:
            start = begin + _LENGTH_BYTES
            end = start + _unpack_length(data, begin)[0]

            if end > size:
                break

            packets.append(_cut(data, start, end))
            begin = end

        if begin < size:
            self._begin(_cut(data, begin))

        return packets

    def _begin(self, first: bytes | memoryview) -> None:
        """Hold what is the beginning of a packet."""
        self._held_bytes = 0
        self._wanted_bytes = _LENGTH_BYTES

        if len(first) >= _LENGTH_BYTES:
            length = _unpack_length(first)[0]

            if length > MAX_PACKET_BYTES:
                reason = (
                    f"a packet of {length} bytes is announced, "
                    f"at most {MAX_PACKET_BYTES} are taken"
                )
                raise ProtocolError(reason, bytes(first[:SHOWN_BYTES]))

            self._wanted_bytes += length

        self._hold(first)

    def _hold(self, data: bytes | memoryview) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        is_long = self._wanted_bytes - self._held_bytes >= VIEWED_BYTES
        self.read_bytes = MAX_READ_BYTES if is_long else READ_BYTES


def _cut(data: bytes, begin: int, end: int | None = None) -> bytes | memoryview:
    """Return a part of what was read: a copy, or a view where that is cheaper."""
    size = (len(data) if end is None else end) - begin

    if size < VIEWED_BYTES:
        return data[begin:end]

    return memoryview(data)[begin:end]


def piece_bytes(rest_bytes: int, room_bytes: int) -> int:
    """Return how much of the rest of a body to send, where there is so much room.

    Less than that where it has to be cut anyway, and the node would read once more for
    the last few bytes of the packet.
    """
    if rest_bytes <= room_bytes:
        return rest_bytes

    return _PIECE_BYTES if _PIECE_BYTES < room_bytes <= NODE_READ_BYTES else room_bytes


def parse_packet(packet: bytes | memoryview) -> list[IncomingMessage]:
    """Decode a packet to its messages; their forms are not checked yet.

    Raises:
        ProtocolError: it is no list of tuples that are headed by an atom.
    """
    try:
        messages = decode_packet(packet)
    except DecodeError as exc:
        first_bytes = bytes(packet[:SHOWN_BYTES])
        raise ProtocolError(f"undecodable packet: {exc}", first_bytes) from exc

    for message in messages:
        if type(message) is not tuple or not message or type(message[0]) is not Atom:
            raise ProtocolError("a message is a tuple headed by an atom", repr(message))

    return messages  # type: ignore[return-value]  # just checked, element by element


def check_message(message: IncomingMessage) -> None:
    """Check that the node may send a message of this form.

    Raises:
        ProtocolError: it may not.
    """
    head, *fields = message
    form = _FORMS.get(head)  # type: ignore[call-overload]  # parse_packet checked it

    if form is None:
        raise ProtocolError("unknown message", repr(message))

    if len(fields) != len(form):
        raise ProtocolError(
            f"{head} takes {len(form)} fields, not {len(fields)}", repr(message)
        )

    for field, kind in zip(fields, form, strict=True):
        # A bool is an int in Python, but not in Erlang.
        if not isinstance(field, kind) or (kind is int and type(field) is bool):
            raise ProtocolError(f"a field of {head} has a wrong type", repr(message))


def parse_timeout_ms(timeout: object) -> float | None:
    """Return milliseconds as seconds; None for `infinity`.

    Raises:
        ProtocolError: it is neither a number of milliseconds nor `infinity`.
    """
    if timeout == INFINITY:
        return None

    if type(timeout) is int and timeout >= 0:
        return timeout / 1000

    raise ProtocolError("a timeout is milliseconds or infinity", repr(timeout))


# Outgoing, life of the worker.


def ready(facts: Mapping[str, object]) -> bytes:
    return encode_message((_READY, _encodable(facts)))


def failed(name: str, facts: Mapping[str, object]) -> bytes:
    return encode_message((_FAILED, Atom(name), _encodable(facts)))


def stopped(facts: Mapping[str, object]) -> bytes:
    return encode_message((_STOPPED, _encodable(facts)))


def pong(number: int) -> bytes:
    return encode_message((_PONG, number))


def log(level: LogLevel, text: str, request_id: int | None = None) -> bytes:
    report: dict[Atom, object] = {MESSAGE: encode_text(text)}

    if request_id is not None:
        report[_REQUEST_ID] = request_id

    return encode_message((_LOG, Atom(level), report))


def blocked(location: str, stack: str, begun: Sequence[tuple[int, str]]) -> bytes:
    """Encode where the event loop is, and what requests are under way."""
    requests = [(request_id, encode_text(where)) for request_id, where in begun]
    facts = {"location": location, "stack": stack, "requests": requests}
    return encode_message((_BLOCKED, _encodable(facts)))


def _encodable(facts: Mapping[str, object]) -> dict[Atom, object]:
    """Turn keys into atoms and text into binaries."""
    return {
        Atom(name): encode_text(fact) if isinstance(fact, str) else fact
        for name, fact in facts.items()
    }


def encode_text(text: str) -> bytes:
    # Of file names and exceptions: lone surrogates.
    return text.encode("utf-8", "backslashreplace")


# Outgoing, HTTP.


def response(request_id: int, status: int, headers: Headers, body: bytes) -> bytes:
    return encode_message((_RESPONSE, request_id, status, headers, body))


def start(
    request_id: int, status: int, headers: Headers, body: bytes | memoryview
) -> bytes:
    return encode_message((_START, request_id, status, headers, body))


def data(request_id: int, part: bytes | memoryview) -> bytes:
    return encode_message((_DATA, request_id, part))


def last(request_id: int, part: bytes | memoryview) -> bytes:
    return encode_message((_LAST, request_id, part))


def file(
    request_id: int,
    head: tuple[int, Headers] | None,
    path: bytes,
    offset: int,
    size: int | None,
) -> bytes:
    return encode_message((_FILE, request_id, head, path, offset, size))


def trailers(request_id: int, headers: Headers) -> bytes:
    return encode_message((_TRAILERS, request_id, headers))


def inform(request_id: int, status: int, headers: Headers) -> bytes:
    return encode_message((_INFORM, request_id, status, headers))


def abort(request_id: int) -> bytes:
    return encode_message((_ABORT, request_id))


def borrow(request_id: int) -> bytes:
    """Ask for the client's socket, to write the rest of the body to it."""
    return encode_message((_BORROW, request_id))


def written(request_id: int, written_bytes: int) -> bytes:
    """Give it back, with so much of the body written."""
    return encode_message((_WRITTEN, request_id, written_bytes))


def credit(request_id: int, taken_bytes: int) -> bytes:
    return encode_message((_CREDIT, request_id, taken_bytes))


def waiting(request_id: int, received_bytes: int) -> bytes:
    return encode_message((_WAITING, request_id, received_bytes))


def done(request_id: int) -> bytes:
    return encode_message((_DONE, request_id))


def returned(request_id: int, body: bytes) -> bytes:
    return encode_message((_RETURNED, request_id, body))


# Outgoing, WebSocket.


def accept(request_id: int, subprotocol: bytes | None, headers: Headers) -> bytes:
    return encode_message((_ACCEPT, request_id, subprotocol, headers))


def message(request_id: int, kind: Atom, payload: bytes) -> bytes:
    return encode_message((MESSAGE, request_id, kind, payload))


def close(request_id: int, code: int, reason: bytes) -> bytes:
    return encode_message((_CLOSE, request_id, code, reason))


# Outgoing, calls.


def call(call_id: int, function: Atom, args: tuple[object, ...]) -> bytes:
    """Encode a call.

    Raises:
        EncodeError: an argument has no Erlang form; the path begins at the message,
            `value[3]` are the arguments.
    """
    return encode_message((_CALL, call_id, function, args))


def cast(function: Atom, args: tuple[object, ...]) -> bytes:
    """Encode a call that nobody waits for.

    Raises:
        EncodeError: an argument has no Erlang form; `value[2]` are the arguments.
    """
    return encode_message((_CAST, function, args))


# Outgoing, what the node asked this worker to run.


def result(invoke_id: int, encoded: bytes) -> bytes:
    return encode_message((_RESULT, invoke_id, OK, encoded))


def result_error(invoke_id: int, facts: Mapping[str, object]) -> bytes:
    return encode_message((_RESULT, invoke_id, ERROR, _encodable(facts)))


def produce(invoke_id: int, encoded: bytes) -> bytes:
    return encode_message((_PRODUCE, invoke_id, encoded))
