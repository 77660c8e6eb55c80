#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The fake worker with what it takes to test services: calls, publishes, hooks.

`/call?f=FUNCTION&args=EXPRESSION` calls a service with the tuple that the Python
expression gives, and answers with the outcome as text; `/cast` is the same without an
answer. Every message about services that comes is noted in `seen`, as
`worker_id head ...`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import fake_worker
from fake_worker import Atom, Decoder, Request, Steps, Worker, encode, note


def blob(term: Any) -> bytes:
    return b"\x83" + encode(term)


def shown(value: Any) -> str:
    """Return a term as text; blobs as what is in them."""
    if isinstance(value, bytes) and value.startswith(b"\x83"):
        return shown(Decoder(value[1:]).term())

    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")

    if isinstance(value, list):
        return "[" + ",".join(map(shown, value)) + "]"

    return str(value)


class ServicesWorker(Worker):
    """Runs hooks, and notes what else it gets."""

    def __init__(self) -> None:
        super().__init__()
        # Streams that it produces: what is left of them, and the credit for it.
        self.producing: dict[int, Iterator[Any]] = {}
        self.credits: dict[int, int] = {}

    def on_publish(self, topic: bytes, message: bytes) -> None:
        self.see("publish", shown(topic), shown(message))

    def on_dropped(self, count: int) -> None:
        self.see("dropped", count)

    def on_item(self, stream_id: int, item: bytes) -> None:
        self.see("item", shown(item))

    def on_stream_end(self, stream_id: int) -> None:
        self.see("stream_end")

    def on_stream_error(self, stream_id: int, error: Any) -> None:
        self.see("stream_error", error[0])

    def on_invoke(self, invoke_id: int, path: bytes, *rest: Any) -> None:
        method, args, kwargs, kind = rest
        self.see("invoke", shown(path), kind, shown(method))
        HOOKS[path.decode().rpartition("/")[2]](self, invoke_id, args, kwargs)
        self.produce(invoke_id)

    def on_invoke_cancel(self, invoke_id: int) -> None:
        self.producing.pop(invoke_id, None)
        self.see("invoke_cancel")

    def on_invoke_credit(self, invoke_id: int, count: int) -> None:
        self.see("invoke_credit", count)
        self.credits[invoke_id] = self.credits.get(invoke_id, 0) + count
        self.produce(invoke_id)

    def produce(self, invoke_id: int) -> None:
        items = self.producing.get(invoke_id)
        while items is not None and self.credits.get(invoke_id, 0) > 0:
            self.credits[invoke_id] -= 1
            try:
                item = next(items)
            except StopIteration:
                del self.producing[invoke_id]
                self.send("result", invoke_id, Atom("ok"), blob(None))
                return
            except ValueError as error:
                del self.producing[invoke_id]
                self.fail(invoke_id, error)
                return

            self.send("produce", invoke_id, blob(item))

    def fail(self, invoke_id: int, error: Exception) -> None:
        facts = {
            Atom("class"): type(error).__name__.encode(),
            Atom("reason"): str(error).encode(),
            Atom("stack"): b"Traceback ...",
        }
        self.send("result", invoke_id, Atom("error"), facts)


# Hooks, by the last segment of their path.


def hook_echo(
    worker: ServicesWorker, invoke_id: int, args: bytes, kwargs: bytes
) -> None:
    decoded = (worker.id, Decoder(args[1:]).term(), Decoder(kwargs[1:]).term())
    worker.send("result", invoke_id, Atom("ok"), blob(decoded))


def hook_fail(worker: ServicesWorker, invoke_id: int, *_: bytes) -> None:
    worker.fail(invoke_id, ValueError("no such thing"))


def hook_never(worker: ServicesWorker, invoke_id: int, *_: bytes) -> None:
    worker.see("never")


def hook_die(worker: ServicesWorker, invoke_id: int, *_: bytes) -> None:
    os._exit(3)


def hook_twice(worker: ServicesWorker, invoke_id: int, *_: bytes) -> None:
    for text in (b"one", b"two"):
        worker.send("result", invoke_id, Atom("ok"), blob(text))

    worker.send("result", 10**9, Atom("ok"), blob(b"stray"))
    worker.send("produce", 10**9, blob(b"stray"))


def hook_count(
    worker: ServicesWorker, invoke_id: int, args: bytes, kwargs: bytes
) -> None:
    worker.producing[invoke_id] = iter(range(Decoder(args[1:]).term()[0]))


def hook_breaks(worker: ServicesWorker, invoke_id: int, *_: bytes) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    worker.producing[invoke_id] = items()


def hook_dies(worker: ServicesWorker, invoke_id: int, *_: bytes) -> None:
    def items() -> Iterator[int]:
        yield 1
        os._exit(3)

    worker.producing[invoke_id] = items()


def hook_greedy(worker: ServicesWorker, invoke_id: int, *_: bytes) -> None:
    """Send far more than it was given credit for."""
    for number in range(100_000):
        worker.send("produce", invoke_id, blob(number))


HOOKS: dict[str, Any] = {
    name.removeprefix("hook_"): hook
    for name, hook in list(globals().items())
    if name.startswith("hook_")
}


# Routes


def arguments(request: Request) -> Any:
    names = {"Atom": Atom, "blob": blob, "infinity": Atom("infinity")}
    return eval(request.query["args"], names)  # of the test's own making


def call(worker: Worker, request: Request) -> Steps:
    args = arguments(request)
    worker.send("call", request.id, Atom(request.query["f"]), args)
    yield lambda: request.id in worker.replies
    outcome, value = worker.replies.pop(request.id)
    text = shown(value if outcome == "ok" else value[0])
    worker.respond(request, f"{outcome} {text}".encode())


def cast(worker: Worker, request: Request) -> Steps:
    worker.send("cast", Atom(request.query["f"]), arguments(request))
    worker.respond(request, b"cast")
    yield from ()


if __name__ == "__main__":
    signal.alarm(fake_worker.LIFE_S)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    fake_worker.ROUTES.update({"/call": call, "/cast": cast})
    fake_worker.STARTS["services"] = fake_worker.ready
    note("pids", str(os.getpid()))
    ServicesWorker().run()
