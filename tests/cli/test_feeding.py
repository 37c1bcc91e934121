"""What a run leaves in the database for those who look at it."""

import hashlib
import json
from pathlib import Path

import optuna
import pytest
from command import invoke, write_study
from optuna_dashboard import get_note

import pipeline
from pipeline.dashboard.feed import Feed
from pipeline.errors import IntegrityError
from pipeline.guard import StopTraining
from pipeline.results.reading import read_results
from pipeline.run import study_run as run_module
from pipeline.search.coordinator import Coordinator
from pipeline.store.stored_study import METRIC, joined

NAMES = ["tiny/int1-lora", "tiny/sparse-lora"]


@pytest.fixture
def moments(monkeypatch):
    """What a run publishes."""
    published = []
    monkeypatch.setattr(Feed, "reached", lambda self, moment: published.append(moment))
    monkeypatch.setattr(Feed, "progressed", lambda self, combination, progress: published.append(combination))
    return published


@pytest.fixture
def stored(open_database):
    """Reads the database that the command wrote."""
    return lambda: open_database("storage/studies")


def run():
    return invoke("run", "tiny", "--device", "cpu")


def test_a_run_stores_its_command_its_file_its_layers_and_which_file_is_whose(stored, monkeypatch):
    monkeypatch.setattr("sys.argv", ["restora", "run", "tiny", "--device", "cpu"])
    path = write_study()
    assert run().exit_code == 0
    exported = invoke("export", "tiny", "--device", "cpu").stdout.split()
    results = read_results(stored(), "tiny")
    assert optuna.get_all_study_names(stored()) == [*NAMES, "tiny"]
    for result in results:
        assert result.study.metric_names == [METRIC]
        assert result.facts["run"]["done"] == 0
        assert result.facts["run"]["began"].endswith("+00:00")
        assert result.facts["run"]["command"] == "restora run tiny --device cpu"
        assert joined(result.facts, "file") == path.read_text()
        layers = json.loads(joined(result.facts, "layers"))
        assert [layer["name"] for layer in layers] == ["fc1", "fc2"][: result.facts["targets"]]
        assert layers[0]["dense"] == 4 * (192 * 8 + 8)
        small = sum(layer[kind] for layer in layers for kind in ("payload", "index", "scale", "bias"))
        for rank, cell in result.best_of_ranks().items():
            added = sum(layer["adapter"][str(rank)] for layer in layers)
            assert small + added == cell.best.user_attrs["layer_bytes"]
        bests = [cell.best for cell in result.cells]
        for trial in result.study.trials:
            assert ("adapter" in trial.user_attrs) == (trial.number in [best.number for best in bests])
        for kind, trials in (("adapter", bests), ("checkpoint", [c.best for c in result.best_of_ranks().values()])):
            for trial in trials:
                data = Path(trial.user_attrs[kind]).read_bytes()
                assert trial.user_attrs[f"{kind}_sha256"] == hashlib.sha256(data).hexdigest()
    checkpoints = {trial.user_attrs.get("checkpoint") for result in results for trial in result.study.trials} - {None}
    assert checkpoints == {f"{folder}/model.safetensors" for folder in exported}
    assert "8 of 8 trials" in get_note(results[0].study)


def test_a_run_again_says_how_many_trials_were_done_when_it_began_and_adds_no_trial(stored):
    write_study()
    assert run().exit_code == 0
    before = optuna.load_study(study_name="tiny", storage=stored()).trials
    write_study(trials=3)
    assert run().exit_code == 0
    assert [result.facts["run"]["done"] for result in read_results(stored(), "tiny")] == [8, 8]
    after = optuna.load_study(study_name="tiny", storage=stored()).trials
    assert [trial.params for trial in after[: len(before)]] == [trial.params for trial in before]


def test_the_kept_adapter_that_was_lost_is_named_again_when_it_is_trained_again(stored):
    write_study()
    assert run().exit_code == 0
    (result, _) = read_results(stored(), "tiny")
    best = result.cells[0].best
    result.study._storage.set_study_user_attr(result.study._study_id, result.cells[0].cell.winner_key, {"trial": -1})
    Path(best.user_attrs["adapter"]).unlink()
    assert run().exit_code == 0
    again = read_results(stored(), "tiny")[0].study.trials[best.number]
    data = Path(again.user_attrs["adapter"]).read_bytes()
    assert again.user_attrs["adapter_sha256"] == hashlib.sha256(data).hexdigest()


def test_all_combinations_are_stored_before_the_first_is_searched(stored, monkeypatch):
    def looking(self):
        assert set(NAMES) <= set(optuna.get_all_study_names(stored()))
        assert "0 of 8 trials" in get_note(optuna.load_study(study_name=NAMES[1], storage=stored()))
        raise StopTraining("seen", 0)

    write_study()
    monkeypatch.setattr(Coordinator, "run", looking)
    result = run()
    assert "seen" in result.stderr


def test_a_combination_whose_weights_are_damaged_fails_alone_and_is_not_listed_as_done(stored, monkeypatch, moments):
    facts = run_module.study_facts

    def damaged(spec, combination):
        if combination.name == "int1-lora":
            raise IntegrityError("layer 'fc1' holds NaN")
        return facts(spec, combination)

    write_study()
    monkeypatch.setattr(run_module, "study_facts", damaged)
    result = run()
    assert result.exit_code == 6
    assert "these combinations failed, the others are done: 'int1-lora': layer 'fc1' holds NaN" in result.stderr
    assert [result.name for result in read_results(stored(), "tiny")] == ["sparse-lora"]
    assert all(cell.tested for cell in read_results(stored(), "tiny")[0].cells)


def test_a_run_publishes_its_beginning_its_epochs_the_end_of_every_combination_and_its_end(moments):
    write_study()
    assert run().exit_code == 0
    assert [moment for moment in moments if moment not in ("int1-lora", "sparse-lora")] == [
        "begun", "searched", "searched", "tested", "tested", "ended"
    ]  # fmt: skip
    assert {"int1-lora", "sparse-lora"} <= set(moments)


def test_a_run_that_stops_publishes_how_far_it_came(moments, monkeypatch):
    def stopped(self):
        raise StopTraining("signal 15", 143)

    write_study()
    monkeypatch.setattr(Coordinator, "run", stopped)
    assert run().exit_code == 143
    assert moments == ["begun", "stopped"]


def test_a_winner_that_cannot_be_tested_leaves_no_other_combination_untested(stored, monkeypatch):
    write_study()
    score = run_module.score_winners

    def failing(objective, *rest):
        if objective.combination.name == "int1-lora":
            raise IntegrityError("winners that cannot be tested: rank 1 svd")
        score(objective, *rest)

    monkeypatch.setattr(run_module, "score_winners", failing)
    for _ in range(2):
        result = run()
        assert result.exit_code == 6
        assert "the others are done: 'int1-lora': winners that cannot be tested: rank 1 svd" in result.stderr
        untested, tested = read_results(stored(), "tiny")
        assert not any(cell.tested for cell in untested.cells)
        assert all(cell.tested for cell in tested.cells)


def test_a_study_that_is_run_from_python_is_stored_as_the_verb_stores_it(stored):
    path = write_study()
    pipeline.run_study(pipeline.load_spec(path))
    for result in read_results(stored(), "tiny"):
        assert all(cell.tested for cell in result.cells)
        assert result.facts["run"]["command"] == "restora run tiny"
