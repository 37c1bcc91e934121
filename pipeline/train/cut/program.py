"""How lanes compute their logits: with the stages of a cut model, or with the whole model if it cannot be cut."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.adapt.contract import Adapter
from pipeline.adapt.lanes import Lanes, attach, container_parameters, joined, repeat_for_lanes
from pipeline.compress.layers import copy_sharing_tensors
from pipeline.errors import SpecError
from pipeline.task.bare_model import tensor_state
from pipeline.train.cut.graph import Cut, cut, cut_head
from pipeline.train.cut.trace import CannotCutError
from pipeline.train.rows import HELD, ComputedRows, Inputs, Rows, TensorRows

Logits = Callable[..., Tensor]
"""From the tensors of ``n`` rows to logits ``[T * n, classes]``."""


@dataclass(frozen=True)
class Program:
    """How lanes of one compressed model compute."""

    model: nn.Module  # the compressed model, on its device
    adapter: Adapter
    cut: Cut | None = None  # the stages of the model; None if the whole model runs for every image
    why: str = ""  # why it cannot be cut, in words
    stacks: bool = True  # whether several lanes may share one forward pass

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
        groups = list(lanes.one_by_one()) if container_parameters(self.model, lanes) else [lanes]
        models = [copy_sharing_tensors(self.model) for _ in groups]
        for model, group in zip(models, groups, strict=True):
            attach(model, self.adapter, group)
        count = groups[0].count
        return lambda images: joined([model(repeat_for_lanes(images, count)) for model in models])

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
            shared, like = self.cut.shared, next(self.model.parameters())
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
    model: nn.Module, adapter: Adapter, probes: Sequence[Sequence[Probe]], images: Tensor, why_not: str = ""
) -> Program:
    """Cut a model, unless ``why_not`` says why not, if that changes no logits of lanes with random parameters.

    ``probes`` are stacks of such lanes of equal shapes; ``images [n, ...]``, three or more, are on the model's device.
    """
    stacks = []
    for stack in probes:
        parameters = {name: torch.stack([lane[name] for lane, _ in stack]) for name in stack[0][0]}
        stacks.append((parameters, [alpha for _, alpha in stack]))
    lanes, program_of = Lanes(stacks), functools.partial(Program, model, adapter)
    if not lanes.layers:
        return program_of(why="nothing is trained")
    alone = [program_of().bind(lane) for lane in lanes.one_by_one()]
    try:
        with torch.no_grad():
            expected = torch.cat([logits(images) for logits in alone])
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, RuntimeError, TypeError) as error:
        raise SpecError(
            f"the model reads a tensor of a trained layer directly, or calls the layer with other than one tensor, so "
            f"adapter '{adapter.name}' cannot replace it ({error}); it trains {', '.join(list(lanes.layers)[:5])}: "
            f"leave that layer out, or choose another adapter"
        ) from error

    def agrees(program: Program) -> bool:
        with torch.no_grad():
            logits = program.bind(lanes)(*program.inputs(images))
        close = 1e-3 * float(expected.abs().max())
        return logits.shape == expected.shape and torch.allclose(logits, expected, rtol=1e-3, atol=close)

    apart = container_parameters(model, lanes)
    if apart:
        return program_of(why=f"it trains '{apart[0]}', which belongs to no single layer")
    layers = {name: adapter.layer(model.get_submodule(name), of[0].parameters) for name, of in lanes.layers.items()}
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
        return program_of(why=reasons[0], stacks=agrees(program_of()))
    except RuntimeError:
        return program_of(why=reasons[0], stacks=False)
