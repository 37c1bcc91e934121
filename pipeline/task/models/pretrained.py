"""Loading weights from a local file into an architecture. No code of the file runs; misfits are named."""

import pickle
import re
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.errors import IntegrityError
from pipeline.task.models.contract import ModelSource, Positive


def load_state(model: nn.Module, state: dict[str, Tensor], where: str, classes: int, *, new_head: bool) -> None:
    """Load a state dict into ``model``, which has ``classes`` outputs; ``where`` names its origin in messages.

    With ``new_head``, entries with another number of classes are skipped, so that the model keeps its random ones.

    Raises:
        IntegrityError: The weights are of another architecture, or have a head of other classes.
    """
    wanted = model.state_dict()
    missing, unexpected = [key for key in wanted if key not in state], [key for key in state if key not in wanted]
    if missing or unexpected:
        raise IntegrityError(
            f"{where} holds the weights of another architecture: missing {_first(missing)}, unexpected "
            f'{_first(unexpected)}; name the architecture that they are of, or set task.model.rename = "order" where '
            f"only the names differ"
        )
    for key, value in wanted.items():
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
    fitting = {key: value if value.shape == wanted[key].shape else wanted[key] for key, value in state.items()}
    model.load_state_dict(fitting)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a file; it may lie under the key ``state_dict`` or ``model``.

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
            # torch warns about pickles that it then refuses.
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


def _is_head(value: Tensor, wanted: Tensor, classes: int) -> bool:
    """Whether two entries of unequal shape differ as heads with different numbers of classes do."""
    return (
        wanted.ndim > 0 and value.ndim == wanted.ndim and len(wanted) == classes and value.shape[1:] == wanted.shape[1:]
    )


def _first(keys: list[str]) -> str:
    return f"'{keys[0]}'" + (f" and {len(keys) - 1} more" if len(keys) > 1 else "") if keys else "none"


def _renamed(state: dict[str, Tensor], model: dict[str, Tensor], classes: int, path: Path) -> dict[str, Tensor]:
    """The entries of ``state`` under the names of ``model``, paired by their order."""
    for (theirs, value), (ours, wanted) in zip(state.items(), model.items(), strict=False):
        if value.shape != wanted.shape and not _is_head(value, wanted, classes):
            raise IntegrityError(
                f"{path}: entries do not pair by order: first '{theirs}' {list(value.shape)} in the file against "
                f"'{ours}' {list(wanted.shape)} in the model; name the architecture that the weights are of"
            )
    if len(state) != len(model):
        kind, keys = ("file", state) if len(state) > len(model) else ("model", model)
        raise IntegrityError(
            f"{path}: {len(state)} entries do not pair with the model's {len(model)}: first unpaired is "
            f"'{list(keys)[min(len(state), len(model))]}' of the {kind}; name the architecture that the weights are of"
        )
    return dict(zip(model, state.values(), strict=True))


class CheckpointSource(ModelSource):
    """A source of image classifiers whose weights may come from a local file."""

    architecture: str
    """Name of the architecture."""
    checkpoint: str | None = None
    """File of the weights: ``.safetensors``, or one that ``torch.load(weights_only=True)`` reads."""
    rename: Literal["none", "order"] = "none"
    """``"order"`` pairs the checkpoint's entries with the model's by their order."""
    new_head: bool = False
    """Replace a head with another number of classes than the data; the baseline trains the new head."""
    image_size: int | None = Field(None, ge=1)
    """Side of the input in pixels; else that of the weights. A resize before a crop is scaled with it."""
    mean: Annotated[tuple[float, float, float] | None, Field(strict=False)] = None
    """Mean of RGB in 0..1; else that of the weights."""
    std: Annotated[tuple[Positive, Positive, Positive] | None, Field(strict=False)] = None
    """Standard deviation of RGB in 0..1; else that of the weights."""

    @abstractmethod
    def fetch(self, classes: int) -> nn.Module:
        """The model with the weights that its library knows, from a cache or over the network."""

    @contextmanager
    def downloading(self, weights: str = "weights") -> Iterator[None]:
        """Name the weights in the errors of a download; without a network it raises whatever its transport raises."""
        try:
            yield
        except Exception as error:
            raise IntegrityError(
                f"{weights} of '{self.architecture}' are not there: looked for them in the hub's cache and on the hub "
                f"({type(error).__name__}: {error}); run once with a network, or give task.model.checkpoint"
            ) from error

    @abstractmethod
    def known_classes(self) -> int:
        """The number of classes of those weights."""

    def load(self, classes: int) -> nn.Module:
        if self.pretrained and self.checkpoint is None:
            return self.fetch(classes)
        model = self.build(classes)
        if self.checkpoint is not None:
            path = Path(self.checkpoint).expanduser()
            state = read_state(path)
            if self.rename == "order":
                state = _renamed(state, model.state_dict(), classes, path)
            load_state(model, state, str(path), classes, new_head=self.new_head)
        return model

    def pretrained_classes(self) -> int:
        if self.checkpoint is None:
            return self.known_classes()
        path = Path(self.checkpoint).expanduser()
        state = read_state(path)
        # The head is an entry whose shape depends on the number of classes.
        two, three = (self.build(classes).state_dict() for classes in (2, 3))
        if self.rename == "order":
            state = dict(zip(two, state.values(), strict=False))
        for key, value in two.items():
            if value.shape != three[key].shape and key in state and state[key].ndim:
                return len(state[key])
        raise IntegrityError(
            f"{path} has no head of '{self.architecture}'; name the architecture that the weights are of"
        )

    def given(self) -> dict[str, Any]:
        """``mean`` and ``std``, as far as they are given."""
        return {name: value for name, value in {"mean": self.mean, "std": self.std}.items() if value is not None}
