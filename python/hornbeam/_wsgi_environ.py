# SPDX-License-Identifier: Apache-2.0
"""Make the environ of a WSGI request (PEP 3333) from the node's scope. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes

from hornbeam._protocol import ProtocolError
from hornbeam._terms import Atom

__all__ = ("Environ", "EnvironFactory")

# PEP 3333's own type: keys and CGI values are str, the rest is whatever it is.
Environ: TypeAlias = dict[str, Any]

_MAX_CACHED_NAMES: Final = 1024
_ROOT_PATH: Final = Atom("root_path")
_DEFAULT_PORTS: Final = {b"https": "443"}
_HOST: Final = re.compile(rb"(\[[^\]]*\]|[^:]*)(?::([0-9]+))?")

# RFC 3875 4.1.2 and 4.1.3: these two have no HTTP_ in front.
_BARE_NAMES: Final = {
    b"content-type": "CONTENT_TYPE",
    b"content-length": "CONTENT_LENGTH",
}


class EnvironFactory:
    """Makes the environs of one worker's requests, without their files.

    Args:
        root_path: the prefix under which the application is mounted, without a slash at
            its end: `SCRIPT_NAME`. A path that begins with it loses it in `PATH_INFO`.
        common: keys that all environs have.
    """

    __slots__ = ("_common", "_names", "_root_path")

    def __init__(self, root_path: str, common: Mapping[str, object]) -> None:
        self._common = common
        self._root_path = root_path.encode()
        # Header name -> its key, None for one that is left out; clients use few names,
        # but can make some up.
        self._names: dict[bytes, str | None] = {}

    def make(self, fields: object) -> Environ:
        """Make the environ of one request.

        Raises:
            ProtocolError: the fields are not what the protocol says.
        """
        try:
            return self._make(*fields)  # type: ignore[misc]
        except (TypeError, ValueError, AttributeError, LookupError) as exc:
            raise ProtocolError(f"the scope of a request: {exc}", repr(fields)) from exc

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
        extra: Mapping[Atom, bytes],
    ) -> Environ:
        environ: Environ = dict(self._common)
        root_path = extra.get(_ROOT_PATH, self._root_path)
        script_name, path = _split(raw_path, root_path)
        target = raw_path + b"?" + query_string if query_string else raw_path
        # PEP 3333: text is Latin-1, whatever the bytes stand for.
        environ["REQUEST_METHOD"] = method.decode("latin-1")
        environ["SCRIPT_NAME"] = script_name
        environ["PATH_INFO"] = path
        environ["QUERY_STRING"] = query_string.decode("latin-1")
        environ["REQUEST_URI"] = environ["RAW_URI"] = target.decode("latin-1")
        environ["SERVER_PROTOCOL"] = "HTTP/" + http_version.decode("latin-1")
        environ["wsgi.url_scheme"] = scheme.decode("latin-1")
        self._add_headers(environ, headers)
        _add_addresses(environ, client, server, scheme)
        return environ

    def _add_headers(
        self, environ: Environ, headers: list[tuple[bytes, bytes]]
    ) -> None:
        names = self._names

        for name, value in headers:
            key = names[name] if name in names else self._add_name(name)

            if key is None:
                continue

            text = value.decode("latin-1")

            if key in environ:
                # RFC 3875 4.1.18; cookies are joined as clients do (RFC 6265 5.4).
                separator = "; " if key == "HTTP_COOKIE" else ","
                text = f"{environ[key]}{separator}{text}"

            environ[key] = text

    def _add_name(self, name: bytes) -> str | None:
        """Return the key of a header.

        One with an underscore has none: it would be taken for the one with a hyphen,
        which a proxy in front may have checked or set.
        """
        key: str | None = None

        if b"_" not in name:
            text = name.decode("latin-1").upper().replace("-", "_")
            key = _BARE_NAMES.get(name) or f"HTTP_{text}"

        if len(self._names) < _MAX_CACHED_NAMES:
            self._names[name] = key

        return key


def _split(raw_path: bytes, root_path: bytes) -> tuple[str, str]:
    """Return SCRIPT_NAME and PATH_INFO."""
    path = unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path

    # `*` is no path: nothing is mounted above it.
    if not root_path or raw_path == b"*":
        return "", path.decode("latin-1")

    if path == root_path or path.startswith(root_path + b"/"):
        path = path[len(root_path) :]

    return root_path.decode("latin-1"), path.decode("latin-1")


def _add_addresses(
    environ: Environ,
    client: tuple[bytes, int] | None,
    server: tuple[bytes, int | None] | None,
    scheme: bytes,
) -> None:
    if client is None:
        # The client of a unix socket has no address.
        environ["REMOTE_ADDR"] = ""
    else:
        environ["REMOTE_ADDR"] = client[0].decode("latin-1")
        environ["REMOTE_PORT"] = str(client[1])

    if server is not None and server[1] is not None:
        environ["SERVER_NAME"] = server[0].decode("latin-1")
        environ["SERVER_PORT"] = str(server[1])
        return

    # Neither may be empty (PEP 3333): on a unix socket the client knows best.
    match = _HOST.match(environ.get("HTTP_HOST", "").encode("latin-1"))
    assert match is not None  # it matches the empty string
    host, port = match.groups()
    environ["SERVER_NAME"] = host.decode("latin-1") or "localhost"
    environ["SERVER_PORT"] = port.decode() if port else _DEFAULT_PORTS.get(scheme, "80")
