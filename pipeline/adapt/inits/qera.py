"""QERA (Zhang et al., 2024, arXiv:2410.06040): the low-rank form of what compression lost to the layer's outputs.

Legend: ``R = W - Q`` the residual, ``C = E[x x^T]`` of the layer's inputs, damped where it has no inverse. Every group
``g`` of a grouped convolution has a residual and a ``C`` of its own, and all share ``A``: what is to be minimised is
``sum_g ||(R_g - B_g A) C_g^(1/2)||^2``, which has a closed form where the ``C_g`` agree. There their mean is taken for
each: exact where they agree, and near where groups see like inputs.
"""

from typing import ClassVar

import torch

from pipeline.adapt.contract import AdaptedLayer, Init, Start
from pipeline.adapt.decompositions import best_product, of_all_groups
from pipeline.config.registry import INITS


@INITS.register("qera")
class Qera(Init):
    """``s B A = [R C^(1/2)]_r C^(-1/2)``: no product of rank r leaves a smaller ``E ||(W - Q - s B A) x||^2``.

    EoRA (Liu et al., 2024, arXiv:2410.21271) is the same.
    """

    nested: ClassVar[bool] = True

    @property
    def needs_statistics(self) -> bool:
        return True

    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        inputs = of_all_groups(layer.stats)
        # All directions, whatever the rank: a product of fewer rows may differ in its last bit, and ranks are prefixes.
        A, B = best_product(
            layer.residual @ inputs.root, min(layer.weight.shape), otherwise=layer.weight.double() @ inputs.root
        )
        A = A @ inputs.inverse_root
        return Start(A[:rank].to(layer.weight.dtype), B[:, :rank].to(layer.weight.dtype), residual=True)
