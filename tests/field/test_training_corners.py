"""Batches of one image, very few images, and callers that have switched gradients off."""

import optuna
import pytest
import torch
from tiny_data import write_images
from tiny_studies import blobs, count_correct, make_objective, make_spec, make_task
from torch import Tensor, nn

from pipeline.compress.layer_statistics import reestimate
from pipeline.compress.methods.prune_gradient import PruneGradient
from pipeline.config.task_spec import TaskSpec
from pipeline.errors import IntegrityError, SpecError
from pipeline.objective.objective import Objective
from pipeline.task.contract import Task
from pipeline.task.parts import TensorPart
from pipeline.task.prepare import prepare
from pipeline.task.training_batches import count_batches, training_batches

optuna.logging.set_verbosity(optuna.logging.ERROR)


class WithNorm(nn.Module):
    """A network in which batch norm has one value per image and channel."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(16, 12), nn.BatchNorm1d(12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.norm(self.fc1(x))))


def part(count: int) -> TensorPart:
    return TensorPart(*blobs(count, 1))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 7, 32])
def test_training_batches_hold_every_image_once_and_none_alone(batch_size):
    for count in range(1, 100):
        whole, order = TensorPart(torch.arange(count).float(), torch.arange(count)), torch.randperm(count)
        batches = [labels for _, labels in training_batches(whole, batch_size, order)]
        assert torch.equal(torch.cat(batches), order)
        assert len(batches) == count_batches(count, batch_size)
        assert all(len(batch) <= batch_size + 1 for batch in batches)
        if count > 1 and batch_size > 1:
            assert min(map(len, batches)) > 1
        if count % batch_size != 1:
            plain = [labels for _, labels in whole.batches(batch_size, order)]
            assert all(map(torch.equal, batches, plain))


@pytest.mark.parametrize("count", [2, 3, 31, 32, 33, 64, 65, 97])
def test_batch_norm_is_estimated_again_over_any_number_of_images(count):
    model = WithNorm().eval()
    reestimate(model, part(count))
    assert model.norm.running_var.isfinite().all()
    assert model.norm.running_var.min() > 0
    assert not model.norm.training


@pytest.mark.parametrize("count", [4, 33, 97])
@pytest.mark.parametrize("batch_size", [1, 4, 32, 96, 200])
@pytest.mark.parametrize("compression", ["int1", {"method": "prune_gradient", "batch_size": 32}])
def test_trials_complete_over_any_number_of_images(count, batch_size, compression):
    task = Task(WithNorm(), blobs(count, 1), blobs(5, 2), blobs(1, 3))
    combination = {"compression": compression, "batch_norm": "reestimated", "targets": ["fc1"]}
    table = {"combination": combination, "ranks": [1], "inits": ["paper"], "batch_size": [batch_size], "epochs": 1}
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(make_objective(make_spec(**table), task), n_trials=1)
    assert study.trials[0].state.name == "COMPLETE"


@pytest.mark.parametrize(
    ("combination", "said"),
    [
        (
            {"batch_norm": "reestimated"},
            'batch_norm = "reestimated" = 32 over 1 training image gives',
        ),
        ({"compression": {"method": "prune_gradient", "batch_size": 1}}, "batch_size of prune_gradient = 1 over"),
    ],
)
def test_batch_norm_over_one_image_is_refused(combination, said):
    count = 1 if "batch_norm" in combination else 8
    task = Task(WithNorm(), *[blobs(count, 1)] * 3, metric="agreement")
    with pytest.raises(SpecError, match=f"{said}.* batches of one image.* give 2 or more of both"):
        make_objective(make_spec(combination=combination), task).combination.compressed  # noqa: B018


def test_plans_and_checks_refuse_what_a_run_would():
    with pytest.raises(SpecError, match="batch_size of prune_gradient = 1 over 8 training images"):
        PruneGradient(batch_size=1).outline(WithNorm(), ["fc1"], part(8))


@pytest.mark.parametrize("count", [32, 33])
def test_batch_norm_without_running_statistics_is_refused(count):
    model = WithNorm()
    model.norm = nn.BatchNorm1d(12, track_running_stats=False)
    with pytest.raises(IntegrityError, match="'norm' of the model is a BatchNorm1d without running statistics"):
        Task(model, blobs(count, 1), blobs(5, 2), blobs(5, 3))


def spec(tmp_path, count: int = 12, **baseline) -> TaskSpec:
    write_images(tmp_path / "images", count)
    data = {"source": "image-folder", "root": str(tmp_path / "images")}
    model = baseline.pop("model", {"source": "mlp", "widths": [192, 16, 3]})
    split = {"val": 0.2, "test": 0.2}
    return TaskSpec.model_validate({"model": model, "data": data, "split": split, "baseline": baseline})


@pytest.mark.parametrize("batch_size", [1, 2, 11, 22])  # of 23 training images
def test_a_baseline_is_trained_on_every_image_of_an_epoch(batch_size, tmp_path):
    task = prepare(spec(tmp_path, epochs=20, lr=3e-3, batch_size=batch_size))
    assert count_correct(task.model, task.test) == len(task.test)


def test_a_baseline_with_batch_norm_is_trained_on_batches_of_two_or_more(tmp_path):
    model = {"source": "timm", "architecture": "test_resnet", "image_size": 32}
    with pytest.raises(SpecError, match=r"^task\.baseline\.batch_size = 1 over 23 training images gives"):
        prepare(spec(tmp_path, epochs=1, batch_size=1, model=model))
    assert prepare(spec(tmp_path, epochs=1, batch_size=22, model=model)).trained


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
@pytest.mark.parametrize("inside", ["all", "task", "trials"])
def test_a_caller_that_has_switched_gradients_off_gets_the_same_trials(mode, inside):
    def accuracies(task: Task, run: Objective) -> list[float]:
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
        study.optimize(run, n_trials=2)
        return [trial.value for trial in study.trials]

    def task() -> Task:
        return Task(make_task().model, blobs(96, 1), blobs(80, 2), blobs(80, 3))

    expected = accuracies(task(), make_objective(task=task()))
    given = mode()(task)() if inside != "trials" else task()
    run = mode()(make_objective)(task=given) if inside == "all" else make_objective(task=given)
    measured = accuracies if inside == "task" else mode()(accuracies)
    assert measured(given, run) == expected
