from dataclasses import dataclass

import pytest
import timm
import torch
from torch import Tensor, nn

from pipeline.adapt.contract import blank, stored_model
from pipeline.adapt.methods.lora import Lora
from pipeline.compress.contract import CompressedModel, LayerCompression, LayerStats
from pipeline.compress.grouped_weight import join_groups
from pipeline.compress.layers import copy_sharing_tensors, matrix_shape
from pipeline.compress.methods.int1 import Int1
from pipeline.compress.methods.intn import IntN
from pipeline.compress.methods.no_compression import NoCompression
from pipeline.compress.methods.sparse import Sparse
from pipeline.compress.methods.svd import Svd
from pipeline.compress.sizes import ModelSize, StoredModel, model_size
from pipeline.compress.targets import find_targets
from pipeline.compress.weight import CompressedWeight

PUBLISHED = {"index": False, "scale": False, "bias": False}


def lora_size(model: nn.Module, compression: LayerCompression, targets: list[str], rank: int) -> ModelSize:
    compressed = compression.compress_model(model, targets, {})
    ranks = {name: min(rank, *weight.shape) for name, weight in compressed.weights.items()}
    return model_size(model, stored_model(Lora(), compressed, blank(Lora(), compressed, ranks)))


@pytest.mark.parametrize(
    ("compression", "rank", "published"), [(Int1(), 2, 26.91), (Int1(), 128, 2.44), (Sparse(), 128, 2.27)], ids=str
)
def test_a_layer_from_512_to_1000_has_the_published_ratio(compression, rank, published):
    layer = lora_size(nn.Sequential(nn.Linear(512, 1000)), compression, ["0"], rank).layers["0"]
    m, n = 512, 1000
    base = m * n if compression == Int1() else 32 * m * n / 16
    assert layer.bits(**PUBLISHED) == base + 32 * rank * (m + n)
    assert round(layer.dense / layer.bits(**PUBLISHED), 2) == published


def test_the_honest_ratio_counts_index_scales_and_biases():
    model = nn.Sequential(nn.Linear(512, 1000))
    sparse = lora_size(model, Sparse(), ["0"], 128).layers["0"]
    assert round(sparse.dense / sparse.bits(scale=False, bias=False), 2) == 2.23
    int1 = lora_size(model, Int1(), ["0"], 2)
    assert int1.layers["0"].bits() == 512 * 1000 + 32 * (1000 + 1000 + 2 * 1512)
    assert int1.layer_bytes == int1.bytes == (512 * 1000 + 32 * (1000 + 1000 + 2 * 1512)) / 8
    assert int1.layer_ratio == int1.ratio == 4 * (512 * 1000 + 1000) / int1.bytes


def test_all_of_resnet18_with_an_int1_head_has_the_published_ratio():
    model = timm.create_model("resnet18", num_classes=1000)
    size = lora_size(model, Int1(), ["fc"], 2)
    parameters = 11_689_512
    assert (8 * size.dense_bytes - size.buffers) / 32 == parameters
    assert round(size.published_ratio(), 3) == 1.044
    assert size.buffers == 8 * sum(b.nbytes for b in model.buffers())
    assert size.dense_bytes == sum(tensor.nbytes for tensor in model.state_dict().values())
    assert size.ratio < size.published_ratio()


def test_tensors_that_are_not_targets_count_as_they_are():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4, bias=False))
    size = model_size(model, StoredModel(NoCompression().compress_model(model, ["3"], {})))
    assert size.untouched == 32 * (8 * 27 + 8 + 16)
    assert size.buffers == 32 * 16 + 64
    assert size.bytes == size.dense_bytes == sum(tensor.nbytes for tensor in model.state_dict().values())


def test_a_parameter_that_two_layers_share_counts_as_often_as_the_file_holds_it():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    model[1].weight = model[0].weight
    stored = StoredModel(Int1().compress_model(model, ["2"], {}))
    assert model_size(model, stored).bytes == sum(tensor.nbytes for tensor in stored.tensors().values())


# Published models that no method here produces, so that only the sizes of their weights are stated.


