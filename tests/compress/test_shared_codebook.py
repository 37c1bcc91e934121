"""One codebook for all layers with the same options: how it is fitted, what it takes, and which layers share it."""

from dataclasses import replace

import pytest
import torch
from methods import statistics
from pydantic import ValidationError
from torch import Tensor, nn

from pipeline.compress.by_layer import by_layer
from pipeline.compress.codebook_weights import SharedCodebookWeight
from pipeline.compress.contract import CompressedModel
from pipeline.compress.grouped_weight import GroupedWeight
from pipeline.compress.methods.codebook import Codebook
from pipeline.compress.methods.int1 import Int1
from pipeline.compress.methods.svd import Svd
from pipeline.compress.prefix_statistics import PrefixStatistics, from_images
from pipeline.compress.sizes import StoredModel, model_size
from pipeline.compress.weight import CompressedWeight, DenseWeight
from pipeline.config.combination_spec import StorageSpec

NAMES = ["0", "1", "3", "4"]


def network() -> nn.Module:
    """A plain, a grouped and a depthwise convolution, and a linear layer, of weights of different sizes."""
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 8, 3), nn.Conv2d(8, 6, 3, groups=2), nn.Flatten(), nn.Linear(24, 10), nn.Linear(10, 5)
    for size, name in zip((0.1, 3.0, 1.0, 7.0), (0, 1, 3, 4), strict=True):
        layers[name].weight.data.normal_(std=size)
    return nn.Sequential(*layers).eval()


def in_rans(compressed: CompressedModel) -> StoredModel:
    return StoredModel(replace(compressed, storage=StorageSpec(coding="rans")))


def shared(weights: dict[str, CompressedWeight]) -> list[SharedCodebookWeight]:
    return [weight for weight in weights.values() if isinstance(weight, SharedCodebookWeight)]


def matrix(model: nn.Module, name: str) -> Tensor:
    return model.get_submodule(name).weight.detach().flatten(1)


@pytest.mark.parametrize("vector", [1, 3])
def test_all_layers_have_the_same_centroids_each_times_its_root_mean_square(vector):
    model = network()
    weights = Codebook(size=7, vector=vector, shared=True).compress_model(model, NAMES, {}).weights
    assert list(weights) == NAMES
    assert len(shared(weights)) == len(NAMES)
    for name, weight in weights.items():
        assert torch.equal(weight.centroid, weights["0"].centroid)
        torch.testing.assert_close(weight.scale, matrix(model, name).square().mean().sqrt().view(1))
        whole = matrix(model, name)[:, : weight.inner // vector * vector].reshape(-1, vector)
        found = weight.dense()[:, : weight.inner // vector * vector].reshape(-1, vector)
        nearest = (whole[:, None] - weight.scale * weight.centroid).norm(dim=2).min(1).values
        torch.testing.assert_close((whole - found).norm(dim=1), nearest, rtol=1e-3, atol=1e-4)


def test_layers_that_differ_by_a_factor_alone_lose_the_same_share():
    model = nn.Sequential(nn.Linear(12, 9), nn.Linear(12, 9))
    model[1].weight.data = 5 * model[0].weight.data
    one, other = Codebook(size=5, vector=2, shared=True).compress_model(model, ["0", "1"], {}).weights.values()
    assert torch.equal(one.code, other.code)
    torch.testing.assert_close(other.dense(), 5 * one.dense())


def test_a_single_layer_loses_what_it_loses_with_a_codebook_of_its_own():
    model = nn.Sequential(nn.Linear(30, 20))
    lost = []
    for is_shared in (False, True):
        small = Codebook(size=8, vector=3, shared=is_shared).compress_model(model, ["0"], {}).weights["0"]
        lost.append(float((small.dense() - matrix(model, "0")).square().sum()))
    assert lost[1] == pytest.approx(lost[0], rel=1e-3)


def test_centroids_count_once_under_the_first_layer_and_an_outline_has_these_sizes():
    model, method = network(), Codebook(size=16, vector=3, shared=True)
    stored = in_rans(method.compress_model(model, NAMES, {}))
    size = model_size(model, stored)
    assert size == model_size(model, StoredModel(method.outline(model, NAMES)))
    assert [key for key in stored.tensors() if key.endswith("centroid")] == ["0.weight.centroid"]
    assert size.bytes == sum(tensor.nbytes for tensor in stored.tensors().values())
    assert [size.layers[name].base.scale for name in NAMES] == [32 * (16 * 3 + 1), 32, 32, 32]
    coded = model_size(model, stored, coded=True)
    assert coded.bytes == sum(len(tensor.data) for tensor in stored.coded.values())
    assert [coded.layers[name].base.scale for name in NAMES[1:]] == [32, 32, 32]


def test_layers_too_small_for_a_codebook_of_their_own_share_one():
    model, options = network(), {"size": 64, "vector": 9}
    own, common = (Codebook(**options, shared=one).compress_model(model, NAMES, {}).weights for one in (False, True))
    assert {type(weight) for weight in own.values()} == {DenseWeight}
    assert len(shared(common)) == len(NAMES)


def test_a_layer_of_a_single_weight_stays_dense_and_other_layers_share_without_it():
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 8), nn.Linear(8, 8))
    method = Codebook(size=4, vector=2, shared=True)
    compressed = method.compress_model(model, ["0", "1", "2"], {})
    assert isinstance(compressed.weights["0"], DenseWeight)
    keys = StoredModel(compressed).tensors()
    assert [key for key in keys if key.endswith("centroid")] == ["1.weight.centroid"]
    sizes = [StoredModel(small).sizes() for small in (compressed, method.outline(model, ["0", "1", "2"]))]
    assert sizes[0] == sizes[1]


