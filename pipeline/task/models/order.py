"""Pairing the entries of a file with an architecture's by their order, where the names differ."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from itertools import pairwise

from torch import Tensor

from pipeline.errors import IntegrityError

COUNTERS = "num_batches_tracked"
"""Entries of batch norm that files from before torch 0.4.1 lack."""


def pair_by_order(
    entries: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    *,
    ordered: bool,
    is_head: Callable[[str], bool],
    where: str,
) -> dict[str, Tensor]:
    """The entries of a file under the names of a model.

    Args:
        entries: The file's entries, in the order of the model if ``ordered``.
        wanted: The model's entries, in the order of definition.
        ordered: Whether the file keeps an order; safetensors does not. There, the numbers in the names tell the order
            of the entries that have the same last name, shape and surroundings.
        is_head: Whether an entry of the model depends on the number of classes; its shape may differ.
        where: The file in messages.

    Raises:
        IntegrityError: The entries do not pair.
    """
    if len(entries) == len(wanted) - sum(name.endswith(COUNTERS) for name in wanted):
        wanted = {name: value for name, value in wanted.items() if not name.endswith(COUNTERS)}
    if not ordered:
        return _pair_unordered(entries, _of_other_classes(entries, wanted, is_head), where)
    for (theirs, value), (ours, target) in zip(entries.items(), wanted.items(), strict=False):
        if value.shape != target.shape and not (value.shape[1:] == target.shape[1:] and is_head(ours)):
            raise IntegrityError(
                f"{where}: entries do not pair by order: first '{theirs}' {list(value.shape)} in the file against "
                f"'{ours}' {list(target.shape)} in the model; name the architecture that the weights are of"
            )
    if len(entries) != len(wanted):
        kind, names = ("file", entries) if len(entries) > len(wanted) else ("model", wanted)
        raise IntegrityError(
            f"{where}: {len(entries)} entries do not pair with the model's {len(wanted)}: first unpaired is "
            f"'{list(names)[min(len(entries), len(wanted))]}' of the {kind}; name the architecture that the weights "
            f"are of"
        )
    return dict(zip(wanted, entries.values(), strict=True))


def _of_other_classes(
    entries: Mapping[str, Tensor], wanted: Mapping[str, Tensor], is_head: Callable[[str], bool]
) -> Mapping[str, Tensor]:
    """A model's entries with a head of as many classes as a file's, if those that differ in shape tell them."""
    extra = Counter(value.shape for value in entries.values()) - Counter(value.shape for value in wanted.values())
    sizes = {shape[0] for shape in extra if shape}
    if len(sizes) != 1:
        return wanted
    size = sizes.pop()
    return {
        name: value.new_empty((size, *value.shape[1:]), device="meta") if is_head(name) else value
        for name, value in wanted.items()
    }


def _pair_unordered(entries: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Pair the entries of each class in the natural order of their names, with the smallest surroundings that do."""
    named = not all(name.rpartition(".")[2].isdigit() for name in entries)
    unsorted = list[str]()
    for levels in range(max(name.count(".") for name in wanted) + 2):
        theirs, ours = _classes(entries, levels, named=named), _classes(wanted, levels, named=named)
        if Counter({key: len(names) for key, names in theirs.items()}) != Counter(
            {key: len(names) for key, names in ours.items()}
        ):
            break
        unsorted = [name for names in theirs.values() for name in _untold(sorted(names, key=_tokens))]
        if not unsorted:
            pairs = [zip(ours[key], sorted(names, key=_tokens), strict=True) for key, names in theirs.items()]
            found = {our: entries[their] for pair in pairs for our, their in pair}
            return {name: found[name] for name in wanted}
    if unsorted:
        raise IntegrityError(
            f"{where}: a .safetensors file keeps no order, and the names do not tell that of '{unsorted[0]}' and "
            f"'{unsorted[1]}', which have the same shape; save the weights by torch.save, or under the names of the "
            f"architecture"
        )
    raise IntegrityError(
        f"{where}: its {len(entries)} entries do not have the shapes of the model's {len(wanted)}; name the "
        f"architecture that the weights are of"
    )


def _classes(entries: Mapping[str, Tensor], levels: int, *, named: bool) -> dict[object, list[str]]:
    """Names of the entries with the same last name, shape, and surroundings: shapes in the modules that hold them."""
    inside: dict[str, Counter[object]] = defaultdict(Counter)
    kinds = {name: (name.rpartition(".")[2] if named else "", tuple(value.shape)) for name, value in entries.items()}
    for name, kind in kinds.items():
        for module in _modules(name):
            inside[module][kind] += 1
    surroundings = {module: frozenset(counter.items()) for module, counter in inside.items()}
    classes: dict[object, list[str]] = defaultdict(list)
    for name, kind in kinds.items():
        classes[kind, *(surroundings[module] for module in _modules(name)[:levels])].append(name)
    return classes


def _modules(name: str) -> list[str]:
    """The modules that hold an entry, the innermost first.

    >>> _modules("layer1.0.weight")
    ['layer1.0', 'layer1', '']
    """
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) - 1, -1, -1)]


def _tokens(name: str) -> list[str | int]:
    """Text and numbers of a name by turns, so that ``block.10`` comes after ``block.9``."""
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", name))]


def _untold(names: list[str]) -> list[str]:
    """The first two neighbours of sorted names that differ first in text, whose order is thus not known."""
    for first, second in pairwise(names):
        pairs = zip(_tokens(first), _tokens(second), strict=False)
        if isinstance(next((one for one, other in pairs if one != other), ""), str):
            return [first, second]
    return []
