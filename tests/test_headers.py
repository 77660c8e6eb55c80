# SPDX-License-Identifier: Apache-2.0
"""Headers of responses: what goes out, and what can't."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbeam import _headers
from hornbeam._headers import check_headers, check_trailers

Pairs = list[tuple[bytes, bytes]]


def generate() -> Iterator[list[bytes]]:
    yield [b"a", b"b"]


@pytest.mark.parametrize(
    ("headers", "checked", "length"),
    [
        ([], [], None),
        ((), [], None),
        ([[b"A-b", b"C d"]], [(b"a-b", b"C d")], None),
        (((b"a", b"b"),), [(b"a", b"b")], None),
        (generate(), [(b"a", b"b")], None),
        ([(bytearray(b"A"), memoryview(b"b"))], [(b"a", b"b")], None),
        (
            [(b"set-cookie", b"2"), (b"x", b""), (b"Set-Cookie", b"1")],
            [(b"set-cookie", b"2"), (b"x", b""), (b"set-cookie", b"1")],
            None,
        ),
        ([(b"a", b" \t b\tc \t")], [(b"a", b"b\tc")], None),
        ([(b"a", "é".encode("latin-1"))], [(b"a", b"\xe9")], None),
        (
            [(b"Transfer-Encoding", b"chunked"), (b"a", b"b")],
            [(b"a", b"b")],
            None,
        ),
        ([(b"Content-Length", b" 007 ")], [(b"content-length", b"007")], 7),
        (
            [(b"content-length", b"7"), (b"a", b"b"), (b"Content-Length", b"07")],
            [(b"content-length", b"7"), (b"a", b"b")],
            7,
        ),
        ([(b"!#$%&'*+-.^_`|~09azAZ", b"")], [(b"!#$%&'*+-.^_`|~09azaz", b"")], None),
    ],
)
def test_good_headers(headers: object, checked: Pairs, length: int | None) -> None:
    assert check_headers(headers) == (checked, length)


@pytest.mark.parametrize(
    ("headers", "kind", "text"),
    [
        (None, TypeError, "an iterable of [name, value] pairs of bytes, not NoneType"),
        ("ab", TypeError, "pairs of bytes, not str"),
        (b"ab", TypeError, "pairs of bytes, not bytes"),
        ({b"a": b"b"}, TypeError, "pairs of bytes, not dict"),
        ([b"abc"], TypeError, "a header is a [name, value] pair of bytes, not bytes"),
        ([(b"a",)], TypeError, "a header is a [name, value] pair of bytes, not tuple"),
        ([(b"a", b"b", b"c")], TypeError, "a [name, value] pair"),
        ([5], TypeError, "a [name, value] pair of bytes, not int 5"),
        ([("a", b"b")], TypeError, "a header's name is bytes, not str 'a', encode"),
        ([(b"a", "b")], TypeError, "a header's value is bytes, not str 'b', encode"),
        ([(b"a", 5)], TypeError, "a header's value is bytes, not int 5"),
        ([(b"a", None)], TypeError, "a header's value is bytes, not NoneType None"),
        ([(b"", b"x")], ValueError, "bytes b'' is no header name"),
        ([(b"a b", b"x")], ValueError, "bytes b'a b' is no header name"),
        ([(b"a:", b"x")], ValueError, "is no header name"),
        ([(b"a\r\n", b"x")], ValueError, "is no header name"),
        ([(b"\xe9", b"x")], ValueError, "is no header name"),
        ([(b":status", b"200")], ValueError, "is no header name"),
        ([(b"a", b"x\r\ny: z")], ValueError, "the value of header bytes b'a' has a CR"),
        ([(b"a", b"x\n")], ValueError, "has a CR, LF or NUL"),
        ([(b"a", b"\0x")], ValueError, "has a CR, LF or NUL"),
        ([(b"content-length", b"")], ValueError, "content-length is a number"),
        ([(b"content-length", b"+5")], ValueError, "content-length is a number"),
        ([(b"content-length", b"-5")], ValueError, "content-length is a number"),
        ([(b"content-length", b"5, 5")], ValueError, "content-length is a number"),
        ([(b"content-length", b"9" * 20)], ValueError, "content-length is a number"),
        (
            [(b"content-length", b"5"), (b"content-length", b"6")],
            ValueError,
            "two content-length headers, 5 and 6",
        ),
    ],
)
def test_bad_headers(headers: object, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        check_headers(headers)

    assert text in str(caught.value)


def test_error_shows_the_beginning_only() -> None:
    with pytest.raises(ValueError) as caught:
        check_headers([(b"a", b"x" * 1000 + b"\n")])

    assert len(str(caught.value)) < 400


@given(
    st.lists(
        st.tuples(st.binary(max_size=6), st.binary(max_size=6)),
        max_size=4,
    )
)
def test_nothing_splits_a_response(headers: Pairs) -> None:
    """Whatever comes through makes one line, with a name that is a token."""
    try:
        checked, _ = check_headers(headers)
    except ValueError:
        return

    for name, value in checked:
        line = name + b": " + value
        assert not set(line) & set(b"\r\n\0")
        assert name == name.lower() and name and b":" not in name
        assert value == value.strip(b" \t")


def test_names_are_not_remembered_without_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_headers, "HEADER_NAMES", {})

    for number in range(_headers.MAX_CACHED_NAMES + 10):
        name = b"X-%d" % number
        assert check_headers([(name, b"")])[0] == [(name.lower(), b"")]

    assert len(_headers.HEADER_NAMES) == _headers.MAX_CACHED_NAMES


def test_trailers_have_no_length() -> None:
    assert check_trailers([(b"Content-Length", b"5"), (b"a", b"b")]) == [(b"a", b"b")]
    assert check_trailers([(b"a", b"b")]) == [(b"a", b"b")]
