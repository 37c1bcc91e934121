"""Random lanes over any model, each lane alone, and a model whose calls a test gives."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pipeline.adapt.contract import Draw
from pipeline.adapt.inits.contract import Start
from pipeline.adapt.lanes import Lanes, attach
from pipeline.adapt.methods.lora import Lora
from pipeline.compress.contract import CompressedModel
from pipeline.compress.layers import copy_sharing_tensors, matrix_shape

Trial = tuple[dict[str, Tensor], float]


def uncompressed(model: nn.Module) -> CompressedModel:
    """A model as it is, none of whose layers is compressed."""
    return CompressedModel(model, {}, model)


def trials(model: nn.Module, targets: Sequence[str], ranks: Sequence[int] = (1, 1, 3)) -> list[Trial]:
    """Lanes of random factors, and their alphas."""
    lanes = []
    for alpha, rank in enumerate(ranks, start=1):
        starts = {}
        for name in targets:
            out, inner = matrix_shape(model.get_submodule(name))
            r = min(rank, out, inner)
            starts[name] = Start(torch.randn(r, inner).double() / inner**0.5, torch.randn(out, r).double())
        lanes.append((Lora().begin(uncompressed(model), starts, Draw(float(alpha))), float(alpha)))
    return lanes


def in_stacks(lanes: Sequence[Trial]) -> Lanes:
    """The first lanes as a stack, and the last one beside it."""
    stacks = [lanes[:-1], lanes[-1:]]
    return Lanes(
        [({k: torch.stack([p[k] for p, _ in stack]) for k in stack[0][0]}, [a for _, a in stack]) for stack in stacks]
    )


def alone(model: nn.Module, trial: Trial, images: Tensor) -> Tensor:
    """The logits of the whole model with one adapter."""
    copy = copy_sharing_tensors(model)
    attach(copy, Lora(), Lanes([({name: tensor[None] for name, tensor in trial[0].items()}, [trial[1]])]))
    return copy(images.clone())


class Calls(nn.Module):
    """A frozen layer ``a``, trained layers ``b`` and ``c``, and how they are called."""

    def __init__(self, calls: Callable[["Calls", Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.hidden = nn.Sequential(nn.Hardswish(inplace=True), nn.Identity())
        self.norm, self.drop = nn.LayerNorm(6), nn.Dropout(0.5)
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        return self.calls(self, x)


def aliased(m: Calls, x: Tensor) -> Tensor:
    """A second name stays with what is changed in place."""
    h = same = m.a(x)
    h += m.b(m.norm(h))
    return m.c(h * same)


def made(calls: Callable[[Calls, Tensor], Tensor]) -> tuple[Calls, Tensor]:
    return Calls(calls).double().eval(), torch.randn(3, 6, dtype=torch.float64)
