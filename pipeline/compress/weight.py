"""The compressed form of one layer's weight: its dense form ``[out, in]``, its packed tensors and their size."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from inspect import get_annotations
from typing import Self

from torch import Tensor

from pipeline.compress.coded_tensors import CodedTensor, coded_tensor
from pipeline.compress.latents import Codes
from pipeline.compress.packing import Packing

BIT_KINDS = {
    "index": "index",
    "rank": "index",
    "scale": "scale",
    "zero": "scale",
    "level": "scale",
    "centroid": "scale",
}
"""The field of ``BitCount`` that counts a packed tensor, by the last word of its name; all others are payload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BitCount:
    """Bits that a packed weight takes in a file, by purpose."""

    payload: int  # codes and values
    index: int = 0  # positions of the kept values, and the rank of a factorisation whose shapes do not give it
    scale: int = 0  # scales and zero points
    bias: int = 0  # biases of the layer

    def total(self, *, index: bool = True, scale: bool = True, bias: bool = True) -> int:
        """The sum of all bits; a switch set to False leaves that purpose out, as published size formulas do."""
        return self.payload + self.index * index + self.scale * scale + self.bias * bias


class CompressedWeight:
    """A compressed weight. It is immutable, so that copies of a model share it.

    Those whose codes can be trained also have ``to_trainable``, ``project``, ``latent_codes`` and ``with_trained``;
    CONTRIBUTING.md describes what these and others are asked for.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        members = {name for name, member in vars(CompressedWeight).items() if not isinstance(member, cached_property)}
        if taken := sorted(members & get_annotations(cls).keys()):
            raise TypeError(
                f"{cls.__name__} has a field '{taken[0]}', which is the name of a method of every compressed weight; "
                f"give the field another name, for instance '{taken[0]}_'"
            )

    @cached_property
    def shape(self) -> tuple[int, int]:
        """``(out, in)`` of the dense form."""
        out, inner = self.dense().shape
        return out, inner

    @abstractmethod
    def dense(self) -> Tensor:
        """The weight that the layer computes with, ``[out, in]``."""

    @property
    @abstractmethod
    def macs(self) -> int:
        """Multiply-accumulates of one product with a vector ``[in]``."""

    @abstractmethod
    def to_tensors(self) -> dict[str, Tensor]:
        """The packed tensors by kind, as an exported file holds them; each takes whole bytes.

        ``from_tensors`` of the compression reads them back bit for bit. The last word of a kind, after its last
        underscore, says what the tensor is for (``BIT_KINDS``).
        """

    @cached_property
    def packed_shapes(self) -> dict[str, Tensor]:
        """``to_tensors`` without values: tensors on torch's device ``meta``."""
        return {kind: tensor.to("meta") for kind, tensor in self.to_tensors().items()}

    @property
    def shared_kinds(self) -> Mapping[str, str]:
        """The kinds of packed tensors that are the same in all layers with the same key for them; by default none.

        They and their keys are those of the compression. A file holds them once, under the first of these layers, and
        training keeps them equal.
        """
        return {}

    @property
    def packings(self) -> Mapping[str, Packing]:
        """How ``to_tensors`` packs codes of at most 8 bits, by kind; entropy coding reads it. Others are numbers."""
        return {}

    @property
    def codable_form(self) -> "CompressedWeight":
        """This weight in the form that entropy coding shrinks most; ``from_tensors`` reads that form, too."""
        return self

    @cached_property
    def coded_tensors(self) -> dict[str, CodedTensor]:
        """The packed tensors of codes and positions by kind, coded, in the form that takes the fewest bytes."""
        forms: list[dict[str, CodedTensor]] = []
        for form in (self, self.codable_form):
            tensors = {kind: tensor for kind, tensor in form.to_tensors().items() if not tensor.is_floating_point()}
            if not forms or tensors.keys() != forms[0].keys():
                forms.append({kind: coded_tensor(tensor, form.packings.get(kind)) for kind, tensor in tensors.items()})
        return min(forms, key=lambda form: sum(len(tensor.data) for tensor in form.values()))

    @cached_property
    def bits(self) -> BitCount:
        """The size of ``to_tensors``."""
        return count_bits({kind: tensor.nbytes for kind, tensor in self.packed_shapes.items()})

    @abstractmethod
    def scaled_rows(self, gain: Tensor) -> Self:
        """A weight of the same form and size, with row ``i`` of the dense form multiplied by ``gain[i]``.

        Raises:
            ValueError: The form has no parameter per row that could take the gain.
        """

    @property
    def factors(self) -> tuple[Tensor, Tensor] | None:
        """``[out, k]`` and ``[k, in]`` if the weight is stored as their product, otherwise ``None``."""
        return None

    def to_trainable(self, weight: Tensor) -> dict[str, Tensor]:
        """The tensors that stand for this weight while its codes are trained, from the uncompressed ``weight``.

        ``latent [out, in]`` is a weight that training moves and ``project`` rounds; each part of a weight has its own,
        ``first_latent`` for instance. It begins at the uncompressed weight. Where compression chose another code it
        is mirrored at the border of that code's cell, or lies in the middle: close to the border the first steps
        would undo the choice. The other tensors are named as in ``to_tensors``. One whose name ends in an
        item of ``FIXED`` gets no gradient.

        Raises:
            NotImplementedError: The form has no codes that can be trained, as by default.
        """
        raise NotImplementedError(f"{type(self).__name__} has no codes that can be trained")

    def project(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The dense form ``[out, in]`` of the codes of ``tensors``, with straight-through gradients to the latents.

        It is called under ``torch.vmap``, and reads nothing of this weight but its form.
        """
        raise NotImplementedError(f"{type(self).__name__} has no codes that can be trained")

    def latent_codes(self, tensors: Mapping[str, Tensor]) -> Codes:
        """The codes that each latent is rounded to, and the middles of their cells.

        It is called as ``project`` is. A latent that is never rounded is left out.
        """
        raise NotImplementedError(f"{type(self).__name__} has no codes that can be trained")

    def middles(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What mode ``lc`` of ``codes`` draws each latent to; by default the middles of ``latent_codes``."""
        return {kind: middle for kind, (_, middle) in self.latent_codes(tensors).items()}

    def unrounded(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The dense form ``[out, in]`` of the latents before they are rounded; mode ``lc`` of ``codes`` trains it."""
        return tensors["latent"]

    def refreshed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of ``tensors`` that follow from others and are brought up to date every few steps, as they should be.

        They are the tensors in ``FIXED``, and latents that have left the range in which they can still change a code.
        It is called as ``project`` is; by default there are none.
        """
        return {}

    def with_trained(self, tensors: Mapping[str, Tensor]) -> "CompressedWeight":
        """The weight of the same form and size whose dense form is ``project(tensors)``, bit for bit."""
        raise NotImplementedError(f"{type(self).__name__} has no codes that can be trained")

    @property
    def stored_codes(self) -> dict[str, Tensor]:
        """What this weight stores of each weight, by latent: its code, or whether it is kept; by default nothing."""
        try:
            return {kind: codes for kind, (codes, _) in self.latent_codes(self.to_trainable(self.dense())).items()}
        except NotImplementedError:
            return {}

    def __deepcopy__(self, memo: object) -> Self:
        return self


def count_bits(sizes: Mapping[str, int]) -> BitCount:
    """The bits by purpose, from the bytes of each packed tensor by kind."""
    counts: Counter[str] = Counter(payload=0)
    for kind, size in sizes.items():
        counts[BIT_KINDS.get(kind.rpartition("_")[2], "payload")] += 8 * size
    return BitCount(**counts)


def share_moved(before: CompressedWeight, after: CompressedWeight) -> float | None:
    """The share of the codes of one weight that are others in another of the same form, or ``None`` without codes."""
    old, new = before.stored_codes, after.stored_codes
    if not old or {kind: codes.shape for kind, codes in old.items()} != {kind: t.shape for kind, t in new.items()}:
        return None
    moved = sum(int((codes != new[kind]).sum()) for kind, codes in old.items())
    return moved / sum(codes.numel() for codes in old.values())


@dataclass(frozen=True)
class MatrixWeight(CompressedWeight):
    """A weight that is held in its dense form ``[out, in]``."""

    weight: Tensor

    def dense(self) -> Tensor:
        return self.weight

    def scaled_rows(self, gain: Tensor) -> Self:
        return replace(self, weight=self.weight * gain.to(self.weight)[:, None])


class DenseWeight(MatrixWeight):
    """An uncompressed weight, stored in float32."""

    @property
    def macs(self) -> int:
        return self.weight.numel()

    def to_tensors(self) -> dict[str, Tensor]:
        return {"dense": self.weight.float()}

    def to_trainable(self, weight: Tensor) -> dict[str, Tensor]:
        return {"latent": self.weight}

    def project(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return tensors["latent"]

    def latent_codes(self, tensors: Mapping[str, Tensor]) -> Codes:
        return {}

    def with_trained(self, tensors: Mapping[str, Tensor]) -> "DenseWeight":
        return DenseWeight(tensors["latent"])


def unless_larger(weight: CompressedWeight, matrix: Tensor) -> CompressedWeight:
    """The compressed weight, or the ``matrix [out, in]`` that it stands for if it would be no smaller.

    What it shares with other layers does not count.
    """
    own = sum(tensor.nbytes for kind, tensor in weight.packed_shapes.items() if kind not in weight.shared_kinds)
    return weight if own < 4 * matrix.numel() else DenseWeight(matrix.clone())
