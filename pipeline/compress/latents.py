"""Latent weights: what training moves in the place of codes, which are rounded from it at every step.

Gradients are straight-through (Bengio et al., 2013, arXiv:1308.3432): the value is rounded, the gradient passes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, autograd
from torch.nn import functional as F

from pipeline.compress.sparsity import at_positions

FIXED = ("kept", "choice")
"""Last words of the names of tensors that take part in training without gradients: the positions that are kept, the
centroids that are chosen. ``CompressedWeight.refreshed`` brings them up to date every few steps."""

Codes = dict[str, tuple[Tensor, Tensor]]
"""For each latent its codes and a value in the middle of the cell of each code, in the latent's shape."""


def is_fixed(name: str) -> bool:
    """Whether a tensor of ``CompressedWeight.to_trainable`` is never trained."""
    return name.rpartition("_")[2] in FIXED


def in_vmap() -> bool:
    """Whether ``torch.vmap`` calls, for several lanes at once."""
    active: bool = torch._C._are_functorch_transforms_active()
    return active


class LatentFunction(autograd.Function):
    """A function with gradients of its own, called with positional arguments, alone or under ``torch.vmap``."""

    generate_vmap_rule = True
    _alone: type[autograd.Function]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()

        def forward(ctx: Any, *inputs: Any) -> Any:
            output = cls.forward(*inputs)
            cls.setup_context(ctx, inputs, output)
            return output

        members = {"forward": staticmethod(forward), "backward": staticmethod(cls.backward)}
        cls._alone = type(cls.__name__, (autograd.Function,), members)

    @classmethod
    def apply(cls, *inputs: Any) -> Any:
        """Without ``torch.vmap`` as a function whose ``forward`` gets the context: a call takes 30 us less."""
        return super().apply(*inputs) if in_vmap() else cls._alone.apply(*inputs)


def straight_through(latent: Tensor, value: Tensor) -> Tensor:
    """``value``, bit for bit, whose gradient also goes to ``latent``; both have one shape.

    ``value`` keeps the gradients that it has, those of scales for instance; it must have none of the latent.
    """
    passed: Tensor = _Passed.apply(latent, value)
    return passed


class _Passed(LatentFunction):
    @staticmethod
    def forward(latent: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], gradients[0]


def in_runs(matrix: Tensor, length: int) -> Tensor:
    """``[out, in] -> [out * ceil(in / length), length]``, each row padded with zeros."""
    missing = -matrix.shape[1] % length
    return (F.pad(matrix, (0, missing)) if missing else matrix).reshape(-1, length)  # padding by nothing would copy


def from_runs(runs: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of ``in_runs``: the matrix of this ``shape``, without the padding."""
    return runs.reshape(shape[0], -1)[:, : shape[1]]


def clipped(latent: Tensor, most: Tensor) -> Tensor:
    """``latent`` within ``-most .. most``, which broadcasts to it; ``clamp`` by tensors takes three times as long."""
    return torch.minimum(torch.maximum(latent, -most), most)


def looked_up(
    latent: Tensor,
    table: Tensor,
    code: Tensor,
    kept: Tensor | None = None,
    share: float = 1,
    in_order: bool = False,
) -> Tensor:
    """A matrix of the shape of ``latent [out, in]`` whose weights are rows of ``table [k, d]``.

    Args:
        latent: Gets the gradient of each weight.
        table: Each row gets ``share`` times the sum of the gradients of the weights that it stands for.
        code: int64. Rows of the table in row-major order: one for each ``d`` weights of a row of the matrix, the last
            of which may be fewer; or, with ``kept``, one for each position.
        kept: Flat positions ``[K]`` of the weights that are in the table, ``d = 1``; the others are zero.
        share: See ``table``.
        in_order: Whether codes count the numbers of a table with ``d = 1`` from the least.
    """
    found: Tensor = _LookedUp.apply(latent, table, code.flatten(), kept, share, in_order)
    return found


class _LookedUp(LatentFunction):
    """A single node of the graph, which takes a fifth of the time that one of each operation takes.

    The derivative of ``index_select`` adds up 200,000 gradients of rows of one column in 4 ms, ``scatter_add_`` those
    of numbers in 0.2 ms (one core).
    """

    @staticmethod
    def forward(
        latent: Tensor, table: Tensor, code: Tensor, kept: Tensor | None, share: float, in_order: bool
    ) -> Tensor:
        points = table.sort(0).values if in_order else table
        values = points.squeeze(1).index_select(0, code)
        return from_runs(values, latent.shape) if kept is None else at_positions(values, kept, latent)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, table, code, kept, ctx.share, ctx.in_order = inputs
        ctx.save_for_backward(table, code, *([] if kept is None else [kept]))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (g,), (table, code, *kept) = gradients, ctx.saved_tensors
        k, d = table.shape
        of_vectors = g.flatten().index_select(0, kept[0])[:, None] if kept else in_runs(g, d)
        of_table = g.new_zeros(k, d).squeeze(1)
        index = code if d == 1 else code[:, None].expand(-1, d)
        # Not in place, which torch 2.6 cannot batch; the table is small.
        of_table = of_table.scatter_add(0, index, of_vectors.squeeze(1)).mul_(ctx.share).view(k, d)
        if ctx.in_order:
            of_table = of_table.scatter(0, table.sort(0).indices, of_table)
        return g, of_table, None, None, None, None
