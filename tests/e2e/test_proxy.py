# SPDX-License-Identifier: Apache-2.0
"""Behind proxies: what their headers say of the client, and the PROXY protocol."""

from __future__ import annotations

import re
import struct
import time
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.observe import Server, serving
from e2e.raw import Connection, Cut, request, wait_until
from node import Node, StartError

FORWARDED = [
    ("X-Forwarded-For", "198.51.100.9, 192.0.2.7, 127.0.0.2"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "shop.example"),
    ("X-Forwarded-Prefix", "/shop"),
]


@pytest.fixture(scope="module")
def server(node: Node) -> Iterator[Server]:
    """Trusts its own machine, over IPv4."""
    options = '#{proxy_headers => ["127.0.0.0/8"], root_path => "/set"}'

    with serving(node, "contract", options) as running:
        yield running


PROXIED = 'proxy_protocol => true, proxy_headers => ["203.0.113.1", "127.0.0.1"]'


@pytest.fixture(scope="module")
def proxied(node: Node) -> Iterator[Server]:
    """Takes PROXY headers, and trusts one of the addresses that stand in them."""
    with serving(node, "contract", f"#{{{PROXIED}, header_timeout => 700}}") as running:
        yield running


@pytest.fixture(scope="module")
def patient(node: Node) -> Iterator[Server]:
    """The same, where nothing ends by a time limit as long as a test lasts."""
    options = f"#{{{PROXIED}, header_timeout => 600000}}"

    with serving(node, "contract", options) as running:
        yield running


def scope_of(url: str, *headers: tuple[str, str], first: bytes = b"") -> Any:
    """The scope that the application gets for a request with these headers."""
    with Connection(url) as client:
        client.send(first + request("GET", "/scope", headers))
        answer = client.read_response()

    assert answer.status == 200, answer
    return literal_eval(answer.text)


def host(scope: Any) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == b"host"]


# Headers.


def test_trusted_peer(server: Server) -> None:
    """The right-most address that is not trusted, and what belongs to it."""
    scope = scope_of(server.url, *FORWARDED)
    assert scope["client"] == ("192.0.2.7", 0)
    assert scope["scheme"] == "https"
    assert host(scope) == [b"shop.example"]
    assert (scope["root_path"], scope["path"]) == ("/shop", "/shop/scope")
    assert scope["raw_path"] == b"/scope"
    # Where the server listens is not the client's business.
    assert scope["server"] == ("127.0.0.1", int(server.url.rsplit(":")[-1]))
    # The application may look at them itself.
    assert (b"x-forwarded-proto", b"https") in scope["headers"]


def test_nothing_forwarded(server: Server) -> None:
    """A trusted peer that says nothing is a client like any."""
    scope = scope_of(server.url)
    assert scope["client"][0] == "127.0.0.1"
    assert (scope["scheme"], scope["root_path"]) == ("http", "/set")
    assert host(scope) == [b"test"]


def test_forwarded(server: Server) -> None:
    element = 'for="[2001:db8::7]:4711";proto=https;host="shop.example:8443"'
    scope = scope_of(server.url, ("Forwarded", f'for=", {element}, for=127.0.0.9'))
    assert scope["client"] == ("2001:db8::7", 4711)
    assert (scope["scheme"], host(scope)) == ("https", [b"shop.example:8443"])


def test_several_lines_are_one_list(server: Server) -> None:
    lines = [("X-Forwarded-For", value) for value in ("1.1.1.1", "192.0.2.7")]
    assert scope_of(server.url, *lines)["client"] == ("192.0.2.7", 0)


def test_each_request_for_itself(server: Server) -> None:
    """A proxy sends the requests of many clients over one connection."""
    with Connection(server.url) as client:
        for number in (1, 2, 3):
            address = f"192.0.2.{number}"
            answer = client.get("/scope", ("X-Forwarded-For", address))
            assert literal_eval(answer.text)["client"] == (address, 0)

        assert literal_eval(client.get("/scope").text)["client"][0] == "127.0.0.1"


@pytest.mark.parametrize("value", ["unknown", "_hidden", "\xff\xfe", '"', "1.2.3", ","])
@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Forwarded-Proto", "Forwarded"])
def test_garbage_is_not_believed(server: Server, name: str, value: str) -> None:
    scope = scope_of(server.url, (name, value))
    assert scope["client"][0] == "127.0.0.1"
    assert scope["scheme"] == "http"
    assert host(scope) == [b"test"]


