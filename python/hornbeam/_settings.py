# SPDX-License-Identifier: Apache-2.0
"""What the node wants of this worker: the `configure` message as a value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar, cast

from hornbeam import _protocol as protocol
from hornbeam._terms import Atom

__all__ = ("Settings",)

WorkerClass = Literal["asgi", "wsgi", "auto"]
LifespanMode = Literal["auto", "on", "off"]
WebSocketDrain = Literal["close", "keep"]
LoopName = Literal["auto", "uvloop", "asyncio", "trio"]

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one worker; fixed for its life."""

    app: str
    """`module:attribute`."""
    worker_class: WorkerClass = "auto"
    pythonpath: tuple[str, ...] = (".",)
    """Where modules are looked for first; relative to the working directory."""
    chdir: str | None = None
    """The working directory; None leaves it."""
    lifespan: LifespanMode = "auto"
    lifespan_timeout_s: float | None = 30.0
    """For startup and for shutdown, each; None waits for ever."""
    root_path: str = ""
    loop: LoopName = "auto"
    threads: int = 8
    """Size of the event loop's thread pool."""
    server: str = "default"
    """The name of the server that this worker belongs to."""
    worker_id: int = 1
    window_bytes: int = 65536
    """How much of a body may be under way without being taken, in each direction."""
    send_timeout_s: float | None = 30.0
    """How long a client may take nothing of a response; None: for ever."""
    websocket_drain: WebSocketDrain = "close"
    """Whether open WebSockets are closed at once when the worker is to end."""

    @classmethod
    def parse(cls, message: protocol.IncomingMessage) -> Settings:
        """Read a `configure` message; keys that are not known are skipped.

        Raises:
            ProtocolError: it is another message, or a setting is missing or wrong.
        """
        protocol.check_message(message)

        if message[0] is not protocol.CONFIGURE:
            raise protocol.ProtocolError(
                "the first message is configure", repr(message)
            )

        given = cast(Mapping[Atom, object], message[1])
        return cls(
            **{
                field: _read(given, key, parse)
                for field, (key, parse) in _PARSERS.items()
            }  # type: ignore[arg-type]  # the table has the types
        )


def _read(
    given: Mapping[Atom, object], key: str, parse: Callable[[object], _Value]
) -> _Value:
    if Atom(key) not in given:
        raise protocol.ProtocolError(f"setting {key} is missing", repr(given))

    setting = given[Atom(key)]

    try:
        return parse(setting)
    except (TypeError, ValueError) as exc:
        raise protocol.ProtocolError(f"setting {key}: {exc}", repr(setting)) from exc


def _text(setting: object) -> str:
    if not isinstance(setting, bytes):
        raise TypeError("expected a binary")

    return setting.decode("utf-8", "surrogateescape")


def _optional_text(setting: object) -> str | None:
    return None if setting is None else _text(setting)


def _texts(setting: object) -> tuple[str, ...]:
    if not isinstance(setting, list):
        raise TypeError("expected a list of binaries")

    return tuple(map(_text, setting))


def _positive(setting: object) -> int:
    if type(setting) is not int or setting < 1:
        raise ValueError("expected a positive integer")

    return setting


def _timeout_s(setting: object) -> float | None:
    return protocol.parse_timeout_ms(setting)


def _one_of(*names: str) -> Callable[[object], str]:
    def parse(setting: object) -> str:
        if not isinstance(setting, Atom) or setting.name not in names:
            raise ValueError(f"expected one of {', '.join(names)}")

        return setting.name

    return parse


# Field -> its key in the message, and how its value is read.
_PARSERS: Final[Mapping[str, tuple[str, Callable[[object], object]]]] = {
    "app": ("app", _text),
    "worker_class": ("worker_class", _one_of("asgi", "wsgi", "auto")),
    "pythonpath": ("pythonpath", _texts),
    "chdir": ("chdir", _optional_text),
    "lifespan": ("lifespan", _one_of("auto", "on", "off")),
    "lifespan_timeout_s": ("lifespan_timeout", _timeout_s),
    "root_path": ("root_path", _text),
    "loop": ("loop", _one_of("auto", "uvloop", "asyncio", "trio")),
    "threads": ("threads", _positive),
    "server": ("server", _text),
    "worker_id": ("worker_id", _positive),
    "window_bytes": ("window", _positive),
    "send_timeout_s": ("send_timeout", _timeout_s),
    "websocket_drain": ("websocket_drain", _one_of("close", "keep")),
}
