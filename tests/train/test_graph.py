from collections.abc import Sequence

import pytest
import timm
import torch
import torchvision
from packaging.version import Version
from random_lanes import Calls, Trial, alone, in_stacks, made, trials
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.adapt.methods.lora import Lora
from pipeline.compress.attention import with_plain_attention
from pipeline.compress.targets import find_targets
from pipeline.train.cut.graph import Cut, cut
from pipeline.train.cut.program import make_program
from pipeline.train.cut.trace import CannotCutError


def cut_at(model: nn.Module, targets: Sequence[str], images: Tensor) -> Cut:
    trains = {"lora_A", "lora_B"}
    return cut(model, {name: Lora().layer(model.get_submodule(name), trains) for name in targets}, images)


def staged(stages: Cut, own: Sequence[Trial], images: Tensor) -> Tensor:
    """The logits of all lanes; no stage may change what it is given."""
    before = images.clone()
    given = (images,) if stages.stem is None else stages.stem(images)
    kept = [tensor.clone() for tensor in given]
    shared = stages.shared(*given)
    entering = [tensor.clone() for tensor in shared]
    logits = stages.tail(in_stacks(own), *shared)
    assert torch.equal(images, before)
    assert all(map(torch.equal, given, kept))
    assert all(map(torch.equal, shared, entering))
    return logits


@torch.no_grad()
def assert_exact(model: nn.Module, stages: Cut, targets: Sequence[str], images: Tensor) -> None:
    own = trials(model, targets)
    expected = torch.cat([alone(model, trial, images) for trial in own])
    atol = 1e-9 * float(expected.abs().max())
    torch.testing.assert_close(staged(stages, own, images), expected, rtol=1e-9, atol=atol)
    # The same calls with a model's own weights, from what the stem gives; it runs no trained layer.
    called: list[str] = []
    hooks = [model.get_submodule(name).register_forward_hook(lambda *_: called.append("trained")) for name in targets]
    given = (images,) if stages.stem is None else stages.stem(images)
    assert not called
    logits = stages.without_lanes(model)(*given)
    assert called
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(logits, model(images.clone()), rtol=1e-9, atol=atol)


def tiny_vit() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, num_classes=5)


def tiny_swin() -> nn.Module:
    shape = {"img_size": 56, "embed_dim": 24, "depths": (1, 1, 1), "num_heads": (2, 2, 2), "num_classes": 5}
    return timm.create_model("swin_tiny_patch4_window7_224", **shape)


def torchvision_vit() -> nn.Module:
    shape = {"image_size": 32, "patch_size": 8, "hidden_dim": 16, "mlp_dim": 32}
    return torchvision.models.VisionTransformer(**shape, num_layers=2, num_heads=2, num_classes=5)


def split_vit() -> nn.Module:
    return with_plain_attention(tiny_vit(), "split")


def fused_torchvision_vit() -> nn.Module:
    return with_plain_attention(torchvision_vit())


def split_torchvision_vit() -> nn.Module:
    return with_plain_attention(torchvision_vit(), "split")


