"""One combination as a plain Optuna objective: values in, validation accuracy out."""

import functools
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import torch

from pipeline.adapt.contract import Adapter, Draw, Init, Start, blank, clipped_rank, packed, trained_numbers
from pipeline.compress.attention import arranged
from pipeline.compress.batch_norm import reestimate
from pipeline.compress.contract import CompressedModel, Compression, DenseWeight
from pipeline.compress.layers import (
    layer_names,
    matrix_shape,
    naming,
    on_device,
    replace_weight,
    shared_copy,
    weight_matrix,
)
from pipeline.compress.size import ModelSize, model_macs, model_size
from pipeline.compress.stats import Statistics, calibration, output_positions
from pipeline.compress.targets import resolve
from pipeline.environment import peak_memory, versions
from pipeline.errors import SpecError
from pipeline.search.allocation import Layer, costs, layers_of, refuse_budgets, spread
from pipeline.search.base import Base
from pipeline.search.space import Cell, Values, cells, fitted, suggest
from pipeline.seeds import derive
from pipeline.spec import CombinationSpec, ComputeSpec, SearchSpec, load_spec
from pipeline.task import Task, prepare
from pipeline.train.cache import FeatureCache
from pipeline.train.cohort import Lane, train_epoch
from pipeline.train.program import Probe
from pipeline.train.recipe import Recipe
from pipeline.train.rows import HELD, Rows, beside
from pipeline.train.teacher import Teacher, teacher_logits


@dataclass(frozen=True)
class Facts:
    """What is known of a rank before it is trained."""

    size: ModelSize
    macs: int
    dense_macs: int
    trainable: int
    ranks: dict[str, int]
    """The rank of each layer that is adapted."""


BaseKey = tuple[Cell | None, frozenset[str]]
"""What tells bases apart: the cell whose init moved it, if one did, and the layers that are adapted."""


def make_features(compute: ComputeSpec, device: str, **settings: Any) -> FeatureCache:
    """The cache of frozen layers that a study asks for."""
    kept = "float32" if compute.cache == "off" else compute.cache
    return FeatureCache(dtype=getattr(torch, kept), device=device, **settings)


