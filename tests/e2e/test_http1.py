# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.0 and HTTP/1.1 as they go over the wire."""

from __future__ import annotations

import uuid
from ast import literal_eval
from collections.abc import Iterator

import pytest

from e2e.observe import Server, serving
from e2e.raw import Connection, Cut, chunked, request, script, wait_until
from node import Node

# With this, a request and what follows it on its connection are Cowboy's.
UNUSUAL = ("TE", "trailers")


@pytest.fixture(scope="module")
def server(node: Node) -> Iterator[Server]:
    with serving(node, "contract") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Connection]:
    with Connection(server.url) as connection:
        yield connection


@pytest.fixture
def name() -> str:
    """A name for gates that no other test uses."""
    return uuid.uuid4().hex


def ask(server: Server, target: str, method: str = "GET") -> str:
    """A request on a connection of its own."""
    with Connection(server.url) as connection:
        answer = connection.exchange(method, target, [("Connection", "close")])

    assert answer.status == 200, answer
    return answer.text


# Connections.


def test_keep_alive(client: Connection) -> None:
    """An HTTP/1.1 connection carries request after request, without being asked to."""
    for number in range(3):
        answer = client.post("/echo", str(number).encode())
        assert (answer.status, answer.text) == (200, str(number))
        assert answer.keeps_alive
        assert answer.one("connection") is None

    client.read_silence(0.05)


def test_close_when_asked(client: Connection) -> None:
    answer = client.get("/hello", ("Connection", "close"))
    assert answer.one("connection") == b"close"
    client.read_eof()


def test_application_can_close(client: Connection) -> None:
    """A `connection: close` of the application is kept, and done."""
    headers = [(b"connection", b"close")]
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    answer = client.get(script("", start, {"type": "http.response.body"}))
    assert answer.one("connection") == b"close"
    client.read_eof()


def test_http10_closes(client: Connection) -> None:
    client.send(request(target="/hello", version="1.0"))
    answer = client.read_response()
    assert answer.text == "hello"
    assert answer.one("content-length") == b"5"
    client.read_eof()


def test_http10_keep_alive(client: Connection) -> None:
    """Only if asked for, and then the server says that it does."""
    headers = [("Connection", "keep-alive")]

    for _ in range(2):
        client.send(request(target="/hello", headers=headers, version="1.0"))
        answer = client.read_response()
        assert answer.text == "hello"
        assert answer.one("connection") == b"keep-alive"


def test_http10_stream_ends_with_the_connection(
    server: Server, client: Connection, name: str
) -> None:
    """No chunks for HTTP/1.0, also not with keep-alive, but parts as they come."""
    headers = [("Connection", "keep-alive")]
    client.send(request(target=f"/parts/{name}", headers=headers, version="1.0"))
    incoming = client.start_response()
    assert incoming.read_until(3) == b"one"
    ask(server, f"/open/{name}", "POST")
    answer = incoming.finish()
    assert answer.body == b"onetwo"
    assert answer.one("transfer-encoding") is None
    assert answer.one("connection") == b"close"
    client.read_eof()


def test_http10_without_host(client: Connection) -> None:
    client.send(b"GET /scope HTTP/1.0\r\n\r\n")
    scope = literal_eval(client.read_response().text)
    assert scope["http_version"] == "1.0"
    assert scope["headers"] == []


# Pipelining.


def test_pipelined_answers_come_in_order(client: Connection) -> None:
    bodies = [str(number).encode() for number in range(20)]
    client.send(b"".join(request("POST", "/echo", body=body) for body in bodies))
    assert [client.read_response().body for _ in bodies] == bodies


def test_slow_answer_is_not_overtaken(
    server: Server, client: Connection, name: str
) -> None:
    """A request that is held holds those behind it, whatever they ask for."""
    targets = [f"/hold/{name}", "/hello", "/scope"]
    client.send(b"".join(request(target=target) for target in targets))
    ask(server, f"/wait/held-{name}")
    client.read_silence(0.1)
    ask(server, f"/open/{name}", "POST")
    assert client.read_response().text == name
    assert client.read_response().text == "hello"
    assert literal_eval(client.read_response().text)["path"] == "/scope"


def test_pipelined_behind_a_stream(
    server: Server, client: Connection, name: str
) -> None:
    """What follows a streamed answer does not break into it."""
    client.send(request(target=f"/parts/{name}") + request(target="/hello"))
    incoming = client.start_response()
    incoming.read_until(3)
    ask(server, f"/open/{name}", "POST")
    assert incoming.finish().body == b"onetwo"
    assert client.read_response().text == "hello"


