import math
from collections import OrderedDict

import pytest
import torch
from timm.layers import StdConv2d
from timm.layers.conv2d_same import Conv2dSame
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pipeline.compress.layers import in_groups, weight_matrix
from pipeline.compress.methods.int1 import Int1
from pipeline.compress.methods.no_compression import NoCompression
from pipeline.compress.methods.sparse import Sparse
from pipeline.compress.sizes import model_macs
from pipeline.compress.targets import find_targets
from pipeline.errors import IntegrityError, SpecError
from pipeline.task.inspection import inspect, layer_names


def small_net() -> nn.Sequential:
    """A stem, a depthwise and a grouped convolution, a head."""
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 8, 3, stride=2, padding=1),
            norm=nn.BatchNorm2d(8),
            depthwise=nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False),
            grouped=nn.Conv2d(8, 12, (1, 3), groups=2),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            head=nn.Linear(12, 5),
        )
    )


TARGETS = ["stem", "depthwise", "grouped", "head"]


@pytest.mark.parametrize("compression", [NoCompression(), Int1(), Sparse(block="1:4")], ids=str)
def test_compressing_leaves_the_model_as_it_is_and_shares_what_it_does_not_touch(compression):
    model = small_net().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = compression.compress_model(model, ["stem", "depthwise"], {}).model
    after, own = model.state_dict(), small.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())

    changed = {"stem.weight", "depthwise.weight"}
    assert {name for name in own if own[name].data_ptr() != after[name].data_ptr()} == changed
    assert not any(module.training for module in small.modules())
    assert not any(parameter.requires_grad for parameter in small.parameters())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_fault_14_a_weight_that_is_not_finite_is_refused_by_the_name_of_its_layer(bad):
    model = small_net()
    model.grouped.weight.data[3, 1, 0, 2] = bad
    with pytest.raises(IntegrityError, match="layer 'grouped' holds NaN or infinite"):
        Int1().compress_model(model, TARGETS, {})
    Int1().compress_model(model, ["stem", "head"], {})


def test_a_convolution_enters_as_its_matrix_and_a_grouped_one_group_by_group():
    model = small_net()
    compressed = Int1(scale="tensor").compress_model(model, TARGETS, {})
    assert {name: weight.shape for name, weight in compressed.weights.items()} == {
        "stem": (8, 27),
        "depthwise": (8, 9),
        "grouped": (12, 12),
        "head": (5, 12),
    }
    x = torch.randn(2, 3, 9, 9)
    dense = compressed.weights["stem"].dense()
    by_hand = dense @ F.unfold(x, 3, padding=1, stride=2) + model.stem.bias[:, None]
    torch.testing.assert_close(compressed.model.stem(x).flatten(2), by_hand)

    scales = compressed.weights["grouped"].dense().abs()
    for group, its in zip(in_groups(model.grouped, weight_matrix(model.grouped)), scales.chunk(2), strict=True):
        torch.testing.assert_close(its, group.abs().mean().expand(6, 12))
    assert len(compressed.weights["depthwise"].groups) == 8


def test_targets_come_in_the_models_order_each_once():
    assert find_targets(small_net(), ["head", "*"]) == TARGETS
    assert find_targets(small_net(), ["head", "s*", "*tem"]) == ["stem", "head"]


def test_fault_20_a_pattern_that_matches_nothing_is_refused_with_the_nearest_name():
    with pytest.raises(SpecError, match=r"'steem' matches no layer; did you mean 'stem'\?; layers: stem, depthwise"):
        find_targets(small_net(), ["head", "steem"])
    with pytest.raises(SpecError, match=r"'qqq' matches no layer; layers: stem"):
        find_targets(small_net(), ["qqq"])


def test_fault_20_a_layer_that_cannot_be_adapted_is_refused_by_name():
    with pytest.raises(SpecError, match=r"'no\*' matches 'norm', a BatchNorm2d, which cannot be adapted"):
        find_targets(small_net(), ["no*"])


def test_the_projection_of_multihead_attention_is_not_offered():
    model = nn.TransformerEncoderLayer(8, 2, 16)
    assert layer_names(model) == ["linear1", "linear2"]
    with pytest.raises(SpecError, match=r"'self_attn\.out_proj', read by the attention layer"):
        find_targets(model, ["self_attn.*"])


def test_a_convolution_that_transforms_its_weight_first_is_not_offered():
    model = nn.Sequential(StdConv2d(3, 4, 3), Conv2dSame(4, 4, 3))
    assert layer_names(model) == ["1"]


def test_multiply_accumulates_are_those_that_torch_counts():
    model, image = small_net().eval(), torch.randn(1, 3, 17, 15)
    positions = inspect(model, image).positions
    assert positions == {"stem": 9 * 8, "depthwise": 9 * 8, "grouped": 9 * 6, "head": 1}
    compressed = NoCompression().compress_model(model, ["stem", "grouped"], {})
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    small, dense = model_macs(model, compressed, positions, {})
    assert small == dense == counter.get_total_flops() / 2


def test_multiply_accumulates_of_tokens_and_adapters_count_each_position():
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    positions = {"0": 7, "1": 7}
    compressed = Sparse(block="1:4").compress_model(model, ["0"], {})
    assert model_macs(model, compressed, positions, {"0": 2 * 12}) == (7 * (8 + 24 + 8), 7 * (32 + 8))


class CalledByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(input=x).mean(1)


def test_vectors_of_a_layer_that_is_called_by_keyword_are_counted():
    assert inspect(CalledByKeyword(), torch.randn(1, 5, 3)).positions == {"fc": 5}
