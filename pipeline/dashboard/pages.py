"""The pages of optuna-dashboard for the stored studies, with the pictures of runs."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, BinaryIO
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from bottle import HTTPError
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import RDBStorage, get_storage
from optuna_dashboard._app import wsgi

from pipeline.paths import PICTURES

if TYPE_CHECKING:
    from _typeshed import OptExcInfo


class _Pictures(FileSystemArtifactStore):
    """The pictures below ``storage/``; 404 for a picture of a run on another machine."""

    def open_reader(self, artifact_id: str) -> BinaryIO:
        try:
            return super().open_reader(artifact_id)
        except ArtifactNotFound:
            raise HTTPError(404, f"{PICTURES / artifact_id} does not exist") from None  # type: ignore[no-untyped-call]


def pages(storage: RDBStorage) -> WSGIApplication:
    """optuna-dashboard with a cache of finished trials, which is emptied whenever the page is loaded.

    The page asks for news every few seconds. In a study of 2,000 trials this takes 2 s without the cache, and 0.1 s
    with it. What is written to finished trials later appears when the page is loaded again.

    Args:
        storage: The database.
    """

    def cached() -> WSGIApplication:
        application: WSGIApplication = wsgi(get_storage(storage), _Pictures(PICTURES))
        return application

    current = cached()

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        nonlocal current
        if environ["PATH_INFO"].startswith("/dashboard"):
            current = cached()
        return _never_empty(current, environ, start_response)

    return answer


def _never_empty(
    application: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    """The application's answer, or ``{}`` if it has no content.

    The page expects JSON in every answer. Without it, it reports that saving a note or deleting a study has failed.
    """
    empty = False

    def start(
        status: str, headers: list[tuple[str, str]], failure: "OptExcInfo | None" = None
    ) -> Callable[[bytes], object]:
        nonlocal empty
        empty = status.startswith("204")
        if empty:
            status, headers = "200 OK", [("Content-Type", "application/json"), ("Content-Length", "2")]
        return start_response(status, headers, failure)

    answered = application(environ, start)
    return [b"{}"] if empty else answered
