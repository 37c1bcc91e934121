"""Layers and models to compress. Each is made, and compressed by a method, once per process: tests only read them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from methods import images, settled, statistics
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from pipeline.compress.contract import CompressedModel, Compression, LayerCompression, LayerStats
from pipeline.compress.layers import in_groups, weight_matrix
from pipeline.compress.targets import find_targets
from pipeline.compress.weight import CompressedWeight
from pipeline.task.parts import TensorPart

F = TypeVar("F", bound=Callable[..., object])


def once(function: F) -> F:
    """Cache a function's results, which are drawn from seed 0 and do not change the test's own random numbers."""

    @functools.cache
    @functools.wraps(function)
    def seeded(*arguments: object) -> object:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return function(*arguments)

    return cast(F, seeded)


@dataclass(frozen=True, eq=False)
class Case:
    """A model in eval mode, the names of the layers to compress, statistics of their inputs, and training images."""

    model: nn.Module
    targets: Sequence[str]
    stats: Mapping[str, Sequence[LayerStats]]
    part: TensorPart

    def compress(self, method: Compression) -> CompressedModel:
        given = self.stats if method.needs_statistics else {}
        return method.compress_model(self.model, self.targets, given, self.part)


@once
def model_case(build: Callable[[], nn.Module]) -> Case:
    model = settled(build)
    targets = find_targets(model, ["*"])
    return Case(model, targets, statistics(model, targets, 3, 32, 32), images(3, 32, 32))


@once
def _layers() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    return {
        "linear": (nn.Linear(13, 7), (13,)),
        "one row": (nn.Linear(21, 1), (21,)),
        "one input": (nn.Linear(1, 5), (1,)),
        "convolution": (nn.Conv2d(3, 10, (3, 5), stride=2), (3, 9, 9)),
        "grouped": (nn.Conv2d(6, 10, 3, groups=2), (6, 7, 7)),
        "depthwise": (nn.Conv2d(5, 5, 3, groups=5), (5, 6, 6)),
        "timm's same": (Conv2dSame(3, 4, 3, stride=2), (3, 6, 6)),
    }


LAYERS = _layers()
"""Layers by name, each with the shape of an input."""


@once
def layer_case(name: str) -> Case:
    """A model of one layer, named "0"."""
    layer, shape = LAYERS[name]
    model = nn.Sequential(layer, nn.Flatten()).eval()
    part = images(*shape, count=2, classes=len(cast(Tensor, layer.weight)))
    return Case(model, ["0"], statistics(model, ["0"], *shape), part)


@once
def compressed(case: Case, method: Compression) -> CompressedModel:
    return case.compress(method)


@once
def reference_stats(case: Case, method: Compression) -> Mapping[str, Sequence[LayerStats]]:
    """Statistics of the model that the compressed one refers to, as inits need them; pruning makes it another one."""
    reference = compressed(case, method).reference
    if reference is case.model:
        return case.stats
    return statistics(reference, case.targets, *case.part.images.shape[1:])


def groups(name: str) -> list[tuple[Tensor, LayerStats]]:
    """What a method is given of a layer, group by group."""
    layer, _ = LAYERS[name]
    return list(zip(in_groups(layer, weight_matrix(layer)), layer_case(name).stats["0"], strict=True))


@once
def compressed_layer(name: str, method: LayerCompression) -> CompressedWeight:
    return method.compress_groups(groups(name))


def on_layers(methods: Sequence[LayerCompression]) -> list[tuple[LayerCompression, str]]:
    """Methods with the layers that they meet: all by default; with another option "grouped" and one more in turn."""
    others = [name for name in LAYERS if name != "grouped"]
    pairs = []
    for turn, method in enumerate(methods):
        some = ("grouped", others[turn % len(others)])
        pairs += [(method, name) for name in (LAYERS if method == type(method)() else some)]
    return pairs
