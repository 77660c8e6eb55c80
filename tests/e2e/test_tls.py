# SPDX-License-Identifier: Apache-2.0
"""What goes over TLS: requests, responses and their ends, by both versions of HTTP."""

from __future__ import annotations

import hashlib
import subprocess
import threading
import uuid
from ast import literal_eval
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from e2e.certificates import Authority, Identity
from e2e.observe import Server, serving
from e2e.raw import Connection, Cut, chunked, request, script, wait_until
from node import Node


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def identity(authority: Authority) -> Identity:
    return authority.issue("server")


@pytest.fixture(scope="module")
def server(node: Node, identity: Identity) -> Iterator[Server]:
    with serving(node, "contract", identity.options()) as running:
        yield running


@pytest.fixture
def client(server: Server, authority: Authority) -> Iterator[Connection]:
    with Connection(server.url, tls=authority.context()) as connection:
        yield connection


def http_client(authority: Authority, *, http2: bool) -> httpx.Client:
    return httpx.Client(verify=authority.context(), http2=http2, trust_env=False)


@pytest.mark.parametrize("http2", [False, True])
def test_scope(
    server: Server, authority: Authority, identity: Identity, http2: bool
) -> None:
    """Scheme, version and the TLS extension, on each request of the connection."""
    with http_client(authority, http2=http2) as client:
        scopes = [literal_eval(client.get(f"{server.url}/scope").text) for _ in "ab"]

    for scope in scopes:
        assert scope["scheme"] == "https"
        assert scope["http_version"] == ("2" if http2 else "1.1")
        assert scope["extensions"]["tls"] == {
            "server_cert": identity.pem,
            "client_cert_chain": [],
            "client_cert_name": None,
            "client_cert_error": None,
            "tls_version": 0x0304,
            "cipher_suite": 0x1301,
        }


def test_no_extension_without_tls(node: Node) -> None:
    with serving(node, "contract") as plain, Connection(plain.url) as connection:
        scope = literal_eval(connection.get("/scope").text)

    assert scope["scheme"] == "http"
    assert "tls" not in scope["extensions"]


