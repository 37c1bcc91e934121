"""Vector quantisation: each few weights of a row are one of ``k`` centroids (Gong et al., 2014, arXiv:1412.6115)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from pipeline.compress.contract import LayerCompression, LayerStats
from pipeline.compress.few_bits import CLIP, Levels
from pipeline.compress.kmeans import kmeans, nearest_centroids
from pipeline.compress.latents import Codes, in_runs, looked_up
from pipeline.compress.packing import Packing, pack, unpack
from pipeline.compress.rate import rated_kmeans
from pipeline.compress.weight import CompressedWeight
from pipeline.config.registry import COMPRESSIONS


@dataclass(frozen=True)
class CodebookWeight(CompressedWeight):
    """``d`` weights next to each other in a row are the centroid of their code; the last ones of a row may be fewer."""

    code: Tensor  # uint8 [out, ceil(in / d)], below k
    centroid: Tensor  # [k, d]
    inner: int  # in

    @cached_property
    def shape(self) -> tuple[int, int]:
        return len(self.code), self.inner

    def dense(self) -> Tensor:
        return self._points(self.code, self.centroid)

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
        own = nearest_codes(weight, self.centroid) == self.code
        own = own.repeat_interleave(self.centroid.shape[1], 1)[:, : self.inner]
        most = CLIP * self.centroid.abs().max()
        latent = weight.clamp(-most, most).where(own, self.dense())
        return {"latent": latent, "centroid": self.centroid, "choice": self.code.long()}

    def project(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Centroids get the sum of their members' gradients, divided by the root of the mean number of members."""
        latent, centroid = tensors["latent"], tensors["centroid"]
        share = math.sqrt(centroid.numel() / latent.numel())
        return looked_up(latent, _in_order(centroid), tensors["choice"], share=share)

    def latent_codes(self, tensors: Mapping[str, Tensor]) -> Codes:
        by_weight = tensors["choice"].repeat_interleave(tensors["centroid"].shape[1], 1)[:, : self.inner]
        return {"latent": (by_weight.to(torch.uint8), self._points(tensors["choice"], tensors["centroid"]))}

    def refreshed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        centroid = tensors["centroid"]
        most = CLIP * centroid.abs().amax()
        latent = tensors["latent"].clamp(-most, most)
        return {"latent": latent, "choice": nearest_codes(latent, centroid)}

    def with_trained(self, tensors: Mapping[str, Tensor]) -> "CodebookWeight":
        return CodebookWeight(tensors["choice"].to(torch.uint8), tensors["centroid"], self.inner)

    def _points(self, code: Tensor, centroid: Tensor) -> Tensor:
        """``[out, in]`` of the codes ``[out, vectors]``."""
        values = _in_order(centroid).squeeze(1).index_select(0, code.flatten().int())
        return values.reshape(len(code), -1)[:, : self.inner]


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


@COMPRESSIONS.register("codebook")
class Codebook(LayerCompression):
    """Each few weights are one of k vectors, found by k-means: for less than a bit per weight, or uneven levels."""

    size: int = Field(16, ge=2, le=256)
    """``k``, the centroids of a layer; a code takes ``ceil(log2 k)`` bits."""
    vector: int = Field(1, ge=1, le=9)
    """``d``, the weights next to each other in a row that share a code; with 9 a kernel of 3 x 3 is one vector."""
    metric: Literal["weight", "activation"] = "weight"
    """What k-means weighs errors of a weight with: 1, or ``C_jj`` of its input."""
    rate: float = Field(0, ge=0)
    """The squared error that a bit must save, as a share of the layer's mean squared weight, both weighed as ``metric``
    says; codes that are rarer take more bits: for ``coding = "rans"`` alone, as packed codes all take as many."""
    later = frozenset({"rate"})

    @property
    def needs_coding(self) -> bool:
        return self.rate > 0

    @property
    def needs_statistics(self) -> bool:
        return super().needs_statistics or self.metric == "activation"

    def compress(self, weight: Tensor, stats: LayerStats | None) -> CodebookWeight:
        out, inner = weight.shape
        if weight.is_meta:  # only the shape is known
            code = weight.new_empty(out, -(-inner // self.vector), dtype=torch.uint8)
            return CodebookWeight(code, weight.new_empty(self.size, self.vector), inner)
        weights = torch.ones_like(weight) if inner % self.vector else None
        if self.metric == "activation" and stats is not None:
            weights = stats.diagonal.to(weight).expand_as(weight)
        of_vectors = None if weights is None else in_runs(weights, self.vector)
        centroid = kmeans(in_runs(weight, self.vector), self.size, of_vectors).contiguous()
        if not self.rate:
            return CodebookWeight(nearest_codes(weight, centroid, weights).to(torch.uint8), centroid, inner)
        codes, centroid = rated_kmeans(in_runs(weight, self.vector), centroid, of_vectors, self.rate)
        return CodebookWeight(codes.view(out, -1).to(torch.uint8), centroid, inner)

    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> CodebookWeight:
        out, vectors = shape[0], -(-shape[1] // self.vector)
        code = unpack(tensors["code"], out * vectors, width_of(self.size), torch.uint8).view(out, vectors)
        return CodebookWeight(code, tensors["centroid"].reshape(self.size, self.vector), shape[1])
