# SPDX-License-Identifier: Apache-2.0
"""What is no HTTP/1.1 request, or may be taken for two: a table by RFC 9110 and 9112.

Each row comes with a second request right behind it. It gets the status that the RFC
names, once, and the end of the connection; the second request is never seen.
"""

from __future__ import annotations

import re
import time
import uuid
from ast import literal_eval
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from e2e.observe import Server, serving
from e2e.raw import Connection, request
from node import Node

BOUND_SECONDS = 4.0
"""An answer that comes later has hung; a stalled body is due after `body_timeout`."""


class Bad(NamedTuple):
    """A request that is refused."""

    data: bytes
    status: int
    rfc: str
    """The section; what follows a colon is where the server does what it may, or where
    Cowboy's parser leaves no choice."""
    status_of_part: int | None = None
    """What Cowboy says where it has read up to some byte only, if that is another."""


def post(*lines: str, rest: bytes = b"") -> bytes:
    head = ["POST /echo HTTP/1.1", "Host: x", *lines, "", ""]
    return "\r\n".join(head).encode("latin-1") + rest


def get(*lines: str, line: str = "GET /hello HTTP/1.1") -> bytes:
    return "\r\n".join([line, *lines, "", ""]).encode("latin-1")


def te(*values: str, rest: bytes = b"0\r\n\r\n") -> bytes:
    return post(*(f"Transfer-Encoding:{value}" for value in values), rest=rest)


def cl(*values: str, rest: bytes = b"12345") -> bytes:
    return post(*(f"Content-Length:{value}" for value in values), rest=rest)


def chunks(rest: bytes) -> bytes:
    return te(" chunked", rest=rest)


def line(text: str) -> bytes:
    return get("Host: x", line=text)


TE = "Transfer-Encoding: chunked"
CL = "Content-Length: 5"

# A server SHOULD answer 501 to a coding that it does not know; Cowboy answers 400.
CODING = "9112 6.1: 501 is a SHOULD, Cowboy says 400"
# Cowboy takes whatever else stands there for a version, and does not say what it was.
VERSION = "9112 2.3: Cowboy says 505 to what is no version, too"

