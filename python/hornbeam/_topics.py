# SPDX-License-Identifier: Apache-2.0
"""Topics and patterns of topics. Pure; `tests/vectors/topics.json` has examples.

A topic is text in segments, which `:` or `/` separate. A pattern is a topic in which a
segment `*` stands for any one segment, and a last segment `#` for the rest, or nothing.
A pattern without these matches the very same topic alone.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ("check_pattern", "check_topic", "is_pattern", "matches", "split")

ONE: Final = "*"
REST: Final = "#"

_split: Final = re.compile("[:/]").split


def split(topic: str) -> tuple[str, ...]:
    """Return the segments of a topic or pattern."""
    return tuple(_split(topic))


def is_pattern(topic: str) -> bool:
    """Tell whether a segment stands for others."""
    return any(segment in (ONE, REST) for segment in split(topic))


def matches(pattern: tuple[str, ...], topic: tuple[str, ...]) -> bool:
    """Tell whether a pattern with wildcards matches a topic; both are split."""
    if pattern[-1] == REST:
        pattern = pattern[:-1]
        topic = topic[: len(pattern)]

    return len(pattern) == len(topic) and all(
        wanted in (ONE, segment) for wanted, segment in zip(pattern, topic, strict=True)
    )


def check_topic(topic: object) -> None:
    """Check that something can be published to.

    Raises:
        TypeError: it is no text.
        ValueError: it is a pattern.
    """
    _check_text(topic, "topic")

    if is_pattern(str(topic)):
        raise ValueError(
            f"topic {topic!r} has a segment '*' or '#'; only subscribe() takes patterns"
        )


def check_pattern(pattern: object) -> None:
    """Check that something can be subscribed to.

    Raises:
        TypeError: it is no text.
        ValueError: `#` is not its last segment.
    """
    _check_text(pattern, "topic")

    if REST in split(str(pattern))[:-1]:
        raise ValueError(f"pattern {pattern!r} has '#' before its last segment")


def _check_text(topic: object, name: str) -> None:
    if not isinstance(topic, str):
        raise TypeError(f"a {name} is a str, not {type(topic).__name__}")

    if not topic:
        raise ValueError(f"a {name} is not empty")
