"""Compressions per layer: some target layers have one of their own."""

from collections.abc import Mapping
from typing import ClassVar, cast

from pydantic import SerializeAsAny
from torch import Tensor, nn

from pipeline.compress.contract import Compression, LayerCompression, LayerStats
from pipeline.compress.weight import CompressedWeight
from pipeline.errors import SpecError


class ByLayer(LayerCompression):
    """Compresses each layer with its own method, or with the one of the combination."""

    key: ClassVar[str] = "method"
    name: ClassVar[str] = "by_layer"
    written_as_name: ClassVar[bool] = False

    common: SerializeAsAny[LayerCompression]
    """The compression of all other layers."""
    own: dict[str, SerializeAsAny[LayerCompression]]
    """Compressions by the name of the layer."""

    @property
    def needs_statistics(self) -> bool:
        return any(method.needs_statistics for method in self._methods)

    @property
    def sized_by_shape(self) -> bool:
        return all(method.sized_by_shape for method in self._methods)

    @property
    def needs_coding(self) -> bool:
        return any(method.needs_coding for method in self._methods)

    @property
    def _methods(self) -> list[LayerCompression]:
        return [self.common, *self.own.values()]

    def of_layer(self, name: str) -> LayerCompression:
        return self.own.get(name, self.common)

    def compress(self, weight: Tensor, stats: LayerStats | None) -> CompressedWeight:
        raise TypeError("a weight without the name of its layer has no compression of its own; ask of_layer")

    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> CompressedWeight:
        raise TypeError("packed tensors without the name of their layer cannot be read; ask of_layer")


def by_layer(common: Compression, own: Mapping[str, Compression]) -> Compression:
    """The compression of a combination whose layers may have their ``own``, by name; ``common`` itself if none has.

    Raises:
        SpecError: One of them compresses whole models.
    """
    if not own:
        return common
    for place, method in (("compression", common), *((f"layer '{name}'", method) for name, method in own.items())):
        if not isinstance(method, LayerCompression):
            raise SpecError(
                f"{place}: '{method.name}' compresses whole models, and targets have compressions of their own; choose "
                f"a compression of single layers, such as 'intN', or leave those of the targets out"
            )
    return ByLayer(common=cast(LayerCompression, common), own=cast(dict[str, LayerCompression], dict(own)))


def refuse_shared(model: nn.Module, compression: Compression, targets: Mapping[str, object]) -> None:
    """Raise ``SpecError`` if layers that share a weight have different compressions."""
    owners: dict[nn.Parameter, str] = {}
    for name in targets:
        owner = owners.setdefault(model.get_submodule(name).get_parameter("weight"), name)
        if compression.of_layer(owner) != compression.of_layer(name):
            raise SpecError(
                f"targets: layers '{owner}' and '{name}' share one weight, and have different compressions; give both "
                f"the same"
            )
