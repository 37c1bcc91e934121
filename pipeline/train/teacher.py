"""The teacher: what the uncompressed model says of every image of a part, computed once."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.task.contract import Part
from pipeline.train.cache.feature_cache import FeatureCache
from pipeline.train.rows import BATCH


class Teacher(nn.Module):
    """From images to logits, as a stem that a cache can hold.

    Args:
        model: The uncompressed model, on the device where it computes.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.code = f"logits of {type(model).__qualname__}"

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.model(images),)


@torch.no_grad()
def teacher_logits(
    teacher: Teacher, part: Part, device: str, cache: FeatureCache | None, facts: Mapping[str, str]
) -> Tensor:
    """Logits ``[N, classes]``: mapped from the cache, or computed now and held where there is none.

    Args:
        teacher: The uncompressed model.
        part: The images.
        device: Where the teacher computes, and where lanes are trained: on a GPU the logits lie there.
        cache: Where they are kept; several combinations of a study share them.
        facts: What tells the part's images from others.
    """
    rows = cache and cache.rows(teacher, part, facts)
    if rows:
        (logits,) = rows.tensors
    else:
        logits = torch.cat([teacher(images.to(device))[0].cpu() for images, _ in part.batches(BATCH)])
    return logits if torch.device(device).type == "cpu" else logits.to(device)
