"""Serves optuna-dashboard for the stored studies, by a small web server for the user's own browser."""

import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import WSGIApplication

from pipeline.dashboard.access import guarded
from pipeline.dashboard.pages import pages
from pipeline.errors import UsageError
from pipeline.store.database import open_storage, storage_errors, without_password

logger = logging.getLogger(__name__)

IDLE = 30
"""Seconds until an idle connection is closed; browsers open some in advance."""
LINGER = 2
"""Seconds to wait until the browser closes a connection."""


def serve(url: str, host: str, port: int, *, expose: bool = False, allow_edit: bool = False) -> None:
    """Serve the studies of a database until SIGINT or SIGTERM.

    Only with ``expose`` may ``host`` be an address that other machines reach; ``allow_edit`` lets the pages change the
    stored studies.

    Raises:
        UsageError: The host is not this machine, or other machines reach it and ``expose`` is not set, or the port
            is taken.
        NothingUsableError: The database does not exist.
        StorageError: The database cannot be read.
        SystemExit: A signal stopped it; the exit code is that of the signal.
    """
    family, address = listening(host, port, expose=expose)
    with storage_errors(url):
        storage = open_storage(url, "write" if allow_edit else "read")
        application = pages(storage)
    names = {host.lower(), *((socket.gethostname().lower(), socket.getfqdn().lower()) if expose else ())}
    try:
        server = Server(family, address, guarded(application, names, exposed=expose, allow_edit=allow_edit))
    except OSError as error:
        raise UsageError(f"port {port} of {host} cannot be used: {error}; choose another by --port or --host") from None
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    with server:
        for line in announcement(without_password(url), host, address, expose=expose, allow_edit=allow_edit):
            logger.info(line)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
        finally:
            storage.engine.dispose()


def listening(host: str, port: int, *, expose: bool) -> tuple[int, tuple[str, int]]:
    """Address family, address and port to listen on.

    Raises:
        UsageError: The name has no address of this machine, or ``expose`` does not fit the address.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(
            f"--host {host} is not an address of this machine: {error}; leave it out for 127.0.0.1"
        ) from None
    loopback = all(ip_address(address[0]).is_loopback for *_, address in found)
    if not loopback and not expose:
        raise UsageError(
            f"--host {host} lets everyone on the network read all that is stored; if that is wanted, give --expose as "
            f"well; to see it from one other machine, a tunnel does: ssh -L {port}:localhost:{port} THIS_MACHINE"
        )
    if loopback and expose:
        raise UsageError(f"--expose needs a --host that others reach, and {host} is loopback; give e.g. --host 0.0.0.0")
    family, *_, address = found[0]
    return family, (str(address[0]), port)


def announcement(url: str, host: str, address: tuple[str, int], *, expose: bool, allow_edit: bool) -> Iterator[str]:
    """The lines at the start: what is served, where, who can reach it, and how to stop it."""
    bound = ip_address(address[0])
    name = socket.gethostname() if bound.is_unspecified else f"[{host}]" if ":" in host else host
    edits = "pages may edit notes and delete studies" if allow_edit else "read-only (--allow-edit lets pages change it)"
    yield f"dashboard of {url}, {edits}: http://{name}:{address[1]}/dashboard"
    if expose:
        yield f"everyone on the network can read{' and change' if allow_edit else ''} all that is stored there"
    yield "Ctrl-C stops it"


class _Handler(WSGIRequestHandler):
    timeout = IDLE

    def log_message(self, *_: object) -> None:
        """Do not log requests."""


class Server(ThreadingMixIn, WSGIServer):
    """Serves an application with one thread per connection, because browsers keep idle connections open.

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
