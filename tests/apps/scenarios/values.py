# SPDX-License-Identifier: Apache-2.0
"""Everything that can cross, and what can't."""

from __future__ import annotations

import math
from typing import Any

from hornbeam_erlang import Atom

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    255,
    256,
    2**31 - 1,
    -(2**31),
    2**63,
    -(2**70),
    2**4000,
    0.0,
    -0.5,
    1e300,
    5e-324,
    "",
    "text",
    "čaj ☕ \U0001f600",
    "a" * 70000,
    b"",
    b"plain",
    b"\x00\xff",
    b"b" * 70000,
    [],
    [1, 2, 3],
    [0] * 300,
    [None, [True, ["x", b"x"]]],
    [300, "mixed", 2.5],
    (),
    (1,),
    (1, (2, (3,))),
    tuple(range(300)),
    {},
    {"a": 1},
    {1: "int", "1": "str", (1,): "tuple", None: "none", False: "false"},
    {"nested": {"deep": [{"x": (1, b"2")}]}},
    {n: str(n) for n in range(100)},
    Atom("ok"),
    [Atom("error"), Atom("undefined_function")],
]

# A binary that comes from Erlang code is text where it can be.
THROUGH_ERLANG: list[tuple[Any, Any]] = [
    (b"plain", "plain"),
    (bytearray(b"\xff"), b"\xff"),
    ({b"k": b"v"}, {"k": "v"}),
]

# Value, type of the error beside EncodeError, beginning of its text.
CAN_NOT_CROSS: list[tuple[Any, type[Exception], str]] = [
    ({1}, TypeError, "value: set is not supported"),
    (object(), TypeError, "value: object is not supported"),
    ({"items": [0, {"price": {1}}]}, TypeError, "value['items'][1]['price']: set is"),
    ([(1, 2j)], TypeError, "value[0][1]: complex is not supported"),
    (math.nan, ValueError, "value: "),
    ([math.inf], ValueError, "value[0]: "),
    ("\ud800", ValueError, "value: "),
    ({"k": 1, b"k": 2}, ValueError, "value: keys"),
]


def is_same(one: Any, other: Any) -> bool:
    """Tell whether two values are equal and of the same types throughout.

    Entries of a dict may come in another order, as Erlang's maps have none.
    """
    if type(one) is not type(other):
        return False

    if isinstance(one, dict):
        return _is_same_set(list(one.items()), list(other.items()))

    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))

    return repr(one) == repr(other)


def _is_same_set(some: list[Any], others: list[Any]) -> bool:
    return sorted(some, key=repr) == sorted(others, key=repr) and all(
        map(is_same, sorted(some, key=repr), sorted(others, key=repr))
    )
