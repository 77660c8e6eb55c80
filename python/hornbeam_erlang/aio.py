# SPDX-License-Identifier: Apache-2.0
"""The functions of `hornbeam_erlang` as coroutines, for asyncio and trio.

    from hornbeam_erlang import aio

    views = await aio.state_incr("views")

Each does what the function of its name does and raises what that raises; arguments are
checked before anything is sent. While a coroutine waits, other tasks of the event loop
run, and calls that tasks make in one turn of it cross together. A single synchronous
call is quicker; these are for what takes its time, and for many calls at once.

A coroutine that is cancelled leaves nothing behind but what the node may have done
already: a late answer is dropped.

`subscribe` without a callback, `stream` and `stream_async` are no coroutines: what they
return is for `async with` and `async for`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hornbeam._etf import decode
from hornbeam._terms import Atom
from hornbeam_erlang import _requests
from hornbeam_erlang._attachments import attach, detach
from hornbeam_erlang._client import ask_async, bridge, send, under_hornbeam, worker_id
from hornbeam_erlang._pubsub import subscribe
from hornbeam_erlang._services import TIMEOUT_S, Execution, stream_async

__all__ = (
    "attach",
    "await_result",
    "call",
    "cast",
    "connect",
    "decr",
    "delete",
    "detach",
    "execute",
    "execute_async",
    "get",
    "incr",
    "node",
    "nodes",
    "ping",
    "publish",
    "register_hook",
    "rpc_call",
    "rpc_cast",
    "set",
    "state_add",
    "state_cas",
    "state_decr",
    "state_delete",
    "state_get",
    "state_get_multi",
    "state_incr",
    "state_keys",
    "state_pop",
    "state_set",
    "state_set_multi",
    "state_update",
    "stream",
    "stream_async",
    "subscribe",
    "under_hornbeam",
    "unregister_hook",
    "worker_id",
)

# State.


async def state_get(key: object, default: Any = None) -> Any:
    """Return the value under a key."""
    return await ask_async(_requests.state_get(key, default))


async def state_set(key: object, value: object, ttl: float | None = None) -> None:
    """Put a value under a key."""
    await ask_async(_requests.state_set(key, value, ttl))


async def state_delete(key: object) -> bool:
    """Remove a key; say whether it was there."""
    return await ask_async(_requests.state_delete(key))


async def state_incr(key: object, delta: int = 1) -> int:
    """Add to the integer under a key; return the new value."""
    return await ask_async(_requests.state_incr(key, delta))


async def state_decr(key: object, delta: int = 1) -> int:
    """Subtract from the integer under a key; return the new value."""
    return await ask_async(_requests.state_decr(key, delta))


async def state_get_multi(keys: Iterable[Any]) -> dict[Any, Any]:
    """Return the values under several keys."""
    return await ask_async(_requests.state_get_multi(keys))


async def state_set_multi(
    mapping: Mapping[Any, object], ttl: float | None = None
) -> None:
    """Put several values under their keys."""
    await ask_async(_requests.state_set_multi(mapping, ttl))


async def state_keys(prefix: str | bytes | None = None) -> list[Any]:
    """Return the keys that begin with a prefix."""
    return await ask_async(_requests.state_keys(prefix))


async def state_add(key: object, value: object, ttl: float | None = None) -> bool:
    """Put a value under a key if there is nothing; say whether it was put there."""
    return await ask_async(_requests.state_add(key, value, ttl))


async def state_cas(key: object, expected: object, new: object) -> bool:
    """Put a value under a key if a certain one is there; say whether it was."""
    return await ask_async(_requests.state_cas(key, expected, new))


async def state_pop(key: object, default: Any = None) -> Any:
    """Take the value under a key away."""
    return await ask_async(_requests.state_pop(key, default))


async def state_update(
    key: object, fn: Callable[[Any], Any], default: Any = None
) -> Any:
    """Change the value under a key by a plain function, without losing a change."""
    while True:
        encoded = await ask_async(_requests.state_get_encoded(key))
        new = fn(default if encoded is None else decode(encoded))

        if encoded is None:
            request = _requests.state_add(key, new, None)
        else:
            request = _requests.state_cas_encoded(key, encoded, new)

        if await ask_async(request):
            return new


# Messages.


async def publish(topic: str, message: object) -> int:
    """Send a message to all who have subscribed; return how many it reached."""
    return await ask_async(_requests.publish(topic, message))


# Functions.


async def call(name: str, *args: object, timeout: float | None = 5.0) -> Any:
    """Call an Erlang function that is registered under a name."""
    return await ask_async(_requests.call(name, args, timeout))


async def cast(name: str, *args: object) -> None:
    """Call an Erlang function that is registered, and don't wait."""
    send(_requests.cast(name, args))


async def rpc_call(
    node: str | Atom,
    module: str | Atom,
    function: str | Atom,
    args: Iterable[object] = (),
    timeout_ms: int | None = 5000,
) -> Any:
    """Call a function of a connected node."""
    request = _requests.rpc_call(node, module, function, args, timeout_ms)
    return await ask_async(request)


async def rpc_cast(
    node: str | Atom,
    module: str | Atom,
    function: str | Atom,
    args: Iterable[object] = (),
) -> None:
    """Call a function of a connected node, and don't wait for what becomes of it."""
    await ask_async(_requests.rpc_cast(node, module, function, args))


async def nodes() -> list[str]:
    """Return the names of the nodes that this one is connected to."""
    return await ask_async(_requests.nodes())


async def node() -> str:
    """Return the name of this node."""
    return await ask_async(_requests.node())


async def ping(node: str | Atom) -> bool:
    """Tell whether a node can be reached."""
    return await ask_async(_requests.ping(node))


async def connect(node: str | Atom) -> bool:
    """Connect to a node, and tell whether that has worked."""
    return await ask_async(_requests.connect(node))


# Services.


async def register_hook(path: str, handler: object) -> None:
    """Offer a service under a path."""
    request = _requests.register_hook(path)
    hooks = bridge().hooks
    hooks.add(path, handler)

    try:
        await ask_async(request)
    except BaseException:
        hooks.remove(path)
        raise


async def unregister_hook(path: str) -> bool:
    """Offer a service of this worker no more; say whether it did."""
    request = _requests.unregister_hook(path)
    was_there = bridge().hooks.remove(path)
    await ask_async(request)
    return was_there


async def execute(
    path: str, *args: object, timeout: float | None = TIMEOUT_S, **kwargs: object
) -> Any:
    """Run a service and wait for its result."""
    return await ask_async(_requests.execute(path, args, kwargs, timeout))


async def execute_async(
    path: str, *args: object, timeout: float | None = TIMEOUT_S, **kwargs: object
) -> Execution:
    """Have a service run, and go on; `await_result` gets the result."""
    return Execution(_requests.execute(path, args, kwargs, timeout))


async def await_result(execution: Execution) -> Any:
    """Wait for what `execute_async` has begun; may be cancelled and called again."""
    return await execution.wait_async()


stream = stream_async

# Short names.
get = state_get
set = state_set
incr = state_incr
decr = state_decr
delete = state_delete
