# SPDX-License-Identifier: Apache-2.0
"""The ASGI contract for HTTP, clause by clause, as application and client see it."""

from __future__ import annotations

import re
import uuid
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.observe import Server, serving
from e2e.raw import Connection, Cut, Response, chunked, request, script
from node import Node

START = "http.response.start"
BODY = "http.response.body"
TRAILERS = "http.response.trailers"
EARLY_HINT = "http.response.early_hint"


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


def ask(server: Server, target: str, method: str = "GET") -> Any:
    """Ask on a connection of its own; the answer is a Python value, or nothing."""
    with Connection(server.url) as connection:
        answer = connection.exchange(method, target, [("Connection", "close")])

    assert answer.status == 200, answer
    return literal_eval(answer.text) if answer.body else None


def start(status: int = 200, *headers: tuple[bytes, bytes], **more: Any) -> Any:
    return {"type": START, "status": status, "headers": list(headers), **more}


def body(part: bytes = b"", **more: Any) -> Any:
    return {"type": BODY, "body": part, **more}


# The scope.


def read_scope(connection: Connection, *lines: str) -> Any:
    """Send a head as it stands, and return the scope that the application got."""
    connection.send("\r\n".join([*lines, "", ""]).encode("latin-1"))
    return literal_eval(connection.read_response().text)


def test_scope(server: Server, client: Connection) -> None:
    """All of it, with the types that ASGI asks for; literal_eval() keeps them apart."""
    scope = read_scope(
        client,
        "GET /scope/caf%C3%A9%2Fbar?a=%20b&c HTTP/1.1",
        "Host: Example.com:81",
        "X-Mixed: Case",
        "Accept: */*",
    )
    host, port = client.socket.getpeername()
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/scope/café/bar",
        "raw_path": b"/scope/caf%C3%A9%2Fbar",
        "query_string": b"a=%20b&c",
        "root_path": "",
        "headers": scope["headers"],
        "client": client.socket.getsockname(),
        "server": (host, port),
        "extensions": scope["extensions"],
    }
    assert isinstance(scope["client"], tuple)
    assert isinstance(scope["server"], tuple)
    assert {"http.response.trailers": {}, EARLY_HINT: {}}.items() <= (
        scope["extensions"].items()
    )


def test_scope_headers(client: Connection) -> None:
    """Pairs of bytes, names in lower case, values as sent without the space around."""
    scope = read_scope(
        client,
        "GET /scope HTTP/1.1",
        "Host: Example.com",
        "X-UPPER:   Value With Case  ",
        "X-Empty:",
        "X-Latin: caf\xe9",
        "transfer-Encoding-not: x",
    )
    assert isinstance(scope["headers"], list)
    assert sorted(tuple(pair) for pair in scope["headers"]) == [
        (b"host", b"Example.com"),
        (b"transfer-encoding-not", b"x"),
        (b"x-empty", b""),
        (b"x-latin", b"caf\xe9"),
        (b"x-upper", b"Value With Case"),
    ]


def test_scope_headers_that_come_again(client: Connection) -> None:
    """Nothing is lost, lists are joined by commas, cookies by semicolons (RFC 6265)."""
    scope = read_scope(
        client,
        "GET /scope HTTP/1.1",
        "Host: x",
        "X-List: 1",
        "Cookie: a=1",
        "X-List: 2, 3",
        "Cookie: b=2",
    )
    headers = [tuple(pair) for pair in scope["headers"]]
    values = [value for key, value in headers if key == b"x-list"]
    assert b", ".join(values) == b"1, 2, 3"
    cookies = [value for key, value in headers if key == b"cookie"]
    assert b"; ".join(cookies) == b"a=1; b=2"


