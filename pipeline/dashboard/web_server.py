"""A small web server for the user's own browser."""

import socket
import sys
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import WSGIApplication

IDLE = 30
"""Seconds until an idle connection is closed; browsers open some in advance."""
LINGER = 2
"""Seconds to wait until the browser closes a connection."""


class _Handler(WSGIRequestHandler):
    timeout = IDLE

    def log_message(self, *_: object) -> None:
        """Do not log requests."""


class Server(ThreadingMixIn, WSGIServer):
    """Serves an application with one thread per connection, because browsers keep idle connections open.

    Args:
        family: Address family.
        address: Address and port to listen on.
        application: What answers.

    Raises:
        OSError: The address is not this machine's, or the port is taken.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, family: int, address: tuple[str, int], application: WSGIApplication) -> None:
        self.address_family = family
        super().__init__(address, _Handler)
        self.set_app(application)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report errors of the application, but not connections that the browser has closed."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Wait until the browser has closed: closing with an upload unread would lose the answer that refuses it."""
        with suppress(OSError):
            request.shutdown(socket.SHUT_WR)
            request.settimeout(LINGER)
            while request.recv(65536):
                pass
        self.close_request(request)
