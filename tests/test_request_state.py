# SPDX-License-Identifier: Apache-2.0
"""A request in C and in Python: the same fields, and the same comes of its response."""

from __future__ import annotations

import gc
import sys
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etf_support import without_deadline
from hornbeam import _http_response, _request_state
from hornbeam._etf import encode_message
from hornbeam._http_response import ResponseSide
from hornbeam._request_state import PythonRequestState, RequestState
from hornbeam._terms import Atom

NAMES: Final = {b"x-a": b"x-a", b"X-A": b"x-a", b"content-length": b"content-length"}
START: Final = {"type": "http.response.start", "status": 200, "headers": []}
BODY: Final = {"type": "http.response.body", "body": b"abc"}

needs_c = pytest.mark.skipif(
    RequestState is PythonRequestState, reason="no C compiler here"
)


class Host:
    """Takes what is posted."""

    window_bytes: Any = 1000

    def __init__(self) -> None:
        self.posted: list[bytes | str] = []
        self.post = self.post_part = self.posted.append

    def note_held_start(self) -> None:
        self.posted.append("held")


class Usual(ResponseSide):
    """Takes what is usual in C, where that was built."""

    __slots__ = ()

    def _on_complete(self) -> None:
        self._host.posted.append("complete")


class InPython(Usual):
    """Takes all in Python."""

    __slots__ = ()

    def _take_usual(self, message: Any, names: dict[bytes, bytes], /) -> bytes | None:
        return None


def begin(kind: Any, method: str = "GET", request_id: int = 7) -> Any:
    state = kind()
    state._begin(Host(), request_id, {"method": method}, b"", False)
    return state


def send(state: Any, message: Any) -> object:
    """Send without waiting; return what went wrong."""
    try:
        state.send(message).send(None)
    except StopIteration:
        return None
    except (TypeError, ValueError, RuntimeError) as error:
        return type(error), str(error)

    raise AssertionError("it has waited")


def fields_of(state: Any) -> dict[str, Any]:
    names = PythonRequestState.__slots__
    return {name: getattr(state, name, None) for name in names}


@needs_c
@pytest.mark.parametrize("method", ["GET", "HEAD", None, 1])
@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("body", [b"", b"ab"])
def test_fields_and_defaults(method: Any, more: bool, body: bytes) -> None:
    in_c, in_python = RequestState(), PythonRequestState()
    host, scope = Host(), {"method": method}

    for state in (in_c, in_python):
        state._begin(host, 1, scope, body, more)

    expected = fields_of(in_python)
    # Nobody reads them before there are some.
    assert expected.pop("_response_headers") is None
    assert {name: getattr(in_c, name) for name in expected} == expected
    assert {type(value) for value in expected.values()} >= {bool, int, list, dict}


message_kinds = st.sampled_from(
    [
        "http.response.start",
        "http.response.body",
        "".join(["http.", "response.body"]),
        "http.response.trailers",
        "http.response",
        1,
    ]
)
header_lists = st.lists(
    st.tuples(
        st.sampled_from([b"x-a", b"X-A", b"content-length", b"transfer-encoding"]),
        st.sampled_from([b"0", b"3", b"03", b" 3", b"a\r\n", b""]),
    ),
    max_size=2,
)
bodies = st.sampled_from([b"", b"abc", b"x" * 1000, bytearray(b"abc"), "text", None])
messages: st.SearchStrategy[Any] = st.one_of(
    st.just(START),
    st.just(BODY),
    st.fixed_dictionaries(
        {"type": message_kinds, "status": st.sampled_from([100, 200, 204, 999, 1000])},
        optional={"headers": header_lists, "trailers": st.booleans()},
    ),
    st.fixed_dictionaries(
        {"type": message_kinds},
        optional={"body": bodies, "more_body": st.sampled_from([False, True, 0, 1])},
    ),
    st.sampled_from([None, {}, [], {"type": None}]),
)


@without_deadline
@given(
    method=st.sampled_from(["GET", "HEAD"]),
    request_id=st.sampled_from([1, 255, 256, 2**31 - 1, 2**31, 2**70]),
    sent=st.lists(messages, max_size=4),
)
def test_responses_are_the_same_in_both(
    method: str, request_id: int, sent: list[Any]
) -> None:
    usual, in_python = (begin(kind, method, request_id) for kind in (Usual, InPython))

    # Room for the largest of all bodies: nothing here waits.
    for state in (usual, in_python):
        state._host.window_bytes = 4000

    for message in sent:
        assert send(usual, message) == send(in_python, message)

    assert usual._host.posted == in_python._host.posted
    kept, expected = fields_of(usual), fields_of(in_python)

    for name in ("_host", "_response_host"):
        del kept[name], expected[name]

    assert kept == expected


