"""How much each part of the sweep benchmark trains, and how often it times."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """The full benchmark; other sizes are given by the fields that differ."""

    train: int = 32_000
    """Training images of the published sweep."""
    val: int = 8_000
    """Validation images of the published sweep."""
    classes: int = 1000
    """Outputs of the head; at least the highest rank, 128."""
    trials: int = 10
    """Trials per compression, init and rank."""
    epochs: int = 10
    """Epochs of each trial where none is pruned."""
    pruned_epochs: int = 10
    """Epochs of each trial where some are pruned."""
    batches: int = 20
    """Batches that the published way is timed for."""
    batch_size: int = 32
    """Images per timed batch."""
    cached_images: int = 256
    """Images whose frozen features are computed and cached."""
    queued: int = 36
    """Trials that the peft loop and this package both train."""
    lanes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Lanes per pass that cohorts are timed at."""
    steps: int = 600
    """Steps that the plain loop is timed for."""
    stored: tuple[int, ...] = (1_000, 3_000, 10_000)
    """Trials of a study before the cost of another one is measured."""
    symbols: int = 25_000_000
    """Symbols that are entropy-coded, those of a model of so many weights."""
    code_steps: int = 100
    """Steps of an epoch of trained codes in an MLP."""
    code_batches: tuple[int, ...] = (128, 256)
    """Images of its batches."""
    resnet_code_steps: int = 10
    """Steps of an epoch of trained codes in ResNet-20."""
    resnet_code_batch: int = 128
    """Images of its batches."""
    megabytes: int = 1024
    """Size of the mapped cache."""
    tries: int = 5
    """Runs of each timed command; the fastest counts."""


FULL = Sizes()
QUICK = Sizes(epochs=1, pruned_epochs=2, stored=(1_000, 3_000))
