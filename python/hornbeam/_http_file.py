# SPDX-License-Identifier: Apache-2.0
"""A response's body that is a file: what an application may name, and what comes of it.

The node opens and sends the file. It looks at it too, and not this worker: a look at a
file may block, and what is sent is what the node has opened, not what was there before.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from hornbeam._asgi import ContentLengthMismatch, Message
from hornbeam._runtime import Waiter

__all__ = ("FileOffer", "file_path")

_NOT_REGULAR: Final = "not_regular"
_SIZE: Final = "size"


def file_path(message: Message) -> bytes:
    """Return the path of an `http.response.pathsend`, absolute.

    Raises:
        TypeError, ValueError: it is no path.
    """
    path = message.get("path")

    if not isinstance(path, str | bytes | os.PathLike):
        shown = "nothing" if path is None else type(path).__name__
        raise TypeError(f"path is a str, bytes or os.PathLike, not {shown}")

    encoded = os.fsencode(path)

    if not encoded or b"\0" in encoded:
        raise ValueError(f"path is the path of a file, not {path!r}")

    # Frameworks pass on what their users wrote. The node has a directory of its own.
    return os.path.join(os.getcwdb(), encoded)


class FileOffer:
    """A file that the node was asked to send.

    Args:
        path: its absolute path.
        wanted_bytes: the length that it must have, if any.
        waiter: set when the node has answered, or the client has gone.
    """

    __slots__ = ("error", "is_opened", "path", "waiter", "wanted_bytes")

    def __init__(self, path: bytes, wanted_bytes: int | None, waiter: Waiter) -> None:
        self.path = path
        self.wanted_bytes = wanted_bytes
        self.waiter = waiter
        self.is_opened = False
        self.error: Exception | None = None

    def open(self) -> None:
        """Note that the node has it: it will be sent, whatever becomes of its name."""
        self.is_opened = True
        self.waiter.set()

    def refuse(self, reason: str, size_bytes: int) -> None:
        """Note that the node can't send it."""
        self.error = self._make_error(reason, size_bytes)
        self.waiter.set()

    def _make_error(self, reason: str, size_bytes: int) -> Exception:
        path = os.fsdecode(self.path)

        if reason == _SIZE:
            return ContentLengthMismatch(
                f"{path} has {size_bytes} bytes, content-length leaves "
                f"{self.wanted_bytes} for it"
            )

        if reason == _NOT_REGULAR:
            return OSError(errno.EINVAL, "is neither a file nor a folder", path)

        # The runtime's names are those of POSIX, in lower case. OSError gives the
        # subclass of the number, like FileNotFoundError.
        number = getattr(errno, reason.upper(), errno.EIO)
        return OSError(number, os.strerror(number), path)
