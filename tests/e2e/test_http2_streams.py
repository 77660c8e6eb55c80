# SPDX-License-Identifier: Apache-2.0
"""HTTP/2: many requests on a connection, and what a response can be."""

from __future__ import annotations

import uuid
from ast import literal_eval
from collections.abc import Iterator

import pytest

from e2e.http2 import INITIAL_WINDOW, Client
from e2e.observe import Server, serving
from e2e.raw import wait_until
from node import Node

STREAMS = 100


@pytest.fixture(scope="module")
def server(node: Node) -> Iterator[Server]:
    with serving(node, "http2") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as connected:
        yield connected


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


def told(
    client: Client, *headers: tuple[str, str], method: str = "GET"
) -> dict[str, object]:
    stream_id = client.request("/scope?x=1", method=method, headers=headers)
    answer = client.finish(stream_id)
    assert answer.status == 200, answer
    read: dict[str, object] = literal_eval(answer.text)
    return read


def test_scope(client: Client) -> None:
    """The host comes from the pseudo-header, the scheme from the connection."""
    scope = told(client, ("x-a", "1"), ("x-a", "2"))
    assert scope["http_version"] == "2"
    assert scope["scheme"] == "http"
    assert scope["headers"] == [
        (b"host", client.authority.encode()),
        (b"x-a", b"1, 2"),
    ]


def test_cookies_in_several_fields(client: Client) -> None:
    """RFC 9113 8.2.3: they are one."""
    headers = told(client, ("cookie", "a=1"), ("cookie", "b=2"))["headers"]
    assert isinstance(headers, list)
    assert (b"cookie", b"a=1; b=2") in headers


def test_same_host_twice(client: Client) -> None:
    headers = told(client, ("host", client.authority))["headers"]
    assert headers == [(b"host", client.authority.encode())]


def test_answered_out_of_order(client: Client, name: str) -> None:
    """A hundred at a time, the last one first."""
    ids = [client.request(f"/after/{name}-{n}") for n in range(STREAMS - 1)]

    for number in reversed(range(STREAMS - 1)):
        opened = client.get(f"/opener/{name}-{number}")
        assert opened.status == 200
        assert client.finish(ids[number]).text == f"{name}-{number}"
        assert not any(client.streams[other].is_over for other in ids[:number])


def test_bodies_both_ways(client: Client) -> None:
    """Uploads and their echoes run beside each other and do not mix."""
    bodies = [bytes((n,)) * (1000 * n) for n in range(1, 40)]
    ids = [client.request("/echo", method="POST", body=body) for body in bodies]

    for stream_id, body in zip(ids, bodies, strict=True):
        assert client.finish(stream_id).body == body


def test_trailers(client: Client, name: str) -> None:
    stream_id = client.request(
        f"/download/{name}?3,3,trailers", headers=[("te", "trailers")]
    )
    answer = client.finish(stream_id)
    assert (answer.body, answer.trailers) == (b"\0\1\2", [(b"x-size", b"3")])


def test_trailers_nobody_asked_for(client: Client, name: str) -> None:
    answer = client.get(f"/download/{name}?3,3,trailers")
    assert (answer.body, answer.trailers) == (b"\0\1\2", [])


def test_trailers_behind_a_closed_window(server: Server, name: str) -> None:
    """They wait for the body, and the stream is over with them."""
    with Client(server.url, gives_window=False) as client:
        stream_id = client.request(
            f"/download/{name}?100000,10000,trailers", headers=[("te", "trailers")]
        )
        stream = client.streams[stream_id]
        client.pump(lambda: len(stream.body) == 65535, "a window has come")
        wait_until(lambda: outcome(server, name) == "complete", "all was sent")
        assert not stream.is_over
        client.give_window(100000, stream_id)
        client.give_window(100000)
        assert client.finish(stream_id).trailers == [(b"x-size", b"100000")]
        assert len(stream.body) == 100000
        wait_until(lambda: streams_under_way(server) == 0, "the node has let it go")


def outcome(server: Server, name: str) -> str:
    with Client(server.url) as client:
        return client.get(f"/outcome/{name}").text


def streams_under_way(server: Server) -> int:
    """On all connections, as the node counts."""
    return int(
        server.node.eval(
            f"#{{hornbeam := #{{connections := Table}}}} ="
            " persistent_term:get({hornbeam_connection,"
            f" {{hornbeam, {server.name}, 1}}}}),"
            " lists:sum([element(1, hornbeam_connection:activity(element(4, Row)))"
            " || Row <- ets:tab2list(Table)])"
        )
    )


def test_early_hints(client: Client) -> None:
    answer = client.get("/early")
    assert [dict(each)[b":status"] for each in answer.informational] == [b"103"] * 2
    assert dict(answer.informational[1])[b"link"] == b"</b.css>; rel=preload"
    assert (answer.status, answer.text) == (200, "final")


def test_expect_continue(client: Client) -> None:
    stream_id = client.request(
        "/echo", method="POST", headers=[("expect", "100-continue")], ends=False
    )
    stream = client.streams[stream_id]
    client.pump(lambda: bool(stream.informational), "the client is told to go on")
    assert stream.informational == [[(b":status", b"100")]]
    client.send_body(stream_id, b"body")
    assert client.finish(stream_id).body == b"body"


@pytest.mark.parametrize("status", [204, 304])
def test_status_without_a_body(client: Client, status: int) -> None:
    answer = client.get(f"/status/{status}")
    assert (answer.status, answer.body, answer.is_ended) == (status, b"", True)
    assert client.get("/hello").text == "hello"


