"""Weights as codes of the centroids of a codebook: that of their layer, or one that layers share.

Legend: ``k`` centroids ``C [k, d]``, each of ``d`` weights; ``s`` the scale of a layer.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from pipeline.compress.few_bits import CLIP, Levels
from pipeline.compress.kmeans import nearest_centroids
from pipeline.compress.latents import Codes, clipped, from_runs, in_runs, looked_up
from pipeline.compress.packing import Packing, pack
from pipeline.compress.weight import CompressedWeight


@dataclass(frozen=True)
class CodebookWeight(CompressedWeight):
    """``d`` weights next to each other in a row are the centroid of their code; the last ones of a row may be fewer."""

    code: Tensor  # uint8 [out, ceil(in / d)], below k
    centroid: Tensor  # [k, d]
    inner: int  # in

    @cached_property
    def shape(self) -> tuple[int, int]:
        return len(self.code), self.inner

    @property
    def points(self) -> Tensor:
        """What the codes stand for, ``[k, d]``."""
        return self.centroid

    def dense(self) -> Tensor:
        return self._looked_up(self.code, self.points)

    @property
    def macs(self) -> int:
        """One per weight, as for a dense one."""
        return len(self.code) * self.inner

    @property
    def packings(self) -> Mapping[str, Packing]:
        return {"code": Packing(width_of(len(self.centroid)), self.code.shape[1])}

    def to_tensors(self) -> dict[str, Tensor]:
        return {"code": pack(self.code, width_of(len(self.centroid))), "centroid": self.centroid.float()}

    def scaled_rows(self, gain: Tensor) -> Self:
        raise ValueError(
            "codebook shares its centroids among all rows, and a gain per row needs a value for each; leave scales out"
        )

    def to_trainable(self, weight: Tensor) -> dict[str, Tensor]:
        own = nearest_codes(weight, self.points) == self.code
        own = own.repeat_interleave(self.centroid.shape[1], 1)[:, : self.inner]
        most = CLIP * self.points.abs().max()
        latent = clipped(weight, most).where(own, self.dense())
        return {"latent": latent, "centroid": self.centroid, "choice": self.code.long()}

    def project(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Centroids get the sum of their members' gradients, divided by the root of the mean number of members."""
        latent, centroid = tensors["latent"], tensors["centroid"]
        share = math.sqrt(centroid.numel() / latent.numel())
        return looked_up(latent, centroid, tensors["choice"], share=share, in_order=centroid.shape[1] == 1)

    def latent_codes(self, tensors: Mapping[str, Tensor]) -> Codes:
        by_weight = tensors["choice"].repeat_interleave(tensors["centroid"].shape[1], 1)[:, : self.inner]
        return {"latent": (by_weight.to(torch.uint8), self._looked_up(tensors["choice"], tensors["centroid"]))}

    def refreshed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        centroid = tensors["centroid"]
        most = CLIP * centroid.abs().amax()
        latent = clipped(tensors["latent"], most)
        return {"latent": latent, "choice": nearest_codes(latent, centroid)}

    def with_trained(self, tensors: Mapping[str, Tensor]) -> "CodebookWeight":
        return CodebookWeight(tensors["choice"].to(torch.uint8), tensors["centroid"], self.inner)

    def _looked_up(self, code: Tensor, points: Tensor) -> Tensor:
        """``[out, in]`` of the codes ``[out, vectors]``."""
        values = _in_order(points).squeeze(1).index_select(0, code.flatten().long())
        return from_runs(values, self.shape)


@dataclass(frozen=True)
class SharedCodebookWeight(CodebookWeight):
    """``Q = s C[code]``, with centroids that all layers of one ``book`` share."""

    scale: Tensor  # s, [1]
    book: str

    @property
    def points(self) -> Tensor:
        return self.scale * self.centroid

    @property
    def shared_kinds(self) -> Mapping[str, str]:
        return {"centroid": self.book}

    def to_tensors(self) -> dict[str, Tensor]:
        return {**super().to_tensors(), "scale": self.scale.float()}

    def to_trainable(self, weight: Tensor) -> dict[str, Tensor]:
        return {**super().to_trainable(weight), "scale": self.scale}

    def project(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return super().project(_scaled(tensors))

    def latent_codes(self, tensors: Mapping[str, Tensor]) -> Codes:
        return super().latent_codes(_scaled(tensors))

    def refreshed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return super().refreshed(_scaled(tensors))

    def with_trained(self, tensors: Mapping[str, Tensor]) -> "SharedCodebookWeight":
        code = tensors["choice"].to(torch.uint8)
        return SharedCodebookWeight(code, tensors["centroid"], self.inner, tensors["scale"], self.book)


def _scaled(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a layer's training, with the layer's points in the place of the centroids."""
    return {**tensors, "centroid": tensors["scale"] * tensors["centroid"]}


def _in_order(centroid: Tensor) -> Tensor:
    """``[k, d]``; the codes of numbers are in the order of their values."""
    return centroid.sort(0).values if centroid.shape[1] == 1 else centroid


def nearest_codes(matrix: Tensor, centroid: Tensor, weights: Tensor | None = None) -> Tensor:
    """The nearest centroids of ``matrix [out, in]``, int64 ``[out, vectors]``, with weights ``[out, in]`` of errors."""
    d = centroid.shape[1]
    if d == 1:
        return Levels(len(centroid)).nearest(matrix, {"level": centroid[:, 0]}).long()
    if weights is None and matrix.shape[1] % d:
        weights = torch.ones_like(matrix)
    of_vectors = None if weights is None else in_runs(weights, d)
    return nearest_centroids(in_runs(matrix, d), centroid, of_vectors).view(len(matrix), -1)


def width_of(size: int) -> int:
    """Bits of a code of ``size`` centroids."""
    return (size - 1).bit_length()
