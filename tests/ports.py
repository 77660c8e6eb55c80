# SPDX-License-Identifier: Apache-2.0
"""Ports for what has to be told one, rather than get any."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_DEFAULT_FIRST = 32768
_EACH = 1000


def free_port() -> int:
    """A port of 127.0.0.1 that is free, and that nobody gets by chance.

    The system gives those of a range to servers that ask for any, and to clients: one
    of these may be taken as soon as it is free. This one is below them, in a part that
    other processes of the same run do not choose from.
    """
    first = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else _DEFAULT_FIRST
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))

    while True:
        port = first - _EACH * process - random.randrange(1, _EACH + 1)

        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue

            return port
