"""Every registered metric, optimizer, schedule, sampler, pruner and allocation keeps the promises of its contract."""

import math
from itertools import pairwise

import optuna
import pytest
import torch
from optuna.trial import TrialState, create_trial
from tiny_studies import make_search

from pipeline.config.registry import ALLOCATIONS, METRICS, OPTIMIZERS, PRUNERS, SAMPLERS, SCHEDULES
from pipeline.objective.allocations.contract import Cost, Layer
from pipeline.task.parts import TensorPart
from pipeline.train.lane import LaneOptimizer


def each(registry):
    return pytest.mark.parametrize("method", [method() for method in registry], ids=lambda method: method.name)


@each(METRICS)
def test_a_metric_labels_every_image_with_a_class_and_leaves_the_images_alone(method):
    torch.manual_seed(0)
    part, model = TensorPart(torch.randn(9, 5), torch.arange(9) % 3), torch.nn.Linear(5, 3).eval()
    judged = method.relabelled(part, model)
    assert len(judged) == len(judged.labels) == 9
    assert set(judged.labels.tolist()) <= {0, 1, 2}
    assert torch.equal(torch.cat([images for images, _ in judged.batches(4)]), part.images)
    if method.uses_labels:
        assert torch.equal(judged.labels, part.labels)


@each(OPTIMIZERS)
def test_an_optimizer_goes_down_a_parabola(method):
    parameters = torch.tensor([[3.0, -2.0]])
    optimizer = LaneOptimizer(parameters, *torch.zeros(2, 1, 2), [method.rule])
    for step in range(1, 301):
        optimizer.step(2 * parameters, [0.02], step, [True])
    assert parameters.abs().max() < 0.1


@each(SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_a_schedule_starts_at_the_peak_and_stays_between_it_and_zero(method, steps):
    shares = [method.share(step, steps) for step in range(steps)]
    assert shares[0] == 1
    assert all(0 <= share <= 1 for share in shares)


SPACE = {
    "lr": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
    "optimizer": optuna.distributions.CategoricalDistribution(["adam", "sgd"]),
}


def study_of(trials):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for i in range(trials):
        params = {"lr": 1e-4 * (i + 1), "optimizer": ("adam", "sgd")[i % 2]}
        study.add_trial(create_trial(params=params, distributions=SPACE, value=i / trials))
    return study


@each(SAMPLERS)
@pytest.mark.parametrize("trials", [0, 12])
def test_a_sampler_chooses_within_the_space_and_the_same_under_the_same_seed(method, trials):
    chosen = []
    for seed in (1, 1, 2):
        study = study_of(trials)
        study.sampler = method.build(seed)
        chosen.append(study.ask(SPACE).params)
    assert chosen[0] == chosen[1] != chosen[2]
    assert all(1e-4 <= params["lr"] <= 1e-2 for params in chosen)


@each(PRUNERS)
def test_a_pruner_never_ends_the_best_trial_nor_one_that_has_not_reported(method):
    study, pruner = study_of(5), method.build(startup=2)
    for values in ({1: 0.9}, {1: 0.2}, {1: 0.1}, {}):
        study.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values=values))
    best, *_, silent = [trial for trial in study.trials if trial.state == TrialState.RUNNING]
    assert not pruner.prune(study, best)
    assert not pruner.prune(study, silent)


@each(PRUNERS)
@pytest.mark.parametrize(("epochs", "trials", "ask_ahead"), [(1, 1, 1), (9, 7, 1), (9, 7, 4), (20, 30, 9)])
def test_a_pruner_expects_no_more_epochs_than_a_cell_has_and_all_of_them_where_it_is_idle(
    method, epochs, trials, ask_ahead
):
    sampler = {"method": "random", "startup": 4}
    search = make_search(epochs=epochs, trials=trials, ask_ahead=ask_ahead, sampler=sampler, pruner=method)
    expected = method.expected_epochs(search)
    assert trials <= expected <= epochs * trials
    if method.idle(search):
        assert expected == epochs * trials


@each(ALLOCATIONS)
def test_the_keys_of_an_allocation_do_not_fall_and_are_at_most_one_per_rank(method):
    for spectrum in ([5.0, 3.0, 1.0, 0.5], [1.0, 1.0, 1.0], [2.0, 0.0], [0.0, 0.0]):
        for most in (1, len(spectrum)):
            keys = method.keys(Layer(Cost(7, 3, most), torch.tensor(spectrum, dtype=torch.float64), 0.5))
            assert len(keys) <= most
            assert all(math.isfinite(key) for key in keys)
            assert all(earlier <= later for earlier, later in pairwise(keys))
            assert keys or not any(spectrum)
