# SPDX-License-Identifier: Apache-2.0
"""Files as bodies: what the node is asked, and what its answers do to the session."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hornbeam._asgi import (
    AsgiOrderError,
    ClientDisconnected,
    ContentLengthMismatch,
    Message,
    Receive,
    Scope,
    Send,
)
from hornbeam._http_file import FileOffer, file_path
from hornbeam._runtime import Runtime
from worker_support import LOOPS, Exchange, body, raised_by, run, start

PLAIN = [(b"content-type", b"text/plain; charset=utf-8")]
ERROR = ("response", 500, PLAIN, b"Internal Server Error")
DONE = ("done",)


def file(path: object = "/srv/f") -> Message:
    return {"type": "http.response.pathsend", "path": path}


def offered(
    head: object, size: int | None = None, path: bytes = b"/srv/f"
) -> tuple[Any, ...]:
    return ("file", head, path, 0, size)


class Sender:
    """An application that sends messages and notes what the last one raised."""

    def __init__(self, *messages: Message) -> None:
        self._messages = messages
        self.error: BaseException | None = None
        self.received: Message = {}
        self.has_sent = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for message in self._messages[:-1]:
            await send(message)

        try:
            await send(self._messages[-1])
        except Exception as exc:
            self.error = exc
            raise

        self.has_sent = True
        self.received = await receive()


# The path.


@pytest.mark.parametrize(
    ("path", "encoded"),
    [
        ("/a/b", b"/a/b"),
        (b"/a/\xff", b"/a/\xff"),
        (Path("/a/b"), b"/a/b"),
        ("/a/größe", "/a/größe".encode()),
        ("/a/\udcff", b"/a/\xff"),
        ("/a/../b", b"/a/../b"),
        ("b/../c", os.getcwdb() + b"/b/../c"),
        (Path("b"), os.getcwdb() + b"/b"),
    ],
)
def test_path(path: object, encoded: bytes) -> None:
    """Absolute, and else as it is: what `..` means depends on links."""
    assert file_path(file(path)) == encoded


@pytest.mark.parametrize("path", [None, 7, ["/a"], bytearray(b"/a")])
def test_path_of_another_type(path: object) -> None:
    with pytest.raises(TypeError, match=r"path is a str, bytes or os\.PathLike, not "):
        file_path(file(path))


@pytest.mark.parametrize("path", ["", b"", "/a\0b"])
def test_path_that_is_none(path: object) -> None:
    with pytest.raises(ValueError, match="path is the path of a file, not "):
        file_path(file(path))


# Refusals.


@pytest.mark.parametrize(
    ("reason", "kind", "text"),
    [
        ("enoent", FileNotFoundError, "[Errno 2] No such file or directory: '/srv/f'"),
        ("eacces", PermissionError, "[Errno 13] Permission denied: '/srv/f'"),
        ("eisdir", IsADirectoryError, "[Errno 21] Is a directory: '/srv/f'"),
        ("emfile", OSError, "[Errno 24] Too many open files: '/srv/f'"),
        ("not_regular", OSError, "[Errno 22] is neither a file nor a folder: '/srv/f'"),
        ("badarg", OSError, "[Errno 5] Input/output error: '/srv/f'"),
        (
            "size",
            ContentLengthMismatch,
            "/srv/f has 7 bytes, content-length leaves 5 for it",
        ),
    ],
)
def test_refusal(reason: str, kind: type[Exception], text: str) -> None:
    class Flag:
        is_set = False

        def set(self) -> None:
            self.is_set = True

        async def wait(self) -> None:
            raise AssertionError

    flag = Flag()
    offer = FileOffer(b"/srv/f", 5, flag)
    offer.refuse(reason, 7)
    assert type(offer.error) is kind
    assert str(offer.error) == text
    assert flag.is_set
    assert not offer.is_opened


# The session.


@pytest.mark.parametrize("loop", LOOPS)
def test_opened(loop: str) -> None:
    """The send() waits for the node; the response is complete then."""

    async def test(runtime: Runtime) -> None:
        app = Sender(start(200, [(b"a", b"b")]), file())
        exchange = Exchange(runtime, app)
        exchange.session.start()
        await exchange.turn()
        assert exchange.sent == [offered((200, [(b"a", b"b")]))]
        assert not app.has_sent
        # The head is the file's now.
        exchange.session.send_held_start()
        assert len(exchange.sent) == 1
        exchange.session.handle_opened()
        await exchange.turn()
        assert app.received == {"type": "http.disconnect"}
        assert exchange.sent[1:] == [DONE]

    run(test, loop)


@pytest.mark.parametrize(
    ("messages", "sent"),
    [
        ([start(headers=[(b"content-length", b"9")])], [offered((200, ...), 9)]),
        (
            [
                start(headers=[(b"content-length", b"9")]),
                body(b"ab", more_body=True),
            ],
            [("start", 200, ..., b"ab"), offered(None, 7)],
        ),
        (
            [start(), body(b"ab", more_body=True)],
            [("start", 200, [], b"ab"), offered(None)],
        ),
    ],
    ids=["length", "rest of the length", "no length"],
)
def test_what_the_node_is_asked(
    messages: list[Message], sent: list[tuple[Any, ...]]
) -> None:
    async def test(runtime: Runtime) -> None:
        exchange = Exchange(runtime, Sender(*messages, file()))
        exchange.session.start()
        await exchange.turn()
        assert [blank_headers(each) for each in exchange.sent] == [
            blank_headers(each) for each in sent
        ]
        exchange.session.handle_opened()
        await exchange.turn()
        assert exchange.is_over
        assert not exchange.errors

    run(test)


def blank_headers(message: Any) -> Any:
    """Without the headers, which are not what this is about."""
    if not isinstance(message, tuple):
        return ... if isinstance(message, list) else message

    return tuple(blank_headers(field) for field in message)


def test_no_length_is_wanted_where_there_is_no_body() -> None:
    async def test(runtime: Runtime) -> None:
        length = [(b"content-length", b"9")]
        exchange = Exchange(runtime, Sender(start(200, length), file()), method="HEAD")
        exchange.session.start()
        await exchange.turn()
        assert exchange.sent == [offered((200, length))]
        exchange.session.handle_opened()
        await exchange.turn()
        assert exchange.is_over

    run(test)


def test_refused() -> None:
    """Nothing was sent, so the client gets a 500."""

    async def test(runtime: Runtime) -> None:
        app = Sender(start(), file())
        exchange = Exchange(runtime, app)
        exchange.session.start()
        await exchange.turn()
        exchange.session.handle_refused("enoent", 0)
        await exchange.turn()
        assert type(app.error) is FileNotFoundError
        assert exchange.sent[1:] == [ERROR, DONE]

    run(test)


def test_refused_and_something_else_sent() -> None:
    async def test(runtime: Runtime) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(start())
            error = await raised_by(send(file()))
            assert isinstance(error, FileNotFoundError)
            await send(body(b"x"))

        exchange = Exchange(runtime, app)
        exchange.session.start()
        await exchange.turn()
        exchange.session.handle_refused("enoent", 0)
        await exchange.turn()
        assert exchange.sent[1:] == [("response", 200, [], b"x"), DONE]

    run(test)


def test_refused_after_the_start() -> None:
    """The response has begun: what else came now would not be what was promised."""

    async def test(runtime: Runtime) -> None:
        exchange = Exchange(
            runtime, Sender(start(), body(b"a", more_body=True), file())
        )
        exchange.session.start()
        await exchange.turn()
        exchange.session.handle_refused("enoent", 0)
        await exchange.turn()
        assert exchange.sent[2:] == [("abort",), DONE]

    run(test)


def test_client_leaves_before_the_answer() -> None:
    async def test(runtime: Runtime) -> None:
        app = Sender(start(), file())
        exchange = Exchange(runtime, app)
        exchange.session.start()
        await exchange.turn()
        exchange.session.disconnect()
        await exchange.turn()
        assert type(app.error) is ClientDisconnected
        assert exchange.is_over
        assert not exchange.errors

    run(test)


def test_behind_what_a_cancelled_send_has_left() -> None:
    """Parts of the body that wait for room come first."""

    async def test(runtime: Runtime) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(start())
            task = runtime.spawn(lambda: ignore(send(body(b"x" * 8, more_body=True))))

            while not exchange.sent:
                await exchange.turn()

            task.cancel()
            await exchange.turn()
            await send(file())

        exchange = Exchange(runtime, app, window=4)
        exchange.session.start()
        await exchange.turn()
        await exchange.turn()
        await exchange.turn()
        assert exchange.kinds == ["start"]
        exchange.session.acknowledge(4)
        await exchange.turn()
        assert exchange.kinds == ["start", "data", "file"]
        exchange.session.handle_opened()
        await exchange.turn()
        assert exchange.is_over

    run(test)


async def ignore(awaitable: Any) -> None:
    await awaitable


def test_nothing_can_be_sent_while_the_node_opens_it() -> None:
    async def test(runtime: Runtime) -> None:
        exchange = Exchange(runtime, Sender(start(), file()))
        exchange.session.start()
        await exchange.turn()
        error = await raised_by(exchange.session.send(body(b"x")))
        assert isinstance(error, AsgiOrderError)
        exchange.session.handle_opened()
        error = await raised_by(exchange.session.send(body(b"x")))
        assert str(error).startswith("expected nothing more")

    run(test)


def test_cancelled_while_the_node_opens_it() -> None:
    """The node may have sent it: whatever it does, it gets no second answer from us."""

    async def test(runtime: Runtime) -> None:
        exchange = Exchange(runtime, Sender(start(), file()))
        exchange.session.start()
        await exchange.turn()
        exchange.session.stop()
        await exchange.turn()
        assert exchange.kinds == ["file", "response", "done"]
        # Late.
        exchange.session.handle_opened()
        assert exchange.kinds == ["file", "response", "done"]

    run(test)


@pytest.mark.parametrize("kind", ["http.response.push", "http.response.debug"])
def test_ignored_messages(kind: str) -> None:
    """Of extensions that the scope does not have: taken at any time, and dropped."""

    async def test(runtime: Runtime) -> None:
        message = {"type": kind}
        app = Sender(message, start(), message, body(b"x"), message)
        exchange = Exchange(runtime, app)
        assert await exchange.finish() == [("response", 200, [], b"x")]
        assert app.error is None

    run(test)


def test_order() -> None:
    async def test(runtime: Runtime) -> None:
        app = Sender(file())
        exchange = Exchange(runtime, app)
        assert await exchange.finish() == [ERROR]
        assert isinstance(app.error, AsgiOrderError)

    run(test)


def test_no_trailers_behind_it() -> None:
    async def test(runtime: Runtime) -> None:
        app = Sender(start(trailers=True), file())
        exchange = Exchange(runtime, app)
        assert await exchange.finish() == [ERROR]
        assert str(app.error) == "no trailers can follow a file that the server sends"

    run(test)


def test_answers_that_nobody_waits_for() -> None:
    """A node that says so without having been asked does no harm."""

    async def test(runtime: Runtime) -> None:
        exchange = Exchange(runtime, Sender(start(), body(b"x")))
        exchange.session.handle_opened()
        exchange.session.handle_refused("enoent", 0)
        assert await exchange.finish() == [("response", 200, [], b"x")]

    run(test)
