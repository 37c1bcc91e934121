from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from pipeline.adapt.contract import clipped_rank
from pipeline.adapt.inits.paper import Paper
from pipeline.adapt.lanes import Lanes, attach
from pipeline.adapt.lora import Lora
from pipeline.compress.contract import CompressedModel
from pipeline.compress.int1 import Int1
from pipeline.compress.layers import find_targets, shared_copy, weight_matrix
from pipeline.seeds import derive
from pipeline.task.metric import count_correct
from pipeline.task.parts import TensorPart
from pipeline.train.cohort import Lane, train_epoch
from pipeline.train.optimizers import RULES, LaneOptimizer
from pipeline.train.program import Program, make_program, whole
from pipeline.train.recipe import Recipe
from pipeline.train.rows import image_rows


@dataclass
class Setting:
    """A compressed model, and something to train it on."""

    compressed: CompressedModel
    original: nn.Module
    train: TensorPart
    val: TensorPart
    program: Program

    def lane(self, rank: int = 2, **values: object) -> Lane:
        """A lane that starts where all lanes of its rank start."""
        generator = torch.Generator().manual_seed(0)
        starts = {}
        for name, weight in self.compressed.weights.items():
            matrix = weight_matrix(self.original.get_submodule(name))
            starts[name] = Paper().start(matrix, weight, clipped_rank(rank, weight.shape), (), generator)
        lane = Lane({}, alpha=4.0, optimizer="adam", lr=0.01, batch_size=16, seed=3)
        lane = replace(lane, **values)
        lane.parameters = Lora().begin(self.compressed.model, starts, lane.alpha)
        return lane

    def epoch(
        self, lanes: list[Lane], recipe: Recipe | None = None, check: Callable[[], None] = lambda: None, **parts: object
    ) -> None:
        parts = {"train": self.train, "val": self.val, **parts}
        rows = {name: self.program.rows(image_rows(part)) for name, part in parts.items()}
        train_epoch(lanes, self.program, **rows, recipe=recipe or Recipe(epochs=3), check=check)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * 6 * 6, 9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 3))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.Flatten(),
        nn.Linear(54, 3),
    )


def setting(
    build: Callable[[], nn.Module] = mlp, dtype: torch.dtype = torch.float32, *, targets: str = "*", cached: bool = True
) -> Setting:
    """A trained model, compressed; ``cached`` where what lanes share is had once, else every image takes all of it."""
    torch.manual_seed(1)
    model = build().to(dtype)
    model(torch.randn(30, 2, 6, 6, dtype=dtype) * 2 + 1)  # batch norms have seen something
    model.eval()
    compressed = Int1().compress_model(model, find_targets(model, [targets]), {})
    labels = torch.arange(80) % 3
    images = torch.randn(80, 2, 6, 6, dtype=dtype) + labels[:, None, None, None]
    own = Setting(compressed, model, TensorPart(images[:50], labels[:50]), TensorPart(images[50:], labels[50:]), None)
    probes = [[(own.lane(rank).parameters, alpha) for alpha in (1.0, 2.0)] for rank in (1, 2)]
    cut, uncut = make_program(compressed.model, Lora(), probes, images[:3]), whole(compressed.model, Lora())
    own.program = cut if cached else uncut
    assert (own.program.cut is not None) == cached
    return own


def equal(one: Lane, other: Lane) -> bool:
    """Whether two lanes are at the same place, bit for bit."""
    tensors = [(one.parameters[name], other.parameters[name]) for name in one.parameters]
    moments = list(zip(one.moments or (), other.moments or (), strict=True))
    return one.curve == other.curve and all(torch.equal(*pair) for pair in [*tensors, *moments])


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("build", [mlp, cnn])
def test_a_cohort_of_mixed_lanes_trains_each_as_it_trains_alone(build, schedule):
    own, recipe = setting(build, torch.float64), Recipe(epochs=3, schedule=schedule)
    values = [
        {"optimizer": name, "lr": rate, "alpha": alpha}
        for alpha, (name, rate) in enumerate(zip(RULES, (0.02, 0.01, 0.003, 0.01, 0.002), strict=True), start=2)
    ]
    together, alone = [own.lane(**each) for each in values], [own.lane(**each) for each in values]
    for _ in range(3):
        own.epoch(together, recipe)
        for lane in alone:
            own.epoch([lane], recipe)
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
    own = setting(build)
    # After one step of momentum the first moment is the gradient.
    together = [own.lane(optimizer="sgd", batch_size=50, alpha=alpha) for alpha in (1.0, 4.0, 8.0)]
    own.epoch(together)
    for lane in together:
        lone = own.lane(optimizer="sgd", batch_size=50, alpha=lane.alpha)
        own.epoch([lone])
        difference = (lane.moments[0] - lone.moments[0]).norm()
        assert difference < 1e-5 * lone.moments[0].norm()


@pytest.mark.parametrize("build", [mlp, cnn])
def test_the_same_lanes_twice_are_the_same_bit_for_bit_whatever_was_drawn_between(build):
    runs = []
    for _ in range(2):
        own = setting(build)
        lanes = [own.lane(optimizer=name) for name in RULES]
        for _ in range(2):
            torch.rand(7)
            own.epoch(lanes)
        runs.append(lanes)
    assert all(equal(*pair) for pair in zip(*runs, strict=True))


