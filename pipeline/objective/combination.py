"""A combination before any trial: the compressed model, the rank of each layer, sizes, and where factors start."""

import copy
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from torch import nn

from pipeline.adapt.contract import Adapter, blank, stored_model, trainable_counts
from pipeline.adapt.inits.contract import Init, Start
from pipeline.cell import Cell
from pipeline.compress.attention import with_plain_attention
from pipeline.compress.by_layer import by_layer, refuse_shared
from pipeline.compress.contract import CompressedModel, Compression
from pipeline.compress.folding import fold_batch_norms, kept_norms_note
from pipeline.compress.layer_statistics import Statistics, reestimate
from pipeline.compress.layers import copy_sharing_tensors, on_device, replace_weight
from pipeline.compress.sizes import ModelSize, StoredModel, model_macs, model_size
from pipeline.compress.small_tensors import rounded_model
from pipeline.compress.targets import fixed_ranks, resolve
from pipeline.compress.training_compression import compress_cached
from pipeline.config.candidates import Tried
from pipeline.config.combination_spec import PLAIN, CombinationSpec
from pipeline.config.search_spec import SearchSpec
from pipeline.objective.allocation import layers_of, spread
from pipeline.objective.allocations.contract import Layer
from pipeline.objective.compression_stats import compression_stats, corrected_layers, prefix_images, take_mean
from pipeline.objective.requirements import refuse_misfits, refuse_ranks
from pipeline.objective.starts import start_factors
from pipeline.space import Values, fitted
from pipeline.task.contract import Task, first_images

UNCODED = 'rate chooses codes for their coded size, and without storage = { coding = "rans" } the file gets no smaller'
"""A note on combinations whose compression needs a coding that they do not have."""


@dataclass(frozen=True)
class Facts:
    """Sizes and counts at a rank, exact before training."""

    size: ModelSize
    macs: int
    dense_macs: int
    trainable: int
    ranks: dict[str, int]
    """The rank of each layer that is adapted."""


def arranged_model(task: Task, qkv: Literal["fused", "split"], batch_norm: str) -> nn.Module:
    """The uncompressed model of a task as a combination takes it: with plain attention, and maybe with folded norms."""
    model = with_plain_attention(task.model, qkv)
    return fold_batch_norms(model, first_images(task.train)) if batch_norm == "folded" else model


