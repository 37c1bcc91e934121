import pytest
import torch
from pydantic import ValidationError
from tiny_settings import Setting, make_setting, mlp
from torch import Tensor
from torch.nn import functional as F

from pipeline.config.registry import LOSSES
from pipeline.task.parts import TensorPart
from pipeline.train.cache.feature_cache import FeatureCache, teacher_logits
from pipeline.train.lane import Lane
from pipeline.train.loop import Recipe, train_epoch
from pipeline.train.losses.contract import FEW_CLASSES, Loss, relative_error
from pipeline.train.losses.cross_entropy import CrossEntropy
from pipeline.train.losses.distillation import Distillation
from pipeline.train.rows import Stem, image_rows, with_tensor

T, N = 3, 12
CLASSES = pytest.mark.parametrize("classes", [5, FEW_CLASSES, FEW_CLASSES + 1])
LOSSES_HERE = [
    CrossEntropy(),
    CrossEntropy(smoothing=0.1),
    Distillation(),
    Distillation(temperature=4.0, labels=0.3, smoothing=0.2),
]
EVERY_LOSS = pytest.mark.parametrize("loss", LOSSES_HERE, ids=str)


def batch(classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of lanes, labels, and a teacher's logits."""
    logits = 3 * torch.randn(T, N, classes, dtype=torch.float64)
    return logits, torch.randint(classes, (N,)), 3 * torch.randn(N, classes, dtype=torch.float64)


def test_every_registered_loss_is_tested_here():
    assert {type(loss) for loss in LOSSES_HERE} == set(LOSSES)


@CLASSES
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_of_every_lane_is_that_of_torch(classes, smoothing):
    logits, labels, _ = batch(classes)
    losses = CrossEntropy(smoothing=smoothing).losses(logits, labels, None)
    expected = torch.stack([F.cross_entropy(lane, labels, label_smoothing=smoothing) for lane in logits])
    torch.testing.assert_close(losses, expected)


@CLASSES
@pytest.mark.parametrize(("temperature", "weight", "smoothing"), [(1.0, 0.0, 0.0), (2.5, 0.0, 0.0), (4.0, 0.3, 0.1)])
def test_distillation_of_every_lane_is_the_weighted_sum_of_torchs_losses(classes, temperature, weight, smoothing):
    logits, labels, teacher = batch(classes)
    losses = Distillation(temperature=temperature, labels=weight, smoothing=smoothing).losses(logits, labels, teacher)
    p = (teacher / temperature).softmax(1)
    for lane, value in zip(logits, losses, strict=True):
        kl = F.kl_div((lane / temperature).log_softmax(1), p, reduction="batchmean")
        hard = F.cross_entropy(lane, labels, label_smoothing=smoothing)
        torch.testing.assert_close(value, weight * hard + (1 - weight) * temperature**2 * kl)


@EVERY_LOSS
@CLASSES
def test_gradients_are_those_of_finite_differences(loss, classes):
    logits, labels, teacher = batch(classes)
    logits = logits[:2, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss.losses(z, labels[:3], teacher[:3]), (logits,))


@EVERY_LOSS
@CLASSES
def test_a_lanes_loss_does_not_depend_on_its_neighbours(loss, classes):
    logits, labels, teacher = batch(classes)
    alone = torch.cat([loss.losses(lane[None], labels, teacher) for lane in logits])
    torch.testing.assert_close(loss.losses(logits, labels, teacher), alone)


@CLASSES
def test_at_temperature_one_a_teacher_with_one_hot_outputs_gives_cross_entropy(classes):
    logits, labels, _ = batch(classes)
    teacher = 1e4 * F.one_hot(labels, classes).double()
    losses = Distillation(temperature=1.0).losses(logits, labels, teacher)
    torch.testing.assert_close(losses, CrossEntropy().losses(logits, labels, None))


@CLASSES
def test_classes_that_a_model_masks_add_nothing_to_distillation(classes):
    logits, labels, teacher = batch(classes)
    allowed = [0, 1, 3, 4]
    expected = Distillation().losses(logits[..., allowed], labels, teacher[:, allowed])
    others = [column for column in range(classes) if column not in allowed]
    logits[..., others] = teacher[:, others] = -torch.inf
    losses = Distillation().losses(logits.requires_grad_(), labels, teacher)
    torch.testing.assert_close(losses, expected)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert gradient.isfinite().all()


@CLASSES
def test_label_smoothing_is_spread_over_the_classes_that_a_model_does_not_mask(classes):
    logits, _, _ = batch(classes)
    allowed = [0, 1, 3, 4]
    labels = torch.randint(len(allowed), (N,))
    loss = CrossEntropy(smoothing=0.2)
    expected = loss.losses(logits[..., allowed], labels, None)
    logits[..., [column for column in range(classes) if column not in allowed]] = -torch.inf
    losses = loss.losses(logits.requires_grad_(), torch.tensor(allowed)[labels], None)
    torch.testing.assert_close(losses, expected)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert gradient.isfinite().all()


def test_the_error_of_a_block_is_relative_to_the_variance_of_the_teachers_outputs_or_to_one():
    outputs, teacher = torch.randn(T, 2, 3), torch.randn(2, 3)
    squares = torch.stack([(lane - teacher).square().mean() for lane in outputs])
    torch.testing.assert_close(relative_error(outputs, teacher), squares / ((teacher - teacher.mean()) ** 2).mean())
    constant = torch.ones(2, 3)
    torch.testing.assert_close(relative_error(outputs, constant), (outputs - 1).square().mean((1, 2)))


def test_a_student_with_the_logits_of_its_teacher_has_loss_zero():
    _, labels, teacher = batch(7)
    student = (teacher + 5)[None].requires_grad_()  # a softmax takes no notice of what all logits share
    loss = Distillation(temperature=3.0).losses(student, labels, teacher)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.abs().max() < 1e-12
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize(("weight", "same"), [(0.0, True), (0.5, False)])
def test_a_loss_without_labels_does_not_depend_on_labels(weight, same):
    logits, labels, teacher = batch(6)
    gradients = []
    for given in (labels, (labels + 1) % 6):
        student = logits.clone().requires_grad_()
        loss = Distillation(labels=weight).losses(student, given, teacher)
        gradients += torch.autograd.grad(loss.sum(), student)
    assert torch.equal(*gradients) == same


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"smoothing": 1.0}, "smoothing"),
        ({"temperature": 0.0}, "temperature"),
        ({"labels": 1.0}, "labels"),
        ({"smoothing": 0.1}, "labels = 0 uses none; give labels > 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said):
    with pytest.raises(ValidationError, match=said):
        Distillation(**options)


def test_distillation_without_a_teacher_is_refused():
    logits, labels, _ = batch(3)
    with pytest.raises(ValueError, match="give rows whose last tensor holds them"):
        Distillation().losses(logits, labels, None)


class Streamed(TensorPart):
    """A part that is not held as one tensor."""


@pytest.mark.parametrize("kind", [TensorPart, Streamed])
@pytest.mark.parametrize("order", [None, torch.tensor([22, 3, 3, 0, 17])])
def test_a_tensor_added_to_rows_follows_their_order(kind, order):
    part = kind(torch.randn(23, 4), torch.arange(23))
    rows = with_tensor(image_rows(part), torch.arange(23)[:, None] * torch.tensor([1, 10]))
    assert len(rows) == 23
    label_batches = []
    for (images, extra), labels in rows.batches(4, order):
        assert torch.equal(images, part.images[labels])
        assert torch.equal(extra, torch.stack([labels, 10 * labels], 1))
        label_batches.append(labels)
    assert torch.equal(torch.cat(label_batches), torch.arange(23) if order is None else order)


def test_logits_of_a_teacher_are_those_of_its_model_and_are_cached_once(tmp_path, said):
    setting = make_setting()
    cache = FeatureCache(folder=tmp_path)
    expected = setting.original(setting.train.images)
    for _ in range(2):
        for held in (cache, FeatureCache(folder=tmp_path), None):
            logits = teacher_logits(Stem(setting.original, "logits"), setting.train, "cpu", held, {"part": "train"})
            torch.testing.assert_close(logits, expected)
            assert not logits.requires_grad
    assert len([line for line in said if "run once over 50 images" in line]) == len(said) == 1


@pytest.mark.parametrize("cached", [True, False])
def test_lanes_are_distilled_from_a_teacher_whatever_their_labels_say(cached):
    curves = []
    for shift in (0, 1):
        setting = make_setting(mlp, torch.float64, cached=cached)
        parts = {}
        for name in ("train", "val"):
            part = getattr(setting, name)
            parts[name] = TensorPart(part.images, (part.labels + shift) % 3)
        lanes = [setting.lane(lr=lr, batch_size=8) for lr in (0.003, 0.01)]
        for _ in range(6):
            distil(setting, lanes, Distillation(), parts)
        for lane in lanes:
            assert lane.failure is None
            assert lane.curve[-1].train_loss < 0.5 * lane.curve[0].train_loss
        curves.append([[(epoch.train_loss, epoch.val_loss) for epoch in lane.curve] for lane in lanes])
    assert curves[0] == curves[1]


def distil(setting: Setting, lanes: list[Lane], loss: Loss, parts: dict[str, TensorPart]) -> None:
    """One epoch of lanes from the setting's uncompressed model."""
    teacher = Stem(setting.original, "logits")
    rows = {
        name: with_tensor(setting.program.rows(setting.source(part)), teacher_logits(teacher, part, "cpu", None, {}))
        for name, part in parts.items()
    }
    train_epoch(lanes, setting.program, **rows, recipe=Recipe(epochs=6, loss=loss))
