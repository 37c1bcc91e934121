"""LoftQ (Li et al., 2023, arXiv:2310.08659): compressed weight and low-rank sum, fitted to the weight in turn."""

import torch
from pydantic import Field

from pipeline.adapt.inits.contract import AdaptedLayer, Init, Start
from pipeline.compress.factorisation import best_product
from pipeline.config.registry import INITS


@INITS.register("loftq")
class LoftQ(Init):
    """Fits weight and sum in turn, ``Q <- compress(W - B A)``, ``B A <- [W - Q]_r``: for few bits.

    One round is ``svd``. A round may end further from the weight than the one before. The start is the round with the
    least ``||W - Q - B A||``, where the published method takes the last.
    """

    moves_base = True

    rounds: int = Field(5, ge=1)
    """Number of rounds; each compresses and decomposes the layer once."""

    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        W, base, starts = layer.weight.double(), layer.compressed, []
        for _ in range(self.rounds):
            residual = W - base.dense().double()
            A, B = best_product(residual, rank, fallback=W)
            starts.append((float((residual - B @ A).norm()), layer.start(A, B, base=base)))
            if len(starts) < self.rounds:
                base = layer.compress_rest(A, B)
        return min(starts, key=lambda start: start[0])[1]
