from collections.abc import Callable, Iterator

import pytest
import torch
from compressed_cases import LAYERS, compressed, layer_case, model_case, reference_stats
from methods import (
    changed,
    each_label,
    every_pair,
    images,
    label,
    mlp,
    on_moved_bases,
    resnet,
    settled,
    starts_of,
    variants,
    vit,
)
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.adapt.contract import Adapter, Draw, blank, stored_model, trainable_counts
from pipeline.adapt.inits.contract import Init
from pipeline.adapt.inits.residual_svd import ResidualSvd
from pipeline.adapt.lanes import Lanes, attach
from pipeline.adapt.methods.lora import Lora
from pipeline.compress.contract import CompressedModel, Compression
from pipeline.compress.layers import copy_sharing_tensors
from pipeline.compress.methods.codebook import Codebook
from pipeline.compress.methods.int1 import Int1
from pipeline.compress.methods.sparse import Sparse
from pipeline.compress.methods.svd import Svd
from pipeline.compress.sizes import model_size
from pipeline.compress.structured_pruning import StructuredPruning
from pipeline.compress.targets import find_targets
from pipeline.config.registry import ADAPTERS, COMPRESSIONS, INITS
from pipeline.errors import SpecError
from pipeline.export.pack import PackedMethod, pack_model, unpack_model
from pipeline.train.cut.program import make_program
from pipeline.train.lane import Lane
from pipeline.train.loop import Recipe, train_epoch
from pipeline.train.optimizers.adam import Adam
from pipeline.train.rows import ComputedRows, image_rows


def pairs() -> Iterator[tuple[Adapter, Init | None]]:
    """Each adapter with one init, where it has any, and each init with one adapter."""
    for adapter in variants(ADAPTERS):
        yield adapter, ResidualSvd() if adapter.low_rank else None
    for init in variants(INITS):
        if init != ResidualSvd():
            yield Lora(), init


FAR = ("olora", "pissa", "random")
"""Inits that promise nothing of the first output: it is a control, or what is left of the weight may compress worse."""
CLOSE = [(adapter, init) for adapter, init in pairs() if init is None or init.name not in FAR]
COMPRESSED = [*(method() for method in COMPRESSIONS), Codebook(size=5, vector=3, shared=True)]
COMPRESSED_LAYERS = [method for method in COMPRESSED if not isinstance(method, StructuredPruning)]
"""Those of single layers; pruning keeps the outputs of a model."""
KINDS = [Int1(), Sparse(), Svd()]
"""Codes, positions and factors, which the other options of adapters and inits meet."""


def trained() -> Iterator[tuple[Callable[[], nn.Module], Adapter, Init | None, Compression]]:
    """Each method by default meets every compression on a quick model, and each adapter also on one of the others.

    Other options meet ``KINDS`` on the quick model.
    """
    other_options = [*changed(ADAPTERS), *changed(INITS)]
    for pair in pairs():
        met = KINDS if any(method in other_options for method in pair) else COMPRESSED
        yield from ((mlp, *pair, compression) for compression in met)
    defaults = [(method(), ResidualSvd() if method().low_rank else None) for method in ADAPTERS]
    yield from ((build, *pair, met) for pair, met, build in every_pair(defaults, COMPRESSED, [resnet, vit]))


def refusal(adapter: Adapter, compressed: CompressedModel) -> str | None:
    """Why the adapter has nothing to do for this compression; None where it trains."""
    try:
        stored_model(adapter, compressed, blank(adapter, compressed, dict.fromkeys(compressed.weights, 1)))
    except SpecError as error:
        return str(error)
    return None


def skip_where_refused(adapter: Adapter, compressed: CompressedModel) -> None:
    """Skip what the adapter refuses; its message has to name the adapter or the option."""
    reason = refusal(adapter, compressed)
    if reason is not None:
        assert any(named in reason for named in (f"adapter '{adapter.name}'", "adapter.scales", "targets"))
        pytest.skip(reason)


@pytest.mark.parametrize("adapter", list(variants(ADAPTERS)), ids=label)
def test_every_adapter_trains_some_compression_of_a_transformer(adapter: Adapter):
    model = settled(vit)
    targets, part = find_targets(model, ["*"]), images(3, 32, 32)
    compressions = [Int1(), Svd(rank=2)]
    reasons = [refusal(adapter, method.compress_model(model, targets, {}, part)) for method in compressions]
    assert None in reasons


@pytest.mark.parametrize(
    ("init", "compression", "layer"), every_pair(list(variants(INITS)), COMPRESSED_LAYERS, list(LAYERS)), ids=each_label
)
def test_a_start_has_the_shapes_of_its_rank_is_finite_and_the_same_for_the_same_seed(init, compression, layer):
    case = layer_case(layer)
    small, stats, weight = compressed(case, compression), reference_stats(case, compression), LAYERS[layer][0].weight
    out, inner = small.weights["0"].shape
    for rank in {1, 3, 100}:
        start, again, other = (starts_of(init, compression, small, stats, rank, seed)["0"] for seed in (0, 0, 1))
        r = min(rank, out, inner)
        assert (start.A.shape, start.B.shape) == ((r, inner), (out, r))
        assert start.A.dtype == start.B.dtype == weight.dtype
        assert start.A.isfinite().all()
        assert start.B.isfinite().all()
        assert start.A.any() or start.B.any()
        assert torch.equal(start.A, again.A)
        assert torch.equal(start.B, again.B)
        assert (start.base is not None) == init.moves_base
        if start.base is not None:
            assert start.base.shape == (out, inner)
            assert torch.equal(start.base.dense(), again.base.dense())
            assert torch.equal(start.A, other.A)
        if init.nested:
            highest = starts_of(init, compression, small, stats, 100, 5)["0"].prefix(r)
            assert torch.equal(start.A, highest.A)
            assert torch.equal(start.B, highest.B)
            assert torch.equal(start.A, other.A)