@pytest.mark.parametrize(
    ("target", "path", "raw_path", "query"),
    [
        ("/scope/", "/scope/", b"/scope/", b""),
        ("/scope?", "/scope", b"/scope", b""),
        ("/scope?a=1?b=2", "/scope", b"/scope", b"a=1?b=2"),
        ("/scope?%ff%00=é", "/scope", b"/scope", "%ff%00=é".encode("latin-1")),
        ("/scope/%E2%82%AC", "/scope/€", b"/scope/%E2%82%AC", b""),
        ("/scope/%ff", "/scope/\ufffd", b"/scope/%ff", b""),
        ("/scope/%zz%4", "/scope/%zz%4", b"/scope/%zz%4", b""),
        ("/scope/a+b", "/scope/a+b", b"/scope/a+b", b""),
        ("/scope//a/../b/./", "/scope//a/../b/./", b"/scope//a/../b/./", b""),
        ("/scope/%2e%2e", "/scope/..", b"/scope/%2e%2e", b""),
        ("/scope/%3Fa#b", "/scope/?a", b"/scope/%3Fa", b""),
    ],
)
def test_scope_target(
    client: Connection, target: str, path: str, raw_path: bytes, query: bytes
) -> None:
    """Path decoded, raw path and query as sent; nothing is normalised."""
    scope = read_scope(client, f"GET {target} HTTP/1.1", "Host: x")
    got = (scope["path"], scope["raw_path"], scope["query_string"])
    assert got == (path, raw_path, query)


def test_scope_on_ipv6(node: Node) -> None:
    """Addresses without brackets."""
    with serving(node, "contract", '#{bind => "[::1]:0"}') as server:
        assert server.url.startswith("http://[::1]:")

        with Connection(server.url) as client:
            scope = read_scope(client, "GET /scope HTTP/1.1", "Host: x")
            assert scope["client"] == client.socket.getsockname()[:2]
            assert scope["server"] == client.socket.getpeername()[:2]


def test_scope_on_a_unix_socket(node: Node, tmp_path: Path) -> None:
    """The server is the path, the client has no name; the file goes with the server."""
    path = tmp_path / "app.sock"

    with serving(node, "contract", f'#{{bind => "unix:{path}"}}') as server:
        with Connection(f"unix:{path}") as client:
            scope = read_scope(client, "GET /scope HTTP/1.1", "Host: x")

        assert (scope["client"], scope["server"]) == (None, (str(path), None))
        assert server.url == f"unix:{path}"

    assert not path.exists()


def test_scope_is_the_requests_own(client: Connection) -> None:
    """What one request changes in its scope is not there for the next one."""
    first = client.get("/scope").text
    assert client.get("/scope").text == first


@pytest.mark.parametrize("root_path", ["/app", "/app/"])
def test_root_path(node: Node, root_path: str) -> None:
    """Part of the path, without a slash at its end, and not of what the client sent."""
    options = f'#{{root_path => "{root_path}"}}'

    with serving(node, "contract", options) as server, Connection(server.url) as client:
        scope = read_scope(client, "GET /scope/x HTTP/1.1", "Host: x")

    assert scope["root_path"] == "/app"
    assert (scope["path"], scope["raw_path"]) == ("/app/scope/x", b"/scope/x")


# receive().


EMPTY = {"type": "http.request", "body": b"", "more_body": False}


def test_receive_without_a_body(client: Connection) -> None:
    assert literal_eval(client.get("/messages").text) == [EMPTY]
    assert literal_eval(client.post("/messages", b"").text) == [EMPTY]


def test_receive_a_small_body(client: Connection) -> None:
    expected = [{"type": "http.request", "body": b"small", "more_body": False}]
    assert literal_eval(client.post("/messages", b"small").text) == expected


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 1_000_000])
def test_receive_a_large_body(client: Connection, size: int) -> None:
    """In parts none of which is huge; all of them make up the body."""
    sent = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    got = literal_eval(client.post("/messages", sent).text)
    assert b"".join(message["body"] for message in got) == sent
    assert {message["type"] for message in got} == {"http.request"}
    assert [message["more_body"] for message in got] == [True] * (len(got) - 1) + [
        False
    ]
    assert all(type(message["body"]) is bytes for message in got)
    assert max(len(message["body"]) for message in got) <= 1 << 19


def test_receive_an_empty_chunked_body(client: Connection) -> None:
    client.send(request("POST", "/messages", [("Transfer-Encoding", "chunked")]))
    client.send(chunked())
    got = literal_eval(client.read_response("POST").text)
    assert b"".join(message["body"] for message in got) == b""
    assert got[-1] == EMPTY


