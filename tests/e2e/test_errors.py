# SPDX-License-Identifier: Apache-2.0
"""Applications that fail: what clients see, what the log has, and that others go on."""

from __future__ import annotations

import re
import threading
import uuid
from ast import literal_eval
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.observe import Server, serving
from e2e.raw import Connection, Cut, request, wait_until
from node import Node


@pytest.fixture(scope="module")
def server(node: Node) -> Iterator[Server]:
    with serving(node, "faults") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Connection]:
    with Connection(server.url) as connection:
        yield connection


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


def ask(server: Server, target: str, method: str = "GET") -> Any:
    with Connection(server.url) as connection:
        answer = connection.exchange(method, target, [("Connection", "close")])

    assert answer.status == 200, answer
    return literal_eval(answer.text) if answer.body else None


def wait_for_traceback(server: Server, secret: str) -> str:
    """The record of a failure in the node's log, from its head to the secret."""
    found = server.node.wait_for_output(
        rf"request \d+: [^\n]*\n(?:(?!REPORT)[^\0])*?secret is {secret}"
    )
    return found[0]


@pytest.mark.parametrize("when", ["before-start", "after-start"])
def test_raises_before_anything_is_sent(
    server: Server, client: Connection, name: str, when: str
) -> None:
    """500 without a word of why; the log has the traceback and the request's number."""
    answer = client.get(f"/raises/{when}?{name}")
    assert answer.status == 500
    assert answer.one("content-type") == b"text/plain; charset=utf-8"
    assert answer.text.strip() == "Internal Server Error"
    record = wait_for_traceback(server, name)
    assert re.match(rf"request \d+: GET /raises/{when}: ", record)
    assert "Traceback (most recent call last)" in record
    assert 'faults.py", line' in record
    # The connection is as good as before.
    assert client.get("/hello").text == "hello"


@pytest.mark.parametrize(
    ("when", "version"),
    [("in-body", "1.1"), ("in-sized-body", "1.1"), ("in-body", "1.0")],
)
def test_raises_within_the_body(
    server: Server, client: Connection, name: str, when: str, version: str
) -> None:
    """The connection is cut, so that no client takes the part for the whole.

    Where the end of the connection is the end of the body, that takes a reset.
    """
    client.send(request(target=f"/raises/{when}?{name}", version=version))

    with pytest.raises(Cut) as caught:
        client.read_response()

    assert caught.value.received in (b"", b"part")
    assert caught.value.is_reset or version == "1.1"
    record = wait_for_traceback(server, name)
    assert "raised after the response started" in record


def test_raises_after_the_response(
    server: Server, client: Connection, name: str
) -> None:
    """Too late to change anything for the client; the log has it."""
    assert client.get(f"/raises/after-end?{name}").text == "part"
    wait_for_traceback(server, name)
    assert client.get("/hello").text == "hello"


@pytest.mark.parametrize("kind", ["cancelled", "exit"])
def test_raises_what_is_no_exception(
    server: Server, client: Connection, kind: str
) -> None:
    """SystemExit and a CancelledError of its own are failures like others."""
    before = server.worker_pids()
    assert client.get(f"/raises/before-start?{kind}").status == 500
    assert client.get("/hello").text == "hello"
    assert server.worker_pids() == before


def test_returns_without_a_response(server: Server, client: Connection) -> None:
    for when, expected in (
        ("before-start", "'http.response.start'"),
        ("after-start", "the first 'http.response.body'"),
    ):
        assert client.get(f"/returns/{when}").status == 500
        server.node.wait_for_output(
            f"GET /returns/{when}: the application returned; expected {expected}"
        )


def test_returns_within_the_body(server: Server, client: Connection) -> None:
    """As if it had raised: the response is not whole."""
    client.send(request(target="/returns/in-body"))

    with pytest.raises(Cut):
        client.read_response()

    server.node.wait_for_output("returned; expected a further 'http.response.body'")


def test_failures_do_not_touch_others(server: Server, name: str) -> None:
    """Requests of other clients in the same worker are answered, however one fails."""
    with Connection(server.url) as held:
        head = [("Content-Length", "1")]
        held.send(request("POST", f"/hold/{name}", head))
        ask(server, f"/wait/{name}-held")

        for target in ("/raises/before-start?", "/raises/in-body?", "/returns/in-body"):
            with Connection(server.url) as failing:
                failing.send(request(target=target))

                try:
                    assert failing.read_response().status == 500
                except Cut:
                    pass

        held.send(b"x")
        assert held.read_response("POST").status == 200


# Timeouts.


@pytest.fixture(scope="module")
def hasty(node: Node) -> Iterator[Server]:
    with serving(node, "faults", "#{timeout => 1000}") as running:
        yield running


def test_no_response_in_time(hasty: Server, name: str) -> None:
    """504, and the application's task is cancelled."""
    with Connection(hasty.url) as client:
        assert client.get(f"/slow/{name}").status == 504
        assert client.get("/hello").text == "hello"

    assert ask(hasty, f"/wait/{name}") == "CancelledError"
    wait_until(lambda: hasty.in_flight() == 0, "the request is over")


def test_a_swallowed_cancellation(hasty: Server, name: str) -> None:
    """What it sends after all meets a client that has gone."""
    with Connection(hasty.url) as client:
        assert client.get(f"/stubborn/{name}").status == 504
        assert ask(hasty, f"/wait/{name}") == "ClientDisconnected"
        assert client.get("/hello").text == "hello"


def test_a_stream_has_no_timeout(hasty: Server) -> None:
    """The time is for the response to start; how long it lasts is its own affair."""
    with Connection(hasty.url) as client:
        assert client.get("/late/1.5").text == "early, late"


def test_timeout_behind_a_slow_request(hasty: Server, name: str) -> None:
    """The time of a pipelined request begins when its turn has come."""
    with Connection(hasty.url) as client:
        client.send(request(target=f"/slow/{name}") + request(target="/late/0.2"))
        assert client.read_response().status == 504
        assert client.read_response().text == "early, late"


def test_blocked_loop_and_timeout(hasty: Server) -> None:
    """504 needs no help of the worker, and when its loop is free it serves again."""
    with Connection(hasty.url) as client:
        assert client.get("/blocks/1.7").status == 504
        wait_until(lambda: hasty.in_flight() == 0, "the loop is free")
        assert client.get("/hello").text == "hello"


def test_infinite_timeout(node: Node, name: str) -> None:
    with serving(
        node, "faults", "#{timeout => infinity, shutdown_timeout => 100}"
    ) as server:
        with Connection(server.url) as client:
            client.send(request(target=f"/slow/{name}"))
            client.read_silence(1.0)


def test_many_failures_at_a_time(server: Server) -> None:
    """Two hundred failing requests side by side: each gets its own answer."""
    statuses: list[int] = []

    def fail() -> None:
        with Connection(server.url) as client:
            statuses.extend(
                client.get("/raises/before-start?many").status for _ in range(20)
            )

    threads = [threading.Thread(target=fail) for _ in range(10)]

    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join()

    assert statuses == [500] * 200
    wait_until(lambda: server.in_flight() == 0, "all requests are over")
