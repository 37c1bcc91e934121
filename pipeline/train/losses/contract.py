"""What a loss is: one number a lane, the same for all lanes of a study.

Legend: ``T`` lanes, ``n`` images of a batch, ``C`` classes.
"""

from abc import abstractmethod

from torch import Tensor
from torch.nn import functional as F

from pipeline.config.registry import Method

FEW_CLASSES = 64
"""Up to so many, a softmax runs along the images, eight times as quick: 38 against 307 us for 2,048 rows of 10."""


class Loss(Method):
    """What lanes are trained to make small; validation losses are of the same."""

    @property
    def needs_teacher(self) -> bool:
        """Whether it learns from the logits of the uncompressed model."""
        return False

    @abstractmethod
    def losses(self, logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
        """The mean loss of each lane, ``[T]``.

        Args:
            logits: ``[T, n, C]``.
            labels: ``[n]``, int64, the same for all lanes.
            teacher: ``[n, C]``, logits of the uncompressed model, where ``needs_teacher``.
        """


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """``-sum_c y_c log softmax(z)_c``, ``y = (1 - smoothing) onehot + smoothing / C``; the mean of each lane, ``[T]``.

    Label smoothing is that of Szegedy et al. 2016 (arXiv:1512.00567).
    """
    lanes, by_lane = len(logits), labels.expand(len(logits), -1)
    if logits.shape[2] <= FEW_CLASSES:
        return F.cross_entropy(logits.mT, by_lane, reduction="none", label_smoothing=smoothing).mean(1)
    flat = F.cross_entropy(logits.flatten(0, 1), by_lane.flatten(), reduction="none", label_smoothing=smoothing)
    return flat.view(lanes, -1).mean(1)


def divergence(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``sum_c p_c (log p_c - log q_c)``, ``p`` and ``q`` softmaxes of teacher and student at a temperature; ``[T]``."""
    axis = 1 if logits.shape[2] <= FEW_CLASSES else 2
    student, wanted = (logits.mT, teacher.mT) if axis == 1 else (logits, teacher)
    log_q = F.log_softmax(student / temperature, axis)
    log_p = F.log_softmax(wanted / temperature, axis - 1)
    # One product in the place of a multiplication and a sum: at 1,000 classes that saves two passes over all lanes.
    return (log_p - log_q).flatten(1) @ log_p.exp().flatten() / logits.shape[1]