def test_receive_after_the_body_waits(
    server: Server, client: Connection, name: str
) -> None:
    """It waits, also twice at a time; with the response's end comes the disconnect."""
    assert client.post(f"/after-body/{name}", b"body").text == "done"
    disconnect = {"type": "http.disconnect"}
    assert ask(server, f"/wait/{name}") == (True, [disconnect] * 3)


def test_receive_tells_that_the_client_has_gone(server: Server, name: str) -> None:
    """And goes on telling; send() raises an OSError from then on."""
    with Connection(server.url) as client:
        client.send(request(target=f"/until-disconnect/{name}"))
        ask(server, f"/wait/{name}-waits")

    got = ask(server, f"/wait/{name}")
    assert got["message"] == got["again"] == {"type": "http.disconnect"}
    assert got["is_os_error"]
    assert "the client has gone" in got["error"]


def test_unread_body_before_the_disconnect(server: Server, name: str) -> None:
    """What has come of the body is given before the disconnect is."""
    target = script(name, f"{name}-gone", "receive", "receive", "receive")

    with Connection(server.url) as client:
        client.send(request("POST", target, body=b"body"))
        ask(server, f"/wait/{name}-gone-reached")

    wait_for_disconnect = script(f"{name}-2", "receive", "receive")

    with Connection(server.url) as client:
        client.send(request(target=wait_for_disconnect))

    # The worker has taken note of the first one's end before that of the second.
    ask(server, f"/wait/{name}-2")
    ask(server, f"/open/{name}-gone", "POST")
    got = ask(server, f"/wait/{name}")
    assert got[0] == {"type": "http.request", "body": b"body", "more_body": False}
    assert got[1:] == [{"type": "http.disconnect"}] * 2


def test_going_on_after_the_response(
    server: Server, client: Connection, name: str
) -> None:
    """A background task of the application runs on, also when the client leaves."""
    assert client.get(f"/background/{name}").text == "early"
    assert client.get("/hello").text == "hello"
    client.close()
    ask(server, f"/open/{name}-go", "POST")
    assert ask(server, f"/wait/{name}") == "went on"


# send(): what is allowed.


def test_headers_as_lists_and_tuples(client: Connection) -> None:
    headers = [[b"x-list", b"1"], (b"x-tuple", b"2"), [b"X-UPPER", b" 3 "]]
    answer = client.get(script("", {**start(), "headers": headers}, body(b"body")))
    assert answer.one("x-list") == b"1"
    assert answer.one("x-tuple") == b"2"
    assert answer.one("x-upper") == b"3"


def test_headers_as_a_tuple_of_tuples(client: Connection) -> None:
    headers = ((b"x-one", b"1"), (b"x-two", b"2"))
    answer = client.get(script("", {**start(), "headers": headers}, body(b"body")))
    assert (answer.one("x-one"), answer.one("x-two")) == (b"1", b"2")


def test_anything_iterable(client: Connection) -> None:
    """Headers from a generator, a status from an enum, a body that is a memoryview."""
    answer = client.get("/generated")
    assert (answer.status, answer.body) == (202, b"view")
    assert (answer.one("x-first"), answer.one("x-second")) == (b"1", b"2")


def test_start_without_headers(client: Connection) -> None:
    answer = client.get(script("", {"type": START, "status": 200}, body(b"body")))
    assert (answer.status, answer.body) == (200, b"body")


def test_body_by_default(client: Connection) -> None:
    """`body` is empty and `more_body` false where they are not given."""
    answer = client.get(script("", start(), {"type": BODY}))
    assert (answer.body, answer.one("content-length")) == (b"", b"0")


def test_head_does_not_wait_for_the_body(
    server: Server, client: Connection, name: str
) -> None:
    """It goes out soon by itself; a failure after that breaks the response off."""
    client.send(request(target=script("", start(201), name, "raise")))
    incoming = client.start_response()
    assert incoming.status == 201
    assert ask(server, f"/is-open/{name}-reached") is True
    ask(server, f"/open/{name}", "POST")

    with pytest.raises(Cut) as caught:
        incoming.finish()

    assert caught.value.received == b""


