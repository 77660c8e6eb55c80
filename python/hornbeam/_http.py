# SPDX-License-Identifier: Apache-2.0
"""One HTTP request: ASGI on one side, messages of the protocol on the other.

Pure but for what its host does: it posts messages, makes waiters and runs the task. The
node's messages come in through `add_body`, `acknowledge`, `disconnect` and `cancel`, by
the event loop. The response half is in `_http_response`, the task in `_session`.

The methods `send` and `receive` suspend only where they have to wait.
"""

from __future__ import annotations

from hornbeam import _protocol as protocol
from hornbeam._asgi import Message, Scope
from hornbeam._session import Session, SessionHost

__all__ = ("HttpSession",)


class HttpSession(Session):
    """One request of one application.

    Args:
        host: what it shares with others.
        request_id: the node's number for it.
        scope: its ASGI scope.
        body: what is there of the request's body.
        more: whether more of it will come.
    """

    __slots__ = ()

    def __init__(
        self, host: SessionHost, request_id: int, scope: Scope, body: bytes, more: bool
    ) -> None:
        self._begin(host, request_id, scope, body, more)

    def add_body(self, part: bytes, more: bool) -> None:
        """Take a further part of the request's body."""
        if part or not more:
            self._unread.append(part)

        self._received_bytes += len(part)
        self._is_body_complete = not more
        self._is_waiting_told = False
        self._wake_receivers()

    @property
    def _where(self) -> str:
        return f"{self._scope.get('method')} {self._scope.get('path')}"

    @property
    def _progress(self) -> str:
        if self._is_complete:
            return "after the response was complete"

        return f"{'after' if self._is_head_sent else 'before'} the response started"

    def _receive_nowait(self) -> Message | None:
        if self._is_complete:
            return {"type": "http.disconnect"}

        if self._unread:
            return self._take_body()

        if self._is_gone:
            return {"type": "http.disconnect"}

        if not self._is_body_complete and not self._is_waiting_told:
            self._is_waiting_told = True
            self._send_credit()
            self._host.post(protocol.waiting(self._request_id, self._received_bytes))

        return None

    def _take_body(self) -> Message:
        unread = self._unread
        body = unread[0] if len(unread) == 1 else b"".join(unread)
        unread.clear()

        if not self._is_body_complete:
            self._credit_due_bytes += len(body)

            if self._credit_due_bytes * 4 >= self._host.window_bytes:
                self._send_credit()

        return {
            "type": "http.request",
            "body": body,
            "more_body": not self._is_body_complete,
        }

    def _send_credit(self) -> None:
        if self._credit_due_bytes and not self._is_gone:
            self._host.post(protocol.credit(self._request_id, self._credit_due_bytes))

        self._credit_due_bytes = 0
