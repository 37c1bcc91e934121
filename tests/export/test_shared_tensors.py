"""Files in which one tensor stands once for several layers."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor, nn

from pipeline.adapt.contract import Draw, stored_model
from pipeline.adapt.methods.codes import Codes
from pipeline.adapt.methods.no_adapter import NoAdapter
from pipeline.compress.by_layer import by_layer
from pipeline.compress.contract import Compression
from pipeline.compress.methods.codebook import Codebook
from pipeline.compress.methods.int1 import Int1
from pipeline.compress.sizes import model_size
from pipeline.compress.small_tensors import rounded_model, widened
from pipeline.config.combination_spec import StorageSpec
from pipeline.errors import IntegrityError
from pipeline.export.joined import header_bytes, separate
from pipeline.export.pack import PackedMethod, pack_model, unpack_model

NAMES = ["0", "1", "3", "4"]
METHOD = by_layer(Codebook(size=5, vector=3, shared=True), {"3": Int1()})


def network() -> nn.Module:
    """A plain and a grouped convolution, and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.Conv2d(8, 6, 3, groups=2), nn.Flatten(), nn.Linear(24, 10), nn.Linear(10, 5)
    )


def unpacked(tensors: dict[str, Tensor], method: Compression = METHOD) -> nn.Module:
    return unpack_model(network(), tensors, PackedMethod(method, NAMES, NoAdapter(), 1.0))


def packed() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return pack_model(METHOD.compress_model(network(), NAMES, {}), NoAdapter(), {})


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(2, 256),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.05]),
    st.sampled_from(["float32", "float16"]),
    st.sampled_from(["none", "rans"]),
)
def test_a_loaded_file_has_the_weights_that_were_trained_bit_for_bit_and_the_size_that_was_known(
    seed, size, vector, rate, small, coding
):
    torch.manual_seed(seed)
    model, storage, codes = network(), StorageSpec(small=small, coding=coding), Codes()
    method = by_layer(Codebook(size=size, vector=vector, rate=rate, shared=True), {"3": Int1()})
    compressed = replace(method.compress_model(model, NAMES, {}), storage=storage)
    compressed = rounded_model(compressed, method, storage)
    lane = codes.begin(compressed, {}, Draw())
    for name, tensor in lane.items():
        if name.endswith(("latent", "scale", "centroid")):
            tensor += 0.1 * torch.randn(tensor.shape)
    stacked = {name: tensor[None].clone() for name, tensor in lane.items()}
    codes.after_step(compressed.weights, stacked, 10, 10)
    lane = dict(codes.rounded({name: tensor[0] for name, tensor in stacked.items()}, storage))
    stored = stored_model(codes, compressed, lane)
    file = pack_model(compressed, codes, lane)
    bytes_of_all = sum(tensor.nbytes for tensor in file.values()) - header_bytes(file)
    assert bytes_of_all == model_size(model, stored, coded=True).bytes
    tensors = separate(load(save(file)))
    loaded = unpacked(widened(tensors) if small == "float16" else tensors, method)
    for name, weight in stored.compressed.weights.items():
        own = {k.removeprefix(f"{name}.weight_"): t for k, t in lane.items() if k.startswith(f"{name}.weight_")}
        judged = compressed.weights[name].project(own)
        assert torch.equal(loaded.get_submodule(name).weight.flatten(1), judged)
        assert torch.equal(weight.dense(), judged)


def test_a_file_holds_the_centroids_once_and_its_model_has_them_in_every_layer():
    tensors = packed()
    assert [key for key in tensors if key.endswith("centroid")] == ["0.weight.centroid"]
    torch.manual_seed(0)
    compressed = METHOD.compress_model(network(), NAMES, {})
    for name, weight in compressed.weights.items():
        assert torch.equal(unpacked(tensors).get_submodule(name).weight.flatten(1), weight.dense())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda tensors: tensors.pop("0.weight.centroid"), r"missing or misshapen \['0\.weight'\]"),
        (
            lambda tensors: tensors.update({"0.weight.centroid": tensors["0.weight.centroid"][:-1]}),
            r"missing or misshapen \['0\.weight'\]",
        ),
        (lambda tensors: tensors.pop("4.weight.scale"), r"missing or misshapen \['4\.weight'\]"),
        (
            lambda tensors: tensors.update({"4.weight.centroid": tensors["0.weight.centroid"]}),
            r"unexpected \['4\.weight\.centroid'\]",
        ),
    ],
    ids=["missing", "misshapen", "without a scale", "a second time"],
)
def test_a_file_whose_shared_tensors_do_not_fit_is_refused_by_name(change, named):
    tensors = packed()
    change(tensors)
    with pytest.raises(IntegrityError, match=named):
        unpacked(tensors)
