"""PiSSA (Meng et al., 2024, arXiv:2404.02948): the weight's largest directions are trained, the rest is compressed."""

import torch

from pipeline.adapt.inits.contract import AdaptedLayer, Init, Start
from pipeline.compress.factorisation import best_product
from pipeline.config.registry import INITS


@INITS.register("pissa")
class Pissa(Init):
    """Trains the largest directions of ``W``, ``s B A = [W]_r``, compresses the rest: for another task."""

    moves_base = True

    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        A, B = best_product(layer.weight, rank, fallback=layer.weight)
        return layer.start(A, B, base=layer.compress_rest(A, B))
