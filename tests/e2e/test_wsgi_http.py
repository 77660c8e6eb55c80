# SPDX-License-Identifier: Apache-2.0
"""Requests of a WSGI application over a socket, as PEP 3333 wants them.

The application is wrapped in wsgiref's validator: a fault of the server is a 500.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from e2e.http2 import Client
from e2e.observe import Server
from e2e.raw import Connection, Cut, Response, chunked, request, wait_until
from e2e.wsgi import get, serving, target
from node import Node

AT_ONCE_SECONDS = 2.0
"""Generous, for machines that do other things."""

CHUNKED = ("Transfer-Encoding", "chunked")


@pytest.fixture(scope="module")
def server(node: Node) -> Iterator[Server]:
    options = "#{threads => 4, shutdown_timeout => 1000}"

    with serving(node, options) as running:
        yield running


@pytest.fixture(scope="module")
def plain(node: Node) -> Iterator[Server]:
    """Without the validator, which hides what a file wrapper is."""
    with serving(node, app="wsgi_raw:application") as running:
        yield running


@pytest.fixture
def connection(server: Server) -> Iterator[Connection]:
    with Connection(server.url) as connected:
        yield connected


def environ_of(
    server: Server, path: str = "/environ", *headers: tuple[str, str]
) -> dict[str, Any]:
    answer = get(server, path, *headers)
    assert answer.status == 200, answer
    environ: dict[str, Any] = json.loads(answer.body)
    return environ


def digest(body: bytes) -> str:
    return f"{len(body)} {hashlib.sha256(body).hexdigest()}"


# The environ.


def test_environ(server: Server) -> None:
    """What a request has, by PEP 3333 and as gunicorn adds to it."""
    environ = environ_of(server, "/environ/a%20b?x=%20&y")
    port = server.url.rpartition(":")[2]
    expected = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/environ/a b",
        "QUERY_STRING": "x=%20&y",
        "RAW_URI": "/environ/a%20b?x=%20&y",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": port,
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "test",
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    assert expected.items() <= environ.items()
    assert environ["REMOTE_PORT"].isdigit()
    assert not environ.keys() & {"CONTENT_TYPE", "CONTENT_LENGTH"}


def test_environ_is_latin_1(server: Server) -> None:
    """Bytes beyond ASCII are one character each, in the path and in headers."""
    environ = environ_of(server, "/environ/%C4%8D", ("X-Latin", "h\xe9llo"))
    assert environ["PATH_INFO"] == "/environ/\xc4\x8d"
    assert environ["HTTP_X_LATIN"] == "h\xe9llo"


def test_headers_of_the_environ(server: Server) -> None:
    """Duplicates are joined, cookies in their way; an underscore makes no header."""
    environ = environ_of(
        server,
        "/environ",
        ("X-Several", "1"),
        ("X-Several", "2"),
        ("Cookie", "a=1"),
        ("Cookie", "b=2"),
        ("X-Real", "checked"),
        ("X_Real", "forged"),
        ("Content-Type", "text/css"),
    )
    assert re.fullmatch("1, ?2", environ["HTTP_X_SEVERAL"])
    assert environ["HTTP_COOKIE"] == "a=1; b=2"
    assert environ["HTTP_X_REAL"] == "checked"
    assert environ["CONTENT_TYPE"] == "text/css"
    assert "HTTP_CONTENT_TYPE" not in environ


def test_http_1_0(server: Server) -> None:
    with Connection(server.url) as client:
        client.send(request("GET", "/environ", version="1.0"))
        environ = json.loads(client.read_response().body)

    assert environ["SERVER_PROTOCOL"] == "HTTP/1.0"


@pytest.mark.parametrize(
    ("path", "script_name", "path_info"),
    [("/shop/environ/x", "/shop", "/environ/x"), ("/environ", "/shop", "/environ")],
    ids=["under the prefix", "a proxy has taken it off"],
)
def test_root_path(
    mounted: Server, path: str, script_name: str, path_info: str
) -> None:
    environ = environ_of(mounted, path)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)


@pytest.fixture(scope="module")
def mounted(node: Node) -> Iterator[Server]:
    options = '#{root_path => "/shop", proxy_headers => ["127.0.0.1"]}'

    with serving(node, options) as running:
        yield running


def test_behind_a_proxy(mounted: Server) -> None:
    """Scheme and client are those that a trusted proxy names."""
    forwarded = ("Forwarded", "for=203.0.113.7;proto=https")
    environ = environ_of(mounted, "/environ", forwarded)
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["REMOTE_ADDR"] == "203.0.113.7"


def test_unix_socket(node: Node, tmp_path: Path) -> None:
    """The client has no address there; the server's name is what the client says."""
    path = tmp_path / "socket"

    with (
        serving(node, f'#{{bind => "unix:{path}"}}'),
        Connection(f"unix:{path}") as client,
    ):
        environ = json.loads(client.get("/environ", ("Host", "shop:81")).body)

    assert environ["REMOTE_ADDR"] == ""
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("shop", "81")