class TwoHeads(nn.Module):
    """A trunk and two heads, whose answers are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 12), nn.ReLU(inplace=True))
        self.head, self.other = nn.Linear(12, 5), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        return (self.head(x) + self.other(x)) / 2


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 12), nn.ReLU(), nn.Linear(12, 9), nn.Linear(9, 5))


# Model, side of its images, target patterns, and what the stem gives.
CUTS = {
    "test_resnet, head": ("test_resnet", 64, ["fc"], ["global_pool"]),
    "test_resnet, last block": ("test_resnet", 64, ["layer4.*"], ["layer3"]),
    "test_resnet, middle": ("test_resnet", 64, ["layer2.0.conv2"], ["layer2_0_aa", "layer2_0_downsample"]),
    "test_resnet, everything": ("test_resnet", 64, ["*"], None),
    "vit, head": (tiny_vit, 32, ["head"], ["head_drop"]),
    "vit, last block": (tiny_vit, 32, ["blocks.2.*", "head"], ["blocks_1"]),
    "vit, one layer of attention": (tiny_vit, 32, ["blocks.1.attn.qkv"], ["blocks_0"]),
    "vit, middle": (tiny_vit, 32, ["blocks.1.mlp.*"], ["add_1"]),
    "vit, everything": (tiny_vit, 32, ["*"], None),
    "mobilenetv3, head": ("mobilenetv3_small_050", 64, ["classifier"], ["flatten"]),
    "mobilenetv3, last block": ("mobilenetv3_small_050", 64, ["blocks.5.*", "conv_head"], ["blocks_4"]),
    "mobilenetv3, squeeze": ("mobilenetv3_small_050", 64, ["blocks.4.1.se.*"], ["blocks_4_0", "blocks_4_1_aa"]),
    "mobilenetv3, everything": ("mobilenetv3_small_050", 64, ["*"], None),
    "convnext, head": ("convnext_atto", 64, ["head.fc"], ["head_drop"]),
    "convnext, last block": ("convnext_atto", 64, ["stages.3.blocks.1.*"], ["stages_3_blocks_0"]),
    "convnext, everything": ("convnext_atto", 64, ["*"], None),
    "swin, head": (tiny_swin, 56, ["head.fc"], ["head_drop"]),
    "swin, last block": (tiny_swin, 56, ["layers.2.blocks.0.*"], ["layers_2_downsample"]),
    "resnet18, head": (torchvision.models.resnet18, 32, ["fc"], ["flatten"]),
    "resnet18, last block": (torchvision.models.resnet18, 32, ["layer4.1.*"], ["layer4_0"]),
    "resnet18, everything": (torchvision.models.resnet18, 32, ["*"], None),
    "torchvision's vit, head": (torchvision_vit, 32, ["heads.head"], ["getitem_5"]),
    "torchvision's vit, last block": (torchvision_vit, 32, ["encoder.layers.encoder_layer_1.*"], ["add_1"]),
    "torchvision's vit, everything": (torchvision_vit, 32, ["*"], None),
    "a split vit, one projection": (
        split_vit,
        32,
        ["blocks.1.attn.qkv.v", "head"],
        ["blocks_0", "blocks_1_attn_qkv_q", "blocks_1_attn_qkv_k"],
    ),
    "a split vit, attention": (split_vit, 32, ["attention"], ["norm_pre"]),
    "torchvision's vit, attention": (fused_torchvision_vit, 32, ["attention", "head"], ["encoder_dropout"]),
    "torchvision's vit, what attention gives": (
        fused_torchvision_vit,
        32,
        ["*_1.*.out_proj", "head"],
        ["encoder_layers_encoder_layer_0", "flatten"],
    ),
    "torchvision's vit, split attention": (split_torchvision_vit, 32, ["attention", "head"], ["encoder_dropout"]),
    "two heads": (TwoHeads, 8, ["head", "other"], ["trunk"]),
    "one of two heads": (TwoHeads, 8, ["other"], ["trunk", "head"]),
    "two heads, everything": (TwoHeads, 8, ["*"], None),
    "mlp, head": (mlp, 8, ["4"], ["_3"]),
    "mlp, first layer": (mlp, 8, ["1"], None),
    "mlp, everything": (mlp, 8, ["*"], None),
}


@pytest.mark.parametrize(("build", "side", "patterns", "frontier"), CUTS.values(), ids=CUTS)
def test_stages_give_the_logits_of_the_whole_adapted_model(build, side, patterns, frontier):
    model = (timm.create_model(build, num_classes=5) if isinstance(build, str) else build()).double().eval()
    images, targets = torch.randn(3, 3, side, side, dtype=torch.float64), find_targets(model, patterns)
    if frontier == ["layers_2_downsample"] and Version(timm.__version__) < Version("1.0.31"):
        pytest.skip("older versions of timm's swin have no row per image there; every image then takes the whole model")
    stages = cut_at(model, targets, images)
    assert (stages.stem is None) == (frontier is None)
    assert list(stages.names) == (frontier or ["images"])
    # Another number of images than it was cut with.
    assert_exact(model, stages, targets, torch.randn(4, 3, side, side, dtype=torch.float64))


def residual(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.c(h + m.b(m.norm(h)))


def residual_behind_more(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.c(h + m.b(m.drop(m.norm(h).view(len_of(h), 6)).tanh()))


def len_of(x: Tensor) -> int:
    return x.shape[0]


def after_a_product(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.c(h + m.b(torch.matmul(h.tanh(), m.a.weight)))


def with_a_token(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)[:, None]
    token = m.norm.weight.expand(h.shape[0], 1, -1)
    return m.c(m.b(torch.cat([token, h], 1)).mean(1))


FRONTIERS = {
    "x, and not x and its norm": (residual, ["a"]),
    "x, and nothing that cheap calls make of it": (residual_behind_more, ["a"]),
    "a product beside it": (after_a_product, ["a", "matmul"]),
    "a token is joined before": (with_a_token, ["cat"]),
    "one layer twice": (lambda m, x: m.c(m.b(m.b(m.a(x)).tanh()) + m.b(m.a(x))), ["a", "a_1"]),
}


@pytest.mark.parametrize(("calls", "names"), FRONTIERS.values(), ids=FRONTIERS)
def test_the_stem_outputs_only_what_cannot_be_computed_cheaply_from_the_rest(calls, names):
    model, images = made(calls)
    stages = cut_at(model, ["b", "c"], images)
    assert list(stages.names) == names
    assert_exact(model, stages, ["b", "c"], images)


def test_there_is_no_stem_if_all_calls_before_the_trained_layers_are_cheap():
    model, images = made(lambda m, x: m.c(m.b(m.norm(x).tanh())))
    stages = cut_at(model, ["b", "c"], images)
    assert stages.stem is None
    assert stages.names == ("images",)
    assert_exact(model, stages, ["b", "c"], images)


def added(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)
    y = m.b(h)
    h.add_(m.norm(h))
    return m.c(y + h)


def aliased(m: Calls, x: Tensor) -> Tensor:
    h = same = m.a(x)
    h += m.b(m.norm(h))
    return m.c(h * same)


def powered(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)
    y = m.b(m.norm(h))
    h **= 2
    return m.c(y + h)


def within(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)
    y = m.hidden(h)
    return m.c(m.b(y).tanh() + h)


def written_to(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)
    y = torch.add(h, 1.0, out=h)
    return m.c(m.b(y) + h)


def of_a_view(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)
    y = h.view(-1, 2, 3).relu_()
    return m.c(m.b(y.flatten(1)) + h)


def of_the_images(m: Calls, x: Tensor) -> Tensor:
    x -= 0.5
    return m.c(m.b(m.a(x)) + x)


def of_a_lane(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)
    y = m.b(m.norm(h))
    h += y
    return m.c(F.relu(h, inplace=True))


IN_PLACE = {
    each.__name__: each for each in (added, aliased, powered, within, written_to, of_a_view, of_the_images, of_a_lane)
}


@torch.no_grad()
@pytest.mark.parametrize("calls", IN_PLACE.values(), ids=IN_PLACE)
def test_calls_in_place_change_neither_their_inputs_nor_the_outputs(calls):
    model, images = made(calls)
    before, own = images.clone(), trials(model, ["b", "c"])
    program = make_program(model, Lora(), [own[:-1], own[-1:]], images)
    assert torch.equal(images, before)
    assert program.stacks
    rows = torch.randn(5, 6, dtype=torch.float64)
    expected = torch.cat([alone(model, trial, rows) for trial in own])
    for _ in range(2):
        if program.cut is not None:
            torch.testing.assert_close(staged(program.cut, own, rows), expected, rtol=1e-9, atol=1e-9)
        logits = program.bind(in_stacks(own))(*program.inputs(rows))
        torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    assert (program.cut is None) == (calls in (added, aliased)), program.why


def controlled(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.c(m.b(h) if h.sum() > 0 else m.b(-h))


def of_its_length(m: Calls, x: Tensor) -> Tensor:
    return m.c(m.b(m.a(x)) / len(x))


def of_its_number(m: Calls, x: Tensor) -> Tensor:
    h = m.b(m.a(x))
    return m.c(h.reshape(x.shape[0] * 2, 3).reshape(-1, 6))


def two_answers(m: Calls, x: Tensor) -> tuple[Tensor, Tensor]:
    h = m.b(m.a(x))
    return m.c(h), h


def read_after(m: Calls, x: Tensor) -> Tensor:
    return m.c(F.linear(m.b(m.a(x)), m.b.weight))


def images_again(m: Calls, x: Tensor) -> Tensor:
    return m.c(m.b(m.a(x)) + x)


def across_images(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.c(m.b(h - h.mean(0, keepdim=True)))


def another_axis(m: Calls, x: Tensor) -> Tensor:
    return m.c(m.b(m.a(x).expand(2, -1, -1)).mean(0))


def by_keyword(m: Calls, x: Tensor) -> Tensor:
    return m.c(m.b(input=m.a(x)))


REFUSED = {
    "its calls depend on what it is given": (controlled, "cannot be traced .*control flow"),
    "it asks for the number of images": (of_its_length, "cannot be traced .*len"),
    "it reshapes by the number of images": (of_its_number, "computes .* cannot be separated by lane"),
    "it gives two tensors": (two_answers, "output is not one tensor"),
    "a trained layer's weight is read": (read_after, "reads 'b.weight' of a trained layer"),
    "images are seen beside each other": (across_images, "depends on the other images"),
    "its batch is the second axis": (another_axis, "one row per image"),
    "a trained layer is called by keyword": (by_keyword, "not called with one tensor"),
    "no trained layer is reached": (lambda m, x: m.a(x), "output is not one tensor that a trained layer reaches"),
}


@pytest.mark.parametrize(("calls", "why"), REFUSED.values(), ids=REFUSED)
def test_a_model_that_cannot_be_cut_is_refused_with_the_reason(calls, why):
    model, images = made(calls)
    with pytest.raises(CannotCutError, match=why):
        cut_at(model, ["b", "c"], images)


def test_images_that_are_needed_beside_the_features_are_features_too():
    model, images = made(images_again)
    stages = cut_at(model, ["b", "c"], images)
    assert stages.names == ("images", "a")
    assert_exact(model, stages, ["b", "c"], images)
