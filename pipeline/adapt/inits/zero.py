"""The other start at zero (Hayou, Ghosh and Yu, 2024, arXiv:2406.08447): ``A = 0``, ``B`` random."""

import torch

from pipeline.adapt.inits.contract import AdaptedLayer, Init, Start, kaiming_uniform
from pipeline.config.registry import INITS


@INITS.register("zero")
class Zero(Init):
    """``A = 0``, ``B ~ U(-1/sqrt(r), 1/sqrt(r))``, so the adapter changes nothing at first: a rival of ``paper``."""

    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        out, inner = layer.weight.shape
        B = kaiming_uniform((out, rank), layer.weight.dtype, generator)
        return layer.start(torch.zeros(rank, inner), B, residual=False)
