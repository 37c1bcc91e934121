"""Statistics of layers behind the compressed ones: each layer's inputs are those that the compressed prefix gives.

Legend: ``x [in]`` an input of the layer in the partly compressed model, ``y [in]`` the same input in the uncompressed
one. Where earlier layers have errors, the weight that keeps the uncompressed outputs is no longer ``W``: ``E ||W y - V
x||^2`` is least for ``V = W E[y x^T] E[x x^T]^-1`` (``PrefixStats.target``).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.compress.contract import LayerStats
from pipeline.compress.input_vectors import some_input_vectors
from pipeline.compress.layer_statistics import VECTORS, is_wide
from pipeline.compress.layers import matrix_shape
from pipeline.compress.model_stats import LayerByLayer
from pipeline.compress.second_moment import SampledStats
from pipeline.errors import SpecError

LEAST_DAMPING = 0.01
"""The least ridge of a target, in units of the mean of ``diag C``: it keeps the target near ``W``."""
LEAST_VECTORS = 2**17
"""Input vectors from which a moment is gathered, or 64 for each input where that is more; fewer, if there are fewer."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PrefixStats(LayerStats):
    """Moments of a layer's inputs in a partly compressed model, and with those in the uncompressed one."""

    cross: Tensor  # E[y x^T], float64 [in, in]
    reference: Tensor  # E[y], float64 [in]

    @property
    def reference_mean(self) -> Tensor:
        return self.reference

    def centred(self) -> LayerStats:
        moment, cross = self.second_moment - self.mean.outer(self.mean), self.cross - self.reference.outer(self.mean)
        zeros = torch.zeros_like(self.mean)
        return replace(self, second_moment=moment, cross=cross, first_moment=zeros, reference=zeros)

    def target(self, weight: Tensor) -> Tensor:
        """``W + W (E[y x^T] - E[x x^T]) D^-1``, the weight of the least output error, damped towards ``W``."""
        D = self.with_ridge(LEAST_DAMPING).damped()
        change = torch.cholesky_solve((self.cross - self.second_moment).T @ weight.double().T, torch.linalg.cholesky(D))
        return (weight.double() + change.T).to(weight.dtype)


class Start(NamedTuple):
    """Where passes begin: behind the layers that compression leaves as they are, or with the images."""

    batches: Sequence[tuple[Tensor, ...]]
    """Batches of what passes begin with."""
    forward: Callable[[nn.Module], Callable[..., Tensor]]
    """From a model, which may be compressed, to its function of a batch; the function calls the model's own layers."""


