#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A Python worker for the Erlang suites: it does what the tests tell it to do.

It speaks docs/protocol.md with a small codec of its own, so that the node can be met
with everything that a worker may do, faults included. The module part of the setting
`app` picks how it starts (see `STARTS`), the path of a request picks what becomes of
it (see `ROUTES`), and the query has the arguments.

The environment variable FAKE_DIR names a folder that is shared with the test: `pids`
has a line for each worker that was started, `seen` one for each message that a worker
got, as `worker_id message path`. What waits goes on once the file that its argument
`until` names is there.
"""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl

INPUT_FD = 3
OUTPUT_FD = 4
POLL_S = 0.003
# How late a worker that lags answers a heartbeat.
LAG_S = 0.075
# No fake worker outlives its test by much, whatever the node does.
LIFE_S = 120
FOLDER = os.environ.get("FAKE_DIR", "/tmp")


class Atom(str):
    """An Erlang atom."""


class DecodeError(Exception):
    """The node sent something that this small codec does not know."""


# The codec: what the protocol uses of the External Term Format.


def encode(term: Any) -> bytes:
    if isinstance(term, bool):
        return encode(Atom("true" if term else "false"))

    if term is None:
        return encode(Atom("undefined"))

    if isinstance(term, Atom):
        name = term.encode()
        return bytes([119, len(name)]) + name

    if isinstance(term, int):
        return encode_int(term)

    if isinstance(term, bytes):
        return struct.pack(">BI", 109, len(term)) + term

    if isinstance(term, tuple):
        return bytes([104, len(term)]) + b"".join(map(encode, term))

    if isinstance(term, list):
        if not term:
            return b"j"

        return struct.pack(">BI", 108, len(term)) + b"".join(map(encode, term)) + b"j"

    if isinstance(term, dict):
        pairs = b"".join(encode(key) + encode(term[key]) for key in term)
        return struct.pack(">BI", 116, len(term)) + pairs

    raise TypeError(f"cannot encode {term!r}")


def encode_int(number: int) -> bytes:
    if 0 <= number < 256:
        return bytes([97, number])

    if -(2**31) <= number < 2**31:
        return struct.pack(">Bi", 98, number)

    digits = abs(number).to_bytes((abs(number).bit_length() + 7) // 8, "little")
    return bytes([110, len(digits), number < 0]) + digits


class Decoder:
    """Reads one term out of bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        taken = self.data[self.at : self.at + count]
        self.at += count
        return taken

    def number(self, count: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(count), "big", signed=signed)

    def terms(self, count: int) -> list[Any]:
        return [self.term() for _ in range(count)]

    def term(self) -> Any:
        tag = self.number(1)
        reader = READERS.get(tag)
        if reader is None:
            raise DecodeError(f"tag {tag}")

        return reader(self)

    def atom(self, size_bytes: int) -> Any:
        name = self.take(self.number(size_bytes)).decode()
        return {"true": True, "false": False, "undefined": None}.get(name, Atom(name))

    def big(self) -> int:
        size = self.number(1)
        negative = self.number(1)
        digits = int.from_bytes(self.take(size), "little")
        return -digits if negative else digits

    def list(self) -> Any:
        items = self.terms(self.number(4))
        self.term()
        return items

    def map(self) -> dict[Any, Any]:
        pairs = [(self.term(), self.term()) for _ in range(self.number(4))]
        return dict(pairs)


READERS: dict[int, Callable[[Decoder], Any]] = {
    97: lambda d: d.number(1),
    98: lambda d: d.number(4, signed=True),
    100: lambda d: d.atom(2),
    104: lambda d: tuple(d.terms(d.number(1))),
    106: lambda d: [],
    107: lambda d: list(d.take(d.number(2))),
    108: Decoder.list,
    109: lambda d: d.take(d.number(4)),
    110: Decoder.big,
    115: lambda d: d.atom(1),
    116: Decoder.map,
    118: lambda d: d.atom(2),
    119: lambda d: d.atom(1),
}


# What a route yields: it goes on once that is true.
Condition = Callable[[], bool]
Steps = Iterator[Condition]


class Request:
    """A request and what has come for it so far."""

    def __init__(self, request_id: int, scope: Any, body: bytes, more: bool) -> None:
        self.id = request_id
        self.scope = scope
        self.path = scope[3].decode("latin-1")
        pairs = parse_qsl(scope[4].decode("latin-1"), keep_blank_values=True)
        self.query = dict(pairs)
        self.headers = [
            tuple(value.encode("latin-1").split(b":", 1))
            for key, value in pairs
            if key == "h"
        ]
        self.body = bytearray(body)
        self.more = more
        self.received = len(body)
        self.unacked_bytes = 0
        # How often it was refused its client's socket, and which that is.
        self.kept = 0
        self.client = -1

    def number(self, name: str, default: int = 0) -> int:
        return int(self.query.get(name, default))

    def released(self) -> bool:
        return os.path.exists(os.path.join(FOLDER, self.query["until"]))

    def stays(self) -> bool:
        """The application does not care that the client has gone."""
        return "stay" in self.query


