# SPDX-License-Identifier: Apache-2.0
"""The plugin for pytest; loaded by its entry point where the package is installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hornbeam_erlang.testing import StandIn, stand_in

__all__ = ("hornbeam_state",)


@pytest.fixture
def hornbeam_state() -> Iterator[StandIn]:
    """The stand-in of `hornbeam_erlang`, empty before the test and after it."""
    stand_in.clear()
    yield stand_in
    stand_in.clear()
