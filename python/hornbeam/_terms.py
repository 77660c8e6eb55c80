# SPDX-License-Identifier: Apache-2.0
"""Erlang terms that Python has no type of its own for, and the errors of the codec.

All of them are immutable values: equal by what they hold, hashable if their parts are.

* `Atom`: an atom other than `undefined`, `true` and `false`, which are None and bools.
* `Pid`, `Reference`, `Port`, `ExternalFun`, `Fun`: identifiers and functions. Python
  can keep, compare and show them, and send them back exactly as they came.
* `BitString`: bits that don't fill whole bytes.
* `ImproperList`: a list whose tail is not a list.
* `FrozenList`, `FrozenMap`: a list or map inside a map's key, where Python needs
  something hashable. They go back to Erlang as list and map.
"""

from hornbeam._etf_errors import DecodeError, EncodeError
from hornbeam._terms_atom import Atom
from hornbeam._terms_collections import BitString, FrozenList, FrozenMap, ImproperList
from hornbeam._terms_opaque import ExternalFun, Fun, Pid, Port, Reference

__all__ = (
    "Atom",
    "BitString",
    "DecodeError",
    "EncodeError",
    "ExternalFun",
    "FrozenList",
    "FrozenMap",
    "Fun",
    "ImproperList",
    "Pid",
    "Port",
    "Reference",
)
