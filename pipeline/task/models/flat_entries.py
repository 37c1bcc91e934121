"""The content of a file of weights as one flat list of entries, and the prefixes under which sets of weights lie.

An entry's name begins with the keys of the mappings that hold it, as in ``state_dict.model.conv1.weight``. What stands
before the architecture's names is then the prefix of a set, whether it is keys of the file or names of wrappers.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.task.models.order import COUNTERS

T = TypeVar("T")
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
"""Names that DataParallel, ``torch.compile`` and others put before or into the names of a model."""

Versions = dict[str, dict[str, Any]]
"""The ``_metadata`` of a state dict: facts of each module, such as its version, by the module's name."""


class Entries(NamedTuple):
    """The tensors of one mapping in a file, and its ``_metadata``; ``path`` is its keys, each with a dot after it."""

    path: str
    tensors: dict[str, Tensor]
    versions: Versions


def groups(content: object, path: str = "", inside: tuple[int, ...] = ()) -> Iterator[Entries]:
    """The mappings of a file, at any depth and in lists too, with the tensors and arrays that each holds itself."""
    if isinstance(content, list | tuple):
        content = {index: value for index, value in enumerate(content) if not isinstance(value, Tensor)}
    if not isinstance(content, Mapping) or id(content) in inside:
        return
    values = {str(key): _as_tensor(value) for key, value in content.items()}
    versions = {f"{path}{module}".rstrip(".") + ".": facts for module, facts in metadata(content).items()}
    yield Entries(path, {key: value for key, value in values.items() if isinstance(value, Tensor)}, versions)
    for key, value in values.items():
        yield from groups(value, f"{path}{key}.", (*inside, id(content)))


def _as_tensor(value: object) -> object:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub" or value.itemsize > 8:
        return value
    # Copied, because torch takes neither foreign byte orders nor, without a warning, arrays that are read-only.
    return torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))


def metadata(state: object) -> Versions:
    found = getattr(state, "_metadata", None)
    return dict(found) if isinstance(found, Mapping) else {}


def bare(name: str) -> str:
    """A name without those of wrappers.

    >>> bare("module._orig_mod.features.module.0.weight")
    'features.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def required(names: Iterable[str]) -> list[str]:
    """The names of those entries that a file has to hold; files from before torch 0.4.1 lack the counters."""
    return [name for name in names if not name.endswith(COUNTERS)]


def flattened(parts: list[Entries]) -> tuple[dict[str, Tensor], Versions]:
    """All entries and module facts of a file by their whole names, without the names of wrappers."""
    entries = {f"{group.path}{name}": value for group in parts for name, value in group.tensors.items()}
    versions = {name: facts for group in parts for name, facts in group.versions.items()}
    return _unwrapped(entries), _unwrapped(versions)


def _unwrapped(values: dict[str, T]) -> dict[str, T]:
    """Values by their names without those of wrappers; names that would then be the same stay whole."""
    counts = Counter(bare(name) for name in values)
    return {bare(name) if counts[bare(name)] == 1 else name: value for name, value in values.items()}


def prefixes(flat: Mapping[str, Tensor], wanted: Mapping[str, Tensor], key: str | None) -> list[str]:
    """The prefixes that stand before most of an architecture's names, whole sets of parameters all."""
    known, counts = {bare(name) for name in wanted}, Counter({key or "": 0})
    for name in flat:
        starts = [0, *(index + 1 for index, letter in enumerate(name) if letter == ".")]
        counts.update(name[:start] for start in starts if name[start:] in known)
    if key is not None:
        counts = Counter({name: count for name, count in counts.items() if name.startswith(key) and (key or not name)})
    most = max(counts.values())
    enough = max(most - len(wanted) + len(required(wanted)), most / 2)
    return [prefix for prefix, count in counts.items() if count >= enough]
