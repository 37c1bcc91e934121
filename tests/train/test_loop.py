import weakref
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from stopping import CheckedBy
from tiny_settings import RULES, cnn, equal, make_setting, mlp
from tiny_studies import count_correct
from torch import Tensor, nn

from pipeline.adapt.lanes import Lanes, attach
from pipeline.adapt.methods.lora import Lora
from pipeline.compress.layers import copy_sharing_tensors
from pipeline.seeds import derive
from pipeline.task.parts import TensorPart
from pipeline.train.lane import LaneOptimizer
from pipeline.train.loop import Recipe
from pipeline.train.schedules.constant import Constant
from pipeline.train.schedules.cosine import Cosine


@pytest.mark.parametrize("schedule", [Constant(), Cosine()], ids=["constant", "cosine"])
@pytest.mark.parametrize("build", [mlp, cnn])
def test_a_mixed_cohort_trains_every_lane_as_it_trains_alone(build, schedule):
    setting, recipe = make_setting(build, torch.float64), Recipe(epochs=3, schedule=schedule)
    values = [
        {"optimizer": name, "lr": rate, "alpha": alpha}
        for alpha, (name, rate) in enumerate(zip(RULES, (0.02, 0.01, 0.003, 0.01, 0.002), strict=True), start=2)
    ]
    together, alone = [setting.lane(**trial) for trial in values], [setting.lane(**trial) for trial in values]
    for _ in range(3):
        setting.epoch(together, recipe)
        for lane in alone:
            setting.epoch([lane], recipe)
    for lane, lone in zip(together, alone, strict=True):
        for name, tensor in lane.parameters.items():
            torch.testing.assert_close(tensor, lone.parameters[name], rtol=0, atol=1e-9)
        for epoch, its in zip(lane.curve, lone.curve, strict=True):
            assert epoch.train_loss == pytest.approx(its.train_loss, abs=1e-9)
            assert epoch.val_loss == pytest.approx(its.val_loss, abs=1e-9)
        assert lane.curve[-1].train_loss < lane.curve[0].train_loss
        assert lane.best_epoch == lone.best_epoch
    assert len({lane.curve[-1].train_loss for lane in together}) == len(RULES)


@pytest.mark.parametrize("build", [mlp, cnn])
def test_in_float32_a_lanes_gradient_is_its_lone_gradient(build):
    setting = make_setting(build)
    # After one step of momentum the first moment is the gradient.
    together = [setting.lane(optimizer="sgd", batch_size=50, alpha=alpha) for alpha in (1.0, 4.0, 8.0)]
    setting.epoch(together)
    for lane in together:
        lone = setting.lane(optimizer="sgd", batch_size=50, alpha=lane.alpha)
        setting.epoch([lone])
        difference = (lane.moments[0] - lone.moments[0]).norm()
        assert difference < 1e-5 * lone.moments[0].norm()


@pytest.mark.parametrize("build", [mlp, cnn])
def test_training_twice_gives_the_same_bits_whatever_was_drawn_between(build):
    runs = []
    for _ in range(2):
        setting = make_setting(build)
        lanes = [setting.lane(optimizer=name) for name in RULES]
        for _ in range(2):
            torch.rand(7)
            setting.epoch(lanes)
        runs.append(lanes)
    assert all(equal(*pair) for pair in zip(*runs, strict=True))


def test_frozen_tensors_keep_every_bit_and_batch_norms_stay_in_eval_mode():
    setting = make_setting(cnn)
    before = {name: tensor.clone() for name, tensor in setting.compressed.model.state_dict().items()}
    lane = setting.lane()
    start = {name: tensor.clone() for name, tensor in lane.parameters.items()}
    for _ in range(2):
        setting.epoch([lane])
    after = setting.compressed.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not setting.compressed.model.training
    assert lane.parameters.keys() == start.keys()
    assert not any(torch.equal(lane.parameters[name], tensor) for name, tensor in start.items())


