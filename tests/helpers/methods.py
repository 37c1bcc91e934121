"""Every registered method with every choice of its options, one changed at a time; and models to hold them against."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin

import timm
import torch
from torch import nn

from pipeline.adapt.inits.contract import AdaptedLayer, Init, Start
from pipeline.adapt.methods.codes import Codes
from pipeline.compress.contract import CompressedModel, Compression, LayerStats
from pipeline.compress.layer_statistics import gather_statistics
from pipeline.compress.layers import copy_sharing_tensors, replace_weight, weight_matrix
from pipeline.compress.methods.codebook import Codebook
from pipeline.compress.methods.intn import IntN
from pipeline.compress.methods.prune_gradient import PruneGradient
from pipeline.compress.methods.prune_magnitude import PruneMagnitude
from pipeline.compress.methods.sparse import Sparse
from pipeline.compress.methods.svd import Svd
from pipeline.compress.methods.svdlora import SvdLora
from pipeline.compress.methods.tou_factors import Tou
from pipeline.config.registry import Method, Registry
from pipeline.task.parts import TensorPart

FURTHER: dict[type[Method], list[dict[str, Any]]] = {
    Codebook: [
        {"size": 5, "vector": 4},
        {"size": 3, "vector": 9, "metric": "activation"},
        {"size": 40},
        {"size": 5, "vector": 4, "shared": True, "metric": "activation", "rate": 0.02},
    ],
    IntN: [{"group": 4}, {"group": 5, "symmetric": False}],
    Svd: [
        {"rank": 2},
        {"energy": 0.5},
        {"factors": {"method": "intN", "bits": 8}},
        {"factors": "int1", "singular_values": True},
        {"factors": {"method": "int1", "scale": "tensor"}},
        {"factors": {"method": "sparse", "block": "1x16"}},
        {"factors": {"method": "svd", "energy": 0.9, "factors": "intN"}},
    ],
    Sparse: [
        {"keep": 0.1},
        {"keep": 0.2, "values": {"bits": 1}},
        {"keep": 0.1, "score": "activation", "values": {"bits": 3, "scale": "row"}},
        {"values": {"levels": 6}, "refit": True},
    ],
    SvdLora: [{"rank": 4, "steps": 3}, {"energy": 0.9, "bits": 8}, {"steps": 1, "bits": 1}],
    PruneMagnitude: [{"keep": 0.2, "rounding": "int"}],
    PruneGradient: [{"when": "steps", "steps": 2, "epochs": 2, "batch_size": 4}],
    Codes: [
        {"adapter": "lora"},
        {"adapter": {"method": "dora", "factors": "int8"}},
        {"adapter": {"method": "lora", "factors": "int1"}},
        {"hold": 1.0},
    ],
    Tou: [{"energy": 0.5}, {"frozen": {"method": "intN", "bits": 8}}],
}
"""Options beside those of one choice: numbers and methods within methods."""


def variants(registry: Registry[Any]) -> Iterator[Method]:
    """The defaults of each method, each other value of each of its options that is a choice, and ``FURTHER``."""
    for method in registry:
        default = method()
        yield default
        for name, field in method.model_fields.items():
            choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
            for choice in (False, True) if field.annotation is bool else choices:
                if choice != getattr(default, name):
                    yield method(**{name: choice})
        yield from (method(**options) for options in FURTHER.get(method, ()))


def changed(registry: Registry[Any]) -> list[Method]:
    """The variants that are not the defaults of their method."""
    return [method for method in variants(registry) if method != type(method)()]


def every_pair(firsts: Sequence[Any], seconds: Sequence[Any], thirds: Sequence[Any]) -> list[tuple[Any, Any, Any]]:
    """Triples in which any two values of different lists meet: a covering array of strength 2, as of a Latin square.

    Every first meets every second, and they meet the thirds in turn. No list may be shorter than ``thirds``.
    """
    assert len(thirds) <= min(len(firsts), len(seconds))
    return [
        (first, second, thirds[(row + column) % len(thirds)])
        for row, first in enumerate(firsts)
        for column, second in enumerate(seconds)
    ]


def label(method: Method) -> str:
    changed = (
        f"{name}={value}" for name, value in method.model_dump(exclude_defaults=True).items() if name != "method"
    )
    return ",".join([method.name, *changed])


def each_label(value: object) -> str:
    """The part of a test's name that says which method, function or name it is for; empty for None."""
    return label(value) if isinstance(value, Method) else getattr(value, "__name__", str(value or ""))


def mlp() -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(3 * 8 * 8, 11), nn.ReLU(), nn.Linear(11, 3))


def resnet() -> nn.Module:
    """All kinds of blocks, and so narrow that decomposing every layer is quick."""
    return timm.create_model(
        "test_resnet", num_classes=3, zero_init_last=False, channels=(16, 24, 16, 24), stem_width=8
    )


def vit() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48, num_classes=3)


def settled(build: Any) -> nn.Module:
    """The model in eval mode, its batch norms having seen something."""
    torch.manual_seed(0)
    model = build().train()
    with torch.no_grad():
        model(torch.randn(8, 3, 32, 32))
    return model.eval()


def statistics(model: nn.Module, targets: Sequence[str], *shape: int) -> dict[str, Sequence[LayerStats]]:
    return gather_statistics(model, targets, torch.randn(16, *shape).split(8))


def images(*shape: int, count: int = 8, classes: int = 3) -> TensorPart:
    """A training part of noise."""
    return TensorPart(torch.randn(count, *shape), torch.arange(count) % classes)


def starts_of(
    init: Init, compression: Compression, compressed: CompressedModel, stats: dict[str, Any], rank: int, seed: int = 0
) -> dict[str, Start]:
    """Starts of every target, as an objective asks for them; ``stats`` are those of ``compressed.reference``."""
    generator = torch.Generator().manual_seed(seed)
    starts = {}
    for name, weight in compressed.weights.items():
        layer = compressed.reference.get_submodule(name)
        method = compression.of_layer(name).sharing_with(weight)
        compress = functools.partial(method.compress_layer, layer, stats=stats[name])
        r = min(rank, *weight.shape)
        starts[name] = init.start(AdaptedLayer(weight_matrix(layer), weight, compress, stats[name]), r, generator)
    return starts


def on_moved_bases(compressed: CompressedModel, starts: dict[str, Start]) -> CompressedModel:
    """The compressed model that the starts belong to: their bases in the place of its own."""
    bases = {name: start.base for name, start in starts.items() if start.base is not None}
    model = copy_sharing_tensors(compressed.model)
    for name, base in bases.items():
        replace_weight(model, name, base.dense())
    return replace(compressed, model=model, weights={**compressed.weights, **bases})