@dataclass(frozen=True)
class Stated(CompressedWeight):
    """A weight of which only the size is known."""

    out_in: tuple[int, int]
    numbers: int

    def dense(self) -> Tensor:
        return torch.zeros(self.out_in)

    def to_tensors(self) -> dict[str, Tensor]:
        return {"dense": torch.zeros(self.numbers)}

    @property
    def macs(self) -> int:
        return self.numbers


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))


def percent(size: ModelSize, dense: int) -> tuple[int, float]:
    """Parameters, and their share of the dense model's."""
    assert size.dense_bytes / 4 == dense
    return size.bytes // 4, round(100 * size.bytes / size.dense_bytes, 3)


def test_an_mlp_as_svd_factors_has_the_published_size():
    model = mlp()
    weights = {}
    for name, rank in (("0", 30), ("2", 19), ("4", 6)):
        weights |= Svd(rank=rank, singular_values=True).compress_model(model, [name], {}).weights
    assert percent(model_size(model, StoredModel(CompressedModel(model, weights, model))), 235_146) == (39_773, 16.914)


def pruned(model: nn.Sequential, kept: dict[str, int], *, drop_dead_inputs: bool) -> CompressedModel:
    """The first rows of some layers; the next layer loses those inputs, or has them left in."""
    small, weights, inputs = copy_sharing_tensors(model), {}, None
    for name in ("0", "2", "4"):
        layer = model.get_submodule(name)
        out, inner = matrix_shape(layer)
        rows = kept.get(name, out)
        weights[name] = Stated((out, inner), rows * (inputs if inputs and drop_dead_inputs else inner))
        small.get_submodule(name).bias = nn.Parameter(layer.bias[:rows], requires_grad=False)
        inputs = rows
    return CompressedModel(small, weights, model)


def test_an_mlp_of_fewer_rows_has_the_published_size_with_and_without_its_dead_inputs():
    model, kept = mlp(), {"0": 104, "2": 52}
    left_in = model_size(model, StoredModel(pruned(model, kept, drop_dead_inputs=False)))
    assert percent(left_in, 235_146) == (96_294, 40.951)
    dropped = model_size(model, StoredModel(pruned(model, kept, drop_dead_inputs=True)))
    assert round(percent(dropped, 235_146)[1], 2) == 37.27
    narrow = nn.Sequential(nn.Linear(784, 104), nn.Linear(104, 52), nn.Linear(52, 10))
    assert dropped.bytes == 4 * sum(tensor.numel() for tensor in narrow.parameters())


@pytest.mark.parametrize(("pieces", "parameters"), [(3, 48_716_644), (1, 43_408_228)], ids=["q, k, v apart", "fused"])
def test_a_vit_of_factors_has_the_published_size(pieces, parameters):
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224", num_classes=100)
    weights, method = {}, Svd(rank=288)
    for name in find_targets(model, ["blocks.*.attn.*", "blocks.*.mlp.*"]):
        weight = model.get_submodule(name).weight
        apart = weight.chunk(pieces) if name.endswith("qkv") else [weight]
        weights[name] = join_groups([method.compress(piece, None) for piece in apart])
    size = model_size(model, StoredModel(CompressedModel(model, weights, model)))
    assert size.dense_bytes / 4 == 85_875_556
    assert size.bytes / 4 == parameters


@pytest.mark.parametrize("method", [Int1(), IntN(bits=4), Sparse(block="3x3")], ids=lambda method: method.name)
def test_an_outline_compresses_one_group_of_a_convolution_for_all_and_has_the_same_packed_shapes(method, monkeypatch):
    model, shapes = nn.Sequential(nn.Conv2d(96, 96, 3, groups=48)).eval(), []
    compress = type(method).compress

    def counted(self: LayerCompression, weight: Tensor, stats: LayerStats | None) -> CompressedWeight:
        shapes.append(tuple(weight.shape))
        return compress(self, weight, stats)

    monkeypatch.setattr(type(method), "compress", counted)
    outlined = method.outline(model, ["0"]).weights["0"].to_tensors()
    assert shapes == [(2, 18)]
    compressed = method.compress_model(model, ["0"], {}).weights["0"].to_tensors()
    assert len(shapes) == 1 + 48
    assert {kind: (t.shape, t.dtype) for kind, t in outlined.items()} == {
        kind: (t.shape, t.dtype) for kind, t in compressed.items()
    }
