"""The other start at zero (Hayou, Ghosh and Yu, 2024, arXiv:2406.08447): ``B`` random, ``A = 0``."""

import torch

from pipeline.adapt.contract import AdaptedLayer, Init, Start
from pipeline.adapt.decompositions import kaiming
from pipeline.config.registry import INITS


@INITS.register("zero")
class Zero(Init):
    """``A = 0``, ``B ~ U(-1/sqrt(r), 1/sqrt(r))``: the first output is the compressed model's, as with ``paper``."""

    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        out, inner = layer.weight.shape
        return Start(
            torch.zeros(rank, inner, dtype=layer.weight.dtype), kaiming((out, rank), layer.weight.dtype, generator)
        )
