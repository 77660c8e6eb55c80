# SPDX-License-Identifier: Apache-2.0
"""What the requests of a WSGI worker share, and the threads that they run in."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Sequence

from hornbeam._loan import LoanHost
from hornbeam._settings import Settings
from hornbeam._wsgi import WsgiApp, WsgiSession
from hornbeam._wsgi_body import FileWrapper
from hornbeam._wsgi_environ import EnvironFactory
from hornbeam._wsgi_threads import ThreadPool

__all__ = ("WsgiHost",)


class WsgiHost:
    """Makes the requests of one worker's application and runs them.

    Args:
        app: the application.
        settings: the worker's.
        send: sends messages to the node as one packet; from any thread.
        forget: takes note that a request is over; from any thread.
        claim: begins a request, unless it was taken back.
        find_loans: returns what large bodies are sent by, None if the node lends no
            sockets; from any thread.
    """

    def __init__(
        self,
        app: WsgiApp,
        settings: Settings,
        send: Callable[[Sequence[bytes]], None],
        forget: Callable[[int], None],
        claim: Callable[[int, None], object | None],
        find_loans: Callable[[], LoanHost | None],
    ) -> None:
        self.wsgi_app = app
        self.window_bytes = settings.window_bytes
        self.context = contextvars.copy_context()
        self.send = send
        self.forget = forget
        self.claim = claim
        self.find_loans = find_loans
        self.environs = EnvironFactory(
            settings.root_path,
            {
                "wsgi.version": (1, 0),
                "wsgi.multithread": settings.threads > 1,
                # Other workers may run it too.
                "wsgi.multiprocess": True,
                "wsgi.run_once": False,
                # The end of wsgi.input is that of the body, also of a chunked one.
                "wsgi.input_terminated": True,
                "wsgi.file_wrapper": FileWrapper,
                "SERVER_SOFTWARE": "hornbeam",
            },
        )
        self.submit = ThreadPool(settings.threads).submit

    def make_session(
        self, request_id: int, fields: object, body: bytes, more: bool
    ) -> WsgiSession:
        """Make the session of a request.

        Raises:
            ProtocolError: its scope is not what the protocol says.
        """
        return WsgiSession(self, request_id, fields, body, more)
