"""EVA (Paischer et al., 2024, arXiv:2410.07170): the adapter begins to look where the layer's inputs vary most."""

from typing import ClassVar

import torch

from pipeline.adapt.contract import AdaptedLayer, Init, Start
from pipeline.adapt.decompositions import of_all_groups
from pipeline.config.registry import INITS


@INITS.register("eva")
class Eva(Init):
    """``A`` = the top right singular vectors of the layer's inputs, ``B = 0``: the first output is the compressed one.

    They are the eigenvectors of ``E[x x^T]``; ``A`` is shared by the groups of a grouped convolution, so that the
    inputs of all are taken together. Every layer has the rank it is given: none is moved from layer to layer.
    """

    nested: ClassVar[bool] = True

    @property
    def needs_statistics(self) -> bool:
        return True

    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        _, vectors = of_all_groups(layer.stats).eigen
        A = vectors.T.flip(0)[:rank]
        return Start(A.to(layer.weight.dtype), torch.zeros(len(layer.weight), rank, dtype=layer.weight.dtype))