class WebSocket(Request):
    """A WebSocket: messages in place of a body."""

    def __init__(self, request_id: int, scope: Any, subprotocols: list[bytes]) -> None:
        super().__init__(request_id, scope, b"", more=True)
        self.subprotocols = subprotocols
        self.route = self.path
        # What the test knows it by.
        self.path = self.query.get("as", self.path)
        self.messages: list[tuple[Atom, bytes]] = []
        self.got = 0
        self.got_bytes = 0
        self.reported = 0
        self.is_over = False
        # The code, where the client has broken the protocol.
        self.ending: int | None = None

    def wakes(self) -> bool:
        return bool(self.messages) or self.is_over

    def may_go_on(self) -> bool:
        return self.wakes() or self.ending is not None


class Worker:
    """The loop: packets in, routes run on, packets out."""

    def __init__(self) -> None:
        self.id = 0
        self.settings: dict[Any, Any] = {}
        self.requests: dict[int, Request] = {}
        self.steps: dict[int, tuple[Condition, Steps]] = {}
        self.replies: dict[int, Any] = {}
        self.outbox: list[bytes] = []
        self.input = bytearray()
        self.deaf = False
        self.is_leaving = False
        self.pongs: list[tuple[float, int]] = []
        self.ballast = b""
        self.leave_at: float | None = None
        # While it plays a blocked loop: until which gate, and what came meanwhile.
        self.asleep: str | None = None
        # The gate of the sleep that begins with the next request.
        self.drowsy: str | None = None
        self.kept: dict[int, tuple[bytes, bool]] = {}
        # Of the bodies that it gives back.
        self.lost_bytes = 0
        # Where the sockets of clients come from.
        self.listener: Any = None
        self.lender: Any = None

    # Output

    def send(self, *message: Any) -> None:
        head, *rest = message
        self.outbox.append(encode((Atom(head), *rest)))

    def flush(self) -> None:
        if self.outbox:
            count = struct.pack(">BBI", 131, 108, len(self.outbox))
            packet = count + b"".join(self.outbox) + b"j"
            self.outbox = []
            self.write_raw(packet)

    def write_raw(self, packet: bytes) -> None:
        self.write_bytes(struct.pack(">I", len(packet)) + packet)

    def write_bytes(self, data: bytes) -> None:
        while data:
            data = data[os.write(OUTPUT_FD, data) :]

    def respond(self, request: Request, body: bytes, status: int = 200) -> None:
        self.send("response", request.id, status, request.headers, body)
        self.finish(request)

    def finish(self, request: Request) -> None:
        self.send("done", request.id)
        self.requests.pop(request.id, None)

    # Input

    def see(self, *words: object) -> None:
        note("seen", " ".join(str(word) for word in (self.id, *words)))

    def report(self, ws: WebSocket) -> None:
        """How far a WebSocket is, in a file that the test can read at any time."""
        path = os.path.join(FOLDER, "progress")
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(f"{ws.got} {ws.got_bytes}")

        os.replace(path + ".new", path)

    def run(self) -> None:
        while True:
            self.flush()
            inputs = [] if self.deaf else [INPUT_FD]
            waits = (
                self.steps
                or self.deaf
                or self.pongs
                or self.asleep
                or self.leave_at is not None
            )
            timeout = POLL_S if waits else None
            if select.select(inputs, [], [], timeout)[0]:
                self.read()

            self.step_all()
            self.wake_up()
            self.send_late_pongs()
            self.leave_when_idle()

            if self.is_leaving and not self.requests:
                self.leave()

    def read(self) -> None:
        data = os.read(INPUT_FD, 65536)
        if not data:
            os._exit(0)

        self.input += data
        while not self.deaf and len(self.input) >= 4:
            end = 4 + int.from_bytes(self.input[:4], "big")
            if len(self.input) < end:
                return

            packet = bytes(self.input[4:end])
            del self.input[:end]
            messages = Decoder(packet[1:]).term()
            if len(messages) > 1:
                self.see("batch", len(messages))

            for message in messages:
                self.handle(message)

    def handle(self, message: Any) -> None:
        handler = getattr(self, "on_" + message[0])
        handler(*message[1:])

    def on_configure(self, settings: dict[Any, Any]) -> None:
        self.settings = settings
        self.id = settings["worker_id"]
        module, _, _ = settings["app"].decode().partition(":")
        STARTS[module](self)

    def on_request(self, request_id: int, scope: Any, body: bytes, more: bool) -> None:
        if self.drowsy:
            self.asleep, self.drowsy = self.drowsy, None

        if self.asleep:
            self.see("kept", scope[3].decode())
            self.kept[request_id] = (body, more)
            return

        request = Request(request_id, scope, body, more)
        self.requests[request_id] = request
        self.see("request", request.path)
        steps = iter(ROUTES[request.path](self, request))
        self.step(request_id, steps)

    def on_websocket(self, request_id: int, scope: Any, subprotocols: Any) -> None:
        request = WebSocket(request_id, scope, subprotocols)
        self.requests[request_id] = request
        self.see("websocket", request.path, *(each.decode() for each in subprotocols))
        self.step(request_id, iter(WEBSOCKET_ROUTES[request.route](self, request)))

    def on_message(self, request_id: int, kind: Atom, data: bytes) -> None:
        request = self.requests.get(request_id)
        if isinstance(request, WebSocket):
            request.messages.append((kind, data))
            request.got += 1
            request.got_bytes += len(data)
        else:
            self.see("message", "unknown")

    def on_ending(self, request_id: int, code: int, reason: bytes) -> None:
        request = self.requests.get(request_id)
        if isinstance(request, WebSocket) and not request.is_over:
            request.ending = code
            self.see("ending", request.path, code, reason.decode())

    def on_closed(self, request_id: int, code: int, reason: bytes) -> None:
        request = self.requests.get(request_id)
        if isinstance(request, WebSocket) and not request.is_over:
            self.see("closed", request.path, code, reason.decode())
            request.is_over = True
        else:
            self.see("closed", "unknown", code)

    def on_body(self, request_id: int, data: bytes, more: bool) -> None:
        if request_id in self.kept:
            self.kept[request_id] = (self.kept[request_id][0] + data, more)
            return

        request = self.requests.get(request_id)
        if request is not None:
            self.see("body", request.path, len(data), "more" if more else "end")
            request.body += data
            request.received += len(data)
            request.more = more

    def on_ack(self, request_id: int, size: int) -> None:
        request = self.requests.get(request_id)
        if request is not None:
            request.unacked_bytes -= size

    def on_disconnect(self, request_id: int) -> None:
        self.end("disconnect", request_id)

    def on_cancel(self, request_id: int) -> None:
        self.end("cancel", request_id)

    def end(self, why: str, request_id: int) -> None:
        request = self.requests.get(request_id)
        if request is None:
            self.see(why, "unknown")
            return

        self.see(why, request.path)
        if not request.stays():
            self.steps.pop(request_id, None)
            self.finish(request)

    def on_kept(self, request_id: int) -> None:
        request = self.requests.get(request_id)
        if request is not None:
            request.kept += 1

    def may_take(self) -> bool:
        """A client's socket has come, or the node is about to connect."""
        if self.lender is None and select.select([self.listener], [], [], 0)[0]:
            self.lender, _ = self.listener.accept()

        return bool(self.lender and select.select([self.lender], [], [], 0)[0])

    def take(self, request: Request) -> None:
        message, descriptors, _, _ = socket.recv_fds(self.lender, 16, 1)
        assert int.from_bytes(message[:8], "big") == request.id
        (request.client,) = descriptors

    def on_reply(self, call_id: int, *outcome: Any) -> None:
        self.replies[call_id] = outcome

    def on_ping(self, number: int) -> None:
        if self.settings["app"].startswith(b"lagging:"):
            self.pongs.append((time.monotonic() + LAG_S, number))
        elif self.asleep:
            self.pongs.append((math.inf, number))
        else:
            self.send("pong", number)

    def on_revoke(self) -> None:
        """Give back what has not begun; nothing, if the loop is not blocked."""
        for request_id, (body, more) in list(self.kept.items()):
            if not more:
                del self.kept[request_id]
                self.see("returned", len(body))
                self.send("returned", request_id, body[self.lost_bytes :])

    def on_inspect(self) -> None:
        """Say where the loop is."""
        if self.asleep:
            report = {"location": b"a.py:1 in f", "stack": b"s", "requests": []}
            self.send("blocked", {Atom(key): fact for key, fact in report.items()})

    def wake_up(self) -> None:
        if self.asleep and os.path.exists(os.path.join(FOLDER, self.asleep)):
            self.asleep = None
            self.pongs = [(0.0, number) for _, number in self.pongs]

    def send_late_pongs(self) -> None:
        while self.pongs and self.pongs[0][0] <= time.monotonic():
            self.send("pong", self.pongs.pop(0)[1])

    def on_shutdown(self, timeout_ms: Any) -> None:
        self.see("shutdown")
        app = self.settings["app"].decode()
        if app.startswith(("patient:", "as_told:")):
            self.leave_at = time.monotonic() + timeout_ms / 1000
            return

        if "slow_end" in app:
            self.wait_for("end")

        if "drains" in app:
            self.is_leaving = True
        else:
            self.leave()

    def leave(self) -> None:
        self.send("stopped", {Atom("lifespan"): Atom("off")})
        self.flush()
        os._exit(0)

    def leave_when_idle(self) -> None:
        """End as the real worker does: with its last request, or at its time."""
        if self.leave_at is None:
            return

        if not self.requests or time.monotonic() >= self.leave_at:
            self.leave()

    # Routes under way

    def step(self, request_id: int, steps: Steps) -> None:
        self.steps.pop(request_id, None)
        for condition in steps:
            if not condition():
                self.steps[request_id] = (condition, steps)
                return

    def step_all(self) -> None:
        for request_id, (condition, steps) in list(self.steps.items()):
            if request_id in self.steps and condition():
                self.step(request_id, steps)

    def wait_for(self, name: str) -> None:
        """Block the whole loop."""
        while not os.path.exists(os.path.join(FOLDER, name)):
            time.sleep(POLL_S)


