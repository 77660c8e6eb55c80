# SPDX-License-Identifier: Apache-2.0
"""The callers of `load.py` in the threads of a WSGI application.

/request/KEY checks what one request asks for, over and over for some of the seconds of
SECONDS; its answer is JSON. All of the REQUESTS that come at once begin together.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import hornbeam_erlang as erlang
from apps.scenarios.load import Checks, in_thread

SECONDS = float(os.environ.get("SECONDS", "3")) / 3
MAX_WAIT_S = 60.0

_all_are_here = threading.Barrier(int(os.environ.get("REQUESTS", "1")))


def application(
    environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    _all_are_here.wait(MAX_WAIT_S)
    key = environ["PATH_INFO"].split("/")[2]
    number = erlang.state_incr(f"{key}:requests")
    checks = Checks()
    in_thread(key, number, time.monotonic() + SECONDS, checks)
    start_response("200 OK", [("Content-Type", "application/json")])
    answer = {
        "calls": checks.calls,
        "wrong": checks.wrong[:5],
        "thread": threading.current_thread().name,
    }
    return [json.dumps(answer).encode()]
