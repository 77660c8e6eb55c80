# SPDX-License-Identifier: Apache-2.0
"""How a worker leaves that can't go on: without the node, or in disorder."""

from __future__ import annotations

import os
import traceback
from typing import Final, NoReturn

from hornbeam._process import leave
from hornbeam._protocol import ProtocolError

__all__ = ("die_of", "leave_fork", "leave_in_disorder", "leave_without_node")

EXIT_NODE_GONE: Final = 0
EXIT_PROTOCOL: Final = 70
"""EX_SOFTWARE of sysexits.h."""
EXIT_DISORDER: Final = 71
"""EX_OSERR; the node is not at fault, nor has the worker broken the protocol."""


def die_of(error: ProtocolError) -> NoReturn:
    """Say what the node did wrong, and leave."""
    os.write(2, f"hornbeam worker: protocol error: {error}\n".encode(errors="replace"))
    os._exit(EXIT_PROTOCOL)


def leave_in_disorder() -> NoReturn:
    """Leave with the traceback of the error that is being handled, if that can be made.

    Messages are lost, or half of one, for a fault of ours or for want of memory: what
    comes next could be taken for something else, and be sent to the wrong client.
    """
    try:
        traceback.print_exc()
    finally:
        os._exit(EXIT_DISORDER)


def leave_without_node() -> NoReturn:
    """Leave at once: what is left in buffers may go to a pipe that nobody reads."""
    os._exit(EXIT_NODE_GONE)


def leave_fork() -> NoReturn:
    """Leave in a fork that came back to the event loop, by an exception for instance.

    It would serve the parent's requests a second time.
    """
    leave(1)