def test_curl(server: Server, authority: Authority) -> None:
    for flag, version in (("--http1.1", "1.1"), ("--http2", "2")):
        done = subprocess.run(
            ["curl", "-sS", flag, "--cacert", authority.file, f"{server.url}/scope"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert literal_eval(done.stdout)["http_version"] == version


def test_keep_alive_and_pipelining(client: Connection) -> None:
    assert client.get("/hello").text == "hello"
    client.send(request("GET", "/hello") + request("POST", "/echo", body=b"x"))
    assert client.read_response().text == "hello"
    assert client.read_response("POST").text == "x"


@pytest.mark.parametrize("http2", [False, True])
def test_large_bodies(server: Server, authority: Authority, http2: bool) -> None:
    """Both ways, and many at a time."""
    body = hashlib.sha512(b"seed").digest() * (3 * 2**20 // 64)

    with http_client(authority, http2=http2) as client:
        for _ in range(2):
            answer = client.post(f"{server.url}/echo", content=body)
            assert answer.content == body


def test_chunked_upload(client: Connection) -> None:
    """Its connection is another runner's, and ends with the response."""
    parts = [bytes([n]) * 50_000 for n in range(40)]
    client.send(
        request("POST", "/echo", [("Transfer-Encoding", "chunked")]) + chunked(*parts)
    )
    assert client.read_response("POST").body == b"".join(parts)
    client.read_eof()


def test_refused_upload_reads_its_answer(node: Node, authority: Authority) -> None:
    """A client that is still sending gets the answer, not a reset."""
    options = authority.issue("small").options("max_body => 1000")

    with (
        serving(node, "contract", options) as server,
        Connection(server.url, tls=authority.context()) as client,
    ):
        client.send(request("POST", "/echo", [("Transfer-Encoding", "chunked")]))
        client.send(chunked(b"x" * 200_000))
        assert client.read_response("POST").status == 413


def cut_script(*headers: tuple[bytes, bytes]) -> str:
    """A response that begins and is broken off."""
    return script(
        uuid.uuid4().hex,
        {"type": "http.response.start", "status": 200, "headers": list(headers)},
        {"type": "http.response.body", "body": b"part", "more_body": True},
        "raise",
    )


@pytest.mark.parametrize("length", [None, b"100"])
def test_cut_response(client: Connection, length: bytes | None) -> None:
    """The frame of the body tells that it is not whole."""
    headers = [] if length is None else [(b"content-length", length)]
    client.send(request("GET", cut_script(*headers)))

    with pytest.raises(Cut):
        client.read_response()


def test_cut_response_of_http10(client: Connection) -> None:
    """Where the end of the connection is that of the body, there is no goodbye."""
    client.send(request("GET", cut_script(), version="1.0"))

    with pytest.raises(Cut) as caught:
        client.read_response()

    assert caught.value.is_reset


def test_whole_response_of_http10(client: Connection) -> None:
    """The counterpart: with a goodbye, which Python insists on here."""
    parts = (
        {"type": "http.response.start", "status": 200, "headers": []},
        {"type": "http.response.body", "body": b"part", "more_body": True},
        {"type": "http.response.body", "body": b"", "more_body": False},
    )
    client.send(request("GET", script(uuid.uuid4().hex, *parts), version="1.0"))
    assert client.read_response().body == b"part"


def test_client_that_leaves_is_noticed(
    node: Node, identity: Identity, authority: Authority
) -> None:
    with (
        serving(node, "aborts", identity.options()) as server,
        Connection(server.url, tls=authority.context()) as watcher,
    ):
        for how in ("close", "reset"):
            name = uuid.uuid4().hex
            client = Connection(server.url, tls=authority.context())
            client.send(request("GET", f"/never/{name}"))
            wait_until(lambda: server.in_flight() == 1, "the request is there")
            client.reset() if how == "reset" else client.close()
            wait_until(lambda: server.in_flight() == 0, "the request has gone")

        assert watcher.get("/nothing").status == 404


def test_client_that_does_not_read(
    node: Node, identity: Identity, authority: Authority
) -> None:
    """It is cut after `send_timeout`, and its request ends."""
    options = identity.options("send_timeout => 300")

    with serving(node, "flow", options) as server:
        with Connection(
            server.url, tls=authority.context(), receive_buffer=4096
        ) as client:
            client.send(request("GET", "/download/stalled?50331648,65536"))
            assert client.receive().startswith(b"HTTP/1.1 200")
            wait_until(lambda: server.in_flight() == 0, "the request has gone")
            wait_until(lambda: server.connections() == 0, "the connection has gone")


def test_large_window(node: Node, identity: Identity, authority: Authority) -> None:
    """What it lets through at once is written in parts, and arrives as it was."""
    size = 3 << 20
    options = identity.options("window => 4000000")

    with (
        serving(node, "flow", options) as server,
        Connection(server.url, tls=authority.context()) as client,
    ):
        body = client.get(f"/download/whole?{size},{size}").body

    assert body == bytes(range(256)) * (size // 256)


def test_idle_connection_is_closed(
    node: Node, identity: Identity, authority: Authority
) -> None:
    """After `keepalive`, with a goodbye; a part of a head is answered 408."""
    options = identity.options("keepalive => 100, header_timeout => 1000")

    with serving(node, "contract", options) as server:
        with (
            Connection(server.url, tls=authority.context()) as idle,
            Connection(server.url, tls=authority.context()) as dripping,
        ):
            assert idle.get("/hello").text == "hello"
            dripping.send(b"GET / HT")
            idle.read_eof()
            assert dripping.read_response().status == 408
            dripping.read_eof()
            wait_until(lambda: server.connections() == 0, "both have gone")


def test_half_heads(node: Node, identity: Identity, authority: Authority) -> None:
    """408 also where idle connections may live longer; silence where nothing came."""
    options = identity.options("keepalive => 20000, header_timeout => 1000")

    with serving(node, "contract", options) as server, ExitStack() as stack:
        silent, first, later, idle = (
            stack.enter_context(Connection(server.url, tls=authority.context()))
            for _ in range(4)
        )
        first.send(b"GET /hello HTTP/1.1\r\nHost: x\r\nX")

        for used in (later, idle):
            assert used.get("/hello").text == "hello"

        later.send(b"G")
        silent.read_eof()

        for late in (first, later):
            answer = late.read_response()
            assert answer.status == 408
            assert answer.one("connection") == b"close"
            late.read_eof()

        assert idle.get("/hello").text == "hello"


def test_drain(node: Node, identity: Identity, authority: Authority) -> None:
    """A stop lets a request that runs finish, and says goodbye."""
    with (
        serving(node, "contract", identity.options()) as server,
        Connection(server.url, tls=authority.context()) as client,
    ):
        client.send(request("POST", "/echo", [("Content-Length", "10")], b"first"))
        wait_until(lambda: server.in_flight() == 1, "the request is there")
        stop = f"hornbeam:stop({server.name})"
        stopping = threading.Thread(target=node.eval, args=(stop,))
        stopping.start()

        try:
            wait_until(lambda: is_closed(server.url), "the listener is closed")
        finally:
            client.send(b" last")
            stopping.join()

        assert client.read_response("POST").body == b"first last"
        client.read_eof()


def test_unix_socket(
    node: Node, identity: Identity, authority: Authority, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    options = identity.options(f'bind => "unix:{path}"')

    with (
        serving(node, "contract", options) as server,
        Connection(server.url, tls=authority.context()) as client,
    ):
        scope = literal_eval(client.get("/scope").text)
        assert scope["scheme"] == "https"
        assert (scope["client"], scope["server"]) == (None, (str(path), None))


def is_closed(url: str) -> bool:
    try:
        Connection(url).close()
    except (ConnectionRefusedError, ConnectionResetError):
        return True

    return False
