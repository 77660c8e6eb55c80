# SPDX-License-Identifier: Apache-2.0
"""For the tests of applications: the stand-in that the functions work on there.

With pytest there is a fixture that starts clean and leaves nothing behind:

    def test_order(hornbeam_state):
        hornbeam_state.register_function("stock", lambda item: 3)
        assert order("tea") == "ordered"
        assert state_get("orders") == 1
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hornbeam_erlang import _local

__all__ = ("StandIn", "stand_in")


class StandIn:
    """The stand-in for the node, in this process."""

    def clear(self) -> None:
        """Forget all: state, subscriptions, registered functions and services."""
        _local.node.clear()

    def register_function(self, name: str, function: Callable[..., object]) -> None:
        """Have `call(name, ...)` call a Python function, in place of an Erlang one.

        A name `module:function` is for `rpc_call` of this node.
        """
        _local.node.work.register(name, function)

    def unregister_function(self, name: str) -> bool:
        """Take a function away; say whether it was there."""
        return _local.node.work.unregister(name)

    def advance(self, seconds: float) -> None:
        """Let time go by for what has a ttl, without waiting."""
        _local.node.advance(seconds)


stand_in: Final = StandIn()
"""The one of this process."""