def test_an_empty_part_sends_the_head(
    server: Server, client: Connection, name: str
) -> None:
    """Servers of events do so to have the client know that it is connected."""
    steps = (start(), body(more_body=True), name, body(b"rest"))
    client.send(request(target=script("", *steps)))
    incoming = client.start_response()
    assert incoming.status == 200
    ask(server, f"/open/{name}", "POST")
    assert incoming.finish().body == b"rest"


def test_headers_that_come_again(client: Connection) -> None:
    """Each in a line of its own, in the given order; cookies are never joined."""
    headers = [
        (b"set-cookie", b"a=1; expires=Thu, 01 Jan 2099 00:00:00 GMT"),
        (b"x-many", b"1"),
        (b"set-cookie", b"b=2"),
        (b"x-many", b"2"),
        (b"set-cookie", b"a=3"),
        (b"x-many", b"3, 4"),
    ]
    for parts in ([body(b"whole")], [body(b"in ", more_body=True), body(b"parts")]):
        answer = client.get(script("", start(200, *headers), *parts))
        cookies = [value for key, value in headers if key == b"set-cookie"]
        assert answer.all("set-cookie") == cookies
        assert answer.all("x-many") == [b"1", b"2", b"3, 4"]


def test_www_authenticate_stays_apart(client: Connection) -> None:
    """Challenges that are joined can't be parsed by all clients."""
    headers = [
        (b"www-authenticate", b'Basic realm="a, b"'),
        (b"www-authenticate", b"Bearer"),
    ]
    answer = client.get(script("", start(401, *headers), body()))
    assert answer.all("www-authenticate") == [b'Basic realm="a, b"', b"Bearer"]


@pytest.mark.parametrize("status", [200, 201, 299, 300, 404, 418, 499, 500, 599, 799])
def test_statuses(client: Connection, status: int) -> None:
    for parts in ([body(b"in parts")], [body(b"in ", more_body=True), body(b"parts")]):
        answer = client.get(script("", start(status), *parts))
        assert (answer.status, answer.body) == (status, b"in parts")


# Date and Server.


def test_date_and_server(client: Connection) -> None:
    """Added once each; the strict client refuses two."""
    answer = client.get("/hello")
    assert answer.one("server") == b"hornbeam"
    date = answer.one("date")
    assert date is not None
    assert re.fullmatch(rb"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", date)


def test_date_and_server_of_the_application(client: Connection) -> None:
    """Its own stand in place of the server's, on whole answers and on streams."""
    headers = ((b"Date", b"Thu, 01 Jan 1970 00:00:00 GMT"), (b"Server", b"mine"))

    for parts in ([body(b"whole")], [body(b"in ", more_body=True), body(b"parts")]):
        answer = client.get(script("", start(200, *headers), *parts))
        assert answer.one("date") == b"Thu, 01 Jan 1970 00:00:00 GMT"
        assert answer.one("server") == b"mine"


def test_no_date_and_server(node: Node) -> None:
    options = "#{server_header => false, date_header => false}"

    with serving(node, "contract", options) as server, Connection(server.url) as client:
        for answer in (client.get("/hello"), client.get("/missing")):
            assert (answer.one("server"), answer.one("date")) == (None, None)


# Content-Length.


def test_content_length_is_added(client: Connection) -> None:
    """Where the whole body is there with the start, also when it is a large one."""
    for size in (0, 1, 65_536, 65_537, 1_000_000):
        answer = client.post("/echo", b"x" * size)
        assert answer.one("content-length") == str(size).encode()
        assert answer.one("transfer-encoding") is None
        assert len(answer.body) == size


def test_content_length_is_kept(client: Connection) -> None:
    """Then a body in parts needs no chunks."""
    parts = [body(b"in ", more_body=True), body(b"parts")]
    answer = client.get(script("", start(200, (b"Content-Length", b"8")), *parts))
    assert (answer.body, answer.one("content-length")) == (b"in parts", b"8")
    assert answer.one("transfer-encoding") is None
    assert client.get("/hello").text == "hello"


