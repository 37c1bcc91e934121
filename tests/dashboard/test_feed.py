import json
import sqlite3
import threading
import time

import optuna
import pytest
import sqlalchemy
from optuna.artifacts import get_all_artifact_meta
from optuna_dashboard import get_note
from stored import STUDY, SUMMARY, Dashboard, begin, finish, load

from pipeline.dashboard import feed as feed_module
from pipeline.dashboard.feed import FEED_WAIT, Feed
from pipeline.dashboard.note import LINE
from pipeline.dashboard.summary_study import open_summary, update_summary
from pipeline.errors import StorageError
from pipeline.results.progress import Progress
from pipeline.results.reading import read_results
from pipeline.store.database import open_storage

PICTURES = {"accuracy_by_rank", "accuracy_by_size"}


@pytest.fixture
def feed(storage):
    return Feed(storage, SUMMARY)


def test_the_dashboard_shows_note_objectives_pictures_and_artifacts_of_a_run(storage, feed, said):
    stored = finish(storage)
    feed.reached("ended")
    assert said == []
    dashboard = Dashboard(storage)
    studies = {study["study_name"]: study for study in dashboard.read("/api/studies")["study_summaries"]}
    assert studies.keys() == {STUDY, SUMMARY}
    detail = dashboard.detail(STUDY)
    assert detail["objective_names"] == ["validation accuracy"]
    assert detail["note"]["body"].startswith("**int1-lora** of study **digits**")
    assert {each["id"] for each in detail["plotly_graph_objects"]} == PICTURES
    trial = detail["trials"][0]
    (meta,) = trial["artifacts"]
    status, headers, picture = dashboard.ask(
        f"/artifacts/{stored.study._study_id}/{trial['trial_id']}/{meta['artifact_id']}"
    )
    assert status.startswith("200")
    assert headers["Content-Type"] == "image/svg+xml"
    assert picture.startswith(b"<svg")
    summary = dashboard.detail(SUMMARY)
    assert summary["objective_names"] == ["validation accuracy", "bytes"]
    assert "1 combination" in summary["note"]["body"]
    assert {each["id"] for each in summary["plotly_graph_objects"]} == PICTURES
    assert len(summary["best_trials"]) > 1


def test_optunas_own_functions_read_what_is_written(storage, feed):
    stored = finish(storage)
    feed.reached("ended")
    assert LINE in get_note(load(storage, STUDY))
    assert get_all_artifact_meta(stored.study.trials[0], storage=stored.study._storage)


def test_pictures_fill_the_dashboards_place_and_are_small(storage, feed):
    finish(storage)
    finish(storage, "sparse-lora", base_bytes=120_000)
    feed.reached("ended")
    for name in (STUDY, SUMMARY):
        for figure in Dashboard(storage).pictures(name).values():
            assert "height" not in figure["layout"]
            assert len(json.dumps(figure)) < 20_000


def test_no_attribute_is_over_2_kb(storage, feed):
    for number in range(6):
        finish(storage, f"combination-{number}", ranks=(2, 4, 8, 16), inits=("paper", "svd", "qera"))
    feed.reached("ended")
    with storage.engine.connect() as connection:
        sizes = connection.execute(sqlalchemy.text(
            "SELECT max(length(value_json)) FROM study_system_attributes UNION ALL "
            "SELECT max(length(value_json)) FROM trial_system_attributes UNION ALL "
            "SELECT max(length(value_json)) FROM trial_user_attributes"
        )).scalars()  # fmt: skip
        assert max(sizes) <= 2048
    assert len(get_note(load(storage, SUMMARY))) > 2048


def test_at_the_start_there_are_notes_and_no_pictures(storage, feed):
    begin(storage)
    feed.reached("begun")
    assert "0 of 16 trials" in get_note(load(storage, STUDY))
    assert "0 of 16 trials" in get_note(load(storage, SUMMARY))
    assert Dashboard(storage).pictures(STUDY) == {}


def test_a_study_without_a_complete_trial_has_no_pictures_and_nothing_fails(storage, feed, said):
    begin(storage)
    feed.reached("searched")
    assert Dashboard(storage).pictures(STUDY) == {}
    assert said == []


def test_a_database_without_the_study_gets_nothing(storage, feed, said):
    feed.reached("begun")
    assert optuna.get_all_study_names(storage) == []
    assert said == []


def test_a_better_trial_changes_note_pictures_and_summary(storage, feed):
    stored = begin(storage)
    stored.trial(2, "svd", 0.7)
    feed.reached("ended")
    before = Dashboard(storage).pictures(STUDY)
    stored.trial(2, "svd", 0.8)
    feed.reached("ended")
    assert Dashboard(storage).pictures(STUDY) != before
    assert "80.00" in get_note(load(storage, STUDY))
    assert [trial.state.name for trial in load(storage, SUMMARY).trials] == ["PRUNED", "COMPLETE"]