@pytest.mark.parametrize("trusted", ["off", '["10.0.0.0/8", "::1", unix]'])
def test_untrusted_peer(node: Node, trusted: str) -> None:
    """From anybody else these are headers like others."""
    with serving(node, "contract", f"#{{proxy_headers => {trusted}}}") as server:
        scope = scope_of(server.url, *FORWARDED, ("Forwarded", "for=192.0.2.8"))

    assert scope["client"][0] == "127.0.0.1"
    assert (scope["scheme"], scope["root_path"]) == ("http", "")
    assert host(scope) == [b"test"]
    given = {(name.lower().encode(), value.encode()) for name, value in FORWARDED}
    assert given <= set(scope["headers"])


def test_unix_socket(node: Node, tmp_path: Path) -> None:
    """Its clients have no address, and are trusted where `unix` is listed."""
    options = f'bind => "unix:{tmp_path}/http.sock"'
    trusting = f"#{{{options}, proxy_headers => [unix]}}"
    others = f'#{{{options}, proxy_headers => ["0.0.0.0/0", "::/0"]}}'

    with serving(node, "contract", trusting) as server:
        scope = scope_of(server.url, *FORWARDED)
        # All of the chain that is not trusted ends it.
        assert scope["client"] == ("127.0.0.2", 0)
        assert scope["server"] == (f"{tmp_path}/http.sock", None)
        assert scope_of(server.url)["client"] is None

    with serving(node, "contract", others) as server:
        assert scope_of(server.url, *FORWARDED)["client"] is None


def test_http10_without_host(server: Server) -> None:
    with Connection(server.url) as client:
        client.send(b"GET /scope HTTP/1.0\r\nX-Forwarded-Host: shop.example\r\n\r\n")
        scope = literal_eval(client.read_response().text)

    assert host(scope) == [b"shop.example"]


def test_wrong_network(node: Node) -> None:
    with pytest.raises(StartError, match="proxy_headers"):
        node.start_server(
            "x:y", '#{proxy_headers => ["10.0.0.0/40"]}', name="never_started"
        )


# The PROXY protocol.

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n"


def v2(family: int, addresses: bytes, *parts: bytes, command: int = 1) -> bytes:
    rest = addresses + b"".join(parts)
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, family, len(rest)) + rest


