"""How lanes compute: by the stages of a cut model, or through the whole model, where it cannot be cut."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.adapt.contract import Adapter
from pipeline.adapt.lanes import Lanes, attach, each_lane, held_apart
from pipeline.compress.layers import shared_copy
from pipeline.errors import SpecError
from pipeline.train.cut.graph import Cut, cut
from pipeline.train.cut.head_cut import cut_head
from pipeline.train.cut.trace import CannotCutError
from pipeline.train.rows import HELD, ComputedRows, Inputs, Rows, TensorRows

Logits = Callable[..., Tensor]
"""From the tensors of some rows to logits ``[T * n, classes]``."""


@dataclass(frozen=True)
class Program:
    """How lanes compute.

    Args:
        model: The compressed model, on its device.
        adapter: What is trained.
        cut: Its stages, where it could be cut.
        why: Why it could not, in words.
        stacks: Whether several lanes may share a pass.
    """

    model: nn.Module
    adapter: Adapter
    cut: Cut | None
    why: str = ""
    stacks: bool = True

    def bind(self, lanes: Lanes, compiled: bool = False) -> Logits:
        """The function from the tensors of ``rows`` to logits, for some lanes."""
        if self.cut is not None:
            return functools.partial(self._compiled_tail if compiled else self.cut.tail, lanes)
        apart = held_apart(self.model, lanes)
        models = [self._with_lanes(own) for own in (lanes.each() if apart else [lanes])]
        if not apart:
            return lambda images: models[0](each_lane(images, lanes.count))
        return lambda images: torch.cat([model(each_lane(images, 1)) for model in models])

    def _with_lanes(self, lanes: Lanes) -> nn.Module:
        model = shared_copy(self.model)
        attach(model, self.adapter, lanes)
        return model

    @functools.cached_property
    def _compiled_tail(self) -> Any:
        return torch.compile(self.cut.tail, dynamic=True) if self.cut else None

    def inputs(self, images: Tensor) -> Inputs:
        """What ``bind`` is fed with, from images."""
        if self.cut is None:
            return (images,)
        given: Inputs = (images,) if self.cut.stem is None else self.cut.stem(images)
        shared: Inputs = self.cut.shared(*given)
        return shared

    def rows(self, source: Rows, device: str = "cpu", limit: int = HELD) -> Rows:
        """What ``bind`` is fed with, from what the stem gives (from images, where there is none).

        Args:
            source: What is given.
            device: Where it is held.
            limit: Bytes up to which it is.
        """
        rows = source
        if self.cut is not None:
            shared, like = self.cut.shared, next(self.model.parameters())
            rows = ComputedRows(source, lambda *inputs: shared(*(tensor.to(like) for tensor in inputs))).held(limit)
        on_a_gpu = torch.device(device).type != "cpu"
        return rows.to(device, limit) if on_a_gpu and isinstance(rows, TensorRows) else rows

    def begins_like(self, model: nn.Module) -> bool:
        """Whether a model's layers before the first trained one are these, so that ``plain`` may go on from there.

        Its tensors must have the same shapes as well: calls of a model that lost channels hold numbers of its own.
        """
        before, state = self.cut.state if self.cut is not None else {}, model.state_dict()
        shapes, own = (
            {name: tensor.shape for name, tensor in each.items()} for each in (state, self.model.state_dict())
        )
        return shapes == own and all(name in state and same(tensor, state[name]) for name, tensor in before.items())

    def plain(self, model: nn.Module) -> Logits:
        """A model of the same calls without lanes, from what the stem gives."""
        if self.cut is None:
            return model
        return self.cut.plain(model)


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers; those of one memory do."""
    return one.shape == other.shape and (one.data_ptr() == other.data_ptr() or torch.equal(one, other))


def whole(model: nn.Module, adapter: Adapter, why: str = "", *, stacks: bool = True) -> Program:
    """The program that takes every image through the whole model."""
    return Program(model, adapter, None, why, stacks)


Probe = tuple[Mapping[str, Tensor], float]
"""One lane: what it trains, and its alpha."""


def make_program(
    model: nn.Module, adapter: Adapter, probes: Sequence[Sequence[Probe]], images: Tensor, why_not: str = ""
) -> Program:
    """Cut a model where that is safe; whatever is returned gives the logits that every lane gives alone.

    Args:
        model: The compressed model, on its device.
        adapter: What is trained.
        probes: Stacks of like lanes with random parameters, to try it with.
        images: Three images or more, on the device.
        why_not: Why it is not to be cut, where it is not.

    Raises:
        SpecError: The model reads the weight of a trained layer itself.
    """
    lanes = Lanes([(_stacked([lane for lane, _ in stack]), [alpha for _, alpha in stack]) for stack in probes])
    alone = [
        whole(model, adapter).bind(Lanes([(_stacked([lane]), [alpha])])) for stack in probes for lane, alpha in stack
    ]
    try:
        with torch.no_grad():
            expected = torch.cat([logits(images) for logits in alone])
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, RuntimeError, TypeError) as error:
        raise SpecError(
            f"the model reads something of a trained layer itself, or calls it with other than one tensor, so adapter "
            f"'{adapter.name}' cannot stand there ({error}); it trains {', '.join(lanes.layers[:5])}: leave that layer "
            f"out, or choose another adapter"
        ) from error

    def agrees(program: Program) -> bool:
        with torch.no_grad():
            logits = program.bind(lanes)(*program.inputs(images))
        close = 1e-3 * float(expected.abs().max())
        return logits.shape == expected.shape and torch.allclose(logits, expected, rtol=1e-3, atol=close)

    if not lanes.layers:
        return whole(model, adapter, "nothing is trained")
    apart = held_apart(model, lanes)
    if apart:
        return whole(model, adapter, f"it trains '{apart[0]}', which no single layer holds")
    layers = {name: adapter.layer(model.get_submodule(name), lanes.of(name)[0].parameters) for name in lanes.layers}
    reasons = [why_not] if why_not else []
    for way in () if why_not else (cut, cut_head):
        try:
            program = Program(model, adapter, way(model, layers, images))
            if agrees(program):
                return program
            reasons.append("its cut form gives other outputs")
        except (CannotCutError, RuntimeError) as error:
            reasons.append(str(error).partition("\n")[0])
    why = reasons[0]
    try:
        return whole(model, adapter, why, stacks=agrees(whole(model, adapter)))
    except RuntimeError:
        return whole(model, adapter, why, stacks=False)


def _stacked(lanes: Collection[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    first = next(iter(lanes))
    return {name: torch.stack([lane[name] for lane in lanes]) for name in first}
