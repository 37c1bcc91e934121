import copy
from dataclasses import replace

import pytest
import torch
from tiny_settings import RULES, SETTINGS, TRIALS, Setting, equal, make_setting
from torch import nn

from pipeline.config.spec import ComputeSpec
from pipeline.train.lane import Lane
from pipeline.train.loop import Recipe
from pipeline.train.optimizers.sgd import Sgd
from pipeline.train.schedules.cosine import Cosine

RECIPES = {
    "constant": Recipe(epochs=3),
    "cosine": Recipe(epochs=4, schedule=Cosine()),
    "warm-up": Recipe(epochs=3, schedule=Cosine(), warmup=0.6),
}


def make_named_setting(name: str, dtype: torch.dtype = torch.float32, *, cached: bool = True) -> Setting:
    build, targets = SETTINGS[name]
    return make_setting(build, dtype, targets=targets, cached=cached)


def trained(setting: Setting, recipe: Recipe, *, together: bool) -> list[Lane]:
    """``TRIALS``, a neighbour that is pruned after its first epoch, and one that fails in it."""
    lanes = [setting.lane(**values) for values in TRIALS]
    pruned, failing = setting.lane(2, optimizer="adam"), setting.lane(3, optimizer="sgd", lr=1e200)
    for epoch in range(recipe.epochs):
        cohort = [*lanes[:2], pruned, failing, *lanes[2:]] if epoch == 0 else lanes
        for part in [cohort] if together else [[lane] for lane in cohort]:
            setting.epoch(part, recipe)
    assert failing.failure
    return [*lanes, pruned]


def assert_same(lane: Lane, other: Lane) -> None:
    for name, tensor in lane.parameters.items():
        torch.testing.assert_close(tensor, other.parameters[name], rtol=0, atol=1e-9)
        torch.testing.assert_close(lane.best_parameters[name], other.best_parameters[name], rtol=0, atol=1e-9)
    for epoch, its in zip(lane.curve, other.curve, strict=True):
        assert (epoch.train_loss, epoch.val_loss) == pytest.approx((its.train_loss, its.val_loss), abs=1e-9)
        assert epoch.val_accuracy == its.val_accuracy
    assert (lane.failure, lane.best_epoch) == (other.failure, other.best_epoch)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_whole_float64_training_is_the_same_together_alone_and_uncut_whoever_leaves_the_cohort(name, recipe):
    setting = make_named_setting(name, torch.float64)
    together, alone = trained(setting, recipe, together=True), trained(setting, recipe, together=False)
    uncut = trained(make_named_setting(name, torch.float64, cached=False), recipe, together=True)
    for lane, lone, through_all in zip(together, alone, uncut, strict=True):
        assert_same(lane, lone)
        assert_same(lane, through_all)
    assert {lane.optimizer.name for lane in together} == set(RULES)
    assert [len(lane.curve) for lane in together] == [recipe.epochs] * len(TRIALS) + [1]
    assert len({lane.curve[-1].train_loss for lane in together}) == len(together)


@pytest.mark.parametrize("cached", [True, False], ids=["cut", "uncut"])
@pytest.mark.parametrize("name", SETTINGS)
def test_in_float32_every_lanes_gradient_is_its_lone_gradient_at_the_start_and_after_some_epochs(name, cached):
    setting = make_named_setting(name, cached=cached)
    lanes = [setting.lane(**{**values, "batch_size": 50}) for values in TRIALS]
    for epochs in (0, 1, 2):
        for _ in range(epochs):
            setting.epoch(lanes)
        # After one step of momentum the first moment is the gradient.
        sampled = [replace(lane, optimizer=Sgd(), moments=None) for lane in copy.deepcopy(lanes)]
        alone = copy.deepcopy(sampled)
        setting.epoch(sampled)
        for lane, lone in zip(sampled, alone, strict=True):
            setting.epoch([lone])
            difference = (lane.moments[0] - lone.moments[0]).norm()
            assert difference < 1e-5 * lone.moments[0].norm()


