# SPDX-License-Identifier: Apache-2.0
"""A process of the node's that watches an application's files and tells of changes.

It talks to the node over the descriptors of a worker, in packets of one term each:

    {watch, Settings}            node: the first and only message; `dirs`, `include`,
                                 `exclude`, and `seen`, the fingerprint of the files
                                 as a predecessor knew them, or undefined
    {watching, Facts}            changes will be told from now on; `by`, `why`,
                                 `missing`, `seen`
    {changed, Facts}             `files` (some of them), `count`, `seen`

Whatever wakes it, the library watchfiles or its own clock, it then looks at the files
themselves, so that both find the same.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Final, NoReturn, cast

from hornbeam import _etf, _process
from hornbeam._terms import Atom
from hornbeam._watch import Patterns, Snapshot, Tree, changed_paths, fingerprint

__all__ = ("main",)

READ_DESCRIPTOR: Final = 3
WRITE_DESCRIPTOR: Final = 4
EXIT_USAGE: Final = 64
POLL_S: Final = 0.5
# Polling takes at most that share of a processor, whatever the number of files.
_POLL_SHARE: Final = 0.05
# Files that are being written are looked at until they stay as they are.
SETTLE_S: Final = 0.05
_MAX_SETTLE_ROUNDS: Final = 40
# For watchfiles: how long changes are gathered, and how long nothing may happen.
_GATHER_MS: Final = 200
_TIMEOUT_MS: Final = 200
MAX_NAMED_FILES: Final = 5


def main() -> NoReturn:
    """Watch until the node has gone."""
    try:
        os.fstat(READ_DESCRIPTOR)
        os.fstat(WRITE_DESCRIPTOR)
    except OSError:
        _process.leave(EXIT_USAGE)

    _process.set_up()

    for descriptor in (READ_DESCRIPTOR, WRITE_DESCRIPTOR):
        os.set_inheritable(descriptor, False)

    settings = _receive_settings()
    threading.Thread(target=_leave_with_node, daemon=True).start()
    _watch(settings)


def _receive_settings() -> Mapping[Atom, object]:
    message = _etf.decode(_read(struct.unpack(">I", _read(4))[0]))
    head, settings = cast(tuple[Atom, Mapping[Atom, object]], message)
    assert head == Atom("watch")
    return settings


def _read(count: int) -> bytes:
    data = b""

    while len(data) < count:
        part = os.read(READ_DESCRIPTOR, count - len(data))

        if not part:
            _process.leave(0)

        data += part

    return data


def _leave_with_node() -> NoReturn:
    """Wait for the end of input: nothing else comes."""
    while os.read(READ_DESCRIPTOR, 4096):
        pass

    _process.leave(0)


def _watch(settings: Mapping[Atom, object]) -> NoReturn:
    tree = Tree(
        list(map(os.fsdecode, cast(list[str | bytes], settings[Atom("dirs")]))),
        Patterns(
            tuple(cast(list[str], settings[Atom("include")])),
            tuple(cast(list[str], settings[Atom("exclude")])),
        ),
    )
    watch = _Watch(tree, cast("str | None", settings[Atom("seen")]))

    try:
        watch.follow("watchfiles", "", _notice(tree))
    except ImportError as exc:
        why = f"watchfiles can't be imported: {exc}"
    except Exception as exc:  # whatever the library finds to complain of
        why = f"watchfiles failed: {exc}"

    watch.follow("polling", why, _poll(tree))
    raise AssertionError("polling has no end")


class _Watch:
    """What is known of the files, and what was told.

    Args:
        tree: the files.
        known: what a predecessor knew, which has died since.
    """

    def __init__(self, tree: Tree, known: str | None) -> None:
        self._tree = tree
        self._last = tree.scan()
        self._known = known

    def follow(self, by: str, why: str, wakes: Iterator[None]) -> None:
        """Look at the files whenever something wakes, and tell what has changed."""
        next(wakes)
        _tell(
            "watching",
            by=Atom(by),
            why=why,
            missing=[each for each in self._tree.folders if not os.path.isdir(each)],
            seen=fingerprint(self._last),
        )

        if self._known not in (None, fingerprint(self._last)):
            _tell_changed([], self._last)

        self._known = None
        self._look()

        for _ in wakes:
            self._look()

    def _look(self) -> None:
        now = self._tree.scan()

        if now == self._last:
            return

        for _ in range(_MAX_SETTLE_ROUNDS):
            time.sleep(SETTLE_S)
            before, now = now, self._tree.scan()

            if now == before:
                break

        # What came and went meanwhile is none.
        if changed := changed_paths(self._last, now):
            self._last = now
            _tell_changed(changed, now)


# What wakes. The first time each does when it would notice a change.


def _poll(tree: Tree) -> Iterator[None]:
    started = time.monotonic()
    tree.scan()
    pause_s = max(POLL_S, (time.monotonic() - started) / _POLL_SHARE)

    while True:
        yield
        time.sleep(pause_s)


def _notice(tree: Tree) -> Iterator[None]:
    """Wake when the system tells of a change.

    Raises:
        Exception: whatever the library raises, for instance an OSError where the system
            has no more watches to give.
    """
    import watchfiles

    while True:
        folders = _identify(tree)
        changes_and_pauses = watchfiles.watch(
            *folders,
            watch_filter=lambda _, path: tree.may_concern(path),
            debounce=_GATHER_MS,
            rust_timeout=_TIMEOUT_MS,
            yield_on_timeout=True,
            stop_event=_Replaced(tree, folders),
            raise_interrupt=False,
        )

        for number, changes in enumerate(changes_and_pauses):
            if changes or number == 0:
                yield


def _identify(tree: Tree) -> dict[str, tuple[int, int]]:
    """Tell which of the folders are there, and which ones these are."""
    found = {}

    for folder in tree.folders:
        try:
            facts = os.stat(folder)
        except OSError:
            continue

        found[folder] = (facts.st_dev, facts.st_ino)

    return found


class _Replaced:
    """A stop event for watchfiles, which would hold on to folders that are no more."""

    def __init__(self, tree: Tree, folders: Mapping[str, tuple[int, int]]) -> None:
        self._tree = tree
        self._folders = folders

    def is_set(self) -> bool:
        return _identify(self._tree) != self._folders


# What is told.


def _tell_changed(paths: list[str], now: Snapshot) -> None:
    _tell(
        "changed",
        files=paths[:MAX_NAMED_FILES],
        count=len(paths),
        seen=fingerprint(now),
    )


def _tell(head: str, **facts: object) -> None:
    message = (Atom(head), {Atom(name): _as_term(fact) for name, fact in facts.items()})
    term = _etf.encode(message)
    data = struct.pack(">I", len(term)) + term

    try:
        while data:
            data = data[os.write(WRITE_DESCRIPTOR, data) :]
    except BrokenPipeError:
        _process.leave(0)


def _as_term(fact: object) -> object:
    # Names of files need not be text.
    if isinstance(fact, str):
        return os.fsencode(fact)

    return list(map(_as_term, fact)) if isinstance(fact, list) else fact
