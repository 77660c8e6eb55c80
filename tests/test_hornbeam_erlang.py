# SPDX-License-Identifier: Apache-2.0
"""What applications import: over a channel, and on the stand-in for the node."""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import hornbeam_erlang
from fake_node import ROOT
from hornbeam import _bridge, _errors, _terms
from hornbeam._bridge import Bridge, CallFailed
from hornbeam_erlang import (
    Atom,
    BridgeClosed,
    EncodeError,
    FunctionNotFound,
    HornbeamError,
    NotAnInteger,
    RemoteError,
    _client,
    _local,
    state_decr,
    state_delete,
    state_get,
    state_incr,
    state_set,
    under_hornbeam,
    worker_id,
)
from hornbeam_erlang._local import LocalNode
from worker_support import Message, Peer


class Clock:
    """Stands still until it is moved."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def answer_by(node: LocalNode) -> Callable[[Peer, Message], None]:
    def answer(peer: Peer, call: Message) -> None:
        _, call_id, function, args = call

        try:
            reply = (Atom("ok"), node.call(function, args))
        except CallFailed as exc:
            reply = (Atom("error"), (Atom(exc.name), exc.facts))

        peer.send((Atom("reply"), call_id, *reply))

    return answer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["stand-in", "channel"])
def backend(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> Iterator[str]:
    """Run the test outside of Hornbeam, and over a channel; both with a fresh node."""
    node = LocalNode(clock)

    if request.param == "stand-in":
        monkeypatch.setattr(_local, "node", node)
        yield "stand-in"
        return

    peer = Peer(answer_by(node))
    _bridge.install(Bridge(caller=peer.channel, worker_id=7))
    yield "channel"
    _bridge.install(None)
    peer.close()


# The package.


def test_exports() -> None:
    """`__all__` is what is defined here for others, sorted."""
    public = {
        name
        for name, value in vars(hornbeam_erlang).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert set(hornbeam_erlang.__all__) == public
    assert list(hornbeam_erlang.__all__) == sorted(hornbeam_erlang.__all__)


def test_short_names() -> None:
    for short in ("get", "set", "incr", "decr", "delete"):
        long = getattr(hornbeam_erlang, f"state_{short}")
        assert getattr(hornbeam_erlang, short) is long


def test_package_is_typed() -> None:
    for package in ("hornbeam", "hornbeam_erlang"):
        assert (ROOT / "python" / package / "py.typed").exists()


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        ("BridgeClosed", (HornbeamError,)),
        ("CallTimeout", (HornbeamError, TimeoutError)),
        ("EncodeError", (HornbeamError, TypeError, ValueError, _terms.EncodeError)),
        ("FunctionNotFound", (HornbeamError, LookupError)),
        ("NodeDown", (HornbeamError, ConnectionError)),
        ("NotAnInteger", (HornbeamError, TypeError)),
        ("ReentrantCall", (HornbeamError, RuntimeError)),
        ("RemoteError", (HornbeamError,)),
    ],
)
def test_error_tree(error: str, bases: tuple[type, ...]) -> None:
    kind = getattr(hornbeam_erlang, error)
    assert all(issubclass(kind, base) for base in bases)
    assert error in (hornbeam_erlang.__doc__ or "")
    assert error in (_errors.__doc__ or "")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FunctionNotFound("f"), "the node has no function 'f'"),
        (NotAnInteger("k"), "the value under key 'k' is not an integer"),
        (RemoteError("f", "badarg"), "f failed: badarg"),
        (EncodeError("no", "set", "key[1]"), "key[1]: no"),
    ],
)
def test_error_texts(error: Exception, text: str) -> None:
    assert str(error) == text


# State.

VALUES: list[Any] = [
    None,
    True,
    0,
    -(2**70),
    1.5,
    "",
    "text é",
    b"",
    b"bytes",
    [],
    [1, "a", b"a"],
    (),
    (1, (2,)),
    {},
    {"a": 1, 2: "b", b"c": [None], (1, 2): {}},
    Atom("ok"),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_come_back_as_they_were(backend: str, value: Any) -> None:
    assert state_get("k") is None
    assert state_get("k", 5) == 5
    state_set("k", value)
    got = state_get("k", "default")
    assert got == value
    assert type(got) is type(value)
    assert state_delete("k") is True
    assert state_delete("k") is False
    assert state_get("k", 5) == 5


def test_value_is_a_copy(backend: str) -> None:
    value = [1]
    state_set("k", value)
    value.append(2)
    assert state_get("k") == [1]
    state_get("k").append(3)
    assert state_get("k") == [1]


KEYS: list[list[Any]] = [
    # The keys of a row are one key in Erlang, those of different rows are not.
    ["a", b"a", bytearray(b"a")],
    [1],
    [1.0],
    [True, Atom("true")],
    [False],
    [None, Atom("undefined")],
    [Atom("a")],
    [("a", 1), (b"a", 1)],
    [["a", 1]],
    [("a", 1.0)],
    [{"x": 1, "y": 2}, {b"y": 2, b"x": 1}],
    [{"x": 1, "y": 2.0}],
    [""],
    [()],
    [[]],
    [{}],
]


def test_keys_are_told_apart_as_in_erlang(backend: str) -> None:
    for number, row in enumerate(KEYS):
        state_set(row[0], number)

    for number, row in enumerate(KEYS):
        for key in row:
            assert state_get(key) == number, key


def test_counting(backend: str) -> None:
    assert state_incr("n") == 1
    assert state_incr("n", 10) == 11
    assert state_decr("n") == 10
    assert state_decr("n", 20) == -10
    assert state_incr("n", 2**80) == 2**80 - 10
    assert state_get("n") == 2**80 - 10
    state_set("n", 5)
    assert state_incr("n") == 6
    state_delete("n")
    assert state_incr("n", 0) == 0


@pytest.mark.parametrize("value", ["5", 5.0, None, True, [], Atom("a")])
def test_counting_what_is_no_integer(backend: str, value: Any) -> None:
    state_set(("k", 1), value)

    with pytest.raises(NotAnInteger, match=r"\('k', 1\)") as caught:
        state_incr(("k", 1))

    assert isinstance(caught.value, TypeError)
    assert caught.value.key == ("k", 1)
    assert state_get(("k", 1)) == value


@pytest.mark.parametrize("delta", [True, 1.0, "1", None])
@pytest.mark.parametrize("count", [state_incr, state_decr])
def test_bad_delta(backend: str, delta: Any, count: Callable[..., int]) -> None:
    with pytest.raises(TypeError, match="delta is an int, not"):
        count("k", delta)

    assert state_get("k") is None


def test_ttl(backend: str, clock: Clock) -> None:
    state_set("k", 1, ttl=2)
    state_set("f", 1, ttl=0.0001)
    state_set("none", 1, ttl=0)
    assert (state_get("k"), state_get("f"), state_get("none")) == (1, 1, None)
    clock.now_s += 1.999
    assert (state_get("k"), state_get("f")) == (1, None)
    # Counting keeps the time, setting starts anew.
    assert state_incr("k") == 2
    clock.now_s += 0.001
    assert state_get("k", "gone") == "gone"
    assert state_delete("k") is False
    state_set("k", 1, ttl=1)
    state_set("k", 1)
    clock.now_s += 1000
    assert state_get("k") == 1
    state_set("k", 5, ttl=1)
    clock.now_s += 1
    assert state_incr("k") == 1
    clock.now_s += 1000
    assert state_get("k") == 1


@pytest.mark.parametrize(
    ("ttl", "kind"),
    [
        (-1, ValueError),
        (math.inf, ValueError),
        (math.nan, ValueError),
        (True, TypeError),
        ("1", TypeError),
    ],
)
def test_bad_ttl(backend: str, ttl: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="ttl is a number of seconds"):
        state_set("k", 1, ttl=ttl)

    assert state_get("k") is None


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (object(), TypeError, "value: object is not supported"),
        ({"a": [1, {2}]}, TypeError, "value['a'][1]: set is not supported"),
        (math.nan, ValueError, "value: "),
    ],
)
def test_values_that_can_not_cross(
    backend: str, value: object, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind) as caught:
        state_set("k", value)

    assert isinstance(caught.value, EncodeError)
    assert str(caught.value).startswith(text)
    assert state_get("k") is None


@pytest.mark.parametrize(
    "use",
    [
        state_get,
        state_incr,
        state_decr,
        state_delete,
        lambda key: state_set(key, 1),
    ],
)
def test_keys_that_can_not_cross(backend: str, use: Callable[[Any], object]) -> None:
    with pytest.raises(EncodeError) as caught:
        use(("a", {1}))

    assert str(caught.value).startswith("key[1]: set is not supported")
    assert (caught.value.path, caught.value.value_type) == ("key[1]", "set")


def test_unknown_function(backend: str) -> None:
    with pytest.raises(FunctionNotFound) as caught:
        _client.call(Atom("brew_coffee"), ())

    assert caught.value.function == "brew_coffee"


def test_other_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(function: Atom, args: tuple[object, ...]) -> object:
        raise CallFailed("badarg", {})

    monkeypatch.setattr(_local, "node", LocalNode())
    monkeypatch.setattr(_local.node, "call", fail)

    with pytest.raises(RemoteError) as caught:
        state_get("k")

    assert (caught.value.function, caught.value.reason) == ("state_get", "badarg")


def test_bad_argument_of_another_function(backend: str) -> None:
    with pytest.raises(EncodeError) as caught:
        _client.call(Atom("state_set"), ("k", {1}, None))

    assert caught.value.path == "arguments[1]"


def test_threads_count_together(backend: str) -> None:
    seen: list[int] = []

    def work() -> None:
        seen.extend(state_incr("n") for _ in range(100))

    threads = [threading.Thread(target=work) for _ in range(10)]

    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join()

    assert sorted(seen) == list(range(1, 1001))


def test_where_we_are(backend: str) -> None:
    assert under_hornbeam() == (backend == "channel")
    assert worker_id() == (7 if backend == "channel" else None)


def test_stand_in_forgets_on_demand() -> None:
    _local.node.clear()
    state_set("k", 1)
    assert state_get("k") == 1
    _local.node.clear()
    assert state_get("k") is None


def test_closed_bridge() -> None:
    """In a fork of a worker there is no silent change to the stand-in."""
    peer = Peer()
    _bridge.install(Bridge(caller=peer.channel, worker_id=1))

    try:
        peer.channel._sorter.is_closed = True
        assert not under_hornbeam()

        with pytest.raises(BridgeClosed, match="a fork of a Hornbeam worker"):
            state_get("k")
    finally:
        peer.channel._sorter.is_closed = False
        _bridge.install(None)
        peer.close()
