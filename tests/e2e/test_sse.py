# SPDX-License-Identifier: Apache-2.0
"""Server-sent events, driven over a socket."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from e2e.apps.sse_app import EVENTS
from e2e.support import make_client, open_gate, serving, unique, wait_for_gate
from node import Node

NOTICE_SECONDS = 2.0
"""How soon an application must have noticed that its client has gone."""

STREAMS = 20

SHORT_MS = 600
"""Far below the defaults; far above the time that heads wait."""

STOP_SECONDS = 5.0
"""Bound for a stop with a timeout of 0.3 seconds; far below the default of 30."""


@pytest.fixture(scope="module")
def client(node: Node) -> Iterator[httpx.Client]:
    """A client of `sse_app`."""
    with serving(node, "sse_app:app") as url, make_client(url) as client:
        yield client


def read_event(lines: Iterator[str]) -> dict[str, str]:
    """Read lines up to the empty one that ends an event."""
    fields: dict[str, str] = {}

    for line in lines:
        if not line:
            return fields

        name, _, field = line.partition(": ")
        fields[name] = field

    raise AssertionError(f"the stream ended within an event: {fields}")


def test_events_arrive_one_by_one(client: httpx.Client) -> None:
    """Each is here before the next is let go."""
    name = unique("events")

    with client.stream("GET", f"/events/{name}") as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-store"
        lines = response.iter_lines()

        for number in range(EVENTS):
            if number > 0:
                open_gate(client, f"{name}-{number}")

            expected = {"id": str(number), "event": "tea", "data": f"čaj {number}"}
            assert read_event(lines) == expected

        assert list(lines) == []

    wait_for_gate(client, f"{name}-closed")


def test_many_streams_side_by_side(client: httpx.Client) -> None:
    """All wait at one gate, all go on when it opens."""
    name = unique("events")

    def read_all(_: int) -> list[str]:
        with make_client(str(client.base_url)) as own:
            text = own.get(f"/events/{name}").text

        return [line for line in text.splitlines() if line.startswith("data")]

    with ThreadPoolExecutor(STREAMS) as pool:
        reading = pool.map(read_all, range(STREAMS))

        for number in range(1, EVENTS):
            open_gate(client, f"{name}-{number}")

        expected = [f"data: čaj {number}" for number in range(EVENTS)]
        assert list(reading) == [expected] * STREAMS


def test_client_leaves_in_the_midst(client: httpx.Client) -> None:
    """The generator, which waits for its next event, is closed at once."""
    name = unique("events")

    with client.stream("GET", f"/events/{name}") as response:
        read_event(response.iter_lines())

    left = time.monotonic()
    wait_for_gate(client, f"{name}-closed")
    assert time.monotonic() - left < NOTICE_SECONDS


def test_head_comes_before_the_first_event(client: httpx.Client) -> None:
    """A browser's EventSource is open though nothing has happened yet."""
    name = unique("silent")

    with client.stream("GET", f"/silent/{name}") as response:
        assert response.status_code == 200
        wait_for_gate(client, f"{name}-open")

    wait_for_gate(client, f"{name}-closed")


def test_pings(client: httpx.Client) -> None:
    """Comments that keep a silent stream alive come through."""
    name = unique("silent")

    with client.stream("GET", f"/silent/{name}?ping_s=0.1") as response:
        lines = response.iter_lines()
        pings = [read_event(lines) for _ in range(3)]

    assert [list(ping) for ping in pings] == [[""]] * 3
    assert all(ping[""].startswith("ping - ") for ping in pings)


def test_silence_longer_than_every_timeout(node: Node) -> None:
    """None of them is for a stream that has started."""
    names = ("timeout", "keepalive", "header_timeout", "body_timeout", "send_timeout")
    options = ", ".join(f"{name} => {SHORT_MS}" for name in names)
    path = f"/silent/{unique('silent')}?ping_s={3 * SHORT_MS / 1000}"

    with (
        serving(node, "sse_app:app", f"#{{{options}}}") as url,
        make_client(url) as client,
        client.stream("GET", path) as response,
    ):
        lines = response.iter_lines()
        assert [list(read_event(lines)) for _ in range(2)] == [[""]] * 2


def test_server_stops_with_an_open_stream(node: Node) -> None:
    """After `shutdown_timeout` the stream is cut, and its generator closed."""
    name = unique("silent")
    options = "#{shutdown_timeout => 300}"

    with (
        serving(node, "sse_app:app", options, name="e2e_stopped") as url,
        make_client(url) as client,
        client.stream("GET", f"/silent/{name}") as response,
    ):
        wait_for_gate(client, f"{name}-open")
        started = time.monotonic()
        node.stop_server("e2e_stopped")
        assert time.monotonic() - started < STOP_SECONDS
        node.wait_for_output(f"sse: {name} closed")

        with pytest.raises(httpx.RemoteProtocolError):
            response.read()
