import json

import optuna
import pytest
import torch
from tiny_studies import BatchNormNet, Mlp, kept_of, make_objective, make_spec, make_task, measure, search

from pipeline import load, save
from pipeline.errors import NothingUsableError, RestoraError
from pipeline.export.selection import export_combination
from pipeline.results.reading import read_results
from pipeline.run.winners import score_winners
from pipeline.store.database import open_storage


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def optimized():
    """A study of a user's own, over a user's own module."""
    objective = make_objective()
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=4)
    return objective, study


def test_the_best_trial_of_a_users_own_study_is_exported_and_loaded_into_the_users_module(optimized, tmp_path):
    objective, study = optimized
    folder = save(objective, study.best_trial, tmp_path / "mine")
    model = load(folder, model=Mlp())
    card = json.loads((folder / "card.json").read_text())
    assert card["trial"] == study.best_trial.number
    val, test = (measure(model, part) for part in (objective.combination.task.val, objective.combination.task.test))
    assert val[0] / val[1] == study.best_value
    assert card["accuracy"]["recovered"]["val"]["accuracy"] == study.best_value
    assert test == [card["accuracy"]["recovered"]["test"][key] for key in ("correct", "images")]
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_loading_without_the_users_module_says_what_to_give(optimized, tmp_path):
    folder = save(optimized[0], optimized[1].best_trial, tmp_path / "mine")
    with pytest.raises(RestoraError, match="give the module as model="):
        load(folder)


def test_convolutions_and_batch_norms_of_a_users_module_come_back_whole(tmp_path):
    objective = make_objective(
        make_spec(combination={"compression": {"method": "sparse", "block": "4x4"}}), make_task(BatchNormNet)
    )
    study = optuna.create_study(direction="maximize")
    study.optimize(objective, n_trials=1)
    folder = save(objective, study.best_trial, tmp_path / "mine")
    model = load(folder, model=BatchNormNet())
    for key, tensor in objective.combination.task.model.state_dict().items():
        if key.startswith("bn"):
            assert torch.equal(model.state_dict()[key], tensor), key
    correct, images = measure(model, objective.combination.task.val)
    assert correct / images == study.best_value


@pytest.fixture
def stored():
    spec = make_spec(trials=4, pruner={"method": "none"})
    storage = open_storage("sqlite:///studies.db")
    objective = make_objective(spec)
    study = search(storage, spec, objective=objective)
    score_winners(objective, study, kept_of(spec), 3)
    yield objective, read_results(storage, "tiny")[0], kept_of(spec)
    storage.remove_session()
    storage.engine.dispose()


def test_every_rank_is_exported_by_validation_with_its_spread_over_seeds(stored):
    objective, result, kept = stored
    folders = list(export_combination(objective, result, kept))
    assert [str(folder) for folder in folders] == [f"storage/exports/tiny/int1-lora/rank-{rank}" for rank in (1, 2)]
    for rank, folder in zip((1, 2), folders, strict=True):
        card = json.loads((folder / "card.json").read_text())
        cells = [cell for cell in result.cells if cell.cell.rank == rank]
        best = max(cells, key=lambda cell: cell.best.value)
        assert card["trial"] == best.best.number
        assert card["accuracy"]["recovered"]["test"]["correct"] == best.test.correct
        seeds = card["accuracy"]["seeds"]
        assert len(seeds["test"]) == 3
        assert (seeds["mean"], seeds["standard_deviation"]) == best.test_spread()
        correct, images = measure(load(folder, model=Mlp()), objective.combination.task.test)
        assert correct / images == card["accuracy"]["recovered"]["test"]["accuracy"]


def test_another_trial_is_trained_again_to_the_validation_accuracy_that_is_stored(stored):
    objective, result, kept = stored
    winners = {cell.best.number for cell in result.cells}
    other = next(trial for trial in result.study.trials if trial.number not in winners)
    (folder,) = export_combination(objective, result, kept, other.number)
    card = json.loads((folder / "card.json").read_text())
    assert card["trial"] == other.number
    assert card["chosen_by"] == f"--trial {other.number}"
    assert "seeds" not in card["accuracy"], "the spread is the winner's"
    model = load(folder, model=Mlp())
    correct, images = measure(model, objective.combination.task.val)
    assert correct / images == pytest.approx(other.value, abs=1 / images)
    assert measure(model, objective.combination.task.test)[0] == card["accuracy"]["recovered"]["test"]["correct"]


def test_a_missing_trial_is_answered_with_the_complete_ones(stored):
    objective, result, kept = stored
    with pytest.raises(NothingUsableError, match=r"trial 99 .* complete trials: 0, 1"):
        list(export_combination(objective, result, kept, 99))


def test_the_card_has_the_size_of_the_file_even_if_an_init_changed_the_size_of_the_base(tmp_path):
    combination = {"compression": {"method": "svd", "energy": 0.6}}
    objective = make_objective(make_spec(ranks=[2], inits=["pissa", "svd"], combination=combination))
    sizes = set()
    for init in ("pissa", "svd"):
        study = optuna.create_study(direction="maximize")
        study.enqueue_trial({"init": init})
        study.optimize(objective, n_trials=1)
        size = json.loads((save(objective, study.best_trial, tmp_path / init) / "card.json").read_text())["size"]
        assert size["tensor_bytes"] == study.best_trial.user_attrs["bytes"]
        assert size["ratio"] == size["dense_bytes"] / size["tensor_bytes"]
        sizes.add(size["tensor_bytes"])
    assert len(sizes) == 2
