"""Latent weights: what training moves in the place of codes, which are rounded from it at every step.

Gradients are straight-through (Bengio et al., 2013, arXiv:1308.3432): the value is rounded, the gradient passes.
"""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from pipeline.compress.packing import select_part

FIXED = ("kept",)
"""Last words of the names of tensors that take part in training and are not trained: a mask that stays as it is."""

Codes = dict[str, tuple[Tensor, Tensor]]
"""For each latent its codes and a value in the middle of the cell of each code, in the latent's shape."""


def is_fixed(name: str) -> bool:
    """Whether a tensor of ``CompressedWeight.trainable`` is never trained."""
    return name.rpartition("_")[2] in FIXED


def straight_through(latent: Tensor, value: Tensor, passes: Tensor | None = None) -> Tensor:
    """``value``, bit for bit, whose gradient also goes to ``latent``, times ``passes`` where that is given.

    All have one shape. ``value`` keeps the gradients that it has, those of scales for instance; it must have none of
    the latent. ``passes`` is 1 where the gradient passes and 0 elsewhere; a bool tensor is ten times slower on a CPU.
    """
    difference = latent - latent.detach()
    return value + (difference if passes is None else difference * passes)


def scaled_gradient(tensor: Tensor, share: float) -> Tensor:
    """``tensor``, bit for bit, whose gradient is multiplied by ``share``."""
    return tensor.detach() + (tensor - tensor.detach()) * share


class _Coded(Protocol):
    def codes(self, tensors: Mapping[str, Tensor]) -> Codes: ...


def codes_of_parts(parts: Mapping[str, _Coded], tensors: Mapping[str, Tensor]) -> Codes:
    """``CompressedWeight.codes`` of a weight with named parts, whose tensors ``join_parts`` merged."""
    found = {part: weight.codes(select_part(tensors, part)) for part, weight in parts.items()}
    return {f"{part}_{kind}": codes for part, kinds in found.items() for kind, codes in kinds.items()}
