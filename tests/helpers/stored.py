"""Stored studies as a run leaves them, and what optuna-dashboard makes of them, asked in this process."""

import io
import json
from typing import Any

import optuna
from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import RDBStorage
from optuna_dashboard import wsgi
from stored_studies import Stored, finish_study

from pipeline.paths import PICTURES

SUMMARY, STUDY = "digits", "digits/int1-lora"
COMMAND = "restora run digits --device cpu"


def begin(storage: RDBStorage, combination: str = "int1-lora", **fields: Any) -> Stored:
    """A combination as it stands when its search begins."""
    stored = Stored(storage, combination, **fields)
    stored.references("val", 0.98, 0.42)
    stored.study.set_user_attr("run", {"command": COMMAND, "began": "2026-11-24T15:00:00+00:00", "done": 0})
    return stored


def finish(storage: RDBStorage, combination: str = "int1-lora", **fields: Any) -> Stored:
    """A combination that was searched and tested."""
    stored = begin(storage, combination, **fields)
    finish_study(stored)
    return stored


def load(storage: RDBStorage, name: str) -> optuna.Study:
    """A study, with nothing of it remembered."""
    return optuna.load_study(storage=storage, study_name=name)


class Dashboard:
    """optuna-dashboard over a database, freshly started."""

    def __init__(self, storage: RDBStorage) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        self._storage = storage
        self._app = wsgi(storage, artifact_store=FileSystemArtifactStore(PICTURES))

    def ask(self, path: str, method: str = "GET", body: Any = None) -> tuple[str, dict[str, str], bytes]:
        """Status, headers and body of an answer."""
        sent, got = json.dumps(body).encode(), {}
        environ = {
            "REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": "", "SERVER_NAME": "localhost",
            "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http", "wsgi.errors": io.StringIO(),
            "wsgi.input": io.BytesIO(sent), "CONTENT_LENGTH": str(len(sent)), "CONTENT_TYPE": "application/json",
        }  # fmt: skip
        answer = self._app(environ, lambda status, headers, *_: got.update(status=status, headers=dict(headers)))
        try:
            return got["status"], got["headers"], b"".join(answer)
        finally:
            getattr(answer, "close", lambda: None)()

    def read(self, path: str) -> Any:
        """What it answers as JSON."""
        status, _, body = self.ask(path)
        assert status.startswith("200"), status
        return json.loads(body)

    def detail(self, name: str) -> dict[str, Any]:
        """A study, as its page gets it."""
        detail: dict[str, Any] = self.read(f"/api/studies/{self._storage.get_study_id_from_name(name)}")
        return detail

    def pictures(self, name: str) -> dict[str, Any]:
        """The plotly figures of a study by their ids."""
        return {
            figure["id"]: json.loads(figure["graph_object"]) for figure in self.detail(name)["plotly_graph_objects"]
        }

    def write_note(self, name: str, body: str) -> str:
        """Write a study's note as its page does; the status."""
        version = self.detail(name)["note"]["version"] + 1
        place = f"/api/studies/{self._storage.get_study_id_from_name(name)}/note"
        return self.ask(place, "PUT", {"body": body, "version": version})[0]