def note(name: str, line: str) -> None:
    with open(os.path.join(FOLDER, name), "a", encoding="utf-8") as file:
        file.write(line + "\n")


# Routes


def hello(worker: Worker, request: Request) -> Steps:
    worker.respond(request, b"hello from %d" % worker.id)
    yield from ()


def whole(worker: Worker, request: Request) -> Steps:
    body = request.query.get("body", "").encode() or b"x" * request.number("size")
    worker.respond(request, body, request.number("status", 200))
    yield from ()


def scope(worker: Worker, request: Request) -> Steps:
    method, scheme, version, path, query, headers, client, server, _extra = (
        request.scope
    )
    lines = [method, scheme, version, path, query]
    lines += [name + b": " + value for name, value in headers]
    lines += [repr(client).encode(), repr(server).encode()]
    worker.respond(request, b"\n".join(lines))
    yield from ()


def settings(worker: Worker, request: Request) -> Steps:
    """What it was configured with, a line each, and one variable of its environment."""
    lines = [f"{key} {value!r}" for key, value in sorted(worker.settings.items())]
    lines.append("env " + repr(os.environ.get(request.query.get("env", ""))))
    worker.respond(request, "\n".join(lines).encode())
    yield from ()


def hold(worker: Worker, request: Request) -> Steps:
    yield request.released
    worker.respond(request, b"released", request.number("status", 200))


