import math

import optuna
import pytest
import torch
from optuna.trial import TrialState
from safetensors.torch import load_file
from tiny_studies import (
    COUNTED,
    BatchNormNet,
    asks,
    by_cell,
    failing,
    kept_of,
    make_objective,
    make_spec,
    make_task,
    outcomes,
    search,
)

from pipeline.cell import Cell
from pipeline.hashes import hash_tensors
from pipeline.store import ledger

ATTRIBUTES = {
    "ask", "bytes", "layer_ratio", "macs", "origin", "peak_memory", "ratio", "seconds", "seed", "split", "trainable",
    "versions",
}  # fmt: skip


def counted(study, cell):
    return sum(trial.state in COUNTED for trial in by_cell(study.trials)[cell])


def test_every_cell_gets_exactly_its_budget_and_running_again_adds_nothing(storage):
    study = search(storage)
    assert {cell: counted(study, cell) for cell in by_cell(study.trials)} == {
        Cell(rank, init): 6 for rank in (1, 2) for init in ("paper", "svd")
    }
    before = [(trial.number, trial.state, trial.value) for trial in study.trials]
    again = search(storage)
    assert [(trial.number, trial.state, trial.value) for trial in again.trials] == before


@pytest.mark.parametrize("trials", [4, 5, 8])
def test_a_budget_that_waves_do_not_divide_is_met_exactly(storage, trials):
    study = search(storage, make_spec(trials=trials, ranks=[2], inits=["svd"]))
    assert counted(study, Cell(2, "svd")) == trials


@pytest.mark.parametrize("together", [4, 16])
def test_how_many_lanes_train_together_changes_neither_asks_nor_values(open_database, together):
    spec = make_spec(ranks=[1, 2, 4], trials=8, ask_ahead=4, optimizer=["adam", "sgd", "nesterov", "adamw", "rmsprop"])
    one, many = search(open_database("a"), spec, cohort=1), search(open_database("b"), spec, cohort=together)
    assert asks(one) == asks(many)
    images = len(make_task().val)
    for cell, trials in outcomes(one).items():
        for (state, accuracies), (other_state, other_accuracies) in zip(trials, outcomes(many)[cell], strict=True):
            assert state == other_state
            assert accuracies == pytest.approx(other_accuracies, abs=1 / images)


@pytest.fixture
def three_threads():
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("cohort", [1, 3, 16])
def test_a_study_that_trains_in_several_threads_comes_to_the_same_bits_twice(open_database, cohort, three_threads):
    found = []
    for name in ("a", "b"):
        study = search(open_database(name), make_spec(batch_size=[16]), cohort=cohort)
        losses = [(t.number, t.params, t.user_attrs["train_loss"], t.user_attrs["val_loss"]) for t in study.trials]
        kept = {
            path.name: hash_tensors(sorted(load_file(path).items()))
            for path in sorted(kept_of(make_spec()).folder.iterdir())
        }
        found.append((asks(study), outcomes(study), sorted(losses, key=str), kept))
        assert torch.get_num_threads() == 3
    assert found[0] == found[1]


def test_a_grown_budget_adds_exactly_the_difference(storage):
    before = search(storage, make_spec(trials=4))
    old = {trial.number: (trial.state, trial.params) for trial in before.trials}
    after = search(storage, make_spec(trials=7))
    assert {cell: counted(after, cell) for cell in by_cell(after.trials)} == dict.fromkeys(by_cell(after.trials), 7)
    assert {number: (after.trials[number].state, after.trials[number].params) for number in old} == old


def test_the_first_wave_keeps_the_best_third_and_prunes_no_better_than_it_keeps(storage):
    random = {"method": "random", "startup": 9}
    lr, optimizer = {"low": 1e-4, "high": 1, "log": True}, ["adam"]
    study = search(storage, make_spec(trials=9, ask_ahead=9, sampler=random, lr=lr, optimizer=optimizer))
    for trials in by_cell(study.trials).values():
        first = [trial.intermediate_values[1] for trial in trials if 1 in trial.intermediate_values]
        bar = sorted(first, reverse=True)[math.ceil(len(first) / 3) - 1]
        went_on = [trial for trial in trials if 2 in trial.intermediate_values]
        assert {trial.number for trial in went_on} == {
            trial.number for trial in trials if trial.intermediate_values.get(1, -1) >= bar
        }
        assert len(went_on) < len(trials)


def test_published_fault_the_pruner_never_throws_the_best_away(storage):
    """Loss was reported to a study that maximised, so that the median pruner ended the best trials."""
    for method in ("halving", "median"):
        study = search(storage, make_spec(name=method, trials=9, pruner={"method": method, "first": 1}))
        assert any(trial.state == TrialState.PRUNED for trial in study.trials), f"{method} pruned nothing"
        for trials in by_cell(study.trials).values():
            pruned = [t.intermediate_values[t.last_step] for t in trials if t.state == TrialState.PRUNED]
            best = max(max(t.intermediate_values.values()) for t in trials if t.state == TrialState.COMPLETE)
            assert all(accuracy <= best for accuracy in pruned)


def test_no_pruner_prunes_nothing(storage):
    study = search(storage, make_spec(pruner={"method": "none"}))
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


def test_trials_of_another_cell_do_not_decide_who_is_pruned(open_database):
    whole, alone = search(open_database("a")), search(open_database("b"), make_spec(ranks=[2], inits=["svd"]))
    assert outcomes(alone)[Cell(2, "svd")] == outcomes(whole)[Cell(2, "svd")]