def test_pipelined_body_of_a_waiting_request(
    server: Server, client: Connection, name: str
) -> None:
    """Bodies that came before their turn, also larger than a window, are not lost."""
    body = b"x" * 200_000
    first = request(target=f"/hold/{name}") + request("POST", "/echo", body=body)
    client.send(first)
    ask(server, f"/open/{name}", "POST")
    assert client.read_response().text == name
    assert client.read_response().body == body


def test_pipelining_is_bounded(server: Server, client: Connection, name: str) -> None:
    """Behind one of Cowboy's wait 64 requests; a client that sends more is cut off."""
    hold = request(target=f"/hold/{name}", headers=[UNUSUAL])
    client.send(hold + 64 * request(target="/hello"))
    ask(server, f"/open/{name}", "POST")
    assert client.read_response().text == name
    assert all(client.read_response().text == "hello" for _ in range(64))

    with Connection(server.url) as greedy:
        hold = request(target=f"/hold/{name}-2", headers=[UNUSUAL])
        greedy.send(hold + 66 * request(target="/hello"))

        with pytest.raises(Cut):
            greedy.read_response()

        ask(server, f"/open/{name}-2", "POST")


def test_many_behind_a_usual_one(server: Server, client: Connection, name: str) -> None:
    """So many that the server does not read all of them until they have their turn."""
    post = request("POST", "/echo", body=b"x" * 1000)
    client.send(request(target=f"/hold/{name}"))
    ask(server, f"/wait/held-{name}")
    client.send(200 * (post + request(target="/hello")))
    ask(server, f"/open/{name}", "POST")
    assert client.read_response().text == name

    for _ in range(200):
        assert client.read_response("POST").body == b"x" * 1000
        assert client.read_response().text == "hello"


