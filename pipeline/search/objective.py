"""One combination as a plain Optuna objective: values in, validation accuracy out."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import torch

from pipeline.adapt.contract import Adapter, Init, Start, adapter_parameters, clipped_rank
from pipeline.compress.contract import CompressedModel, Compression
from pipeline.compress.layers import (
    find_targets,
    layer_names,
    matrix_shape,
    naming,
    on_device,
    weight_matrix,
)
from pipeline.compress.size import ModelSize, model_macs, model_size
from pipeline.compress.stats import Statistics, output_positions
from pipeline.environment import peak_memory, versions
from pipeline.errors import SpecError
from pipeline.search.space import Values, suggest
from pipeline.seeds import derive
from pipeline.spec import CombinationSpec, ComputeSpec, SearchSpec, fingerprint, load_spec
from pipeline.task import Part, Task, prepare
from pipeline.train.cache import FeatureCache
from pipeline.train.cohort import Lane, train_epoch
from pipeline.train.program import Program, make_program
from pipeline.train.recipe import Recipe
from pipeline.train.rows import ComputedRows, Rows, beside, image_rows
from pipeline.train.teacher import Teacher, teacher_logits


@dataclass(frozen=True)
class Facts:
    """What is known of a rank before it is trained."""

    size: ModelSize
    macs: int
    dense_macs: int
    trainable: int
    ranks: dict[str, int]
    """The rank of each target layer, clipped to what the layer can take."""


PROBE_IMAGES = 3


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
        SpecError: A target pattern matches nothing, or a rank is above what every target can take.
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
        self.task, self.combination, self.search, self.seed = task, combination, search, seed
        self.adapter: Adapter = combination.adapter
        self.inits: dict[str, Init] = {init.name: init for init in search.inits}
        compute = compute or ComputeSpec()
        self.recipe = Recipe(search.epochs, search.schedule, search.warmup, device, compute, search.loss)
        self.features = features or make_features(self.recipe.compute, device)
        self.targets = find_targets(task.model, combination.targets)
        self.statistics = statistics or Statistics(task.model, task.train)
        self._facts: dict[int, Facts] = {}
        self._starts: dict[str, dict[str, Start]] = {}
        self._rows: dict[str, Rows] = {}
        self._taught: dict[str, torch.Tensor] = {}
        self._lock = threading.RLock()
        shapes = {name: matrix_shape(task.model.get_submodule(name)) for name in self.targets}
        highest = max(min(shape) for shape in shapes.values())
        above = [rank for rank in search.ranks if rank > highest]
        if above:
            raise SpecError(
                f"search.ranks = {above} is above what any target of combination '{combination.name}' can take; "
                f"allowed: 1 to {highest}"
            )

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

    @cached_property
    def compressed(self) -> CompressedModel:
        """The compressed model, before any adapter."""
        compression: Compression = self.combination.compression
        stats = self.statistics.of(self.targets) if compression.needs_statistics else {}
        compressed = compression.compress_model(self.task.model, self.targets, stats)
        return CompressedModel(on_device(compressed.model, self.recipe.device), compressed.weights)

    @cached_property
    def _positions(self) -> Any:
        images, _ = next(iter(self.task.train.batches(1, torch.tensor([0]))))
        return output_positions(self.task.model, layer_names(self.task.model), images)

    def facts(self, rank: int) -> Facts:
        """Size, multiply-accumulates and trained parameters at a rank."""
        with self._lock:
            if rank not in self._facts:
                shapes = {name: weight.shape for name, weight in self.compressed.weights.items()}
                ranks = {name: clipped_rank(rank, shape) for name, shape in shapes.items()}
                counts = adapter_parameters(self.adapter, self.compressed.model, shapes, rank)
                bits, base = dict.fromkeys(shapes, 0), self.compressed.model.state_dict()
                for key, count in counts.items():
                    if key not in base:  # a trained bias or norm takes the place of the frozen one
                        name = key.rpartition(".")[0]
                        bits[name] = bits.get(name, 0) + 32 * count
                added = {name: self.adapter.macs(shape, ranks[name]) for name, shape in shapes.items()}
                macs, dense = model_macs(self.compressed, self._positions, added)
                size = model_size(self.task.model, self.compressed, bits)
                self._facts[rank] = Facts(size, macs, dense, sum(counts.values()), ranks)
            return self._facts[rank]

    def _start(self, init: Init, rank: int, seed: int) -> dict[str, Start]:
        stats = self.statistics.of(self.targets) if init.needs_statistics else {}
        starts = {}
        for place, (name, weight) in enumerate(self.compressed.weights.items()):
            generator = torch.Generator().manual_seed(derive(seed, "init", place))
            matrix = weight_matrix(self.task.model.get_submodule(name))
            r = clipped_rank(rank, weight.shape)
            with naming(name):
                starts[name] = init.start(matrix, weight, r, stats.get(name, ()), generator)
            if starts[name].base is not None:
                raise SpecError(f"init '{init.name}' moves the base of layer '{name}', which a study cannot hold yet")
        return starts

    def starts(self, values: Values, seed: int) -> dict[str, Start]:
        """Where the factors of each target layer start; inits whose ranks are nested are decomposed once."""
        init = self.inits[values.init]
        if not init.nested:
            return self._start(init, values.rank, seed)
        with self._lock:
            if values.init not in self._starts:
                self._starts[values.init] = self._start(init, max(self.search.ranks), 0)
            return {name: start.prefix(values.rank) for name, start in self._starts[values.init].items()}

    def lane(self, values: Values, *, order_seed: int | None = None) -> Lane:
        """A trial that is ready to be trained; ``order_seed`` takes the place of the study's seed."""
        seed = self.seed if order_seed is None else order_seed
        parameters = self.adapter.begin(self.compressed.model, self.starts(values, seed), values.alpha)
        return Lane(parameters, values.alpha, values.optimizer, values.lr, values.batch_size, seed)

    @cached_property
    def program(self) -> Program:
        """How lanes compute: what is the same in every trial is had once, where the model can be cut."""
        lowest, highest = min(self.search.ranks), max(self.search.ranks)
        probes = [[self._random(lowest, 0), self._random(lowest, 1)], [self._random(highest, 2)]]
        stacks = [[*probes[0], *probes[1]]] if lowest == highest else probes
        chosen = torch.arange(PROBE_IMAGES) % len(self.task.train)
        images, _ = next(iter(self.task.train.batches(PROBE_IMAGES, chosen)))
        model, device = self.compressed.model, self.recipe.device
        why_not = 'compute.cache = "off"' if self.recipe.compute.cache == "off" else ""
        return make_program(model, self.adapter, stacks, images.to(device), why_not)

    def _random(self, rank: int, seed: int) -> tuple[dict[str, torch.Tensor], float]:
        """A lane with random numbers in the place of its parameters, and another alpha each."""
        values = Values(
            rank, self.search.inits[0].name, float(1 + seed), self.search.optimizer[0], self.search.lr.low, 1
        )  # fmt: skip
        generator = torch.Generator().manual_seed(seed)
        drawn = self.lane(values).parameters
        device = self.recipe.device
        lane = {k: torch.randn(t.shape, generator=generator).to(device, t.dtype) for k, t in drawn.items()}
        return lane, values.alpha

    def source(self, name: str) -> Rows:
        """What the frozen layers before the first trained one give for a part, from the cache; or its images.

        Args:
            name: ``train``, ``val`` or ``test``.
        """
        part: Part = getattr(self.task, name)
        if self.program.cut is None or self.program.cut.stem is None:
            return image_rows(part)
        stem, device = self.program.cut.stem, self.recipe.device
        judge = self.program.plain(on_device(self.task.model, device)) if name == "val" else None
        rows = self.features.rows(stem, part, self.feature_facts(name), judge and (lambda inputs: judge(*inputs)))
        return rows or ComputedRows(image_rows(part), lambda images: stem(images.to(device)))

    def feature_facts(self, name: str) -> Mapping[str, str]:
        """What tells a part's images from all others, as they enter the model."""
        preprocessing = fingerprint(self.task.description.get("preprocessing"))
        hashes = {key: self.task.hashes[key] for key in ("data", "split")}
        return {**hashes, "preprocessing": preprocessing, "part": name}

    def rows(self, name: str) -> Rows:
        """What lanes are fed with for a part: also the frozen product of the first trained layer is there once."""
        with self._lock:
            if name not in self._rows:
                self._rows[name] = self.program.rows(self.source(name), self.recipe.device)
            return self._rows[name]

    @cached_property
    def teacher(self) -> Teacher | None:
        """The uncompressed model, where the loss learns from it."""
        return Teacher(on_device(self.task.model, self.recipe.device)) if self.recipe.loss.needs_teacher else None

    def lessons(self, name: str) -> Rows:
        """``rows``, and as their last tensor the teacher's logits, where there is one."""
        if self.teacher is None:
            return self.rows(name)
        with self._lock:
            if name not in self._taught:
                part, device = getattr(self.task, name), self.recipe.device
                cache = None if self.recipe.compute.cache == "off" else self.features
                self._taught[name] = teacher_logits(self.teacher, part, device, cache, self.feature_facts(name))
            return beside(self.rows(name), self._taught[name])

    def release(self) -> None:
        """Let go of what is held of each part; it is had again from the cache when it is asked for."""
        with self._lock:
            self._rows.clear()
            self._taught.clear()

    def train_epoch(self, lanes: list[Lane], check: Callable[[], None] = lambda: None) -> None:
        """Train lanes of one pace for one epoch."""
        train_epoch(lanes, self.program, self.lessons("train"), self.lessons("val"), self.recipe, check)

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
        values = suggest(trial, self.search)
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