@needs_c
@pytest.mark.parametrize("body", [b"", b"abc", b"x" * 1000])
@pytest.mark.parametrize("count", [0, 1, 100])
def test_usual_response(body: bytes, count: int) -> None:
    """Encoded as the codec does, on the stack or not."""
    state = begin(RequestState)
    headers = [(b"x-a", b"1234567890")] * count
    assert state._take_usual({**START, "headers": headers}, NAMES) == b""
    expected = (Atom("response"), 7, 200, headers, body)
    taken = state._take_usual({**BODY, "body": body}, NAMES)
    assert taken == encode_message(expected)
    assert state._phase == _request_state.COMPLETE


@needs_c
@pytest.mark.parametrize(
    "messages",
    [
        [BODY],
        [START, START],
        [START, BODY, BODY],
        [{**START, "trailers": False}],
        [{**START, "status": 199}],
        [{**START, "status": 2**70}],
        [{**START, "status": True}],
        [{**START, "headers": ()}],
        [{**START, "headers": [(b"unknown", b"")]}],
        [START, {**BODY, "more_body": True}],
        [START, {**BODY, "body": "text"}],
        [START, {**BODY, "body": b"x" * 1001}],
        [{**START, "headers": [(b"content-length", b"4")]}, BODY],
        [START, {"type": "http.response.body"}],
        [None],
        [{}],
    ],
)
def test_unusual_messages_change_nothing(messages: list[Any]) -> None:
    *usual, unusual = messages
    state = begin(RequestState)

    for message in usual:
        assert state._take_usual(message, NAMES) is not None

    before = fields_of(state)
    assert state._take_usual(unusual, NAMES) is None
    assert fields_of(state) == before


@needs_c
def test_client_that_has_gone_is_unusual() -> None:
    state = begin(RequestState)
    state._is_gone = True
    assert state._take_usual(START, NAMES) is None


@needs_c
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("_phase", "1"),
        ("_phase", 2**70),
        ("_status", None),
        ("_response_headers", [b"x"]),
        ("_response_headers", None),
        ("_left_bytes", "3"),
        ("_left_bytes", 2**70),
        ("_request_id", -1),
    ],
)
def test_odd_fields_are_unusual(field: str, value: object) -> None:
    """Whatever stands in a field, and where it was deleted."""
    state = begin(RequestState)
    assert state._take_usual(START, NAMES) == b""
    setattr(state, field, value)
    assert state._take_usual(BODY, NAMES) is None
    delattr(state, field)
    assert state._take_usual(BODY, NAMES) is None


@needs_c
def test_wrong_arguments() -> None:
    state: Any = RequestState()
    arguments: tuple[Any, ...]

    # It has not begun.
    assert state._take_usual(START, NAMES) == b""
    assert RequestState()._take_usual(None, NAMES) is None  # type: ignore[arg-type]

    for arguments in ((), (START,), (START, None), (START, NAMES, 1)):
        with pytest.raises(TypeError, match=r"_take_usual\(\) takes"):
            state._take_usual(*arguments)

    for arguments in ((), (1, 2, 3, 4, 5), (None, 1, {}, b"", False, 1)):
        with pytest.raises(TypeError, match=r"_begin\(\) takes"):
            state._begin(*arguments)


@needs_c
def test_errors_of_the_host_come_through() -> None:
    state = begin(RequestState)
    assert state._take_usual(START, NAMES) == b""
    state._host.window_bytes = "no number"

    with pytest.raises(TypeError):
        state._take_usual(BODY, NAMES)

    del Host.window_bytes, state._host.window_bytes

    try:
        with pytest.raises(AttributeError, match="window_bytes"):
            state._take_usual(BODY, NAMES)
    finally:
        Host.window_bytes = 1000


@needs_c
def test_no_references_are_kept() -> None:
    headers, part = [(b"X-A", b"a value"), [b"x-a", b"b"]], b"a body of some length"
    scope = {"method": "GET"}
    watched: list[object] = [headers, headers[0], headers[1], part, scope, NAMES]
    gc.collect()
    before = [sys.getrefcount(each) for each in watched]

    for _ in range(50):
        state: Any = RequestState()
        state._begin(Host(), 1, scope, part, True)
        state._begin(Host(), 1, scope, part, False)
        assert state._take_usual({**START, "headers": headers}, NAMES) == b""
        assert state._take_usual({**BODY, "body": part, "more_body": 1}, NAMES) is None
        assert state._take_usual({**BODY, "body": part}, NAMES)
        # In a cycle.
        state._task = state

    del state
    gc.collect()
    assert [sys.getrefcount(each) for each in watched] == before


def test_phases_have_words() -> None:
    assert sorted(_http_response._EXPECTED) == list(range(7))
