"""PiSSA (Meng et al., 2024, arXiv:2404.02948): the weight's largest directions are trained, the rest is compressed."""

from typing import ClassVar

import torch

from pipeline.adapt.contract import AdaptedLayer, Init, Start
from pipeline.compress.truncation import best_product
from pipeline.config.registry import INITS


@INITS.register("pissa")
class Pissa(Init):
    """``s B A = [W]_r`` with ``sqrt(S)`` in both factors, ``Q = compress(W - s B A)``."""

    moves_base: ClassVar[bool] = True

    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        A, B = best_product(layer.weight, rank, fallback=layer.weight)
        return layer.start(A, B, base=layer.compress_rest(A, B))
