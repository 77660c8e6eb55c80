# SPDX-License-Identifier: Apache-2.0
"""The External Term Format codec: the C extension if it was built, else pure Python.

The environment variable `HORNBEAM_CODEC`, `c` or `python`, asks for one of them. It is
read once, when this module is imported.

Values and terms:

    Python                          Erlang                        back in Python
    None, True, False               undefined, true, false        the same
    int, finite float               integer, float                the same
    str                             binary, UTF-8                 str
    bytes, bytearray, memoryview    binary                        bytes
    list, tuple, dict               list, tuple, map              the same
    the types of `_terms`           their terms                   the same

A subclass of one of these types counts as its base. A binary made by Erlang comes as
str if it is UTF-8, else as bytes; bytes made by Python carry a mark, which Erlang does
not see, and stay bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Final, TypeAlias

__all__ = (
    "CODEC",
    "decode",
    "decode_packet",
    "encode",
    "encode_message",
    "load_codec",
    "pack_batch",
    "write_some",
)

ENVIRONMENT_VARIABLE: Final = "HORNBEAM_CODEC"

_BytesLike: TypeAlias = bytes | bytearray | memoryview


def load_codec(environ: Mapping[str, str]) -> ModuleType:
    """Import the codec that the environment asks for, or the best that is there.

    Raises:
        ImportError: the C extension was asked for and has not been built.
        ValueError: the variable holds something else than `c` or `python`.
    """
    wanted = environ.get(ENVIRONMENT_VARIABLE, "")

    if wanted not in ("", "c", "python"):
        raise ValueError(
            f"{ENVIRONMENT_VARIABLE} is {wanted!r}; expected 'c', 'python' or nothing"
        )

    if wanted != "python":
        try:
            return import_module("hornbeam._etf_c")
        except ImportError as error:
            if wanted == "c":
                raise ImportError(
                    f"{ENVIRONMENT_VARIABLE} is 'c', but the C extension of the codec"
                    f" can't be imported: {error}"
                ) from error

    return import_module("hornbeam._etf_python")


_codec = load_codec(os.environ)

CODEC: Final[str] = _codec.CODEC
"""Which codec this is: `c` or `python`."""

encode: Final[Callable[[object], bytes]] = _codec.encode
encode_message: Final[Callable[[object], bytes]] = _codec.encode_message
pack_batch: Final[Callable[[Sequence[bytes]], bytes]] = _codec.pack_batch
decode: Final[Callable[[_BytesLike], object]] = _codec.decode
decode_packet: Final[Callable[[_BytesLike], list[object]]] = _codec.decode_packet
write_some: Final[Callable[[int, _BytesLike], int]] = _codec.write_some
