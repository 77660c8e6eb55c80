# SPDX-License-Identifier: Apache-2.0
"""The shared state, from endpoints of all kinds in several workers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import httpx
import pytest

from e2e.support import (
    ask_many,
    make_client,
    serving,
    unique,
    wait_for_gate,
)
from node import Node

INCREMENTS = 500
AT_A_TIME = 50
WORKERS = 2
# Whoever has had fewer requests takes each, until it has had as many as the other.
MAX_TRIES = 4 * INCREMENTS


@pytest.fixture(scope="module")
def url(node: Node) -> Iterator[str]:
    with serving(node, "state_app:app", f"#{{workers => {WORKERS}}}") as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with make_client(url) as client:
        yield client


@pytest.fixture(scope="module")
def single(node: Node) -> Iterator[httpx.Client]:
    """A client of a server with one worker, whose gates are where they are opened."""
    with serving(node, "state_app:app") as url, make_client(url) as client:
        yield client


def until_all_workers(ask: Callable[[], httpx.Response]) -> list[object]:
    """Ask until each worker has answered, one request at a time; gives the values."""
    values: dict[int, object] = {}

    for _ in range(MAX_TRIES):
        answer = ask().json()
        values[answer["worker"]] = answer["value"]

        if len(values) == WORKERS:
            return list(values.values())

    raise AssertionError(f"only {len(values)} workers answered {MAX_TRIES} requests")


@pytest.mark.parametrize("kind", ["async", "def", "to_thread", "own_thread"])
def test_concurrent_increments(url: str, kind: str) -> None:
    """Over two workers each number comes once: none is lost, none is doubled."""
    target = f"/incr/{kind}/{unique('counter')}"
    responses = ask_many(url, "POST", target, times=INCREMENTS, connections=AT_A_TIME)
    answers = [json.loads(response.body) for response in responses]
    values = sorted(answer["value"] for answer in answers)
    assert values == list(range(1, INCREMENTS + 1))
    assert len({answer["worker"] for answer in answers}) == WORKERS


def test_loop_and_threads_side_by_side(client: httpx.Client) -> None:
    """Calls of the event loop and of threads of one worker share its pipe."""
    answer = client.post(f"/race/{unique('counter')}", params={"times": 200}).json()
    assert answer["value"] == list(range(1, 401))


def test_thread_while_the_loop_is_blocked(client: httpx.Client) -> None:
    """A thread's call completes though the event loop waits for that thread."""
    key = unique("counter")
    values = [client.post(f"/incr/busy/{key}").json()["value"] for _ in range(3)]
    assert values == [1, 2, 3]


def test_background_task(single: httpx.Client) -> None:
    """After the response is out."""
    key = unique("counter")
    single.post(f"/incr/background/{key}")
    wait_for_gate(single, f"{key}-done")
    assert single.get(f"/get/{key}").json()["value"] == 1


def test_deltas(client: httpx.Client) -> None:
    """Up, down, and beyond 64 bits."""
    key = unique("counter")
    deltas = [5, -7, 2**70, -(2**70)]
    values = [
        client.post(f"/incr/by/{key}/{delta}").json()["value"] for delta in deltas
    ]
    assert values == [5, -2, 2**70 - 2, -2]


def test_values_come_back_as_they_were(client: httpx.Client) -> None:
    """Of all types, in every worker."""
    prefix = unique("values")
    client.put(f"/values/{prefix}")
    assert until_all_workers(lambda: client.get(f"/values/{prefix}")) == [[], []]


def test_default(client: httpx.Client) -> None:
    """For a key that is not there."""
    assert client.get(f"/get/{unique('none')}").json()["value"] == "the default"


def test_erlang_sees_the_same(client: httpx.Client, node: Node) -> None:
    """In both directions: values, and a counter that both count."""
    key = unique("key")
    client.put(f"/text/{key}", params={"text": "čaj"})
    assert node.eval_text(f'hornbeam_state:get(<<"{key}">>)') == "čaj"

    node.eval(f'hornbeam_state:set(<<"{key}">>, #{{<<"a">> => [1, 2.5]}})')
    assert client.get(f"/get/{key}").json()["value"] == {"a": [1, 2.5]}

    counter = unique("counter")
    client.post(f"/incr/async/{counter}")
    assert node.eval(f'hornbeam_state:incr(<<"{counter}">>)') == "{ok,2}"
    assert client.post(f"/incr/def/{counter}").json()["value"] == 3


def test_state_outlives_the_server(node: Node) -> None:
    """It belongs to the node: the next server finds it."""
    key = unique("key")

    with serving(node, "state_app:app") as url:
        httpx.put(f"{url}/text/{key}", params={"text": "left behind"})

    with serving(node, "state_app:app") as url:
        assert httpx.get(f"{url}/get/{key}").json()["value"] == "left behind"


def test_counting_what_is_no_integer(client: httpx.Client) -> None:
    """A TypeError that names the key; the value stays."""
    key = unique("key")
    client.put(f"/text/{key}", params={"text": "word"})
    error = client.post(f"/errors/incr/{key}")
    assert error.status_code == 409
    assert "TypeError" in error.json()["kinds"]
    assert key in error.json()["text"]
    assert client.get(f"/get/{key}").json()["value"] == "word"


def test_value_that_can_not_cross(client: httpx.Client) -> None:
    """A TypeError that names the place in the value; nothing is stored."""
    key = unique("key")
    error = client.post(f"/errors/set/{key}").json()
    assert "TypeError" in error["kinds"]
    assert "['a'][1]" in error["text"]
    assert client.get(f"/get/{key}").json()["value"] == "the default"