def test_transfer_encoding_is_the_servers(client: Connection) -> None:
    """What an application says of it is left out: the server does the framing."""
    headers = ((b"transfer-encoding", b"chunked"), (b"x-other", b"1"))
    answer = client.get(script("", start(200, *headers), body(b"body")))
    assert (answer.one("content-length"), answer.one("x-other")) == (b"4", b"1")
    assert answer.one("transfer-encoding") is None


def test_body_too_short_from_the_start(
    server: Server, client: Connection, name: str
) -> None:
    """Nothing has gone out: 500, and the application is told by how much."""
    steps = (start(200, (b"content-length", b"10")), body(b"short"))
    assert client.get(script(name, *steps)).status == 500
    error = ask(server, f"/wait/{name}")[-1]
    assert "5 less bytes than content-length" in error


@pytest.mark.parametrize("parts", [[b"too long"], [b"", b"too long"]])
def test_body_too_long_from_the_start(
    server: Server, client: Connection, name: str, parts: list[bytes]
) -> None:
    """Never a byte more than declared, as that would be the next response."""
    bodies = [body(part, more_body=True) for part in parts]
    steps = (start(200, (b"content-length", b"3")), *bodies)
    client.send(request(target=script(name, *steps)) + request(target="/hello"))

    if len(parts) == 1:
        assert client.read_response().status == 500
    else:
        with pytest.raises(Cut) as caught:
            client.read_response()

        assert caught.value.received == b""

    error = ask(server, f"/wait/{name}")[-1]
    assert "5 more bytes than content-length" in error


@pytest.mark.parametrize("last", [b"+++", b""])
def test_wrong_length_in_a_stream(
    server: Server, client: Connection, name: str, last: bytes
) -> None:
    """Too long and too short: the good part comes, then the connection is cut."""
    steps = (
        start(200, (b"content-length", b"6")),
        body(b"1234", more_body=True),
        body(last),
    )
    client.send(request(target=script(name, *steps)))

    with pytest.raises(Cut) as caught:
        client.read_response()

    assert caught.value.received == b"1234"
    assert "bytes than content-length" in ask(server, f"/wait/{name}")[-1]


@pytest.mark.parametrize("length", [b"-1", b"+5", b"5, 5", b"0x5", b"five", b""])
def test_content_length_that_is_no_number(
    server: Server, client: Connection, name: str, length: bytes
) -> None:
    steps = (start(200, (b"content-length", length)), body(b"12345"))
    assert client.get(script(name, *steps)).status == 500
    assert "content-length is a number of bytes" in ask(server, f"/wait/{name}")[0]


# Informational responses, trailers.


LINK = b"</style.css>; rel=preload; as=style"


@pytest.mark.parametrize(
    "hint", [start(103, (b"link", LINK)), {"type": EARLY_HINT, "links": [LINK]}]
)
def test_early_hints(
    server: Server, client: Connection, name: str, hint: dict[str, object]
) -> None:
    """At once, in front of the real start, and more than one."""
    client.send(request(target=script("", hint, name, hint, start(), body(b"body"))))
    informational = client.read_informational()
    assert (informational.status, informational.headers) == (103, [(b"link", LINK)])
    ask(server, f"/open/{name}", "POST")
    answer = client.read_response()
    assert [each.status for each in answer.informational] == [103]
    assert (answer.status, answer.body) == (200, b"body")
    assert answer.one("link") is None


def test_no_early_hints_for_http10(client: Connection) -> None:
    """RFC 9110 15.2: an HTTP/1.0 client would take it for the response."""
    target = script("", start(103, (b"link", LINK)), start(), body(b"body"))
    client.send(request(target=target, version="1.0"))
    answer = client.read_response()
    assert (answer.status, answer.informational) == (200, [])


TRAILED = (
    start(200, (b"trailer", b"x-digest, x-time"), trailers=True),
    body(b"body", more_body=True),
    body(b"", more_body=False),
    {"type": TRAILERS, "headers": [(b"x-digest", b"abc")], "more_trailers": True},
    {"type": TRAILERS, "headers": [[b"X-Time", b"1"]]},
)


