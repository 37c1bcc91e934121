"""Studies that learn from the uncompressed model's logits, and from its answers."""

import copy

import pytest
import torch
from tiny_studies import Mlp, blobs, kept_of, make_objective, make_spec, make_task, outcomes, search, trained

from pipeline.adapt.lanes import Lanes
from pipeline.config.spec import ComputeSpec, StudySpec
from pipeline.config.study_file import pinned, upgraded
from pipeline.errors import SpecError
from pipeline.objective.objective import Objective
from pipeline.objective.passes import measure_pass, probe_rows
from pipeline.results.reading import find_winners
from pipeline.run.estimate import plan_cache
from pipeline.run.objectives import make_objectives
from pipeline.run.winners import score_winners
from pipeline.space import Values
from pipeline.store.stored_study import refuse_differences
from pipeline.task.contract import Task
from pipeline.train.lane import Lane
from pipeline.train.rows import TensorRows

DISTIL = {"method": "distillation", "temperature": 2.0}
VALUES = Values(rank=1, init="svd", alpha=2.0, optimizer="adam", lr=0.01, batch_size=16)


def agreement() -> Task:
    """The tiny task without any label of its own."""
    task, nonsense = make_task(), torch.zeros(96, dtype=torch.int64)
    parts = {
        name: (getattr(task, name).images, nonsense[: len(getattr(task, name))]) for name in ("train", "val", "test")
    }
    return Task(task.model, **parts, metric="agreement")


def test_a_label_free_study_is_searched_and_tested_to_the_end_and_nears_the_uncompressed_model(storage):
    spec = make_spec(loss=DISTIL, epochs=4)
    objective = make_objective(spec, agreement())
    study = search(storage, spec, objective=objective)
    score_winners(objective, study, kept_of(spec), 2)
    assert study.user_attrs["baseline"] == {"val": [80, 80], "test": [80, 80]}
    compressed = study.user_attrs["compressed"]["val"][0] / 80
    winners = find_winners(study)
    assert len(winners) == 4
    for cell, trial in winners.items():
        assert trial.value > compressed
        losses = trial.user_attrs["val_loss"]
        assert min(losses) < losses[0] or len(losses) == 1
        assert len(study.user_attrs[cell.winner_key]["seeds"]) == 2


def test_distillation_without_labels_trains_the_same_whatever_they_say():
    images = {name: blobs(80, seed)[0] for seed, name in enumerate(("train", "val", "test"), start=1)}
    model, lanes = trained(Mlp()), []
    for shift in (0, 1):
        task = Task(model, **{name: (each, (torch.arange(80) + shift) % 4) for name, each in images.items()})
        objective = make_objective(make_spec(loss=DISTIL), task)
        lanes.append(objective.lane(VALUES))
        objective.train_epoch(lanes[-1:])
    first, second = (lane.parameters for lane in lanes)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert lanes[0].curve[0].val_loss == lanes[1].curve[0].val_loss
    assert lanes[0].curve[0].val_accuracy != lanes[1].curve[0].val_accuracy


def both(spec: StudySpec) -> dict[str, Objective]:
    """The objectives of two combinations of one study."""
    first = spec.combination[0]
    second = first.model_copy(update={"name": "fc2", "targets": ("fc2",)})
    spec = spec.model_copy(update={"combination": (first, second)})
    return make_objectives(spec, make_task(), "cpu")


def test_the_combinations_of_a_study_share_the_teachers_logits(said):
    for objective in both(make_spec(loss=DISTIL)).values():
        for name in ("train", "val"):
            rows = objective.bases.rows(objective.bases.common, name)
            assert isinstance(rows, TensorRows)
            part = getattr(objective.combination.task, name)
            torch.testing.assert_close(rows.tensors[-1], objective.combination.task.model(part.images))
            assert torch.equal(rows.labels, part.labels)
            assert len(rows.tensors) == len(objective.bases.common.rows(name).tensors) + 1
    assert len([line for line in said if "once over 96 images" in line]) == 2  # the teacher's, and those before fc2


