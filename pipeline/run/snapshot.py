"""The spectra of some layers at one epoch, and the spectra of all epochs together."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from pipeline.adapt.methods.lora import Lora
from pipeline.compress.layers import layer_in_errors, weight_matrix
from pipeline.compress.spectrum import effective_rank, product_singular_values, shares, singular_values
from pipeline.results.spectra_file import Course, Matrix

Snapshot: TypeAlias = Mapping[tuple[Matrix, str], Tensor]
"""The singular values of each matrix, by its kind and its layer."""


def weight_snapshot(model: nn.Module, layers: Sequence[str]) -> Snapshot:
    """The spectra of weights ``W``; a convolution's is that of its view ``[out, in / groups * kh * kw]``.

    Raises:
        IntegrityError: A weight holds NaN or infinite values; its layer is named.
    """
    values: dict[tuple[Matrix, str], Tensor] = {}
    for name in layers:
        with layer_in_errors(name):
            values["W", name] = singular_values(weight_matrix(model.get_submodule(name)))
    return values


def adapter_snapshot(
    model: nn.Module, adapter: Lora, parameters: Mapping[str, Tensor], alpha: float, layers: Sequence[str]
) -> Snapshot:
    """The spectra of products ``s B A`` and of adapted weights ``Q + s B A``.

    Args:
        model: The compressed model, with ``Q`` in its layers.
        adapter: The adapter, which computes ``s``.
        parameters: The tensors that it trains, by name.
        alpha: Alpha of the trial.
        layers: The layers to record; those without an adapter are skipped.

    Raises:
        IntegrityError: A weight or factor holds NaN or infinite values; its layer is named.
    """
    values: dict[tuple[Matrix, str], Tensor] = {}
    for name in layers:
        if f"{name}.lora_A" not in parameters:
            continue
        Q = weight_matrix(model.get_submodule(name)).double()
        A, B = (parameters[f"{name}.lora_{factor}"].to(Q) for factor in "AB")
        s = adapter.s(alpha, len(A))
        with layer_in_errors(name):
            values["s B A", name] = product_singular_values(B, A, s)
            values["Q + s B A", name] = singular_values(_adapted(Q, A, B, s, parameters, name))
    return values


def _adapted(Q: Tensor, A: Tensor, B: Tensor, s: float, parameters: Mapping[str, Tensor], name: str) -> Tensor:
    """The adapted weight, with trained gains of its rows or trained magnitudes if there are any."""
    gain, magnitude = (parameters.get(f"{name}.{kind}") for kind in ("gain", "magnitude"))
    adapted = torch.addmm(Q if gain is None else Q * gain.to(Q)[:, None], B, A, alpha=s)
    return adapted if magnitude is None else nn.functional.normalize(adapted, dim=1) * magnitude.to(Q)[:, None]


def courses(snapshots: Sequence[Snapshot], values: int) -> tuple[Course, ...]:
    """The snapshots of all epochs by matrix; the first ``values`` shares are kept, to six digits."""
    return tuple(
        Course(
            matrix=matrix,
            layer=layer,
            shares=tuple(_rounded(shares(epoch[matrix, layer])[:values]) for epoch in snapshots),
            effective_rank=_rounded(torch.tensor([effective_rank(epoch[matrix, layer]) for epoch in snapshots])),
        )
        for matrix, layer in snapshots[0]
    )


def _rounded(numbers: Tensor) -> tuple[float, ...]:
    return tuple(float(f"{number:.6g}") for number in numbers.tolist())
