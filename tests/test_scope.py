# SPDX-License-Identifier: Apache-2.0
"""The scope that an application gets."""

from __future__ import annotations

from typing import Any

import pytest

from hornbeam._protocol import ProtocolError
from hornbeam._scope import ScopeFactory
from hornbeam._terms import Atom

FIELDS: dict[str, Any] = {
    "method": b"GET",
    "scheme": b"http",
    "http_version": b"1.1",
    "raw_path": b"/a",
    "query": b"x=%20",
    "headers": [(b"host", b"h"), (b"cookie", b"1"), (b"cookie", b"2")],
    "client": (b"127.0.0.1", 50000),
    "server": (b"127.0.0.1", 8000),
    "extra": {},
}


def fields(**changes: Any) -> tuple[Any, ...]:
    return tuple({**FIELDS, **changes}.values())


def test_whole_scope() -> None:
    assert ScopeFactory("").make(fields()) == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/a",
        "raw_path": b"/a",
        "query_string": b"x=%20",
        "root_path": "",
        "headers": [(b"host", b"h"), (b"cookie", b"1"), (b"cookie", b"2")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "extensions": {
            "http.response.trailers": {},
            "http.response.early_hint": {},
            "http.response.pathsend": {},
        },
    }


@pytest.mark.parametrize(
    ("raw_path", "root_path", "path"),
    [
        (b"/", "", "/"),
        (b"/a%20b", "", "/a b"),
        (b"/%C3%A9", "", "/é"),
        ("/é".encode(), "", "/é"),
        (b"/%ff", "", "/\ufffd"),
        (b"/\xff", "", "/\ufffd"),
        (b"/%zz%4", "", "/%zz%4"),
        (b"/a%2Fb", "", "/a/b"),
        (b"/a%2520", "", "/a%20"),
        (b"/a", "/root", "/root/a"),
        (b"/", "/root", "/root/"),
        (b"*", "", "*"),
        (b"*", "/root", "*"),
    ],
)
def test_path(raw_path: bytes, root_path: str, path: str) -> None:
    """Percent-decoded below the root path; the raw one stays as it was sent."""
    scope = ScopeFactory(root_path).make(fields(raw_path=raw_path))
    assert (scope["path"], scope["raw_path"]) == (path, raw_path)
    assert scope["root_path"] == root_path


def test_root_path_of_a_request() -> None:
    """One that a proxy names takes the place of the setting, also where it is empty."""
    root_path = Atom("root_path")
    scope = ScopeFactory("/set").make(fields(extra={root_path: b"/shop"}))
    assert (scope["root_path"], scope["path"]) == ("/shop", "/shop/a")
    scope = ScopeFactory("/set").make(fields(extra={root_path: b""}))
    assert (scope["root_path"], scope["path"]) == ("", "/a")


def test_addresses() -> None:
    scope = ScopeFactory("").make(fields(client=None, server=(b"/run/a.sock", None)))
    assert (scope["client"], scope["server"]) == (None, ("/run/a.sock", None))
    scope = ScopeFactory("").make(fields(client=(b"::1", 5), server=(b"\xff", None)))
    assert (scope["client"], scope["server"]) == (("::1", 5), ("\udcff", None))


def test_scopes_share_nothing_that_can_be_changed() -> None:
    factory = ScopeFactory("")
    factory.state = {"list": [1]}
    first, second = factory.make(fields()), factory.make(fields())

    for key in ("asgi", "extensions", "state"):
        assert first[key] == second[key]
        assert first[key] is not second[key]

    # Shallow: the objects of the lifespan are shared.
    assert first["state"]["list"] is second["state"]["list"]


def test_state_only_where_there_is_a_lifespan() -> None:
    factory = ScopeFactory("")
    assert "state" not in factory.make(fields())
    factory.state = {}
    assert factory.make(fields())["state"] == {}


def test_made_up_methods_are_not_remembered_without_bound() -> None:
    factory = ScopeFactory("")

    for number in range(1000):
        method = f"M{number}"
        assert factory.make(fields(method=method.encode()))["method"] == method

    assert len(factory._texts) < 300


def test_websocket() -> None:
    factory = ScopeFactory("/root")
    factory.state = {"a": 1}
    scope = factory.make_websocket(fields(scheme=b"wss"), [b"v1", b"v2"])
    assert scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "wss",
        "path": "/root/a",
        "raw_path": b"/a",
        "query_string": b"x=%20",
        "root_path": "/root",
        "headers": [(b"host", b"h"), (b"cookie", b"1"), (b"cookie", b"2")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "subprotocols": ["v1", "v2"],
        "state": {"a": 1},
        "extensions": {"websocket.http.response": {}, "hornbeam.topics": {}},
    }