def echo(worker: Worker, request: Request) -> Steps:
    """Take the body as it comes, then give it back as a whole."""
    taken = bytearray()
    while request.more or request.body:
        if request.body:
            worker.send("credit", request.id, len(request.body))
            taken += request.body
            request.body.clear()
        else:
            worker.send("waiting", request.id, request.received)
            yield lambda: bool(request.body) or not request.more

    worker.respond(request, bytes(taken))


def ignore(worker: Worker, request: Request) -> Steps:
    """Take nothing of the body for as long as it is told to, then answer."""
    yield request.released
    worker.respond(request, b"%d" % len(request.body))


def stream(worker: Worker, request: Request) -> Steps:
    """Parts, each when the window has room, as the protocol asks for."""
    window, size = worker.settings["window"], request.number("size", 1000)
    worker.send("start", request.id, 200, request.headers, b"")
    for number in range(request.number("n", 10)):
        yield lambda: request.unacked_bytes <= window
        request.unacked_bytes += size
        worker.send("data", request.id, bytes([97 + number % 26]) * size)

    worker.send("last", request.id, b"")
    worker.finish(request)


def start(worker: Worker, request: Request) -> Steps:
    """A first part at once, the last part when it is told to."""
    body = request.query.get("body", "first").encode()
    status = request.number("status", 200)
    worker.send("start", request.id, status, request.headers, body)
    if "wait" in request.query:
        worker.send("waiting", request.id, request.received)

    yield request.released
    worker.send("last", request.id, request.query.get("last", "last").encode())
    worker.finish(request)


def crash(worker: Worker, request: Request) -> Steps:
    if "until" in request.query:
        yield request.released

    os._exit(3)


