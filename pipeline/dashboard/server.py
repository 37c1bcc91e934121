"""A small web server for one's own browser, and how optuna-dashboard reads beneath it."""

import socket
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any, BinaryIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from bottle import HTTPError
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound

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


class Pictures(FileSystemArtifactStore):
    """The pictures that a run wrote; one that is not there (the database was, or is, on another machine) is a 404."""

    def open_reader(self, artifact_id: str) -> BinaryIO:
        try:
            return super().open_reader(artifact_id)
        except ArtifactNotFound:
            raise HTTPError(404, f"picture {artifact_id} is not in this folder's storage") from None  # type: ignore[no-untyped-call]


def reloaded(make: Callable[[], WSGIApplication]) -> WSGIApplication:
    """optuna-dashboard, which remembers finished trials until its page is loaded again.

    Its page asks every few seconds for what is new: of 2,000 trials, read all anew, that takes 2 s, else 0.1 s. What a
    run or an export writes to finished trials later is seen when the page is loaded.

    Args:
        make: Gives an application that has read nothing yet.
    """
    current = make()

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        nonlocal current
        if environ["PATH_INFO"].startswith("/dashboard"):
            current = make()
        return current(environ, start_response)

    return answer
