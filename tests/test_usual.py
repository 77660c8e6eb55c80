# SPDX-License-Identifier: Apache-2.0
"""The fast paths in C say the same as the Python code, or that it is not for them."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etf_support import without_deadline
from hornbeam import _headers, _usual
from hornbeam._headers import check_headers
from hornbeam._protocol import ProtocolError
from hornbeam._scope import ScopeFactory
from hornbeam._terms import Atom

NAMES: Final = [b"content-length", b"Content-Length", b"transfer-encoding", b"x-a"]
NAMES_KNOWN: Final = {name: name.lower() for name in NAMES}

needs_c = pytest.mark.skipif(
    _usual.check_usual_headers is _usual._no_headers, reason="no C compiler here"
)

pairs = st.tuples(
    st.one_of(st.sampled_from(NAMES), st.binary(max_size=4)),
    st.one_of(
        st.sampled_from(
            [b"", b"0", b"12", b" 1", b"1\t", b"a\nb", b"9" * 19, b"9" * 20]
        ),
        st.binary(max_size=6),
        st.just("text"),
    ),
)
headers_given = st.one_of(
    st.lists(
        st.one_of(pairs, pairs.map(list), st.just((b"a",)), st.none()), max_size=4
    ),
    st.tuples(pairs),
)


def outcome(function: Any, *arguments: object) -> object:
    try:
        return function(*arguments)
    except (TypeError, ValueError) as error:
        return type(error), str(error)


@without_deadline
@given(headers=headers_given)
def test_headers_are_the_same_in_both(headers: Any) -> None:
    expected = outcome(_headers._check_all, headers)
    assert outcome(check_headers, headers) == expected
    usual = _usual.check_usual_headers(headers, dict(NAMES_KNOWN))
    assert usual is None or usual == expected


@needs_c
@pytest.mark.parametrize(
    ("headers", "checked"),
    [
        ([], ([], None)),
        ([(b"x-a", b"1"), [b"X-A", b""]], ([(b"x-a", b"1"), (b"x-a", b"")], None)),
        ([(b"content-length", b"007")], ([(b"content-length", b"007")], 7)),
    ],
)
def test_usual_headers(headers: Any, checked: object) -> None:
    names = {b"x-a": b"x-a", b"X-A": b"x-a", b"content-length": b"content-length"}
    assert _usual.check_usual_headers(headers, names) == checked


@needs_c
@pytest.mark.parametrize(
    "headers",
    [
        (),
        [None],
        [(b"x-a",)],
        [(b"x-a", "1")],
        [(b"unknown", b"1")],
        [(b"x-a", b" 1")],
        [(b"x-a", b"1\t")],
        [(b"x-a", b"1\r")],
        [(b"x-a", b"1\0")],
        [(b"x-a", b"\n")],
        [(b"content-length", b"")],
        [(b"content-length", b"-1")],
        [(b"content-length", b"1" * 20)],
        [(b"content-length", b"1"), (b"content-length", b"1")],
        [(b"transfer-encoding", b"chunked")],
    ],
)
def test_unusual_headers(headers: Any) -> None:
    assert _usual.check_usual_headers(headers, dict(NAMES_KNOWN)) is None


USUAL: Final[tuple[Any, ...]] = (
    b"GET",
    b"http",
    b"1.1",
    b"/a",
    b"x=%20",
    [(b"host", b"h")],
    (b"127.0.0.1", 50000),
    (b"127.0.0.1", 8000),
    {},
)


def change(index: int, value: object) -> tuple[Any, ...]:
    return (*USUAL[:index], value, *USUAL[index + 1 :])


@pytest.mark.parametrize(
    "fields",
    [
        USUAL,
        change(6, None),
        change(7, None),
        change(3, b"/\xff\xc3\xa9"),
        change(3, b""),
    ],
)
@pytest.mark.parametrize("state", [None, {}, {"a": [1]}])
def test_usual_scopes(
    monkeypatch: pytest.MonkeyPatch, fields: Any, state: dict[str, Any] | None
) -> None:
    """The second scope is made in C; its order of keys is the same, too."""
    factory = ScopeFactory("")
    factory.state = state
    by_python = factory.make(fields)
    assert _usual.make_usual_scope is _usual._no_scope or (
        _usual.make_usual_scope(fields, factory._texts, state) is not None
    )
    by_c = factory.make(fields)
    assert list(by_c.items()) == list(by_python.items())

    # Nothing is shared: applications change what they get.
    again = factory.make(fields)

    for key in ("asgi", "extensions", "state"):
        assert key not in by_c or by_c[key] is not again[key]

    assert all(
        by_c["extensions"][name] is not again["extensions"][name]
        for name in by_c["extensions"]
    )
    assert by_c["headers"] is fields[5]


@pytest.mark.parametrize("state", [None, {}])
def test_hostile_scope(state: dict[str, Any] | None) -> None:
    """What can't be decoded is said alike, by whatever makes the scope."""
    factory = ScopeFactory("")
    factory.state = state

    for _ in range(2):
        with pytest.raises(ProtocolError, match="the scope of a request: .*0xff"):
            factory.make(change(6, (b"\xff", 1)))

        factory.make(USUAL)


