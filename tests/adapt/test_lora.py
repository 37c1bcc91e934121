from collections import OrderedDict
from collections.abc import Mapping

import pytest
import timm
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from pipeline.adapt.contract import Adapter, Draw, blank, trainable_counts
from pipeline.adapt.inits.contract import AdaptedLayer, Start
from pipeline.adapt.inits.paper import Paper
from pipeline.adapt.inits.residual_svd import ResidualSvd
from pipeline.adapt.lanes import Lanes, attach
from pipeline.adapt.methods.dora import Dora
from pipeline.adapt.methods.lora import Lora
from pipeline.compress.contract import CompressedModel
from pipeline.compress.layers import copy_sharing_tensors, matrix_shape, replace_weight, weight_matrix
from pipeline.compress.methods.int1 import Int1
from pipeline.compress.methods.sparse import Sparse
from pipeline.compress.targets import find_targets
from pipeline.compress.weight import DenseWeight

torch.manual_seed(0)  # these layers are the same whatever was imported before
LAYERS = {
    "linear": (nn.Linear(10, 6), (4, 10)),
    "linear on tokens": (nn.Linear(10, 6, bias=False), (4, 3, 10)),
    "1x1": (nn.Conv2d(6, 9, 1), (4, 6, 5, 5)),
    "strided and padded": (nn.Conv2d(3, 8, (3, 5), stride=(2, 1), padding=(1, 2)), (4, 3, 9, 8)),
    "dilated without bias": (nn.Conv2d(3, 8, 3, dilation=2, bias=False), (4, 3, 9, 9)),
    "padding same": (nn.Conv2d(3, 8, 3, padding="same", dilation=2), (4, 3, 7, 7)),
    "reflected": (nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), (4, 3, 7, 7)),
    "grouped": (nn.Conv2d(6, 9, 3, groups=3, stride=2), (4, 6, 8, 8)),
    "depthwise": (nn.Conv2d(5, 5, 3, groups=5, padding=1), (4, 5, 8, 8)),
    "depthwise, more channels out": (nn.Conv2d(5, 10, 3, groups=5), (4, 5, 8, 8)),
    "timm's same": (Conv2dSame(3, 8, 3, stride=2), (4, 3, 9, 10)),
    "timm's same, grouped": (Conv2dSame(4, 8, 5, stride=2, groups=2), (4, 4, 9, 10)),
}


def lanes_of(model: nn.Module, adapter: Lora, alphas: list[float], rank: int = 2) -> list[dict[str, Tensor]]:
    """Random factors for a lane each, on the layer ``0``; whatever else is trained has moved."""
    out, inner = matrix_shape(model[0])
    starts = [{"0": Start(torch.randn(rank, inner).double(), torch.randn(out, rank).double())} for _ in alphas]
    bare = CompressedModel(model, {}, model)
    lanes = [adapter.begin(bare, start, Draw(alpha)) for start, alpha in zip(starts, alphas, strict=True)]
    moved = ("bias", "gain", "magnitude")
    return [{key: t + torch.randn_like(t) if key.endswith(moved) else t for key, t in lane.items()} for lane in lanes]


def attached(model: nn.Module, lanes: list[Mapping[str, Tensor]], alphas: list[float], adapter: Adapter) -> nn.Module:
    copy = copy_sharing_tensors(model)
    attach(copy, adapter, Lanes([(stacked(lanes), alphas)]))
    return copy


def stacked(lanes: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([lane[name] for lane in lanes]) for name in lanes[0]}


def dense_form(layer: nn.Module, adapter: Lora, lane: Mapping[str, Tensor], alpha: float) -> tuple[Tensor, Tensor]:
    """The weight ``[out, in]`` that a lane stands for, and its bias."""
    A, B, rows = lane["0.lora_A"], lane["0.lora_B"], lane["0.lora_B"].new_ones(len(lane["0.lora_B"]))
    s = alpha / (len(A) if adapter.scale == "alpha/r" else len(A) ** 0.5)
    weight = lane.get("0.gain", rows)[:, None] * weight_matrix(layer) + s * B @ A
    if "0.magnitude" in lane:
        weight = lane["0.magnitude"][:, None] * weight / weight.norm(dim=1, keepdim=True)
    return weight, lane.get("0.bias", layer.bias)


KINDS = {
    "lora": Lora(),
    "sqrt and biases": Lora(scale="alpha/sqrt(r)", bias=True),
    "gains": Lora(scales=True),
    "gains and biases": Lora(scales=True, bias=True),
    "dora": Dora(),
    "dora, sqrt and biases": Dora(scale="alpha/sqrt(r)", bias=True),
    "dora with gains": Dora(scales=True),
}
EACH_KIND = pytest.mark.parametrize("adapter", KINDS.values(), ids=KINDS)


