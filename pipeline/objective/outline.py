"""A combination by its shapes, for plans and checks: exact sizes, at the cost of none of the values."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

import torch

from pipeline.adapt.inits.contract import Start
from pipeline.cell import Cell
from pipeline.compress.contract import CompressedModel
from pipeline.compress.layer_statistics import CALIBRATION_IMAGES, statistics_bytes
from pipeline.compress.layers import matrix_shape, on_device
from pipeline.objective.allocation import costs
from pipeline.objective.combination import Combination
from pipeline.objective.compression_stats import prefix_bytes
from pipeline.space import Values

DECOMPOSED = 6
"""Float64 copies of a weight that exist while it is decomposed: weighted, its factors, and the workspace of LAPACK."""


class Outline(Combination):
    """A combination whose compressed weights, starts and moved bases have the right shapes, and not their values.

    No statistics are gathered and nothing is trained; a weight is decomposed only where its values decide its size. An
    allocation spreads its budget evenly, as its spectra are not known.
    """

    @cached_property
    def compressed(self) -> CompressedModel:
        outline = self.compression.outline(self.model, self.targets, self.task.train)
        model = on_device(outline.model, self.device)
        return self._completed(replace(outline, model=model))

    @cached_property
    def realised(self) -> Combination:
        """The combination with its compressed weights; statistics are gathered if the compression needs them."""
        return Combination(
            self.task, self.spec, self.search, seed=self.seed, device=self.device, statistics=self.statistics
        )

    def layer_ranks(self, rank: int) -> dict[str, int]:
        if self.search.allocation is None:
            return super().layer_ranks(rank)
        by_layer = costs(self.adapter, self.compressed, self.search.allocation.unit)
        ranks = {name: min(fixed, by_layer[name].most) for name, fixed in self._fixed_ranks.items()}
        left = rank - sum(by_layer[name].of(taken) for name, taken in ranks.items())
        free = {name: cost for name, cost in by_layer.items() if name not in ranks}
        for _, name, step in sorted((r / c.most, name, r) for name, c in free.items() for r in range(1, c.most + 1)):
            if step == ranks.get(name, 0) + 1 and free[name].step(step) <= left:
                ranks[name], left = step, left - free[name].step(step)
        return {name: ranks[name] for name in by_layer if name in ranks}

    def moves_base(self, cell: Cell) -> bool:
        return False

    def has_own_base(self, cell: Cell) -> bool:
        return False

    def starts(self, values: Values, seed: int) -> dict[str, Start]:
        """Starts at zero, of which training steps take as long as from any other."""
        shapes = {name: self.compressed.weights[name].shape for name in self.layer_ranks(values.rank)}
        ranks = self.layer_ranks(values.rank)
        return {
            name: Start(torch.full((ranks[name], inner), inner**-0.5), torch.zeros(out, ranks[name]))
            for name, (out, inner) in shapes.items()
        }

    @cached_property
    def statistics_bytes(self) -> Mapping[str, int]:
        """Bytes of the statistics of each layer that needs them while the combination is prepared."""
        inits = [*self.inits.values(), *self.search.init_candidates] if self.adapter.low_rank else []
        methods = [candidate.config for auto in self.spec.autos for candidate in auto.candidates]
        everywhere = (
            self.search.allocation is not None
            or any(init.needs_statistics for init in inits)
            or any(method.needs_statistics for method in methods)
        )
        needing = [name for name in self.targets if everywhere or self.compression.of_layer(name).needs_statistics]
        images = min(CALIBRATION_IMAGES, len(self.task.train))
        layers = {name: self.model.get_submodule(name) for name in needing}
        return {
            name: statistics_bytes(layer, images * self.inspection.positions[name]) for name, layer in layers.items()
        }

    @cached_property
    def prefix_bytes(self) -> int:
        """Bytes of the images or outputs of frozen layers that statistics behind compressed layers begin with."""
        images = self.prefix_images
        return prefix_bytes(self.model, self.targets, self.task.train, images) if images else 0

    @property
    def decomposition_bytes(self) -> int:
        """Bytes that decomposing the largest target takes, as many inits and compressions do."""
        shapes = (matrix_shape(self.model.get_submodule(name)) for name in self.targets)
        return max(8 * DECOMPOSED * out * inner for out, inner in shapes)
