"""How lanes compute their logits: with the stages of a cut model, or with the whole model if it cannot be cut."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.adapt.contract import Adapter
from pipeline.adapt.lanes import Lanes, attach, container_parameters, joined, repeat_for_lanes
from pipeline.compress.contract import CompressedModel
from pipeline.compress.layers import copy_sharing_tensors, real_parameter
from pipeline.errors import SpecError
from pipeline.task.bare_model import tensor_state
from pipeline.train.block_outputs import BlockOutputs
from pipeline.train.cut.graph import Cut, cut, cut_head
from pipeline.train.cut.trace import CannotCutError, models_code
from pipeline.train.rows import HELD, ComputedRows, Inputs, Rows, TensorRows
from pipeline.wording import few

logger = logging.getLogger(__name__)

Logits = Callable[..., Tensor]
"""From the tensors of ``n`` rows to logits ``[T * n, classes]``."""


@dataclass(frozen=True)
class Program:
    """How lanes of one compressed model compute."""

    compressed: CompressedModel  # on its device
    adapter: Adapter
    cut: Cut | None = None  # the stages of the model; None if the whole model runs for every image
    why: str = ""  # why it cannot be cut, in words
    stacks: bool = True  # whether several lanes may share one forward pass

    def rounded(self, parameters: Mapping[str, Tensor], lanes: int = 0) -> Mapping[str, Tensor]:
        """Trained tensors as an exported file gives them back; see ``Adapter.rounded``."""
        return self.adapter.rounded(parameters, self.compressed.storage, lanes)

    @property
    def model(self) -> nn.Module:
        """The compressed model."""
        return self.compressed.model

    def cut_in_words(self) -> str:
        """Where the model is cut into frozen and trained layers, or why it is not, in words."""
        if not self.adapter.trains:
            return "nothing is trained, so the compressed model is judged once"
        if self.cut is None:
            alone = "" if self.stacks else ", and trials are trained one at a time, because lanes of a cohort would mix"
            return f"every image takes the whole model in every epoch: {self.why}{alone}"
        if self.cut.stem is None:
            return "no frozen layer comes before the first trained one, so nothing is cached on disk"
        return f"frozen layers run once, their outputs ({', '.join(self.cut.names)}) are cached on disk"

    def bind(self, lanes: Lanes, compiled: bool = False) -> Logits:
        """The function from the tensors of ``rows`` to the logits of some lanes."""
        if self.cut is not None:
            return functools.partial(self._compiled_tail if compiled else self.cut.tail, lanes)
        models, count = self._with_lanes(lanes)
        return lambda images: joined([model(repeat_for_lanes(images, count)) for model in models])

    def bind_blocks(self, lanes: Lanes, names: Sequence[str]) -> Callable[..., Inputs]:
        """As ``bind`` for a model without a cut: to the logits, and the outputs ``[T * n, ...]`` of some modules."""
        models, count = self._with_lanes(lanes)
        watched = [BlockOutputs(model, names) for model in models]

        def outputs(images: Tensor) -> Inputs:
            of_each = [block_outputs(repeat_for_lanes(images, count)) for block_outputs in watched]
            return tuple(joined(list(parts)) for parts in zip(*of_each, strict=True))

        return outputs

    def _with_lanes(self, lanes: Lanes) -> tuple[list[nn.Module], int]:
        """Whole models with the lanes' adapters, and how many lanes each has: all of them, or one for each lane."""
        groups = list(lanes.one_by_one()) if container_parameters(self.model, lanes) else [lanes]
        models = [copy_sharing_tensors(self.model) for _ in groups]
        for model, group in zip(models, groups, strict=True):
            attach(model, self.adapter, group, self.compressed.weights)
        return models, groups[0].count

    @functools.cached_property
    def _compiled_tail(self) -> Any:
        return torch.compile(self.cut.tail, dynamic=True) if self.cut else None

    def inputs(self, images: Tensor) -> Inputs:
        """The inputs of a bound function, from images ``[n, ...]``."""
        if self.cut is None:
            return (images,)
        features: Inputs = (images,) if self.cut.stem is None else self.cut.stem(images)
        shared: Inputs = self.cut.shared(*features)
        return shared

    def rows(self, source: Rows, device: str = "cpu", limit: int = HELD) -> Rows:
        """The inputs of a bound function, from rows of the stem's features, or of the images if there is no stem.

        Inputs of at most ``limit`` bytes are held in memory, larger ones are computed per batch.
        """
        rows = source
        if self.cut is not None:
            shared, like = self.cut.shared, real_parameter(self.model)
            rows = ComputedRows(source, lambda *inputs: shared(*(tensor.to(like) for tensor in inputs))).held(limit)
        on_gpu = torch.device(device).type != "cpu"
        return rows.to(device, limit) if on_gpu and isinstance(rows, TensorRows) else rows

    def shares_stem(self, model: nn.Module) -> bool:
        """Whether another model has this stem, so that ``without_lanes`` may compute it from the same features.

        All shapes must agree too: the traced calls of a model that lost channels contain its sizes.
        """
        stem = self.cut.state if self.cut is not None else {}
        state, mine = tensor_state(model), tensor_state(self.model)
        theirs, ours = ({name: tensor.shape for name, tensor in tensors.items()} for tensors in (state, mine))
        if theirs != ours or not stem.keys() <= state.keys():
            return False
        pairs = [(tensor, state[name]) for name, tensor in stem.items()]  # those of one memory need no comparison
        return all(one.data_ptr() == other.data_ptr() or torch.equal(one, other) for one, other in pairs)

    def without_lanes(self, model: nn.Module) -> Logits:
        """The function from the stem's features to the logits of a model with the same calls and no lanes."""
        return model if self.cut is None else self.cut.without_lanes(model)


