"""A model cut into stages, and what they give beside the whole model."""

from collections.abc import Sequence

import torch
from random_lanes import Trial, alone, in_stacks, trials
from torch import Tensor, nn

from pipeline.adapt.methods.lora import Lora
from pipeline.train.cut.graph import Cut, cut


def cut_at(model: nn.Module, targets: Sequence[str], images: Tensor) -> Cut:
    trains = {"lora_A", "lora_B"}
    return cut(model, {name: Lora().layer(model.get_submodule(name), trains) for name in targets}, images)


def staged(stages: Cut, lanes: Sequence[Trial], images: Tensor) -> Tensor:
    """The logits of all lanes; no stage may change what it is given."""
    before = images.clone()
    given = (images,) if stages.stem is None else stages.stem(images)
    kept = [tensor.clone() for tensor in given]
    shared = stages.shared(*given)
    entering = [tensor.clone() for tensor in shared]
    logits = stages.tail(in_stacks(lanes), *shared)
    assert torch.equal(images, before)
    assert all(map(torch.equal, given, kept))
    assert all(map(torch.equal, shared, entering))
    return logits


@torch.no_grad()
def assert_exact(model: nn.Module, stages: Cut, targets: Sequence[str], images: Tensor) -> None:
    lanes = trials(model, targets)
    expected = torch.cat([alone(model, trial, images) for trial in lanes])
    atol = 1e-9 * float(expected.abs().max())
    torch.testing.assert_close(staged(stages, lanes, images), expected, rtol=1e-9, atol=atol)
    # The same calls with a model's own weights, from what the stem gives; it runs no trained layer.
    called: list[str] = []
    hooks = [model.get_submodule(name).register_forward_hook(lambda *_: called.append("trained")) for name in targets]
    given = (images,) if stages.stem is None else stages.stem(images)
    assert not called
    logits = stages.without_lanes(model)(*given)
    assert called
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(logits, model(images.clone()), rtol=1e-9, atol=atol)
