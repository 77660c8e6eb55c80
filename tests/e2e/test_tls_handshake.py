# SPDX-License-Identifier: Apache-2.0
"""Handshakes: which there are, and what comes of those that fail."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import time
import warnings
from ast import literal_eval
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from e2e.certificates import Authority, Identity
from e2e.observe import Server, serving
from e2e.raw import Connection, Cut, request, wait_until
from node import Node


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("handshake"))


@pytest.fixture(scope="module")
def identity(authority: Authority) -> Identity:
    # RSA: then no suite is out of reach for the kind of its key.
    return authority.issue("server", is_rsa=True)


@pytest.fixture(scope="module")
def server(node: Node, identity: Identity) -> Iterator[Server]:
    # A worker that gets no time to run is no matter of the log here.
    options = identity.options("heartbeat => 60000, stall_timeout => infinity")

    with serving(node, "contract", options) as running:
        yield running


def context_of(
    authority: Authority, version: ssl.TLSVersion, ciphers: str = "ALL:@SECLEVEL=0"
) -> ssl.SSLContext:
    """A client that speaks one version, and as weak suites as it is told to."""
    context = authority.context()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version

    context.set_ciphers(ciphers)
    return context


@pytest.mark.parametrize(
    ("version", "number", "suite"),
    [
        (ssl.TLSVersion.TLSv1_2, 0x0303, 0xC02F),
        (ssl.TLSVersion.TLSv1_3, 0x0304, 0x1301),
    ],
)
def test_versions(
    server: Server,
    authority: Authority,
    version: ssl.TLSVersion,
    number: int,
    suite: int,
) -> None:
    """The server's order decides on the suite: the client has another first."""
    context = context_of(
        authority,
        version,
        "ECDHE-RSA-CHACHA20-POLY1305:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256",
    )

    with Connection(server.url, tls=context) as client:
        scope = literal_eval(client.get("/scope").text)

    tls = scope["extensions"]["tls"]
    assert (tls["tls_version"], tls["cipher_suite"]) == (number, suite)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_refused(
    server: Server, authority: Authority, version: ssl.TLSVersion
) -> None:
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        Connection(server.url, tls=context_of(authority, version))


@pytest.mark.parametrize(
    "cipher",
    [
        "AES128-SHA",
        "AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-SHA",
        "ECDHE-RSA-AES256-SHA384",
        "DHE-RSA-AES128-GCM-SHA256",
        "ADH-AES128-GCM-SHA256",
    ],
)
def test_old_suites_are_refused(
    server: Server, authority: Authority, cipher: str
) -> None:
    """No forward secrecy, no authenticated encryption, no authentication."""
    context = context_of(authority, ssl.TLSVersion.TLSv1_2, f"{cipher}:@SECLEVEL=0")

    with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE|INSUFFICIENT_SECURITY"):
        Connection(server.url, tls=context)


def s_client(server: Server, *words: str, typed: str = "") -> str:
    """What `openssl s_client` says."""
    where = urlsplit(server.url).netloc
    done = subprocess.run(
        ["openssl", "s_client", "-connect", where, *words],
        input=typed,
        capture_output=True,
        text=True,
        timeout=20,
    )
    return done.stdout + done.stderr


def test_renegotiation_is_refused(server: Server) -> None:
    said = s_client(server, "-tls1_2", typed="R\n")
    assert "RENEGOTIATING" in said
    assert re.search("no renegotiation|handshake failure|closed", said), said


def test_no_compression_and_no_early_data(server: Server) -> None:
    for version in ("-tls1_2", "-tls1_3"):
        said = s_client(server, version, typed="Q\n")
        assert "Compression: NONE" in said
        assert "Max Early Data" not in said or "Max Early Data: 0" in said


def test_resumption_of_tls12(server: Server, authority: Authority) -> None:
    context = context_of(authority, ssl.TLSVersion.TLSv1_2)
    where = urlsplit(server.url)
    resumed = []
    session = None

    for _ in range(2):
        with (
            socket.create_connection((where.hostname, where.port or 0)) as plain,
            context.wrap_socket(
                plain, server_hostname="localhost", session=session
            ) as client,
        ):
            client.sendall(request(target="/hello"))
            assert client.recv(100).startswith(b"HTTP/1.1 200")
            session = client.session
            resumed.append(client.session_reused)

    assert resumed == [False, True]


# ALPN.


def test_no_alpn_means_http1(server: Server, authority: Authority) -> None:
    with Connection(server.url, tls=authority.context()) as client:
        assert isinstance(client.socket, ssl.SSLSocket)
        assert client.socket.selected_alpn_protocol() is None
        assert client.get("/hello").text == "hello"