LENGTHS = {
    # Two ways to tell where the body ends.
    "te-and-cl": Bad(post(TE, CL, rest=b"0\r\n\r\n"), 400, "9112 6.3"),
    "cl-and-te": Bad(post(CL, TE, rest=b"0\r\n\r\n"), 400, "9112 6.3"),
    "te-unknown-and-cl": Bad(
        post("Transfer-Encoding: identity", CL, rest=b"12345"), 400, "9112 6.3"
    ),
    "cl-twice": Bad(cl(" 5", " 6"), 400, "9112 6.3"),
    "cl-twice-alike": Bad(cl(" 5", " 5"), 400, "9112 6.3: may be taken for one"),
    "cl-twice-in-case": Bad(
        post(CL, "CONTENT-LENGTH: 6", rest=b"12345"), 400, "9112 6.3"
    ),
    "cl-list": Bad(cl(" 5, 6"), 400, "9112 6.3"),
    "cl-list-alike": Bad(cl(" 5, 5"), 400, "9110 8.6: may be taken for one"),
    "cl-list-empty": Bad(cl(" 5,"), 400, "9110 8.6"),
    # Codings other than chunked.
    "te-twice": Bad(te(" chunked", " chunked"), 400, "9112 6.1"),
    "te-list-twice": Bad(te(" chunked, chunked"), 400, "9112 6.1"),
    "te-identity": Bad(te(" identity", rest=b"12345"), 400, "9112 6.3"),
    "te-identity-first": Bad(te(" identity, chunked"), 400, CODING),
    "te-identity-line-first": Bad(te(" identity", " chunked"), 400, CODING),
    "te-identity-last": Bad(te(" chunked, identity"), 400, "9112 6.3"),
    "te-gzip": Bad(te(" gzip, chunked"), 400, CODING),
    "te-not-last": Bad(te(" chunked, gzip"), 400, "9112 6.3"),
    "te-nearly": Bad(te(" xchunked"), 400, "9112 6.3"),
    "te-nearly-2": Bad(te(" chunked-x"), 400, "9112 6.3"),
    "te-parameter": Bad(te(" chunked;q=1"), 400, "9112 7"),
    "te-quoted": Bad(te(' "chunked"'), 400, "9112 6.3"),
    "te-empty": Bad(te(""), 400, "9112 6.3"),
    "te-vertical-tab": Bad(te(" \x0bchunked"), 400, "9112 6.3"),
    "te-vertical-tab-behind": Bad(te(" chunked\x0b"), 400, "9112 6.3"),
    "te-form-feed": Bad(te(" chunked\x0c"), 400, "9112 6.3"),
    "te-nul": Bad(te(" chunked\0"), 400, "9110 5.5"),
    "te-cr": Bad(te(" chunked\r"), 400, "9112 2.2"),
    "te-no-break-space": Bad(te(" \xa0chunked"), 400, "9112 6.3"),
    "te-space-before-colon": Bad(
        post("Transfer-Encoding : chunked", CL, rest=b"0\r\n\r\n"), 400, "9112 5.1"
    ),
    "te-tab-before-colon": Bad(
        post("Transfer-Encoding\t: chunked", rest=b"0\r\n\r\n"), 400, "9112 5.1"
    ),
    "te-folded": Bad(te("", rest=b"") + b" chunked\r\n\r\n", 400, "9112 6.3"),
    "te-on-a-fold": Bad(post("X: y", f" {TE}", rest=b"0\r\n\r\n"), 400, "9112 5.2"),
    "te-behind-lf": Bad(post(f"X: y\n{TE}", rest=b"0\r\n\r\n"), 400, "9110 5.5"),
    "te-behind-cr": Bad(post(f"X: y\r{TE}", rest=b"0\r\n\r\n"), 400, "9112 2.2"),
    "te-http10": Bad(
        chunks(b"0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"), 400, "9112 6.1"
    ),
    # Lengths that are no numbers.
    "cl-plus": Bad(cl(" +5"), 400, "9110 8.6"),
    "cl-minus": Bad(cl(" -5"), 400, "9110 8.6"),
    "cl-minus-zero": Bad(cl(" -0", rest=b""), 400, "9110 8.6"),
    "cl-zeros": Bad(cl(" 00", rest=b""), 400, "9110 8.6: Cowboy would wait for ever"),
    "cl-hex": Bad(cl(" 0x5"), 400, "9110 8.6"),
    "cl-space": Bad(cl(" 5 5"), 400, "9110 8.6"),
    "cl-fraction": Bad(cl(" 5.0"), 400, "9110 8.6"),
    "cl-exponent": Bad(cl(" 5e0"), 400, "9110 8.6"),
    "cl-underscore": Bad(cl(" 5_0"), 400, "9110 8.6"),
    "cl-superscript": Bad(cl(" \xb2"), 400, "9110 8.6"),
    "cl-quoted": Bad(cl(' "5"'), 400, "9110 8.6"),
    "cl-empty": Bad(cl(""), 400, "9110 8.6"),
    "cl-word": Bad(cl(" five"), 400, "9110 8.6"),
    "cl-nul": Bad(cl(" 5\0"), 400, "9110 5.5"),
    "cl-vertical-tab": Bad(cl(" \x0b5"), 400, "9110 8.6"),
    "cl-folded": Bad(post("Content-Length:", " 5", rest=b"12345"), 400, "9112 5.2"),
    "cl-space-before-colon": Bad(
        post("Content-Length : 5", rest=b"12345"), 400, "9112 5.1"
    ),
    "cl-above-64-bits": Bad(cl(" 18446744073709551621"), 413, "9110 8.6"),
    "cl-above-63-bits": Bad(cl(" 9223372036854775808"), 413, "9110 8.6"),
    "cl-huge": Bad(cl(" " + "9" * 500), 413, "9110 8.6"),
    "cl-that-does-not-come": Bad(cl(" 9223372036854775807"), 408, "9110 15.5.9"),
}

