# SPDX-License-Identifier: Apache-2.0
"""The harness that drives a node must itself be beyond doubt."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from node import EvalError, Node, literal
from processes import wait_until_gone

TESTS_DIR = Path(__file__).resolve().parent


def test_eval_prints_the_last_value(node: Node) -> None:
    """Expressions are those of the shell, with or without a full stop."""
    assert node.eval('X = 1, {X, <<"a">>, "čaj"}') == '{1,<<"a">>,[269,97,106]}'
    assert node.eval(" 1 + 1. ") == "2"


def test_eval_text_gives_text_as_it_is(node: Node) -> None:
    """Quotes, line ends and letters beyond Latin-1 survive."""
    text = 'a "quoted\\" čaj'
    assert node.eval_text(literal(text)) == text
    assert node.eval_text('["a\\n", $b, <<"c">>]') == "a\nbc"


@pytest.mark.parametrize("expression", ["1 = 2", "1 +", "throw(x)", "no_module:f()"])
def test_failure_raises(node: Node, expression: str) -> None:
    """Neither a bad match nor a syntax error ends the node."""
    with pytest.raises(EvalError):
        node.eval(expression)

    assert node.eval("ok") == "ok"


def test_eval_side_by_side(node: Node) -> None:
    """An expression that waits does not hold up another thread's."""
    answers: list[str] = []
    waiting = threading.Thread(
        target=lambda: answers.append(
            node.eval("register(held, self()), receive Message -> Message end")
        )
    )
    waiting.start()

    while node.eval("whereis(held)") == "undefined":
        pass

    node.eval("held ! released")
    waiting.join()
    assert answers == ["released"]


def test_no_answer_in_time(node: Node) -> None:
    """The error names the expression."""
    with pytest.raises(TimeoutError, match=re.escape("receive after infinity")):
        node.eval("receive after infinity -> ok end", timeout=0.05)


def test_output_is_awaited(node: Node) -> None:
    """What the node prints is there for the tests, and does not disturb answers."""
    assert node.eval('io:put_chars(user, "printed: 42\\n"), 1') == "1"
    assert node.wait_for_output(r"printed: (\d+)\n")[1] == "42"

    with pytest.raises(TimeoutError, match="never printed"):
        node.wait_for_output("never printed", timeout=0.05)


def test_log_is_awaited(node: Node) -> None:
    """What was logged is there; what is waited for may have been there before."""
    node.eval('[logger:notice("count ~b", [N]) || N <- lists:seq(1, 50)]')
    text = node.logged()
    assert all(f"count {number}\n" in text for number in range(1, 51))

    with pytest.raises(TimeoutError, match="count 7"):
        node.wait_for_output("count 7", timeout=0.05, since=len(text))

    node.eval('logger:notice("count 7")')
    assert node.wait_for_output("count 7", since=len(text)).start() > len(text)


def test_environment_reaches_the_node() -> None:
    """Variables of `env` come on top of the ones of the tests."""
    with Node(env={"HORNBEAM_TEST": "x"}) as node:
        assert node.eval_text('os:getenv("HORNBEAM_TEST")') == "x"
        assert node.eval_text('os:getenv("HOME")') == os.environ["HOME"]


def test_killed_node_is_gone(fresh_node: Node) -> None:
    """Questions to a dead node fail at once, also those that wait."""
    failures: list[BaseException] = []

    def wait() -> None:
        try:
            fresh_node.eval("register(held, self()), receive never -> ok end")
        except ConnectionError as exc:
            failures.append(exc)

    waiting = threading.Thread(target=wait)
    waiting.start()

    while fresh_node.eval("whereis(held)") == "undefined":
        pass

    fresh_node.kill()
    waiting.join()
    assert len(failures) == 1
    assert not fresh_node.is_alive()

    with pytest.raises(ConnectionError):
        fresh_node.eval("ok")


def test_terminated_node_leaves_with_status_0(fresh_node: Node) -> None:
    """SIGTERM is a clean stop of Erlang."""
    assert fresh_node.terminate() == 0


def test_node_ends_with_its_owner() -> None:
    """Also tests that are killed leave no node behind."""
    script = textwrap.dedent("""
        import sys, time
        sys.path.insert(0, sys.argv[1])
        from node import Node
        node = Node()
        print(node.os_pid, flush=True)
        time.sleep(60)
    """)
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(TESTS_DIR)], stdout=subprocess.PIPE
    )

    with owner:
        assert owner.stdout is not None
        os_pid = int(owner.stdout.readline())
        owner.send_signal(signal.SIGKILL)

    wait_until_gone([os_pid], timeout=10)
