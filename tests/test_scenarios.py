# SPDX-License-Identifier: Apache-2.0
"""`hornbeam_erlang` in full: the same scenarios on the stand-in and on a node."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import httpx
import pytest
import trio

from apps.scenarios import plain, tasks
from apps.scenarios.callers import THREADS, run_plain, run_task
from hornbeam_erlang import _local, state_incr
from hornbeam_erlang._local import LocalNode
from node import Node

TIMEOUT_S = 60.0

FUNCTIONS = """
    %% Known from now on; `rpc_call' makes no atoms from what Python says.
    'nobody@nowhere.invalid',
    {ok, _} = application:ensure_all_started(hornbeam),
    ok = hornbeam_functions:register(add, fun(A, B) -> A + B end),
    ok = hornbeam_functions:register(echo, fun(Value) -> Value end),
    ok = hornbeam_functions:register(fail, fun(Reason) -> error(Reason) end),
    ok = hornbeam_functions:register(sleep, fun(Ms) -> timer:sleep(Ms), Ms end),
    ok = hornbeam_functions:register(note, fun(Key) -> hornbeam_state:incr(Key) end)
"""


def make_key() -> str:
    return f"k{uuid.uuid4().hex}"


def check(report: str) -> None:
    if report:
        pytest.fail(report, pytrace=False)


# The stand-in.


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> LocalNode:
    node = LocalNode()
    never = threading.Event()

    def fail(reason: str) -> None:
        raise RuntimeError(reason)

    def sleep(milliseconds: int) -> int:
        # Given up by its caller, or over soon.
        never.wait(min(milliseconds, 1000) / 1000)
        return milliseconds

    node.work.register("add", lambda one, other: one + other)
    node.work.register("echo", lambda value: value)
    node.work.register("fail", fail)
    node.work.register("sleep", sleep)
    node.work.register("note", state_incr)
    node.work.register("erlang:abs", abs)
    monkeypatch.setattr(_local, "node", node)
    return node


Run = Callable[[Callable[[], Coroutine[Any, Any, str]]], str]

LOOPS: dict[str, Run] = {
    "asyncio": lambda main: asyncio.run(main()),
    "trio": lambda main: trio.run(main),
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("caller", THREADS)
@pytest.mark.parametrize("name", plain.SCENARIOS)
def test_plain_on_stand_in(
    stand_in: LocalNode, loop: str, caller: str, name: str
) -> None:
    check(LOOPS[loop](lambda: run_plain(caller, name, make_key())))


@pytest.mark.parametrize("name", plain.SCENARIOS)
def test_plain_on_stand_in_without_a_loop(stand_in: LocalNode, name: str) -> None:
    plain.SCENARIOS[name](make_key())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", tasks.SCENARIOS)
def test_tasks_on_stand_in(stand_in: LocalNode, loop: str, name: str) -> None:
    check(LOOPS[loop](lambda: run_task(name, make_key())))


# A node.


@pytest.fixture(scope="module", params=["uvloop", "asyncio", "trio"])
def url(node: Node, request: pytest.FixtureRequest) -> Iterator[str]:
    node.eval(FUNCTIONS)
    options = (
        f"#{{loop => {request.param}, workers => 1, timeout => 120000,"
        ' env => #{"SCENARIOS_IN_LIFESPAN" => "1"}}'
    )
    name = f"scenarios_{request.param}"
    yield node.start_server(
        "apps.scenarios.app:app", options, name=name, app_dir="tests"
    )
    node.stop_server(name)


def report(url: str, caller: str, name: str) -> str:
    address = f"{url}/{caller}/{name}/{make_key()}"
    response = httpx.get(address, timeout=TIMEOUT_S, trust_env=False)
    assert response.status_code == 200, response.text
    return response.text


@pytest.mark.parametrize("caller", [*THREADS, "lifespan"])
@pytest.mark.parametrize("name", plain.SCENARIOS)
def test_plain_on_node(url: str, caller: str, name: str) -> None:
    check(report(url, caller, name))


@pytest.mark.parametrize("name", tasks.SCENARIOS)
def test_tasks_on_node(url: str, name: str) -> None:
    check(report(url, "coroutine", name))