def start_crash(worker: Worker, request: Request) -> Steps:
    worker.send("start", request.id, 200, request.headers, b"first")
    yield request.released
    os._exit(3)


def crash_once(worker: Worker, request: Request) -> Steps:
    """End the first worker that gets this, answer from the second."""
    marker = os.path.join(FOLDER, "crashed")
    if not os.path.exists(marker):
        note("crashed", "yes")
        os._exit(3)

    worker.respond(request, b"second")
    yield from ()


def abort(worker: Worker, request: Request) -> Steps:
    if "start" in request.query:
        worker.send("start", request.id, 200, request.headers, b"first")

    worker.send("abort", request.id)
    worker.finish(request)
    yield from ()


def inform(worker: Worker, request: Request) -> Steps:
    worker.send("inform", request.id, 103, [(b"link", b"</a>"), (b"link", b"</b>")])
    worker.respond(request, b"hello")
    yield from ()


def trailers(worker: Worker, request: Request) -> Steps:
    status = request.number("status", 200)
    worker.send("start", request.id, status, [(b"trailer", b"digest")], b"body")
    worker.send("trailers", request.id, [(b"digest", b"abc")])
    worker.finish(request)
    yield from ()


def background(worker: Worker, request: Request) -> Steps:
    """The response is over long before the application's call is."""
    worker.send("response", request.id, 200, [], b"hello")
    yield request.released
    worker.finish(request)


def grow(worker: Worker, request: Request) -> Steps:
    """Keep so many bytes in memory for the rest of its life."""
    worker.ballast = b"x" * int(request.query["bytes"])
    worker.respond(request, b"grown")
    yield from ()


def twice(worker: Worker, request: Request) -> Steps:
    for body in (b"one", b"two"):
        worker.send("response", request.id, 200, [], body)

    worker.send("data", request.id, b"three")
    worker.finish(request)
    worker.send("done", request.id)
    yield from ()


def unknown(worker: Worker, request: Request) -> Steps:
    """Well-formed messages of requests that are not there, in numbers."""
    for number in range(request.number("n", 1)):
        other = 10**9 + number
        worker.send("response", other, 200, [], b"stray")
        worker.send("data", other, b"stray")
        worker.send("credit", other, 5)
        worker.send("done", other)
        if number % 100 == 99:
            worker.flush()

    worker.respond(request, b"done")
    yield from ()


def flood(worker: Worker, request: Request) -> Steps:
    """Say more than anybody can take, as fast as the pipe does, for ever."""
    worker.flush()
    if request.query["what"] == "unknown":
        message = encode((Atom("data"), 10**9, b"stray"))
    else:
        message = encode((Atom("inform"), request.id, 103, [(b"link", b"</a>")]))

    packet = struct.pack(">BBI", 131, 108, 5000) + message * 5000 + b"j"
    while True:
        worker.write_raw(packet)


def overrun(worker: Worker, request: Request) -> Steps:
    """Parts of a body, without waiting for their acknowledgement."""
    worker.send("start", request.id, 200, [], b"")
    while True:
        worker.send("data", request.id, b"x" * 60000)
        worker.flush()
        yield from ()


def say(worker: Worker, request: Request) -> Steps:
    """Messages of this request at a time when they make no sense."""
    for what in request.query["what"].split(","):
        if what == "start":
            worker.send("start", request.id, 200, [], b"first")
        elif what == "accept":
            worker.send("accept", request.id, None, [])
        elif what == "credit":
            worker.send("credit", request.id, 10**15)
        elif what == "done":
            worker.finish(request)
        elif what == "returned":
            worker.send("returned", request.id, b"")
        elif what == "deaf":
            worker.deaf = True
        elif what == "raw":
            worker.write_raw(bytes.fromhex(request.query["hex"]))
            worker.respond(request, b"said")

    yield lambda: False


def lend(worker: Worker, request: Request) -> Steps:
    """What is done with the client's socket, sensible or not, in that order."""
    for word in request.query["do"].split(","):
        what, _, number = word.partition(":")
        size = int(number or 0)
        if what == "start":
            length = [(b"content-length", b"%d" % size)] if number else []
            worker.send("start", request.id, 200, length, b"")
        elif what in ("data", "last"):
            worker.send(what, request.id, b"d" * size)
        elif what == "written":
            worker.send("written", request.id, size)
        elif what == "borrow":
            for _ in range(size or 1):
                worker.send("borrow", request.id + request.number("other"))
        elif what == "take":
            worker.flush()
            yield worker.may_take
            worker.take(request)
        elif what == "write":
            os.write(request.client, b"w" * size)
        elif what == "give":
            os.close(request.client)
            worker.send("written", request.id, size)
        elif what == "kept":
            yield lambda count=size or 1: request.kept >= count
        elif what == "until":
            yield request.released
        elif what == "done":
            worker.finish(request)

    yield lambda: False


