"""Distillation of the outputs of blocks, through the whole models."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from tiny_studies import BatchNormNet, Mlp, ResidualNet, adapted, make_spec, make_task, search

from pipeline.config.study_file import pinned
from pipeline.errors import SpecError
from pipeline.objective.objective import Objective
from pipeline.objective.passes import measure_pass
from pipeline.run.estimate import plan_cache
from pipeline.run.objectives import refuse_misfit_training
from pipeline.space import Values
from pipeline.task.contract import Task
from pipeline.train.block_outputs import BlockOutputs

LOSS = {"method": "distillation", "features": ["bn1", "bn2"], "feature_weight": 0.5}
VALUES = Values(rank=1, init="svd", alpha=2.0, optimizer="adam", lr=0.01, batch_size=96)


def make_objective(task: Task | None = None, combination: dict | None = None, **search: object) -> Objective:
    spec = make_spec(combination=combination, **{"loss": LOSS, "epochs": 2, **search})
    return Objective(task or make_task(ResidualNet), spec.combination[0], spec.search)


def outputs(model: torch.nn.Module, images: torch.Tensor, *names: str) -> list[torch.Tensor]:
    """The logits of a model, and the outputs of some of its modules."""
    found = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda *given, name=name: found.update({name: given[2]}))
        for name in names
    ]
    logits = model(images)
    for hook in hooks:
        hook.remove()
    return [logits, *(found[name] for name in names)]


def test_the_loss_is_that_of_the_logits_and_the_relative_errors_of_the_blocks():
    objective = make_objective()
    task, values = objective.task, replace(VALUES, init="paper")  # starts at the compressed model
    lane = objective.lane(values)
    objective.train_epoch([lane])
    logits, *blocks = outputs(objective.combination.compressed.model, task.train.images, "bn1", "bn2")
    wanted, *taught = outputs(task.model, task.train.images, "bn1", "bn2")
    p = (wanted / 2).softmax(1)
    expected = 4 * torch.nn.functional.kl_div((logits / 2).log_softmax(1), p, reduction="batchmean")
    errors = [((y - t) ** 2).mean() / t.var(correction=0) for y, t in zip(blocks, taught, strict=True)]
    expected += 0.5 * (errors[0] + errors[1]) / 2
    assert min(errors) > 0.01
    assert lane.curve[0].train_loss == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("augmentation", [[], ["flip"]], ids=["plain", "augmented"])
def test_lanes_of_mixed_ranks_are_taught_in_a_cohort_as_they_are_alone(augmentation):
    task, preprocessing = make_task(BatchNormNet), {"mean": [0.0], "std": [1.0]}
    parts = {name: getattr(task, name) for name in ("train", "val", "test")}
    images = {name: (part.images.view(-1, 1, 4, 4), part.labels) for name, part in parts.items()}
    task = Task(task.model, **images, description={"preprocessing": preprocessing})
    trials = [replace(VALUES, rank=rank, alpha=alpha) for rank, alpha in ((1, 2.0), (2, 4.0), (1, 6.0))]
    objectives = [make_objective(task, augmentation=augmentation) for _ in range(2)]
    together = [objectives[0].lane(values) for values in trials]
    alone = [objectives[1].lane(values) for values in trials]
    for _ in range(2):
        objectives[0].train_epoch(together)
        for lane in alone:
            objectives[1].train_epoch([lane])
    of_alone = {lane.alpha: lane for lane in alone}
    for lane in together:
        for one, other in zip(lane.curve, of_alone[lane.alpha].curve, strict=True):
            assert (one.train_loss, one.val_loss) == pytest.approx((other.train_loss, other.val_loss), rel=1e-3)


def test_it_teaches_the_blocks():
    far, near = (
        make_objective(loss={**LOSS, "feature_weight": weight}, epochs=20, batch_size=[32]) for weight in (1e-6, 20.0)
    )
    errors = []
    for objective in (far, near):
        lane = objective.lane(replace(VALUES, rank=2, batch_size=32))
        for _ in objective.epochs(lane):
            pass
        images = objective.task.val.images
        (_, wanted) = outputs(objective.task.model, images, "bn2")
        (_, found) = outputs(adapted(objective, lane.parameters, lane.alpha), images, "bn2")
        errors.append(float(((found - wanted) ** 2).mean() / wanted.var()))
    assert errors[1] < 0.8 * errors[0]


def test_a_study_is_searched_and_planned_with_the_whole_models(storage):
    loss = {**LOSS, "features": ["fc1"]}
    few = {"ranks": [1], "inits": ["svd"], "batch_size": [32], "trials": 4, "epochs": 2}
    spec = make_spec(loss=loss, **few)
    objective = make_objective(make_task(), loss=loss, **few)
    assert measure_pass(objective).seconds > 0
    plan = plan_cache(objective, set())
    assert plan["bytes"] == 0
    assert "the whole model in every epoch: the loss compares the outputs of fc1" in plan["said"]
    assert "the uncompressed model runs beside it" in plan["said"]
    study = search(storage, spec, objective=objective)
    assert all(trial.value is None or trial.value > 0.25 for trial in study.trials)


PRUNED = {"compression": {"method": "prune_magnitude", "keep": 0.5}, "adapter": "full"}


@pytest.mark.parametrize(
    ("model", "combination", "block", "said"),
    [
        (ResidualNet, {}, "bn3", "names 'bn3', and the model has no such module; did you mean 'bn2'?"),
        (Mlp, PRUNED, "fc1", "whose output is [12] in the uncompressed model and [6] in the compressed one"),
    ],
    ids=["unknown", "narrowed"],
)
def test_blocks_that_cannot_be_compared_are_refused_before_any_training(model, combination, block, said):
    objective = make_objective(make_task(model), combination, loss={**LOSS, "features": [block]})
    with pytest.raises(SpecError, match=r"combination 'one': search\.loss\.features") as raised:
        refuse_misfit_training({"one": objective})
    assert said in str(raised.value)


class Uncalled(ResidualNet):
    """Has a module that its forward does not call, and one that returns two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.spare, self.pair = torch.nn.Identity(), Pair()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pair(super().forward(x))[0]


class Pair(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


@pytest.mark.parametrize(("name", "said"), [("spare", "does not call"), ("pair", "not one tensor with a row")])
def test_modules_without_one_output_are_refused(name, said):
    objective = make_objective(make_task(Uncalled), loss={**LOSS, "features": [name]})
    with pytest.raises(SpecError, match=said):
        objective.train_epoch([objective.lane(VALUES)])


def test_distillation_without_blocks_is_pinned_as_before_there_were_any():
    spec = make_spec(loss={"method": "distillation"})
    table = pinned(spec, spec.combination[0])["search"]["loss"]
    assert table == {"method": "distillation", "temperature": 2.0, "labels": 0.0, "smoothing": 0.0}


def test_threads_that_compute_at_once_get_the_outputs_of_their_own_images():
    both = threading.Barrier(2, timeout=60)

    class Waiting(torch.nn.Identity):
        def forward(self, x):
            both.wait()
            return x

    blocks = BlockOutputs(torch.nn.Sequential(torch.nn.Identity(), Waiting()), ["0"])
    images = [torch.zeros(2, 3), torch.ones(2, 3)]
    with ThreadPoolExecutor(2) as pool:
        for given, (_, held) in zip(images, pool.map(blocks, images), strict=True):
            assert torch.equal(held, given)
