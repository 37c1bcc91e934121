"""Which requests the dashboard answers: those to this machine's names, from its own pages, and by default only reads.

This closes three ways in which a page of another site could reach a server on loopback: DNS rebinding (detected by the
Host header), cross-site requests (detected by the Origin header), and framing.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable
from ipaddress import ip_address
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

READING = frozenset({"GET", "HEAD"})
HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
INERT = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The Content-Security-Policy of everything but the dashboard's page, which has its own: artifacts run no script."""
FOR_ALL = (
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "SAMEORIGIN"),
)


def guarded(
    application: WSGIApplication, names: Collection[str] = (), *, exposed: bool = False, allow_edit: bool = False
) -> WSGIApplication:
    """The application behind a check that answers 403, with the reason, to a foreign Host or Origin and to writes.

    Args:
        application: optuna-dashboard. The headers of its answers keep other sites from reading or framing them.
        names: Names of this machine in lower case, besides ``localhost`` and loopback addresses. The port may be any,
            because a tunnel has another port at its other end.
        exposed: Whether a network can reach the server, so that any address may be this machine's. This is safe,
            because DNS rebinding needs a name.
        allow_edit: Whether methods other than GET and HEAD are allowed. No GET of optuna-dashboard writes.
    """

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *failure: Any) -> Callable[[bytes], object]:
            return start_response(status, _protected(headers), *failure)

        reason = _refusal(environ, names, exposed=exposed, allow_edit=allow_edit)
        return application(environ, start) if reason is None else _refuse(environ, start, reason)

    return answer


def _refusal(environ: WSGIEnvironment, names: Collection[str], *, exposed: bool, allow_edit: bool) -> str | None:
    """Why a request is refused, and what to do instead; None if it is allowed."""
    host, origin, method = environ.get("HTTP_HOST"), environ.get("HTTP_ORIGIN"), environ["REQUEST_METHOD"]
    parsed = HOST.fullmatch(host or "")
    if parsed is None or not _is_own(parsed["name"].lower(), names, exposed=exposed):
        return (
            f"refused: the request's Host header is {host!r}, which is not a name of this machine; open the address "
            f"that `restora dashboard` printed, or start it with that name: restora dashboard --host NAME --expose"
        )
    if origin is not None and origin.lower() not in {f"{scheme}://{host}".lower() for scheme in ("http", "https")}:
        return f"refused: a page of {origin!r} sent the request; open http://{host}/dashboard itself"
    if method not in READING and not allow_edit:
        return (
            f"refused: {method} would change something, and this dashboard is read-only; to edit notes or delete "
            f"studies, restart it: restora dashboard --allow-edit"
        )
    return None


def _is_own(name: str, names: Collection[str], *, exposed: bool) -> bool:
    """Whether the name in a Host header is one of this machine."""
    try:
        address = ip_address(name.strip("[]"))
    except ValueError:
        return name == "localhost" or name in names
    return exposed or address.is_loopback


def _refuse(environ: WSGIEnvironment, start_response: StartResponse, reason: str) -> Iterable[bytes]:
    """Answer 403 as plain text, or as JSON to the dashboard's page, which shows its ``reason``."""
    kind, text = "text/plain", f"{reason}\n"
    if environ.get("PATH_INFO", "").startswith("/api/"):
        kind, text = "application/json", json.dumps({"reason": reason})
    body = text.encode()
    headers = [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body)))]
    start_response("403 Forbidden", headers)
    return [body]


def _protected(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    kept = [(name, value) for name, value in headers if name.lower() != "access-control-allow-origin"]
    has_policy = any(name.lower() == "content-security-policy" for name, _ in kept)
    return [*kept, *FOR_ALL, *([] if has_policy else [("Content-Security-Policy", INERT)])]
