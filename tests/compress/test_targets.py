from collections import OrderedDict
from itertools import pairwise

import pytest
import timm
import torch
import torchvision
from torch import nn

from pipeline.compress.attention import with_plain_attention
from pipeline.compress.layers import matrix_shape
from pipeline.compress.targets import find_targets, fixed_ranks, resolve
from pipeline.config.combination_spec import TargetSpec
from pipeline.errors import SpecError
from pipeline.task.inspection import Inspection, layer_names


def inspected(model: nn.Module) -> Inspection:
    """A model that was not run: every layer counts as called, and the head is not known."""
    return Inspection(model, 0, (), dict.fromkeys(layer_names(model), 1))


def net(**last: nn.Module) -> nn.Module:
    """Two convolutions, a hidden layer of 12 and 5 numbers out."""
    layers = {"conv1": nn.Conv2d(3, 8, 3), "norm": nn.BatchNorm2d(8), "conv2": nn.Conv2d(8, 12, 1)}
    return nn.Sequential(OrderedDict(**layers, fc=nn.Linear(12, 12), **(last or {"out": nn.Linear(12, 5)})))


def vit(classes: int = 3) -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=48, num_classes=classes)


def torchvision_vit() -> nn.Module:
    shape = {"image_size": 32, "patch_size": 16, "hidden_dim": 16, "mlp_dim": 32}
    return with_plain_attention(torchvision.models.VisionTransformer(**shape, num_layers=1, num_heads=2, num_classes=3))


def swin_v2() -> nn.Module:
    shape = {"img_size": 32, "patch_size": 2, "embed_dim": 12, "depths": (1,), "num_heads": (3,), "num_classes": 3}
    return timm.create_model("swinv2_tiny_window8_256", **shape, window_size=4)


def small(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, num_classes=3)