def test_trailers(client: Connection) -> None:
    """After the body, for a client that says it takes them."""
    answer = client.get(script("", *TRAILED), ("TE", "trailers"))
    assert answer.body == b"body"
    assert sorted(answer.trailers) == [(b"x-digest", b"abc"), (b"x-time", b"1")]
    assert client.get("/hello").text == "hello"


def test_trailers_without_a_trailer_header(client: Connection) -> None:
    """`trailers: True` is enough, and the body may come in one piece."""
    steps = (
        start(200, trailers=True),
        body(b"body"),
        {"type": TRAILERS, "headers": [(b"x-digest", b"abc")]},
    )
    answer = client.get(script("", *steps), ("TE", "trailers"))
    assert (answer.body, answer.trailers) == (b"body", [(b"x-digest", b"abc")])


def test_no_trailers_for_others(client: Connection) -> None:
    """A client that has not said so gets a response without, and well-formed."""
    answer = client.get(script("", *TRAILED))
    assert (answer.body, answer.trailers) == (b"body", [])
    assert client.get("/hello").text == "hello"


def test_response_waits_for_its_trailers(
    server: Server, client: Connection, name: str
) -> None:
    """It is not complete without: returning instead of sending them is an error."""
    client.send(request(target=script(name, *TRAILED[:3])))

    with pytest.raises(Cut):
        client.read_response()


# send(): what is not allowed.


def outcomes(server: Server, name: str) -> list[str]:
    return [str(outcome) for outcome in ask(server, f"/wait/{name}")]


ORDER = "AsgiOrderError: expected "

ORDER_VIOLATIONS = {
    "body-first": ([body(b"x")], "'http.response.start', got 'http.response.body'"),
    "start-twice": (
        [start(), start()],
        "the first 'http.response.body', got 'http.response.start'",
    ),
    "start-in-body": (
        [start(), body(b"x", more_body=True), start()],
        "a further 'http.response.body', got 'http.response.start'",
    ),
    "trailers-unannounced": (
        [start(), body(b"x", more_body=True), {"type": TRAILERS, "headers": []}],
        "a further 'http.response.body', got 'http.response.trailers'",
    ),
    "hint-after-start": (
        [start(), {"type": EARLY_HINT, "links": []}],
        "the first 'http.response.body', got 'http.response.early_hint'",
    ),
    "1xx-after-start": (
        [start(), start(103)],
        "the first 'http.response.body', got 'http.response.start'",
    ),
    "unknown": (
        [{"type": "http.response.beginn", "status": 200}],
        "'http.response.start', got 'http.response.beginn'",
    ),
    "websocket": (
        [{"type": "websocket.accept"}],
        "'http.response.start', got 'websocket.accept'",
    ),
}


@pytest.mark.parametrize("case", ORDER_VIOLATIONS)
def test_order(server: Server, client: Connection, name: str, case: str) -> None:
    """A message out of order raises what was expected and what came."""
    steps, message = ORDER_VIOLATIONS[case]
    client.send(request(target=script(name, *steps)))

    if any(step["type"] == BODY for step in steps[:-1]):
        with pytest.raises(Cut):
            client.read_response()
    else:
        assert client.read_response().status == 500

    assert outcomes(server, name)[-1] == ORDER + message


def test_after_the_end(server: Server, client: Connection, name: str) -> None:
    """A complete response stays as it is, whatever comes then."""
    steps = (start(), body(b"body"), body(b"more"))
    assert client.get(script(name, *steps)).text == "body"
    error = outcomes(server, name)[-1]
    assert error.startswith(f"{ORDER}nothing more, the response is complete")


def test_an_application_can_go_on_after_an_error(
    server: Server, client: Connection, name: str
) -> None:
    """A message that was refused has had no effect."""
    steps = ("catch", body(b"early"), start(999_999), start(), start(), body(b"body"))
    answer = client.get(script(name, *steps))
    assert (answer.status, answer.text) == (200, "body")
    kinds = [outcome.split(":")[0] for outcome in outcomes(server, name)]
    order = "AsgiOrderError"
    assert kinds == [order, "ValueError", "sent", order, "sent"]


