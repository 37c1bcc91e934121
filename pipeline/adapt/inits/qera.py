"""QERA (Zhang et al., 2024, arXiv:2410.06040): the low-rank sum with the least error of the layer's outputs.

Legend: ``R = W - Q`` the residual, ``C = E[x x^T]`` of the layer's inputs, damped if it is singular. Each group ``g``
of a grouped convolution has its own ``R_g`` and ``C_g``, but all groups share ``A``. The error to minimise,
``sum_g ||(R_g - B_g A) C_g^(1/2)||^2``, has a closed form only if all ``C_g`` are equal. Here their mean takes the
place of each, which is exact if they are equal and close if they are similar.
"""

import torch

from pipeline.adapt.inits.contract import AdaptedLayer, Init, Start
from pipeline.compress.factorisation import best_product
from pipeline.config.registry import INITS


@INITS.register("qera")
class Qera(Init):
    """Starts with the least error of the outputs, ``s B A = [R C^(1/2)]_r C^(-1/2)``: for compressed layers, with data.

    No product of rank r leaves a smaller ``E ||(R - s B A) x||^2``. EoRA (Liu et al., 2024, arXiv:2410.21271) is the
    same.
    """

    nested = True
    needs_statistics = True

    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        stats = layer.shared_stats
        fallback = stats.times_root(layer.weight.double())
        # Every rank must be a prefix of the same factors, and a product of fewer rows may differ in its last bit.
        A, B = best_product(stats.times_root(layer.residual), min(layer.weight.shape), fallback=fallback)
        return layer.start(stats.times_inverse_root(A)[:rank], B[:, :rank])