def test_once_another_run_has_taken_over_the_study_nothing_is_written(storage, said):
    begin(storage)
    url = str(storage.engine.url)
    other, later = open_storage(url), open_storage(url)
    feed = Feed(other, SUMMARY)
    feed.reached("begun")
    begin(later).trial(2, "svd", 0.8)
    feed.reached("ended")
    assert len(said) == 1
    assert "another run of this study has taken over" in said[0]
    assert "0 of 16 trials" in get_note(load(storage, STUDY))
    Feed(later, SUMMARY).reached("ended")
    assert "80.00" in get_note(load(storage, STUDY))
    for opened in (other, later):
        opened.engine.dispose()


def test_the_summary_is_not_written_once_the_feed_of_another_run_has_claimed_it(storage):
    stored, url = begin(storage), str(storage.engine.url)
    later = open_storage(url)
    summary = open_summary(storage, SUMMARY, "accuracy")
    open_summary(later, SUMMARY, "accuracy")
    later.engine.dispose()
    stored.trial(2, "svd", 0.8)
    with pytest.raises(StorageError, match="another run of this study has taken over"):
        update_summary(summary, read_results(storage, SUMMARY))
    assert load(storage, SUMMARY).trials == []


def test_a_failure_is_said_once_with_its_reason_and_stops_nothing(storage, feed, said, monkeypatch):
    begin(storage)

    def broken(*_):
        raise ValueError("no such thing\nand more")

    monkeypatch.setattr(feed_module, "combination_note", broken)
    for moment in ("begun", "searched", "ended"):
        feed.reached(moment)
    assert said == ["the dashboard's notes and pictures were not updated: ValueError: no such thing"]
    monkeypatch.undo()
    feed.reached("ended")
    assert "int1-lora" in get_note(load(storage, STUDY))


def test_an_interruption_is_no_failure_of_the_feed(storage, feed, monkeypatch):
    begin(storage)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(feed_module, "combination_note", interrupted)
    with pytest.raises(KeyboardInterrupt):
        feed.reached("begun")


def test_a_study_of_someone_elses_where_the_summary_would_be_is_said_once(storage, feed, said):
    optuna.create_study(storage=storage, study_name=SUMMARY)
    begin(storage)
    for _ in range(2):
        feed.reached("ended")
    assert said == ["no summary study: another program made a study 'digits' in this database"]
    assert load(storage, SUMMARY).user_attrs == {}
    assert "int1-lora" in get_note(load(storage, STUDY))


def test_updates_after_epochs_take_one_percent_of_the_time(storage, feed, monkeypatch):
    stored, now, spent = begin(storage), [0.0], []
    stored.trial(2, "svd", 0.7)
    monkeypatch.setattr(feed_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(feed_module.time, "perf_counter", lambda: sum(spent))
    monkeypatch.setattr(Feed, "_update", lambda self, *, pictures: spent.append(0.2 if pictures else 0.01))
    feed = Feed(storage, SUMMARY)
    for _ in range(20_000):
        now[0] += 0.5
        feed.progressed("combination", Progress((), 1))
    assert 0.008 < sum(spent) / now[0] <= 0.0101
    assert spent.count(0.2) > 100
    assert spent.count(0.01) > 100


def test_reading_costs_no_more_for_a_study_of_many_trials(storage, feed):
    """Each update reads summaries and the winners, which it remembers, never the other trials."""
    stored = begin(storage, budget=100)
    for number in range(60):
        stored.trial(2, "svd", 0.7 + number / 1000)
    feed.reached("begun")
    asked = []
    listen = (storage.engine, "before_cursor_execute", lambda *event: asked.append(event[2]))
    sqlalchemy.event.listen(*listen)
    feed.reached("stopped")
    sqlalchemy.event.remove(*listen)
    assert not [text for text in asked if "trial_params" in text or "trial_intermediate_values" in text]


def test_the_database_is_never_locked_while_readers_and_writers_share_it(open_database, said):
    storage, other = open_database(), open_database()
    stored, feed, errors, over = begin(storage, budget=500), Feed(storage, SUMMARY), [], threading.Event()

    def look():
        try:
            while not over.is_set():
                for name in optuna.get_all_study_names(other):
                    load(other, name).get_trials(deepcopy=False)
                    load(other, name).set_user_attr("seen", time.monotonic())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for number in range(40):
            stored.trial(2, "svd", 0.7 + number / 1000)
            feed.reached("stopped")
    finally:
        over.set()
        thread.join()
    assert errors == []
    assert said == []


def test_an_update_is_left_out_rather_than_wait_for_a_locked_database(storage, said, tmp_path):
    finish(storage)
    url = str(storage.engine.url)
    other, holder = open_storage(url, wait=FEED_WAIT), sqlite3.connect(storage.engine.url.database)
    holder.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    Feed(other, SUMMARY).reached("begun")
    waited = time.monotonic() - began
    holder.close()
    other.engine.dispose()
    assert waited < 10 * FEED_WAIT
    assert len(said) == 1
    assert said[0].startswith("the dashboard's notes and pictures were not updated")
