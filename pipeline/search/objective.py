"""One combination as a plain Optuna objective: values in, validation accuracy out."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import torch
from torch import nn

from pipeline.adapt.contract import Adapter, Init, Start, adapter_parameters, clipped_rank
from pipeline.compress.contract import CompressedModel, Compression
from pipeline.compress.layers import (
    find_targets,
    layer_names,
    matrix_shape,
    naming,
    on_device,
    shared_copy,
    weight_matrix,
)
from pipeline.compress.size import ModelSize, model_macs, model_size
from pipeline.compress.stats import Statistics, output_positions
from pipeline.environment import peak_memory, versions
from pipeline.errors import SpecError
from pipeline.search.space import Values, suggest
from pipeline.seeds import derive
from pipeline.spec import CombinationSpec, SearchSpec, load_spec
from pipeline.task import Task, prepare
from pipeline.train.cohort import Lane, Recipe, train_epoch


@dataclass(frozen=True)
class Facts:
    """What is known of a rank before it is trained."""

    size: ModelSize
    macs: int
    dense_macs: int
    trainable: int
    ranks: dict[str, int]
    """The rank of each target layer, clipped to what the layer can take."""


class Objective:
    """Trains one trial of a combination; ``study.optimize(Objective(...), n_trials=20)`` works as any objective does.

    The trial is asked for ``rank``, ``init``, ``alpha``, ``optimizer``, ``lr`` and ``batch_size``; validation accuracy
    is reported after every epoch, and the best of them returned: use ``direction="maximize"``. A pruned trial raises
    ``TrialPruned``. A loss that is not finite gives NaN, which Optuna records as FAIL, the reason in ``reason``.

    Args:
        task: Model, data and baseline.
        combination: What compresses, what adapts, and which layers.
        search: Ranks, inits and ranges.
        seed: Of all that is drawn; the same seed and values give the same trial.
        device: Where it trains.
        statistics: Layer statistics to share between combinations of one task.

    Raises:
        SpecError: A target pattern matches nothing, or a rank is above what every target can take.
    """

    def __init__(
        self,
        task: Task,
        combination: CombinationSpec,
        search: SearchSpec,
        *,
        seed: int = 0,
        device: str = "cpu",
        statistics: Statistics | None = None,
    ) -> None:
        self.task, self.combination, self.search, self.seed = task, combination, search, seed
        self.adapter: Adapter = combination.adapter
        self.inits: dict[str, Init] = {init.name: init for init in search.inits}
        self.recipe = Recipe(search.epochs, search.schedule, device)
        self.targets = find_targets(task.model, combination.targets)
        self.statistics = statistics or Statistics(task.model, task.train)
        self._facts: dict[int, Facts] = {}
        self._starts: dict[str, dict[str, Start]] = {}
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
        return cls(prepare(spec.task, device=device), chosen, spec.search, seed=spec.seed, device=device)

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

    def lanes_agree(self) -> bool:
        """Whether two lanes in one pass give what each gives alone; not where a model's batch is not its first axis."""
        images, _ = next(iter(self.task.val.batches(2)))
        values = Values(
            self.search.ranks[0], self.search.inits[0].name, self.search.alpha.low, "sgd", 1.0, len(images)
        )  # fmt: skip
        generator = torch.Generator().manual_seed(0)
        drawn = self.lane(values).parameters
        lanes = [{k: torch.randn(t.shape, generator=generator) for k, t in drawn.items()} for _ in range(2)]
        model = shared_copy(self.compressed.model)
        device, alpha = self.recipe.device, values.alpha
        self.adapter.attach(model, {k: torch.stack([lane[k] for lane in lanes]).to(device) for k in drawn}, [alpha] * 2)
        with torch.no_grad():
            together = model(images.repeat(2, *[1] * (images.ndim - 1)).to(device))
            alone = torch.cat([self.adapted(lane, alpha)(images.to(device)) for lane in lanes])
        return torch.allclose(together, alone, rtol=1e-3, atol=1e-3 * float(alone.abs().max()))

    def train_epoch(self, lanes: list[Lane], check: Callable[[], None] = lambda: None) -> None:
        """Train like lanes for one epoch."""
        train_epoch(lanes, self.compressed.model, self.adapter, self.task.train, self.task.val, self.recipe, check)

    def adapted(self, lane_parameters: dict[str, torch.Tensor], alpha: float) -> nn.Module:
        """The compressed model with one lane's adapter."""
        model = shared_copy(self.compressed.model)
        stacked = {name: tensor[None].to(self.recipe.device) for name, tensor in lane_parameters.items()}
        self.adapter.attach(model, stacked, [alpha])
        return model.requires_grad_(False)

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
