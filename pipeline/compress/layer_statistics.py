"""Statistics of layers over images: moments of inputs, sensitivity to errors of outputs, batch norms, input vectors."""

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.compress.contract import LayerStats
from pipeline.compress.input_vectors import input_vectors
from pipeline.compress.layers import group_count, matrix_shape
from pipeline.compress.second_moment import SampledStats
from pipeline.errors import SpecError
from pipeline.task.contract import Part, first_images
from pipeline.task.inspection import Inspection, inspect
from pipeline.task.training_batches import batch_norms, refuse_single_images, training_batches

Inputs = tuple[Tensor, ...]
MOMENT_LIMIT = 2**30
"""Bytes up to which a layer's second moment is held as a matrix, 11,585 inputs in float64; above, as a sample."""
VECTORS = 4096
"""Input vectors in the sample of a wide layer; all of them, where each image gives one."""


@contextmanager
def _forward_hooks(
    model: nn.Module, names: Sequence[str], hook: Callable[[str, nn.Module, Inputs, Tensor], Tensor | None]
) -> Iterator[None]:
    """Call ``hook(name, layer, inputs, output)`` after each named layer; a tensor that it returns is the new output."""
    with ExitStack() as stack:
        for name in names:
            stack.callback(model.get_submodule(name).register_forward_hook(functools.partial(hook, name)).remove)
        yield


@torch.no_grad()
def gather_statistics(
    model: nn.Module, targets: Sequence[str], batches: Iterable[Tensor]
) -> dict[str, Sequence[LayerStats]]:
    """``C = E[x x^T]`` and ``E[x]`` of the inputs of each target over batches of images, per group of a convolution.

    A layer whose ``C`` would take more than ``MOMENT_LIMIT`` bytes gets that of ``VECTORS`` of its input vectors, drawn
    at random, each with the same chance; of all of them, if there are no more.
    """
    gathered = {name: _Sample() if is_wide(model.get_submodule(name)) else _Moment() for name in targets}

    def add(name: str, layer: nn.Module, inputs: Inputs, _: Tensor) -> None:
        gathered[name].add(input_vectors(layer, inputs[0]))

    with _forward_hooks(model, targets, add):
        for images in batches:
            model(images)
    return {name: one.stats() for name, one in gathered.items()}


class _Moment:
    """The sums of ``x x^T`` and ``x`` over input vectors, per group."""

    def __init__(self) -> None:
        self._sum, self._first, self._count = torch.zeros(()), torch.zeros(()), 0

    def add(self, x: Tensor) -> None:
        x = x.double()
        self._sum, self._first = self._sum.to(x.device) + x.mT @ x, self._first.to(x.device) + x.sum(1)
        self._count += x.shape[1]

    def stats(self) -> Sequence[LayerStats]:
        moments = zip(self._sum.cpu() / self._count, self._first.cpu() / self._count, strict=True)
        return [LayerStats(second, first) for second, first in moments]


class _Sample:
    """A uniform sample of input vectors: those with the lowest of random keys, one key per vector."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._keys, self._vectors = torch.empty(0), list[Tensor]()

    def add(self, x: Tensor) -> None:
        keys = torch.cat([self._keys, torch.rand(x.shape[1], generator=self._generator)])
        self._keys, kept = keys.topk(min(VECTORS, len(keys)), largest=False, sorted=False)
        kept = kept.sort().values
        self._keys = keys[kept]
        self._vectors = [torch.cat([*self._vectors, x.float().cpu()], 1)[:, kept]]

    def stats(self) -> Sequence[LayerStats]:
        return [SampledStats(group) for group in self._vectors[0]]


def is_wide(layer: nn.Module) -> bool:
    """Whether the second moment of a layer's inputs would take more than ``MOMENT_LIMIT`` bytes."""
    return 8 * matrix_shape(layer)[1] ** 2 > MOMENT_LIMIT


def statistics_bytes(layer: nn.Module, vectors: int) -> int:
    """Bytes that the statistics of a layer take while they are used; ``vectors`` is how many are gathered over.

    Moment and eigenvectors are ``2 in^2`` float64 values per group; decomposing them takes as many again. A sample
    takes its vectors, the two factors of its decomposition and their product, ``4 n in`` values.
    """
    inner = matrix_shape(layer)[1]
    values = 4 * min(vectors, VECTORS) * inner if is_wide(layer) else 4 * inner**2
    return 8 * group_count(layer) * values