def test_accuracy_and_loss_of_a_lane_are_those_of_its_adapted_model():
    setting, lane = make_setting(cnn), make_setting(cnn).lane(lr=0.05)
    setting.epoch([lane, setting.lane(lr=0.001)])
    model = copy_sharing_tensors(setting.compressed.model)
    attach(model, Lora(), Lanes([({name: tensor[None] for name, tensor in lane.parameters.items()}, [lane.alpha])]))
    assert lane.curve[0].val_accuracy == count_correct(model, setting.val) / 30
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(setting.val.images), setting.val.labels)
    assert lane.curve[0].val_loss == pytest.approx(float(loss), rel=1e-5)


def test_the_training_loss_is_a_mean_over_images_though_the_last_batch_is_short():
    setting = make_setting()
    lane = setting.lane(lr=1e-30, optimizer="sgd")
    setting.epoch([lane], val=setting.train)
    assert lane.curve[0].train_loss == pytest.approx(lane.curve[0].val_loss, rel=1e-6)


class Poisoned(TensorPart):
    """A part whose batch ``step`` holds a NaN; with ``cut`` it ends before that batch."""

    def __init__(self, part: TensorPart, step: int, *, cut: bool = False) -> None:
        super().__init__(part.images, part.labels)
        self.step, self.cut = step, cut

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        for place, (images, labels) in enumerate(super().batches(batch_size, order), start=1):
            if place == self.step and self.cut:
                return
            yield images * (torch.nan if place == self.step else 1), labels


def test_fault_12_a_loss_that_is_not_finite_fails_before_the_optimizers_step():
    setting = make_setting()
    failed, short = [[setting.lane(), setting.lane(optimizer="sgd", lr=0.125)] for _ in range(2)]
    for lanes in (failed, short):
        setting.epoch(lanes)
    setting.epoch(failed, train=Poisoned(setting.train, 3))
    setting.epoch(short, train=Poisoned(setting.train, 3, cut=True))
    assert failed[1].failure == "loss nan at step 3 of epoch 2, learning rate 0.125"
    for lane, other in zip(failed, short, strict=True):
        assert len(lane.curve) == 1
        assert all(torch.equal(lane.parameters[name], tensor) for name, tensor in other.parameters.items())


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("build", [mlp, cnn])
def test_fault_12_lanes_beside_a_failing_lane_keep_every_bit(build, name):
    setting = make_setting(build)
    disturbed, healthy = [
        [setting.lane(optimizer="sgd"), setting.lane(optimizer=name, lr=lr), setting.lane(optimizer="adamw")]
        for lr in (1e30, 0.01)
    ]
    setting.epoch(disturbed)
    setting.epoch(healthy)
    assert "learning rate 1e+30" in disturbed[1].failure
    assert not disturbed[1].curve
    assert healthy[1].curve
    assert [lane.failure for lane in healthy + disturbed[::2]] == [None] * 5
    assert all(equal(*pair) for pair in zip(disturbed[::2], healthy[::2], strict=True))


def test_fault_12_a_lane_that_diverges_at_the_last_step_of_an_epoch_has_no_accuracy():
    setting = make_setting()
    lane, neighbour = setting.lane(optimizer="sgd", lr=1e38, batch_size=50), setting.lane(batch_size=50)
    setting.epoch([lane, neighbour], Recipe(epochs=1))
    assert lane.failure == "validation loss nan after epoch 1, learning rate 1e+38"
    assert not lane.curve
    assert not lane.best_parameters
    assert neighbour.failure is None
    assert len(neighbour.curve) == 1


class Scripted(TensorPart):
    """A validation part of which, in each reading, as many answers are right as the script says."""

    def __init__(self, images: Tensor, answers: Tensor, right: list[int]) -> None:
        super().__init__(images, answers)
        self.right = iter(right)

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        wrong = torch.arange(len(self)) >= next(self.right)
        yield self.images, torch.where(wrong, (self.labels + 1) % 3, self.labels)


