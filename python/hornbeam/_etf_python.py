# SPDX-License-Identifier: Apache-2.0
"""The codec in pure Python: what `_etf_c` does, where that could not be built.

Both pass the same tests, down to the texts of their errors.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

from hornbeam import _etf_tags as tags
from hornbeam._etf_errors import EncodeError
from hornbeam._etf_python_decode import decode, decode_packet
from hornbeam._etf_python_encode import encode, encode_message

__all__ = (
    "CODEC",
    "decode",
    "decode_packet",
    "encode",
    "encode_message",
    "pack_batch",
    "write_some",
)

CODEC = "python"


def pack_batch(messages: Sequence[bytes]) -> bytes:
    """Join encoded messages to one packet, with its length in front.

    Raises:
        TypeError: a message is not bytes.
        EncodeError: the packet is longer than four bytes can tell.
    """
    for message in messages:
        if not isinstance(message, bytes):
            raise TypeError(f"a batch is made of bytes, not {type(message).__name__}")

    if not messages:
        return bytes((0, 0, 0, 2, tags.VERSION, tags.NIL_EXT))

    length = 7 + sum(map(len, messages))

    if length > tags.MAX_LENGTH:
        reason = f"a packet has at most {tags.MAX_LENGTH} bytes, not {length}"
        raise EncodeError(reason, type(messages).__name__, "messages")

    head = struct.pack(">IBBI", length, tags.VERSION, tags.LIST_EXT, len(messages))
    return b"".join((head, *messages, bytes((tags.NIL_EXT,))))


def write_some(descriptor: int, data: bytes | bytearray | memoryview) -> int:
    """Write as much of a packet as a non-blocking pipe takes: the number of bytes.

    The one in C keeps the interpreter while it writes a short one. A thread that gave
    it away would wait for it until another one does, for each packet.

    Raises:
        OSError: as `os.write`.
    """
    return os.write(descriptor, data)
