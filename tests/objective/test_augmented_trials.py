"""Trials on augmented images: seeded, the same alone and in a cohort, and refused where frozen layers run once."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny_studies import BatchNormNet, ResidualNet, blobs, make_spec, outcomes, search, trained

from pipeline.config.spec import ComputeSpec
from pipeline.config.study_file import pinned, upgraded
from pipeline.errors import SpecError
from pipeline.objective.objective import Objective
from pipeline.objective.passes import measure_pass, probe_rows
from pipeline.run.estimate import plan_cache
from pipeline.run.objectives import refuse_misfit_training
from pipeline.space import Values
from pipeline.task.contract import Task

AUGMENTATION = [{"method": "shift", "pixels": 1}, "flip"]
DISTIL = {"method": "distillation", "labels": 0.5}
VALUES = Values(rank=1, init="svd", alpha=2.0, optimizer="adam", lr=0.01, batch_size=16)
PREPROCESSING = {"mean": [0.5], "std": [0.25]}


def make_images(model: type[torch.nn.Module] = BatchNormNet) -> Task:
    """The task of four blobs, as images of 4 x 4."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = trained(model(), steps=20)
    parts = {name: blobs(80, seed) for seed, name in enumerate(("train", "val", "test"), start=1)}
    images = {name: (images.view(-1, 1, 4, 4), labels) for name, (images, labels) in parts.items()}
    return Task(module, **images, description={"preprocessing": PREPROCESSING})


def make_objective(
    task: Task | None = None, cache: str = "float32", targets: str = "*", **options: object
) -> Objective:
    spec = make_spec(combination={"targets": [targets]}, **{"augmentation": AUGMENTATION, "epochs": 2, **options})
    return Objective(task or make_images(), spec.combination[0], spec.search, ComputeSpec(cache=cache), seed=7)


def course(objective: Objective, *lanes: Values) -> list[list[tuple[float, float]]]:
    """The losses of lanes that train together."""
    begun = [objective.lane(values) for values in lanes]
    for _ in range(2):
        objective.train_epoch(begun)
    return [[(epoch.train_loss, epoch.val_loss) for epoch in lane.curve] for lane in begun]


@pytest.mark.parametrize("loss", ["cross-entropy", DISTIL], ids=["labels", "teacher"])
def test_a_lane_sees_the_same_images_alone_and_in_a_cohort(loss):
    task, other = make_images(), replace(VALUES, alpha=6.0, lr=0.02)
    alone, again, (first, _) = (
        course(make_objective(task, loss=loss), *lanes) for lanes in ([VALUES], [VALUES], [VALUES, other])
    )
    assert alone == again
    assert alone[0] == [pytest.approx(epoch, rel=1e-4) for epoch in first]
    plain = course(make_objective(task, loss=loss, augmentation=[]), VALUES)
    assert [epoch for epoch, _ in plain[0]] != [pytest.approx(epoch, rel=1e-3) for epoch, _ in alone[0]]


def test_batches_change_with_epoch_and_step_and_not_with_what_ran_before():
    objective = make_objective()
    bases, order = objective.bases, torch.zeros(40, dtype=torch.int64)  # one image again and again

    def batches(seed: int) -> list[torch.Tensor]:
        rows = bases.training_rows(bases.common, seed)
        return [inputs[0] for inputs, _ in rows.batches(20, order)]

    first, second = batches(1)
    assert not torch.equal(first, second)
    assert all(map(torch.equal, batches(1), (first, second)))
    assert not torch.equal(batches(2)[0], first)


def test_the_teacher_is_asked_about_the_augmented_images():
    objective = make_objective(loss=DISTIL, cache="off")  # the whole model: its inputs are the images
    bases, task = objective.bases, objective.task
    (images, logits), labels = next(bases.training_rows(bases.common, 3).batches(80))
    assert torch.equal(labels, task.train.labels)
    assert not torch.equal(images, task.train.images)
    torch.testing.assert_close(logits, task.model(images))
    inputs, _ = next(bases.rows(bases.common, "val").batches(80))
    assert torch.equal(inputs[0], task.val.images)
    torch.testing.assert_close(inputs[-1], task.model(task.val.images))


def test_a_probe_and_a_plan_count_what_is_computed_anew_in_every_epoch(said):
    objective = make_objective(loss=DISTIL)
    assert len(probe_rows(objective, 100)) == 100
    assert measure_pass(objective).seconds > 0
    cache = plan_cache(objective, set())
    assert cache["bytes"] == 4 * 4 * 80  # the teacher's logits of the validation part
    assert "augmented in every epoch (shift, flip)" in cache["said"]
    assert "computed for augmented images" in cache["said"]


@pytest.mark.parametrize("cache", ["float32", "off"])
def test_where_frozen_layers_come_first_augmentation_needs_the_cache_off(cache):
    objective = make_objective(make_images(ResidualNet), cache, targets="head")
    if cache == "off":
        course(objective, VALUES)
        refuse_misfit_training({"one": objective})
        return
    with pytest.raises(SpecError, match=r"\(shift, flip\) changes the images .* set compute.cache = \"off\""):
        objective.train_epoch([objective.lane(VALUES)])
    with pytest.raises(SpecError, match=r"combination 'one': search\.augmentation"):
        refuse_misfit_training({"one": objective})


def test_a_combination_that_trains_nothing_needs_no_augmentation():
    task = make_images(ResidualNet)
    spec = make_spec(combination={"targets": ["head"], "adapter": "none"}, augmentation=AUGMENTATION)
    objective = Objective(task, spec.combination[0], spec.search)
    assert objective.bases.augmenter is None


def test_a_search_on_augmented_images_comes_to_the_same_whatever_shares_a_pass(open_database):
    few = {"ranks": [1], "inits": ["svd"], "batch_size": [32], "trials": 4, "epochs": 2}
    spec, task = make_spec(augmentation=AUGMENTATION, **few), make_images()
    found = []
    for cohort in (1, 3):
        objective = Objective(task, spec.combination[0], spec.search, seed=spec.seed)
        study = search(open_database(f"by {cohort}"), spec, objective=objective, cohort=cohort)
        found.append(outcomes(study))
    assert found[0] == found[1]


def test_a_study_stored_before_there_was_augmentation_goes_on():
    spec = make_spec()
    table = pinned(spec, spec.combination[0])
    assert table["search"].pop("augmentation") == []
    assert upgraded(copy.deepcopy(table)) == pinned(spec, spec.combination[0])


@pytest.mark.parametrize(
    ("augmentation", "said"),
    [
        (["shfit"], "unknown augmentation 'shfit'; did you mean 'shift'?"),
        ([{"method": "shift", "pixel": 2}], "unknown key; did you mean 'pixels'?"),
        ([{"method": "crop", "padding": 0}], "greater than or equal to 1"),
        ("flip", "must be a list"),
    ],
)
def test_an_augmentation_that_cannot_be_is_named(augmentation, said):
    with pytest.raises(SpecError) as raised:
        make_spec(augmentation=augmentation)
    assert said in str(raised.value)
