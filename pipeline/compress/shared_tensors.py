"""Packed tensors that layers share, such as one codebook: which layers share which, and how they are fitted to all."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from pipeline.compress.layers import each_weight_once, sound_matrix
from pipeline.compress.model_stats import ModelStats
from pipeline.compress.weight import CompressedWeight

if TYPE_CHECKING:
    from pipeline.compress.contract import Groups, LayerCompression


def sharing_layers(weights: Mapping[str, CompressedWeight]) -> list[tuple[str, list[str]]]:
    """The packed tensors that layers share: of each its kind, and the names of its layers in order."""
    layers: dict[tuple[str, str], list[str]] = {}
    for name, weight in weights.items():
        for shared in weight.shared_kinds.items():
            layers.setdefault(shared, []).append(name)
    return [(kind, names) for (kind, _), names in layers.items()]


def fitted_methods(
    methods: Mapping[str, "LayerCompression"], model: nn.Module, stats: ModelStats
) -> dict[str, "LayerCompression"]:
    """The method of each layer of ``model``, by name; one that layers share tensors by is fitted to all of them.

    Layers that share a weight count once.
    """

    def groups_of(name: str, layer: nn.Module) -> "Groups":
        known = stats.get(name, ()) if methods[name].needs_statistics else ()
        return methods[name].groups_of(layer, sound_matrix(model, name), known)

    fitted, sharing = dict(methods), dict[tuple[tuple[str, str], ...], list[str]]()
    for name, method in methods.items():
        sharing.setdefault(tuple(method.shared_kinds.items()), []).append(name)
    for names in (names for shared, names in sharing.items() if shared):
        groups = each_weight_once(model, names, groups_of)
        once: Sequence[Groups] = list({id(of_layer): of_layer for of_layer in groups.values()}.values())
        fitted |= dict.fromkeys(names, methods[names[0]].fitted(once))
    return fitted