# Request bodies.


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 3_000_000], ids=str)
def test_body_with_a_length(connection: Connection, size: int) -> None:
    """Arrives whole, and ends where it ends; the connection goes on."""
    body = random.Random(size).randbytes(size)
    assert connection.post("/digest", body).text == digest(body)
    assert connection.post("/digest", b"next").text == digest(b"next")


@pytest.mark.parametrize("size", [0, 1000, 200_000], ids=str)
def test_chunked_body(connection: Connection, size: int) -> None:
    """Ends where it ends, without a length."""
    body = random.Random(size).randbytes(size)
    half = size // 2
    parts = [part for part in (body[:half], body[half:]) if part]
    connection.send(request("POST", "/digest", [CHUNKED]) + chunked(*parts))
    assert connection.read_response("POST").text == digest(body)


@pytest.mark.parametrize(
    ("parts", "length"), [((b"ab", b"c"), "3"), ((), "0")], ids=["some", "none"]
)
def test_chunked_body_that_was_gathered(
    connection: Connection, parts: tuple[bytes, ...], length: str
) -> None:
    """Has a length, for applications that take one without a length for none."""
    connection.send(request("POST", "/environ", [CHUNKED]) + chunked(*parts))
    environ = json.loads(connection.read_response("POST").body)
    assert environ["CONTENT_LENGTH"] == length
    assert "HTTP_TRANSFER_ENCODING" not in environ


def test_request_without_a_body(connection: Connection) -> None:
    assert connection.get("/digest").text == digest(b"")


def test_lines_of_a_body(connection: Connection) -> None:
    assert connection.post("/lines", b"a\nbc\nd").text == "0:a\n|1:bc\n|2:d"


def test_large_echo(connection: Connection) -> None:
    """Comes back while it is still being sent."""
    body = random.Random(3).randbytes(3_000_000)
    sender = threading.Thread(
        target=connection.send, args=(request("POST", "/echo", body=body),)
    )
    sender.start()
    answer = connection.read_response("POST")
    sender.join()
    assert answer.body == body


@pytest.mark.parametrize("size", [4, 100_000], ids=str)
def test_continue(connection: Connection, size: int) -> None:
    """A client that waits for it is told to send its body."""
    length = ("Content-Length", str(size))
    connection.send(request("POST", "/digest", [length, ("Expect", "100-continue")]))
    assert connection.read_informational().status == 100
    connection.send(bytes(size))
    assert connection.read_response("POST").text == digest(bytes(size))


def test_continue_that_is_not_waited_for(connection: Connection) -> None:
    """The body may come at once."""
    head = [("Content-Length", "4"), ("Expect", "100-continue")]
    connection.send(request("POST", "/digest", head) + b"body")
    assert connection.read_response("POST").text == digest(b"body")


def test_slow_upload_beyond_what_is_gathered(connection: Connection) -> None:
    """The application reads the beginning before the end is sent."""
    body = bytes(70_000)
    length = ("Content-Length", str(len(body) + 1))
    connection.send(request("POST", "/half_read", [length]) + b"x" + body[:-1])
    assert connection.read_response("POST").text == "x"


def test_small_upload_byte_by_byte(connection: Connection) -> None:
    connection.drip(request("POST", "/digest", body=b"slowly"))
    assert connection.read_response("POST").text == digest(b"slowly")


def test_half_sent_uploads_hold_no_thread(node: Node) -> None:
    """200 of them, and others answer at once; each is answered when its rest comes."""
    half = request("POST", "/digest", [("Content-Length", "1000")], bytes(500))

    # No time limit ends them before that.
    options = "#{threads => 2, timeout => 600000, body_timeout => 600000}"

    with serving(node, options) as server, ExitStack() as stack:
        slow = [stack.enter_context(Connection(server.url)) for _ in range(200)]

        for each in slow:
            each.send(half)

        wait_until(lambda: server.connections() == 200, "all of them are connected")
        before = time.monotonic()

        for _ in range(20):
            assert get(server, "/hello").text == "hello"

        assert time.monotonic() - before < AT_ONCE_SECONDS

        wait_until(lambda: server.in_flight() == 0, "none of them is with the worker")

        for each in slow:
            each.send(bytes(500))

        expected = {digest(bytes(1000))}
        assert {each.read_response("POST").text for each in slow} == expected