class PrefixStatistics(LayerByLayer):
    """Statistics that are gathered when a layer is asked for, on the model that is being compressed.

    Args:
        reference: The uncompressed model.
        targets: The layers that will be asked for.
        start: Gives the start of all passes, and is called when the first is needed.
        compressed: The partly compressed model; at first nothing is compressed.
    """

    def __init__(
        self,
        reference: nn.Module,
        targets: Sequence[str],
        start: Callable[[], Start],
        compressed: nn.Module | None = None,
    ) -> None:
        self._reference, self._targets, self._make_start = reference, targets, start
        self._compressed = reference if compressed is None else compressed
        self._gathered: dict[str, Sequence[LayerStats]] = {}

    def behind(self, compressed: nn.Module) -> "PrefixStatistics":
        return PrefixStatistics(self._reference, self._targets, self._make_start, compressed)

    @cached_property
    def _start(self) -> Start:
        return self._make_start()

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    def order(self) -> list[str]:
        return [name for stage in self._stages for name in stage]

    @cached_property
    def _calls(self) -> dict[str, list[tuple[int, int]]]:
        """The inputs of all calls of each target, in the order of the first calls; equal pairs are one input."""
        calls: dict[str, list[tuple[int, int]]] = {}
        inputs = list[Tensor]()  # kept, so that no other tensor gets the identity of one

        def note(name: str, x: Tensor) -> None:
            inputs.append(x)
            calls.setdefault(name, []).append((id(x), x._version))

        first = tuple(tensor[:1] for tensor in self._start.batches[0])
        self._run(self._reference, dict.fromkeys(self._targets, note), first)
        return calls

    @cached_property
    def _stages(self) -> list[list[str]]:
        """The targets in the order of their first calls; those whose calls have the same inputs are together."""
        stages: dict[tuple[tuple[int, int], ...], list[str]] = {}
        for name, inputs in self._calls.items():
            stages.setdefault(tuple(inputs), []).append(name)
        return [*stages.values(), *([name] for name in self._targets if name not in self._calls)]

    def __getitem__(self, name: str) -> Sequence[LayerStats]:
        if name not in self._gathered:
            stage = next(stage for stage in self._stages if name in stage)
            self._gathered = self._gather(stage)
        return self._gathered[name]

    @torch.no_grad()
    def _gather(self, stage: Sequence[str]) -> dict[str, Sequence[LayerStats]]:
        layers, batches = {name: self._reference.get_submodule(name) for name in stage}, self._start.batches
        sums = {name: _Sums(layer, len(batches)) for name, layer in layers.items()}
        for index, batch in enumerate(batches):
            xs, ys = (self._inputs_of(model, stage[0], batch) for model in (self._compressed, self._reference))
            whole = sum(x.numel() for x in xs)
            for name, layer in layers.items():
                for x, y in zip(xs, ys, strict=True):
                    most = -(-sums[name].per_batch * x.numel() // whole)  # all vectors count the same, of each call
                    sums[name].add(*(some_input_vectors(layer, each, most, index) for each in (x, y)))
        return {name: one.stats() for name, one in sums.items()}

    def _inputs_of(self, model: nn.Module, name: str, batch: tuple[Tensor, ...]) -> list[Tensor]:
        """The inputs of all calls of a layer, which is not compressed yet; nothing behind the last is computed."""
        found, count = list[Tensor](), len(self._calls.get(name, ()))

        def reach(_: str, x: Tensor) -> None:
            found.append(x if count == 1 else x.clone())  # what comes next may change it in place
            if len(found) == count:
                raise _ReachedError

        try:
            self._run(model, {name: reach}, batch)
        except _ReachedError:
            return found
        raise SpecError(
            f"prefix pairs the inputs of layer '{name}' with those in the uncompressed model, but the model calls it "
            f"{count} times for the first image, and {len(found)} times for others; leave prefix out"
        )

    def _run(
        self, model: nn.Module, hooks: dict[str, Callable[[str, Tensor], None]], batch: tuple[Tensor, ...]
    ) -> None:
        """Run a model, and call ``hook(name, x)`` before each call of a layer with its input ``x``."""
        with ExitStack() as stack, torch.no_grad():
            for name, hook in hooks.items():
                call = lambda _, inputs, name=name, hook=hook: hook(name, inputs[0])  # noqa: E731
                stack.callback(model.get_submodule(name).register_forward_pre_hook(call).remove)
            self._start.forward(model)(*batch)


def from_images(batches: Sequence[Tensor]) -> Callable[[], Start]:
    """The start of passes over the whole model."""
    return lambda: Start([(images,) for images in batches], lambda model: model)


class _Sums:
    """Sums over pairs of input vectors, per group; of wide layers a sample of the compressed model's."""

    def __init__(self, layer: nn.Module, batches: int) -> None:
        inner = matrix_shape(layer)[1]
        self._wide, self._count = is_wide(layer), 0
        self.per_batch = -(-(VECTORS if self._wide else max(LEAST_VECTORS, 64 * inner)) // batches)
        self._second = self._cross = self._first = self._reference = torch.zeros((), dtype=torch.float64)
        self._vectors = list[Tensor]()

    def add(self, x: Tensor, y: Tensor) -> None:
        if self._wide:
            self._vectors.append(x.float())
            return
        self._count += x.shape[1]
        # Products of a batch in the inputs' own type, sums of batches in float64: half the time, and exact enough.
        self._second, self._cross = self._second + (x.mT @ x).double(), self._cross + (y.mT @ x).double()
        self._first, self._reference = self._first + x.double().sum(1), self._reference + y.double().sum(1)

    def stats(self) -> Sequence[LayerStats]:
        if self._wide:
            return [SampledStats(group) for group in torch.cat(self._vectors, 1)]
        sums = (self._second, self._first, self._cross, self._reference)
        return [
            PrefixStats(second, first, cross=cross, reference=reference)
            for second, first, cross, reference in zip(*(one.cpu() / self._count for one in sums), strict=True)
        ]


class _ReachedError(Exception):
    """A pass has come to the layer whose inputs are wanted."""
