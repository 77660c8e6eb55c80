# SPDX-License-Identifier: Apache-2.0
"""The files of a WSGI request: its body, and the stream of its errors."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol, TypeAlias, cast

from hornbeam._asgi import ClientDisconnected

__all__ = ("ErrorLog", "FileWrapper", "RequestBody")

MAX_LINE_CHARACTERS: Final = 65536
"""An unfinished line of `wsgi.errors` is written when it gets that long."""

DEFAULT_BLOCK_BYTES: Final = 65536

WriteLog: TypeAlias = Callable[[str], None]


class _BodySource(Protocol):
    def take_body(self, limit_bytes: int) -> bytes:
        """Wait for body, return at most that much of it; `b""` at its end."""


class RequestBody(io.RawIOBase):
    """A body that is still arriving, for an `io.BufferedReader` above it.

    Args:
        source: where it comes from; asked from the thread that reads.
    """

    def __init__(self, source: _BodySource) -> None:
        super().__init__()
        self._source = source
        self._is_cut = False

    def readable(self) -> bool:
        return True

    # The buffer's type is `WriteableBuffer`, which typing has no name for.
    def readinto(self, buffer: Any) -> int:
        """Wait for body, and fill the buffer with what there is.

        Raises:
            ClientDisconnected: the end of the body will not come, for the client has
                gone, has its answer, or the worker is to end. So it stays: what a
                read had got by then is lost with it, and nothing may seem to follow
                what was before.
        """
        if self._is_cut:
            raise ClientDisconnected("the body ended too early for a read before")

        view = memoryview(buffer).cast("B")

        try:
            data = self._source.take_body(len(view))
        except ClientDisconnected:
            self._is_cut = True
            raise

        view[: len(data)] = data
        return len(data)


class ErrorLog:
    """`wsgi.errors`: whole lines go to the log.

    Args:
        write_log: writes a line, without its end.
    """

    __slots__ = ("_rest", "_write_log")

    def __init__(self, write_log: WriteLog) -> None:
        self._write_log = write_log
        self._rest = ""

    def write(self, text: str) -> int:
        """Take text; what comes after its last line end waits for the rest of the line.

        Raises:
            TypeError: it is no str.
        """
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors takes str, not {type(text).__name__}")

        *lines, self._rest = (self._rest + text).split("\n")

        for line in lines:
            self._write_log(line)

        if len(self._rest) >= MAX_LINE_CHARACTERS:
            self.flush()

        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Take several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write a line that has no end yet."""
        rest, self._rest = self._rest, ""

        if rest:
            self._write_log(rest)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class FileWrapper:
    """`wsgi.file_wrapper`: a file as an iterable of blocks (PEP 3333).

    Args:
        file: anything with `read(size)`; if it has `close()`, that is called.
        block_bytes: how much to read at once.
    """

    __slots__ = ("block_bytes", "file")

    def __init__(self, file: _Readable, block_bytes: int = DEFAULT_BLOCK_BYTES) -> None:
        self.file = file
        self.block_bytes = block_bytes

    def __iter__(self) -> Iterator[bytes]:
        while block := self.file.read(self.block_bytes):
            yield block

    def locate(self) -> tuple[str, int, int] | None:
        """Tell where the rest of the file lies, if the node can read it there.

        Returns:
            Its path, the offset and how many bytes follow; None if it is no regular
            file, or no longer the one of its name.
        """
        try:
            path = os.path.abspath(os.fsdecode(self.file.name))  # type: ignore[attr-defined]  # real files have it
            opened = os.fstat(self.file.fileno())  # type: ignore[attr-defined]  # so
            named = os.stat(path)
            offset = self.file.tell()  # type: ignore[attr-defined]  # so
        except (AttributeError, OSError, TypeError, ValueError):
            return None

        # It may be a pipe, renamed, deleted, or compressed: what is read is then not
        # what lies there.
        if not stat.S_ISREG(opened.st_mode) or not os.path.samestat(opened, named):
            return None

        if not isinstance(self.file, io.BufferedReader | io.FileIO):
            return None

        return path, offset, opened.st_size - offset

    def close(self) -> None:
        """Close the file."""
        close = getattr(self.file, "close", None)

        if close is not None:
            cast("Callable[[], None]", close)()
