"""How spectra go on over epochs, as plain data and as a file; needs no torch."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from pipeline.errors import IntegrityError
from pipeline.paths import write_whole

Matrix = Literal["W", "s B A", "Q + s B A"]
"""A trained weight; an adapter's product; the adapted weight."""


class Course(BaseModel):
    """The spectrum of one matrix over the epochs of a training, from epoch 0, which is its start."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    matrix: Matrix
    layer: str
    shares: tuple[tuple[float, ...], ...]
    """``s_j / sum s`` of each epoch, descending, the largest alone; all zero for a zero matrix."""
    effective_rank: tuple[float, ...]
    """``exp(-sum p ln p)`` of each epoch, over all shares."""

    @model_validator(mode="after")
    def _epochs_agree(self) -> "Course":
        if len(self.shares) != len(self.effective_rank) or not self.shares:
            raise ValueError(f"{len(self.shares)} epochs of shares, {len(self.effective_rank)} of effective ranks")
        return self


class Spectra(BaseModel):
    """What was recorded of one training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: str
    """What was trained: a baseline's sha256, or a trial by ``trial_key``."""
    values: int
    """How many shares were kept at most."""
    courses: tuple[Course, ...]

    def covers(self, layers: list[str], values: int) -> bool:
        """Whether these layers are recorded, with as many values."""
        return set(layers) <= {course.layer for course in self.courses} and values <= self.values


def write_spectra(path: Path, spectra: Spectra) -> None:
    def write(part: Path) -> None:
        part.write_text(spectra.model_dump_json(), encoding="utf-8")

    write_whole(path, write)


def read_spectra(path: Path, of: str) -> Spectra | None:
    """What was recorded of ``of``; None if there is no file, or it was recorded of something else.

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
