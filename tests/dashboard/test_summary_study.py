import optuna
import pytest
import sqlalchemy
from optuna.study import StudyDirection
from optuna.trial import TrialState
from stored import STUDY, SUMMARY, Dashboard, begin, finish, load

from pipeline.dashboard.summary_study import open_summary, update_summary
from pipeline.results.reading import read_results, stored_facts


def update(storage):
    summary = open_summary(storage, SUMMARY, "accuracy")
    update_summary(summary, read_results(storage, SUMMARY))


def complete(storage):
    return [trial for trial in load(storage, SUMMARY).trials if trial.state == TrialState.COMPLETE]


def test_it_has_accuracy_and_bytes_as_named_objectives_and_is_no_combination(storage):
    finish(storage)
    update(storage)
    summary = load(storage, SUMMARY)
    assert summary.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    assert summary.metric_names == ["validation accuracy", "bytes"]
    assert summary.user_attrs == {"summary_of": SUMMARY}
    assert list(stored_facts(storage)) == [STUDY]
    assert [result.name for result in read_results(storage, SUMMARY)] == ["int1-lora"]


def test_agreement_is_named_where_it_is_what_is_won_back(storage):
    assert open_summary(storage, SUMMARY, "agreement").metric_names == ["validation agreement", "bytes"]


def test_each_cells_best_is_a_trial_with_the_values_that_were_searched_and_where_it_comes_from(storage):
    stored = finish(storage)
    update(storage)
    trials = complete(storage)
    assert len(trials) == 4
    for trial in trials:
        own = stored.study.trials[trial.user_attrs["trial"]]
        assert trial.values == [own.value, own.user_attrs["bytes"]]
        assert trial.params == {**own.params, "combination": "int1-lora"}
        assert (trial.datetime_start, trial.datetime_complete) == (own.datetime_start, own.datetime_complete)
        assert trial.user_attrs["study"] == STUDY
        assert trial.user_attrs["trainable"] == own.user_attrs["trainable"]
        assert trial.user_attrs["times_smaller"] == pytest.approx(own.user_attrs["ratio"], abs=1e-3)
        assert trial.user_attrs["recovery"] == pytest.approx((own.value - 0.42) / (0.981 - 0.42), abs=1e-3)
        assert trial.user_attrs["test_accuracy"] < own.value


def test_nothing_is_written_where_nothing_is_new(storage):
    finish(storage)
    update(storage)
    before, written = load(storage, SUMMARY).trials, []
    summary = open_summary(storage, SUMMARY, "accuracy")
    listen = (storage.engine, "before_cursor_execute", lambda *event: written.append(event[2]))
    sqlalchemy.event.listen(*listen)
    update_summary(summary, read_results(storage, SUMMARY))
    sqlalchemy.event.remove(*listen)
    assert not [text for text in written if text.startswith(("INSERT", "UPDATE", "DELETE"))]
    assert load(storage, SUMMARY).trials == before


def test_a_better_trial_takes_a_cells_place_and_the_one_before_is_marked_and_off_every_front(storage):
    stored = begin(storage)
    stored.trial(2, "svd", 0.7)
    stored.trial(8, "svd", 0.8)
    update(storage)
    for accuracy in (0.75, 0.78):
        stored.trial(2, "svd", accuracy)
        update(storage)
    summary = load(storage, SUMMARY)
    assert [trial.state.name for trial in summary.trials] == ["PRUNED", "COMPLETE", "PRUNED", "COMPLETE"]
    assert [trial.user_attrs.get("superseded_by") for trial in summary.trials] == [2, None, 3, None]
    assert [trial.values for trial in summary.trials][::2] == [None, None]
    assert {trial.number for trial in summary.best_trials} == {1, 3}
    detail = Dashboard(storage).detail(SUMMARY)
    assert {trial["number"] for trial in detail["best_trials"]} == {1, 3}
    assert [trial["state"] for trial in detail["trials"]] == ["Pruned", "Complete", "Pruned", "Complete"]


def test_one_that_is_updated_twice_by_one_process_is_not_marked_twice(storage):
    stored, summary = begin(storage), open_summary(storage, SUMMARY, "accuracy")
    for accuracy in (0.7, 0.75, 0.8):
        stored.trial(2, "svd", accuracy)
        update_summary(summary, read_results(storage, SUMMARY))
    assert [trial.user_attrs.get("superseded_by") for trial in load(storage, SUMMARY).trials] == [1, 2, None]


def test_what_the_test_said_is_added_to_the_trial_that_is_there(storage):
    stored = begin(storage)
    number = stored.trial(2, "svd", 0.7)
    update(storage)
    assert "test_accuracy" not in complete(storage)[0].user_attrs
    stored.references("test", 0.98, 0.42)
    stored.test(2, "svd", number, 0.7)
    update(storage)
    (trial,) = complete(storage)
    assert trial.number == 0
    assert trial.user_attrs["test_accuracy"] == 0.7
    assert trial.user_attrs["test_recovery"] == pytest.approx(0.5)


def test_a_grown_study_file_gives_all_trials_the_same_choices(storage):
    begin(storage).trial(2, "svd", 0.7)
    update(storage)
    begin(storage, "full", ranks=(0,), inits=("none",)).trial(0, "none", 0.8)
    update(storage)
    first, second = complete(storage)
    assert (first.params["combination"], first.params["rank"]) == ("int1-lora", 2)
    assert (second.params["combination"], second.params["rank"]) == ("full", 0)
    for name in ("combination", "rank", "init"):
        assert first.distributions[name] == second.distributions[name]


def test_a_combination_that_someone_removed_is_off_the_front(storage):
    begin(storage).trial(2, "svd", 0.7)
    begin(storage, "other").trial(2, "svd", 0.8)
    update(storage)
    optuna.delete_study(study_name="digits/other", storage=storage)
    update(storage)
    assert [trial.params["combination"] for trial in complete(storage)] == ["int1-lora"]


def test_a_study_of_someone_elses_of_that_name_is_left_alone(storage):
    theirs = optuna.create_study(storage=storage, study_name=SUMMARY)
    theirs.add_trial(optuna.create_trial(value=1.0))
    assert open_summary(storage, SUMMARY, "accuracy") is None
    assert len(load(storage, SUMMARY).trials) == 1
    assert load(storage, SUMMARY).user_attrs == {}


def test_a_summary_that_a_killed_run_had_only_just_made_is_taken_up(storage):
    finish(storage)
    optuna.create_study(storage=storage, study_name=SUMMARY, directions=["maximize", "minimize"])
    update(storage)
    assert load(storage, SUMMARY).user_attrs == {"summary_of": SUMMARY}
    assert len(complete(storage)) == 4
