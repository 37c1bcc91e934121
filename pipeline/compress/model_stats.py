"""Statistics of the layers of a model, and of the groups of a layer."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from pipeline.compress.layers import matrix_shape
from pipeline.compress.second_moment import LayerStats, SampledStats

ModelStats = Mapping[str, Sequence[LayerStats]]
"""Statistics of layers by name, one per group of a convolution."""


class LayerByLayer(ModelStats):
    """Statistics that follow the model while its layers are compressed one after another."""

    @abstractmethod
    def order(self) -> list[str]:
        """The layers in the order in which they must be compressed."""

    @abstractmethod
    def behind(self, compressed: nn.Module) -> "LayerByLayer":
        """The statistics of layers in ``compressed``, which changes while they are asked for."""


def no_stats(layer: nn.Module) -> LayerStats:
    """The statistics of no image, for outlines: they take no memory, and weigh all inputs equally."""
    return SampledStats(torch.empty(0, matrix_shape(layer)[1]))


def mean_stats(groups: Sequence[LayerStats]) -> LayerStats:
    """The statistics whose second moment is the mean of those of equal numbers of vectors."""
    if len(groups) == 1:
        return groups[0]
    sampled = [group.vectors for group in groups if isinstance(group, SampledStats)]
    if sampled:
        return SampledStats(torch.cat(sampled))
    moments, means = (
        torch.stack(kind).mean(0) for kind in zip(*((g.second_moment, g.mean) for g in groups), strict=True)
    )
    return LayerStats(moments, means)
