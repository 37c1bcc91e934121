"""The rows of the tables: their keys are the columns of the CSV files, in this order.

A field is None, and its cell in the file empty, if it is unknown: no trial has finished, or none is tested.
"""

from typing import TypedDict


class EvaluationRow(TypedDict):
    """The winner of one cell beside the original and the compressed-only model. Accuracies are from 0 to 1."""

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
    """Values that are searched for its adapter alone, as ``sigma=0.01``."""
    bytes: int | None
    """Bytes of the packed model with its adapter."""
    ratio: float | None
    """Bytes of the original divided by those of the packed model."""
    layer_ratio: float | None
    """The same for the compressed layers alone."""
    macs_ratio: float | None
    """Multiply-accumulates per image of the original divided by those of the packed model."""
    trainable: int | None
    """Trained parameters."""
    original_val: float | None
    original_test: float | None
    compressed_val: float | None
    """The compressed-only model (no adapter)."""
    compressed_test: float | None
    recovered_val: float | None
    recovered_test: float | None
    """The winner under the study's own seed, which is exported."""
    test_low: float | None
    """Lower end of the 95 % Wilson interval of ``recovered_test``."""
    test_high: float | None
    recovery: float | None
    """``(recovered - compressed) / (original - compressed)`` on the test part, with the mean over seeds as recovered;
    None if compression lost no more than chance explains."""
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
    """One trial of any state."""

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
    """Values that are searched for its adapter alone, as ``sigma=0.01``."""
    value: float | None
    """Validation accuracy at the best epoch of a complete trial."""
    epochs: int
    """Epochs that were trained."""
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
    """Whether the run ended before the trial did; such a trial counts nowhere."""
    reason: str | None
    """Why it failed."""


class EpochRow(TypedDict):
    """One epoch of a cell's winner."""

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
    """Whether the trial's adapter is the one after this epoch."""