def gather_sensitivity(
    model: nn.Module, targets: Sequence[str], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """``E ||g||^2 / (2 out)`` of each target layer, with ``g`` the gradient of an image's loss in the layer's outputs.

    It is half the mean diagonal of the empirical Fisher information. If the layer's outputs are off by ``d``, the
    cross-entropy grows by about ``sensitivity * E ||d||^2``, the mean over its output vectors ``[out]`` at all
    positions (Theis et al., 2018, arXiv:1801.05787). ``batches`` holds images and labels.
    """
    squares, image_count = dict.fromkeys(targets, 0.0), 0
    outputs: list[tuple[str, Tensor]] = []

    def record(name: str, layer: nn.Module, _: Inputs, output: Tensor) -> Tensor:
        outputs.append((name, output.requires_grad_()))
        return output.clone()  # later layers may change their input in place

    with _forward_hooks(model, targets, record), torch.enable_grad():
        for images, labels in batches:
            outputs.clear()
            loss = F.cross_entropy(model(images), labels, reduction="sum")  # a mean would scale each image's gradient
            gradients = torch.autograd.grad(loss, [output for _, output in outputs], materialize_grads=True)
            for (name, _), gradient in zip(outputs, gradients, strict=True):
                squares[name] += float(gradient.double().square().sum())
            image_count += len(labels)
    rows = {name: matrix_shape(model.get_submodule(name))[0] for name in targets}
    return {name: square / (2 * image_count * rows[name]) for name, square in squares.items()}


CALIBRATION_IMAGES = 2048
"""Training images that statistics are gathered from; the moments of most layers converge with fewer."""


CALIBRATION_BATCH = 32
"""Images per batch of statistics."""


def calibration(train: Part, count: int = CALIBRATION_IMAGES) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images and labels: always the same ``count`` images of the training part."""
    return train.batches(CALIBRATION_BATCH, _calibration_images(train, count))


def _calibration_images(train: Part, count: int = CALIBRATION_IMAGES) -> Tensor:
    return torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:count]


class Statistics:
    """An uncompressed model with its inspection and the statistics of its layers, each gathered when first needed."""

    def __init__(self, model: nn.Module, train: Part) -> None:
        self.model, self._train = model, train
        self._moments: dict[str, Sequence[LayerStats]] = {}
        self._sensitivity: dict[str, float] = {}
        self._lock = threading.Lock()

    @functools.cached_property
    def inspection(self) -> Inspection:
        """What running the model on the first training images shows."""
        return inspect(self.model, first_images(self._train))

    def of(self, targets: Sequence[str]) -> Mapping[str, Sequence[LayerStats]]:
        """Second moments of the inputs of each target (``gather_statistics``)."""
        with self._lock:
            missing = [name for name in targets if name not in self._moments]
            if missing:
                images = (images for images, _ in calibration(self._train))
                self._moments |= gather_statistics(self.model, missing, images)
            return {name: self._moments[name] for name in targets}

    def sensitivity(self, targets: Sequence[str]) -> Mapping[str, float]:
        """How much the loss grows with the error of each target's outputs (``gather_sensitivity``)."""
        with self._lock:
            missing = [name for name in targets if name not in self._sensitivity]
            if missing:
                self._sensitivity |= gather_sensitivity(self.model, missing, calibration(self._train))
            return {name: self._sensitivity[name] for name in targets}


def refuse_reestimation(model: nn.Module, train: Part) -> None:
    """Refuse ``batch_norm = "reestimated"`` for a model without batch norm, or for one training image."""
    if not batch_norms(model):
        raise SpecError('batch_norm = "reestimated", but the model has no batch norm; leave it "kept"')
    refuse_single_images(model, len(train), CALIBRATION_BATCH, 'the batch size for batch_norm = "reestimated"')


@torch.no_grad()
def reestimate(model: nn.Module, train: Part, device: str | torch.device = "cpu") -> None:
    """Set the running mean and variance of every batch norm to those of its inputs over training images, in place.

    Each batch is normalised with its own statistics, as in training; the running statistics become the mean over all
    batches. The buffers are replaced by new ones, because another model may share them. The images are those of
    ``calibration``; ``device`` is the model's.
    """
    momenta = {norm: norm.momentum for norm in batch_norms(model)}
    for norm in momenta:
        for name, buffer in list(norm.named_buffers(recurse=False)):
            norm.register_buffer(name, buffer.clone())
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches, each with equal weight
        norm.train()
    for images, _ in training_batches(train, CALIBRATION_BATCH, _calibration_images(train)):
        model(images.to(device))
    for norm, momentum in momenta.items():
        norm.momentum = momentum
        norm.eval()