@pytest.mark.parametrize("rest", [b"GARBAGE\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_bad_request_behind_a_good_one(
    server: Server, client: Connection, name: str, rest: bytes
) -> None:
    """The refusal of the second is not taken for the answer to the first."""
    client.send(request(target=f"/hold/{name}"))
    ask(server, f"/wait/held-{name}")
    client.send(rest)
    client.is_readable(0.2)
    ask(server, f"/open/{name}", "POST")

    try:
        answer = client.read_response()
    except Cut as cut:
        assert cut.received == b""
    else:
        assert (answer.status, answer.text) == (200, name)


def test_bad_request_behind_a_stream(
    server: Server, client: Connection, name: str
) -> None:
    """The refusal of the second does not get into the body of the first."""
    client.send(request(target=f"/parts/{name}"))
    incoming = client.start_response()
    incoming.read_until(3)
    client.send(b"GARBAGE\r\n\r\n")
    client.is_readable(0.2)
    ask(server, f"/open/{name}", "POST")

    try:
        assert incoming.finish().body == b"onetwo"
    except Cut as cut:
        assert cut.received in (b"one", b"onetwo")


def test_chunked_request_behind_another(
    server: Server, client: Connection, name: str
) -> None:
    """What comes behind a usual request waits for its answer, and has one then."""
    post = request("POST", "/echo", [("Transfer-Encoding", "chunked")])
    client.send(request(target=f"/hold/{name}"))
    ask(server, f"/wait/held-{name}")
    client.send(post + chunked(b"body"))
    client.read_silence(0.1)
    ask(server, f"/open/{name}", "POST")
    assert client.read_response().text == name
    answer = client.read_response("POST")
    assert answer.body == b"body"
    assert answer.one("connection") == b"close"
    client.read_eof()


def test_chunked_request_behind_one_of_cowboys(
    server: Server, client: Connection, name: str
) -> None:
    """Has to come again: the connection ends, as it always may (RFC 9112 9.3.2)."""
    post = request("POST", "/echo", [("Transfer-Encoding", "chunked")])
    logged = len(server.node.logged())
    client.send(request(target=f"/hold/{name}", headers=[UNUSUAL]))
    ask(server, f"/wait/held-{name}")
    client.send(post + chunked(b"body"))

    with pytest.raises(Cut) as caught:
        client.read_response()

    assert caught.value.received == b""
    ask(server, f"/open/{name}", "POST")
    wait_until(lambda: server.in_flight() == 0, "the worker is rid of it")
    # Anybody could fill the log with it.
    assert "connection process started with" not in server.node.logged()[logged:]


# Expect: 100-continue.


EXPECT = ("Expect", "100-continue")


def test_continue_when_the_body_is_asked_for(
    server: Server, client: Connection
) -> None:
    """100 comes by receive(), the body after it, and the connection stays."""
    head = request("POST", "/echo", [EXPECT, ("Content-Length", "4")])
    client.send(head)
    informational = client.read_informational()
    assert (informational.status, informational.headers) == (100, [])
    client.read_silence(0.05)
    client.send(b"body")
    answer = client.read_response("POST")
    assert (answer.body, answer.informational) == (b"body", [])
    assert client.get("/hello").text == "hello"


def test_no_continue_before_receive(
    server: Server, client: Connection, name: str
) -> None:
    """An application that has not asked for the body yet has not asked for 100."""
    target = script(name, name, "receive")
    client.send(request("POST", target, [EXPECT, ("Content-Length", "4")]))
    ask(server, f"/wait/{name}-reached")
    client.read_silence(0.1)
    ask(server, f"/open/{name}", "POST")
    assert client.read_informational().status == 100


def test_final_answer_in_place_of_continue(client: Connection) -> None:
    """The client need not send its body, so that the connection can't go on."""
    client.send(request("POST", "/hello", [EXPECT, ("Content-Length", "4")]))
    answer = client.read_response("POST")
    assert (answer.status, answer.informational) == (200, [])
    assert answer.one("connection") == b"close"
    client.read_eof()


def test_expect_of_http10_is_ignored(client: Connection) -> None:
    headers = [EXPECT, ("Content-Length", "4")]
    client.send(request("POST", "/echo", headers, version="1.0"))
    client.read_silence(0.1)
    client.send(b"body")
    answer = client.read_response("POST")
    assert (answer.body, answer.informational) == (b"body", [])


def test_no_continue_without_a_body(client: Connection) -> None:
    assert client.get("/messages", EXPECT).informational == []


# Bodies.


def test_chunked_request(client: Connection) -> None:
    """Chunks, their extensions and the trailer section do not show."""
    body = b"3\r\none\r\n3;name=value\r\ntwo\r\n00A\r\n0123456789\r\n0\r\n\r\n"
    client.send(request("POST", "/echo", [("Transfer-Encoding", "chunked")]) + body)
    answer = client.read_response("POST")
    assert answer.body == b"onetwo0123456789"
    # What follows chunks is not believed to be a request.
    assert answer.one("connection") == b"close"
    client.read_eof()


def test_chunked_request_part_by_part(
    server: Server, client: Connection, name: str
) -> None:
    """The application gets a chunk before the next one is sent."""
    client.send(
        request("POST", f"/counting/{name}", [("Transfer-Encoding", "chunked")])
    )

    for count in range(1, 4):
        client.send(b"1\r\nx\r\n")
        ask(server, f"/wait/{name}-{count}")

    client.send(b"0\r\n\r\n")
    assert client.read_response("POST").text == "3"


def test_large_chunked_request(client: Connection) -> None:
    part = bytes(range(256)) * 4096
    headers = [("Transfer-Encoding", "chunked")]
    client.send(request("POST", "/echo", headers) + chunked(part, part, part))
    assert client.read_response("POST").body == 3 * part


def test_chunked_response(server: Server, client: Connection, name: str) -> None:
    """A part arrives before the next one is sent."""
    client.send(request(target=f"/parts/{name}"))
    incoming = client.start_response()
    assert incoming.read_until(3) == b"one"
    ask(server, f"/open/{name}", "POST")
    answer = incoming.finish()
    assert answer.body == b"onetwo"
    assert answer.one("transfer-encoding") == b"chunked"
    assert client.get("/hello").text == "hello"


BODY_TYPE = "http.response.body"


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("parts", [[b""], [b"body"], [b"one", b"two"]])
def test_statuses_without_a_body(
    client: Connection, status: int, parts: list[bytes]
) -> None:
    """A body of 204 or 304 is left out, and the connection goes on."""
    bodies = [{"type": BODY_TYPE, "body": part, "more_body": True} for part in parts]
    bodies[-1]["more_body"] = False
    start = {"type": "http.response.start", "status": status, "headers": []}
    answer = client.get(script("", start, *bodies))
    assert (answer.status, answer.body) == (status, b"")
    assert answer.one("transfer-encoding") is None
    assert client.get("/hello").text == "hello"


def test_head_of_a_whole_response(client: Connection) -> None:
    """The head of a GET, its content-length included, and no body."""
    answer = client.exchange("HEAD", "/hello")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.one("content-length") == b"5"
    assert client.get("/hello").text == "hello"


def test_head_of_a_stream(server: Server, client: Connection, name: str) -> None:
    ask(server, f"/open/{name}", "POST")
    assert client.exchange("HEAD", f"/parts/{name}").body == b""
    assert client.get("/hello").text == "hello"


def test_head_with_content_length_and_no_body(client: Connection) -> None:
    """What an application does that knows the length and makes no body for HEAD."""
    headers = [(b"content-length", b"1000")]
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    answer = client.exchange("HEAD", script("", start, {"type": BODY_TYPE}))
    assert answer.one("content-length") == b"1000"
    assert client.get("/hello").text == "hello"


@pytest.mark.parametrize("target", ["/echo", "/hello"])
def test_connection_goes_on_after_a_body(client: Connection, target: str) -> None:
    """Whatever its size, and whether or not the application reads it."""
    for size in (1, 65_535, 65_536, 100_000, 200_000, 500_000, 1_000_000):
        body = b"G" * size
        client.send(request("POST", target, body=body) + request(target="/hello"))
        assert client.read_response("POST").body in (body, b"hello")
        assert client.read_response().body == b"hello"


def test_large_unread_body_ends_the_connection(client: Connection) -> None:
    """More than a megabyte is not worth reading: the answer comes, and the end."""
    client.send(request("POST", "/hello", [("Content-Length", "100000000")]))
    client.send(b"G" * 10_000)
    assert client.read_response("POST").text == "hello"
    client.read_eof()


# Targets and methods.


def test_absolute_form(client: Connection) -> None:
    target = "http://example.com:81/scope?a=b"
    answer = client.get(target, ("Host", "example.com:81"))
    scope = literal_eval(answer.text)
    assert (scope["path"], scope["raw_path"]) == ("/scope", b"/scope")
    assert scope["query_string"] == b"a=b"
    assert (b"host", b"example.com:81") in scope["headers"]


def test_options_asterisk(server: Server, client: Connection) -> None:
    """`OPTIONS *` has the path `*`, which the routes of the application do not know."""
    answer = client.exchange("OPTIONS", "*")
    assert (answer.status, answer.text) == (404, "no handler for *")


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "M-SEARCH"]
)
def test_methods(client: Connection, method: str) -> None:
    scope = literal_eval(client.exchange(method, "/scope").text)
    assert scope["method"] == method


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
def test_methods_of_proxies_are_refused(client: Connection, method: str) -> None:
    target = "example.com:443" if method == "CONNECT" else "/"
    answer = client.exchange(method, target)
    assert answer.status == 501
    client.read_eof()


