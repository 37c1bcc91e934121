"""Both factors random: a control for the other inits."""

import torch

from pipeline.adapt.inits.contract import AdaptedLayer, Init, Start, kaiming_uniform
from pipeline.config.registry import INITS


@INITS.register("random")
class Random(Init):
    """``A`` and ``B`` Kaiming-uniform, which disturbs the first output: a control, published as not working."""

    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        out, inner = layer.weight.shape
        A = kaiming_uniform((rank, inner), layer.weight.dtype, generator)
        return Start(A, kaiming_uniform((out, rank), layer.weight.dtype, generator))
