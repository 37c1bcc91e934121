"""Recorded spectra: singular values of matrices over the epochs of a training, as plain data and as a file."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from pipeline.errors import IntegrityError
from pipeline.paths import write_text

Matrix = Literal["W", "s B A", "Q + s B A"]
"""Which matrix: a trained weight, an adapter's product, or the adapted weight."""


class Course(BaseModel):
    """The spectrum of one matrix over the epochs of a training; epoch 0 is the start."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    matrix: Matrix
    layer: str
    shares: tuple[tuple[float, ...], ...]
    """The largest shares ``s_j / sum s`` of the singular values per epoch, descending; zeros for a zero matrix."""
    effective_rank: tuple[float, ...]
    """``exp(-sum p ln p)`` over all shares ``p``, per epoch."""

    @model_validator(mode="after")
    def _epochs_agree(self) -> "Course":
        if len(self.shares) != len(self.effective_rank) or not self.shares:
            raise ValueError(f"{len(self.shares)} epochs of shares, {len(self.effective_rank)} of effective ranks")
        return self


class Spectra(BaseModel):
    """The spectra of one training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: str
    """What was trained: a baseline by its sha256, or a trial by ``trial_key``."""
    values: int
    """The largest number of shares per matrix and epoch."""
    courses: tuple[Course, ...]

    def covers(self, layers: list[str], values: int) -> bool:
        """Whether these layers are recorded, with at least as many values."""
        return set(layers) <= {course.layer for course in self.courses} and values <= self.values


def write_spectra(path: Path, spectra: Spectra) -> None:
    write_text(path, spectra.model_dump_json())


def read_spectra(path: Path, of: str) -> Spectra | None:
    """The recorded spectra of ``of``; None if there is no file, or it holds those of another training.

    Raises:
        IntegrityError: The file is damaged.
    """
    try:
        spectra = Spectra.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise IntegrityError(f"spectra {path} are damaged ({str(error).splitlines()[0]})") from None
    return spectra if spectra.of == of else None
