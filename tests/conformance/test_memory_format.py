from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from compressed_cases import compressed, model_case, reference_stats
from methods import label, resnet, starts_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.adapt.contract import Adapter, Draw
from pipeline.adapt.inits.residual_svd import ResidualSvd
from pipeline.compress.methods.int1 import Int1
from pipeline.config.registry import ADAPTERS
from pipeline.config.spec import ComputeSpec
from pipeline.train.cut.program import make_program
from pipeline.train.lane import Lane
from pipeline.train.loop import Recipe, train_epoch
from pipeline.train.optimizers.adam import Adam
from pipeline.train.rows import image_rows

TRAINING_CONVOLUTIONS = [method() for method in ADAPTERS if method().name not in ("head", "tou")]
"""The head's trunk is computed before an epoch, and TOU is for the feed-forward layers of transformers."""


class WatchedConvolutions(TorchDispatchMode):
    """Collects whether the images of each convolution, forward and backward, are in channels-last order."""

    def __init__(self) -> None:
        super().__init__()
        self.channels_last: list[bool] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default):
            images: Tensor = args[0]
            self.channels_last.append(images.is_contiguous(memory_format=torch.channels_last))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("adapter", TRAINING_CONVOLUTIONS, ids=label)
def test_all_convolutions_of_a_lone_lane_compute_in_channels_last_order_where_asked(adapter: Adapter):
    case = model_case(resnet)
    small, starts = compressed(case, Int1()), {}
    if adapter.low_rank:
        starts = starts_of(ResidualSvd(), Int1(), small, reference_stats(case, Int1()), 4)
    begun = adapter.begin(small, starts, Draw(4.0))
    lane = Lane(begun, 4.0, Adam(), 1e-3, 4, 0, frozen=frozenset(filter(adapter.is_frozen, begun)))
    program = make_program(small, adapter, [[(lane.parameters, lane.alpha)]], case.part.images)
    rows = program.rows(image_rows(case.part)) if program.cut is None or program.cut.stem is None else None
    assert rows is not None, "the whole model is trained"
    with WatchedConvolutions() as watched:
        train_epoch([lane], program, rows, rows, Recipe(epochs=1, compute=ComputeSpec(channels_last=True)))
    assert lane.failure is None
    assert len(watched.channels_last) > 20
    assert all(watched.channels_last)