@needs_c
@pytest.mark.parametrize(
    "fields",
    [
        None,
        (),
        list(USUAL),
        USUAL[:-1],
        change(0, b"NEVER-SEEN"),
        change(0, "GET"),
        change(1, 1),
        change(3, b"/%41"),
        change(3, "/"),
        change(6, (b"h",)),
        change(6, ("h", 1)),
        change(7, (b"never seen", 1)),
        change(7, "h"),
        change(8, {Atom("root_path"): b"/a"}),
        change(8, None),
    ],
)
def test_unusual_scopes(fields: Any) -> None:
    texts = {b"GET": "GET", b"http": "http", b"1.1": "1.1", b"127.0.0.1": "127.0.0.1"}
    assert _usual.make_usual_scope(USUAL, texts, None) is not None
    assert _usual.make_usual_scope(fields, texts, None) is None


@needs_c
def test_wrong_arguments() -> None:
    function: Any
    for function in (_usual.check_usual_headers, _usual.make_usual_scope):
        for arguments in ((), (1,), (1, 2), (1, 2, 3)):
            with pytest.raises(TypeError, match=r"\(\) takes "):
                function(*arguments)


@needs_c
def test_failures_keep_no_references() -> None:
    """Also where a list of headers is given up in its middle, or a state fails."""

    class Broken:
        def keys(self) -> Any:
            raise RuntimeError("no keys")

    pair, number = [b"X-A", b"a value"], (b"content-length", b"123456789")
    texts = {b"GET": "GET", b"http": "http", b"1.1": "1.1", b"127.0.0.1": "127.0.0.1"}
    names = dict(NAMES_KNOWN)
    broken: Any = Broken()
    watched = [pair, pair[1], number, texts, broken, USUAL[5]]
    gc.collect()
    before = [sys.getrefcount(each) for each in watched]

    for _ in range(50):
        assert _usual.check_usual_headers([pair, number, None], names) is None

        with pytest.raises(RuntimeError, match="no keys"):
            _usual.make_usual_scope(USUAL, texts, broken)

    gc.collect()
    assert [sys.getrefcount(each) for each in watched] == before


@pytest.mark.parametrize("codec", ["c", "python"])
def test_codec_decides(codec: str) -> None:
    if codec == "c" and _usual.make_usual_scope is _usual._no_scope:
        pytest.skip("no C compiler here")

    code = "from hornbeam import _usual; print(_usual.make_usual_scope.__module__)"
    environ = {
        **os.environ,
        "HORNBEAM_CODEC": codec,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, check=True
    )
    expected = {"c": b"hornbeam._http_c", "python": b"hornbeam._usual"}
    assert done.stdout.strip() == expected[codec]


class Clears:
    """Garbage of a finalizer that empties the list in the midst of its check."""

    def __init__(self, victim: list[object]) -> None:
        self.victim = victim
        self.cycle = self

    def __del__(self) -> None:
        self.victim.clear()


def change_while_checked(victim: list[object], check: Any) -> None:
    """Check with a collection at the next container that is made, whichever that is.

    There are many then: they look at what is new alone, and nobody is told of them.
    """
    thresholds, callbacks = gc.get_threshold(), gc.callbacks.copy()
    gc.disable()
    gc.freeze()
    gc.callbacks.clear()

    try:
        Clears(victim)
        gc.set_threshold(1)
        gc.enable()
        check()
    finally:
        gc.enable()
        gc.set_threshold(*thresholds)
        gc.collect()
        gc.callbacks.extend(callbacks)
        gc.unfreeze()


@needs_c
@pytest.mark.parametrize("pair", [tuple, list])
def test_headers_that_change_meanwhile(pair: Any) -> None:
    """A finalizer may change what C code looks at; that is wrong, but no crash."""
    names = {b"X%d" % number: b"x%d" % number for number in range(50)}

    for _ in range(100):
        headers: list[object] = [
            pair((name, b"%d" % number)) for number, name in enumerate(names)
        ]
        usual: list[Any] = []
        change_while_checked(
            headers,
            lambda h=headers, u=usual: u.append(_usual.check_usual_headers(h, names)),
        )
        # All of them, or none where they had gone before.
        assert usual[0] is None or len(usual[0][0]) in (0, 50)
