"""Batch norms whose running statistics are each lane's own, and follow its batches while it trains."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.adapt.lanes import LaneLayer, Stack, joined, repeat_for_lanes, split_by_stack

STATISTICS = ("running_mean", "running_var")
"""Names of a batch norm's statistics, which are tensors of a lane without gradients."""
MOMENTUM = 0.1
"""Share of a batch in the statistics of a norm whose own is None: lanes do not count batches, as a plain mean would."""


def running_statistics(module: nn.Module) -> dict[str, Tensor]:
    """The running statistics ``[channels]`` of a batch norm by name, on the CPU; empty for another module."""
    if not isinstance(module, _BatchNorm) or not module.track_running_stats:
        return {}
    return {name: module._buffers[name].cpu() for name in STATISTICS if module._buffers[name] is not None}  # type: ignore[union-attr]


class BatchNormLayer(LaneLayer):
    """A batch norm that is in train mode where gradients are computed, and in eval mode where a lane is judged.

    In train mode each lane normalises by its own images of the batch, and its running statistics follow, in place. A
    batch with a single value per channel has no variance and is normalised by the running statistics.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__(nn.Identity())  # no part of the output is the same in all trials
        self._base = base

    def forward(self, x: Tensor, y: Tensor | None, stacks: Sequence[Stack]) -> Tensor:
        x = x if y is None else repeat_for_lanes(x, sum(map(len, stacks)))
        outputs = []
        for stack, part in zip(stacks, split_by_stack(x, stacks), strict=True):
            of_lanes = [part] if len(stack) == 1 else part.chunk(len(stack))  # the gradient of a chunk is a copy
            for lane, images in enumerate(of_lanes):
                own = {name: tensor[lane] for name, tensor in stack.parameters.items()}
                outputs.append(self._of_lane(own, images)(images))
        return joined(outputs)

    def _of_lane(self, tensors: Mapping[str, Tensor], images: Tensor) -> nn.Module:
        """The module with a lane's tensors; a copy, because threads share the module."""
        module = copy.copy(self._base)
        buffers = {name: tensors[name] for name in STATISTICS}
        module.__dict__["_parameters"] = {
            **module._parameters,
            **{k: t for k, t in tensors.items() if k not in buffers},
        }
        module.__dict__["_buffers"] = {**module._buffers, **buffers, "num_batches_tracked": None}
        module.momentum = MOMENTUM if module.momentum is None else module.momentum
        module.training = torch.is_grad_enabled() and images.numel() > images.shape[1]
        return module
