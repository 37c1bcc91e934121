"""The rows of the tables: their keys are the columns of the CSV files, in this order.

A field is None, and its cell empty, where there is nothing to say: no trial has finished, or none is tested.
"""

from typing import TypedDict


class EvaluationRow(TypedDict):
    """One cell, its winner beside the original and the only compressed model. Accuracies are from 0 to 1."""

    study: str
    combination: str
    rank: int
    init: str
    trial: int | None
    checkpoint: bool
    """Whether its winner has the highest validation accuracy of its rank."""
    alpha: float | None
    optimizer: str | None
    lr: float | None
    batch_size: int | None
    extra: str
    """What its adapter searches beside these, as ``sigma=0.01``."""
    bytes: int | None
    """The packed model."""
    ratio: float | None
    """How many times smaller than the original the packed model is."""
    layer_ratio: float | None
    """The same of the compressed layers alone."""
    macs_ratio: float | None
    """How many times fewer multiply-accumulates an image takes."""
    trainable: int | None
    """Trained parameters."""
    original_val: float | None
    original_test: float | None
    compressed_val: float | None
    """Compressed, and not trained afterwards."""
    compressed_test: float | None
    recovered_val: float | None
    recovered_test: float | None
    """Under the study's own seed: that of the exported checkpoint."""
    test_low: float | None
    """Lower end of the 95 % Wilson interval of ``recovered_test``."""
    test_high: float | None
    recovery: float | None
    """On the test part, ``(recovered - compressed) / (original - compressed)``, over seeds of their mean; none where
    compression lost no more than chance may."""
    seeds: int
    """Seeds under which the winner was trained and tested."""
    failed_seeds: int
    """Seeds under which training it again failed."""
    test_mean: float | None
    """Mean test accuracy over seeds, where there are several."""
    test_std: float | None
    best_epoch: int | None
    """The epoch, from 1, of highest validation accuracy."""


class TrialRow(TypedDict):
    """One trial, whatever its state."""

    study: str
    combination: str
    trial: int
    state: str
    rank: int
    init: str
    alpha: float | None
    optimizer: str | None
    lr: float | None
    batch_size: int | None
    extra: str
    """What its adapter searches beside these, as ``sigma=0.01``."""
    value: float | None
    """Validation accuracy at the best epoch of a complete trial."""
    epochs: int
    """Epochs that have been trained."""
    best_epoch: int | None
    bytes: int | None
    ratio: float | None
    trainable: int | None
    seconds: float | None
    peak_memory: int | None
    """Bytes."""
    device: str | None
    seed: int | None
    origin: str | None
    """Who chose the values: ``score``, ``start-up``, ``neighbour`` or ``sampler``."""
    interrupted: bool
    """Whether the run ended before the trial did; such a trial counts for nothing."""
    reason: str | None
    """Why it failed."""


class EpochRow(TypedDict):
    """One epoch of the best trial of a cell."""

    study: str
    combination: str
    rank: int
    init: str
    trial: int
    epoch: int
    """From 1."""
    train_loss: float
    val_loss: float
    val_accuracy: float
    best: bool
    """Whether the trial's weights are those after this epoch."""