def garbage(worker: Worker, request: Request) -> Steps:
    worker.flush()
    worker.write_raw(bytes.fromhex(request.query["hex"]))
    yield lambda: False


def form(worker: Worker, request: Request) -> Steps:
    """A message that the protocol does not know, of words that it does."""
    worker.send("error", request.id, b"what")
    yield lambda: False


def huge(worker: Worker, request: Request) -> Steps:
    """The length of a packet that never comes."""
    worker.flush()
    worker.write_bytes(struct.pack(">I", request.number("length")) + b"\x83l")
    worker.wait_for("never")
    yield from ()


def fall_asleep(worker: Worker, request: Request) -> Steps:
    """Answer, and play a blocked loop whose watchdog works; `with=next`: one that is
    blocked before it begins the next request, and not earlier."""
    if request.query.get("with") == "next":
        worker.drowsy = request.query["until"]
    else:
        worker.asleep = request.query["until"]

    worker.lost_bytes = int(request.query.get("lost", "0"))
    worker.respond(request, b"%d" % worker.id)
    yield from ()


def block(worker: Worker, request: Request) -> Steps:
    """Block the loop."""
    worker.see("blocked", request.path)
    worker.wait_for(request.query["until"])
    worker.respond(request, b"unblocked")
    yield from ()


def deaf(worker: Worker, request: Request) -> Steps:
    """Answer, and read nothing more, not even the end of the input."""
    worker.respond(request, b"deaf now")
    worker.deaf = True
    yield lambda: False


def call(worker: Worker, request: Request) -> Steps:
    """Call a service; arguments are integers and binaries."""
    args = tuple(
        int(value) if value.lstrip("-").isdigit() else value.encode()
        for value in request.query["args"].split(",")
    )
    worker.send("call", request.id, Atom(request.query["f"]), args)
    worker.flush()
    yield lambda: request.id in worker.replies
    worker.respond(request, repr(worker.replies[request.id]).encode())


def log(worker: Worker, request: Request) -> Steps:
    report = {Atom("message"): b"said by the application"}
    for _ in range(request.number("n", 1)):
        worker.send("log", Atom(request.query["level"]), report)

    worker.respond(request, b"logged")
    yield from ()


ROUTES: dict[str, Callable[[Worker, Request], Steps]] = {
    "/": hello,
    "*": hello,
    "/abort": abort,
    "/background": background,
    "/block": block,
    "/fall_asleep": fall_asleep,
    "/call": call,
    "/crash": crash,
    "/crash_once": crash_once,
    "/deaf": deaf,
    "/echo": echo,
    "/flood": flood,
    "/form": form,
    "/garbage": garbage,
    "/grow": grow,
    "/hello": hello,
    "/hold": hold,
    "/huge": huge,
    "/ignore": ignore,
    "/inform": inform,
    "/lend": lend,
    "/log": log,
    "/overrun": overrun,
    "/say": say,
    "/scope": scope,
    "/settings": settings,
    "/start": start,
    "/start_crash": start_crash,
    "/stream": stream,
    "/trailers": trailers,
    "/twice": twice,
    "/unknown": unknown,
    "/whole": whole,
}


# WebSockets


def accept(worker: Worker, ws: WebSocket) -> None:
    subprotocol = ws.query.get("sub")
    chosen = None if subprotocol is None else subprotocol.encode()
    worker.send("accept", ws.id, chosen, ws.headers)


def counted(data: bytes) -> int:
    return max(64, len(data))


def ws_echo(worker: Worker, ws: WebSocket) -> Steps:
    """Every message goes back, once what went before has room in the window.

    A test can hold up the handshake, or with `slow` what comes after it.
    """
    if "until" in ws.query and "slow" not in ws.query:
        yield ws.released

    accept(worker, ws)
    window = worker.settings["window"]
    while True:
        yield lambda: ws.may_go_on() and ws.unacked_bytes <= window
        if "slow" in ws.query:
            yield ws.released

        if not ws.messages:
            break

        kind, data = ws.messages.pop(0)
        worker.send("credit", ws.id, counted(data))
        ws.unacked_bytes += counted(data)
        worker.send("message", ws.id, kind, data)

    if ws.ending is not None and not ws.is_over:
        worker.send("close", ws.id, ws.ending, b"")
        yield lambda: ws.is_over

    worker.finish(ws)


