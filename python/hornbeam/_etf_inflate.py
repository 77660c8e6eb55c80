# SPDX-License-Identifier: Apache-2.0
"""Compressed terms, for both codecs."""

from __future__ import annotations

from hornbeam import _etf_tags as tags
from hornbeam._etf_errors import DecodeError, short_of

# Where the tag of a compressed term is: only the version byte is before it.
_OFFSET = 1


def inflate(data: bytes) -> bytes:
    """Unfold a compressed term.

    Args:
        data: what follows the tag: the size unfolded, and a zlib stream.

    Raises:
        DecodeError: it is broken, not of the size that it tells, or over the limit.
    """
    if len(data) < 4:
        raise short_of(_OFFSET, 4, len(data))

    size = int.from_bytes(data[:4], "big")

    if size > tags.MAX_UNCOMPRESSED_BYTES:
        limit = tags.MAX_UNCOMPRESSED_BYTES
        raise DecodeError(
            f"a compressed term unfolds to at most {limit} bytes, not {size}", _OFFSET
        )

    try:
        # Here, as a build of Python may lack it, and Erlang compresses only when asked
        # to.
        import zlib
    except ImportError:
        raise DecodeError("this Python has no zlib for compressed terms", 1) from None

    stream = zlib.decompressobj()

    try:
        term = stream.decompress(data[4:], size + 1)
    except zlib.error as error:
        raise DecodeError(f"broken compressed term: {error}", _OFFSET) from None

    if len(term) != size or not stream.eof:
        raise DecodeError(
            f"the compressed term does not unfold to {size} bytes", _OFFSET
        )

    if stream.unused_data:
        extra = len(stream.unused_data)
        raise DecodeError(f"{extra} bytes follow the compressed term", _OFFSET)

    return term