CHUNKS = {
    "no-hex": Bad(chunks(b"x\r\nx\r\n0\r\n\r\n"), 400, "9112 7.1"),
    "hex-and-more": Bad(chunks(b"5h\r\n12345\r\n0\r\n\r\n"), 400, "9112 7.1"),
    "plus": Bad(chunks(b"+5\r\n12345\r\n0\r\n\r\n"), 400, "9112 7.1"),
    "minus": Bad(chunks(b"-5\r\n12345\r\n0\r\n\r\n"), 400, "9112 7.1"),
    "0x": Bad(chunks(b"0x5\r\n12345\r\n0\r\n\r\n"), 400, "9112 7.1"),
    "underscore": Bad(chunks(b"1_0\r\n12345\r\n0\r\n\r\n"), 400, "9112 7.1"),
    "no-size": Bad(chunks(b"\r\n12345\r\n0\r\n\r\n"), 400, "9112 7.1"),
    "only-an-extension": Bad(chunks(b";a\r\n12345\r\n0\r\n\r\n"), 400, "9112 7.1"),
    "above-64-bits": Bad(
        chunks(b"10000000000000005\r\n12345\r\n0\r\n\r\n"), 400, "9112 7.1"
    ),
    "above-63-bits": Bad(
        chunks(b"8000000000000000\r\n12345\r\n0\r\n\r\n"), 400, "9112 7.1"
    ),
    "huge": Bad(chunks(b"f" * 40 + b"\r\n12345\r\n0\r\n\r\n"), 400, "9112 7.1"),
    "zeros": Bad(chunks(b"0" * 40 + b"\r\n\r\n"), 400, "9112 7.1: no limit is named"),
    "that-does-not-come": Bad(
        chunks(b"7fffffffffffffff\r\n12345\r\n0\r\n\r\n"), 408, "9110 15.5.9"
    ),
    "too-long": Bad(chunks(b"3\r\n12345\r\n0\r\n\r\n"), 400, "9112 7.1"),
    "too-short": Bad(chunks(b"6\r\n12345\r\n0\r\n\r\n"), 400, "9112 7.1"),
    "end-missing": Bad(chunks(b"5\r\n123450\r\n\r\n"), 400, "9112 7.1"),
    "space-before": Bad(chunks(b" 5\r\n12345\r\n0\r\n\r\n"), 400, "9112 7.1"),
    "vertical-tab": Bad(chunks(b"5\x0b\r\n12345\r\n0\r\n\r\n"), 400, "9112 7.1"),
    "lf": Bad(chunks(b"5\n12345\n0\n\n"), 400, "9112 7.1"),
    "lf-behind-size": Bad(chunks(b"5\n12345\r\n0\r\n\r\n"), 400, "9112 7.1"),
    "lf-behind-data": Bad(chunks(b"5\r\n12345\n0\r\n\r\n"), 400, "9112 7.1"),
    "lf-at-the-end": Bad(chunks(b"5\r\n12345\r\n0\r\n\n"), 400, "9112 7.1"),
    "cr-in-size": Bad(chunks(b"5\r\r\n12345\r\n0\r\n\r\n"), 400, "9112 7.1"),
    "cr-behind-data": Bad(chunks(b"5\r\n12345\r0\r\n\r\n"), 400, "9112 7.1"),
    "cr-at-the-end": Bad(chunks(b"5\r\n12345\r\n0\r\n\rX"), 400, "9112 7.1"),
    "extension-lf": Bad(chunks(b"5;a\nb\r\n12345\r\n0\r\n\r\n"), 400, "9112 7.1.1"),
    "extension-cr": Bad(chunks(b"5;a\rb\r\n12345\r\n0\r\n\r\n"), 400, "9112 7.1.1"),
    "extension-nul": Bad(chunks(b"5;a\0b\r\n12345\r\n0\r\n\r\n"), 400, "9112 7.1.1"),
    "extension-none": Bad(chunks(b"5 x\r\n12345\r\n0\r\n\r\n"), 400, "9112 7.1.1"),
    "extension-open-quote": Bad(
        chunks(b'5;a="\r\n12345\r\n0\r\n\r\n'), 400, "9112 7.1.1"
    ),
    "extension-quoted-quote": Bad(
        chunks(b'5;a="b\\"\r\n12345\r\n0\r\n\r\n'), 400, "9112 7.1.1"
    ),
    "extension-lf-in-quotes": Bad(
        chunks(b'5;a="\n"\r\n12345\r\n0\r\n\r\n'), 400, "9112 7.1.1"
    ),
    "extension-end-in-quotes": Bad(
        chunks(b'5;a="x\r\n0\r\n\r\n"\r\n12345\r\n0\r\n\r\n'), 400, "9112 7.1.1"
    ),
    "extension-endless": Bad(chunks(b"5;" + b"x" * 2000), 400, "9112 7.1.1"),
    "trailer-fold": Bad(chunks(b"0\r\nX: a\r\n b\r\n\r\n"), 400, "9112 5.2"),
    "trailer-no-colon": Bad(chunks(b"0\r\nX\r\n\r\n"), 400, "9112 7.1.2"),
    "trailer-space-before-colon": Bad(chunks(b"0\r\nX : a\r\n\r\n"), 400, "9112 5.1"),
    "trailer-lf": Bad(chunks(b"0\r\nX: a\n\r\n"), 400, "9112 7.1.2"),
    "trailer-nul": Bad(chunks(b"0\r\nX: a\0\r\n\r\n"), 400, "9110 5.5"),
    "trailer-request": Bad(
        chunks(b"0\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"), 400, "9112 7.1.2"
    ),
    "trailers-endless": Bad(
        chunks(b"0\r\n" + b"X: a\r\n" * 5000), 400, "9112 7.1.2: no limit is named"
    ),
}