class Attention(nn.Module):
    """Of layers by these names."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, nn.Linear(6, 6))


def around(*names: str) -> nn.Module:
    return nn.Sequential(OrderedDict(stem=nn.Linear(6, 6), block=Attention(*names), last=nn.Linear(6, 2)))


def feed_forward(name: str, *widths: int) -> nn.Module:
    return named(name, *(nn.Linear(*pair) for pair in pairwise(widths)))


def named(name: str, *layers: nn.Module) -> nn.Module:
    """These layers within a module of that name, and another behind."""
    return nn.Sequential(OrderedDict([(name, nn.Sequential(*layers)), ("last", nn.Linear(3, 3))]))


BLOCK = "encoder.layers.encoder_layer_0"
GROUPS = {
    "every layer": (net, "all", ["conv1", "conv2", "fc", "out"]),
    "linear layers": (net, "linear", ["fc", "out"]),
    "convolutions": (net, "conv", ["conv1", "conv2"]),
    "timm's attention": (vit, "attention", ["blocks.0.attn.qkv", "blocks.0.attn.proj"]),
    "torchvision's attention": (
        torchvision_vit,
        "attention",
        [f"{BLOCK}.self_attention.in_proj", f"{BLOCK}.self_attention.out_proj"],
    ),
    "windows of attention": (swin_v2, "attention", ["layers.0.blocks.0.attn.qkv", "layers.0.blocks.0.attn.proj"]),
    "q, k, v": (lambda: around("q", "k", "v", "o"), "attention", ["block.q", "block.k", "block.v", "block.o"]),
    "q_proj": (lambda: around("q_proj", "k_proj", "v_proj"), "attention", [f"block.{each}_proj" for each in "qkv"]),
    "query": (lambda: around("query", "key", "value"), "attention", ["block.query", "block.key", "block.value"]),
    "to_q and to_kv": (lambda: around("to_q", "to_kv"), "attention", ["block.to_q", "block.to_kv"]),
    "timm's mlp": (vit, "mlp", ["blocks.0.mlp.fc1", "blocks.0.mlp.fc2"]),
    "torchvision's mlp": (torchvision_vit, "mlp", [f"{BLOCK}.mlp.0", f"{BLOCK}.mlp.3"]),
    "no position biases": (swin_v2, "mlp", ["layers.0.blocks.0.mlp.fc1", "layers.0.blocks.0.mlp.fc2"]),
    "1 x 1 convolutions": (
        lambda: named("ffn", nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1)),
        "mlp",
        ["ffn.0", "ffn.2"],
    ),
    "a feed-forward network": (lambda: feed_forward("ff2", 6, 9, 6), "mlp", ["ff2.0", "ff2.1"]),
}


@pytest.mark.parametrize(("build", "group", "names"), GROUPS.values(), ids=GROUPS)
def test_a_group_holds_these_layers(build, group, names):
    assert find_targets(build(), [group]) == names


NOT_THERE = {
    "attention in a net of convolutions": (net, "attention"),
    "mlp in a plain mlp": (lambda: nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 6)), "mlp"),
    "mlp in a classifier of that name": (lambda: feed_forward("mlp", 6, 9, 3), "mlp"),
    "attention in a state-space block": (lambda: around("in_proj", "out_proj"), "attention"),
    "conv in a net of none": (lambda: feed_forward("mlp", 6, 9, 6), "conv"),
}


@pytest.mark.parametrize(("build", "group"), NOT_THERE.values(), ids=NOT_THERE)
def test_a_group_that_a_model_does_not_have_is_refused_and_the_groups_are_named(build, group):
    with pytest.raises(
        SpecError, match=f"^targets: '{group}' matches no layer; layers: .*; groups: all, attention, conv, "
    ):
        resolve(inspected(build()), ["*", group])


def test_a_group_goes_before_a_layer_of_its_name():
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 1), other=nn.Conv2d(4, 4, 1)))
    assert find_targets(model, ["conv"]) == ["conv", "other"]
    assert find_targets(model, ["[c]onv"]) == ["conv"]


def test_all_entries_without_a_match_are_reported_together_each_with_the_nearest_name():
    with pytest.raises(SpecError) as raised:
        resolve(inspected(net()), ["conv3", "attnetion", "fc", "norm"])
    said = str(raised.value)
    assert "'conv3' matches no layer; did you mean 'conv" in said
    assert "'attnetion' matches no layer; did you mean 'attention'?" in said
    assert "'norm' matches 'norm', a BatchNorm2d, which cannot be adapted" in said
    assert "'fc'" not in said
    assert raised.value.exit_code == 3


def ranks(entries):
    return fixed_ranks(net(), resolve(inspected(net()), entries))


def test_layers_come_in_the_models_order_and_the_last_entry_that_matches_one_holds():
    entries = [TargetSpec(match="fc"), TargetSpec(match="conv", rank=4), "conv2", TargetSpec(match="out", rank=2)]
    assert list(resolve(inspected(net()), entries)) == ["conv1", "conv2", "fc", "out"]
    assert ranks(entries) == {"conv1": 4, "out": 2}


def test_a_dense_layer_is_no_target_unless_a_later_entry_takes_it_back():
    dense = TargetSpec(match="conv", dense=True)
    assert list(resolve(inspected(net()), ["*", dense])) == ["fc", "out"]
    entries = ["*", dense, TargetSpec(match="conv2", rank=3)]
    assert list(resolve(inspected(net()), entries)) == ["conv2", "fc", "out"]
    assert ranks(entries) == {"conv2": 3}


def test_a_rank_of_its_own_is_clipped_to_the_layer():
    assert ranks([TargetSpec(match="*", rank=10)]) == {"conv1": 8, "conv2": 8, "fc": 10, "out": 5}


def test_nothing_is_left_to_train_where_all_is_dense():
    with pytest.raises(SpecError, match="all layers that match are dense = true, so none is left to train"):
        resolve(inspected(net()), [TargetSpec(match="conv1", dense=True)])


OVERRIDDEN = [{"rank": 2}, {"dense": True}, {"compression": "intN"}]


@pytest.mark.parametrize("entry", [TargetSpec(match="conv1", **options) for options in OVERRIDDEN], ids=repr)
def test_an_entry_that_later_entries_override_everywhere_is_refused(entry):
    with pytest.raises(SpecError, match="'conv1' has no effect, because later entries override it; put it after them"):
        resolve(inspected(net()), [entry, "*"])
    assert len(resolve(inspected(net()), ["conv1", "*"])) == 4


@pytest.mark.parametrize(("qkv", "parameters"), [("split", 48_716_644), ("fused", 43_408_228)])
def test_a_vit_whose_attention_and_feed_forward_are_factors_has_the_published_size(qkv, parameters):
    with torch.device("meta"):
        model = with_plain_attention(timm.create_model("vit_base_patch16_224", num_classes=100), qkv)
    targets = find_targets(model, ["attention", "mlp"])
    assert len(targets) == 12 * {"split": 6, "fused": 4}[qkv]
    shapes = [matrix_shape(model.get_submodule(name)) for name in targets]
    dense = sum(parameter.numel() for parameter in model.parameters())
    assert dense == 85_875_556
    assert dense + sum(288 * (m + n) - m * n for m, n in shapes) == parameters