def ws_scope(worker: Worker, ws: WebSocket) -> Steps:
    accept(worker, ws)
    method, scheme, version, path, query, headers, client, server, _ = ws.scope
    lines = [method, scheme, version, path, query]
    lines += [name + b": " + value for name, value in headers]
    worker.send("message", ws.id, Atom("text"), b"\n".join(lines))
    yield lambda: ws.is_over
    worker.finish(ws)


def ws_stall(worker: Worker, ws: WebSocket) -> Steps:
    """Take nothing for as long as it is told to, then all, and say how much it was."""
    accept(worker, ws)
    worker.send("message", ws.id, Atom("text"), b"open")
    while not ws.is_over and not ws.released():
        worker.report(ws)
        ws.reported = ws.got
        yield lambda: ws.released() or ws.is_over or ws.got > ws.reported

    while True:
        while ws.messages:
            worker.send("credit", ws.id, counted(ws.messages.pop(0)[1]))

        if ws.is_over:
            break

        yield ws.wakes

    worker.see("got", ws.got, ws.got_bytes)
    worker.finish(ws)


def ws_push(worker: Worker, ws: WebSocket) -> Steps:
    """Messages, each when the window has room."""
    window, size = worker.settings["window"], ws.number("size", 1000)
    accept(worker, ws)
    for number in range(ws.number("n", 10)):
        yield lambda: ws.unacked_bytes <= window or ws.is_over
        if ws.is_over:
            break

        ws.got = number
        ws.unacked_bytes += max(64, size)
        worker.send("message", ws.id, Atom("binary"), bytes([97 + number % 26]) * size)
        worker.report(ws)

    if "close" in ws.query:
        worker.send("close", ws.id, ws.number("close"), b"")

    yield lambda: ws.is_over
    worker.see("unacked", ws.path, ws.unacked_bytes)
    worker.finish(ws)


def ws_topic(worker: Worker, ws: WebSocket) -> Steps:
    """Attached to a topic by the time that the client hears of it."""
    accept(worker, ws)
    overflow = Atom(ws.query.get("overflow", "close"))
    topic = ws.query["topic"].encode()
    arguments = (ws.id, topic, overflow, ws.number("max", 10))
    worker.send("call", ws.id, Atom("attach"), arguments)
    yield lambda: ws.id in worker.replies
    worker.send("message", ws.id, Atom("text"), repr(worker.replies[ws.id]).encode())
    if "close" in ws.query:
        worker.send("close", ws.id, 1000, b"")

    yield lambda: ws.is_over
    worker.finish(ws)


def ws_close(worker: Worker, ws: WebSocket) -> Steps:
    """Say something, close, and say more, which must not go out."""
    accept(worker, ws)
    worker.send("message", ws.id, Atom("text"), b"before")
    worker.send("close", ws.id, ws.number("code"), ws.query.get("reason", "").encode())
    worker.send("message", ws.id, Atom("text"), b"after")
    if "leave" in ws.query:
        worker.finish(ws)

    yield lambda: ws.is_over
    worker.see("messages", ws.path, ws.got)
    worker.finish(ws)


def ws_deny(worker: Worker, ws: WebSocket) -> Steps:
    worker.send("response", ws.id, ws.number("status", 403), ws.headers, b"no")
    worker.finish(ws)
    yield from ()


def ws_deny_in_parts(worker: Worker, ws: WebSocket) -> Steps:
    window, size = worker.settings["window"], ws.number("size", 10)
    worker.send("start", ws.id, 401, ws.headers, b"")
    for _ in range(ws.number("n", 3)):
        yield lambda: ws.unacked_bytes <= window
        ws.unacked_bytes += size
        worker.send("data", ws.id, b"x" * size)

    worker.send("last", ws.id, b"end")
    worker.finish(ws)


def ws_abort(worker: Worker, ws: WebSocket) -> Steps:
    if "accept" in ws.query:
        accept(worker, ws)

    worker.send("abort", ws.id)
    worker.finish(ws)
    yield from ()


def ws_crash(worker: Worker, ws: WebSocket) -> Steps:
    accept(worker, ws)
    yield ws.wakes
    os._exit(3)


def ws_crash_once(worker: Worker, ws: WebSocket) -> Steps:
    """End the first worker that gets this, accept in the second."""
    marker = os.path.join(FOLDER, "crashed")
    if not os.path.exists(marker):
        note("crashed", "yes")
        os._exit(3)

    yield from ws_echo(worker, ws)


