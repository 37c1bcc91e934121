"""`restora dashboard` in a process of its own, asked without a browser."""

import http.client
import json
import signal
from pathlib import Path
from typing import Any

import optuna
import pytest
from command import invoke
from serving import Served, serving
from stored_studies import Stored, finish_study

from pipeline.store.database import open_storage

STUDIES = {"digits/int1-lora", "digits/sparse-lora"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stored studies."""
    folder = tmp_path_factory.mktemp("stored")
    storage = open_storage(f"sqlite:///{folder}/storage/studies.db")
    for name in STUDIES:
        finish_study(Stored(storage, combination=name.partition("/")[2]))
    storage.remove_session()
    storage.engine.dispose()
    return folder


@pytest.fixture(scope="module")
def served(folder):
    with serving(folder) as served:
        yield served


def ask(served: Served, path: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=20)
    connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    said = answer.read().decode()
    connection.close()
    return answer.status, said


def names(served: Served) -> set[str]:
    return {study["study_name"] for study in json.loads(ask(served, "/api/studies")[1])["study_summaries"]}


def test_the_dashboard_shows_the_stored_studies_on_loopback(served):
    assert served.url.startswith("http://127.0.0.1:")
    status, page = ask(served, "/dashboard")
    assert status == 200
    assert "<html" in page.lower()
    assert names(served) == STUDIES


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/api/studies", {"Host": "evil.example"}),
        ("GET", "/api/studies", {"Origin": "http://evil.example"}),
        ("DELETE", "/api/studies/1", {}),
        ("POST", "/api/studies/1/rename", {}),
        ("PUT", "/api/studies/1/note", {}),
        ("OPTIONS", "/api/studies/1", {}),
    ],
)
def test_fault_26_a_foreign_host_or_origin_and_whatever_writes_get_403_and_change_nothing(
    served, method, path, headers
):
    body = {"study_name": "gone", "version": 1, "body": "gone"}
    status, said = ask(served, path, method, body, **headers)
    assert status == 403
    assert "refused: " in said
    assert names(served) == STUDIES


def test_with_allow_edit_only_the_dashboards_pages_may_write(folder):
    note = {"version": 1, "body": "checked"}
    with serving(folder, "--allow-edit") as served:
        assert ask(served, "/api/studies/1/note", "PUT", note, Origin="http://evil.example")[0] == 403
        assert json.loads(ask(served, "/api/studies/1")[1])["note"]["body"] == ""
        assert ask(served, "/api/studies/1/note", "PUT", note, Origin=served.url) == (200, "{}")
        assert json.loads(ask(served, "/api/studies/1")[1])["note"]["body"] == "checked"


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_in_silence_and_its_connections(tmp_path, stop, code):
    open_storage(f"sqlite:///{tmp_path}/storage/studies.db").engine.dispose()
    with serving(tmp_path) as served:
        assert names(served) == set()
        served.process.send_signal(stop)
        _, said = served.process.communicate(timeout=30)
    assert (served.process.returncode, said) == (code, "")
    left = {path.name for path in (tmp_path / "storage").iterdir()}
    assert left == {"studies.db", "studies.db.lock"}, "a log of writes stays open"


def test_it_reads_while_a_run_writes(folder, served):
    storage = open_storage(f"sqlite:///{folder}/storage/studies.db")
    study = optuna.load_study(storage=storage, study_name="digits/int1-lora")
    trials = len(json.loads(ask(served, "/api/studies/1")[1])["trials"])
    with storage.engine.begin() as writing:
        writing.exec_driver_sql("UPDATE studies SET study_name = study_name")  # holds the database for writing
        assert len(json.loads(ask(served, "/api/studies/1")[1])["trials"]) == trials
    study.add_trial(study.trials[0])
    storage.remove_session()
    storage.engine.dispose()


def test_a_port_that_is_taken_is_usage(folder, served, monkeypatch):
    monkeypatch.chdir(folder)
    busy = invoke("dashboard", "--port", served.url.rpartition(":")[2])
    assert busy.exit_code == 2
    assert "--port" in busy.stderr


@pytest.mark.parametrize("port", ["0", "70000", "http"])
def test_a_port_that_is_none_is_usage(port):
    assert invoke("dashboard", "--port", port).exit_code == 2


def test_fault_26_others_may_read_only_where_that_is_asked_for_in_so_many_words():
    refused = invoke("dashboard", "--host", "0.0.0.0")
    assert refused.exit_code == 2
    assert "everyone on the network" in refused.stderr
    assert "everyone on the network can read" in " ".join(invoke("dashboard", "--help").stdout.replace("│", "").split())


def test_without_a_database_there_is_nothing_to_serve_and_none_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    absent = invoke("dashboard")
    assert absent.exit_code == 5
    assert "restora run" in absent.stderr
    assert not Path("storage").exists()