Probe = tuple[Mapping[str, Tensor], float]
"""One lane: its trained parameters by name, and its alpha."""


def make_program(
    compressed: CompressedModel, adapter: Adapter, probes: Sequence[Sequence[Probe]], images: Tensor, why_not: str = ""
) -> Program:
    """Cut a model, unless ``why_not`` says why not, if that changes no logits of lanes with random parameters.

    ``probes`` are stacks of such lanes of equal shapes; ``images [n, ...]``, three or more, are on the model's device.

    Raises:
        SpecError: The model reads the weights of a trained layer itself, or no gradient reaches what is trained.
    """
    stacks = []
    for stack in probes:
        parameters = {name: torch.stack([lane[name] for lane, _ in stack]) for name in stack[0][0]}
        stacks.append((parameters, [alpha for _, alpha in stack]))
    if not stacks[0][0]:
        return Program(compressed, adapter, why="nothing is trained")
    program = _verified(compressed, adapter, Lanes(stacks), images, why_not)
    lane = {name: tensor[:1].clone() for name, tensor in stacks[0][0].items()}
    _require_gradients(program, Lanes([(lane, stacks[0][1][:1])]), images)
    return program


def _require_gradients(program: Program, lane: Lanes, images: Tensor) -> None:
    """Refuse a model that lets no gradient reach the trained tensors of a lane; layers that none reaches are logged."""
    name = program.adapter.name
    trained = {
        f"{layer}.{key}": tensor.requires_grad_()
        for layer, (stack,) in lane.layers.items()
        for key, tensor in stack.parameters.items()
        if tensor.is_floating_point() and not program.adapter.is_frozen(f"{layer}.{key}")
    }
    inputs, found = program.inputs(images), list[Tensor | None]()
    try:
        with torch.enable_grad():
            total = program.bind(lane)(*inputs).sum()
            if total.requires_grad:
                found += torch.autograd.grad(total, list(trained.values()), allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise SpecError(
            f"the gradients of what adapter '{name}' trains cannot be computed: {error}; mend the model's forward, or "
            f"choose other targets"
        ) from error
    layers = {key: key.rpartition(".")[0] for key in trained}
    reached = {layers[key] for key, gradient in zip(trained, found, strict=False) if gradient is not None}
    unreached = [layer for layer in dict.fromkeys(layers.values()) if layer not in reached]
    if not reached:
        raise SpecError(
            f"no gradient reaches what adapter '{name}' trains in {few(unreached)}: the model computes it without "
            f"gradients (torch.no_grad, inference_mode, detach); let it compute with them, or choose other targets"
        )
    if unreached:
        logger.info(f"no gradient reaches {few(unreached)}: what adapter '{name}' adds there stays as it starts")


def _verified(compressed: CompressedModel, adapter: Adapter, lanes: Lanes, images: Tensor, why_not: str) -> Program:
    """The program whose logits of these lanes are those of the whole model with one lane at a time."""
    program_of, model = functools.partial(Program, compressed, adapter), compressed.model
    alone = [program_of().bind(lane) for lane in lanes.one_by_one()]
    try:
        with torch.no_grad():
            expected = torch.cat([logits(images) for logits in alone])
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # nothing narrower: the code of models raises errors of its own
        raise SpecError(
            f"the model reads the weight of a trained layer itself, or calls the layer with other than one tensor, so "
            f"adapter '{adapter.name}' cannot train it ({type(error).__name__}: {error}); it trains "
            f"{few(list(lanes.layers))}: leave that layer out of the targets, or choose another adapter"
        ) from error
    if not expected.isfinite().all():
        return program_of(why="the logits of random adapters are not finite, so no cut can be verified", stacks=False)

    def agrees(program: Program) -> bool:
        with torch.no_grad():
            logits = program.bind(lanes)(*program.inputs(images))
        close = 1e-3 * float(expected.abs().max())
        return logits.shape == expected.shape and torch.allclose(logits, expected, rtol=1e-3, atol=close)

    apart = container_parameters(model, lanes)
    if apart:
        return program_of(why=f"it trains '{apart[0]}', which belongs to no single layer")
    layers = {
        name: adapter.layer(model.get_submodule(name), stacks[0].parameters, compressed.weights.get(name))
        for name, stacks in lanes.layers.items()
    }
    reasons = [why_not] if why_not else []
    for make_cut in () if why_not else (cut, cut_head):
        try:
            program = program_of(cut=make_cut(model, layers, images))
            if agrees(program):
                return program
            reasons.append("its stages give other outputs")
        except (CannotCutError, RuntimeError) as error:
            reasons.append(str(error).partition("\n")[0])
    try:
        with models_code("lanes of a cohort cannot share a pass"):
            return program_of(why=reasons[0], stacks=agrees(program_of()))
    except CannotCutError:
        return program_of(why=reasons[0], stacks=False)
