# SPDX-License-Identifier: Apache-2.0
"""What a node holds, before and after."""

from __future__ import annotations

import ast
import os
import time
from dataclasses import asdict, dataclass

from node import Node
from processes import descendants

_COUNTS = (
    "[erlang:system_info(process_count), erlang:system_info(port_count),"
    " length(ets:all()), length(maps:keys(ranch:info()))]"
)


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """Things of a node that a fault may leave behind."""

    processes: int
    ports: int
    tables: int
    listeners: int
    descriptors: int
    os_processes: int


def take_stock(node: Node) -> Holdings:
    processes, ports, tables, listeners = ast.literal_eval(node.eval(_COUNTS))
    return Holdings(
        processes=processes,
        ports=ports,
        tables=tables,
        listeners=listeners,
        descriptors=len(os.listdir(f"/proc/{node.os_pid}/fd")),
        os_processes=len(descendants(node.os_pid)),
    )


def wait_for_stock(node: Node, before: Holdings, seconds: float = 20.0) -> None:
    """Wait until there is no more than there was.

    Raises:
        AssertionError: something has stayed; the text says what.
    """
    deadline = time.monotonic() + seconds

    while left := _excess(before, take_stock(node)):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.05)


def memory_bytes(node: Node) -> int:
    """The node's own memory, its garbage collected."""
    return int(
        node.eval(
            "[erlang:garbage_collect(P) || P <- processes()], erlang:memory(total)"
        )
    )


def _excess(before: Holdings, after: Holdings) -> dict[str, int]:
    held = asdict(before)
    return {
        name: count - held[name]
        for name, count in asdict(after).items()
        if count > held[name]
    }