def test_upload_that_stops(node: Node) -> None:
    """408 after `body_timeout`: before a thread has it, and when one waits."""
    with serving(node, "#{body_timeout => 200}") as server:
        for sent, length in ((10, 1000), (70_000, 100_000)):
            with Connection(server.url) as client:
                head = request("POST", "/digest", [("Content-Length", str(length))])
                client.send(head + bytes(sent))
                answer = client.read_response("POST")
                assert (answer.status, answer.keeps_alive) == (408, False)

        wait_until(lambda: server.in_flight() == 0, "the thread is free again")


def test_body_too_large(node: Node) -> None:
    """413: by its length, and by what has come without one."""
    with serving(node, "#{max_body => 1000}") as server:
        with Connection(server.url) as client:
            assert client.post("/digest", bytes(1000)).text == digest(bytes(1000))
            assert client.post("/digest", bytes(1001)).status == 413

        with Connection(server.url) as client:
            client.send(request("POST", "/digest", [CHUNKED]) + chunked(bytes(1001)))
            assert client.read_response("POST").status == 413


def test_client_leaves_during_its_upload(server: Server) -> None:
    """Before a thread has the request, and when one waits: nothing stays."""
    for sent in (10, 70_000):
        with Connection(server.url) as client:
            head = request("POST", "/digest", [("Content-Length", "100000")])
            client.send(head + bytes(sent))

            if sent > 65536:
                wait_until(lambda: server.in_flight() == 1, "a thread has it")

    wait_until(lambda: server.in_flight() == 0, "the thread is free again")
    assert get(server, "/hello").text == "hello"


# Responses.


def test_whole_response(plain: Server) -> None:
    """A list has a length, also where the application gave none."""
    answer = get(plain, "/hello")
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.one("content-length") == b"5"
    assert answer.one("content-type") == b"text/plain; charset=utf-8"
    assert answer.keeps_alive


def test_status_and_headers(connection: Connection) -> None:
    """Headers are kept apart and are Latin-1."""
    answer = connection.get("/several_headers")
    assert (answer.status, answer.body) == (299, b"")
    assert answer.all("set-cookie") == [b"a=1", b"b=2"]
    assert answer.one("x-latin") == b"h\xe9"


def test_parts_arrive_as_they_are_made(connection: Connection, tmp_path: Path) -> None:
    """Each is here before the application can go on; the generator is closed."""
    gate, over = tmp_path / "gate", tmp_path / "over"
    connection.send(request(target=target("/stream", until=gate, tells=over)))
    answer = connection.start_response()
    expected = b""

    for number in range(3):
        expected += b"part %d\n" % number
        assert answer.read_until(len(expected)) == expected
        # Nothing is left to wait for after the last.
        assert number == 2 or not over.exists()
        Path(f"{gate}-{number + 1}").touch()

    assert answer.finish().body == expected
    wait_until(over.exists, "the generator is closed")


