# SPDX-License-Identifier: Apache-2.0
"""A WebSocket on a stream of HTTP/2 (RFC 8441), for short messages."""

from __future__ import annotations

from types import TracebackType

from e2e.http2 import Client

_TEXT = 1
_CLOSE = 8
# The mask changes nothing: it is zero.
_MASKED = 0x80
_NO_MASK = bytes(4)
_MAX_SHORT = 125


class WebSocket:
    """Opens one, on a connection of its own.

    Args:
        url: of the server.
        path: to open.
    """

    def __init__(self, url: str, path: str) -> None:
        self._client = client = Client(url)
        # Not before the server has said so, and knows that it was heard.
        client.pump(
            lambda: client.h2.remote_settings.enable_connect_protocol == 1,
            "WebSockets are offered",
        )
        headers = [(":protocol", "websocket"), ("sec-websocket-version", "13")]
        self._id = self._client.request(
            path, method="CONNECT", headers=headers, ends=False
        )
        self._stream = self._client.streams[self._id]
        self._client.pump(lambda: bool(self._stream.headers), "the handshake")
        assert self._stream.status == 200

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.socket.close()

    def send(self, text: str) -> None:
        self._send(_TEXT, text.encode())

    def take(self) -> str:
        """The next message."""
        opcode, payload = self._read()
        assert opcode == _TEXT, (opcode, payload)
        return payload.decode()

    def close(self, code: int = 1000) -> None:
        self._send(_CLOSE, code.to_bytes(2, "big"))

    def closing(self) -> int:
        """The code of the close frame, which is next; it is answered if need be."""
        opcode, payload = self._read()
        assert opcode == _CLOSE, (opcode, payload)
        code = int.from_bytes(payload[:2], "big")

        if not self._stream.is_over:
            self.close(code)

        self._client.finish(self._id)
        assert self._stream.reset in (None, "NO_ERROR", "CANCEL")
        return code

    def _send(self, opcode: int, payload: bytes) -> None:
        assert len(payload) <= _MAX_SHORT
        head = bytes([0x80 | opcode, _MASKED | len(payload)])
        self._client.send_body(self._id, head + _NO_MASK + payload, ends=False)

    def _read(self) -> tuple[int, bytes]:
        received = self._stream.received
        self._client.pump(
            lambda: len(received) >= 2 and len(received) >= 2 + received[1],
            "a frame has come",
        )
        assert received[1] <= _MAX_SHORT
        opcode, payload = received[0] & 0x0F, bytes(received[2 : 2 + received[1]])
        del received[: 2 + received[1]]
        return opcode, payload
