# SPDX-License-Identifier: Apache-2.0
"""Tags of the External Term Format and the limits of the codec.

`_etf_c.h` repeats them for the C extension; a test compares the limits of the two.
"""

from typing import Final

VERSION: Final = 131

NEW_FLOAT_EXT: Final = 70
BIT_BINARY_EXT: Final = 77
COMPRESSED: Final = 80
ATOM_CACHE_REF: Final = 82
NEW_PID_EXT: Final = 88
NEW_PORT_EXT: Final = 89
NEWER_REFERENCE_EXT: Final = 90
SMALL_INTEGER_EXT: Final = 97
INTEGER_EXT: Final = 98
FLOAT_EXT: Final = 99
ATOM_EXT: Final = 100
REFERENCE_EXT: Final = 101
PORT_EXT: Final = 102
PID_EXT: Final = 103
SMALL_TUPLE_EXT: Final = 104
LARGE_TUPLE_EXT: Final = 105
NIL_EXT: Final = 106
STRING_EXT: Final = 107
LIST_EXT: Final = 108
BINARY_EXT: Final = 109
SMALL_BIG_EXT: Final = 110
LARGE_BIG_EXT: Final = 111
NEW_FUN_EXT: Final = 112
EXPORT_EXT: Final = 113
NEW_REFERENCE_EXT: Final = 114
SMALL_ATOM_EXT: Final = 115
MAP_EXT: Final = 116
FUN_EXT: Final = 117
ATOM_UTF8_EXT: Final = 118
SMALL_ATOM_UTF8_EXT: Final = 119
V4_PORT_EXT: Final = 120
LOCAL_EXT: Final = 121

MAX_DEPTH: Final = 512
"""Containers inside one another, for both directions."""

MAX_ATOM_CHARACTERS: Final = 255
"""Erlang's own limit."""

MAX_CACHED_ATOMS: Final = 4096
"""Atoms that are kept for good; further ones live as long as they are used."""

MAX_TUPLE_ARITY: Final = 2**24 - 1
"""Erlang's own limit."""

MAX_INTEGER_BYTES: Final = 524_287
"""Of an integer's absolute value; the lowest limit of OTP 25 to 28, which take at most
4,194,303 bits."""

MAX_LENGTH: Final = 2**32 - 1
"""What four bytes can count: bytes of a binary or packet, elements of a list or map."""

MAX_REFERENCE_WORDS: Final = 5
"""Words of a reference's id."""

MAX_UNCOMPRESSED_BYTES: Final = 64 * 1024 * 1024
"""What a compressed term may unfold to, so that a small packet can't fill memory."""
