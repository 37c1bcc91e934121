from collections.abc import Callable

import pytest
import timm
import torch
from random_lanes import alone, in_stacks, trials, uncompressed
from torch import Tensor, nn

from pipeline.adapt.methods.lora import Lora
from pipeline.compress.layers import copy_sharing_tensors
from pipeline.train.cache.feature_cache import FeatureCache
from pipeline.train.cut.program import Program, make_program


class Branching(nn.Module):
    """Its calls cannot be traced, for it looks at the shape of its images; ``also`` is what else it does."""

    def __init__(self, also: Callable[[Tensor], Tensor] = lambda h: h, after: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.trunk, self.head, self.also, self.after = nn.Linear(12, 8), nn.Linear(8, 5), also, after

    def forward(self, x: Tensor) -> Tensor:
        h = self.trunk(x.flatten(1) if x.shape[2] > 1 else x[:, :, 0])
        logits = self.head(self.also(h.relu()))
        return logits if self.after is None else self.after(logits)


def program_of(model: nn.Module, targets: list[str], images: Tensor) -> Program:
    lanes = trials(model, targets)
    return make_program(uncompressed(model), Lora(), [lanes[:-1], lanes[-1:]], images)


def made(model: nn.Module, *shape: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return model.double().eval(), torch.randn(6, *shape, dtype=torch.float64)


CASES = {
    "a branch on shapes": (lambda: Branching(), "head", (3, 4)),
    "timm's test_vit": (lambda: timm.create_model("test_vit", num_classes=5), "head", (3, 160, 160)),
}


@pytest.mark.parametrize(("build", "head", "shape"), CASES.values(), ids=CASES)
def test_a_head_is_cut_off_a_model_that_cannot_be_traced(build, head, shape):
    model, images = made(build(), *shape)
    program = program_of(model, [head], images)
    assert program.cut is not None
    assert program.cut.stem is not None
    assert program.cut.names == (f"input of {head}",)
    lanes = trials(model, [head])
    with torch.no_grad():
        logits = program.bind(in_stacks(lanes))(*program.inputs(images))
        expected = torch.cat([alone(model, trial, images) for trial in lanes])
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)
        plain = program.without_lanes(model)(*program.cut.stem(images))
        torch.testing.assert_close(plain, model(images), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("model", "targets"),
    [
        (Branching(lambda h: h if h.sum() > 0 else -h), ["head"]),
        (Branching(lambda h: h - h.mean(0)), ["head"]),
        (Branching(lambda h: h + torch.rand(8, dtype=h.dtype)), ["head"]),
        (Branching(after=lambda logits: logits.softmax(1)), ["head"]),
        (Branching(), ["trunk", "head"]),
    ],
    ids=["values decide", "images beside an image", "random numbers", "something after the head", "two layers"],
)
def test_the_whole_model_runs_for_every_image_if_cutting_the_head_is_not_safe(model, targets):
    model, images = made(model, 3, 4)
    program = program_of(model, targets, images)
    assert program.cut is None
    assert "cannot be traced" in program.why


def test_the_cache_of_a_trunk_serves_every_head():
    model, images = made(Branching(), 3, 4)
    other = copy_sharing_tensors(model)
    other.head = nn.Linear(8, 5).double()
    stems = [program_of(whole, ["head"], images).cut.stem for whole in (model, other)]
    assert FeatureCache().key(stems[0], {}) == FeatureCache().key(stems[1], {})
    other.trunk = nn.Linear(12, 8).double()
    assert FeatureCache().key(stems[0], {}) != FeatureCache().key(program_of(other, ["head"], images).cut.stem, {})
