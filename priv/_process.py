# SPDX-License-Identifier: Apache-2.0
"""Make this process a worker: its descriptors, its signals, its tie to the node."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Final, NoReturn

__all__ = ("leave", "prepare_pipe", "set_up", "settle_collector")

PIPE_BYTES: Final = 1024 * 1024
"""Wanted size of each pipe; Linux gives unprivileged processes up to that much."""

YOUNG_OBJECTS: Final = 10_000
"""Containers that may be made before the garbage collector looks at them.

CPython's 700 is what one turn of a busy event loop makes for its requests, so that each
turn would have a collection, which finds nothing.
"""

TRIM_BYTES: Final = 8 * 1024 * 1024
"""What is free at the end of the heap stays with the process up to this size.

glibc's first 128 KiB are less than the parts of one body: with each of them the heap
would shrink and grow, and all its pages would be new ones.
"""

MMAP_BYTES: Final = 4 * 1024 * 1024
"""What is allocated at once from this size on has pages of its own."""

_INITIAL_THRESHOLD: Final = gc.get_threshold()
_F_SETPIPE_SZ: Final = getattr(fcntl, "F_SETPIPE_SZ", 1031)
_PR_SET_PDEATHSIG: Final = 1
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def set_up() -> None:
    """Call once, before anything of the application is imported."""
    _die_with_parent()
    _secure_standard_descriptors()
    _buffer_by_line()
    _ignore_signals()
    _keep_heap()


def prepare_pipe(descriptor: int) -> None:
    """Keep a pipe from subprocesses, make it non-blocking, and enlarge it if possible.

    Raises:
        OSError: there is no such descriptor.
    """
    os.set_inheritable(descriptor, False)
    os.set_blocking(descriptor, False)

    # No pipe, not Linux, or the user's share of pipe memory is used up: slower, no
    # fault.
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, PIPE_BYTES)


def settle_collector() -> None:
    """Spare the garbage collector work that finds nothing; the application is loaded.

    What was made so far stays, and is not looked at in each full collection. An
    application that has set thresholds of its own, or switched the collector off, keeps
    them.
    """
    if gc.isenabled():
        gc.freeze()

    young, *older = gc.get_threshold()

    if (young, *older) == _INITIAL_THRESHOLD and 0 < young < YOUNG_OBJECTS:
        gc.set_threshold(YOUNG_OBJECTS, *older)


def leave(status: int) -> NoReturn:
    """End the process now: no finalizers, no waiting for threads."""
    for stream in (sys.stdout, sys.stderr):
        # Closed, broken, or None.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()

    os._exit(status)


def _die_with_parent() -> None:
    """Have Linux kill this process when the node's process is gone, also by SIGKILL.

    The end of input tells it as well, but not to a process whose interpreter is stuck
    in a C extension.
    """
    if sys.platform != "linux":
        return

    parent = os.getppid()

    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return

    prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)

    if os.getppid() != parent:
        # It went before the request took hold.
        os._exit(0)


def _keep_heap() -> None:
    """Have glibc keep memory that was freed, where nobody has told it what to do."""
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        # Another C library.
        return

    mallopt(_M_TRIM_THRESHOLD, TRIM_BYTES)
    mallopt(_M_MMAP_THRESHOLD, MMAP_BYTES)


def _secure_standard_descriptors() -> None:
    """Make stdin empty, and have 0 to 2 be open.

    A node started from a terminal would share its input with the application. If it was
    started without one of them, the next file that the application opens would get that
    number, and what a C library prints.
    """
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)

    for descriptor in (1, 2):
        if not _is_open(descriptor):
            os.dup2(null, descriptor)

    if null > 2:
        os.close(null)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False

    return True


def _buffer_by_line() -> None:
    for stream in (sys.stdout, sys.stderr):
        # None where the node has no such stream itself.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)


def _ignore_signals() -> None:
    """Leave Ctrl-C and SIGTERM to the node, which tells this process to stop in order.

    By handlers and not by SIG_IGN, which programs that the application starts would
    inherit. A fork of this process is no worker and gets the defaults back. One that
    comes to it before that waits: a pool of processes that ends as its last one begins
    would else wait for this one for ever.
    """
    masks = threading.local()

    for number in _DEFAULTS:
        signal.signal(number, _do_nothing)

    def hold() -> None:
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _DEFAULTS)

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def restore() -> None:
        for number, default in _DEFAULTS.items():
            if signal.getsignal(number) is _do_nothing:
                signal.signal(number, default)

        release()

    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=restore)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass


_DEFAULTS: Final[Mapping[int, Callable[..., object] | signal.Handlers]] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}