class Objective:
    """Trains one trial of a combination; ``study.optimize(Objective(...), n_trials=20)`` works as any objective does.

    The trial is asked for ``rank``, ``init``, ``alpha``, ``optimizer``, ``lr`` and ``batch_size``; validation accuracy
    is reported after every epoch, and the best of them returned: use ``direction="maximize"``. A pruned trial raises
    ``TrialPruned``. A loss that is not finite gives NaN, which Optuna records as FAIL, the reason in ``reason``.

    Args:
        task: Model, data and baseline.
        combination: What compresses, what adapts, and which layers.
        search: Ranks, inits and ranges.
        compute: How numbers are computed.
        seed: Of all that is drawn; the same seed and values give the same trial.
        device: Where it trains.
        statistics: Layer statistics to share between combinations of one task.
        features: The caches of frozen layers to share between them; made below ``storage/`` where none are given.

    Raises:
        SpecError: A target pattern matches nothing, a rank is above what every target can take, or a budget is out of
            what an allocation can spread.
    """

    def __init__(
        self,
        task: Task,
        combination: CombinationSpec,
        search: SearchSpec,
        compute: ComputeSpec | None = None,
        *,
        seed: int = 0,
        device: str = "cpu",
        statistics: Statistics | None = None,
        features: FeatureCache | None = None,
    ) -> None:
        self.task, self.combination, self.seed = task, combination, seed
        self.adapter: Adapter = combination.adapter
        self.search = search = fitted(search, self.adapter)
        self.inits: dict[str, Init] = {init.name: init for init in search.inits}
        compute = compute or ComputeSpec()
        self.recipe = Recipe(search.epochs, search.schedule, search.warmup, device, compute, search.loss)
        self.features = features or make_features(self.recipe.compute, device)
        self.model = arranged(task.model, combination.qkv)
        self._fixed_ranks = resolve(self.model, combination.targets)
        self.targets = list(self._fixed_ranks)
        self.statistics = statistics or Statistics(self.model, task.train)
        self._facts: dict[int, Facts] = {}
        self._spread: dict[int, dict[str, int]] = {}
        self._starts: dict[str, dict[str, Start]] = {}
        self._bases: dict[Hashable, Base] = {}
        self._taught: dict[str, torch.Tensor] = {}
        self._lock = threading.RLock()
        self._refuse_ranks()
        unused = [name for name in self.targets if not self._positions[name]]
        if unused:
            raise SpecError(
                f"targets of combination '{combination.name}' that the model never calls, so that no adapter would act "
                f"there: {', '.join(unused[:5])}; leave them out (some attention layers read a weight themselves)"
            )

    @classmethod
    def from_file(cls, path: str | Path, combination: str | None = None, device: str = "cpu") -> "Objective":
        """The objective of one combination of a study file, the first where none is named."""
        spec = load_spec(Path(path))
        chosen = spec.find(combination) if combination else spec.combination[0]
        task = prepare(spec.task, device=device)
        return cls(task, chosen, spec.search, spec.compute, seed=spec.seed, device=device)

    def _refuse_ranks(self) -> None:
        if self.search.allocation is not None:
            dense = {name: DenseWeight(weight_matrix(self.model.get_submodule(name))) for name in self.targets}
            uncompressed = CompressedModel(self.model, dense, self.model)
            refuse_budgets(self.search.ranks, costs(self.adapter, uncompressed, self.search.allocation.unit))
            return
        free = [name for name, rank in self._fixed_ranks.items() if rank is None] or self.targets
        highest = max(min(matrix_shape(self.model.get_submodule(name))) for name in free)
        above = [rank for rank in self.search.ranks if rank > highest]
        if above:
            raise SpecError(
                f"search.ranks = {above} is above what any target of combination '{self.combination.name}' can take; "
                f"allowed: 1 to {highest}"
            )

    @cached_property
    def compressed(self) -> CompressedModel:
        """The compressed model, before any adapter."""
        compression: Compression = self.combination.compression
        stats = self.statistics.of(self.targets) if compression.needs_statistics else {}
        compressed = compression.compress_model(self.model, self.targets, stats, self.task.train)
        model = on_device(compressed.model, self.recipe.device)
        if self.combination.batch_norm == "reestimated":
            reestimate(model, (images.to(self.recipe.device) for images, _ in calibration(self.task.train)))
        return replace(compressed, model=model)

    @cached_property
    def compressed_size(self) -> ModelSize:
        """The size of the compressed model, before any adapter."""
        return model_size(self.model, self.compressed, {})

    @cached_property
    def _positions(self) -> Any:
        images, _ = next(iter(self.task.train.batches(1, torch.tensor([0]))))
        return output_positions(self.model, layer_names(self.model), images)

    def layer_ranks(self, rank: int) -> dict[str, int]:
        """The rank of each layer that is adapted: its own, or ``rank``, clipped to what the layer can take.

        With an allocation ``rank`` is a budget, and a layer that gets nothing of it is left out.
        """
        fixed = self._fixed_ranks
        if self.search.allocation is None:
            shapes = {name: weight.shape for name, weight in self.compressed.weights.items()}
            return {name: clipped_rank(fixed[name] or rank, shape) for name, shape in shapes.items()}
        with self._lock:
            if rank not in self._spread:
                own = {name: min(r, self._layers[name].cost.most) for name, r in fixed.items() if r is not None}
                spent = sum(self._layers[name].cost.of(r) for name, r in own.items())
                free = {name: layer for name, layer in self._layers.items() if name not in own}
                shared = spread(free, self.search.allocation.by, rank - spent)
                self._spread[rank] = {name: r for name in self._layers if (r := own.get(name) or shared.get(name))}
            return self._spread[rank]

    @cached_property
    def _layers(self) -> dict[str, Layer]:
        """What an allocation spreads ranks over."""
        if self.search.allocation is None:
            return {}
        return layers_of(self.adapter, self.compressed, self._reference_statistics, self.search.allocation)

    def facts(self, rank: int) -> Facts:
        """Size, multiply-accumulates and trained parameters at a rank."""
        with self._lock:
            if rank not in self._facts:
                ranks = self.layer_ranks(rank)
                begun = blank(self.adapter, self.compressed, ranks)
                whole, bits = packed(self.adapter, self.compressed, begun)
                added = {name: self.adapter.macs(whole.weights[name].shape, r) for name, r in ranks.items()}
                macs, dense = model_macs(self.model, whole, self._positions, added)
                size = model_size(self.model, whole, bits)
                self._facts[rank] = Facts(size, macs, dense, sum(trained_numbers(self.adapter, begun).values()), ranks)
            return self._facts[rank]

    @cached_property
    def _reference_statistics(self) -> Statistics:
        reference = self.compressed.reference
        return self.statistics if reference is self.model else Statistics(reference, self.task.train)

    def _start(self, init: Init, ranks: Mapping[str, int], seed: int) -> dict[str, Start]:
        reference, weights = self.compressed.reference, self.compressed.weights
        stats = self._reference_statistics.of(self.targets) if init.needs_statistics or init.moves_base else {}
        starts = {}
        for place, name in enumerate(weights):
            if name not in ranks:
                continue
            generator = torch.Generator().manual_seed(derive(seed, "init", place))
            layer, own = reference.get_submodule(name), stats.get(name, ())
            compress = functools.partial(self.combination.compression.compress_layer, layer, stats=own)
            with naming(name):
                starts[name] = init.start(weight_matrix(layer), weights[name], ranks[name], own, generator, compress)
        return starts

    def starts(self, values: Values, seed: int) -> dict[str, Start]:
        """Where the factors of each adapted layer start; inits whose ranks are nested are decomposed once."""
        if not self.adapter.low_rank:
            return {}
        init = self.inits[values.init]
        if init.moves_base:
            return self._moved(values.cell)
        if not init.nested:
            return self._start(init, self.layer_ranks(values.rank), seed)
        with self._lock:
            if values.init not in self._starts:
                highest = dict[str, int]()
                for rank in self.search.ranks:
                    highest |= {name: max(r, highest.get(name, 0)) for name, r in self.layer_ranks(rank).items()}
                self._starts[values.init] = self._start(init, highest, 0)
            starts = self._starts[values.init]
            return {name: starts[name].prefix(r) for name, r in self.layer_ranks(values.rank).items()}

    def _moved(self, cell: Cell) -> dict[str, Start]:
        """The starts of a cell whose init moves the base: they are the base's, whatever the lane's seed."""
        with self._lock:
            if str(cell) not in self._starts:
                self._starts[str(cell)] = self._start(self.inits[cell.init], self.layer_ranks(cell.rank), self.seed)
            return self._starts[str(cell)]

    def base(self, cell: Cell) -> Base:
        """The compressed model that the trials of a cell adapt, one for all cells that adapt the same layers.

        A cell whose init moves the base has its own.
        """
        return self._base(self._base_key(cell))

    @property
    def common(self) -> Base:
        """The base of the cells of the highest rank, but for those whose init moves it."""
        return self._base((None, self.adapted(max(self.search.ranks))))

    @property
    def bases(self) -> list[Base]:
        """The bases of all cells but those whose init moves it, one for each set of adapted layers."""
        return [self._base((None, layers)) for layers in dict.fromkeys(map(self.adapted, self.search.ranks))]

    def adapted(self, rank: int) -> frozenset[str]:
        """The layers that are adapted at a rank."""
        return frozenset(self.layer_ranks(rank))

    def _base_key(self, cell: Cell) -> BaseKey:
        moves = cell.init in self.inits and self.inits[cell.init].moves_base
        return cell if moves else None, self.adapted(cell.rank)

    def _base(self, key: BaseKey) -> Base:
        cell, layers = key
        with self._lock:
            if key not in self._bases:
                shares = {self._base_key(own) for own in cells(self.search)} | {key}
                self._bases[key] = Base(
                    self.task,
                    self.compressed if cell is None else self._with_moved_base(cell),
                    self.adapter,
                    self.recipe,
                    self.features,
                    functools.partial(self._probes, layers),
                    held=HELD // len(shares),
                )
            return self._bases[key]

    def _with_moved_base(self, cell: Cell) -> CompressedModel:
        model, weights = shared_copy(self.compressed.model), dict(self.compressed.weights)
        for name, start in self._moved(cell).items():
            if start.base is None:
                raise TypeError(f"init '{cell.init}' says that it moves the base, and gave none for layer '{name}'")
            weights[name] = start.base
            replace_weight(model, name, start.base.dense().to(model.get_submodule(name).get_parameter("weight")))
        return replace(self.compressed, model=model, weights=weights)

    def _probes(self, layers: frozenset[str]) -> Sequence[Sequence[Probe]]:
        own = [rank for rank in self.search.ranks if self.adapted(rank) == layers]
        lowest, highest = min(own), max(own)
        probes = [[self._random(lowest, 0), self._random(lowest, 1)], [self._random(highest, 2)]]
        return [[*probes[0], *probes[1]]] if lowest == highest else probes

    def _random(self, rank: int, seed: int) -> Probe:
        """A lane with random numbers in the place of its parameters, and another alpha each."""
        generator = torch.Generator().manual_seed(seed)
        drawn = blank(self.adapter, self.compressed, self.layer_ranks(rank))
        device = self.recipe.device
        lane = {k: torch.randn(t.shape, generator=generator).to(device, t.dtype) for k, t in drawn.items()}
        return lane, float(1 + seed)

    def lane(self, values: Values, *, order_seed: int | None = None) -> Lane:
        """A trial that is ready to be trained; ``order_seed`` takes the place of the study's seed."""
        seed = self.seed if order_seed is None else order_seed
        base = self.base(values.cell)
        draw = Draw(values.alpha, values.extra, derive(seed, "adapter"))
        parameters = self.adapter.begin(base.compressed, self.starts(values, seed), draw)
        return Lane(
            parameters,
            values.alpha,
            values.optimizer,
            values.lr,
            values.batch_size,
            seed,
            frozen=frozenset(name for name in parameters if self.adapter.is_frozen(name)),
            base=self._base_key(values.cell),
        )

    @cached_property
    def teacher(self) -> Teacher | None:
        """The uncompressed model, where the loss learns from it."""
        return Teacher(on_device(self.task.model, self.recipe.device)) if self.recipe.loss.needs_teacher else None

    def lessons(self, base: Base, name: str) -> Rows:
        """The rows of a part, and as their last tensor the teacher's logits, where there is one."""
        if self.teacher is None:
            return base.rows(name)
        with self._lock:
            if name not in self._taught:
                part, device = getattr(self.task, name), self.recipe.device
                cache = None if self.recipe.compute.cache == "off" else self.features
                self._taught[name] = teacher_logits(self.teacher, part, device, cache, base.feature_facts(name))
            return beside(base.rows(name), self._taught[name])

    def release(self) -> None:
        """Let go of what is held of each part; it is had again from the cache when it is asked for."""
        with self._lock:
            self._taught.clear()
            for base in self._bases.values():
                base.release()

    def train_epoch(self, lanes: list[Lane], check: Callable[[], None] = lambda: None) -> None:
        """Train lanes of one pace for one epoch."""
        base = self._bases[lanes[0].base]
        train, val = self.lessons(base, "train"), self.lessons(base, "val")
        train_epoch(lanes, base.program, train, val, self.recipe, check)

    def attributes(self, lane: Lane, values: Values) -> dict[str, Any]:
        """What is kept beside a trial's values: plain Python, small, and the same for every trial."""
        facts = self.facts(values.rank)
        return {
            "bytes": facts.size.bytes,
            "ratio": facts.size.ratio,
            "layer_bytes": facts.size.layer_bytes,
            "layer_ratio": facts.size.layer_ratio,
            "macs": facts.macs,
            "macs_ratio": facts.dense_macs / facts.macs,
            "trainable": facts.trainable,
            "best_epoch": lane.best_epoch,
            "train_loss": [round(epoch.train_loss, 5) for epoch in lane.curve],
            "val_loss": [round(epoch.val_loss, 5) for epoch in lane.curve],
            "seconds": round(lane.seconds, 3),
            "peak_memory": peak_memory(self.recipe.device),
            "device": self.recipe.device,
            "seed": lane.seed,
            "split": self.task.hashes["split"],
            "versions": versions(),
            **({"reason": lane.failure} if lane.failure else {}),
        }

    def __call__(self, trial: optuna.Trial) -> float:
        if isinstance(trial, optuna.Trial) and trial.study.directions != [optuna.study.StudyDirection.MAXIMIZE]:
            raise SpecError('the objective is an accuracy; create the study with direction="maximize"')
        values = suggest(trial, self.search, self.adapter)
        lane = self.lane(values)
        pruned = False
        while len(lane.curve) < self.recipe.epochs and lane.failure is None and not pruned:
            self.train_epoch([lane])
            if lane.failure is None:
                trial.report(lane.curve[-1].val_accuracy, len(lane.curve))
                pruned = len(lane.curve) < self.recipe.epochs and trial.should_prune()
        for key, value in self.attributes(lane, values).items():
            trial.set_user_attr(key, value)
        if pruned:
            raise optuna.TrialPruned(f"after epoch {len(lane.curve)}")
        return float("nan") if lane.failure else lane.best