LINES = {
    "obs-fold": Bad(get("Host: x", "X: a", " b"), 400, "9112 5.2"),
    "obs-fold-tab": Bad(get("Host: x", "X: a", "\tb"), 400, "9112 5.2"),
    "space-first": Bad(get(" Host: x"), 400, "9112 2.2"),
    "tab-first": Bad(get("\tHost: x"), 400, "9112 2.2"),
    "space-before-a-good-one": Bad(get(" X: a", "Host: x"), 400, "9112 2.2"),
    "blank": Bad(get("Host: x", " ", "X: a"), 400, "9112 5.2"),
    "blank-tab": Bad(get("Host: x", "\t"), 400, "9112 5.2"),
    "space-before-colon": Bad(get("Host: x", "X : a"), 400, "9112 5.1"),
    "tab-before-colon": Bad(get("Host: x", "X\t: a"), 400, "9112 5.1"),
    "space-in-name": Bad(get("Host: x", "X Y: a"), 400, "9110 5.1"),
    "no-colon": Bad(get("Host: x", "XYZ"), 400, "9112 5"),
    "no-name": Bad(get("Host: x", ": a"), 400, "9110 5.1"),
    "only-a-colon": Bad(get("Host: x", ":"), 400, "9110 5.1"),
    "lf-in-value": Bad(get("Host: x", "X: a\nY: b"), 400, "9110 5.5"),
    "cr-in-value": Bad(get("Host: x", "X: a\rY: b"), 400, "9112 2.2"),
    "nul-in-value": Bad(get("Host: x", "X: a\0b"), 400, "9110 5.5"),
    "nul-is-value": Bad(get("Host: x", "X: \0"), 400, "9110 5.5"),
    "nul-in-name": Bad(get("Host: x", "X\0Y: b"), 400, "9110 5.1"),
    "control-in-name": Bad(get("Host: x", "X\x01: a"), 400, "9110 5.1"),
    "latin-1-in-name": Bad(get("Host: x", "X\xe9: a"), 400, "9110 5.1"),
    "parentheses-in-name": Bad(get("Host: x", "X(y): a"), 400, "9110 5.1"),
    "slash-in-name": Bad(get("Host: x", "X/Y: a"), 400, "9110 5.1"),
    "quoted-name": Bad(get("Host: x", '"X": a'), 400, "9110 5.1"),
    "lf-lines": Bad(b"GET /hello HTTP/1.1\nHost: x\n\n", 505, VERSION),
    "lf-request-line": Bad(b"GET /hello HTTP/1.1\nHost: x\r\n\r\n", 505, VERSION),
    "lf-at-the-end": Bad(b"GET /hello HTTP/1.1\r\nHost: x\n\r\n", 400, "9112 2.2"),
    "lf-empty-line": Bad(b"GET /hello HTTP/1.1\r\nHost: x\r\n\n", 400, "9112 2.2"),
    "cr-lines": Bad(b"GET /hello HTTP/1.1\rHost: x\r\r", 505, VERSION),
    "cr-twice": Bad(b"GET /hello HTTP/1.1\r\r\nHost: x\r\n\r\n", 505, VERSION),
    "cr-twice-in-header": Bad(
        b"GET /hello HTTP/1.1\r\nHost: x\r\r\n\r\n", 400, "9112 2.2"
    ),
    "cr-empty-line": Bad(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\r\n", 400, "9112 2.2"),
}

REQUEST_LINES = {
    # Versions.
    "http-0.9": Bad(b"GET /hello\r\n", 400, "9112 3"),
    "http-0.9-named": Bad(line("GET /hello HTTP/0.9"), 505, "9110 15.6.6"),
    "http-1.2": Bad(
        line("GET /hello HTTP/1.2"), 505, "9110 2.5: is a 1.1, Cowboy refuses it"
    ),
    "http-1.10": Bad(line("GET /hello HTTP/1.10"), 505, VERSION),
    "http-1.01": Bad(line("GET /hello HTTP/1.01"), 505, VERSION),
    "http-1": Bad(line("GET /hello HTTP/1"), 505, VERSION),
    "http-1.1.1": Bad(line("GET /hello HTTP/1.1.1"), 505, VERSION),
    "http-1.1x": Bad(line("GET /hello HTTP/1.1x"), 505, VERSION),
    "http-11.1": Bad(line("GET /hello HTTP/11.1"), 505, VERSION),
    "http-2.0": Bad(line("GET /hello HTTP/2.0"), 505, "9110 15.6.6"),
    "http-3.0": Bad(line("GET /hello HTTP/3.0"), 505, "9110 15.6.6"),
    "http-lower": Bad(line("GET /hello http/1.1"), 505, VERSION),
    "http-word": Bad(line("GET /hello HTTP/one"), 505, VERSION),
    "http-nothing": Bad(line("GET /hello HTTP/"), 505, VERSION),
    "http-space": Bad(line("GET /hello HTTP /1.1"), 505, VERSION),
    "icy": Bad(line("GET /hello ICY/1.1"), 505, VERSION),
    # Spaces.
    "two-spaces": Bad(line("GET  /hello HTTP/1.1"), 400, "9112 3"),
    "two-spaces-2": Bad(line("GET /hello  HTTP/1.1"), 400, "9112 3"),
    "tabs": Bad(line("GET\t/hello\tHTTP/1.1"), 400, "9112 3"),
    "tab-before-version": Bad(line("GET /hello\tHTTP/1.1"), 400, "9112 3"),
    "vertical-tab": Bad(line("GET\x0b/hello HTTP/1.1"), 400, "9112 3"),
    "space-behind": Bad(line("GET /hello HTTP/1.1 "), 400, "9112 3"),
    "tab-behind": Bad(line("GET /hello HTTP/1.1\t"), 400, "9112 3"),
    "space-before": Bad(line(" GET /hello HTTP/1.1"), 400, "9112 3"),
    "blank-line-before": Bad(b" \r\n" + get("Host: x"), 400, "9112 2.2"),
    "lf-before": Bad(b"\n" + get("Host: x"), 400, "9112 2.2"),
    "cr-before": Bad(b"\r" + get("Host: x"), 400, "9112 2.2"),
    "empty-lines": Bad(b"\r\n" * 20 + get("Host: x"), 400, "9112 2.2"),
    # Methods.
    "no-method": Bad(line(" /hello HTTP/1.1"), 400, "9112 3.1"),
    "method-no-token": Bad(line("G(T /hello HTTP/1.1"), 400, "9112 3.1"),
    "method-nul": Bad(line("G\0T /hello HTTP/1.1"), 400, "9112 3.1"),
    "method-latin-1": Bad(line("G\xc9T /hello HTTP/1.1"), 400, "9112 3.1"),
    "method-huge": Bad(line("G" * 100 + " /hello HTTP/1.1"), 501, "9112 3"),
    "method-endless": Bad(b"G" * 20_000, 414, "9112 3"),
    "method-of-proxies": Bad(line("CONNECT x:80 HTTP/1.1"), 501, "9110 9.1"),
    "method-connect-path": Bad(line("CONNECT /hello HTTP/1.1"), 501, "9110 9.1"),
    "method-trace": Bad(line("TRACE /hello HTTP/1.1"), 501, "9110 9.1"),
    # Targets.
    "no-target": Bad(line("GET HTTP/1.1"), 400, "9112 3"),
    "space-in-target": Bad(line("GET /hel lo HTTP/1.1"), 505, VERSION),
    "nul-in-target": Bad(line("GET /hel\0lo HTTP/1.1"), 400, "9112 3.2"),
    "control-in-target": Bad(line("GET /hel\x01lo HTTP/1.1"), 400, "9112 3.2"),
    "del-in-target": Bad(line("GET /hel\x7flo HTTP/1.1"), 400, "9112 3.2"),
    "cr-in-target": Bad(line("GET /hel\rlo HTTP/1.1"), 400, "9112 2.2"),
    "lf-in-query": Bad(
        line("GET /hello?\nx HTTP/1.1"), 400, "9112 3.2", status_of_part=505
    ),
    "no-slash": Bad(line("GET hello HTTP/1.1"), 400, "9112 3.2.1"),
    "backslash": Bad(line("GET \\hello HTTP/1.1"), 400, "9112 3.2.1"),
    "authority-form": Bad(line("GET x:80 HTTP/1.1"), 400, "9112 3.2.3"),
    "asterisk-form": Bad(line("GET * HTTP/1.1"), 400, "9112 3.2.4"),
    "asterisk-and-more": Bad(line("OPTIONS *x HTTP/1.1"), 400, "9112 3.2.4"),
    "absolute-ftp": Bad(line("GET ftp://x/hello HTTP/1.1"), 400, "9112 3.2.2"),
    "absolute-user": Bad(line("GET http://u@x/hello HTTP/1.1"), 400, "9110 4.2.4"),
    "absolute-no-host": Bad(line("GET http:///hello HTTP/1.1"), 400, "9110 4.2.1"),
    "absolute-without-header": Bad(
        get(line="GET http://x/hello HTTP/1.1"), 400, "9112 3.2"
    ),
    "absolute-other": Bad(
        line("GET http://y/hello HTTP/1.1"), 400, "9112 3.2.2: Cowboy believes neither"
    ),
}

HOSTS = {
    "missing": Bad(get("X: a"), 400, "9112 3.2"),
    "twice": Bad(get("Host: x", "Host: y"), 400, "9112 3.2"),
    "twice-alike": Bad(get("Host: x", "Host: x"), 400, "9112 3.2"),
    "list": Bad(get("Host: x, y"), 400, "9112 3.2"),
    "space": Bad(get("Host: x y"), 400, "9112 3.2"),
    "tab": Bad(get("Host: x\ty"), 400, "9112 3.2"),
    "control": Bad(get("Host: x\x01"), 400, "9112 3.2"),
    "slash": Bad(get("Host: x/y"), 400, "9112 3.2"),
    "backslash": Bad(get("Host: x\\y"), 400, "9112 3.2"),
    "query": Bad(get("Host: x?y"), 400, "9112 3.2"),
    "fragment": Bad(get("Host: x#y"), 400, "9112 3.2"),
    "userinfo": Bad(get("Host: user@x"), 400, "9110 7.2"),
    "userinfo-empty": Bad(get("Host: @x"), 400, "9110 7.2"),
    "quoted": Bad(get('Host: "x"'), 400, "9112 3.2"),
    "latin-1": Bad(get("Host: b\xfccher"), 400, "9112 3.2"),
    "port-word": Bad(get("Host: x:port"), 400, "9110 7.2"),
    "port-plus": Bad(get("Host: x:+80"), 400, "9110 7.2"),
    "port-minus": Bad(get("Host: x:-1"), 400, "9110 7.2"),
    "port-range": Bad(get("Host: x:65536"), 400, "9110 7.2"),
    "port-empty": Bad(get("Host: x:"), 400, "9110 4.2.3: Cowboy refuses it"),
    "ports": Bad(get("Host: x:80:80"), 400, "9110 7.2"),
    "port-only": Bad(get("Host: :80"), 400, "9110 4.2.1"),
    "ipv6-open": Bad(get("Host: [::1"), 400, "9112 3.2"),
    "space-before-colon": Bad(get("Host : x"), 400, "9112 5.1"),
}

NOT_HTTP = {
    "tls": Bad(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "9112 3"),
    "byte-order-mark": Bad(b"\xef\xbb\xbf" + get("Host: x"), 400, "9112 3"),
    "nul": Bad(b"\0" + get("Host: x"), 400, "9112 3"),
    "zeros": Bad(b"\0" * 1000, 400, "9112 3"),
    "0xff": Bad(b"\xff" * 20_000, 414, "9112 3"),
    "proxy-header": Bad(
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + get("Host: x"), 400, "9112 3"
    ),
}

BAD = {
    f"{kind}:{name}": row
    for kind, rows in {
        "length": LENGTHS,
        "chunk": CHUNKS,
        "line": LINES,
        "request": REQUEST_LINES,
        "host": HOSTS,
        "other": NOT_HTTP,
    }.items()
    for name, row in rows.items()
}


@pytest.fixture(scope="module")
def server(node: Node) -> Iterator[Server]:
    with serving(node, "contract", "#{body_timeout => 700}") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Connection]:
    with Connection(server.url, timeout=BOUND_SECONDS) as connection:
        yield connection


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