def test_http_1_0_stream_ends_with_the_connection(
    server: Server, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    Path(f"{gate}-1").touch()
    Path(f"{gate}-2").touch()
    path = target("/stream", until=gate, tells=tmp_path / "over")

    with Connection(server.url) as client:
        client.send(request("GET", path, version="1.0"))
        answer = client.read_response()

    assert answer.body == b"part 0\npart 1\npart 2\n"
    assert answer.one("transfer-encoding") is None


@pytest.mark.parametrize("leave", [Connection.close, Connection.reset])
def test_client_leaves_a_stream(
    server: Server, tmp_path: Path, leave: Callable[[Connection], None]
) -> None:
    """The generator is closed, and its thread is free."""
    over = tmp_path / "over"

    with Connection(server.url) as client:
        client.send(request(target=target("/endless", tells=over)))
        client.start_response().read_until(1000)
        leave(client)

    wait_until(over.exists, "the generator is closed")
    wait_until(lambda: server.in_flight() == 0, "the thread is free again")


def test_client_that_does_not_read(server: Server, tmp_path: Path) -> None:
    """Costs a window and its thread's time, no more; others are served."""
    over = tmp_path / "over"

    with Connection(server.url, receive_buffer=4096) as client:
        client.send(request(target=target("/endless", tells=over)))
        client.start_response()
        assert get(server, "/hello").text == "hello"
        assert not over.exists()

    wait_until(over.exists, "the generator is closed")


def test_close_is_called(connection: Connection, tmp_path: Path) -> None:
    over = tmp_path / "over"
    assert connection.get(target("/closed", tells=over)).text == "a body"
    wait_until(over.exists, "close() was called")


def test_write(connection: Connection, tmp_path: Path) -> None:
    """What write() takes goes out at once, before what is returned."""
    gate = tmp_path / "gate"
    connection.send(request(target=target("/writes", until=gate)))
    answer = connection.start_response()
    assert answer.read_until(9) == b"written, "
    gate.touch()
    assert answer.finish().text == "written, and returned"


def test_error_page(connection: Connection) -> None:
    """A second start_response() with exc_info replaces the first."""
    answer = connection.get("/error_page")
    assert (answer.status, answer.text) == (503, "an error page")
    assert answer.one("x-first") is None


def test_error_page_too_late(connection: Connection) -> None:
    """After the head has gone it raises: the response is cut."""
    connection.send(request(target="/late_error"))

    with pytest.raises(Cut) as cut:
        connection.read_response()

    assert cut.value.received == b"begun"


def test_fault_before_the_response(connection: Connection, node: Node) -> None:
    """500 without detail; the log has it with the request's number."""
    answer = connection.get("/fails")
    assert (answer.status, answer.text) == (500, "Internal Server Error")
    node.wait_for_output(
        r"request \d+: GET /fails: the application raised before the response started"
        r"[^\0]*RuntimeError: the application failed"
    )
    assert connection.get("/hello").text == "hello"


def test_fault_in_a_stream(connection: Connection) -> None:
    """Cut, never a well-formed end."""
    connection.send(request(target="/breaks_off"))

    with pytest.raises(Cut) as cut:
        connection.read_response()

    assert cut.value.received == b"begun"


@pytest.mark.parametrize("path", ["/hello", "/sized"])
def test_head(plain: Server, path: str) -> None:
    """The length of the body and none of it."""
    with Connection(plain.url) as client:
        answer = client.exchange("HEAD", path)
        assert (answer.status, answer.body) == (200, b"")
        assert answer.one("content-length") == b"5"
        assert client.get("/hello").text == "hello"


def test_no_content(connection: Connection) -> None:
    answer = connection.get("/empty")
    assert (answer.status, answer.body) == (204, b"")
    assert connection.get("/hello").text == "hello"


def test_early_hints(connection: Connection, tmp_path: Path) -> None:
    """103 is with the client before the application goes on."""
    gate = tmp_path / "gate"
    connection.send(request(target=target("/hints", until=gate)))
    hints = connection.read_informational()
    assert hints.status == 103
    assert (b"link", b"</style.css>; rel=preload; as=style") in hints.headers
    gate.touch()
    assert connection.read_response().text == "hinted"


def test_errors_go_to_the_log(connection: Connection, node: Node) -> None:
    """With the number of their request."""
    connection.get("/logs?mark-of-this-test")
    node.wait_for_output(r"request \d+: a line for the log: mark-of-this-test")


# Files.


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "large"
    path.write_bytes(random.Random(20).randbytes(20_000_000))
    return path


@pytest.mark.parametrize("sized", [{"sized": "1"}, {}], ids=["sized", "without length"])
@pytest.mark.parametrize("by", ["node", "worker"])
def test_large_file(
    request: pytest.FixtureRequest, large_file: Path, by: str, sized: dict[str, str]
) -> None:
    """Arrives whole: sent by the node, or through the validator as blocks."""
    server = request.getfixturevalue("plain" if by == "node" else "server")
    answer = get(server, target("/file", path=large_file, **sized))
    assert answer.status == 200
    assert digest(answer.body) == digest(large_file.read_bytes())

    # The node knows the length of what it sends.
    if sized or by == "node":
        assert answer.one("content-length") == b"20000000"


def test_file_is_sent_by_the_node(plain: Server, large_file: Path) -> None:
    """The thread is free while the client has not read it."""
    path = target("/file", path=large_file)

    with Connection(plain.url, receive_buffer=4096) as client:
        client.send(request(target=path))
        answer = client.start_response()
        wait_until(lambda: plain.in_flight() == 0, "the thread is free")
        assert digest(answer.finish().body) == digest(large_file.read_bytes())


@pytest.mark.parametrize("size", [0, 1, 100_000], ids=str)
def test_small_file(plain: Server, tmp_path: Path, size: int) -> None:
    path = tmp_path / "small"
    path.write_bytes(bytes(size))
    assert get(plain, target("/file", path=path)).body == bytes(size)


def test_head_of_a_file(plain: Server, large_file: Path) -> None:
    with Connection(plain.url) as client:
        answer = client.exchange("HEAD", target("/file", path=large_file))
        assert (answer.status, answer.body) == (200, b"")
        assert client.get("/hello").text == "hello"


# Threads.


def test_contexts_are_apart(connection: Connection) -> None:
    """What a request leaves in a context variable no other one sees."""
    seen = {connection.get(f"/visitor?{number}").text for number in range(20)}
    assert seen == {"-"}


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ("#{threads => 3}", 3),
        ("#{threads => 8, max_concurrency => 2}", 2),
        ("#{threads => 2, max_concurrency => 100}", 2),
    ],
    ids=["threads", "max_concurrency", "never more than threads"],
)
def test_requests_at_once(node: Node, options: str, most: int) -> None:
    """As many as the options say; the others wait, and none is lost."""
    with serving(node, options) as server, ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: get(server, "/at_once"), range(40)))

    assert {answer.status for answer in answers} == {200}
    assert max(int(answer.text) for answer in answers) == most