def test_the_best_epoch_is_the_first_of_equals_and_its_parameters_are_kept():
    setting = make_setting()
    lane = setting.lane(lr=1e-7)
    val = Scripted(setting.val.images, setting.compressed.model(setting.val.images).argmax(1), [11, 20, 5, 20, 19])
    states = []
    for _ in range(5):
        setting.epoch([lane], val=val)
        states.append({name: tensor.clone() for name, tensor in lane.parameters.items()})
    assert [epoch.val_accuracy * 30 for epoch in lane.curve] == pytest.approx([11, 20, 5, 20, 19])
    assert lane.best_epoch == 2
    assert lane.best == pytest.approx(20 / 30)
    assert all(torch.equal(lane.best_parameters[name], tensor) for name, tensor in states[1].items())
    assert not all(torch.equal(lane.best_parameters[name], tensor) for name, tensor in states[3].items())


class Noting(TensorPart):
    """A part that notes the order in which it is asked for."""

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        self.orders = [*getattr(self, "orders", []), order.tolist()]
        return super().batches(batch_size, order)


def orders(epochs: int, T: int = 1, **values: object) -> list[list[int]]:
    setting = make_setting()
    part, lanes = Noting(setting.train.images, setting.train.labels), [setting.lane(**values) for _ in range(T)]
    for _ in range(epochs):
        setting.epoch(lanes, train=part)
    return part.orders


def test_the_order_of_images_depends_on_the_seed_and_the_epoch_alone():
    first, second = orders(2)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    torch.manual_seed(99)
    assert orders(2, T=3, optimizer="sgd", lr=0.5, alpha=1.0, batch_size=7) == [first, second]
    assert not {tuple(order) for order in orders(2, seed=4)} & {tuple(first), tuple(second)}


def test_the_seed_of_an_order_is_the_same_on_any_machine():
    assert derive(3, "order", 0) == 2_067_750_743
    assert derive(3, "order", 1) != derive(31, "order", 0)


def test_a_stop_before_any_batch_leaves_the_lanes_as_they_were_after_the_last_epoch():
    setting = make_setting()
    asked = []
    disturbed, quiet = setting.lane(), setting.lane()
    with CheckedBy(lambda: asked.append(1)):
        setting.epoch([disturbed])
    setting.epoch([quiet])
    assert len(asked) == 4 + 1  # 50 images in batches of 16, and one evaluation

    def stop() -> None:
        asked.append(1)
        if len(asked) == 8:
            raise InterruptedError

    with pytest.raises(InterruptedError), CheckedBy(stop):
        setting.epoch([disturbed])
    assert equal(disturbed, quiet)
    for lane in (disturbed, quiet):
        setting.epoch([lane])
    assert equal(disturbed, quiet)
    assert len(disturbed.curve) == 2


@pytest.mark.parametrize("schedule", [Constant(), Cosine()], ids=["constant", "cosine"])
def test_the_rate_is_constant_or_falls_over_all_steps_to_near_zero(schedule, monkeypatch):
    steps = []
    step = LaneOptimizer.step
    monkeypatch.setattr(
        LaneOptimizer, "step", lambda self, g, rates, t, live: [steps.append((t, rates)), step(self, g, rates, t, live)]
    )
    setting = make_setting()
    lanes = [setting.lane(lr=0.5), setting.lane(lr=0.25)]
    for _ in range(10):
        setting.epoch(lanes, Recipe(epochs=10, schedule=schedule))
    assert [t for t, _ in steps] == list(range(1, 41))
    rates = [rate for _, (rate, half) in steps if rate == 2 * half]
    assert len(rates) == 40
    assert rates[0] == 0.5
    if schedule == Constant():
        assert set(rates) == {0.5}
    else:
        assert all(later < earlier for earlier, later in pairwise(rates))
        assert rates[20] == pytest.approx(0.25)
        assert 0 < rates[-1] < 0.001


def test_the_gradients_of_a_step_are_free_before_the_next_is_computed(monkeypatch):
    setting, alive = make_setting(), list[bool]()
    steps: list[list[weakref.ref[Tensor]]] = []

    def grad(*args: Any, **options: Any) -> tuple[Tensor, ...]:
        alive.extend(reference() is not None for step in steps for reference in step)
        gradients = compute(*args, **options)
        steps.append([weakref.ref(gradient) for gradient in gradients])
        return gradients

    compute = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", grad)
    setting.epoch([setting.lane(2)], Recipe(epochs=1))
    assert len(steps) > 1
    assert not any(alive)