def test_what_is_frozen_keeps_every_bit_and_batch_norms_stay_in_eval_mode():
    own = setting(cnn)
    before = {name: tensor.clone() for name, tensor in own.compressed.model.state_dict().items()}
    lane = own.lane()
    start = {name: tensor.clone() for name, tensor in lane.parameters.items()}
    for _ in range(2):
        own.epoch([lane])
    after = own.compressed.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not own.compressed.model.training
    assert lane.parameters.keys() == start.keys()
    assert not any(torch.equal(lane.parameters[name], tensor) for name, tensor in start.items())


def test_a_lanes_accuracy_and_loss_are_those_of_its_adapted_model():
    own, lane = setting(cnn), setting(cnn).lane(lr=0.05)
    own.epoch([lane, own.lane(lr=0.001)])
    model = shared_copy(own.compressed.model)
    attach(model, Lora(), Lanes([({name: tensor[None] for name, tensor in lane.parameters.items()}, [lane.alpha])]))
    assert lane.curve[0].val_accuracy == count_correct(model, own.val) / 30
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(own.val.images), own.val.labels)
    assert lane.curve[0].val_loss == pytest.approx(float(loss), rel=1e-5)


def test_the_training_loss_is_a_mean_over_images_though_the_last_batch_is_short():
    own = setting()
    lane = own.lane(lr=1e-30, optimizer="sgd")
    own.epoch([lane], val=own.train)
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
    own = setting()
    failed, short = [[own.lane(), own.lane(optimizer="sgd", lr=0.125)] for _ in range(2)]
    for lanes in (failed, short):
        own.epoch(lanes)
    own.epoch(failed, train=Poisoned(own.train, 3))
    own.epoch(short, train=Poisoned(own.train, 3, cut=True))
    assert failed[1].failure == "loss nan at step 3 of epoch 2, learning rate 0.125"
    for lane, other in zip(failed, short, strict=True):
        assert len(lane.curve) == 1
        assert all(torch.equal(lane.parameters[name], tensor) for name, tensor in other.parameters.items())


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("build", [mlp, cnn])
def test_fault_12_neighbours_of_a_lane_that_fails_keep_every_bit(build, name):
    own = setting(build)
    disturbed, healthy = [
        [own.lane(optimizer="sgd"), own.lane(optimizer=name, lr=lr), own.lane(optimizer="adamw")] for lr in (1e30, 0.01)
    ]
    own.epoch(disturbed)
    own.epoch(healthy)
    assert "learning rate 1e+30" in disturbed[1].failure
    assert not disturbed[1].curve
    assert healthy[1].curve
    assert [lane.failure for lane in healthy + disturbed[::2]] == [None] * 5
    assert all(equal(*pair) for pair in zip(disturbed[::2], healthy[::2], strict=True))


def test_fault_12_a_lane_that_breaks_at_the_last_step_of_an_epoch_has_no_accuracy():
    own = setting()
    lane, neighbour = own.lane(optimizer="sgd", lr=1e38, batch_size=50), own.lane(batch_size=50)
    own.epoch([lane, neighbour], Recipe(epochs=1))
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
    own = setting()
    lane = own.lane(lr=1e-7)
    val = Scripted(own.val.images, own.compressed.model(own.val.images).argmax(1), [11, 20, 5, 20, 19])
    states = []
    for _ in range(5):
        own.epoch([lane], val=val)
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
    own = setting()
    part, lanes = Noting(own.train.images, own.train.labels), [own.lane(**values) for _ in range(T)]
    for _ in range(epochs):
        own.epoch(lanes, train=part)
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


def test_check_is_asked_before_every_batch_and_what_it_raises_leaves_the_epochs_before_as_they_were():
    own = setting()
    asked = []
    disturbed, quiet = own.lane(), own.lane()
    own.epoch([disturbed], check=lambda: asked.append(1))
    own.epoch([quiet])
    assert len(asked) == 4 + 1  # 50 images in batches of 16, and one evaluation

    def stop() -> None:
        asked.append(1)
        if len(asked) == 8:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        own.epoch([disturbed], check=stop)
    assert equal(disturbed, quiet)
    for lane in (disturbed, quiet):
        own.epoch([lane])
    assert equal(disturbed, quiet)
    assert len(disturbed.curve) == 2


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_rate_stays_or_falls_over_all_steps_of_a_trial_to_near_zero(schedule, monkeypatch):
    seen = []
    step = LaneOptimizer.step
    monkeypatch.setattr(
        LaneOptimizer, "step", lambda self, g, rates, t, live: [seen.append((t, rates)), step(self, g, rates, t, live)]
    )
    own = setting()
    lanes = [own.lane(lr=0.5), own.lane(lr=0.25)]
    for _ in range(10):
        own.epoch(lanes, Recipe(epochs=10, schedule=schedule))
    assert [t for t, _ in seen] == list(range(1, 41))
    rates = [rate for _, (rate, half) in seen if rate == 2 * half]
    assert len(rates) == 40
    assert rates[0] == 0.5
    if schedule == "constant":
        assert set(rates) == {0.5}
    else:
        assert all(later < earlier for earlier, later in pairwise(rates))
        assert rates[20] == pytest.approx(0.25)
        assert 0 < rates[-1] < 0.001