NOT_ALLOWED = {
    "no-status": ({"type": START}, "TypeError", "status"),
    "status-text": (start("200"), "TypeError", "'200'"),  # type: ignore[arg-type]  # so it is
    "status-true": (start(True), "TypeError", "True"),
    "status-99": (start(99), "ValueError", "99"),
    "status-1000": (start(1000), "ValueError", "1000"),
    "status-negative": (start(-200), "ValueError", "-200"),
    "status-101": (start(101), "ValueError", "101"),
    "no-type": ({"status": 200}, "TypeError", "'type'"),
    "type-bytes": ({"type": b"http.response.start"}, "TypeError", "'type'"),
    "no-dict": ([1], "TypeError", "dict"),
    "headers-dict": ({**start(), "headers": {b"a": b"b"}}, "TypeError", "iterable"),
    "headers-text": ({**start(), "headers": "a: b"}, "TypeError", "iterable"),
    "header-alone": ({**start(), "headers": [b"ab"]}, "TypeError", "header"),
    "header-triple": ({**start(), "headers": [(b"a",) * 3]}, "TypeError", "pair"),
    "name-text": (start(200, ("a", b"b")), "TypeError", "encode"),  # type: ignore[arg-type]
    "value-text": (start(200, (b"a", "b")), "TypeError", "encode"),  # type: ignore[arg-type]
    "value-int": (start(200, (b"a", 1)), "TypeError", "bytes"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", NOT_ALLOWED)
def test_not_allowed(server: Server, client: Connection, name: str, case: str) -> None:
    """A start that is none raises what is wrong with it, and the client gets a 500."""
    message, kind, text = NOT_ALLOWED[case]
    assert client.get(script(name, message)).status == 500
    error = outcomes(server, name)[-1]
    assert error.startswith(f"{kind}: ")
    assert text in error


@pytest.mark.parametrize("part", ["text", 5, None, [b"list"]])
def test_body_that_is_no_bytes(
    server: Server, client: Connection, name: str, part: object
) -> None:
    steps = (start(), {"type": BODY, "body": part})
    assert client.get(script(name, *steps)).status == 500
    assert outcomes(server, name)[-1].startswith("TypeError: a body is bytes")


SPLITTING = [
    (b"x", b"1\r\nset-cookie: evil=1"),
    (b"x", b"1\nset-cookie: evil=1"),
    (b"x", b"1\rset-cookie: evil=1"),
    (b"x", b"1\r\n\r\nHTTP/1.1 200 OK"),
    (b"x", b"a\0b"),
    (b"x\r\nevil", b"1"),
    (b"x: 1\r\nevil", b"1"),
    (b"x y", b"1"),
    (b"x:", b"1"),
    (b"", b"1"),
    ("x-é".encode(), b"1"),
]


@pytest.mark.parametrize("header", SPLITTING)
@pytest.mark.parametrize("kind", ["start", "inform", "trailers"])
def test_response_splitting(
    server: Server,
    client: Connection,
    name: str,
    header: tuple[bytes, bytes],
    kind: str,
) -> None:
    """No header, wherever it is sent, can end its line: nothing of it goes out."""
    steps: dict[str, list[Any]] = {
        "start": [start(200, header), body()],
        "inform": [start(103, header)],
        "trailers": [*TRAILED[:3], {"type": TRAILERS, "headers": [header]}],
    }
    target = script(name, *steps[kind])
    client.send(request(target=target, headers=[("TE", "trailers")]))
    answer = read_or_cut(client)

    if kind == "trailers":
        assert answer is None
    else:
        assert answer is not None and answer.status == 500

    assert outcomes(server, name)[-1].startswith("ValueError: ")


@pytest.mark.parametrize("link", [value for key, value in SPLITTING if key == b"x"])
def test_early_hint_splitting(
    server: Server, client: Connection, name: str, link: bytes
) -> None:
    hint = {"type": EARLY_HINT, "links": [link]}
    answer = client.get(script(name, hint))
    assert (answer.status, answer.informational) == (500, [])
    assert outcomes(server, name)[-1].startswith("ValueError: ")


def read_or_cut(client: Connection) -> Response | None:
    try:
        return client.read_response()
    except Cut as cut:
        assert b"evil" not in cut.received
        return None
