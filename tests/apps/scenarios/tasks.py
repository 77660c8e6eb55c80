# SPDX-License-Identifier: Apache-2.0
"""Scenarios that are coroutines, for asyncio and trio."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any

import anyio
import anyio.lowlevel

import hornbeam_erlang as erlang
from apps.scenarios.plain import PATIENCE_S
from apps.scenarios.values import VALUES, is_same
from hornbeam_erlang import aio


async def raises(kind: type[BaseException], awaitable: Awaitable[object]) -> Any:
    """Await, and return the exception of that kind that has to come."""
    try:
        value = await awaitable
    except kind as exc:
        return exc

    raise AssertionError(f"expected {kind.__name__}, got {value!r}")


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks, and threads, run until a condition holds."""

    async def check() -> bool:
        return condition()

    await until_async(check)


async def until_async(condition: Callable[[], Awaitable[bool]]) -> None:
    """The same with a condition that has to be awaited."""
    deadline = anyio.current_time() + PATIENCE_S

    while not await condition():
        assert anyio.current_time() < deadline
        await anyio.sleep(0.001)


async def state(key: str) -> None:
    assert await aio.state_get(key, 7) == 7
    await aio.state_set(key, {"a": (1,)}, ttl=60)
    assert await aio.state_get(key) == {"a": (1,)}
    assert await aio.state_cas(key, {"a": (1,)}, 5) is True
    assert await aio.state_incr(key, 2) == 7
    assert await aio.state_decr(key) == 6
    assert await aio.state_add(key, 1) is False
    assert await aio.state_update(key, lambda value: value * 2) == 12
    await aio.state_set_multi({f"{key}:1": 1, f"{key}:2": 2})
    assert sorted(await aio.state_keys(f"{key}:")) == [f"{key}:1", f"{key}:2"]
    found = await aio.state_get_multi([f"{key}:1", f"{key}:2", f"{key}:3"])
    assert found == {f"{key}:1": 1, f"{key}:2": 2}
    assert await aio.state_pop(key) == 12
    assert await aio.state_delete(key) is False
    await aio.state_set(key, "text")
    error = await raises(erlang.NotAnInteger, aio.state_incr(key))
    assert error.key == key
    error = await raises(erlang.EncodeError, aio.state_set(key, [{1}]))
    assert str(error).startswith("value[0]: set")


async def values(key: str) -> None:
    for value in VALUES:
        await aio.state_set(key, value)
        assert is_same(await aio.state_get(key), value), value


async def many_at_once(key: str) -> None:
    seen: list[int] = []

    async def work() -> None:
        for _ in range(5):
            seen.append(await aio.state_incr(key))
            seen.append(erlang.state_incr(key))

    async with anyio.create_task_group() as group:
        for _ in range(40):
            group.start_soon(work)

    assert sorted(seen) == list(range(1, 401))


async def cancelled_calls(key: str) -> None:
    """A late answer is dropped, and others are not mixed up with it."""
    for round_number in range(20):
        with anyio.move_on_after(0.001 * (round_number % 3)):
            await aio.call("sleep", 20)

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(aio.state_incr, key)

            group.start_soon(aio.call, "echo", 1)

            if round_number % 2:
                group.cancel_scope.cancel()

        assert await aio.call("add", round_number, 1) == round_number + 1


async def functions(key: str) -> None:
    assert await aio.call("add", 1, 2) == 3
    error = await raises(LookupError, aio.call("ad", 1, 2))
    assert error.near == ("add",)
    error = await raises(erlang.RemoteError, aio.call("fail", key))
    assert key in error.reason
    error = await raises(TimeoutError, aio.call("sleep", 60000, timeout=0.02))
    assert isinstance(error, erlang.CallTimeout)
    await aio.cast("note", key)

    async def is_noted() -> bool:
        return bool(await aio.state_get(key) == 1)

    await until_async(is_noted)

    name = await aio.node()
    assert await aio.rpc_call(name, "erlang", "abs", [-5]) == 5
    await aio.rpc_cast(name, "erlang", "abs", [1])
    assert await aio.ping("nobody@nowhere.invalid") is False
    assert isinstance(await aio.nodes(), list)
    assert await aio.connect("nobody@nowhere.invalid") is False


async def calls_side_by_side(key: str) -> None:
    """The event loop goes on while calls wait."""
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(aio.call, "sleep", 200)

            assert await aio.state_incr(key) == 1


# Messages.


async def subscription(key: str) -> None:
    async with erlang.subscribe(key) as messages:
        for n in range(3):
            assert await aio.publish(key, {"n": n}) == 1

        assert [await messages.get() for _ in range(3)] == [{"n": n} for n in range(3)]
        assert messages.topic == key
        erlang.publish(key, "last")

        async for message in messages:
            assert message == "last"
            break

        assert messages.dropped == 0

    assert await aio.publish(key, 1) == 0
    await raises(RuntimeError, messages.get())
    await raises(RuntimeError, messages.__aenter__())
    assert [message async for message in messages] == []


async def subscription_to_a_pattern(key: str) -> None:
    async with (
        erlang.subscribe(f"{key}:*:on") as some,
        erlang.subscribe(f"{key}/#") as all_of_them,
    ):
        assert await aio.publish(key, 0) == 1
        assert await aio.publish(f"{key}:a:on", 1) == 2
        assert await aio.publish(f"{key}/b/on", 2) == 2
        assert await aio.publish(f"{key}:a:off", 3) == 1
        got = []

        async for pair in some.with_topics():
            got.append(pair)

            if len(got) == 2:
                break

        assert got == [(f"{key}:a:on", 1), (f"{key}/b/on", 2)]
        assert [await all_of_them.get() for _ in range(4)] == [0, 1, 2, 3]
        assert all_of_them.topic == f"{key}:a:off"


