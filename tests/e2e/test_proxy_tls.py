# SPDX-License-Identifier: Apache-2.0
"""A PROXY header comes before the TLS handshake."""

from __future__ import annotations

import socket
import ssl
from ast import literal_eval
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from e2e.certificates import Authority
from e2e.observe import Server, serving
from e2e.raw import request, wait_until
from node import Node

V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n"
# It has not taken TLS off: PP2_TYPE_SSL without its first bit.
V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x14"
    + bytes((192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 1, 0xBB))
    + b"\x20\0\5\0\0\0\0\0"
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(node: Node, authority: Authority) -> Iterator[Server]:
    options = authority.issue("server").options(
        'proxy_protocol => true, proxy_headers => ["192.0.2.7"], header_timeout => 700'
    )

    with serving(node, "contract", options) as running:
        yield running


def connect(server: Server) -> socket.socket:
    parts = urlsplit(server.url)
    assert parts.port is not None
    plain = socket.create_connection(("127.0.0.1", parts.port), timeout=10.0)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return plain


def shake_hands(plain: socket.socket, context: ssl.SSLContext, first: bytes) -> Any:
    """Send bytes and, in the same packet, the beginning of the handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secure = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    pending = first

    while not is_done(secure):
        plain.sendall(pending + outgoing.read())
        pending = b""
        data = plain.recv(65536)
        assert data, "closed in the handshake"
        incoming.write(data)

    plain.sendall(outgoing.read())
    return secure, incoming, outgoing


def is_done(secure: ssl.SSLObject) -> bool:
    try:
        secure.do_handshake()
    except ssl.SSLWantReadError:
        return False

    return True


def scope_of(
    server: Server, context: ssl.SSLContext, first: bytes, *headers: Any
) -> Any:
    with connect(server) as plain:
        secure, incoming, outgoing = shake_hands(plain, context, first)
        secure.write(request("GET", "/scope", [*headers, ("Connection", "close")]))
        plain.sendall(outgoing.read())
        answer = b""

        while b"\r\n\r\n" not in answer or not answer.rstrip().endswith(b"}"):
            data = plain.recv(65536)
            assert data, answer
            incoming.write(data)

            try:
                while part := secure.read(65536):
                    answer += part
            except ssl.SSLWantReadError:
                pass

    return literal_eval(answer.partition(b"\r\n\r\n")[2].decode())


@pytest.mark.parametrize("header", [V1, V2])
def test_header_before_the_handshake(
    server: Server, authority: Authority, header: bytes
) -> None:
    """With the first bytes of the handshake in one packet; the scheme is https."""
    scope = scope_of(server, authority.context(), header)
    assert scope["client"] == ("192.0.2.7", 4711)
    assert scope["server"] == ("198.51.100.1", 443)
    assert scope["scheme"] == "https"
    assert scope["extensions"]["tls"]["tls_version"] == 0x0304
    prefix = ("X-Forwarded-Prefix", "/shop")
    scope = scope_of(server, authority.context(), header, prefix)
    assert scope["root_path"] == "/shop"
    assert "tls" in scope["extensions"]


def test_header_byte_by_byte(server: Server, authority: Authority) -> None:
    with connect(server) as plain:
        for byte in V1:
            plain.send(bytes((byte,)))

        with authority.context().wrap_socket(
            plain, server_hostname="localhost"
        ) as secure:
            secure.sendall(request(target="/hello", headers=[("Connection", "close")]))
            assert secure.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("first", [b"", V1[:-2] + b"x\r\n", V1 + V1])
def test_handshake_without_a_header(
    server: Server, authority: Authority, first: bytes
) -> None:
    """There is none, and nothing is left of it."""
    with (
        connect(server) as plain,
        pytest.raises((ssl.SSLError, ConnectionError, AssertionError)),
    ):
        shake_hands(plain, authority.context(), first)

    wait_until(lambda: server.connections() == 0, "it is gone")
    assert scope_of(server, authority.context(), V1)["scheme"] == "https"


def test_half_a_header(server: Server) -> None:
    with connect(server) as plain:
        plain.sendall(V1[:20])
        assert plain.recv(1) == b""
