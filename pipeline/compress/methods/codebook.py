"""Vector quantisation: each few weights of a row are one of ``k`` centroids (Gong et al., 2014, arXiv:1412.6115)."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from pipeline.compress.codebook_weights import CodebookWeight, SharedCodebookWeight, nearest_codes, width_of
from pipeline.compress.contract import Groups, LayerCompression, LayerStats
from pipeline.compress.kmeans import kmeans
from pipeline.compress.latents import in_runs
from pipeline.compress.packing import unpack
from pipeline.compress.rate import rated_codes, rated_kmeans
from pipeline.compress.weight import CompressedWeight
from pipeline.config.registry import COMPRESSIONS


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
    shared: bool = False
    """Whether all layers with these options share one codebook, which the file holds once. A layer is its root mean
    square ``s`` times centroids ``C``, ``Q = s C[code]``."""
    later = frozenset({"rate", "shared"})
    _centroid: Tensor | None = PrivateAttr(None)
    """The shared centroids ``[k, d]``, once they are fitted."""

    @property
    def needs_coding(self) -> bool:
        return self.rate > 0

    @property
    def needs_statistics(self) -> bool:
        return super().needs_statistics or self.metric == "activation"

    @property
    def shared_kinds(self) -> Mapping[str, str]:
        return {"centroid": self._book} if self.shared else {}

    @property
    def _book(self) -> str:
        """The name of the shared codebook: layers with equal options have one."""
        return self.model_dump_json()

    def compress(self, weight: Tensor, stats: LayerStats | None) -> CompressedWeight:
        if self.shared:
            return self.compress_groups([(weight, stats)])
        out, inner = weight.shape
        if weight.is_meta:  # only the shape is known
            code = weight.new_empty(out, -(-inner // self.vector), dtype=torch.uint8)
            return CodebookWeight(code, weight.new_empty(self.size, self.vector), inner)
        weights = self._weights(weight, stats)
        of_vectors = None if weights is None else in_runs(weights, self.vector)
        centroid = kmeans(in_runs(weight, self.vector), self.size, of_vectors).contiguous()
        if not self.rate:
            return CodebookWeight(nearest_codes(weight, centroid, weights).to(torch.uint8), centroid, inner)
        codes, centroid = rated_kmeans(in_runs(weight, self.vector), centroid, of_vectors, self.rate)
        return CodebookWeight(codes.view(out, -1).to(torch.uint8), centroid, inner)

    def _weights(self, weight: Tensor, stats: LayerStats | None) -> Tensor | None:
        """What errors of a weight ``[out, in]`` weigh; ``None`` if all do the same and every vector is whole."""
        if self.metric == "activation" and stats is not None:
            return stats.diagonal.to(weight).expand_as(weight)
        return torch.ones_like(weight) if weight.shape[1] % self.vector else None

    def compress_groups(self, groups: Groups) -> CompressedWeight:
        """With a shared codebook all groups are one matrix, whose scale is its root mean square."""
        if not self.shared:
            return super().compress_groups(groups)
        weight, weights = self._whole(groups)
        out, inner = weight.shape
        if weight.is_meta:  # only the shape is known
            code = weight.new_empty(out, -(-inner // self.vector), dtype=torch.uint8)
            centroid, scale = weight.new_empty(self.size, self.vector), weight.new_empty(1)
            return SharedCodebookWeight(code, centroid, inner, scale, self._book)
        centroid = self._fit([groups]) if self._centroid is None else self._centroid
        scale = _root_mean_square(weight)
        codes = nearest_codes(weight, scale * centroid, weights)
        if self.rate:
            of_vectors = None if weights is None else in_runs(weights, self.vector)
            codes = rated_codes(in_runs(weight, self.vector), scale * centroid, of_vectors, self.rate).view(out, -1)
        return SharedCodebookWeight(codes.to(torch.uint8), centroid, inner, scale, self._book)

    def _whole(self, groups: Groups) -> tuple[Tensor, Tensor | None]:
        """The weight of a layer, ``[out, in]``, and what its errors weigh."""
        weights = [of_group for of_group in (self._weights(*group) for group in groups) if of_group is not None]
        return torch.cat([weight for weight, _ in groups]), torch.cat(weights) if weights else None

    def fitted(self, layers: Sequence[Groups]) -> "Codebook":
        return self._holding(self._fit(layers)) if self.shared else self

    def sharing_with(self, weight: CompressedWeight) -> "Codebook":
        return self._holding(weight.centroid) if isinstance(weight, SharedCodebookWeight) else self

    def _holding(self, centroid: Tensor) -> "Codebook":
        holding = self.model_copy()
        holding._centroid = centroid
        return holding

    def _fit(self, layers: Sequence[Groups]) -> Tensor:
        """The centroids ``[k, d]`` of the vectors of all layers, each divided by its root mean square.

        A layer's weights of errors are divided by their mean, so that errors count by what they are of its outputs.
        """
        points, of_points = list[Tensor](), list[Tensor]()
        for weight, weights in map(self._whole, layers):
            scale = _root_mean_square(weight)
            points.append(in_runs(weight / scale.where(scale > 0, 1), self.vector))
            weights = torch.ones_like(weight) if weights is None else weights
            mean = weights.mean().clamp_min(torch.finfo(weights.dtype).tiny)
            of_points.append(in_runs(weights / mean, self.vector))
        X, M = torch.cat(points), torch.cat(of_points)
        centroid = kmeans(X, self.size, M).contiguous()
        return rated_kmeans(X, centroid, M, self.rate)[1] if self.rate else centroid

    def load_weight(self, tensors: Mapping[str, Tensor], shape: tuple[int, int], groups: int) -> CompressedWeight:
        return super().load_weight(tensors, shape, 1 if self.shared else groups)

    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> CodebookWeight:
        out, vectors = shape[0], -(-shape[1] // self.vector)
        code = unpack(tensors["code"], out * vectors, width_of(self.size), torch.uint8).view(out, vectors)
        centroid = tensors["centroid"].reshape(self.size, self.vector)
        if self.shared:
            return SharedCodebookWeight(code, centroid, shape[1], tensors["scale"].reshape(1), self._book)
        return CodebookWeight(code, centroid, shape[1])


def _root_mean_square(weight: Tensor) -> Tensor:
    """``[1]``."""
    return weight.double().square().mean().sqrt().to(weight.dtype).view(1)
