# SPDX-License-Identifier: Apache-2.0
"""Failures of the node as exceptions: their bases, texts and attributes."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

import hornbeam_erlang as erlang
from hornbeam import _errors
from hornbeam._bridge import CallFailed
from hornbeam._terms import Atom
from hornbeam_erlang._client import Request, translate

# Name and facts of the node, what comes of it, its text.
FAILURES: list[tuple[str, dict[str, Any], Exception, type[Exception], str]] = [
    (
        "timeout",
        {"timeout_ms": 50},
        erlang.CallTimeout("name", 50),
        TimeoutError,
        "name gave no answer in 50 ms",
    ),
    (
        "function_not_found",
        {"name": b"name", "near": [b"nam", b"game"]},
        erlang.FunctionNotFound("name", ["nam", "game"]),
        LookupError,
        "the node has no function 'name'; did you mean 'nam' or 'game'?",
    ),
    (
        "service_not_found",
        {"path": b"name", "near": []},
        erlang.ServiceNotFound("name"),
        LookupError,
        "the node has no service 'name'",
    ),
    (
        "service_down",
        {"path": b"name"},
        erlang.ServiceDown("name"),
        ConnectionError,
        "what runs service 'name' died before it answered",
    ),
    (
        "remote_error",
        {"class": b"ValueError", "reason": b"so", "stack": b"here"},
        erlang.RemoteError("name", "so", "here", "ValueError"),
        erlang.HornbeamError,
        "name failed: ValueError: so",
    ),
    (
        "remote_error",
        {"class": b"error", "reason": b"badarg", "stack": b""},
        erlang.RemoteError("name", "badarg"),
        erlang.HornbeamError,
        "name failed: badarg",
    ),
    (
        "node_down",
        {"node": b"a@b"},
        erlang.NodeDown("a@b"),
        ConnectionError,
        "node 'a@b' can't be reached",
    ),
    (
        "not_allowed",
        {"module": b"os", "function": b"cmd"},
        erlang.NotAllowed("name"),
        PermissionError,
        "name is not among what rpc_allow lets be called",
    ),
    (
        "unknown_atom",
        {"text": b"x"},
        erlang.UnknownAtom("x"),
        ValueError,
        "the node knows no atom 'x'; atoms are not made from Python: "
        "load the Erlang module that has it, or send a str",
    ),
    (
        "state_full",
        {"limit_bytes": 1000},
        erlang.StateFull(1000),
        erlang.HornbeamError,
        "the shared state may take 1000 bytes and is full",
    ),
    (
        "too_many_calls",
        {"limit": 1000},
        erlang.TooManyCalls(1000),
        erlang.HornbeamError,
        "1000 calls of this worker are under way already",
    ),
    (
        "something_new",
        {},
        erlang.RemoteError("call", "something_new"),
        erlang.HornbeamError,
        "call failed: something_new",
    ),
]


@pytest.mark.parametrize(("name", "facts", "expected", "base", "text"), FAILURES)
def test_failures(
    name: str, facts: dict[str, Any], expected: Exception, base: Any, text: str
) -> None:
    failure = CallFailed(name, {Atom(fact): value for fact, value in facts.items()})
    error = translate(Request(Atom("call"), (), "name"), failure)
    assert type(error) is type(expected)
    assert isinstance(error, base)
    assert vars(error) == vars(expected)
    assert str(error) == text
    assert vars(pickle.loads(pickle.dumps(error))) == vars(error)


def test_the_tree_is_in_the_docstrings() -> None:
    for name in _errors.__all__:
        assert name in (erlang.__doc__ or "")
        assert name in (_errors.__doc__ or "")
        assert getattr(erlang, name) is getattr(_errors, name)