async def subscribers_have_copies(key: str) -> None:
    async with erlang.subscribe(key) as one, erlang.subscribe(key) as other:
        assert await aio.publish(key, [1]) == 2
        first = await one.get()
        first.append(2)
        assert await other.get() == [1]


async def slow_subscriber(key: str) -> None:
    async with erlang.subscribe(key, max_queue=10) as messages:
        for n in range(25):
            assert await aio.publish(key, n) == 1

        # Behind them all, by the same way.
        async with erlang.subscribe(f"{key}-end") as end:
            await aio.publish(f"{key}-end", None)
            await end.get()

        assert messages.dropped == 15
        assert [await messages.get() for _ in range(10)] == list(range(15, 25))


async def subscription_ends_with_its_task(key: str) -> None:
    async def listen() -> None:
        async for _ in erlang.subscribe(key):
            pass

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(listen)

        async def are_there() -> bool:
            return await aio.publish(key, 1) == 3

        await until_async(are_there)
        group.cancel_scope.cancel()

    assert await aio.publish(key, 1) == 0


async def callbacks(key: str) -> None:
    plain: list[tuple[str, Any]] = []
    awaited: list[tuple[str, Any]] = []

    def take(topic: str, message: Any) -> None:
        plain.append((topic, message))

    async def take_async(topic: str, message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        awaited.append((topic, message))

    def fail(topic: str, message: Any) -> None:
        raise ValueError("of a callback; goes to the log")

    subscriptions = [
        erlang.subscribe(f"{key}:*", callback) for callback in (take, take_async, fail)
    ]
    expected = [(f"{key}:{n}", n) for n in range(10)]

    for topic, n in expected:
        assert await aio.publish(topic, n) == 3

    await until(lambda: len(plain) == len(awaited) == 10)
    assert plain == awaited == expected

    for subscription in subscriptions:
        subscription.close()

    assert await aio.publish(f"{key}:0", 1) == 0


# Services.


class Model:
    """A service with coroutines."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    async def double(self, value: int) -> int:
        await anyio.lowlevel.checkpoint()
        return value * 2

    async def fail(self) -> None:
        raise KeyError("of a coroutine")

    async def hang(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self.ended.set()

    async def tokens(self, count: int) -> AsyncIterator[str]:
        try:
            for n in range(count):
                await anyio.lowlevel.checkpoint()
                yield f"t{n}"
        finally:
            self.ended.set()

    async def later(self, count: int) -> Iterator[int]:
        return iter(range(count))


async def services(key: str) -> None:
    model = Model()
    await aio.register_hook(key, model)

    try:
        assert await aio.execute(key, "double", 4) == 8
        running = [await aio.execute_async(key, "double", n) for n in range(5)]
        assert [await aio.await_result(each) for each in running] == [0, 2, 4, 6, 8]
        error = await raises(erlang.RemoteError, aio.execute(key, "fail"))
        assert error.error_class == "KeyError"
        error = await raises(erlang.CallTimeout, aio.execute(key, "hang", timeout=0.05))
        await until(model.ended.is_set)
        model.ended.clear()

        with anyio.move_on_after(0.05):
            await aio.execute(key, "hang", timeout=0.1)

        await until(model.ended.is_set)
        await raises(erlang.ServiceNotFound, aio.execute(f"{key}~~~~~~~~"))
    finally:
        assert await aio.unregister_hook(key) is True


async def streams(key: str) -> None:
    model = Model()
    await aio.register_hook(key, model)

    try:
        got = [token async for token in aio.stream(key, "tokens", 100)]
        assert got == [f"t{n}" for n in range(100)]
        assert [n async for n in erlang.stream_async(key, "later", 3)] == [0, 1, 2]
        await until(model.ended.is_set)
        model.ended.clear()

        async with aio.stream(key, "tokens", 10**9) as some:
            async for token in some:
                if token == "t50":
                    break

        await until(model.ended.is_set)
        model.ended.clear()

        async for _ in aio.stream(key, "tokens", 10**9):
            break

        await until(model.ended.is_set)
        error = await raises(erlang.RemoteError, anext(aio.stream(key, "fail")))
        assert error.error_class == "KeyError"
        error = await raises(
            erlang.CallTimeout, anext(aio.stream(key, "hang", timeout=0.05))
        )
        await raises(erlang.ServiceNotFound, anext(aio.stream(f"{key}~~~~~~~~")))
    finally:
        await aio.unregister_hook(key)


async def stream_that_is_cancelled(key: str) -> None:
    """A wait for an item may be cancelled, and the iteration goes on."""
    gate = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        assert gate.wait(PATIENCE_S)
        yield 2

    await aio.register_hook(key, items)

    try:
        stream = aio.stream(key)
        assert await anext(stream) == 1

        with anyio.move_on_after(0.02):
            await anext(stream)

        gate.set()
        assert [item async for item in stream] == [2]
    finally:
        await aio.unregister_hook(key)


SCENARIOS: dict[str, Callable[[str], Coroutine[Any, Any, None]]] = {
    scenario.__name__: scenario
    for scenario in (
        state,
        values,
        many_at_once,
        cancelled_calls,
        functions,
        calls_side_by_side,
        subscription,
        subscription_to_a_pattern,
        subscribers_have_copies,
        slow_subscriber,
        subscription_ends_with_its_task,
        callbacks,
        services,
        streams,
        stream_that_is_cancelled,
    )
}
