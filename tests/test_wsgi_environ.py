# SPDX-License-Identifier: Apache-2.0
"""The environ of a WSGI request."""

from __future__ import annotations

from typing import Any

import pytest

from hornbeam._protocol import ProtocolError
from hornbeam._terms import Atom
from hornbeam._wsgi_environ import Environ, EnvironFactory


def environ(root_path: str = "", **changes: Any) -> Environ:
    """Make an environ of a plain request, with changes to the node's scope."""
    fields: dict[str, Any] = {
        "method": b"GET",
        "scheme": b"http",
        "http_version": b"1.1",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [],
        "client": (b"192.0.2.7", 4711),
        "server": (b"127.0.0.1", 8000),
        "extra": {},
    }
    fields.update(changes)
    factory = EnvironFactory(root_path, {"wsgi.version": (1, 0)})
    return factory.make(tuple(fields.values()))


def test_plain_request() -> None:
    assert environ() == {
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "REQUEST_URI": "/",
        "RAW_URI": "/",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "REMOTE_ADDR": "192.0.2.7",
        "REMOTE_PORT": "4711",
    }


@pytest.mark.parametrize(
    ("raw_path", "path_info"),
    [
        (b"/a%20b", "/a b"),
        # UTF-8 as Latin-1, as PEP 3333 wants it.
        (b"/%C3%A4", "/\xc3\xa4"),
        (b"/\xc3\xa4", "/\xc3\xa4"),
        (b"/%FF", "/\xff"),
        (b"/a%2Fb", "/a/b"),
        (b"/%", "/%"),
        (b"*", "*"),
    ],
)
def test_path_is_decoded_to_latin1(raw_path: bytes, path_info: str) -> None:
    made = environ(raw_path=raw_path)
    assert made["PATH_INFO"] == path_info
    assert made["RAW_URI"] == raw_path.decode("latin-1")


def test_target_as_sent() -> None:
    made = environ(raw_path=b"/a%20b", query_string=b"x=%C3%A4&y")
    assert made["REQUEST_URI"] == "/a%20b?x=%C3%A4&y"
    assert made["QUERY_STRING"] == "x=%C3%A4&y"


@pytest.mark.parametrize(
    ("root_path", "raw_path", "script_name", "path_info"),
    [
        ("/api", b"/api/users", "/api", "/users"),
        ("/api", b"/api", "/api", ""),
        ("/api", b"/api/", "/api", "/"),
        # A proxy in front has taken it away.
        ("/api", b"/users", "/api", "/users"),
        ("/api", b"/apiary", "/api", "/apiary"),
        ("/ä", b"/%C3%A4/x", "/\xc3\xa4", "/x"),
        ("/api", b"*", "", "*"),
    ],
)
def test_root_path(
    root_path: str, raw_path: bytes, script_name: str, path_info: str
) -> None:
    made = environ(root_path, raw_path=raw_path)
    assert (made["SCRIPT_NAME"], made["PATH_INFO"]) == (script_name, path_info)


def test_root_path_of_the_request_counts() -> None:
    made = environ("/api", raw_path=b"/shop/x", extra={Atom("root_path"): b"/shop"})
    assert (made["SCRIPT_NAME"], made["PATH_INFO"]) == ("/shop", "/x")


def test_headers() -> None:
    made = environ(
        headers=[
            (b"content-type", b"text/plain"),
            (b"content-length", b"3"),
            (b"x-one", b"1"),
            (b"x-one", b"2"),
            (b"cookie", b"a=1"),
            (b"cookie", b"b=2"),
            (b"x-latin", b"\xe4"),
        ]
    )
    assert made["CONTENT_TYPE"] == "text/plain"
    assert made["CONTENT_LENGTH"] == "3"
    assert made["HTTP_X_ONE"] == "1,2"
    assert made["HTTP_COOKIE"] == "a=1; b=2"
    assert made["HTTP_X_LATIN"] == "\xe4"
    assert "HTTP_CONTENT_TYPE" not in made
    assert "HTTP_CONTENT_LENGTH" not in made


def test_header_with_underscore_is_left_out() -> None:
    # It would pass for the one that a proxy in front has set.
    made = environ(
        headers=[(b"x-user", b"ann"), (b"x_user", b"root"), (b"x_other", b"1")]
    )
    assert made["HTTP_X_USER"] == "ann"
    assert "HTTP_X_OTHER" not in made


def test_names_of_many_clients_cost_no_memory() -> None:
    factory = EnvironFactory("", {})

    for number in range(3000):
        factory.make(
            (
                *(b"GET", b"http", b"1.1", b"/", b""),
                [(b"x-%d" % number, b"")],
                None,
                (b"h", 80),
                {},
            )
        )

    assert len(factory._names) == 1024


@pytest.mark.parametrize(
    ("host", "scheme", "name", "port"),
    [
        (b"example.org:8080", b"http", "example.org", "8080"),
        (b"example.org", b"http", "example.org", "80"),
        (b"example.org", b"https", "example.org", "443"),
        (b"[::1]:81", b"http", "[::1]", "81"),
        (b"", b"http", "localhost", "80"),
    ],
)
def test_unix_socket(host: bytes, scheme: bytes, name: str, port: str) -> None:
    made = environ(
        scheme=scheme,
        headers=[(b"host", host)],
        client=None,
        server=(b"/run/app.sock", None),
    )
    assert (made["SERVER_NAME"], made["SERVER_PORT"]) == (name, port)
    assert made["REMOTE_ADDR"] == ""
    assert "REMOTE_PORT" not in made


def test_fields_of_another_form() -> None:
    with pytest.raises(ProtocolError, match="the scope of a request"):
        environ(headers=[b"x"])
