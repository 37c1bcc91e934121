"""The contract of losses, and the two terms that losses are made of.

Legend: ``T`` lanes, ``n`` images of a batch, ``C`` classes.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.config.registry import Method

FEW_CLASSES = 64
"""Up to this number of classes, a softmax over a middle axis is faster: 38 against 307 us for 2,048 rows of 10."""


class Loss(Method):
    """A loss that lanes minimize; validation reports the same loss."""

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss uses the logits of the uncompressed model."""
        return False

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of modules whose outputs the loss compares with the uncompressed model's; it then needs a teacher."""
        return ()

    def block_losses(self, outputs: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """What is added to the loss of each lane, ``[T]``, for outputs ``[T, n, ...]`` of the ``blocks``.

        Args:
            outputs: One tensor for each block.
            teacher: ``[n, ...]`` for each block, of the uncompressed model.
        """
        raise NotImplementedError(f"loss '{self.name}' names blocks, and does not compare them")

    @abstractmethod
    def losses(self, logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
        """The mean loss of each lane over the images, ``[T]``.

        Args:
            logits: ``[T, n, C]``.
            labels: ``[n]``, int64; the same for all lanes.
            teacher: ``[n, C]``, the logits of the uncompressed model; ``None`` unless ``needs_teacher``.
        """


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """The mean over images of ``-sum_c y_c log softmax(z)_c`` for each lane, ``[T]``.

    ``z`` are the logits ``[T, n, C]``; ``y = (1 - smoothing) onehot + smoothing / C`` are the labels, int64 ``[n]``,
    with the label smoothing of Szegedy et al. 2016 (arXiv:1512.00567). A class that the model masks for an image, by a
    logit of minus infinity, is not counted in ``C`` and gets no share of its label.
    """
    lanes, by_lane = len(logits), labels.expand(len(logits), -1)
    z, wanted = (logits.mT, by_lane) if logits.shape[2] <= FEW_CLASSES else (logits.flatten(0, 1), by_lane.flatten())
    log_p = F.log_softmax(z, 1)
    losses = F.nll_loss(log_p, wanted, reduction="none")
    if smoothing:
        masked = log_p.isneginf()
        spread = -log_p.masked_fill(masked, 0).sum(1) / (~masked).sum(1)
        losses = (1 - smoothing) * losses + smoothing * spread
    return losses.view(lanes, -1).mean(1)


def divergence(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The mean over images of ``sum_c p_c (log p_c - log q_c)`` for each lane, ``[T]``.

    ``p`` and ``q`` are the softmaxes of the logits of teacher ``[n, C]`` and student ``[T, n, C]``, both divided by the
    temperature. A class that the teacher masks, by a logit of minus infinity, adds nothing.
    """
    axis = 1 if logits.shape[2] <= FEW_CLASSES else 2
    student, wanted = (logits.mT, teacher.mT) if axis == 1 else (logits, teacher)
    log_q = F.log_softmax(student / temperature, axis)
    log_p = F.log_softmax(wanted / temperature, axis - 1)
    if (masked := log_p.isneginf()).any():
        log_p, log_q = log_p.masked_fill(masked, 0), log_q.masked_fill(masked, 0)
    # One matrix-vector product replaces multiplication and sum; at 1,000 classes that saves two passes over memory.
    return (log_p - log_q).flatten(1) @ log_p.exp().flatten() / logits.shape[1]


def relative_error(outputs: Tensor, teacher: Tensor) -> Tensor:
    """The mean of ``(y - t)^2`` over the variance of ``t`` for each lane, ``[T]``; ``y [T, n, ...]``, ``t [n, ...]``.

    An output without variance counts as if it had a variance of one.
    """
    variance = teacher.var(correction=0)
    squares = (outputs - teacher).square().flatten(1).mean(1)
    return squares / torch.where(variance > 0, variance, torch.ones_like(variance))
