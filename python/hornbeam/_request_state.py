# SPDX-License-Identifier: Apache-2.0
"""What a request has in hand: its fields, their defaults, and its usual response in C.

The class in `_http_c` makes these for the price of the memory, and knows the usual way
of a response: a start with checked headers, and the whole body. For all else, and where
the extension was not built, `_take_usual` gives None, and the callers' Python code
decides. So there is one place for each rule.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from hornbeam._usual import load_usual

if TYPE_CHECKING:
    from hornbeam._asgi import Message, Scope
    from hornbeam._http_file import FileOffer
    from hornbeam._loan import Loan
    from hornbeam._runtime import Task, Timer, Waiter

__all__ = ("RequestState",)

# Phases of a response: `_http_response` says what they are. Numbers, as C has them.
START: Final = 0
HELD: Final = 1
BODY: Final = 2
ENDING: Final = 3
TRAILERS: Final = 4
COMPLETE: Final = 5
BROKEN: Final = 6


class PythonRequestState:
    """The fields of a request; those of its response come first."""

    __slots__ = (
        "_cancelled_s",
        "_credit_due_bytes",
        "_file",
        "_has_trailers",
        "_host",
        "_is_body_complete",
        "_is_cancelled",
        "_is_gone",
        "_is_head_request",
        "_is_head_sent",
        "_is_reported",
        "_is_started",
        "_is_stopping",
        "_is_waiting_told",
        "_left_bytes",
        "_loan",
        "_pending",
        "_phase",
        "_receivers",
        "_received_bytes",
        "_request_id",
        "_response_headers",
        "_response_host",
        "_scope",
        "_status",
        "_task",
        "_timer",
        "_trailers",
        "_unacknowledged_bytes",
        "_unread",
    )

    # What the subclasses know better than this module.
    _host: Any
    _pending: deque[Any] | None
    _response_headers: list[tuple[bytes, bytes]]
    _response_host: Any

    def _begin(
        self, host: Any, request_id: int, scope: Scope, body: bytes, more: bool, /
    ) -> None:
        """Set all fields, for a request that has come; the first call of all."""
        self._host = self._response_host = host
        self._request_id = request_id
        self._scope = scope
        self._begin_response()

        self._task: Task | None = None
        self._timer: Timer | None = None
        self._is_started = False
        self._is_cancelled = False
        # When, by the monotonic clock, and whether a warning was logged since.
        self._cancelled_s = 0.0
        self._is_reported = False
        self._is_stopping = False
        self._receivers: list[Waiter] | None = None

        self._unread = [body] if body or not more else []
        self._is_body_complete = not more
        self._is_waiting_told = False
        self._received_bytes = len(body)
        self._credit_due_bytes = 0

    def _begin_response(self) -> None:
        # The method now: the scope is the application's, which may change it.
        self._is_head_request = self._scope.get("method") == "HEAD"
        # The client has gone, or has its answer already.
        self._is_gone = False
        self._phase: int = START
        self._status = 0
        self._is_head_sent = False
        self._has_trailers = False
        self._trailers: list[tuple[bytes, bytes]] | None = None
        # How much body is missing to the content-length; None if that is not checked.
        self._left_bytes: int | None = None
        self._unacknowledged_bytes = 0
        self._pending = None
        # Whose answer the application waits for.
        self._file: FileOffer | None = None
        # The client's socket, if it was asked for.
        self._loan: Loan | None = None

    def _take_usual(
        self, message: Message, names: dict[bytes, bytes], /
    ) -> bytes | None:
        """Take what an application sends, if it is the usual and in order.

        Args:
            message: of the application.
            names: names of headers as given, and in lower case.

        Returns:
            What is to be posted, nothing for the start of a response; None: the message
            was not taken.
        """
        return None


if TYPE_CHECKING:
    RequestState = PythonRequestState
else:
    RequestState = load_usual("RequestState") or PythonRequestState
