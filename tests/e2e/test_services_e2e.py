# SPDX-License-Identifier: Apache-2.0
"""What `hornbeam_erlang` says of a real node's limits, and of two nodes."""

from __future__ import annotations

import os
import subprocess
import time
from ast import literal_eval
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from e2e.observe import TESTS_DIR
from e2e.raw import wait_until
from node import Node
from ports import free_port

CALLER = "e2e.raw_apps.services:application"
PROVIDER = "e2e.raw_apps.services:provider"
LIMIT_BYTES = 300_000


class Asker:
    """A server of that application on a node."""

    def __init__(self, node: Node, app: str, name: str, workers: int = 1) -> None:
        self._url = node.start_server(
            app, f"#{{workers => {workers}}}", name=name, app_dir=TESTS_DIR
        )

    def text(self, expression: str) -> str:
        """The value as Python writes it, or the names of the exception and its text."""
        response = httpx.post(
            self._url, content=expression, timeout=20.0, trust_env=False
        )
        assert response.status_code == 200, response.text
        return response.text

    def value(self, expression: str) -> Any:
        return literal_eval(self.text(expression))

    def fails(self, expression: str, *kinds: str) -> str:
        """Check that it raises an exception that is all of that; its text."""
        text = self.text(expression)
        names, _, message = text.partition(": ")
        assert set(kinds) <= set(names.split("|")), text
        return message


# Limits that the options of the node set.


@pytest.fixture(scope="module")
def limited() -> Iterator[Asker]:
    """On a node whose state is small and whose functions are few."""
    with Node() as node:
        node.eval(
            "ok = application:load(hornbeam),"
            f"ok = application:set_env(hornbeam, state_max_memory, {LIMIT_BYTES}),"
            "ok = application:set_env(hornbeam, rpc_allow,"
            " [{erlang, abs}, {string, '_'}])"
        )
        yield Asker(node, CALLER, "limited")


def test_state_that_is_full(limited: Asker) -> None:
    """A set beyond the limit fails and says so; nothing is thrown out for it."""
    assert limited.text("state_set('kept', 'x' * 1000)") == "None"
    large = f"b'x' * {LIMIT_BYTES}"

    for expression in (
        f"state_set('large', {large})",
        f"state_set_multi({{'small': 1, 'large': {large}}})",
        f"state_add('large', {large})",
        f"state_update('large', lambda old: {large})",
    ):
        assert str(LIMIT_BYTES) in limited.fails(
            expression, "StateFull", "HornbeamError"
        )

    assert limited.value("state_keys()") == ["kept"]
    assert limited.value("state_get('kept') == 'x' * 1000") is True
    assert limited.value("state_delete('kept')") is True
    assert limited.text("state_set('other', b'x' * 200_000)") == "None"
    limited.fails("state_set('more', b'x' * 200_000)", "StateFull")
    assert limited.value("state_incr('counter')") == 1


def test_functions_that_are_not_allowed(limited: Asker) -> None:
    """What `rpc_allow` lists can be called, anything else is refused, known or not."""
    assert limited.value("rpc_call(node(), 'erlang', 'abs', [-1])") == 1
    assert limited.value("rpc_call(node(), 'string', 'length', ['abc'])") == 3

    for function in ("'os', 'cmd'", "'erlang', 'halt'", "'no such module', 'abs'"):
        for call in ("rpc_call", "rpc_cast"):
            limited.fails(
                f"{call}(node(), {function}, [])", "NotAllowed", "PermissionError"
            )

    assert limited.value("ping(node())") is True


# Services in several workers.


@pytest.fixture
def shop(fresh_node: Node) -> Asker:
    """A caller beside three workers that answer for `shop`."""
    Asker(fresh_node, PROVIDER, "provider", workers=3)
    return Asker(fresh_node, CALLER, "caller")


WHERE = "execute('shop', 'where')"


def test_workers_share_a_service(shop: Asker) -> None:
    """Calls go to all that answer; each says who it is."""
    answered: set[int] = set()

    def ask() -> bool:
        answered.add(shop.value(WHERE)[1])
        return len(answered) == 3

    wait_until(ask, "all three have answered")
    assert answered == {1, 2, 3}
    assert shop.value("list(stream('shop', 'count', 5))") == [0, 1, 2, 3, 4]
    message = shop.fails("execute('shop', 'fail', 'no such thing')", "RemoteError")
    assert "no such thing" in message
    shop.fails("execute('shp')", "ServiceNotFound", "LookupError")