def test_whole_float32_trainings_come_as_close_as_other_seeds_do():
    recipe, seeds = Recipe(epochs=4), range(3)
    setting = make_named_setting("cnn")
    best = {}
    for seed in seeds:
        together, alone = [[setting.lane(**values, seed=seed) for values in TRIALS] for _ in range(2)]
        for _ in range(recipe.epochs):
            setting.epoch(together, recipe)
            for lane in alone:
                setting.epoch([lane], recipe)
        best[seed] = [[lane.best for lane in lanes] for lanes in (together, alone)]
    for place in range(len(TRIALS)):
        alone = [best[seed][1][place] for seed in seeds]
        spread = max(max(alone) - min(alone), 1 / len(setting.val))
        assert all(abs(best[seed][0][place] - best[seed][1][place]) <= spread for seed in seeds)


@pytest.mark.parametrize("broken", ["a rate", "a parameter"])
@pytest.mark.parametrize("cached", [True, False], ids=["cut", "uncut"])
@pytest.mark.parametrize("name", SETTINGS)
def test_fault_12_lanes_of_other_ranks_beside_a_failing_lane_keep_every_bit(name, cached, broken):
    setting = make_named_setting(name, cached=cached)
    healthy, disturbed = [[setting.lane(**values) for values in TRIALS] for _ in range(2)]
    bad = disturbed[0]
    if broken == "a rate":
        bad.lr = 1e30
    else:
        next(iter(bad.parameters.values())).flatten()[0] = torch.nan
    setting.epoch(healthy)
    setting.epoch(disturbed)
    assert bad.failure
    assert not bad.curve
    rest = [(lane, other) for lane, other in zip(disturbed, healthy, strict=True) if lane is not bad]
    assert all(lane.failure is None and lane.curve and equal(lane, other) for lane, other in rest)
    survivors, others = [list(lanes) for lanes in zip(*rest, strict=True)]
    setting.epoch(survivors)
    setting.epoch(others)
    assert all(equal(*pair) for pair in zip(survivors, others, strict=True))


COMPUTE = {
    "bfloat16": (ComputeSpec(precision="bfloat16"), 0.02),
    "channels last": (ComputeSpec(channels_last=True), 1e-5),
    "both": (ComputeSpec(precision="bfloat16", channels_last=True), 0.02),
}


@pytest.mark.parametrize(("compute", "near"), COMPUTE.values(), ids=COMPUTE)
@pytest.mark.parametrize("cached", [True, False], ids=["cut", "uncut"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "vit", "vit's last block"])
def test_precision_and_memory_format_change_losses_little(name, cached, compute, near):
    setting = make_named_setting(name, cached=cached)
    # RMSprop's first steps are ten times the others', and with them what rounding comes to.
    steady = [values for values in TRIALS if values["optimizer"] != "rmsprop"]
    lanes, plain = [[setting.lane(**values) for values in steady] for _ in range(2)]
    setting.epoch(lanes, Recipe(epochs=1, compute=compute))
    setting.epoch(plain, Recipe(epochs=1))
    for lane, other in zip(lanes, plain, strict=True):
        assert all(tensor.dtype == torch.float32 for tensor in lane.parameters.values())
        epoch, its = lane.curve[0], other.curve[0]
        assert (epoch.train_loss, epoch.val_loss) == pytest.approx((its.train_loss, its.val_loss), rel=near)
    if compute.precision == "bfloat16":
        assert [lane.curve for lane in lanes] != [lane.curve for lane in plain]


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
@pytest.mark.skipif(torch.__version__ < (2, 8), reason="compile = true is refused: older compilers are wrong")
def test_a_compiled_training_is_the_same(monkeypatch):
    # Without the last stage of the compiler, which takes 20 s and changes no number but by rounding.
    compiled, torchs = [], torch.compile

    def compile_(module: nn.Module, **options: object) -> nn.Module:
        compiled.append(module)
        return torchs(module, backend="aot_eager", **options)

    monkeypatch.setattr(torch, "compile", compile_)
    setting = make_named_setting("head on a frozen trunk", torch.float64)
    lanes, plain = [[setting.lane(**values) for values in TRIALS[:3]] for _ in range(2)]
    setting.epoch(lanes, Recipe(epochs=1, compute=ComputeSpec(compile=True)))
    setting.epoch(plain, Recipe(epochs=1))
    assert compiled == [setting.program.cut.tail]
    for lane, other in zip(lanes, plain, strict=True):
        assert_same(lane, other)
