"""LoftQ (Li et al., 2023, arXiv:2310.08659): compressed weight and low-rank sum, fitted to the weight in turns."""

from typing import ClassVar

import torch
from pydantic import Field

from pipeline.adapt.contract import AdaptedLayer, Init, Start
from pipeline.adapt.decompositions import best_product
from pipeline.config.registry import INITS


@INITS.register("loftq")
class LoftQ(Init):
    """Rounds of ``Q <- compress(W - B A)``, ``B A <- [W - Q]_r``, with any compression; one round is ``svd``.

    No round need come nearer than the one before; the round with the least ``||W - Q - B A||`` is the start, where the
    published method takes the last.
    """

    moves_base: ClassVar[bool] = True

    rounds: int = Field(5, ge=1)
    """How often both are fitted; every round compresses the layer once and decomposes it once."""

    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        W, base, starts = layer.weight.double(), layer.compressed, []
        for _ in range(self.rounds):
            residual = W - base.dense().double()
            A, B = best_product(residual, rank, otherwise=W)
            error = float((residual - B @ A).norm())
            starts.append((error, Start(A.to(layer.weight.dtype), B.to(layer.weight.dtype), residual=True, base=base)))
            if len(starts) < self.rounds:
                base = layer.compress((W - B @ A).to(layer.weight.dtype))
        return min(starts, key=lambda each: each[0])[1]