def test_failed_trials_do_not_count(storage):
    spec = make_spec(ranks=[2], inits=["svd"])
    objective = failing(make_objective(spec), lambda lane: lane.alpha > 5)
    study = search(storage, spec, objective=objective)
    failed = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    assert failed
    assert {trial.user_attrs["reason"] for trial in failed} == {"the test said so"}
    assert counted(study, Cell(2, "svd")) == 6


def test_a_cell_whose_trials_all_fail_ends_as_exhausted_with_its_reasons(storage):
    from pipeline.results.reading import read_results

    spec = make_spec(ranks=[2], trials=4)
    objective = failing(make_objective(spec), lambda lane: lane.parameters["fc1.lora_B"].shape[1] == 2)
    search(storage, spec, objective=objective)
    (result,) = read_results(storage, "tiny")
    for cell in result.cells:
        assert cell.exhausted
        assert cell.best is None
        assert sum(cell.tally.reasons.values()) == cell.tally.states["fail"] >= 4
        assert set(cell.tally.reasons) == {"the test said so"}
    study = search(storage, spec, objective=objective)
    assert len(study.trials) == sum(cell.tally.states["fail"] for cell in result.cells), "running again adds nothing"


def test_one_exhausted_cell_does_not_hold_up_the_others(storage):
    spec = make_spec(trials=4, pruner={"method": "none"}, inits=["svd"])
    objective = failing(make_objective(spec), lambda lane: lane.parameters["fc1.lora_A"].shape[0] == 1)
    study = search(storage, spec, objective=objective)
    assert counted(study, Cell(1, "svd")) == 0
    assert counted(study, Cell(2, "svd")) == 4


def test_a_finished_trial_has_all_attributes_and_those_of_its_seed_and_split(storage):
    study = search(storage)
    for trial in study.trials:
        assert set(trial.user_attrs) >= ATTRIBUTES
        assert trial.user_attrs["split"] == make_task().hashes["split"]
        assert trial.user_attrs["seed"] == 0
    sizes = {(trial.params["rank"], trial.user_attrs["bytes"]) for trial in study.trials}
    assert len(sizes) == 2, "every trial of a rank has the same size"


def test_long_trials_are_shown_while_they_train_and_end_whole(storage, monkeypatch):
    monkeypatch.setattr(ledger, "LONG", 0.0)
    monkeypatch.setattr(ledger, "EVERY", 0.0)
    monkeypatch.setattr(ledger, "AT_FIRST", math.inf)  # however slow the disk is
    spec, seen = make_spec(epochs=4, ranks=[2], inits=["svd"], pruner={"method": "none"}), []
    objective = make_objective(spec)
    train_epoch = objective.train_epoch

    def watched(lanes):
        study = optuna.load_study(study_name="tiny/int1-lora", storage=storage)
        seen.extend((trial.state, dict(trial.intermediate_values)) for trial in study.get_trials())
        train_epoch(lanes)

    objective.train_epoch = watched
    study = search(storage, spec, objective=objective)
    running = [values for state, values in seen if state == TrialState.RUNNING]
    assert {len(values) for values in running} == {0, 1, 2, 3}
    assert len(study.trials) == 6
    for trial in study.trials:
        assert trial.state == TrialState.COMPLETE
        assert list(trial.intermediate_values) == [1, 2, 3, 4]
        assert trial.value == max(trial.intermediate_values.values())
        assert set(trial.user_attrs) >= ATTRIBUTES


def test_showing_long_trials_changes_neither_asks_nor_values(open_database, monkeypatch):
    whole = search(open_database("a"))
    monkeypatch.setattr(ledger, "LONG", 0.0)
    monkeypatch.setattr(ledger, "EVERY", 0.0)
    monkeypatch.setattr(ledger, "AT_FIRST", math.inf)  # however slow the disk is
    shown = search(open_database("b"))
    assert (asks(shown), outcomes(shown)) == (asks(whole), outcomes(whole))


def test_progress_counts_up_to_the_budget_and_knows_the_best(storage):
    shown = []
    study = search(storage, shown=shown)
    done = [progress.done for progress in shown]
    assert done == sorted(done)
    assert (done[-1], shown[-1].budget, shown[-1].running) == (24, 24, 0)
    assert shown[-1].best == study.best_value


def test_published_fault_batch_norm_statistics_stay_as_they_were_and_so_does_eval_mode(storage):
    """Batch norm was left in train mode in the "frozen" backbone."""
    task = make_task(BatchNormNet)
    before = {key: tensor.clone() for key, tensor in task.model.state_dict().items()}
    spec = make_spec(trials=4, epochs=2)
    objective = make_objective(spec, task)
    assert objective.combination.targets == ["conv1", "conv2", "head"]
    study = search(storage, spec, objective=objective)
    assert any(trial.state == TrialState.COMPLETE for trial in study.trials)
    for model in (task.model, objective.combination.compressed.model):
        assert not any(module.training for module in model.modules())
        for key, tensor in model.state_dict().items():
            if key.startswith("bn"):
                assert torch.equal(tensor, before[key]), key


def test_published_fault_one_split_serves_every_trial(open_database):
    """Splits were drawn anew, unseeded, in every trial."""
    studies = [search(open_database("a"), make_spec(trials=4)), search(open_database("b"), make_spec(seed=7, trials=4))]
    assert {trial.user_attrs["split"] for study in studies for trial in study.trials} == {make_task().hashes["split"]}


def test_only_the_best_adapter_of_each_cell_is_kept(storage):
    from pipeline.run.winners import find_winners

    spec = make_spec()
    study = search(storage, spec)
    winners = find_winners(study)
    kept = kept_of(spec)
    assert {path.name for path in kept.folder.iterdir()} == {f"rank-{c.rank}.{c.init}.safetensors" for c in winners}
    assert all(kept.load(cell, trial.number) is not None for cell, trial in winners.items())