@EACH_KIND
@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)
def test_each_of_many_lanes_is_the_dense_layer_that_it_stands_for(layer, shape, adapter):
    model, alphas = nn.Sequential(layer).double(), [1.0, 4.0, 0.5]
    lanes = lanes_of(model, adapter, alphas)
    images = [torch.randn(shape, dtype=torch.float64) for _ in alphas]
    together = attached(model, lanes, alphas, adapter)(torch.cat(images)).chunk(3)
    for lane, alpha, x, out in zip(lanes, alphas, images, together, strict=True):
        dense = copy_sharing_tensors(model)
        weight, bias = dense_form(layer, adapter, lane, alpha)
        replace_weight(dense, "0", weight)
        dense[0].bias = None if bias is None else nn.Parameter(bias)
        torch.testing.assert_close(out, dense(x), rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(attached(model, [lane], [alpha], adapter)(x), out, rtol=1e-11, atol=1e-11)


@EACH_KIND
@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)
def test_lanes_of_a_shared_input_compute_as_those_with_inputs_of_their_own(layer, shape, adapter):
    model, alphas = nn.Sequential(layer).double(), [1.0, 4.0]
    lanes = lanes_of(model, adapter, alphas)
    base, x = copy_sharing_tensors(model)[0], torch.randn(shape, dtype=torch.float64)
    lane_layer = adapter.layer(base, {name.removeprefix("0.") for name in lanes[0]})
    shared = lane_layer(x, lane_layer.frozen(x), Lanes([(stacked(lanes), alphas)]).layers["0"])
    own = attached(model, lanes, alphas, adapter)(torch.cat([x, x]))
    torch.testing.assert_close(shared, own, rtol=1e-11, atol=1e-11)


@EACH_KIND
@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)
def test_what_an_adapter_names_is_all_that_has_a_gradient_each_lane_its_own(layer, shape, adapter):
    model, alphas = nn.Sequential(layer).double(), [1.0, 4.0]
    lanes = lanes_of(model, adapter, alphas)
    held = {name: nn.Parameter(tensor) for name, tensor in stacked(lanes).items()}
    copy = copy_sharing_tensors(model)
    attach(copy, adapter, Lanes([(held, alphas)]))
    x = torch.randn(2 * shape[0], *shape[1:], dtype=torch.float64)
    copy(x).chunk(2)[1].square().sum().backward()
    factors, more = {"0.lora_A", "0.lora_B"}, {"0.bias"} if adapter.bias and layer.bias is not None else set()
    more |= ({"0.gain"} if adapter.scales else set()) | ({"0.magnitude"} if isinstance(adapter, Dora) else set())
    assert held.keys() == factors | more
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    assert all(tensor.grad is not None for tensor in held.values())
    for tensor in held.values():
        assert not tensor.grad[0].any()
        assert tensor.grad[1].any()
    assert all(p.grad is None for name, p in copy.named_parameters() if name not in held)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 24), nn.ReLU(), nn.Linear(24, 5))


class Block(nn.Module):
    """A residual block with a depthwise convolution between two of 1 x 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(width, 12, 1, bias=False), nn.Conv2d(12, width, 1, bias=False)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.norm = nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.norm(self.depthwise(self.up(x)))))


def cnn() -> nn.Module:
    stem = nn.Conv2d(3, 8, 3, stride=4, padding=1)
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(OrderedDict(stem=stem, block=Block(8), pool=pool, flat=nn.Flatten(), fc=nn.Linear(8, 5)))


def vit() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5)


def starts_of(compressed: CompressedModel, model: nn.Module, init: Paper | ResidualSvd, rank: int) -> dict[str, Start]:
    generator, starts = torch.Generator().manual_seed(0), {}
    for name, weight in compressed.weights.items():
        matrix, r = weight_matrix(model.get_submodule(name)), min(rank, *weight.shape)
        starts[name] = init.start(AdaptedLayer(matrix, weight, DenseWeight), r, generator)
    return starts


@pytest.mark.parametrize("compression", [Int1(), Sparse()], ids=["int1", "sparse"])
@pytest.mark.parametrize("build", [mlp, cnn, vit])
def test_the_full_rank_svd_start_gives_the_uncompressed_models_outputs(build, compression):
    model = build().double().eval()
    compressed = compression.compress_model(model, find_targets(model, ["*"]), {})
    lane = Lora().begin(compressed, starts_of(compressed, model, ResidualSvd(), 10_000), Draw(8.0))
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        assert (compressed.model(x) - model(x)).abs().max() > 1e-3
        torch.testing.assert_close(attached(compressed.model, [lane], [8.0], Lora())(x), model(x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("build", [mlp, cnn, vit])
def test_the_papers_start_gives_the_compressed_models_outputs(build):
    model = build().eval()
    compressed = Int1().compress_model(model, find_targets(model, ["*"]), {})
    lane = Lora().begin(compressed, starts_of(compressed, model, Paper(), 4), Draw(8.0))
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(attached(compressed.model, [lane], [8.0], Lora())(x), compressed.model(x))


def test_ranks_are_clipped_to_what_each_layer_takes_and_counted_before_any_start():
    model = mlp()
    compressed = Int1().compress_model(model, ["1", "3"], {})
    ranks = {name: min(16, *weight.shape) for name, weight in compressed.weights.items()}
    counts = trainable_counts(Lora(), compressed.weights, blank(Lora(), compressed, ranks))
    assert counts == {"1.lora_A": 16 * 3072, "1.lora_B": 16 * 24, "3.lora_A": 5 * 24, "3.lora_B": 5 * 5}
    lane = Lora().begin(compressed, starts_of(compressed, model, ResidualSvd(), 16), Draw(1.0))
    assert {name: tensor.numel() for name, tensor in lane.items()} == counts
    assert Lora().macs((24, 3072), 16) == 16 * (24 + 3072)


def test_attaching_leaves_the_compressed_model_as_it_was():
    model = cnn()
    compressed = Int1().compress_model(model, find_targets(model, ["*"]), {})
    before = {name: tensor.clone() for name, tensor in compressed.model.state_dict().items()}
    lane = Lora().begin(compressed, starts_of(compressed, model, Paper(), 2), Draw(1.0))
    attached(compressed.model, [lane, lane], [1.0, 2.0], Lora())(torch.randn(4, 3, 32, 32))
    after = compressed.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
