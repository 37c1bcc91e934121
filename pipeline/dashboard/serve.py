"""optuna-dashboard over the stored studies, on loopback."""

from collections.abc import Callable
from wsgiref.simple_server import WSGIRequestHandler, make_server

from optuna_dashboard._app import wsgi

from pipeline.errors import UsageError
from pipeline.search.storage import open_storage, storage_errors

HOST = "127.0.0.1"


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Requests of one's own browser are no news."""


def serve(url: str, port: int, say: Callable[[str], None]) -> None:
    """Serve the studies of a database until interrupted; ``say`` is told where.

    Raises:
        UsageError: The port is taken.
    """
    with storage_errors(url):
        application = wsgi(open_storage(url))
    try:
        server = make_server(HOST, port, application, handler_class=_Quiet)
    except OSError as error:
        raise UsageError(f"port {port} cannot be used: {error}; choose another by --port") from None
    say(f"http://{HOST}:{port}/dashboard  (Ctrl-C stops it)")
    with server:
        server.serve_forever()
