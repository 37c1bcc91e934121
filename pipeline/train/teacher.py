"""The teacher of distillation: the logits of the uncompressed model for every image of a part, computed once."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.task.contract import Part
from pipeline.train.cache.feature_cache import FeatureCache
from pipeline.train.rows import BATCH


class Teacher(nn.Module):
    """The uncompressed model as a stem, from images to a tuple of logits, so that a feature cache can hold them.

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
    """Logits ``[N, classes]``, mapped from the cache, or computed and held in memory without one.

    Args:
        teacher: The uncompressed model.
        part: The images.
        device: Device of the teacher and of the lanes; the returned logits are on a GPU if it is one.
        cache: The feature cache, which the combinations of a study share; ``None`` for none.
        facts: What distinguishes the part's images from others; part of the cache's key.
    """
    rows = cache and cache.rows(teacher, part, facts)
    if rows:
        (logits,) = rows.tensors
    else:
        logits = torch.cat([teacher(images.to(device))[0].cpu() for images, _ in part.batches(BATCH)])
    return logits if torch.device(device).type == "cpu" else logits.to(device)
