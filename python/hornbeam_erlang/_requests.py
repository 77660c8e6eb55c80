# SPDX-License-Identifier: Apache-2.0
"""What each function asks of the node, for its synchronous and asynchronous form alike.

Pure: checks and encodes the arguments, and says what becomes of the reply. The table of
calls in `docs/protocol.md` has the other side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from hornbeam import _topics
from hornbeam._etf import decode
from hornbeam._protocol import INFINITY
from hornbeam._terms import Atom
from hornbeam_erlang._client import Request, encode_value

_KEY: Final = Atom("key")
_STATE_GET: Final = Atom("state_get")
_STATE_SET: Final = Atom("state_set")
_STATE_DELETE: Final = Atom("state_delete")
_STATE_INCR: Final = Atom("state_incr")
_STATE_GET_MULTI: Final = Atom("state_get_multi")
_STATE_SET_MULTI: Final = Atom("state_set_multi")
_STATE_KEYS: Final = Atom("state_keys")
_STATE_ADD: Final = Atom("state_add")
_STATE_CAS: Final = Atom("state_cas")
_STATE_POP: Final = Atom("state_pop")
_PUBLISH: Final = Atom("publish")
_SUBSCRIBE: Final = Atom("subscribe")
_UNSUBSCRIBE: Final = Atom("unsubscribe")
_CALL: Final = Atom("call")
_CAST: Final = Atom("cast")
_RPC_CALL: Final = Atom("rpc_call")
_RPC_CAST: Final = Atom("rpc_cast")
_NODES: Final = Atom("nodes")
_NODE: Final = Atom("node")
_PING: Final = Atom("ping")
_CONNECT: Final = Atom("connect")
_REGISTER_HOOK: Final = Atom("register_hook")
_UNREGISTER_HOOK: Final = Atom("unregister_hook")
_EXECUTE: Final = Atom("execute")
_STREAM: Final = Atom("stream")
_STREAM_CREDIT: Final = Atom("stream_credit")


# State.


def state_get(key: object, default: Any) -> Request[Any]:
    return Request(
        _STATE_GET,
        (encode_key(key),),
        key,
        lambda encoded: default if encoded is None else decode(encoded),
    )


def state_get_encoded(key: object) -> Request[bytes | None]:
    return Request(_STATE_GET, (encode_key(key),), key)


def state_set(key: object, value: object, ttl: float | None) -> Request[None]:
    args = (encode_key(key), encode_value(value), _ttl_ms(ttl))
    return Request(_STATE_SET, args, key, _nothing)


def state_delete(key: object) -> Request[bool]:
    return Request(_STATE_DELETE, (encode_key(key),), key)


def state_incr(key: object, delta: int) -> Request[int]:
    return Request(_STATE_INCR, (encode_key(key), _check_delta(delta)), key)


def state_decr(key: object, delta: int) -> Request[int]:
    return Request(_STATE_INCR, (encode_key(key), -_check_delta(delta)), key)


def state_get_multi(keys: Iterable[Any]) -> Request[dict[Any, Any]]:
    if isinstance(keys, str | bytes | bytearray):
        raise TypeError(f"keys is an iterable of keys, not {type(keys).__name__}")

    asked = list(keys)
    # The name for errors only where there may be one: most keys are text.
    encoded = [
        key if type(key) is str else encode_key(key, f"keys[{n}]")
        for n, key in enumerate(asked)
    ]

    def parse(values: list[bytes | None]) -> dict[Any, Any]:
        return {
            key: decode(value)
            for key, value in zip(asked, values, strict=True)
            if value is not None
        }

    return Request(_STATE_GET_MULTI, (encoded,), None, parse)


def state_set_multi(mapping: Mapping[Any, object], ttl: float | None) -> Request[None]:
    pairs = [
        (encode_key(key, "a key of mapping"), encode_value(value, f"mapping[{key!r}]"))
        for key, value in mapping.items()
    ]
    return Request(_STATE_SET_MULTI, (pairs, _ttl_ms(ttl)), None, _nothing)


def state_keys(prefix: str | bytes | None) -> Request[list[Any]]:
    if prefix is not None and not isinstance(prefix, str | bytes):
        raise TypeError(f"prefix is a str, bytes or None, not {type(prefix).__name__}")

    return Request(_STATE_KEYS, (prefix,), None, lambda keys: list(map(decode, keys)))


def state_add(key: object, value: object, ttl: float | None) -> Request[bool]:
    args = (encode_key(key), encode_value(value), _ttl_ms(ttl))
    return Request(_STATE_ADD, args, key)


def state_cas(key: object, expected: object, new: object) -> Request[bool]:
    encoded = encode_value(expected, "expected")
    return state_cas_encoded(key, encoded, new, "new")


def state_cas_encoded(
    key: object, expected: bytes, new: object, name: str = "value"
) -> Request[bool]:
    args = (encode_key(key), expected, encode_value(new, name))
    return Request(_STATE_CAS, args, key)


def state_pop(key: object, default: Any) -> Request[Any]:
    return Request(
        _STATE_POP,
        (encode_key(key),),
        key,
        lambda encoded: default if encoded is None else decode(encoded),
    )


def encode_key(key: object, name: str = "key") -> object:
    """Return the form in which a key crosses.

    What is plain stands for itself; all else is encoded, so that the node can give it
    back as it was and atoms of the application stay out of the message.
    """
    if key is None or isinstance(key, str | int):
        return key

    return (_KEY, encode_value(key, name))


def _check_delta(delta: int) -> int:
    if type(delta) is bool or not isinstance(delta, int):
        raise TypeError(f"delta is an int, not {type(delta).__name__}")

    return delta


def _ttl_ms(ttl: float | None) -> int | None:
    return None if ttl is None else _milliseconds(ttl, "ttl")


def _milliseconds(seconds: float, name: str) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        kind = type(seconds).__name__
        raise TypeError(f"{name} is a number of seconds or None, not {kind}")

    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{name} is a number of seconds from 0 on, not {seconds}")

    # Up, so that a very short time is not none.
    return math.ceil(seconds * 1000)


def _nothing(value: object) -> None:
    return None


# Pub/sub.


def publish(topic: str, message: object) -> Request[int]:
    _topics.check_topic(topic)
    return Request(_PUBLISH, (topic, encode_value(message, "message")), topic)


def subscribe(pattern: str) -> Request[None]:
    _topics.check_pattern(pattern)
    return Request(_SUBSCRIBE, (pattern,), pattern, _nothing)


def unsubscribe(pattern: str) -> Request[None]:
    return Request(_UNSUBSCRIBE, (pattern,), pattern, _nothing)


# Functions.


def call(name: str, args: tuple[object, ...], timeout: float | None) -> Request[Any]:
    fields = (_name(name, "name"), _arguments(args), _timeout_ms(timeout))
    return Request(_CALL, fields, name, decode)


def cast(name: str, args: tuple[object, ...]) -> Request[None]:
    return Request(_CAST, (_name(name, "name"), _arguments(args)), name, _nothing)


def rpc_call(
    node: str | Atom,
    module: str | Atom,
    function: str | Atom,
    args: Iterable[object],
    timeout_ms: int | None,
) -> Request[Any]:
    if timeout_ms is not None and (
        isinstance(timeout_ms, bool) or not isinstance(timeout_ms, int)
    ):
        kind = type(timeout_ms).__name__
        raise TypeError(f"timeout_ms is an int or None, not {kind}")

    if timeout_ms is not None and timeout_ms < 0:
        raise ValueError(f"timeout_ms is from 0 on, not {timeout_ms}")

    target = _target(node, module, function)
    wait = INFINITY if timeout_ms is None else timeout_ms
    fields = (*target, _arguments(tuple(args)), wait)
    return Request(_RPC_CALL, fields, f"{target[1]}:{target[2]}", decode)


def rpc_cast(
    node: str | Atom,
    module: str | Atom,
    function: str | Atom,
    args: Iterable[object],
) -> Request[None]:
    target = _target(node, module, function)
    fields = (*target, _arguments(tuple(args)))
    return Request(_RPC_CAST, fields, f"{target[1]}:{target[2]}", _nothing)


def nodes() -> Request[list[str]]:
    return Request(_NODES, (), None, lambda names: list(map(_decode_text, names)))


def node() -> Request[str]:
    return Request(_NODE, (), None, _decode_text)


def ping(name: str | Atom) -> Request[bool]:
    return Request(_PING, (_name(name, "node"),), name)


def connect(name: str | Atom) -> Request[bool]:
    return Request(_CONNECT, (_name(name, "node"),), name)


def _target(*names: str | Atom) -> tuple[str, ...]:
    return tuple(
        _name(name, kind)
        for name, kind in zip(names, ("node", "module", "function"), strict=True)
    )


# Services.


def register_hook(path: str) -> Request[None]:
    return Request(_REGISTER_HOOK, (_name(path, "path"),), path, _nothing)


def unregister_hook(path: str) -> Request[bool]:
    return Request(_UNREGISTER_HOOK, (_name(path, "path"),), path)


def execute(
    path: str,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    timeout: float | None,
) -> Request[Any]:
    return Request(_EXECUTE, _invocation(path, args, kwargs, timeout), path, decode)


def stream(
    path: str,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    timeout: float | None,
) -> Request[int]:
    return Request(_STREAM, _invocation(path, args, kwargs, timeout), path)


def stream_credit(stream_id: int, count: int) -> Request[None]:
    return Request(_STREAM_CREDIT, (stream_id, count))


def _invocation(
    path: str,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    timeout: float | None,
) -> tuple[object, ...]:
    """A first argument that is text may be the name of a method, and travels apart."""
    method = None

    if args and isinstance(args[0], str):
        method, *rest = args
        # Where it is no text for Erlang, the error is to name the argument.
        _arguments((method,))
        args = tuple(rest)

    keywords = encode_value(dict(kwargs), "kwargs")
    wait = _timeout_ms(timeout)
    return (_name(path, "path"), method, _arguments(args), keywords, wait)


def _arguments(args: tuple[object, ...]) -> bytes:
    return encode_value(list(args), "args")


def _timeout_ms(timeout: float | None) -> int | Atom:
    return INFINITY if timeout is None else _milliseconds(timeout, "timeout")


def _name(name: str | Atom, kind: str) -> str:
    if isinstance(name, Atom):
        return name.name

    if not isinstance(name, str):
        raise TypeError(f"{kind} is a str, not {type(name).__name__}")

    return name


def _decode_text(text: bytes | str) -> str:
    return text.decode(errors="replace") if isinstance(text, bytes) else text
