"""A small web server for one's own browser."""

import socket
import sys
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import WSGIApplication

IDLE = 30
"""Seconds until a connection on which nothing is asked is closed; browsers open some to have them at hand."""
LINGER = 2
"""Seconds to wait for the other end to close."""


class _Handler(WSGIRequestHandler):
    timeout = IDLE

    def log_message(self, *_: object) -> None:
        """Requests of one's own browser are no news."""


class Server(ThreadingMixIn, WSGIServer):
    """Serves an application, each connection in a thread, for a browser holds some open without asking anything.

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
        """Say of what fails where it did; a browser that went away is no failure."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close once the other end has: closed with a refused upload unread, a connection loses its answer."""
        with suppress(OSError):
            request.shutdown(socket.SHUT_WR)
            request.settimeout(LINGER)
            while request.recv(65536):
                pass
        self.close_request(request)