def see(name: str) -> bytes:
    """A request that the application remembers."""
    return request(target=f"/see/{name}")


def seen(server: Server, name: str) -> Any:
    with Connection(server.url) as connection:
        return literal_eval(connection.get(f"/seen/{name}").text)


def check_refusal(client: Connection, row: Bad, *, in_parts: bool = False) -> None:
    """One error response, in time, then the end of the connection."""
    began = time.monotonic()
    answer = client.read_response()
    statuses = {row.status, row.status_of_part if in_parts else row.status}
    assert answer.status in statuses, (answer, row.rfc)
    assert answer.one("connection") == b"close"
    assert answer.one("content-length") is not None
    client.read_eof()
    assert time.monotonic() - began < BOUND_SECONDS


@pytest.mark.parametrize("case", BAD)
def test_bad_request(server: Server, client: Connection, name: str, case: str) -> None:
    """An error and the end: no second response, and no second request seen."""
    client.send(BAD[case].data + see(name))
    check_refusal(client, BAD[case])
    assert seen(server, name) is False


@pytest.mark.parametrize("case", BAD)
def test_bad_request_byte_by_byte(client: Connection, case: str) -> None:
    """However it comes, it is no request."""
    try:
        # Some heads come to no end without a further one.
        client.drip(BAD[case].data + get("Host: x"))
    except (BrokenPipeError, ConnectionResetError):
        # Refused before it was through.
        pass

    check_refusal(client, BAD[case], in_parts=True)