@pytest.mark.parametrize(
    ("scope", "subprotocols", "text"),
    [
        (5, [], "the scope of a request"),
        (fields(), ["v1"], "the subprotocols of a WebSocket"),
        (fields(), [1], "the subprotocols of a WebSocket"),
        (fields(headers=[5]), [], "the headers of a WebSocket"),
        (fields(headers=[(b"host", 5)]), [], "the headers of a WebSocket"),
    ],
)
def test_bad_websocket(scope: object, subprotocols: list[Any], text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        ScopeFactory("").make_websocket(scope, subprotocols)


def websocket_headers(
    factory: ScopeFactory, *headers: tuple[bytes, bytes]
) -> list[tuple[bytes, bytes]]:
    """Headers of a WebSocket, of bytes that nobody else has."""
    own = [(bytes(bytearray(name)), bytes(bytearray(value))) for name, value in headers]
    result: list[tuple[bytes, bytes]] = factory.make_websocket(fields(headers=own), [])[
        "headers"
    ]
    assert result == list(headers)
    return result


def test_websockets_share_what_is_the_same_for_many() -> None:
    factory = ScopeFactory("")
    header = (b"user-agent", b"Mozilla/5.0")
    [(name, value)] = websocket_headers(factory, header)
    [(other_name, other_value)] = websocket_headers(factory, header)
    assert name is other_name
    assert value is other_value


@pytest.mark.parametrize(
    "header", [(b"cookie", b"session=1234"), (b"user-agent", b"x" * 257)]
)
def test_websockets_do_not_share_what_is_their_own(header: tuple[bytes, bytes]) -> None:
    factory = ScopeFactory("")
    [(_, value)] = websocket_headers(factory, header)
    [(_, other_value)] = websocket_headers(factory, header)
    assert value is not other_value


def test_shared_values_are_bounded() -> None:
    factory = ScopeFactory("")

    for number in range(1025):
        websocket_headers(factory, (b"origin", b"https://%d.test" % number))

    last, first = (b"origin", b"https://1024.test"), (b"origin", b"https://0.test")
    pairs = {
        header: (websocket_headers(factory, header), websocket_headers(factory, header))
        for header in (first, last)
    }
    assert pairs[first][0][0][1] is pairs[first][1][0][1]
    assert pairs[last][0][0][1] is not pairs[last][1][0][1]


@pytest.mark.parametrize(
    "bad",
    [
        fields()[:-1],
        (*fields(), 1),
        5,
        fields(method=5),
        fields(raw_path=None),
        fields(client=(b"h",)),
        fields(client=b""),
        fields(client=(5, 5)),
        fields(server=(None, 5)),
        fields(http_version=[]),
        fields(extra=None),
        fields(extra={Atom("root_path"): "text"}),
        fields(extra={Atom("root_path"): b"/\xff"}),
    ],
)
def test_bad_scope(bad: object) -> None:
    with pytest.raises(ProtocolError, match="the scope of a request"):
        ScopeFactory("").make(bad)


def test_tls() -> None:
    """They make the extension; the application may change what it gets."""
    factory = ScopeFactory("")
    without = factory.make(fields())["extensions"]
    expected = {
        "server_cert": "PEM",
        "client_cert_chain": ["A", "B"],
        "client_cert_name": "CN=größe",
        "client_cert_error": None,
        "tls_version": 0x0304,
        "cipher_suite": 0x1301,
    }

    for _ in range(2):
        tls = (0x0304, 0x1301, b"PEM", [b"A", b"B"], "CN=größe".encode())
        scope = factory.make(fields(scheme=b"https", extra={Atom("tls"): tls}))
        assert scope["scheme"] == "https"
        assert scope["extensions"] == {**without, "tls": expected}
        scope["extensions"]["tls"]["client_cert_chain"].clear()
        scope["extensions"]["tls"]["server_cert"] = None

    nobody: tuple[Any, ...] = (0x0303, 0xC02F, b"PEM", [], None)
    tls = factory.make(fields(extra={Atom("tls"): nobody}))["extensions"]["tls"]
    assert (tls["client_cert_chain"], tls["client_cert_name"]) == ([], None)


@pytest.mark.parametrize(
    "tls", [(), (1, 2, b""), (1, 2, b"", [b"\xff"], None), (1, 2, b"", [1], None), 5]
)
def test_bad_tls(tls: object) -> None:
    with pytest.raises(ProtocolError):
        ScopeFactory("").make(fields(extra={Atom("tls"): tls}))