@pytest.mark.parametrize("path", ["/hello", "/status/200", "/status/404"])
def test_head(client: Client, path: str) -> None:
    """A body that is streamed is left out as well, and its end not sent twice."""
    answer = client.finish(client.request(path, method="HEAD"))
    assert (answer.body, answer.is_ended, answer.reset) == (b"", True, None)
    assert client.get("/hello").text == "hello"


def test_unregistered_status(client: Client) -> None:
    assert client.get("/status/299").status == 299


def test_head_and_then_gate(client: Client, name: str) -> None:
    """The head alone ends the stream for the client, before the application is done."""
    answer = client.finish(client.request(f"/part/{name}", method="HEAD"))
    assert answer.is_ended
    client.get(f"/opener/{name}")


def test_response_headers(client: Client) -> None:
    """Those that come twice are joined, cookies not, those of HTTP/1 left out."""
    answer = client.get("/fields/10")
    assert answer.all(b"set-cookie") == [b"a=1", b"b=2"]
    assert answer.all(b"vary") == [b"a, b"]
    assert answer.all(b"connection") == []


def test_large_response_headers(client: Client) -> None:
    """As large as a frame goes; `~` takes 13 bits."""
    assert len(client.get("/fields/8000").all(b"x-large")[0]) == 8000
    assert client.get("/fields/11000").status == 500
    client_goes_on(client)


def client_goes_on(client: Client) -> None:
    assert client.get("/hello").text == "hello"
    assert client.goaways == []


def test_error_before_the_start(client: Client) -> None:
    assert client.get("/fails").status == 500
    client_goes_on(client)


def test_error_after_the_start(client: Client) -> None:
    """A reset, never a clean end; the other streams go on."""
    answer = client.get("/breaks")
    assert (answer.status, answer.is_ended) == (200, False)
    assert answer.reset == "INTERNAL_ERROR"
    client_goes_on(client)


def test_many_errors_end_no_connection(client: Client) -> None:
    """An application that breaks is not the client's fault."""
    ids = [client.request("/breaks") for _ in range(50)]
    assert {client.finish(each).reset for each in ids} == {"INTERNAL_ERROR"}
    client_goes_on(client)


def test_cancel(client: Client, name: str) -> None:
    """receive() tells of it, send() raises, the connection stays."""
    stream_id = client.request(f"/disconnect/{name}")
    stream = client.streams[stream_id]
    client.pump(lambda: bool(stream.body), "it has begun")
    client.reset(stream_id)
    assert client.get(f"/wait/{name}").text == "'ClientDisconnected'"
    client_goes_on(client)


def test_cancel_of_an_upload(client: Client, name: str) -> None:
    stream_id = client.request(
        f"/upload/{name}", method="POST", body=b"some", ends=False
    )
    client.get(f"/opener/{name}")
    client.pump(lambda: client.get(f"/progress/{name}").text == "4", "some was read")
    client.reset(stream_id)
    wait_until(lambda: client.get(f"/outcome/{name}").text != "", "it is told")
    assert client.get(f"/outcome/{name}").text == "disconnect"


def test_answer_without_the_body(client: Client) -> None:
    """The client is told to send no more: a reset without an error (RFC 9113 8.1)."""
    stream_id = client.request("/ignore", method="POST", body=b"x", ends=False)
    stream = client.streams[stream_id]
    client.pump(lambda: stream.reset is not None, "the stream is reset")
    assert (stream.text, stream.is_ended, stream.reset) == ("ignored", True, "NO_ERROR")
    client_goes_on(client)


def test_request_trailers_behind_a_known_length(client: Client) -> None:
    """They are skipped; the body is complete by its length."""
    stream_id = client.request(
        "/echo",
        method="POST",
        headers=[("content-length", "4")],
        body=b"body",
        ends=False,
    )
    client.h2.send_headers(stream_id, [("x-sum", "1")], end_stream=True)
    client.flush()
    assert client.finish(stream_id).text == "body"


def test_content_length_zero_with_data(client: Client) -> None:
    """An end of its own, as some clients send it."""
    stream_id = client.request(
        "/echo", method="POST", headers=[("content-length", "0")], body=b""
    )
    assert client.finish(stream_id).status == 200


@pytest.mark.parametrize("window", [0, 1, 100])
def test_tiny_windows(server: Server, name: str, window: int) -> None:
    """Whatever window there is is used."""
    with Client(server.url, settings={INITIAL_WINDOW: window}) as client:
        stream_id = client.request(f"/download/{name}?300,100")
        stream = client.streams[stream_id]

        if window == 0:
            client.pump(lambda: stream.status == 200, "the head has come")
            client.give_window(1, stream_id)

        answer = client.finish(stream_id)
        assert answer.body == (bytes(range(100)) * 3)


def test_end_needs_no_window(server: Server, name: str) -> None:
    """A body of exactly the window ends, and so does an empty one behind it."""
    with Client(server.url, gives_window=False) as client:
        full = client.request(f"/download/{name}?65535,65535")
        assert len(client.finish(full).body) == 65535
        waiting = client.request(f"/empty/{name}")
        stream = client.streams[waiting]
        client.pump(lambda: stream.status == 200, "the head has come")

        with Client(server.url) as other:
            other.get(f"/opener/{name}")

        assert client.finish(waiting).is_ended
        wait_until(lambda: streams_under_way(server) == 0, "the node has let go")


def test_end_behind_the_window(server: Server, name: str) -> None:
    """The same where the window opens in between."""
    with Client(server.url, gives_window=False) as client:
        stream_id = client.request(f"/download/{name}?65536,65535")
        stream = client.streams[stream_id]
        client.pump(lambda: len(stream.body) == 65535, "the window is used up")
        client.give_window(1, stream_id)
        client.give_window(1)
        assert len(client.finish(stream_id).body) == 65536
        assert client.finish(stream_id).is_ended