@pytest.mark.parametrize(("read", "status"), [(12, 400), (17, 505)])
def test_line_end_in_a_query(client: Connection, read: int, status: int) -> None:
    """Cowboy looks for a version behind a space as soon as there is any line end."""
    data = BAD["request:lf-in-query"].data
    client.send(data[:read])
    answer = client.read_response()
    assert answer.status == status
    client.read_eof()


def test_every_row_names_its_rfc() -> None:
    assert len(BAD) > 150

    for row in BAD.values():
        assert re.fullmatch(r"(9110|9112) \d+(\.\d+)*(: .+)?", row.rfc), row


class Odd(NamedTuple):
    """A request that is answered with 200 and goes as far as its RFC says."""

    data: bytes
    rfc: str
    body: str = "hello"


ODD = {
    "host-empty": Odd(get("Host:"), "9112 3.2"),
    "host-port": Odd(get("Host: x:80"), "9110 7.2"),
    "host-v6": Odd(get("Host: [::1]:80"), "9110 7.2"),
    "host-space-around": Odd(get("Host: \t x \t"), "9112 5.1"),
    "host-upper": Odd(get("HOST: X"), "9110 5.1"),
    "empty-line-first": Odd(b"\r\n" + get("Host: x"), "9112 2.2"),
    "no-space-after-colon": Odd(get("Host:x"), "9112 5.1"),
    "te-upper": Odd(
        post("TRANSFER-ENCODING: CHUNKED", rest=b"0\r\n\r\n"), "9112 7", ""
    ),
    "te-space": Odd(te("   chunked  "), "9112 5.1", ""),
    "te-tab": Odd(te("\tchunked\t"), "9112 5.1", ""),
    "te-empty-elements": Odd(te(" , chunked,"), "9110 5.6.1", ""),
    "te-of-get": Odd(get("Host: x", TE) + b"0\r\n\r\n", "9112 6.3"),
    "te-nearly-named": Odd(
        post("Transfer_Encoding: chunked", CL, rest=b"12345"), "9110 5.1", "12345"
    ),
    "cl-zeros-first": Odd(cl(" 005"), "9110 8.6", "12345"),
    "cl-space": Odd(cl("   5  "), "9112 5.1", "12345"),
    "chunk-zeros": Odd(chunks(b"0005\r\n12345\r\n000\r\n\r\n"), "9112 7.1", "12345"),
    "chunk-space": Odd(chunks(b"5  \r\n12345\r\n0\r\n\r\n"), "9112 7.1.1", "12345"),
    "chunk-upper": Odd(
        chunks(b'A;\t a = "b"\r\n0123456789\r\n0;z\r\n\r\n'), "9112 7.1", "0123456789"
    ),
    "chunk-extension": Odd(
        chunks(b"5;a=b;c\r\n12345\r\n0\r\n\r\n"), "9112 7.1.1", "12345"
    ),
    "chunk-extension-quotes": Odd(
        chunks(b'5;a="\\"; \\\\";b="0"\r\n12345\r\n0\r\n\r\n'), "9112 7.1.1", "12345"
    ),
    "trailer-of-framing": Odd(
        chunks(b"0\r\nContent-Length: 9\r\n\r\n"), "9110 6.5.1", ""
    ),
    "latin-1": Odd(get("Host: x", "X: caf\xe9"), "9110 5.5"),
    "tab-in-value": Odd(get("Host: x", "X: a\tb"), "9110 5.5"),
    "control-in-value": Odd(get("Host: x", "X: a\x01\x7fb"), "9110 5.5"),
    "method-lower": Odd(line("get /hello HTTP/1.1"), "9110 9.1"),
    "fragment": Odd(line("GET /hello#x HTTP/1.1"), "9112 3.2: Cowboy takes it off"),
    "absolute": Odd(line("GET http://x/hello HTTP/1.1"), "9112 3.2.2"),
    "absolute-upper": Odd(line("GET HTTP://x/hello HTTP/1.1"), "9112 3.2.2"),
    "upgrade-unknown": Odd(
        get("Host: x", "Connection: Upgrade", "Upgrade: x"), "9110 7.8"
    ),
    "expect-unknown": Odd(post("Expect: x", CL, rest=b"12345"), "9110 10.1.1", "12345"),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_but_good(server: Server, client: Connection, name: str, case: str) -> None:
    """What the RFC allows, or asks servers to take, is answered, once, to its end."""
    client.send(ODD[case].data + see(name))
    answer = client.read_response()
    assert (answer.status, answer.text) == (200, ODD[case].body), ODD[case].rfc

    if answer.keeps_alive:
        # It is a request of its own: the body before it ended where it should.
        assert client.read_response().status == 200
    else:
        client.read_eof()

    assert seen(server, name) is answer.keeps_alive


def test_method_is_case_sensitive(client: Connection) -> None:
    """The application is to know what was sent (RFC 9110 9.1)."""
    scope = literal_eval(client.exchange("gEt", "/scope").text)
    assert scope["method"] == "gEt"


def test_request_in_a_body(server: Server, client: Connection, name: str) -> None:
    """Is a body, however it comes."""
    inner = see(name)
    client.send(post(f"Content-Length: {len(inner)}", rest=inner))
    assert client.read_response("POST").body == inner
    client.send(chunks(b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner)))
    assert client.read_response("POST").body == inner
    assert seen(server, name) is False


def test_nothing_is_read_behind_close(
    server: Server, client: Connection, name: str
) -> None:
    """RFC 9112 9.6: what follows a request that says `close` is no request."""
    client.send(get("Host: x", "Connection: close") + see(name))
    assert client.read_response().one("connection") == b"close"
    client.read_eof()
    assert seen(server, name) is False


def test_trailers_of_a_chunked_request(
    server: Server, client: Connection, name: str
) -> None:
    """A trailer section is none of the application's, and no request either."""
    body = b"5\r\n12345\r\n0\r\nX-Trailer: 1\r\n\r\n"
    client.send(chunks(body) + see(name))
    answer = client.read_response("POST")
    assert answer.status == 200
    assert (answer.text, answer.one("connection")) == ("12345", b"close")
    client.read_eof()
    assert seen(server, name) is False
