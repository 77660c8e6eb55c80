# SPDX-License-Identifier: Apache-2.0
"""The `configure` message."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fake_node import make_settings
from hornbeam._etf import decode_packet, encode_message, pack_batch
from hornbeam._protocol import ProtocolError
from hornbeam._settings import Settings
from hornbeam._terms import Atom


def configure(**changes: object) -> tuple[Any, ...]:
    """Make a message as the node's comes in."""
    settings = make_settings("app:app", 65536, changes)
    packet = pack_batch([encode_message((Atom("configure"), settings))])
    (message,) = decode_packet(packet[4:])
    assert isinstance(message, tuple)
    return message


def test_all_settings() -> None:
    message = configure(
        worker_class=Atom("asgi"),
        pythonpath=["/srv/größe", b"/srv/\xff"],
        chdir="/srv",
        lifespan=Atom("on"),
        lifespan_timeout=1500,
        root_path="/r",
        loop=Atom("trio"),
        threads=1,
        server="shop",
        worker_id=3,
        window=1,
        send_timeout=2500,
        websocket_drain=Atom("keep"),
        of_a_later_version=1,
    )
    assert Settings.parse(message) == Settings(
        app="app:app",
        worker_class="asgi",
        pythonpath=("/srv/größe", "/srv/\udcff"),
        chdir="/srv",
        lifespan="on",
        lifespan_timeout_s=1.5,
        root_path="/r",
        loop="trio",
        threads=1,
        server="shop",
        worker_id=3,
        window_bytes=1,
        send_timeout_s=2.5,
        websocket_drain="keep",
    )


def test_infinite_timeout_and_no_directory() -> None:
    settings = Settings.parse(configure(lifespan_timeout=Atom("infinity")))
    assert settings.lifespan_timeout_s is None
    assert settings.chdir is None


def test_settings_are_fixed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings.parse(configure()).threads = 3  # type: ignore[misc]  # that is it


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"app": Atom("app")}, "setting app: expected a binary"),
        ({"worker_class": "asgi"}, "setting worker_class: expected one of asgi, wsgi"),
        ({"worker_class": Atom("rack")}, "setting worker_class: expected one of"),
        ({"pythonpath": "."}, "setting pythonpath: expected a list of binaries"),
        ({"pythonpath": [1]}, "setting pythonpath: expected a binary"),
        ({"chdir": 5}, "setting chdir: expected a binary"),
        ({"lifespan": True}, "setting lifespan: expected one of auto, on, off"),
        ({"lifespan_timeout": -1}, "a timeout is milliseconds or infinity"),
        ({"loop": Atom("twisted")}, "setting loop: expected one of auto, uvloop"),
        ({"threads": 0}, "setting threads: expected a positive integer"),
        ({"threads": True}, "setting threads: expected a positive integer"),
        ({"window": 1.5}, "setting window: expected a positive integer"),
        ({"send_timeout": 1.5}, "a timeout is milliseconds or infinity"),
        ({"websocket_drain": None}, "setting websocket_drain: expected one of close"),
        ({"worker_id": 0}, "setting worker_id: expected a positive integer"),
    ],
)
def test_bad_settings(change: dict[str, object], text: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        Settings.parse(configure(**change))

    assert text in str(caught.value)


@pytest.mark.parametrize(
    "missing", [field.name for field in dataclasses.fields(Settings)]
)
def test_missing_settings(missing: str) -> None:
    head, settings = configure()
    key = missing.removesuffix("_s").removesuffix("_bytes")
    del settings[Atom(key)]

    with pytest.raises(ProtocolError, match=f"setting {key} is missing"):
        Settings.parse((head, settings))


@pytest.mark.parametrize("message", [(Atom("ping"), 1), (Atom("configure"), 1)])
def test_another_message(message: tuple[object, ...]) -> None:
    with pytest.raises(ProtocolError):
        Settings.parse(message)
