# SPDX-License-Identifier: Apache-2.0
"""Scenarios that wait for their answers; for threads, and for tasks that may block."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import hornbeam_erlang as erlang
from apps.scenarios.values import CAN_NOT_CROSS, THROUGH_ERLANG, VALUES, is_same

PATIENCE_S = 10.0


def raises(kind: type[BaseException], call: Callable[[], object]) -> Any:
    """Call, and return the exception of that kind that it has to raise."""
    try:
        value = call()
    except kind as exc:
        return exc

    raise AssertionError(f"expected {kind.__name__}, got {value!r}")


def wait_and_call(condition: Callable[[], bool]) -> None:
    """Wait for what comes through the pipe, where nobody but the caller may read it."""
    deadline = time.monotonic() + PATIENCE_S

    while not condition():
        assert time.monotonic() < deadline
        erlang.node()


# State.


def state_basics(key: str) -> None:
    assert erlang.state_get(key) is None
    assert erlang.state_get(key, 7) == 7
    erlang.state_set(key, {"a": [1]})
    assert erlang.state_get(key, 7) == {"a": [1]}
    assert erlang.state_delete(key) is True
    assert erlang.state_delete(key) is False
    erlang.state_set(key, None)
    assert erlang.state_get(key, 7) is None
    assert erlang.state_delete(key) is True


def state_counts(key: str) -> None:
    assert erlang.state_incr(key) == 1
    assert erlang.state_incr(key, 2**70) == 2**70 + 1
    assert erlang.state_decr(key, 2**70) == 1
    assert erlang.state_get(key) == 1
    erlang.state_set(key, "one")
    error = raises(TypeError, lambda: erlang.state_incr(key))
    assert isinstance(error, erlang.NotAnInteger)
    assert repr(key) in str(error), error


def state_multi(key: str) -> None:
    keys: list[Any] = [f"{key}:a", (key, 1), key.encode() + b"\xff", 2**80]
    erlang.state_set_multi({name: [n] for n, name in enumerate(keys)})
    found = erlang.state_get_multi([*keys, f"{key}:none"])
    assert found == {name: [n] for n, name in enumerate(keys)}, found
    assert list(found) == keys
    erlang.state_set_multi({}, ttl=1)
    assert erlang.state_get_multi([]) == {}
    erlang.state_delete(2**80)


def state_prefix(key: str) -> None:
    names = [f"{key}:{n}" for n in range(20)]
    erlang.state_set_multi(dict.fromkeys(names, 0))
    erlang.state_set(key.encode() + b":\xff", 0)
    erlang.state_set((key, 1), 0)
    found = erlang.state_keys(f"{key}:")
    assert sorted(map(repr, found)) == sorted(
        map(repr, [*names, key.encode() + b":\xff"])
    )
    assert sorted(erlang.state_keys(f"{key}:1")) == sorted(
        name for name in names if name.startswith(f"{key}:1")
    )
    assert erlang.state_keys(key.encode() + b":\xff") == [key.encode() + b":\xff"]
    assert erlang.state_keys(f"{key}-none") == []
    everything = erlang.state_keys()
    assert (key, 1) in everything
    assert all(name in everything for name in names)


def state_add_and_pop(key: str) -> None:
    assert erlang.state_add(key, 1) is True
    assert erlang.state_add(key, 2) is False
    assert erlang.state_get(key) == 1
    assert erlang.state_pop(key) == 1
    assert erlang.state_pop(key) is None
    assert erlang.state_pop(key, "none") == "none"
    assert erlang.state_add(key, 3) is True


def state_cas(key: str) -> None:
    assert erlang.state_cas(key, None, 1) is False
    erlang.state_set(key, {"a": 1, "b": [2]})
    assert erlang.state_cas(key, {"a": 1}, 0) is False
    assert erlang.state_cas(key, {"b": [2], "a": 1}, 5) is True
    assert erlang.state_cas(key, 5.0, 0) is False
    assert erlang.state_cas(key, 5, "text") is True
    assert erlang.state_cas(key, b"text", 6) is True
    assert erlang.state_incr(key) == 7
    assert erlang.state_cas(key, 7, 8) is True
    assert erlang.state_get(key) == 8


def state_update(key: str) -> None:
    assert erlang.state_update(key, lambda items: [*items, 1], []) == [1]
    assert erlang.state_update(key, lambda items: [*items, 2], []) == [1, 2]
    tries = []

    def interfere(items: list[int]) -> list[int]:
        tries.append(1)

        if len(tries) == 1:
            erlang.state_set(key, [9])

        return [*items, 3]

    assert erlang.state_update(key, interfere) == [9, 3]
    assert len(tries) == 2
    raises(ZeroDivisionError, lambda: erlang.state_update(key, lambda items: 1 // 0))
    assert erlang.state_get(key) == [9, 3]


def state_updates_of_threads(key: str) -> None:
    def work() -> None:
        for _ in range(25):
            erlang.state_update(key, lambda count: count + 1, 0)

    threads = [threading.Thread(target=work) for _ in range(4)]

    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join()

    assert erlang.state_get(key) == 100


def state_ttl(key: str) -> None:
    erlang.state_set(key, 1, ttl=60)
    erlang.state_set(f"{key}:0", 1, ttl=0)
    assert erlang.state_get(f"{key}:0") is None
    assert erlang.state_add(f"{key}:0", 2, ttl=0.001)
    wait_and_call(lambda: erlang.state_get(f"{key}:0") is None)
    assert erlang.state_keys(f"{key}:") == []
    assert erlang.state_add(f"{key}:0", 3) is True
    assert erlang.state_get(key) == 1
    raises(ValueError, lambda: erlang.state_set(key, 2, ttl=-1))


def state_values(key: str) -> None:
    for value in VALUES:
        erlang.state_set(key, value)
        got = erlang.state_get(key)
        assert is_same(got, value), (value, got)


def state_value_keys(key: str) -> None:
    # bytes and the text that they are would be one key.
    names = [(key, value) for value in VALUES if not isinstance(value, bytes)]

    for n, name in enumerate(names):
        erlang.state_set(name, n)

    for n, name in enumerate(names):
        assert erlang.state_get(name) == n, name


def values_that_can_not_cross(key: str) -> None:
    for value, kind, text in CAN_NOT_CROSS:
        error = raises(kind, functools.partial(erlang.state_set, key, value))
        assert isinstance(error, erlang.EncodeError)
        assert str(error).startswith(text), error

    assert erlang.state_get(key) is None
    error = raises(erlang.EncodeError, lambda: erlang.state_get((1, [{2}])))
    assert str(error).startswith("key[1][0]: set"), error
    error = raises(erlang.EncodeError, lambda: erlang.state_get_multi(["a", ({1},)]))
    assert str(error).startswith("keys[1][0]: set"), error
    error = raises(
        erlang.EncodeError, lambda: erlang.state_set_multi({"a": 1, "b": [{2}]})
    )
    assert str(error).startswith("mapping['b'][0]: set"), error
    error = raises(erlang.EncodeError, lambda: erlang.publish("t", {"a": {1}}))
    assert str(error).startswith("message['a']: set"), error
    error = raises(erlang.EncodeError, lambda: erlang.call("echo", 1, [{1}]))
    assert str(error).startswith("args[1][0]: set"), error
    error = raises(erlang.EncodeError, lambda: erlang.execute("p", a=[{1}]))
    assert str(error).startswith("kwargs['a'][0]: set"), error


# Functions.


def functions(key: str) -> None:
    assert erlang.call("add", 1, 2) == 3
    assert erlang.call("echo", None) is None
    error = raises(LookupError, lambda: erlang.call("ecko", 1))
    assert isinstance(error, erlang.FunctionNotFound)
    assert (error.function, error.near) == ("ecko", ("echo",)), error.near
    error = raises(erlang.RemoteError, lambda: erlang.call("fail", key))
    assert key in error.reason, error
    assert error.stack
    started = time.monotonic()
    error = raises(TimeoutError, lambda: erlang.call("sleep", 60000, timeout=0.05))
    assert isinstance(error, erlang.CallTimeout)
    assert "sleep" in str(error)
    assert "50" in str(error)
    assert 0.05 <= time.monotonic() - started < PATIENCE_S
    assert erlang.call("sleep", 1, timeout=None) is not None


def function_values(key: str) -> None:
    for value in VALUES:
        # Bytes come back as text where they can; see `erlang_values`.
        if "b'" not in repr(value):
            got = erlang.call("echo", value)
            assert is_same(got, value), (value, got)


def erlang_values(key: str) -> None:
    """Only on a node: the stand-in has no Erlang code for bytes to go through."""
    if erlang.under_hornbeam():
        for value, expected in THROUGH_ERLANG:
            got = erlang.call("echo", value)
            assert is_same(got, expected), (value, got)


def casts(key: str) -> None:
    erlang.cast("note", key)
    wait_and_call(lambda: bool(erlang.state_get(key) == 1))
    erlang.cast("no_such_function", 1)
    assert erlang.state_incr(key) == 2


def rpc(key: str) -> None:
    name = erlang.node()
    assert isinstance(name, str)
    assert erlang.nodes() == [] or erlang.under_hornbeam()
    assert erlang.ping(erlang.node()) is True
    assert erlang.connect(erlang.node()) is True
    assert erlang.ping("nobody@nowhere.invalid") is False
    assert erlang.connect("nobody@nowhere.invalid") is False
    assert erlang.rpc_call(name, "erlang", "abs", [-5]) == 5
    error = raises(
        erlang.RemoteError, lambda: erlang.rpc_call(name, "erlang", "badarg", [])
    )
    assert "undef" in error.reason, error
    error = raises(
        ConnectionError,
        lambda: erlang.rpc_call("nobody@nowhere.invalid", "erlang", "abs", [1]),
    )
    assert isinstance(error, erlang.NodeDown)
    erlang.rpc_cast(name, "erlang", "abs", [1])

    if erlang.under_hornbeam():
        error = raises(
            erlang.UnknownAtom, lambda: erlang.rpc_call(name, "erlang", key, [])
        )
        assert error.name == key


# Services with plain handlers.


class Shop:
    """A service that is an object."""

    def __init__(self) -> None:
        self.sold = 0

    def sell(self, count: int, *, free: bool = False) -> dict[str, object]:
        self.sold += count
        return {"sold": self.sold, "free": free}

    def fail(self, text: str) -> None:
        raise ValueError(text)

    def count(self, end: int) -> Iterator[int]:
        yield from range(end)

    def _secret(self) -> None:
        raise AssertionError("called from outside")


def service_of_a_class(key: str) -> None:
    erlang.register_hook(key, Shop)

    try:
        assert erlang.execute(key, "sell", 2) == {"sold": 2, "free": False}
        assert erlang.execute(key, "sell", 1, free=True) == {"sold": 3, "free": True}
        error = raises(erlang.RemoteError, lambda: erlang.execute(key, "fail", "so!"))
        assert error.error_class == "ValueError", error.error_class
        assert error.reason == "so!"
        assert "in fail" in error.stack
        error = raises(erlang.RemoteError, lambda: erlang.execute(key, "sel"))
        assert "no method 'sel'" in error.reason, error
        assert "sell" in error.reason
        error = raises(erlang.RemoteError, lambda: erlang.execute(key, "_secret"))
        assert "no method" in error.reason
        error = raises(
            LookupError, lambda: erlang.execute(key[:-1] + "~", "sell", timeout=1)
        )
        assert isinstance(error, erlang.ServiceNotFound)
        assert key in error.near, error.near
    finally:
        assert erlang.unregister_hook(key) is True

    assert erlang.unregister_hook(key) is False
    raises(erlang.ServiceNotFound, lambda: erlang.execute(key, "sell", 1))


def service_of_a_function(key: str) -> None:
    def shout(text: str, *more: object, mark: str = "!") -> list[object]:
        return [text.upper() + mark, *more]

    erlang.register_hook(key, shout)

    try:
        assert erlang.execute(key, "hi") == ["HI!"]
        assert erlang.execute(key, "hi", 1, mark="?") == ["HI?", 1]
        error = raises(erlang.RemoteError, lambda: erlang.execute(key))
        assert error.error_class == "TypeError"
        erlang.register_hook(key, lambda *args: list(args))
        assert erlang.execute(key, 1, "two", None) == [1, "two", None]
        assert erlang.execute(key) == []
    finally:
        erlang.unregister_hook(key)


def service_results_later(key: str) -> None:
    gate = threading.Event()

    def wait(value: int) -> int:
        assert gate.wait(PATIENCE_S)
        return value

    erlang.register_hook(key, wait)

    try:
        running = [erlang.execute_async(key, n) for n in range(3)]
        raises(TimeoutError, lambda: erlang.await_result(running[0], timeout=0.02))
        assert not running[0].done()
        gate.set()
        assert [erlang.await_result(each) for each in running] == [0, 1, 2]
        assert all(each.done() for each in running)
        error = raises(
            erlang.ServiceNotFound,
            lambda: erlang.await_result(erlang.execute_async(f"{key}~~~~~~~")),
        )
        assert error.function == f"{key}~~~~~~~"
        gate.clear()
        error = raises(erlang.CallTimeout, lambda: erlang.execute(key, 1, timeout=0.05))
        assert error.timeout_ms == 50
        gate.set()
    finally:
        erlang.unregister_hook(key)


def streams(key: str) -> None:
    closed = threading.Event()
    made: list[int] = []

    def numbers(end: int) -> Iterator[int]:
        try:
            for n in range(end):
                made.append(n)
                yield n
        finally:
            closed.set()

    erlang.register_hook(key, numbers)

    try:
        assert list(erlang.stream(key, 0)) == []
        assert list(erlang.stream(key, 200)) == list(range(200))
        assert closed.is_set()
        closed.clear()
        made.clear()

        with erlang.stream(key, 10**9) as some:
            assert [next(some) for _ in range(5)] == [0, 1, 2, 3, 4]

        wait_and_call(closed.is_set)
        assert list(some) == []
        assert len(made) < 200, len(made)
        raises(erlang.ServiceNotFound, lambda: erlang.stream(f"{key}~~~~~~~"))
        erlang.register_hook(key, Shop)
        assert list(erlang.stream(key, "count", 3)) == [0, 1, 2]
        error = raises(
            erlang.RemoteError, lambda: list(erlang.stream(key, "fail", "no"))
        )
        assert (error.error_class, error.reason) == ("ValueError", "no")
        error = raises(erlang.RemoteError, lambda: list(erlang.stream(key, "sell", 1)))
        assert "iterable of items" in error.reason
    finally:
        erlang.unregister_hook(key)


def stream_that_fails(key: str) -> None:
    def broken() -> Iterator[object]:
        yield 1
        yield {2}

    erlang.register_hook(key, broken)

    try:
        items = iter(erlang.stream(key))
        assert next(items) == 1
        error = raises(erlang.RemoteError, lambda: next(items))
        assert "set is not supported" in error.reason
        assert list(items) == []
    finally:
        erlang.unregister_hook(key)


# Messages.


def publishing(key: str) -> None:
    assert erlang.publish(key, "nobody") == 0
    ignore = [erlang.subscribe(key, lambda topic, message: None) for _ in range(3)]
    pattern = erlang.subscribe(f"{key}/*", lambda topic, message: None)
    assert erlang.publish(key, 1) == 3
    assert erlang.publish(f"{key}:x", 1) == 1
    ignore[0].close()
    ignore[0].close()
    pattern.close()
    assert erlang.publish(key, 1) == 2
    assert erlang.publish(f"{key}:x", 1) == 0

    for subscription in ignore:
        subscription.close()

    assert erlang.publish(key, 1) == 0
    raises(ValueError, lambda: erlang.publish(f"{key}:*", 1))
    raises(ValueError, lambda: erlang.subscribe("#:a"))
    raises(TypeError, lambda: erlang.publish(b"a", 1))  # type: ignore[arg-type]
    raises(TypeError, lambda: erlang.subscribe("a", 1))  # type: ignore[arg-type]
    raises(ValueError, lambda: erlang.subscribe("a", max_queue=0))


SCENARIOS: dict[str, Callable[[str], None]] = {
    scenario.__name__: scenario
    for scenario in (
        state_basics,
        state_counts,
        state_multi,
        state_prefix,
        state_add_and_pop,
        state_cas,
        state_update,
        state_updates_of_threads,
        state_ttl,
        state_values,
        state_value_keys,
        values_that_can_not_cross,
        functions,
        function_values,
        erlang_values,
        casts,
        rpc,
        service_of_a_class,
        service_of_a_function,
        service_results_later,
        streams,
        stream_that_fails,
        publishing,
    )
}