WEBSOCKET_ROUTES: dict[str, Callable[[Worker, WebSocket], Steps]] = {
    "/abort": ws_abort,
    "/close": ws_close,
    "/crash": ws_crash,
    "/crash_once": ws_crash_once,
    "/deny": ws_deny,
    "/deny_in_parts": ws_deny_in_parts,
    "/echo": ws_echo,
    "/push": ws_push,
    "/scope": ws_scope,
    "/stall": ws_stall,
    "/topic": ws_topic,
}


# Starts


def ready(worker: Worker) -> None:
    wanted = worker.settings["worker_class"]
    worker_class = "asgi" if wanted == "auto" else wanted
    worker.send(
        "ready",
        {
            Atom("os_pid"): os.getpid(),
            Atom("python"): b"%d.%d.%d" % sys.version_info[:3],
            Atom("codec"): Atom("python"),
            Atom("loop"): Atom("asyncio"),
            Atom("worker_class"): Atom(worker_class),
            Atom("lifespan"): Atom("off"),
            **lending(worker),
        },
    )


def lending(worker: Worker) -> dict[Atom, Any]:
    """Where it takes sockets, if it does; or what nobody can connect to, as hex."""
    kind = os.environ.get("FAKE_LENDING", "")
    if not kind:
        return {}

    if kind == "number":
        return {Atom("lending"): 7}

    if kind != "listens":
        return {Atom("lending"): bytes.fromhex(kind)}

    name = f"\0fake-{os.getpid()}".encode()
    worker.listener = socket.socket(socket.AF_UNIX)
    worker.listener.bind(name)
    worker.listener.listen(1)
    return {Atom("lending"): name}


def ready_when_told(worker: Worker) -> None:
    worker.wait_for("ready")
    ready(worker)


def ready_then_exit(worker: Worker) -> None:
    ready(worker)
    worker.flush()
    os._exit(4)


def fail(worker: Worker) -> None:
    worker.send(
        "failed",
        Atom("app_import_failed"),
        {
            Atom("app"): worker.settings["app"],
            Atom("message"): b"ImportError: no",
            Atom("traceback"): b"Traceback (most recent call last): ...",
        },
    )
    worker.flush()
    os._exit(1)


def second_fails(worker: Worker) -> None:
    if worker.id == 2:
        fail(worker)

    ready(worker)


def fails_again(worker: Worker) -> None:
    """Ready in its first life, never after it."""
    with open(os.path.join(FOLDER, "pids"), encoding="utf-8") as file:
        if len(file.readlines()) > 1:
            fail(worker)

    ready(worker)


def ready_again_when_told(worker: Worker) -> None:
    """Ready at once in its first life, then when it is told."""
    with open(os.path.join(FOLDER, "pids"), encoding="utf-8") as file:
        if len(file.readlines()) > 1:
            worker.wait_for("ready")

    ready(worker)


def classless(worker: Worker) -> None:
    worker.send("ready", {Atom("os_pid"): os.getpid()})


def strange_class(worker: Worker) -> None:
    worker.send("ready", {Atom("worker_class"): b"asgi"})


def silent(worker: Worker) -> None:
    worker.see("configured")


def deaf_at_start(worker: Worker) -> None:
    worker.see("configured")
    worker.wait_for("never")


def exit_at_start(worker: Worker) -> None:
    os._exit(7)


def garbage_at_start(worker: Worker) -> None:
    worker.write_raw(b"this is no term")


def protocol_exit(worker: Worker) -> None:
    """What a worker does with a packet that it cannot understand."""
    os._exit(70)


def as_told(worker: Worker) -> None:
    """Start as the test has written into a file last, `paths` where it has not."""
    try:
        with open(os.path.join(FOLDER, "start"), encoding="utf-8") as file:
            name = file.read()
    except FileNotFoundError:
        name = "paths"

    STARTS[name](worker)


STARTS: dict[str, Callable[[Worker], None]] = {
    "as_told": as_told,
    "paths": ready,
    "patient": ready,
    "lagging": ready,
    "slow_end": ready,
    "drains": ready,
    "drains_and_waits": ready_again_when_told,
    "when_told": ready_when_told,
    "ready_then_exit": ready_then_exit,
    "fails": fail,
    "second_fails": second_fails,
    "fails_again": fails_again,
    "classless": classless,
    "strange_class": strange_class,
    "silent": silent,
    "deaf_at_start": deaf_at_start,
    "exit_at_start": exit_at_start,
    "garbage_at_start": garbage_at_start,
    "protocol_exit": protocol_exit,
}


if __name__ == "__main__":
    signal.alarm(LIFE_S)
    # Only the node's signals of the kind that cannot be ignored end a fake worker.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note("pids", str(os.getpid()))
    Worker().run()
