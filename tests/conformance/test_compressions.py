import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from compressed_cases import LAYERS, compressed, compressed_layer, groups, model_case, on_layers
from methods import each_label, images, label, mlp, resnet, settled, variants, vit
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.adapt.methods.lora import Lora
from pipeline.compress.contract import Compression, LayerCompression
from pipeline.compress.grouped_weight import join_groups
from pipeline.compress.layer_statistics import gather_statistics
from pipeline.compress.layers import group_count, matrix_shape
from pipeline.compress.methods.codebook import Codebook
from pipeline.compress.methods.intn import IntN
from pipeline.compress.methods.no_compression import NoCompression
from pipeline.compress.methods.svd import Svd
from pipeline.compress.methods.svdlora import SvdLora
from pipeline.compress.methods.tou_factors import Tou
from pipeline.compress.sizes import StoredModel, model_size
from pipeline.compress.structured_pruning import StructuredPruning
from pipeline.compress.targets import find_targets
from pipeline.compress.training_compression import TrainingCompression
from pipeline.config.registry import COMPRESSIONS
from pipeline.errors import IntegrityError
from pipeline.export.pack import PackedMethod, pack_model, unpack_model
from pipeline.task.parts import TensorPart

ALL = list(variants(COMPRESSIONS))
EACH = pytest.mark.parametrize("compression", ALL, ids=label)
TRAINING = [method for method in ALL if isinstance(method, TrainingCompression)]
LAYERWISE = [method for method in ALL if isinstance(method, LayerCompression)]


def each_on_layers(methods: list[LayerCompression]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("compression", "layer"), on_layers(methods), ids=each_label)


@each_on_layers(LAYERWISE)
def test_a_layer_keeps_its_shape_and_comes_back_from_a_file_of_the_size_that_was_predicted(
    compression, layer, tmp_path
):
    small, module = compressed_layer(layer, compression), LAYERS[layer][0]
    again = compression.compress_groups(groups(layer))
    assert small.shape == matrix_shape(module)
    assert small.dense().shape == small.shape
    assert small.dense().isfinite().all()
    assert torch.equal(small.dense(), again.dense())
    assert small.macs >= 0

    tensors = {key: tensor.contiguous() for key, tensor in small.to_tensors().items()}
    assert small.bits.total() == 8 * sum(tensor.nbytes for tensor in tensors.values())
    assert small.bits.bias == 0
    save_file(tensors, tmp_path / "layer.safetensors")
    loaded = compression.load_weight(load_file(tmp_path / "layer.safetensors"), small.shape, group_count(module))
    assert torch.equal(loaded.dense(), small.dense())
    assert loaded.bits == small.bits


@each_on_layers([method for method in LAYERWISE if method.sized_by_shape])
def test_size_is_known_from_the_shape_alone(compression, layer):
    sizes = {compressed_layer(layer, compression).bits} | {
        compression.compress_groups([(f(w), stats) for w, stats in groups(layer)]).bits
        for f in (torch.zeros_like, torch.neg)
    }
    assert len(sizes) == 1


def has_row_scales(method: LayerCompression) -> bool:
    """Whether neither it nor the method of its factors has fewer scales than rows."""
    stored = getattr(method, "factors", method)
    scale = getattr(getattr(stored, "values", None) or stored, "scale", "row")
    return scale == "row" and not isinstance(stored, Codebook)


@each_on_layers([method for method in LAYERWISE if has_row_scales(method)])
def test_a_gain_of_each_row_scales_the_dense_form_and_leaves_the_size(compression, layer):
    small = compressed_layer(layer, compression)
    gain = torch.randn(len(small.dense()))
    scaled = small.scaled_rows(gain)
    assert type(scaled) is type(small)
    torch.testing.assert_close(scaled.dense(), gain[:, None] * small.dense(), rtol=1e-5, atol=1e-6)
    assert (scaled.bits, scaled.macs) == (small.bits, small.macs)
    loaded = compression.load_weight(scaled.to_tensors(), small.shape, group_count(LAYERS[layer][0]))
    assert torch.equal(loaded.dense(), scaled.dense())


@each_on_layers(LAYERWISE)
def test_factors_multiply_to_the_dense_form_and_a_copy_is_the_weight_itself(compression, layer):
    small = compression.compress(*groups(layer)[0])
    if small.factors is not None:
        first, second = small.factors
        assert first.shape[1] == second.shape[0] <= min(small.shape)
        torch.testing.assert_close(first @ second, small.dense(), rtol=1e-4, atol=1e-5)
    grouped = join_groups([small] * 2)
    assert grouped.factors is None
    for weight in (small, grouped):
        assert copy.deepcopy(weight) is weight