def test_empty_lines_before_a_request(client: Connection) -> None:
    """RFC 9112 2.2: some clients send one after a body."""
    client.send(b"\r\n" + request(target="/hello"))
    assert client.read_response().text == "hello"


# Halves and crumbs.


def test_byte_by_byte(client: Connection) -> None:
    """A request in single bytes is a request, and so is the one behind it."""
    headers = [("X-Name", "value")]
    client.drip(request("POST", "/echo", headers, b"body"))
    assert client.read_response("POST").body == b"body"
    client.drip(
        request("POST", "/echo", [("Transfer-Encoding", "chunked")])
        + b"3;x=y\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    )
    assert client.read_response("POST").body == b"onetwo"


@pytest.mark.parametrize(
    "half",
    [
        b"G",
        b"GET /see/{} HTTP/1.1",
        b"GET /see/{} HTTP/1.1\r\n",
        b"GET /see/{} HTTP/1.1\r\nHost: x\r\n",
        b"GET /see/{} HTTP/1.1\r\nHost: x\r\n\r",
    ],
)
def test_half_a_head_is_no_request(server: Server, name: str, half: bytes) -> None:
    """A client that leaves within the head has asked for nothing."""
    with Connection(server.url) as client:
        client.send(half.replace(b"{}", name.encode()))
        wait_until(lambda: server.connections() > 0, "the connection is seen")

    wait_until(lambda: server.connections() == 0, "its end is seen")
    assert ask(server, f"/seen/{name}") == "False"


def test_half_a_body_is_a_disconnect(server: Server, name: str) -> None:
    """The application learns that the rest will not come."""
    target = script(name, "receive", f"{name}-half", "receive", "receive")

    with Connection(server.url) as client:
        client.send(request("POST", target, [("Content-Length", "10")]) + b"half")
        ask(server, f"/wait/{name}-half-reached")

    ask(server, f"/open/{name}-half", "POST")
    got = literal_eval(ask(server, f"/wait/{name}"))
    assert got[0] == {"type": "http.request", "body": b"half", "more_body": True}
    assert got[1:] == [{"type": "http.disconnect"}] * 2


def test_long_silence_in_a_stream(node: Node) -> None:
    """An event stream outlives every timeout that is for other things."""
    options = (
        "#{timeout => 1000, keepalive => 1000, header_timeout => 1000,"
        " body_timeout => 1000, send_timeout => 1000, queue_timeout => 1000}"
    )

    with serving(node, "contract", options) as server, Connection(server.url) as client:
        answer = client.get("/silence/2.5")
        assert answer.body == b"data: 1\n\ndata: 2\n\n"
        assert client.get("/hello").text == "hello"
