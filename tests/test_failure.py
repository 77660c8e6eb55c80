# SPDX-License-Identifier: Apache-2.0
"""How exceptions of applications are shown. `is_disconnect` is tested in test_http."""

from __future__ import annotations

from hornbeam._asgi import ClientDisconnected
from hornbeam._failure import MAX_TEXT, describe, format_error, is_disconnect


def fail(error: BaseException) -> BaseException:
    """Raise and catch, with one frame between."""

    def inner() -> None:
        raise error

    try:
        inner()
    except BaseException as exc:
        return exc

    raise AssertionError("it raises")


def test_own_frame_is_left_out() -> None:
    text = format_error(fail(ValueError("boom")))
    assert "in inner" in text
    assert "in fail" not in text
    assert text.endswith("ValueError: boom")


def test_error_that_was_never_raised() -> None:
    assert format_error(ValueError("boom")) == "ValueError: boom"


def test_long_text_is_cut_in_the_middle() -> None:
    text = format_error(fail(ValueError("x" * 3 * MAX_TEXT + "end")))
    assert text.startswith("Traceback")
    assert text.endswith("end")
    assert " characters ..." in text
    assert len(text) < MAX_TEXT + 100


class Unprintable(Exception):
    @property
    def __notes__(self) -> list[str]:
        raise RuntimeError("no notes")


def test_error_that_can_not_be_shown() -> None:
    """Its name is shown at least; Python 3.10 does not look at notes."""
    assert "Unprintable" in format_error(fail(Unprintable("x")))


def test_description() -> None:
    assert describe(ValueError("a\nb")) == "ValueError: a\nb"
    assert describe(KeyError("a")) == "KeyError: 'a'"


def test_circular_causes() -> None:
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    assert not is_disconnect(first)
    second.__cause__ = ClientDisconnected()
    assert is_disconnect(first)