def test_layers_with_a_compression_of_their_own_take_no_part():
    model, method = network(), Codebook(size=8, vector=2, shared=True)
    mixed = by_layer(method, {"1": Int1(), "3": Codebook(size=8, vector=2)})
    weights = mixed.compress_model(model, NAMES, {}).weights
    alone = method.compress_model(model, ["0", "4"], {}).weights
    assert isinstance(weights["1"], GroupedWeight)
    assert shared(weights) == [weights["0"], weights["4"]]
    for name, weight in alone.items():
        assert torch.equal(weights[name].dense(), weight.dense())


def test_layers_with_different_options_share_different_codebooks():
    model = network()
    other = Codebook(size=8, vector=2, shared=True, rate=0.01)
    mixed = by_layer(Codebook(size=8, vector=2, shared=True), dict.fromkeys(["1", "4"], other))
    compressed = mixed.compress_model(model, NAMES, {})
    keys = [key for key in StoredModel(compressed).tensors() if key.endswith("centroid")]
    assert keys == ["0.weight.centroid", "1.weight.centroid"]
    assert torch.equal(compressed.weights["1"].centroid, compressed.weights["4"].centroid)
    assert not torch.equal(compressed.weights["0"].centroid, compressed.weights["1"].centroid)


def test_layers_that_share_a_weight_count_once():
    method, tied = Codebook(size=4, vector=2, shared=True), nn.Sequential(*(nn.Linear(6, 6) for _ in range(3)))
    tied[2].weight = tied[0].weight
    weights = method.compress_model(tied, ["0", "1", "2"], {}).weights
    assert weights["2"] is weights["0"]
    assert torch.equal(weights["1"].centroid, method.compress_model(tied, ["0", "1"], {}).weights["1"].centroid)


def test_inputs_weigh_errors_in_the_fit_unless_layers_are_compressed_behind_each_other():
    model, plain = network(), Codebook(size=6, vector=2, shared=True)
    images = torch.randn(32, 2, 6, 6) * torch.linspace(0, 4, 6)
    by_inputs = plain.model_copy(update={"metric": "activation"})
    known = statistics(model, NAMES, 2, 6, 6)
    behind = by_inputs.model_copy(update={"prefix": 32})
    centroids = [
        method.compress_model(model, NAMES, stats).weights["0"].centroid
        for method, stats in (
            (plain, {}),
            (by_inputs, known),
            (behind, PrefixStatistics(model, NAMES, from_images([images]))),
        )
    ]
    assert not torch.equal(centroids[1], centroids[0])
    assert torch.equal(centroids[2], centroids[0])


def test_another_matrix_is_compressed_with_the_centroids_that_its_layer_shares():
    model, method = network(), Codebook(size=6, vector=2, shared=True)
    for name, weight in method.compress_model(model, NAMES, {}).weights.items():
        layer, moved = model.get_submodule(name), matrix(model, name) + 0.1
        small = method.sharing_with(weight).compress_layer(layer, moved, ())
        assert torch.equal(small.centroid, weight.centroid)
        assert small.shared_kinds == weight.shared_kinds
        torch.testing.assert_close(small.scale, moved.square().mean().sqrt().view(1))
    assert method.sharing_with(DenseWeight(moved)) is method


def test_bits_that_cost_a_price_are_saved_with_centroids_that_stay():
    model, options = network(), {"size": 32, "vector": 1, "shared": True}
    sizes = [
        model_size(model, in_rans(Codebook(**options, rate=rate).compress_model(model, NAMES, {})), coded=True)
        for rate in (0, 0.1)
    ]
    assert sizes[1].layers["3"].base.payload < 0.8 * sizes[0].layers["3"].base.payload


def test_factors_of_a_layer_cannot_share_centroids_with_other_layers():
    with pytest.raises(ValidationError, match="'codebook' with these options shares centroid among layers"):
        Svd(factors=Codebook(shared=True))


def test_options_are_stored_as_before_where_nothing_is_shared():
    assert "shared" not in Codebook().model_dump()