@pytest.mark.parametrize("offered", [["http/1.1", "h2"], ["h2"], ["x", "h2"]])
def test_alpn_prefers_http2(
    server: Server, authority: Authority, offered: list[str]
) -> None:
    context = authority.context()
    context.set_alpn_protocols(offered)

    with Connection(server.url, tls=context) as client:
        assert isinstance(client.socket, ssl.SSLSocket)
        assert client.socket.selected_alpn_protocol() == "h2"


def test_alpn_without_a_common_protocol(server: Server, authority: Authority) -> None:
    """RFC 7301 3.2 has an alert for it."""
    context = authority.context()
    context.set_alpn_protocols(["http/1.0", "spdy/3"])

    with pytest.raises(ssl.SSLError, match="(?i)no.application.protocol"):
        Connection(server.url, tls=context)


# Those who do not speak TLS, or not to the end.


def test_plain_http_is_told(server: Server) -> None:
    with Connection(server.url) as client:
        answer = client.post("/hello", b"x" * 100_000)
        assert answer.status == 400
        assert "https" in answer.text
        assert answer.one("connection") == b"close"
        client.read_eof()


# A ClientHello says how long it is: there is never so much.
HALF_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40)

GARBAGE = {
    "nothing": b"",
    "zeros": bytes(1000),
    "sslv2": b"\x80\x2e\x01\x00\x02" + bytes(41),
    "record of another type": b"\x17\x03\x03\x00\x10" + bytes(16),
    "record too long": b"\x16\x03\x01\xff\xff" + bytes(70_000),
    "no hello": b"\x16\x03\x01\x00\x04\x63\x00\x00\x00",
    "h2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "lower case": b"get / http/1.1\r\n\r\n",
    "half a hello": HALF_HELLO,
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("how", ["close", "reset"])
def test_failures_are_not_reported(
    node: Node, server: Server, data: bytes, how: str
) -> None:
    """Whatever scanners send: nothing in the log, and nothing left."""
    before = len(node.logged())
    client = Connection(server.url)
    client.send(data)

    if how == "reset":
        client.reset()
    else:
        # The server may have ended it already.
        with suppress(OSError):
            client.socket.shutdown(socket.SHUT_WR)

        assert drained(client)
        client.close()

    wait_until(lambda: handshakes(node) == 0, "the process has gone")
    assert "REPORT" not in node.logged()[before:]


def test_client_that_does_not_trust_is_not_reported(
    node: Node, server: Server, authority: Authority
) -> None:
    before = len(node.logged())
    stranger = ssl.create_default_context()

    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        stranger.minimum_version = stranger.maximum_version = version

        with pytest.raises(ssl.SSLCertVerificationError):
            Connection(server.url, tls=stranger)

    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        Connection(server.url, tls=authority.context(), server_name="example.org")

    wait_until(lambda: handshakes(node) == 0, "the processes have gone")
    assert "REPORT" not in node.logged()[before:]


def test_silence_has_an_end(
    node: Node, identity: Identity, authority: Authority
) -> None:
    """Those who stop half-way take their places for `header_timeout` at most."""
    options = identity.options("header_timeout => 400, max_connections => 4")

    with serving(node, "contract", options) as server:
        began = time.monotonic()
        silent = [Connection(server.url) for _ in range(8)]

        for number, connection in enumerate(silent):
            connection.send(HALF_HELLO if number % 2 else b"")

        with Connection(server.url, tls=authority.context()) as client:
            assert client.get("/hello").text == "hello"
            assert 0.4 < time.monotonic() - began < 5

        for connection in silent:
            with connection:
                assert drained(connection)


def drained(connection: Connection) -> bool:
    """Read to the end, which is an alert or nothing."""
    try:
        while connection.receive():
            pass
    except Cut:
        pass

    return True


def test_hello_in_single_bytes(server: Server, authority: Authority) -> None:
    """However the records come."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = authority.context().wrap_bio(
        incoming, outgoing, server_hostname="localhost"
    )

    with Connection(server.url) as wire:
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                wire.drip(outgoing.read())
                incoming.write(wire.receive())

        client.write(request(target="/hello"))
        wire.drip(outgoing.read())

        while True:
            incoming.write(wire.receive())

            try:
                assert client.read().startswith(b"HTTP/1.1 200")
                break
            except ssl.SSLWantReadError:
                continue


def handshakes(node: Node) -> int:
    """Connection processes that are no connections yet, in the whole node."""
    return int(
        node.eval(
            "length([P || P <- processes(),"
            " {current_stacktrace, S} <- [process_info(P, current_stacktrace)],"
            " {hornbeam_handshake, _, _, _} <- S])"
        )
    )