@pytest.mark.parametrize(
    ("adapter", "init", "compression", "layer"),
    [(*pair, *others) for pair, *others in every_pair(CLOSE, COMPRESSED_LAYERS, list(LAYERS))],
    ids=each_label,
)
def test_an_adapted_layer_starts_no_further_from_the_dense_one_than_the_compressed_layer(
    adapter, init, compression, layer
):
    case = layer_case(layer)
    small, stats = compressed(case, compression), reference_stats(case, compression)
    starts = starts_of(init, compression, small, stats, 2) if init is not None else {}
    base = on_moved_bases(small, starts)
    skip_where_refused(adapter, base)
    x = torch.randn(64, *LAYERS[layer][1])
    with torch.no_grad():
        dense = small.reference(x)
        before = (small.model(x) - dense).norm()
        for alpha in (0.5, 16.0):
            copy = copy_sharing_tensors(base.model)
            begun = adapter.begin(base, starts, Draw(alpha))
            lanes = Lanes([({name: tensor[None] for name, tensor in begun.items()}, [alpha])])
            attach(copy, adapter, lanes, base.weights)
            assert copy(x).shape == dense.shape
            assert (copy(x) - dense).norm() <= before * 1.1 + 1e-4


@pytest.mark.parametrize(("build", "adapter", "init", "compression"), list(trained()), ids=each_label)
def test_an_epoch_trains_what_the_adapter_names_and_nothing_else_and_a_file_gives_it_back(
    build, adapter, init, compression, tmp_path
):
    case = model_case(build)
    model, targets, part = case.model, case.targets, case.part
    small, starts = compressed(case, compression), {}
    if init is not None:
        starts = starts_of(init, compression, small, reference_stats(case, compression), 4)
        small = on_moved_bases(small, starts)
    skip_where_refused(adapter, small)
    before = {name: tensor.clone() for name, tensor in small.model.state_dict().items()}

    lanes = []
    for alpha in (4.0, 8.0, 4.0):
        begun = adapter.begin(small, starts, Draw(alpha))
        frozen = frozenset(name for name in begun if adapter.is_frozen(name))
        lanes.append(Lane(begun, alpha, Adam(), 1e-3, 4, 0, frozen=frozen))
    start = {name: tensor.clone() for name, tensor in lanes[0].parameters.items()}
    program = make_program(small, adapter, [[(lane.parameters, lane.alpha) for lane in lanes]], part.images)
    assert program.cut is not None or not adapter.low_rank, program.why
    stem = program.cut.stem if program.cut is not None else None
    rows = program.rows(ComputedRows(image_rows(part), stem) if stem is not None else image_rows(part))
    train_epoch(lanes, program, rows, rows, Recipe(epochs=1))

    assert [lane.failure for lane in lanes] == [None] * 3
    assert lanes[0].parameters.keys() == start.keys()
    for name, tensor in lanes[0].parameters.items():
        assert tensor.isfinite().all(), name
        assert tensor.shape == start[name].shape
        assert adapter.is_frozen(name) or not torch.equal(tensor, start[name]), name
    after = small.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert (lanes[1].curve != lanes[0].curve) == adapter.low_rank
    assert lanes[2].curve[0].train_loss == pytest.approx(lanes[0].curve[0].train_loss, rel=1e-5)

    ranks = {name: min(4, *weight.shape) for name, weight in small.weights.items()}
    predicted = blank(adapter, small, ranks)
    copied = {name: names[0] for names in adapter.equal_tensors(small.weights) for name in names[1:]}
    assert all(torch.equal(lanes[0].parameters[name], lanes[0].parameters[first]) for name, first in copied.items())
    trained = {name: t.numel() for name, t in start.items() if not (adapter.is_frozen(name) or name in copied)}
    assert trainable_counts(adapter, small.weights, predicted) == trained
    assert bool(trained) == adapter.trains
    tensors = pack_model(small, adapter, lanes[0].best_parameters)
    size = model_size(model, stored_model(adapter, small, predicted))
    assert sum(tensor.nbytes for tensor in tensors.values()) == size.bytes

    save_file(tensors, tmp_path / "model.safetensors")
    loaded = unpack_model(
        build(), load_file(tmp_path / "model.safetensors"), PackedMethod(compression, targets, adapter, 4.0)
    )
    adapted = copy_sharing_tensors(small.model)
    best = {name: tensor[None] for name, tensor in lanes[0].best_parameters.items()}
    attach(adapted, adapter, Lanes([(best, [4.0])]), small.weights)
    with torch.no_grad():
        torch.testing.assert_close(loaded(part.images), adapted(part.images), rtol=1e-5, atol=1e-5)