def part(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


V4_ADDRESSES = bytes((192, 0, 2, 7, 198, 51, 100, 1)) + struct.pack("!HH", 4711, 443)
V6_ADDRESSES = (
    bytes.fromhex("20010db8" + "00" * 11 + "07")
    + bytes.fromhex("20010db8" + "00" * 11 + "01")
    + struct.pack("!HH", 4711, 443)
)
UNIX_ADDRESSES = bytes(108) + b"/run/front.sock".ljust(108, b"\0")

V4 = (("192.0.2.7", 4711), ("198.51.100.1", 443), "http")
V6 = (("2001:db8::7", 4711), ("2001:db8::1", 443), "http")
TLS = part(0x20, b"\x01\0\0\0\0" + part(0x21, b"TLSv1.3"))
OTHERS = part(0x01, b"h2") + part(0x02, b"shop.example") + part(0x05, b"id")

HEADERS: dict[str, tuple[bytes, Any]] = {
    "v1": (V1, V4),
    "v1-ipv6": (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n", V6),
    "v2": (v2(0x11, V4_ADDRESSES), V4),
    "v2-ipv6": (v2(0x21, V6_ADDRESSES), V6),
    "v2-parts": (v2(0x11, V4_ADDRESSES, OTHERS), V4),
    "v2-tls": (v2(0x11, V4_ADDRESSES, OTHERS, TLS), (*V4[:2], "https")),
    "v2-unix": (v2(0x31, UNIX_ADDRESSES), (None, ("/run/front.sock", None), "http")),
}


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize("drips", [False, True])
def test_proxy_header(proxied: Server, kind: str, drips: bool) -> None:
    """Client and server are the ones in front of the proxy, on all requests."""
    header, expected = HEADERS[kind]

    with Connection(proxied.url) as client:
        (client.drip if drips else client.send)(header + request(target="/scope"))
        first = literal_eval(client.read_response().text)
        second = literal_eval(client.get("/scope").text)

    for scope in (first, second):
        assert (scope["client"], scope["server"], scope["scheme"]) == expected


@pytest.mark.parametrize(
    "header",
    [b"PROXY UNKNOWN\r\n", v2(0x00, b"", command=0), v2(0x00, b"anything")],
)
def test_proxy_header_that_says_nothing(proxied: Server, header: bytes) -> None:
    """The proxy's own connections, as for its health checks."""
    scope = scope_of(proxied.url, first=header)
    assert scope["client"][0] == "127.0.0.1"
    assert scope["server"] == ("127.0.0.1", int(proxied.url.rsplit(":")[-1]))


def test_who_is_trusted_behind_a_proxy_header(proxied: Server) -> None:
    """Who has written the HTTP is believed, not who has passed it on."""
    trusted = b"PROXY TCP4 203.0.113.1 198.51.100.1 4711 443\r\n"
    scope = scope_of(proxied.url, *FORWARDED, first=trusted)
    assert (scope["client"], scope["scheme"]) == (("127.0.0.2", 0), "https")
    scope = scope_of(proxied.url, *FORWARDED, first=V1)
    assert scope["client"] == ("192.0.2.7", 4711)
    assert scope["scheme"] == "http"
    own = scope_of(proxied.url, *FORWARDED[1:], first=b"PROXY UNKNOWN\r\n")
    assert own["scheme"] == "https"


@pytest.mark.parametrize(
    "bad",
    [
        request(target="/see/bad"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PROXY TCP4 192.0.2.7\r\n" + request(target="/see/bad"),
        b"PROXY TCP4 192.0.2.7 " + b"1" * 5000,
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 65536\r\n",
        V1.replace(b"\r\n", b"\n"),
        v2(0x11, b"\1\2\3"),
        v2(0x11, V4_ADDRESSES, b"\1\xff\xff"),
        v2(0x11, V4_ADDRESSES, part(3, b"\0\0\0\0")),
        SIGNATURE + b"\x21\x11\xff\xff",
        SIGNATURE + b"\x31\x11\0\0",
    ],
)
def test_bad_proxy_header(patient: Server, bad: bytes) -> None:
    """Closed at once and without a word; nobody gets a request."""
    said = len(patient.node.logged())
    began = time.monotonic()

    with Connection(patient.url) as client:
        client.send(bad)

        try:
            assert client.receive() == b""
        except Cut:
            pass

    assert time.monotonic() - began < 0.6
    seen = scope_of_seen(patient, "bad")
    assert seen is False
    assert "crash" not in patient.node.logged()[said:].lower()


def scope_of_seen(server: Server, name: str) -> Any:
    with Connection(server.url) as client:
        client.send(V1 + request(target=f"/seen/{name}"))
        return literal_eval(client.read_response().text)


@pytest.mark.parametrize(
    "half", [b"", b"P", V1[:-1], SIGNATURE, v2(0x11, V4_ADDRESSES)[:-1]]
)
def test_half_a_proxy_header(proxied: Server, half: bytes) -> None:
    """The connection ends after `header_timeout`."""
    began = time.monotonic()

    with Connection(proxied.url) as client:
        client.send(half)

        try:
            assert client.receive() == b""
        except Cut:
            pass

    assert 0.6 < time.monotonic() - began < 3.0


@pytest.mark.parametrize("half", [b"", b"G", request(target="/hello")[:-2]])
def test_half_a_head_behind_a_proxy_header(proxied: Server, half: bytes) -> None:
    """The bytes of the PROXY header are none of a head: nothing is answered to them."""
    with Connection(proxied.url) as client:
        client.send(V1 + half)

        if half:
            assert client.read_response().status == 408

        client.read_eof()


def test_second_proxy_header_is_no_request(proxied: Server) -> None:
    with Connection(proxied.url) as client:
        client.send(V1 + V1 + request(target="/see/second"))
        assert client.read_response().status == 400
        client.read_eof()

    assert scope_of_seen(proxied, "second") is False


def test_proxy_header_where_none_is_due(server: Server) -> None:
    """Without the option it is a malformed request."""
    with Connection(server.url) as client:
        client.send(V1 + request(target="/hello"))
        assert client.read_response().status == 400
        client.read_eof()


def test_connections_that_go_before_the_header(proxied: Server) -> None:
    said = len(proxied.node.logged())

    for _ in range(20):
        Connection(proxied.url).reset()

    for _ in range(20):
        Connection(proxied.url).close()

    assert scope_of(proxied.url, first=V1)["client"] == ("192.0.2.7", 4711)
    wait_until(lambda: proxied.connections() == 0, "all are gone")
    assert not re.search(r"(?i)error report|crash", proxied.node.logged()[said:])
