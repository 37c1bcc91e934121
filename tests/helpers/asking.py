"""Requests to an application, without a socket."""

import io
import json
import sys
from dataclasses import dataclass
from typing import Any
from wsgiref.types import WSGIApplication
from wsgiref.util import setup_testing_defaults


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    application: WSGIApplication, path: str = "/", method: str = "GET", *, host: str | None = "127.0.0.1:8080",
    origin: str | None = None, query: str = "", body: Any = None,
) -> Answer:  # fmt: skip
    """What the application answers; ``body`` is sent as JSON."""
    sent = b"" if body is None else json.dumps(body).encode()
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query, "HTTP_ACCEPT_ENCODING": "gzip",
        "wsgi.input": io.BytesIO(sent), "CONTENT_LENGTH": str(len(sent)), "CONTENT_TYPE": "application/json",
        "wsgi.errors": sys.stderr,
    }  # fmt: skip
    setup_testing_defaults(environ)
    del environ["HTTP_HOST"]
    environ |= {} if host is None else {"HTTP_HOST": host}
    environ |= {} if origin is None else {"HTTP_ORIGIN": origin}
    started: list[Any] = []
    answered = application(environ, lambda status, headers, _=None: started.append((status, headers)))  # type: ignore
    try:
        read = b"".join(answered)
    finally:
        getattr(answered, "close", lambda: None)()
    status, headers = started[-1]
    assert len(headers) == len(dict(headers)), "a header twice"
    return Answer(int(status.split()[0]), dict(headers), read)
