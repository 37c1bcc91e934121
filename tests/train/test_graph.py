import pytest
import timm
import torch
import torchvision
from model_cuts import assert_exact, cut_at
from packaging.version import Version
from random_lanes import Calls, made
from torch import Tensor, nn

from pipeline.compress.attention import with_plain_attention
from pipeline.compress.targets import find_targets


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


def images_again(m: Calls, x: Tensor) -> Tensor:
    return m.c(m.b(m.a(x)) + x)


def test_images_that_are_needed_beside_the_features_are_features_too():
    model, images = made(images_again)
    stages = cut_at(model, ["b", "c"], images)
    assert stages.names == ("images", "a")
    assert_exact(model, stages, ["b", "c"], images)
