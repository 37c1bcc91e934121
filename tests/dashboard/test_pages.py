from collections.abc import Iterator
from datetime import timedelta

import optuna
import pytest
import sqlalchemy
from asking import ask
from optuna.storages import InMemoryStorage, RDBStorage
from optuna_dashboard import save_note
from optuna_dashboard._app import wsgi
from stored_studies import Stored, finish_study

from pipeline.dashboard.pages import pages
from pipeline.paths import PICTURES

READS = {
    "/", "/dashboard", "/api/meta", "/api/studies", "/api/studies/1", "/api/studies/1/param_importances", "/csv/1",
    "/favicon.ico", "/static/bundle.js", "/incompatible-rdb-schema", "/artifacts/1/0-0", "/artifacts/1/1/0-0",
    *(f"/api/studies/1/plot/{plot}" for plot in ("contour", "slice", "parallel_coordinate", "rank", "edf", "timeline")),
}  # fmt: skip
PICTURE = '{"artifact_id": "0-0", "filename": "curves.svg", "mimetype": "image/svg+xml", "encoding": null}'


@pytest.fixture
def study(storage: RDBStorage) -> optuna.Study:
    stored = Stored(storage)
    finish_study(stored)
    save_note(stored.study, "what it is")
    storage.set_study_system_attr(stored.study._study_id, "artifacts:0-0", PICTURE)
    return stored.study


@pytest.fixture
def _always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page may ask for news at once; else what it was told seconds ago is given again."""
    monkeypatch.setattr("optuna_dashboard._storage.timedelta", lambda seconds: timedelta(0))


@pytest.fixture
def read(storage: RDBStorage, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many trials were read from the database, each time that some were."""
    counts: list[int] = []
    get_trials = RDBStorage._get_trials

    def counted(*words, **named):
        trials = get_trials(*words, **named)
        counts.append(len(trials))
        return trials

    monkeypatch.setattr(RDBStorage, "_get_trials", counted)
    return counts


def rows(storage: RDBStorage) -> dict[str, list]:
    with storage.engine.connect() as connection:
        tables = sqlalchemy.inspect(connection).get_table_names()
        return {table: list(connection.execute(sqlalchemy.text(f"SELECT * FROM {table}"))) for table in tables}


def test_nothing_that_may_be_asked_by_get_writes(study: optuna.Study, storage: RDBStorage):
    application = pages(storage)
    before = rows(storage)
    answers = {path: ask(application, path).status for path in sorted(READS)}
    assert {path: status for path, status in answers.items() if status not in (200, 302)} == {
        "/artifacts/1/0-0": 404, "/artifacts/1/1/0-0": 404
    }  # fmt: skip
    assert rows(storage) == before


def test_every_get_of_optuna_dashboard_is_among_those_tried():
    application = wsgi(InMemoryStorage())
    tried = {application.match({"REQUEST_METHOD": "GET", "PATH_INFO": path})[0].rule for path in READS}
    assert tried == {route.rule for route in application.routes if route.method == "GET"}


def test_a_picture_is_served_and_one_that_is_gone_is_404(study: optuna.Study, storage: RDBStorage, capfd):
    application = pages(storage)
    assert ask(application, "/artifacts/1/0-0").status == 404
    PICTURES.mkdir(parents=True, exist_ok=True)
    (PICTURES / "0-0").write_text("<svg/>")
    answer = ask(application, "/artifacts/1/0-0")
    assert (answer.status, answer.headers["Content-Type"], answer.text) == (200, "image/svg+xml", "<svg/>")
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.usefixtures("_always_due")
def test_the_page_asks_for_news_without_finished_trials_being_read_again(
    study: optuna.Study, storage: RDBStorage, read: list[int]
):
    application = pages(storage)
    trials = len(study.trials)
    read.clear()
    for _ in range(3):
        assert len(ask(application, "/api/studies/1").json["trials"]) == trials
    study.add_trial(study.trials[0])
    read.clear()
    assert len(ask(application, "/api/studies/1", query="after=17").json["trials"]) == trials + 1 - 17
    assert read == [1]


@pytest.mark.usefixtures("_always_due")
def test_what_was_written_to_finished_trials_is_there_when_the_page_is_loaded(study: optuna.Study, storage: RDBStorage):
    def attributes(trial: int) -> dict[str, str]:
        given = ask(application, "/api/studies/1").json["trials"][trial]["user_attrs"]
        return {each["key"]: each["value"] for each in given}

    application = pages(storage)
    assert "0.75" not in attributes(0).values()
    with storage.engine.begin() as connection:
        connection.execute(
            sqlalchemy.text("UPDATE trial_user_attributes SET value_json = '0.75' WHERE trial_id = 1 AND key = 'ratio'")
        )
    assert attributes(0)["ratio"] != "0.75"
    ask(application, "/dashboard/studies/1")
    assert attributes(0)["ratio"] == "0.75"


def test_what_was_done_is_said_in_json_for_the_page_reads_it(study: optuna.Study, storage: RDBStorage):
    application = pages(storage)
    saved = ask(application, "/api/studies/1/note", "PUT", body={"version": 2, "body": "mine"})
    assert (saved.status, saved.json) == (200, {})
    assert ask(application, "/api/studies/1").json["note"]["body"] == "mine"
