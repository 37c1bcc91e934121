"""Caches of the features of tiny stems: how one is made, found, or stopped while it is built."""

from pathlib import Path

import pytest
import torch
from stopping import CheckedBy, StopAfter
from tiny_stems import BATCH, FACTS, built, make_part, make_stem
from torch import Tensor, nn

from pipeline.guard import StopTraining
from pipeline.task.parts import TensorPart
from pipeline.train.cache.feature_cache import FeatureCache
from pipeline.train.rows import TensorRows

ROW = (4 * 6 * 6 + 4) * 4
"""Bytes of an image's features in float32."""


def folders(features: FeatureCache) -> list[Path]:
    return sorted(path for path in features.folder.iterdir() if path.is_dir())


def never() -> None:
    raise AssertionError("a batch is computed")


def found(features: FeatureCache, stem: nn.Module) -> TensorRows | None:
    """The rows of a cache that has to be there already."""
    with CheckedBy(never):
        return features.rows(stem, make_part(), FACTS)


def stop_after(features: FeatureCache, batches: int, part: TensorPart | None = None, **settings: object) -> None:
    """A build that is stopped before its batch ``batches + 1``."""
    stem = make_stem()
    with pytest.raises(StopTraining), StopAfter(batches):
        features.rows(stem, part or make_part(), FACTS, **settings)
    assert built(stem) == batches * BATCH


def rounded_away(inputs: tuple[Tensor, ...]) -> Tensor:
    """Logits that tell whether a number was rounded: class 1 for what bfloat16 makes smaller."""
    return torch.stack([inputs[1][:, 0].bfloat16().float(), inputs[1][:, 0]], 1)
