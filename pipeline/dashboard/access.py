"""Whom the dashboard answers, and what: this machine's names, its own pages, and by default only what reads.

Three ways in which a page of another site could reach a server on loopback are closed: DNS rebinding (its own name made
to point here; the Host header tells), requests across sites (the Origin header tells), and framing.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

if TYPE_CHECKING:
    from _typeshed import OptExcInfo

READING = frozenset({"GET", "HEAD"})
HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
INERT = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Content-Security-Policy of all but the dashboard's page, which has its own: an artifact, opened, runs nothing."""
FOR_ALL = (
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "SAMEORIGIN"),
)


def guarded(
    application: WSGIApplication, names: Collection[str] = (), *, exposed: bool = False, allow_edit: bool = False
) -> WSGIApplication:
    """The application, which answers 403, and why, to a foreign Host or Origin and to whatever may write.

    Args:
        application: optuna-dashboard. No other site may read or frame its answers, they are of the type that they say,
            and what is not its own page (an artifact) runs no script.
        names: Names of this machine in lower case, beside ``localhost`` and its loopback addresses; at any port, for a
            tunnel has another at its other end.
        exposed: Whether it is served to a network, so that any address may be this machine's. That is safe: DNS
            rebinding needs a name.
        allow_edit: Whether other methods than GET and HEAD are let through. None of optuna-dashboard's GETs writes.
    """

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        reason = _refusal(environ, names, exposed=exposed, allow_edit=allow_edit)
        if reason is not None:
            return _refuse(environ, start_response, reason)

        def start(
            status: str, headers: list[tuple[str, str]], failure: "OptExcInfo | None" = None
        ) -> Callable[[bytes], object]:
            return start_response(status, _protected(headers), failure)

        return application(environ, start)

    return answer


def _refusal(environ: WSGIEnvironment, names: Collection[str], *, exposed: bool, allow_edit: bool) -> str | None:
    """Why a request is refused, and what to do; ``None`` where it is not."""
    host, origin, method = environ.get("HTTP_HOST"), environ.get("HTTP_ORIGIN"), environ["REQUEST_METHOD"]
    parsed = HOST.fullmatch(host or "")
    if parsed is None or not _is_own(parsed["name"].lower(), names, exposed=exposed):
        return (
            f"refused: the request's Host header is {host!r}, which is no name of this machine; open the address that "
            f"`restora dashboard` printed, or start it with that name: restora dashboard --host NAME --expose"
        )
    if origin is not None and origin.lower() not in {f"{scheme}://{host}".lower() for scheme in ("http", "https")}:
        return f"refused: a page of {origin!r} sent the request; open http://{host}/dashboard itself"
    if method not in READING and not allow_edit:
        return (
            f"refused: {method} is a request to change something, and this dashboard is read-only; to edit notes, or "
            f"delete studies, start it again: restora dashboard --allow-edit"
        )
    return None


def _is_own(name: str, names: Collection[str], *, exposed: bool) -> bool:
    """Whether a Host header's name is this machine's."""
    try:
        address = ip_address(name.strip("[]"))
    except ValueError:
        return name == "localhost" or name in names
    return exposed or address.is_loopback


def _refuse(environ: WSGIEnvironment, start_response: StartResponse, reason: str) -> Iterable[bytes]:
    """Answer 403: plain text, and JSON where the dashboard's page asked, for it shows a ``reason``."""
    kind, text = "text/plain", f"{reason}\n"
    if environ.get("PATH_INFO", "").startswith("/api/"):
        kind, text = "application/json", json.dumps({"reason": reason})
    body = text.encode()
    headers = [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body)))]
    start_response("403 Forbidden", _protected(headers))
    return [body]


def _protected(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    kept = [(name, value) for name, value in headers if name.lower() != "access-control-allow-origin"]
    has_policy = any(name.lower() == "content-security-policy" for name, _ in kept)
    return [*kept, *FOR_ALL, *([] if has_policy else [("Content-Security-Policy", INERT)])]
