import json

import optuna
import pytest
import sqlalchemy
from bare_studies import CELL, bare_study, complete, fail, make_ask, make_ledger
from optuna.trial import TrialState, create_trial

from pipeline.cell import Cell
from pipeline.results.reading import read_results, read_tallied
from pipeline.results.study_state import read_status
from pipeline.results.tables import status_table
from pipeline.store.ledger import LONG, bury_abandoned
from pipeline.store.tally import COVERED


@pytest.fixture
def url(storage):
    return str(storage.engine.url)


def whole(storage, study="tiny"):
    """What a full reading says."""
    return status_table(read_results(storage, study))


def test_the_summary_says_at_every_moment_what_a_full_reading_says(storage, url):
    ledger = make_ledger(storage)
    shown = make_ask(9, seconds=LONG)
    steps = {
        "nothing yet": lambda: None,
        "one trial": lambda: complete(ledger, 0, 0.5),
        "one that runs": lambda: ledger.progress(shown, [0.1]),
        "a better one": lambda: complete(ledger, 1, 0.6),
        "an equal one": lambda: complete(ledger, 2, 0.6),
        "one of another cell": lambda: complete(ledger, 0, 0.7, Cell(1, "paper")),
        "one that was pruned": lambda: ledger.finish(make_ask(3), TrialState.PRUNED, [0.1], {}, 0.1),
        "one that failed": lambda: fail(ledger, 4, "not finite"),
        "one that was interrupted": lambda: fail(ledger, 5, "SIGINT", interrupted=True),
        "the first of equals, stored earlier": lambda: ledger.finish(shown, TrialState.COMPLETE, [0.1, 0.6], {}, 0.6),
        "a tested winner": lambda: ledger.study.set_user_attr(
            CELL.winner_key, {"trial": 1, "seeds": [{"seed": 0, "val": [6, 10], "test": [5, 10]}]}
        ),
        "another winner": lambda: complete(ledger, 6, 0.8),
        "the same failure again": lambda: fail(ledger, 7, "not finite"),
        "exhausted": lambda: [fail(ledger, number, "out of memory") for number in range(10, 15)],
        "a larger budget": lambda: bare_study(storage, budget=100),
    }
    for what, step in steps.items():
        step()
        said = read_status(url, "tiny", with_reasons=True)
        assert said == whole(storage), what
        assert list(said[0]["cells"][0]) == list(whole(storage)[0]["cells"][0]), "in the same order"


def test_the_epoch_is_that_of_a_cells_furthest_running_trial(storage, url):
    ledger = make_ledger(storage)
    for number, accuracies in enumerate(([0.1, 0.2, 0.3], [0.1], [])):
        ledger.progress(make_ask(number, seconds=LONG), accuracies)
    ledger.progress(make_ask(0, Cell(1, "paper"), seconds=LONG), [0.1, 0.2])
    cells = read_status(url, "tiny", with_reasons=True)[0]["cells"]
    assert [cell["epoch"] for cell in cells] == [2, 0, 0, 3]
    ledger.finish(make_ask(5), TrialState.COMPLETE, [0.1] * 9, {}, 0.1)
    assert read_status(url, "tiny", with_reasons=True) == whole(storage)


def test_a_combination_that_was_made_and_not_begun_needs_no_summary(storage, url):
    bare_study(storage)
    (said,) = read_status(url, "tiny", with_reasons=True)
    assert not any(any(cell["states"].values()) for cell in said["cells"])
    assert [said] == whole(storage)


def test_the_latest_run_is_told_where_it_is_stored(storage, url):
    run = {"command": "restora run tiny", "began": "2026-11-24T15:00:00+00:00", "done": 0}
    assert read_status(url, "tiny", with_reasons=True) is None
    study = bare_study(storage)
    assert read_status(url, "tiny", with_reasons=True)[0]["run"] is None
    study.set_user_attr("run", run)
    assert read_status(url, "tiny", with_reasons=True)[0]["run"] == run
    assert read_status(url, "tiny", with_reasons=True) == whole(storage)


def test_a_summary_that_is_behind_is_not_believed(storage, url):
    ledger = make_ledger(storage)
    complete(ledger, 0, 0.5)
    old = {key: value for key, value in ledger.study.user_attrs.items() if key.startswith("summary")}
    complete(ledger, 1, 0.6)
    for key, value in old.items():
        ledger.study.set_user_attr(key, value)
    assert read_status(url, "tiny", with_reasons=False) is None


def test_a_summary_is_behind_when_a_trial_only_changed_its_state(storage, url):
    ledger = make_ledger(storage)
    ledger.progress(make_ask(seconds=LONG), [0.1])
    assert read_status(url, "tiny", with_reasons=True) == whole(storage)
    bury_abandoned(ledger.study)
    assert read_status(url, "tiny", with_reasons=True) is None


