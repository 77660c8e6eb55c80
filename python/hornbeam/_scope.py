# SPDX-License-Identifier: Apache-2.0
"""Make the ASGI scope of a request or WebSocket from the node's tuple."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from hornbeam._asgi import Scope
from hornbeam._protocol import ProtocolError
from hornbeam._terms import Atom
from hornbeam._usual import make_usual_scope

__all__ = ("ScopeFactory",)

_MAX_CACHED_TEXTS: Final = 256
# Of a WebSocket's headers, which are kept as long as it is open: those whose values are
# the same for many clients, and how many of these, and how long ones, are shared.
_SHARED_HEADERS: Final = {
    name: name
    for name in (
        b"accept-encoding",
        b"accept-language",
        b"cache-control",
        b"connection",
        b"host",
        b"origin",
        b"pragma",
        b"sec-websocket-extensions",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
        b"upgrade",
        b"user-agent",
    )
}
_MAX_SHARED_VALUES: Final = 1024
_MAX_SHARED_BYTES: Final = 256
_ROOT_PATH: Final = Atom("root_path")
_TLS: Final = Atom("tls")


class ScopeFactory:
    """Makes the scopes of one worker's requests.

    Args:
        root_path: the prefix under which the application is mounted, without a slash at
            its end.
    """

    __slots__ = ("_root_path", "_shared_values", "_texts", "state")

    state: Mapping[str, Any] | None
    """What the lifespan left for requests, each of which gets a shallow copy."""

    def __init__(self, root_path: str) -> None:
        self.state = None
        self._root_path = root_path
        # Methods, schemes, versions, the server's own address and certificate are few,
        # so that they are decoded once; bounded, as a client can make up methods.
        self._texts: dict[bytes, str] = {}
        self._shared_values: dict[bytes, bytes] = {}

    def make(self, fields: object) -> Scope:
        """Make the scope of one request.

        Raises:
            ProtocolError: the fields are not what the protocol says.
        """
        try:
            if not self._root_path:
                scope = make_usual_scope(fields, self._texts, self.state)

                if scope is not None:
                    return scope

            return self._make(*fields)  # type: ignore[misc]
        except (TypeError, ValueError, AttributeError, LookupError) as exc:
            raise ProtocolError(f"the scope of a request: {exc}", repr(fields)) from exc

    def make_websocket(self, fields: object, subprotocols: list[bytes]) -> Scope:
        """Make the scope of one WebSocket, of the same fields.

        Raises:
            ProtocolError: the fields are not what the protocol says.
        """
        scope = self.make(fields)
        scope["type"] = "websocket"
        del scope["method"]

        try:
            scope["headers"] = [self._share(*header) for header in scope["headers"]]
        except TypeError as exc:
            reason = f"the headers of a WebSocket: {exc}"
            raise ProtocolError(reason, repr(scope["headers"])) from exc

        try:
            scope["subprotocols"] = [name.decode("latin-1") for name in subprotocols]
        except AttributeError as exc:
            reason = f"the subprotocols of a WebSocket: {exc}"
            raise ProtocolError(reason, repr(subprotocols)) from exc

        extensions = scope["extensions"]

        for name in [name for name in extensions if name.startswith("http.response.")]:
            del extensions[name]

        extensions["websocket.http.response"] = {}
        extensions["hornbeam.topics"] = {}
        return scope

    def _share(self, name: bytes, value: bytes) -> tuple[bytes, bytes]:
        shared_name = _SHARED_HEADERS.get(name)

        if shared_name is None or len(value) > _MAX_SHARED_BYTES:
            return name, value

        values = self._shared_values

        if len(values) < _MAX_SHARED_VALUES:
            return shared_name, values.setdefault(value, value)

        return shared_name, values.get(value, value)

    def _make(
        self,
        method: bytes,
        scheme: bytes,
        http_version: bytes,
        raw_path: bytes,
        query_string: bytes,
        headers: list[tuple[bytes, bytes]],
        client: tuple[bytes, int] | None,
        server: tuple[bytes, int | None] | None,
        extra: Mapping[Atom, Any],
    ) -> Scope:
        text = self._texts.get
        path = raw_path
        root_path = self._root_path

        if _ROOT_PATH in extra:
            root_path = extra[_ROOT_PATH].decode("ascii")

        if b"%" in path:
            path = unquote_to_bytes(path)

        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": text(http_version) or self._decode(http_version),
            "method": text(method) or self._decode(method),
            "scheme": text(scheme) or self._decode(scheme),
            "path": path.decode("utf-8", "replace"),
            "raw_path": raw_path,
            "query_string": query_string,
            "root_path": root_path,
            "headers": headers,
            "client": None if client is None else (client[0].decode(), client[1]),
            "server": None
            if server is None
            else (text(server[0]) or self._decode(server[0]), server[1]),
            "extensions": {
                "http.response.trailers": {},
                "http.response.early_hint": {},
                "http.response.pathsend": {},
            },
        }

        # `*` is no path: nothing is mounted above it.
        if root_path and raw_path != b"*":
            scope["path"] = root_path + scope["path"]

        if _TLS in extra:
            scope["extensions"]["tls"] = self._make_tls(*extra[_TLS])

        if self.state is not None:
            scope["state"] = dict(self.state)

        return scope

    def _make_tls(
        self,
        version: int,
        cipher_suite: int,
        server_cert: bytes,
        client_certs: list[bytes],
        client_name: bytes | None,
    ) -> dict[str, Any]:
        """Make the extension as ASGI's TLS specification has it."""
        text = self._texts.get
        return {
            "server_cert": text(server_cert) or self._decode(server_cert),
            "client_cert_chain": [cert.decode() for cert in client_certs],
            "client_cert_name": None if client_name is None else client_name.decode(),
            # A client whose certificate is not good gets no connection.
            "client_cert_error": None,
            "tls_version": version,
            "cipher_suite": cipher_suite,
        }

    def _decode(self, text: bytes) -> str:
        # Of a unix socket's path: bytes that are no UTF-8.
        decoded = text.decode("utf-8", "surrogateescape")

        if len(self._texts) < _MAX_CACHED_TEXTS:
            self._texts[text] = decoded

        return decoded