WHOLE = [
    NoCompression(),
    Svd(rank=100),
    Svd(energy=1.0),
    Svd(rank=100, metric="activation"),
    Svd(rank=100, singular_values=True, metric="activation"),
    SvdLora(rank=100, steps=1),
    SvdLora(rank=100, steps=4, metric="activation"),
    Tou(energy=1.0),
    Tou(rank=100, metric="activation"),
]
NEARLY_WHOLE = [
    IntN(bits=8),
    IntN(bits=8, symmetric=False, group=8),
    Svd(rank=100, factors=IntN(bits=8)),
    SvdLora(rank=100, bits=8, steps=2),
]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("compression", "lost"), [*((m, 1e-6) for m in WHOLE), *((m, 2e-2) for m in NEARLY_WHOLE)], ids=str
)
def test_the_full_setting_is_the_identity(compression, lost, layer):
    for weight, stats in groups(layer):
        dense = compression.compress(weight, stats).dense()
        assert (dense - weight).norm() <= lost * weight.norm()


def on_models() -> Iterator[tuple[Compression, Callable[[], nn.Module]]]:
    """Each method on a quick model; by default on the others too. Other options of pruning also meet one of these."""
    for turn, method in enumerate(ALL):
        yield method, mlp
        if method == type(method)():
            yield from ((method, build) for build in (resnet, vit))
        elif isinstance(method, StructuredPruning):
            yield method, (resnet, vit)[turn % 2]


EACH_ON_MODELS = pytest.mark.parametrize(("compression", "build"), list(on_models()), ids=each_label)


@EACH_ON_MODELS
def test_a_model_gives_logits_is_the_same_each_time_and_leaves_the_original_alone(compression, build):
    case = model_case(build)
    before = {name: tensor.clone() for name, tensor in case.model.state_dict().items()}
    one, other = compressed(case, compression), case.compress(compression)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits = one.model(x)
    assert logits.shape == (2, 3)
    assert logits.isfinite().all()
    assert list(one.weights) == case.targets
    assert all(weight.shape == matrix_shape(one.reference.get_submodule(name)) for name, weight in one.weights.items())
    assert all(torch.equal(weight.dense(), other.weights[name].dense()) for name, weight in one.weights.items())
    assert not any(module.training for module in one.model.modules())
    assert all(torch.equal(case.model.state_dict()[name], tensor) for name, tensor in before.items())


@EACH_ON_MODELS
def test_a_whole_model_comes_back_from_a_file_of_the_size_that_was_predicted(compression, build, tmp_path):
    case = model_case(build)
    small = compressed(case, compression)
    tensors = pack_model(small, Lora(), {})
    assert sum(tensor.nbytes for tensor in tensors.values()) == model_size(case.model, StoredModel(small)).bytes
    save_file(tensors, tmp_path / "model.safetensors")
    method = PackedMethod(compression, case.targets, Lora(), 1.0)
    bare = unpack_model(build(), load_file(tmp_path / "model.safetensors"), method)
    x = torch.randn(2, 3, 32, 32)
    state = small.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in bare.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(bare(x), small.model(x), rtol=1e-5, atol=1e-6)


@EACH
def test_fault_14_a_weight_that_is_not_finite_is_refused_by_the_name_of_its_layer(compression):
    model, case = settled(mlp), model_case(mlp)
    for bad in (torch.nan, -torch.inf):
        model[4].weight.data[1, 2] = bad
        with pytest.raises(IntegrityError, match="layer '4'"):
            compression.compress_model(model, ["2", "4"], case.stats, case.part)


@EACH
def test_fault_14_zero_weights_and_inputs_that_are_always_zero_are_handled(compression):
    model = settled(mlp)
    model[4].weight.data.zero_()
    model[2].weight.data[:, ::2] = 0
    part = images(3, 32, 32)
    part.images[:, :, :5] = 0
    for dead in (part.images, torch.zeros_like(part.images)):
        stats = gather_statistics(model, ["2", "4"], [dead])
        small = compression.compress_model(model, ["2", "4"], stats, TensorPart(dead, part.labels))
        for name, weight in small.weights.items():
            assert weight.dense().isfinite().all(), name
        assert small.model(part.images).isfinite().all()


@pytest.mark.parametrize("compression", TRAINING, ids=label)
def test_a_trained_model_is_restored_bit_for_bit(compression: TrainingCompression):
    model = settled(mlp)
    targets = find_targets(model, ["*"])
    first = compression.compress_model(model, targets, {}, images(3, 32, 32))
    again = compression.restored(model, targets, first.model.state_dict())
    assert list(again.weights) == list(first.weights)
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