def test_trials_that_someone_else_stored_are_not_overlooked(storage, url):
    ledger = make_ledger(storage)
    complete(ledger, 0, 0.5)
    ledger.study.add_trial(create_trial(state=TrialState.COMPLETE, value=0.9))
    assert read_status(url, "tiny", with_reasons=True) is None
    complete(ledger, 1, 0.6)
    assert read_status(url, "tiny", with_reasons=True) is None, "the ledger did not see it"
    make_ledger(storage)
    assert read_status(url, "tiny", with_reasons=True) == whole(storage)


def test_a_study_of_an_older_version_has_its_summary_from_the_next_run_on(storage, url):
    study = bare_study(storage)
    study.add_trial(create_trial(state=TrialState.FAIL))
    assert read_status(url, "tiny", with_reasons=True) is None
    make_ledger(storage)
    assert read_status(url, "tiny", with_reasons=True) == whole(storage)


def test_a_summary_that_mixes_interruptions_with_failures_is_read_in_full_until_the_next_run(storage, url):
    ledger = make_ledger(storage)
    fail(ledger, 0, "SIGINT", interrupted=True)
    attributes = ledger.study.user_attrs
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text(f"DELETE FROM study_user_attributes WHERE key = '{COVERED}'"))
    mixed = {key: value for key, value in attributes[CELL.summary_key].items() if key != "interrupted"}
    ledger.study.set_user_attr(CELL.summary_key, {**mixed, "reasons": {"SIGINT": 1}})
    ledger.study.set_user_attr("summary", attributes[COVERED])
    assert read_status(url, "tiny", with_reasons=False) is None
    (so_far,) = read_tallied(storage, "tiny", {})
    assert [(cell.tally.reasons, cell.tally.interrupted) for cell in so_far.cells] == [({}, {})] * 3 + [
        ({}, {"SIGINT": 1})
    ]
    make_ledger(storage)
    assert read_status(url, "tiny", with_reasons=True) == whole(storage)


def test_many_reasons_are_left_out_of_the_summary_and_read_in_full_where_they_are_asked_for(storage, url):
    ledger = make_ledger(storage, budget=100)
    for number in range(60):
        fail(ledger, number, f"loss nan at step {number} of epoch 1, learning rate 0.01 ∞")
    attributes = ledger.study.user_attrs
    assert max(len(json.dumps(value)) for key, value in attributes.items() if key.startswith("summary")) < 2000
    assert read_status(url, "tiny", with_reasons=True) is None
    said, full = read_status(url, "tiny", with_reasons=False), whole(storage)
    assert [{**cell, "reasons": None, "interrupted": None} for cell in full[0]["cells"] if cell["reasons"]] == [
        cell for cell in said[0]["cells"] if cell["states"]["fail"]
    ]


def test_no_attribute_is_over_two_kilobytes(storage):
    ledger = make_ledger(storage)
    for number in range(60):
        fail(ledger, number, f"{number}" + "∞" * 20)
        stored = ledger.study.user_attrs
        assert max(len(json.dumps(stored[key])) for key in (COVERED, CELL.summary_key)) < 2000


@pytest.mark.parametrize("other", ["tiny2", "tin_", "t%", "tiny/int1-lora", ""])
def test_a_study_is_not_taken_for_one_whose_name_is_like_it(storage, url, other):
    make_ledger(storage)
    assert read_status(url, other, with_reasons=True) is None


def test_combinations_come_in_the_order_in_which_they_were_run_and_those_of_others_are_left_out(storage, url):
    for name in ("tiny/b", "tiny/a", "tinier/c"):
        complete(make_ledger(storage, name=name), 0, 0.5)
    optuna.create_study(storage=storage, study_name="tiny/foreign").add_trial(create_trial(state=TrialState.FAIL))
    said = read_status(url, "tiny", with_reasons=True)
    assert [combination["combination"] for combination in said] == ["b", "a"]
    assert said == whole(storage)


def test_one_combination_without_a_summary_has_all_read_in_full(storage, url):
    make_ledger(storage, name="tiny/a")
    bare_study(storage, name="tiny/b").add_trial(create_trial(state=TrialState.FAIL))
    assert read_status(url, "tiny", with_reasons=True) is None


def test_a_database_that_is_not_there_is_not_made(tmp_path):
    assert read_status(f"sqlite:///{tmp_path}/none.db", "tiny", with_reasons=True) is None
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("url", ["nonsense", "sqlite:///broken.db", "sqlite:///empty.db", "foo://host/name"])
def test_what_cannot_be_read_is_left_to_the_full_reading_to_explain(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.db").write_bytes(b"no database at all" * 100)
    (tmp_path / "empty.db").touch()
    assert read_status(url, "tiny", with_reasons=True) is None
    assert (tmp_path / "empty.db").stat().st_size == 0


def test_a_summary_is_read_while_someone_writes(storage, url):
    complete(make_ledger(storage), 0, 0.5)
    writer = sqlalchemy.create_engine(url)
    with writer.connect() as connection:
        connection.execute(sqlalchemy.text("UPDATE trials SET number = 7"))
        assert read_status(url, "tiny", with_reasons=True)[0]["cells"][3]["trial"] == 0
    writer.dispose()
