"""Weights from a local file into an architecture: nothing runs, and what does not fit is named."""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.errors import IntegrityError
from pipeline.task.models.contract import ModelSource, Positive

Rename = Literal["none", "order"]


def load_checkpoint(
    model: nn.Module, path: Path, classes: int, *, rename: Rename = "none", new_head: bool = False
) -> None:
    """Load the state dict of a file into ``model``.

    Args:
        model: With ``classes`` outputs.
        path: ``.safetensors``, or a file that ``torch.load(weights_only=True)`` reads.
        classes: How many the data has.
        rename: ``"order"`` pairs the entries of file and model by their order instead of their names.
        new_head: Leave out entries that have another class count, so that the model keeps its random ones.

    Raises:
        IntegrityError: The file is not there, damaged, a pickle that would run code, or another architecture's.
    """
    state = read_state(path)
    if rename == "order":
        state = _renamed(state, model.state_dict(), classes, path)
    load_state(model, state, str(path), classes, new_head=new_head)


def load_state(model: nn.Module, state: dict[str, Tensor], where: str, classes: int, *, new_head: bool) -> None:
    """Load a state dict that came from ``where``; see ``load_checkpoint``."""
    own = model.state_dict()
    missing, unexpected = [key for key in own if key not in state], [key for key in state if key not in own]
    if missing or unexpected:
        raise IntegrityError(
            f"{where} holds the weights of another architecture: missing {_first(missing)}, unexpected "
            f'{_first(unexpected)}; name the architecture that they are of, or set task.model.rename = "order" where '
            f"only the names differ"
        )
    for key, value in own.items():
        if state[key].shape != value.shape:
            if not _is_head(state[key], value, classes):
                raise IntegrityError(
                    f"{where}: '{key}' is {list(state[key].shape)} in the weights and {list(value.shape)} in the "
                    f"model; name the architecture and image size that the weights are of"
                )
            if not new_head:
                raise IntegrityError(
                    f"{where}: '{key}' has {len(state[key])} classes, and the data has {classes}; give weights for "
                    f"{classes} classes, or set task.model.new_head = true and train the new head by [task.baseline]"
                )
    model.load_state_dict({key: value if value.shape == own[key].shape else own[key] for key, value in state.items()})


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict of a file, also where it lies in the file under ``state_dict`` or ``model``.

    Raises:
        IntegrityError: The file is not there, damaged, holds something else, or would run code.
    """
    if not path.is_file():
        raise IntegrityError(
            f"weights are not there: looked for task.model.checkpoint = {path} ({path.absolute()}); copy them there, "
            f"or correct the path"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings():
            # torch warns of pickles that it is about to refuse.
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) and (found := re.search(r"GLOBAL (\S+)", str(error))):
            raise IntegrityError(
                f"{path} is refused: beside tensors it holds '{found[1]}', which would run code when loaded; save the "
                f"model's state_dict() alone, best as .safetensors"
            ) from None
        # Damaged files make the readers raise nearly anything: SafetensorError, RuntimeError, EOFError, KeyError, ...
        raise IntegrityError(f"{path} is damaged or no checkpoint: {error}; get it again") from None
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise IntegrityError(f"{path} holds no state dict; save what model.state_dict() gives")
    return dict(state)


def _is_head(value: Tensor, own: Tensor, classes: int) -> bool:
    """Whether two entries of unequal shape differ as heads of different class counts do."""
    return own.ndim > 0 and value.ndim == own.ndim and len(own) == classes and value.shape[1:] == own.shape[1:]


def _first(keys: list[str]) -> str:
    return f"'{keys[0]}'" + (f" and {len(keys) - 1} more" if len(keys) > 1 else "") if keys else "none"


def _renamed(state: dict[str, Tensor], own: dict[str, Tensor], classes: int, path: Path) -> dict[str, Tensor]:
    for (theirs, value), (ours, wanted) in zip(state.items(), own.items(), strict=False):
        if value.shape != wanted.shape and not _is_head(value, wanted, classes):
            raise IntegrityError(
                f"{path}: entries do not pair by order: first '{theirs}' {list(value.shape)} in the file against "
                f"'{ours}' {list(wanted.shape)} in the model; name the architecture that the weights are of"
            )
    if len(state) != len(own):
        kind, keys = ("file", state) if len(state) > len(own) else ("model", own)
        raise IntegrityError(
            f"{path}: {len(state)} entries do not pair with the model's {len(own)}: first unpaired is "
            f"'{list(keys)[min(len(state), len(own))]}' of the {kind}; name the architecture that the weights are of"
        )
    return dict(zip(own, state.values(), strict=True))


class CheckpointSource(ModelSource):
    """A source of image classifiers whose weights may lie in a file of yours."""

    architecture: str
    """The model's name."""
    checkpoint: str | None = None
    """Load the weights from this file: ``.safetensors``, or one that ``torch.load(weights_only=True)`` reads."""
    rename: Rename = "none"
    """``"order"`` pairs the checkpoint's entries with the model's by their order."""
    new_head: bool = False
    """Leave the head of the weights out where it has another class count than the data; a baseline trains the new."""
    image_size: int | None = Field(None, ge=1)
    """Pixels a side, where not the weights' own; a resize before a crop grows and shrinks with it."""
    mean: Annotated[tuple[float, float, float] | None, Field(strict=False)] = None
    """Of RGB in 0..1, where not the weights' own."""
    std: Annotated[tuple[Positive, Positive, Positive] | None, Field(strict=False)] = None

    def load_checkpoint(self, model: nn.Module, classes: int) -> None:
        """Load the file named by ``checkpoint``."""
        load_checkpoint(model, self._path, classes, rename=self.rename, new_head=self.new_head)

    def checkpoint_classes(self) -> int:
        """How many classes the checkpoint's head tells apart: what entries show whose shape follows the class count.

        Raises:
            IntegrityError: The file cannot be read, or has no head of this architecture.
        """
        state = read_state(self._path)
        two, three = (self.build(classes).state_dict() for classes in (2, 3))
        if self.rename == "order":
            state = dict(zip(two, state.values(), strict=False))
        for key, value in two.items():
            if value.shape != three[key].shape and key in state and state[key].ndim:
                return len(state[key])
        raise IntegrityError(
            f"{self._path} has no head of '{self.architecture}'; name the architecture that the weights are of"
        )

    @property
    def _path(self) -> Path:
        return Path(self.checkpoint or "").expanduser()
