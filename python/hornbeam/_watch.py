# SPDX-License-Identifier: Apache-2.0
"""Which files of an application matter to a reload, and what has become of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, TypeAlias

__all__ = ("Patterns", "Snapshot", "Tree", "changed_paths", "fingerprint")

Snapshot: TypeAlias = Mapping[str, tuple[int, int, int]]
"""For each file: time of its last change in ns, size, inode."""

_ALWAYS_INCLUDED: Final = ("*.py",)
# What Emacs' flycheck puts beside a file for a moment.
_NEVER_INCLUDED: Final = ("flycheck_*",)
_NEVER_ENTERED: Final = frozenset({"__pycache__", "node_modules", "site-packages"})
# Stands in the folder of a virtual environment.
_ENVIRONMENT_MARK: Final = "pyvenv.cfg"


@dataclass(frozen=True, slots=True)
class Patterns:
    """Which files are taken: by name, or by path where a pattern has a slash."""

    include: tuple[str, ...] = ()
    """Beside `*.py`."""
    exclude: tuple[str, ...] = ()
    """Files and folders; wins."""

    def takes_file(self, path: str) -> bool:
        """Tell whether a file matters; its path is relative to the watched folder."""
        if _matches(path, self.exclude) or _matches(path, _NEVER_INCLUDED):
            return False

        included = (*_ALWAYS_INCLUDED, *self.include)

        # As in a shell: a hidden file is taken by a pattern with a dot alone.
        if os.path.basename(path).startswith("."):
            included = tuple(each for each in self.include if _is_of_hidden(each))

        return _matches(path, included)

    def enters_folder(self, path: str) -> bool:
        """Tell whether a folder may have such files; relative as well."""
        name = os.path.basename(path)
        is_usual = not name.startswith(".") and name not in _NEVER_ENTERED
        return is_usual and not _matches(path, self.exclude)


def _is_of_hidden(pattern: str) -> bool:
    return pattern.rpartition("/")[2].startswith(".")


def _matches(path: str, patterns: Sequence[str]) -> bool:
    name = os.path.basename(path)
    return any(
        fnmatchcase(path if "/" in pattern.rstrip("/") else name, pattern.rstrip("/"))
        for pattern in patterns
    )


class Tree:
    """The files below some folders that are taken.

    Args:
        folders: absolute; one that is not there is empty.
        patterns: which files.
    """

    def __init__(self, folders: Sequence[str], patterns: Patterns) -> None:
        self.folders = tuple(dict.fromkeys(map(os.path.realpath, folders)))
        self._patterns = patterns

    def scan(self) -> Snapshot:
        """Look at all of them."""
        found: dict[str, tuple[int, int, int]] = {}

        for folder in self.folders:
            for entry in self._walk(folder, "", set()):
                try:
                    facts = entry.stat()
                except OSError:
                    # It has just gone, or is a link that leads nowhere.
                    continue

                found[entry.path] = (facts.st_mtime_ns, facts.st_size, facts.st_ino)

        return found

    def may_concern(self, path: str) -> bool:
        """Tell whether a change of that path is a reason to look.

        Folders are, and what is not there any more, which may have been one.
        """
        for folder in self.folders:
            if path.startswith(os.path.join(folder, "")):
                relative = os.path.relpath(path, folder)

                if self._is_in_reach(relative) and (
                    self._patterns.takes_file(relative) or not os.path.isfile(path)
                ):
                    return True

        return path in self.folders

    def _is_in_reach(self, path: str) -> bool:
        parents = path.split(os.sep)[:-1]
        return all(
            self._patterns.enters_folder(os.path.join(*parents[: depth + 1]))
            for depth in range(len(parents))
        )

    def _walk(
        self, folder: str, relative: str, above: set[tuple[int, int]]
    ) -> Iterator[os.DirEntry[str]]:
        try:
            facts = os.stat(folder)

            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError:
            return

        identity = (facts.st_dev, facts.st_ino)
        is_environment = any(entry.name == _ENVIRONMENT_MARK for entry in entries)

        # A link that leads upwards would have no end.
        if identity in above or (relative and is_environment):
            return

        for entry in entries:
            path = os.path.join(relative, entry.name)

            if not _is_folder(entry):
                if self._patterns.takes_file(path):
                    yield entry
            elif self._patterns.enters_folder(path):
                yield from self._walk(entry.path, path, above | {identity})


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def changed_paths(before: Snapshot, now: Snapshot) -> list[str]:
    """Name what was changed, added or removed, in order."""
    return sorted({path for path, _ in set(before.items()) ^ set(now.items())})


def fingerprint(snapshot: Snapshot) -> str:
    """Make a short text that is another one after a change."""
    # Names need not be text.
    text = repr(sorted(snapshot.items())).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()