def test_without_a_cache_lanes_are_taught_the_same():
    curves = []
    for cache in ("float32", "off"):
        spec = make_spec(loss={**DISTIL, "labels": 0.5, "smoothing": 0.1})
        objective = Objective(make_task(), spec.combination[0], spec.search, ComputeSpec(cache=cache))
        lane = objective.lane(VALUES)
        for _ in range(2):
            objective.train_epoch([lane])
            objective.bases.release()
        curves.append([(epoch.train_loss, epoch.val_loss) for epoch in lane.curve])
    assert curves[0] == [pytest.approx(epoch, rel=1e-4) for epoch in curves[1]]


def test_a_lane_trains_on_the_loss_that_the_study_file_says():
    objective = make_objective(make_spec(loss={**DISTIL, "labels": 0.25, "smoothing": 0.2}))
    lane = objective.lane(Values(**{**vars(VALUES), "batch_size": 96}))
    own, task = copy.deepcopy(lane), objective.combination.task
    objective.train_epoch([lane])
    alone = objective.bases.common.program.bind(_one_lane(own), False)(*objective.bases.common.rows("train").tensors)
    p = (task.model(task.train.images) / 2).softmax(1)
    kl = torch.nn.functional.kl_div((alone / 2).log_softmax(1), p, reduction="batchmean")
    hard = torch.nn.functional.cross_entropy(alone, task.train.labels, label_smoothing=0.2)
    assert lane.curve[0].train_loss == pytest.approx(float(0.25 * hard + 0.75 * 4 * kl), rel=1e-5)


def _one_lane(lane: Lane) -> Lanes:
    return Lanes([({name: tensor[None] for name, tensor in lane.parameters.items()}, [lane.alpha])])


def test_a_probe_and_a_plan_count_the_teacher():
    taught, plain = make_objective(make_spec(loss=DISTIL)), make_objective()
    ((*_, logits), _) = next(probe_rows(taught, 100).batches(100))
    assert torch.equal(logits[:32], taught.combination.task.model(taught.combination.task.train.images[:32]))
    assert measure_pass(taught).images > 0
    assert plan_cache(plain, set())["bytes"] == 0
    assert plan_cache(taught, set())["bytes"] == plan_cache(taught, set())["missing_bytes"] == 4 * 4 * (96 + 80)
    for name in ("train", "val"):
        taught.bases.rows(taught.bases.common, name)
    assert plan_cache(taught, set())["missing_bytes"] == 0


def test_a_study_stored_before_there_were_losses_and_metrics_goes_on_and_another_loss_is_refused():
    spec = make_spec()
    table = pinned(spec, spec.combination[0])
    assert table["search"].pop("loss") == {"method": "cross-entropy", "smoothing": 0.0}
    assert table["task"].pop("metric") == "accuracy"
    assert upgraded(table) == pinned(spec, spec.combination[0])
    refuse_differences("tiny", {"pinned": table}, pinned(spec, spec.combination[0]), {})
    other = make_spec(loss={"method": "cross-entropy", "smoothing": 0.1})
    with pytest.raises(SpecError, match=r"search\.loss\.smoothing"):
        refuse_differences("tiny", {"pinned": table}, pinned(other, other.combination[0]), {})


def test_cross_entropy_is_the_default_and_spelt_out_changes_no_trial(open_database):
    spelt = {"method": "cross-entropy", "smoothing": 0.0}
    studies = [
        search(open_database(name), make_spec(trials=4, **given)) for name, given in (("a", {}), ("b", {"loss": spelt}))
    ]
    assert outcomes(studies[0]) == outcomes(studies[1])


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ({"method": "distilation"}, "unknown loss 'distilation'; did you mean 'distillation'?"),
        ({"method": "distillation", "temprature": 2.0}, "unknown key; did you mean 'temperature'?"),
        ({"method": "distillation", "labels": 1.5}, "search.loss.labels = 1.5"),
    ],
)
def test_a_loss_that_cannot_be_is_named(loss, said):
    with pytest.raises(SpecError) as raised:
        make_spec(loss=loss)
    assert said in str(raised.value)