@pytest.mark.parametrize(
    "expression",
    [
        "execute('shop', 'die', timeout=None)",
        "await_result(execute_async('shop', 'die', timeout=None))",
        "list(stream('shop', 'die_at', 3, timeout=None))",
    ],
)
def test_worker_that_dies_in_a_call(
    fresh_node: Node, shop: Asker, expression: str
) -> None:
    """A clear error at once, whatever the deadline; the others go on answering."""
    began = time.monotonic()
    assert "shop" in shop.fails(expression, "ServiceDown", "HornbeamError")
    assert time.monotonic() - began < 3.0
    assert shop.value(WHERE)[1] in (1, 2, 3)
    wait_until(
        lambda: (
            fresh_node.eval('length(pg:get_members(hornbeam_hooks, <<"shop">>))') == "3"
        ),
        "its successor answers, too",
    )


# Two nodes.


@pytest.fixture(scope="module")
def epmd_port() -> Iterator[str]:
    """A port mapper of our own, on loopback."""
    port = str(free_port())
    env = {**os.environ, **epmd_env(port)}
    subprocess.run(["epmd", "-daemon"], env=env, check=True)
    # It says that it is there before it listens.
    wait_until(
        lambda: subprocess.run(["epmd", "-names"], env=env).returncode == 0,
        "the port mapper answers",
    )

    try:
        yield port
    finally:
        wait_until(
            lambda: (
                b"Killed"
                in subprocess.run(
                    ["epmd", "-kill"], env=env, stdout=subprocess.PIPE
                ).stdout
            ),
            "the port mapper ends",
        )


def epmd_env(port: str) -> dict[str, str]:
    return {"ERL_EPMD_PORT": port, "ERL_EPMD_ADDRESS": "127.0.0.1"}


@pytest.fixture
def two_nodes(epmd_port: str) -> Iterator[tuple[Node, Node]]:
    with Node(env=epmd_env(epmd_port)) as one, Node(env=epmd_env(epmd_port)) as two:
        for number, node in enumerate((one, two), 1):
            node.eval(
                "ok = application:set_env(kernel, inet_dist_use_interface,"
                " {127, 0, 0, 1}),"
                f"{{ok, _}} = net_kernel:start('e2e_{number}@127.0.0.1',"
                " #{name_domain => longnames}),"
                "true = erlang:set_cookie(hornbeam_e2e)"
            )

        yield one, two


def is_known(asker: Asker) -> bool:
    """Whether the service is."""
    return "ServiceNotFound" not in asker.text(WHERE)


def test_two_nodes(two_nodes: tuple[Node, Node]) -> None:
    """They meet by Python's call, and are one for messages, functions, services."""
    one, two = two_nodes
    here = Asker(one, CALLER, "here")
    there = Asker(two, PROVIDER, "there", workers=2)
    other = "e2e_2@127.0.0.1"
    here.fails(WHERE, "ServiceNotFound")
    here.fails(f"rpc_call('{other}', 'erlang', 'node', [])", "UnknownAtom")
    assert here.value(f"connect('{other}')") is True
    assert here.value(f"ping('{other}')") is True
    assert here.value("nodes()") == [other]
    assert there.value("nodes()") == [here.text("node()").strip("'")]

    # Functions.
    assert here.value(f"rpc_call('{other}', 'erlang', 'abs', [-2])") == 2

    # Messages: the worker here, and both of the workers there.
    wait_until(
        lambda: here.value("publish('news:first', 1)") == 3, "all have heard of all"
    )
    wait_until(lambda: there.value("publish('news:first', 2)") == 3, "there as well")
    assert there.value("publish('news:second', {'k': [b'x', (1, None)]})") == 3

    second = ["news:second", {"k": [b"x", (1, None)]}]
    wait_until(lambda: second in here.value("news"), "the message is here")
    wait_until(lambda: second in there.value("news"), "the message is there")

    # A service, of which both learn apart from that.
    wait_until(lambda: is_known(here), "it is known here")
    assert here.value(WHERE)[0] == other
    assert here.value("list(stream('shop', 'count', 100))") == list(range(100))
    here.fails("execute('shop', 'fail', 'x')", "RemoteError")
    here.fails("execute('shop', 'die')", "ServiceDown")

    # The other node is killed.
    two.kill()
    wait_until(lambda: here.value("nodes()") == [], "it is gone")
    here.fails(f"rpc_call('{other}', 'erlang', 'abs', [-2])", "NodeDown")
    # What was there goes by itself.
    wait_until(lambda: not is_known(here), "its service is gone")
    here.fails(WHERE, "ServiceNotFound")
    wait_until(lambda: here.value("publish('news:third', 1)") == 1, "nobody is there")
    assert here.value(f"ping('{other}')") is False
