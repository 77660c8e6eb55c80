# SPDX-License-Identifier: Apache-2.0
"""A node in Python: starts `priv/worker.py` as the real one does, and talks to it.

    with FakeNode("hello:app") as node:
        node.wait_ready()
        response = node.get("/")

Methods that wait for something fail with what has come so far if it takes too long.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from hornbeam._bridge import CallFailed
from hornbeam._etf import decode_packet, encode_message, pack_batch
from hornbeam._protocol import PacketSplitter
from hornbeam._terms import Atom
from hornbeam_erlang._local import LocalNode

ROOT = Path(__file__).parent.parent
WORKER = ROOT / "priv" / "worker.py"
APPS = Path(__file__).parent / "apps" / "worker"

# Scaled for slow machines.
TIMEOUT_S = 20.0 * float(os.environ.get("HORNBEAM_TEST_TIME_FACTOR", "1"))

Message = tuple[Any, ...]


@dataclass
class Response:
    """What a worker sent for one request, in order."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] | None = None
    informed: list[tuple[int, list[tuple[bytes, bytes]]]] = field(default_factory=list)
    is_complete: bool = False
    is_aborted: bool = False
    kinds: list[str] = field(default_factory=list)
    """The names of the messages."""


class FakeNode:
    """One worker and its node's end of the pipes.

    Args:
        app: as in the settings.
        python: the interpreter.
        script: the worker's entry.
        cwd: where the worker is started.
        env: added to the environment.
        window: the window, in bytes.
        acknowledge: whether response bodies are acknowledged as they come.
        configure: whether the `configure` message is sent.
        redirect: of the worker's standard descriptors, in the shell's language.
        settings: other settings, in the form of the protocol.
    """

    def __init__(
        self,
        app: str = "hello:app",
        *,
        python: str = sys.executable,
        script: Path = WORKER,
        cwd: Path = APPS,
        env: Mapping[str, str] | None = None,
        window: int = 65536,
        acknowledge: bool = True,
        configure: bool = True,
        redirect: str = "",
        **settings: object,
    ) -> None:
        self.state = LocalNode()
        self.acknowledge = acknowledge
        self.messages: list[Message] = []
        """What has come and was not waited for yet."""
        self.status: int | None = None
        """The worker's exit status, once `wait_exit` has returned."""
        self._changed = threading.Condition()
        self._is_closed = False
        self._request_ids = count(1)
        self._splitter = PacketSplitter()
        # Functions that are not answered, for tests that do so themselves.
        self.held_functions: set[str] = set()
        self._start(python, script, cwd, env or {}, redirect)

        if configure:
            self.send((Atom("configure"), make_settings(app, window, settings)))

    # The process.

    def _start(
        self,
        python: str,
        script: Path,
        cwd: Path,
        env: Mapping[str, str],
        redirect: str,
    ) -> None:
        to_worker, self.write_descriptor = map(_move_up, os.pipe())
        self._read_descriptor, from_worker = map(_move_up, os.pipe())
        self._output_descriptor, output = map(_move_up, os.pipe())
        actions: list[tuple[int, int, int]] = [
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
            (os.POSIX_SPAWN_DUP2, to_worker, 3),
            (os.POSIX_SPAWN_DUP2, from_worker, 4),
        ]
        # As it is without: output goes through Python's buffers.
        environment = dict(os.environ)
        environment.pop("PYTHONUNBUFFERED", None)
        command = f'cd "$1" && exec "$2" "$3" {redirect}'
        self.pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", command, "sh", str(cwd), python, str(script)],
            {**environment, **env},
            file_actions=actions,
        )

        for descriptor in (to_worker, from_worker, output):
            os.close(descriptor)

        self._output = b""
        self._threads = [
            threading.Thread(target=self._read_messages, daemon=True),
            threading.Thread(target=self._read_output, daemon=True),
        ]

        for thread in self._threads:
            thread.start()

    def __enter__(self) -> FakeNode:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        self.close_input()

        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

        for thread in self._threads:
            thread.join(TIMEOUT_S)

        for descriptor in (self._read_descriptor, self._output_descriptor):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def close_input(self) -> None:
        """End the worker's input, as a node that has gone."""
        if self.write_descriptor >= 0:
            os.close(self.write_descriptor)
            self.write_descriptor = -1

    def wait_exit(self) -> int:
        """Wait until the worker has left, and return its exit status."""
        pidfd = os.pidfd_open(self.pid)

        try:
            if not select.select([pidfd], [], [], TIMEOUT_S)[0]:
                raise AssertionError(f"the worker did not leave; {self._story()}")
        finally:
            os.close(pidfd)

        _, status = os.waitpid(self.pid, 0)
        self.status = os.waitstatus_to_exitcode(status)

        for thread in self._threads:
            thread.join(TIMEOUT_S)

        return self.status

    @property
    def output(self) -> str:
        """What the worker has written to stdout and stderr."""
        return self._output.decode(errors="replace")

    def wait_output(self, text: str) -> None:
        """Wait until the worker has written a text."""
        self.wait(lambda: text in self.output, f"output {text!r}")

    # Messages.

    def send(self, *messages: Message) -> None:
        """Send a batch."""
        self.send_bytes(pack_batch([encode_message(message) for message in messages]))

    def send_bytes(self, packet: bytes) -> None:
        """Write bytes as they are."""
        view = memoryview(packet)

        while view:
            view = view[os.write(self.write_descriptor, view) :]

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds; it is looked at whenever something comes."""
        with self._changed:
            if not self._changed.wait_for(
                lambda: condition() or self._is_closed, TIMEOUT_S
            ):
                raise AssertionError(f"waited in vain for {what}; {self._story()}")

            if not condition():
                raise AssertionError(f"the worker left before {what}; {self._story()}")

    def expect(self, head: str, *fields: object) -> Message:
        """Wait for a message that begins like this, take it out and return it."""
        prefix = (Atom(head), *fields)

        def find() -> Message | None:
            for message in self.messages:
                if message[: len(prefix)] == prefix:
                    return message

            return None

        self.wait(lambda: find() is not None, repr(prefix))

        with self._changed:
            found = find()
            assert found is not None
            self.messages.remove(found)
            return found

    def has(self, head: str, *fields: object) -> bool:
        """Tell whether a message that begins like this has come and not been taken."""
        prefix = (Atom(head), *fields)

        with self._changed:
            return any(
                message[: len(prefix)] == prefix for message in list(self.messages)
            )

    def wait_ready(self) -> dict[str, Any]:
        """Wait for `ready`, and return its facts."""
        return _named(self.expect("ready")[1])

    def wait_failed(self) -> tuple[str, dict[str, Any]]:
        """Wait for `failed` and the end, and return the name and the facts."""
        _, name, facts = self.expect("failed")
        assert self.wait_exit() == 1, self._story()
        return name.name, _named(facts)

    def shutdown(self, timeout_ms: int = 5000) -> dict[str, Any]:
        """Ask for the end, wait for it, and return the facts of `stopped`."""
        self.send((Atom("shutdown"), timeout_ms))
        facts = _named(self.expect("stopped")[1])
        assert self.wait_exit() == 0, self._story()
        return facts

    def ping(self, number: int) -> None:
        """Send a ping and wait for its answer."""
        self.send((Atom("ping"), number))
        self.expect("pong", number)

    def logged(self) -> list[tuple[str, str]]:
        """Return level and text of the log messages that have come."""
        with self._changed:
            return [
                (message[1].name, message[2][Atom("message")].decode())
                for message in self.messages
                if message[0] == Atom("log")
            ]

    # Requests.

    def request(
        self,
        path: str = "/",
        *,
        method: str = "GET",
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: bytes = b"",
        more: bool = False,
        query: bytes = b"",
    ) -> int:
        """Send a request, and return its id."""
        request_id = next(self._request_ids)
        self.send(
            make_request(request_id, path, method, list(headers), body, more, query)
        )
        return request_id

    def make_message(self, path: str, query: bytes = b"") -> Message:
        """Make a request that is sent with others."""
        return make_request(next(self._request_ids), path, query=query)

    def websocket(self, path: str = "/", *subprotocols: bytes) -> int:
        """Send a handshake, and return its id."""
        request_id = next(self._request_ids)
        _, _, scope, _, _ = make_request(request_id, path)
        scope = (scope[0], b"ws", *scope[2:])
        self.send((Atom("websocket"), request_id, scope, list(subprotocols)))
        return request_id

    def open(self, path: str = "/", *subprotocols: bytes) -> int:
        """Send a handshake, wait until it is accepted, and return its id."""
        request_id = self.websocket(path, *subprotocols)
        self.expect("accept", request_id)
        return request_id

    def say(self, request_id: int, payload: str | bytes) -> None:
        """Send a message of a WebSocket."""
        kind = "text" if isinstance(payload, str) else "binary"
        data = payload.encode() if isinstance(payload, str) else payload
        self.send((Atom("message"), request_id, Atom(kind), data))

    def hear(self, request_id: int) -> str | bytes:
        """Wait for a message on a WebSocket, and return it."""
        _, _, kind, data = self.expect("message", request_id)
        payload: str | bytes = data.decode() if kind == Atom("text") else data
        return payload

    def hang_up(self, request_id: int, code: int = 1000, reason: bytes = b"") -> None:
        """End a WebSocket, and wait until its application is done."""
        self.send((Atom("closed"), request_id, code, reason))
        self.expect("done", request_id)

    def respond(self, request_id: int) -> Response:
        """Wait until a request is done, and return what came for it."""
        self.expect("done", request_id)
        response = Response()

        with self._changed:
            mine = [m for m in self.messages if _is_of(m, request_id)]
            self.messages = [m for m in self.messages if not _is_of(m, request_id)]

        for message in mine:
            _apply(message, response)

        return response

    def get(self, path: str = "/", **options: Any) -> Response:
        """Send a request and wait until it is done."""
        return self.respond(self.request(path, **options))

    # Threads.

    def _read_messages(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._read_descriptor, 1 << 20):
                for packet in self._splitter.feed(data):
                    for message in decode_packet(packet):
                        assert isinstance(message, tuple)
                        self._take(message)

        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _take(self, message: Message) -> None:
        head = message[0].name

        if head == "call" and message[2].name not in self.held_functions:
            self.send(self.answer(message))
            return

        if self.acknowledge and head in ("start", "data") and message[-1]:
            self.send((Atom("ack"), message[1], len(message[-1])))
        elif self.acknowledge and head == "message":
            self.send((Atom("ack"), message[1], max(64, len(message[-1]))))

        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()

    def answer(self, call: Message) -> Message:
        """Return the reply to a call of a service."""
        _, call_id, function, args = call

        try:
            value = self.state.call(function, args)
        except CallFailed as exc:
            error = (Atom(exc.name), exc.facts)
            return (Atom("reply"), call_id, Atom("error"), error)

        return (Atom("reply"), call_id, Atom("ok"), value)

    def _read_output(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._output_descriptor, 65536):
                with self._changed:
                    self._output += data
                    self._changed.notify_all()

    def _story(self) -> str:
        return f"messages: {self.messages!r:.4000}\noutput: {self.output[-4000:]}"


def find_pythons() -> list[str]:
    """The other interpreters of this machine that hold, one of each version."""
    found: dict[int, str] = {}
    folders = Path.home().glob(".pyenv/versions/*/bin")
    path = os.pathsep.join([os.environ["PATH"], *map(str, folders)])

    for minor in (10, 11, 12, 13):
        for folder in path.split(os.pathsep):
            python = os.path.join(folder, f"python3.{minor}")

            # What pyenv puts into the path may be there, and not run.
            if os.path.exists(python) and minor not in found:
                probed = subprocess.run([python, "-c", ""], capture_output=True)

                if probed.returncode == 0:
                    found[minor] = python

    found.pop(sys.version_info[1], None)
    return list(found.values())


def make_settings(
    app: str, window: int, settings: Mapping[str, object]
) -> dict[Atom, object]:
    """Make the map of a `configure` message; str values become binaries as they do."""
    given: dict[str, object] = {
        "app": app,
        "worker_class": Atom("auto"),
        "pythonpath": ["."],
        "chdir": None,
        "lifespan": Atom("auto"),
        "lifespan_timeout": 10000,
        "root_path": "",
        "loop": Atom("asyncio"),
        "threads": 8,
        "server": "default",
        "worker_id": 1,
        "window": window,
        "send_timeout": 30000,
        "websocket_drain": Atom("close"),
        **settings,
    }
    return {Atom(name): value for name, value in given.items()}


def make_request(
    request_id: int,
    path: str = "/",
    method: str = "GET",
    headers: list[tuple[bytes, bytes]] | None = None,
    body: bytes = b"",
    more: bool = False,
    query: bytes = b"",
) -> Message:
    """Make a `request` message."""
    scope: tuple[Any, ...] = (
        method.encode(),
        b"http",
        b"1.1",
        path.encode(),
        query,
        headers or [],
        (b"127.0.0.1", 50000),
        (b"127.0.0.1", 8000),
        {},
    )
    return (Atom("request"), request_id, scope, body, more)


def read_status(pid: int, name: str) -> int:
    """Return a figure of /proc/PID/status, such as VmRSS in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])

    raise AssertionError(f"no {name} of process {pid}")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition that nothing tells of."""
    deadline = time.monotonic() + TIMEOUT_S

    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")

        time.sleep(0.005)


def _move_up(descriptor: int) -> int:
    """Move a descriptor out of the way of 3 and 4."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 20)
    os.close(descriptor)
    return moved


def _named(facts: Mapping[Atom, object]) -> dict[str, Any]:
    return {
        key.name: fact.decode() if isinstance(fact, bytes) else fact
        for key, fact in facts.items()
    }


def _is_of(message: Message, request_id: int) -> bool:
    return message[1] == request_id and message[0].name not in ("pong", "call")


def _apply(message: Message, response: Response) -> None:
    kind = message[0].name
    response.kinds.append(kind)

    if kind in ("response", "start"):
        _, _, response.status, response.headers, response.body = message
        response.is_complete = kind == "response"
    elif kind in ("data", "last"):
        response.body += message[2]
        response.is_complete = kind == "last"
    elif kind == "trailers":
        response.trailers = message[2]
        response.is_complete = True
    elif kind == "inform":
        response.informed.append((message[2], message[3]))
    elif kind == "abort":
        response.is_aborted = True


__all__ = (
    "APPS",
    "ROOT",
    "FakeNode",
    "Message",
    "Response",
    "make_request",
    "make_settings",
    "read_status",
    "wait_until",
)