class Combination:
    """One compression with one adapter on a task, before any trial. Each result is computed when first used, then kept.

    Its arguments and errors are those of ``Objective``. Combinations of one task and ``qkv`` may share ``statistics``.
    """

    def __init__(
        self,
        task: Task,
        spec: CombinationSpec,
        search: SearchSpec,
        *,
        seed: int = 0,
        device: str = "cpu",
        statistics: Statistics | None = None,
    ) -> None:
        self.task, self.spec, self.seed, self.device = task, spec, seed, device
        self.storage = spec.storage or PLAIN
        self.name: str = spec.name
        self.tried: list[Tried] = []  # candidates for options that were "auto", the best first
        self.tried_inits: list[Tried] = []  # the same for an init
        self.adapter: Adapter = spec.adapter
        self.search = search = fitted(spec.searched(search), self.adapter)
        self.inits: dict[str, Init] = {init.name: init for init in search.inits}
        self.statistics = statistics or Statistics(arranged_model(task, spec.qkv, spec.batch_norm), task.train)
        self.model = self.statistics.model
        self.original = with_plain_attention(task.model, spec.qkv) if spec.batch_norm == "folded" else self.model
        refuse_misfits(spec, self.model, task.train)
        self.inspection = task.inspection if self.model is task.model else self.statistics.inspection
        chosen = resolve(self.inspection, spec.targets)
        self.targets = list(chosen)
        self._fixed_ranks = fixed_ranks(self.model, chosen)
        own = {name: entry.compression for name, entry in chosen.items() if entry.compression is not None}
        self.compression: Compression = by_layer(spec.compression, own)
        refuse_shared(self.model, self.compression, chosen)
        self._facts: dict[int | Cell, Facts] = {}
        self._spread: dict[int, dict[str, int]] = {}
        self._starts: dict[str | Cell, dict[str, Start]] = {}
        self._lock = threading.RLock()
        refuse_ranks(self.search, self.adapter, self.model, self.targets, self._fixed_ranks)

    def with_inits(self, *inits: Init) -> "Combination":
        """This combination with other inits; it shares what has been computed. A single one is chosen for its study."""
        other = copy.copy(self)
        other.search, other.inits = self.search.having(*inits), {init.name: init for init in inits}
        other.spec = self.spec.starting(*inits) if len(inits) == 1 else self.spec
        return other

    @cached_property
    def compressed(self) -> CompressedModel:
        """The compressed model, before any adapter."""
        stats = compression_stats(self.compression, self.targets, self.statistics, self.task.train)
        compressed = compress_cached(self.compression, self.task, self.model, self.targets, stats)
        model = on_device(compressed.model, self.device)
        if self.spec.batch_norm == "reestimated":
            reestimate(model, self.task.train, self.device)
        return rounded_model(self._completed(replace(compressed, model=model)), self.compression, self.storage)

    def _completed(self, compressed: CompressedModel) -> CompressedModel:
        """A compressed model with what the combination knows of it: its head, its storage, the norms that stay."""
        kept = kept_norms_note(self.model) if self.spec.batch_norm == "folded" else None
        unused = UNCODED if self.compression.needs_coding and self.storage.coding == "none" else None
        notes = [*compressed.notes, *(note for note in (kept, unused) if note)]
        return replace(compressed, head=self.inspection.head, storage=self.storage, notes=tuple(notes))

    @property
    def prefix_images(self) -> int:
        """Images on which statistics are gathered behind the compressed layers; 0 if none are."""
        return prefix_images(self.compression, self.targets, self.task.train)

    @cached_property
    def compressed_size(self) -> ModelSize:
        """The size of the compressed model, before any adapter and any entropy coding."""
        return model_size(self.original, StoredModel(self.compressed))

    def layer_ranks(self, rank: int) -> dict[str, int]:
        """The rank of each adapted layer: its fixed rank or ``rank``, clipped to the highest that the layer can take.

        With an allocation ``rank`` is a budget, and a layer that gets nothing of it is left out.
        """
        fixed = self._fixed_ranks
        if self.search.allocation is None:
            weights = self.compressed.weights
            return {name: min(fixed.get(name, rank), *weight.shape) for name, weight in weights.items()}
        with self._lock:
            if rank not in self._spread:
                self._spread[rank] = spread(self._layers, self.search.allocation, rank, fixed)
            return self._spread[rank]

    @cached_property
    def _layers(self) -> dict[str, Layer]:
        """The layers that an allocation spreads ranks over; empty without an allocation."""
        if self.search.allocation is None:
            return {}
        return layers_of(self.adapter, self.compressed, self._reference_statistics, self.search.allocation)

    def adapted(self, rank: int) -> frozenset[str]:
        """The names of the layers that are adapted at a rank or budget."""
        return frozenset(self.layer_ranks(rank))

    def moves_base(self, cell: Cell) -> bool:
        """Whether a cell's init changes the compressed weights, so that the cell has a base of its own."""
        return cell.init in self.inits and self.inits[cell.init].moves_base

    @cached_property
    def _corrected(self) -> list[str]:
        return corrected_layers(self.compression, self.model, self.targets)

    def has_own_base(self, cell: Cell) -> bool:
        """Whether a cell's starts change the compressed weights, or the mean outputs that biases are corrected for."""
        return self.moves_base(cell) or (cell.init in self.inits and bool(self._corrected))

    def facts(self, at: int | Cell) -> Facts:
        """Sizes and counts at a rank, or of a cell: an init that moves the base may change its size."""
        moved = at if isinstance(at, Cell) and self.moves_base(at) else None
        rank = at.rank if isinstance(at, Cell) else at
        key = moved or rank
        with self._lock:
            if key not in self._facts:
                base = self.with_moved_base(moved) if moved else self.compressed
                ranks = self.layer_ranks(rank)
                begun = blank(self.adapter, base, ranks)
                stored = stored_model(self.adapter, base, begun)
                weights = stored.compressed.weights
                added = {name: self.adapter.macs(weights[name].shape, r) for name, r in ranks.items()}
                macs, dense = model_macs(self.original, stored.compressed, self.inspection.positions, added)
                size = model_size(self.original, stored)
                trainable = sum(trainable_counts(self.adapter, base.weights, begun).values())
                self._facts[key] = Facts(size, macs, dense, trainable, ranks)
            return self._facts[key]

    @cached_property
    def _reference_statistics(self) -> Statistics:
        reference = self.compressed.reference
        return self.statistics if reference is self.model else Statistics(reference, self.task.train)

    def _start(self, init: Init, ranks: Mapping[str, int], seed: int) -> dict[str, Start]:
        needed = init.needs_statistics or (init.moves_base and self.compression.needs_statistics)
        stats = self._reference_statistics.of(self.targets) if needed else {}
        return start_factors(init, ranks, seed, self.compressed, self.compression, stats)

    def starts(self, values: Values, seed: int) -> dict[str, Start]:
        """The initial factors of each adapted layer; those of nested ranks are computed once, for the highest."""
        if not self.adapter.low_rank:
            return {}
        init, ranks = self.inits[values.init], self.layer_ranks(values.rank)
        if init.moves_base:
            return self._moved(values.cell)
        if not init.nested:
            return self._start(init, ranks, seed)
        with self._lock:
            if values.init not in self._starts:
                highest = dict[str, int]()
                for rank in self.search.ranks:
                    highest |= {name: max(r, highest.get(name, 0)) for name, r in self.layer_ranks(rank).items()}
                self._starts[values.init] = self._start(init, highest, 0)
            return {name: self._starts[values.init][name].prefix(r) for name, r in ranks.items()}

    def _moved(self, cell: Cell) -> dict[str, Start]:
        """The starts of a cell whose init moves the base; like the base, they do not depend on a lane's seed."""
        with self._lock:
            if cell not in self._starts:
                self._starts[cell] = self._start(self.inits[cell.init], self.layer_ranks(cell.rank), self.seed)
            return self._starts[cell]

    def with_moved_base(self, cell: Cell) -> CompressedModel:
        """The compressed model with the weights that a cell's init gives it, and biases corrected for its starts."""
        model, weights = copy_sharing_tensors(self.compressed.model), dict(self.compressed.weights)
        init = self.inits[cell.init]
        starts = self._moved(cell) if init.moves_base else self.starts(Values(cell.rank, cell.init), self.seed)
        for name, start in starts.items():
            if start.base is None and init.moves_base:
                raise TypeError(f"init '{cell.init}' moves the base, but returned none for layer '{name}'")
            if start.base is not None:
                weights[name] = start.base
                replace_weight(model, name, start.base.dense().to(model.get_submodule(name).get_parameter("weight")))
            if name in self._corrected:
                change = weights[name].dense().double() - self.compressed.weights[name].dense().double()
                low_rank = start.B.double() @ start.A.double() if start.residual else 0.0
                take_mean(model.get_submodule(name), change + low_rank, self.statistics.of([name])[name])
        moved = replace(self.compressed, model=model, weights=weights)
        return rounded_model(moved, self.compression, self.storage)
