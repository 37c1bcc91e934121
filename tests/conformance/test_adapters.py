import pytest
import torch
from methods import label, mlp, resnet, settled, starts_of, statistics, variants, vit
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.adapt.contract import adapter_parameters, clipped_rank
from pipeline.adapt.lanes import Lanes, attach
from pipeline.compress.layers import matrix_shape, shared_copy, weight_matrix
from pipeline.compress.size import model_size
from pipeline.compress.targets import find_targets
from pipeline.export.pack import pack_model, unpack_model
from pipeline.registry import ADAPTERS, COMPRESSIONS, INITS
from pipeline.task.parts import TensorPart
from pipeline.train.cohort import Lane, train_epoch
from pipeline.train.program import make_program
from pipeline.train.recipe import Recipe
from pipeline.train.rows import image_rows

EACH_INIT = pytest.mark.parametrize("init", list(variants(INITS)), ids=label)
EACH_ADAPTER = pytest.mark.parametrize("adapter", list(variants(ADAPTERS)), ids=label)
EACH_COMPRESSION = pytest.mark.parametrize("compression", [method() for method in COMPRESSIONS], ids=label)

LAYERS = {
    "linear": (nn.Linear(13, 7), (13,)),
    "one row": (nn.Linear(21, 1), (21,)),
    "convolution": (nn.Conv2d(3, 10, (3, 5), stride=2), (3, 9, 9)),
    "depthwise": (nn.Conv2d(5, 5, 3, groups=5), (5, 6, 6)),
}
EACH_LAYER = pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)


@EACH_LAYER
@EACH_COMPRESSION
@EACH_INIT
def test_a_start_has_the_shapes_of_its_rank_is_finite_and_the_same_for_the_same_seed(init, compression, layer, shape):
    model = nn.Sequential(layer)
    stats = statistics(model, ["0"], *shape)
    compressed = compression.compress_model(model, ["0"], stats)
    out, inner = matrix_shape(layer)
    for rank in {1, 3, 100}:
        start, again, other = (starts_of(init, model, compressed, stats, rank, seed)["0"] for seed in (0, 0, 1))
        r = clipped_rank(rank, (out, inner))
        assert (start.A.shape, start.B.shape) == ((r, inner), (out, r))
        assert start.A.dtype == start.B.dtype == layer.weight.dtype
        assert start.A.isfinite().all()
        assert start.B.isfinite().all()
        assert torch.equal(start.A, again.A)
        assert torch.equal(start.B, again.B)
        if init.nested:
            highest = starts_of(init, model, compressed, stats, 100, 5)["0"].prefix(r)
            assert torch.equal(start.A, highest.A)
            assert torch.equal(start.B, highest.B)
            assert torch.equal(start.A, other.A)


@EACH_LAYER
@EACH_COMPRESSION
@EACH_INIT
@EACH_ADAPTER
def test_an_adapted_layer_starts_no_further_from_the_dense_one_than_the_compressed_layer(
    adapter, init, compression, layer, shape
):
    model = nn.Sequential(layer)
    stats = statistics(model, ["0"], *shape)
    compressed = compression.compress_model(model, ["0"], stats)
    starts = starts_of(init, model, compressed, stats, 2)
    assert weight_matrix(layer).shape == compressed.weights["0"].shape
    x = torch.randn(64, *shape)
    with torch.no_grad():
        before = (compressed.model(x) - model(x)).norm()
        for alpha in (0.5, 16.0):
            copy = shared_copy(compressed.model)
            begun = adapter.begin(compressed.model, starts, alpha)
            attach(copy, adapter, Lanes([({name: tensor[None] for name, tensor in begun.items()}, [alpha])]))
            assert copy(x).shape == model(x).shape
            assert (copy(x) - model(x)).norm() <= before * 1.1 + 1e-4


@pytest.mark.parametrize("build", [mlp, resnet, vit])
@EACH_COMPRESSION
@pytest.mark.parametrize("init", [method() for method in INITS], ids=label)
@EACH_ADAPTER
def test_an_epoch_trains_what_the_adapter_names_and_nothing_else_and_a_file_gives_it_back(
    adapter, init, compression, build, tmp_path
):
    model = settled(build)
    targets = find_targets(model, ["*"])
    stats = statistics(model, targets, 3, 32, 32)
    compressed = compression.compress_model(model, targets, stats)
    before = {name: tensor.clone() for name, tensor in compressed.model.state_dict().items()}

    part = TensorPart(torch.randn(8, 3, 32, 32), torch.arange(8) % 3)
    lanes = []
    for alpha in (4.0, 8.0, 4.0):
        begun = adapter.begin(compressed.model, starts_of(init, model, compressed, stats, 4), alpha)
        lanes.append(Lane(begun, alpha, "adam", 1e-3, 4, 0))
    start = {name: tensor.clone() for name, tensor in lanes[0].parameters.items()}
    program = make_program(compressed.model, adapter, [[(lane.parameters, lane.alpha) for lane in lanes]], part.images)
    assert program.cut is not None, program.why
    rows = program.rows(image_rows(part))
    train_epoch(lanes, program, rows, rows, Recipe(epochs=1))

    assert [lane.failure for lane in lanes] == [None] * 3
    assert lanes[0].parameters.keys() == start.keys()
    for name, tensor in lanes[0].parameters.items():
        assert tensor.isfinite().all(), name
        assert tensor.shape == start[name].shape
        assert not torch.equal(tensor, start[name]), name
    after = compressed.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert lanes[1].curve != lanes[0].curve
    assert lanes[2].curve[0].train_loss == pytest.approx(lanes[0].curve[0].train_loss, rel=1e-5)

    shapes = {name: weight.shape for name, weight in compressed.weights.items()}
    counts = adapter_parameters(adapter, compressed.model, shapes, 4)
    assert counts == {name: tensor.numel() for name, tensor in start.items()}
    bits = dict.fromkeys(targets, 0)
    for name, count in counts.items():
        bits[name.rpartition(".")[0]] += 0 if name in before else 32 * count
    tensors = pack_model(compressed, lanes[0].best_parameters)
    assert sum(tensor.nbytes for tensor in tensors.values()) == model_size(model, compressed, bits).bytes

    save_file(tensors, tmp_path / "model.safetensors")
    loaded = unpack_model(build(), load_file(tmp_path / "model.safetensors"), compression, targets, adapter, 4.0)
    adapted = shared_copy(compressed.model)
    best = {name: tensor[None] for name, tensor in lanes[0].best_parameters.items()}
    attach(adapted, adapter, Lanes([(best, [4.0])]))
    with torch.no_grad():
        torch.testing.assert_close(loaded(part.images), adapted(part.images), rtol=1e-5, atol=1e-5)
