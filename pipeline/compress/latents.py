"""Latent weights: what training moves in the place of codes, which are rounded from it at every step.

Gradients are straight-through (Bengio et al., 2013, arXiv:1308.3432): the value is rounded, the gradient passes.
"""

from typing import Any

from torch import Tensor, autograd

FIXED = ("kept", "choice")
"""Last words of the names of tensors that take part in training without gradients: the positions that are kept, the
centroids that are chosen. ``CompressedWeight.refreshed`` brings them up to date every few steps."""

Codes = dict[str, tuple[Tensor, Tensor]]
"""For each latent its codes and a value in the middle of the cell of each code, in the latent's shape."""


def is_fixed(name: str) -> bool:
    """Whether a tensor of ``CompressedWeight.to_trainable`` is never trained."""
    return name.rpartition("_")[2] in FIXED


def straight_through(latent: Tensor, value: Tensor) -> Tensor:
    """``value``, bit for bit, whose gradient also goes to ``latent``; both have one shape.

    ``value`` keeps the gradients that it has, those of scales for instance; it must have none of the latent.
    """
    passed: Tensor = _Passed.apply(latent, value)
    return passed


class _Passed(autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(latent: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], gradients[0]


def scaled_gradient(tensor: Tensor, share: float) -> Tensor:
    """``tensor``, bit for bit, whose gradient is multiplied by ``share``."""
    return tensor.detach() + (tensor - tensor.detach()) * share
