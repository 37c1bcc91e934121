"""Weights that are made of other compressed weights, such as factors, terms of a sum, and groups of a convolution."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Self

from torch import Tensor

from pipeline.compress.latents import Codes
from pipeline.compress.packing import Packing, join_packings, join_parts, select_part
from pipeline.compress.weight import CompressedWeight


class WeightOfParts(CompressedWeight):
    """A weight made of named parts; tensor ``code`` of part ``first`` is called ``first_code``."""

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, CompressedWeight]:
        """The parts by name."""

    @abstractmethod
    def with_parts(self, parts: Mapping[str, CompressedWeight]) -> Self:
        """This weight with other ``parts``, of the same names and forms."""

    @property
    def packings(self) -> Mapping[str, Packing]:
        return join_packings({name: part.packings for name, part in self.parts.items()})

    @property
    def codable_form(self) -> Self:
        return self.with_parts({name: part.codable_form for name, part in self.parts.items()})

    def to_tensors(self) -> dict[str, Tensor]:
        return join_parts({name: part.to_tensors() for name, part in self.parts.items()})

    def latent_codes(self, tensors: Mapping[str, Tensor]) -> Codes:
        found = {name: part.latent_codes(select_part(tensors, name)) for name, part in self.parts.items()}
        return {f"{name}_{kind}": codes for name, own in found.items() for kind, codes in own.items()}

    def middles(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return join_parts({name: part.middles(select_part(tensors, name)) for name, part in self.parts.items()})

    def refreshed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return join_parts({name: part.refreshed(select_part(tensors, name)) for name, part in self.parts.items()})

    def with_trained(self, tensors: Mapping[str, Tensor]) -> Self:
        return self.with_parts(
            {name: part.with_trained(select_part(tensors, name)) for name, part in self.parts.items()}
        )

    @property
    def stored_codes(self) -> dict[str, Tensor]:
        return join_parts({name: part.stored_codes for name, part in self.parts.items()})