# Other protocols.


def test_http2(server: Server) -> None:
    """Requests side by side on one connection, with a body and as a stream."""
    with Client(server.url) as client:
        environ = json.loads(client.get("/environ?a").body)
        assert client.get("/fails").status == 500
        broken = client.get("/breaks_off")
        assert broken.reset is not None or not broken.is_ended

    assert environ["SERVER_PROTOCOL"] == "HTTP/2"
    assert environ["HTTP_HOST"] == client.authority


@pytest.mark.parametrize("size", [1, 65534, 65535, 65536, 300_000], ids=str)
@pytest.mark.parametrize("window", ["default", "small"])
def test_http2_body(server: Server, narrow: Server, window: str, size: int) -> None:
    """Also one that is larger than what may come before a thread reads it."""
    body = random.Random(size).randbytes(size)

    with Client((narrow if window == "small" else server).url) as client:
        upload = client.request("/digest", method="POST", body=body)
        assert client.finish(upload).text == digest(body)


@pytest.fixture(scope="module")
def narrow(node: Node) -> Iterator[Server]:
    with serving(node, "#{window => 4096}") as running:
        yield running


def test_small_window(narrow: Server) -> None:
    """Large bodies both ways, in small pieces."""
    body = random.Random(4).randbytes(100_000)

    with Connection(narrow.url) as client:
        assert client.post("/digest", body).text == digest(body)
        assert client.post("/echo", body[:1000]).body == body[:1000]


def test_http2_half_sent_upload(server: Server) -> None:
    """Is gathered as well."""
    with Client(server.url) as client:
        slow = client.request("/digest", method="POST", ends=False)
        client.send_body(slow, b"half", ends=False)
        assert client.get("/hello").text == "hello"
        wait_until(lambda: server.in_flight() == 0, "only that one was with the worker")
        client.send_body(slow, b"rest")
        assert client.finish(slow).text == digest(b"halfrest")


WEBSOCKET = (
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
)


def test_websocket_handshake(connection: Connection) -> None:
    """Is a request like others for an application without WebSockets."""
    assert connection.get("/hello", *WEBSOCKET).text == "hello"
    assert connection.get("/hello").text == "hello"


def test_websocket_handshake_of_http2(server: Server) -> None:
    """An extended CONNECT can only open a WebSocket: 501."""
    protocol = [(":protocol", "websocket"), ("sec-websocket-version", "13")]

    with Client(server.url) as client:
        # RFC 8441 3: not before the server has said that it knows them.
        assert client.get("/hello").text == "hello"
        stream = client.request("/", method="CONNECT", headers=protocol, ends=False)
        assert client.finish(stream).status == 501


def test_pipelined_requests(connection: Connection) -> None:
    """Answered in order, one with a body among them."""
    upload = request("POST", "/digest", body=b"12")
    connection.send(request(target="/hello") + upload + request(target="/sized"))
    answers: list[Response] = [connection.read_response() for _ in range(3)]
    assert [each.text for each in answers] == ["hello", digest(b"12"), "sized"]
