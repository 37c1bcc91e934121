"""The one set of weights in the content of a file, under the names of an architecture.

A file is read as one flat list of entries, whose names begin with the keys of the mappings that hold them, as in
``state_dict.model.conv1.weight``. What stands before the architecture's names is then the set's prefix, whether it is
keys of the file or names of wrappers. The architecture's own ``load_state_dict`` decides whether a set is complete.
"""

import copy
import warnings
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import IntegrityError
from pipeline.task.models.order import COUNTERS, pair_by_order
from pipeline.task.models.weights_file import Placeholder

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
"""Names that DataParallel, ``torch.compile`` and others put before or into the names of a model."""
BOOKKEEPING = ("n_averaged", "total_ops", "total_params")
"""Entries that averaging and counters of operations add to a model."""
SHOWN = 3
"""How many of the parts that are left out a message names."""

Versions = dict[str, dict[str, Any]]
"""The ``_metadata`` of a state dict: facts of each module, such as its version, by the module's name."""


class Entries(NamedTuple):
    """The tensors of one mapping in a file, and its ``_metadata``; ``path`` is its keys, each with a dot after it."""

    path: str
    tensors: dict[str, Tensor]
    versions: Versions


@dataclass(frozen=True)
class Architecture:
    """What a set of weights has to fit."""

    model: nn.Module
    head: Callable[[], set[str]]
    """The names of the entries whose shape depends on the number of classes."""
    translated: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda entries: entries
    """Puts entries under today's names where the model's library knows older ones."""


@dataclass(frozen=True)
class Origin:
    """Where a file's content comes from, and which of its sets is meant."""

    where: str
    """What messages call it."""
    key: str | None = None
    """The keys or prefix of the set that is meant, joined by dots; ``None`` if the file holds one."""
    by_order: bool = False
    """Whether entries with other names are paired by their order."""
    ordered: bool = True
    """Whether the file keeps an order."""


@dataclass(frozen=True)
class Weights:
    """A set of weights, under the names of an architecture as far as it knows them."""

    prefix: str
    entries: dict[str, Tensor]
    versions: Versions
    missing: tuple[str, ...] = ()
    """What the architecture's ``load_state_dict`` lacks."""
    unknown: tuple[str, ...] = ()
    """Names under the prefix that it does not know; they are no part of ``entries``."""
    outside: tuple[str, ...] = ()
    """The file's entries that are no part of the set."""

    def is_complete(self, architecture: Architecture) -> bool:
        """Whether it is the whole model, or all but its head, and nothing else of a model."""
        # Another model's entries stand in modules of the same names; those of a loss stand beside them.
        parts = {name.partition(".")[0] for name, _ in architecture.model.named_modules()} - {""}
        strangers = [name for name in self.unknown if "." not in name or name.partition(".")[0] in parts]
        lacking = {name for name in self.missing if not name.endswith(COUNTERS)}
        return all(name.endswith(BOOKKEEPING) for name in strangers) and (not lacking or lacking == architecture.head())

    def state(self, model: nn.Module) -> "OrderedDict[str, Tensor]":
        """What ``model.load_state_dict`` takes; what is missing is as in ``model``."""
        own = model.state_dict()
        return _versioned({**self.entries, **{name: own[name] for name in self.missing}}, self.versions)

    def left_out(self) -> list[str]:
        """What of the file is no part of the set: entries, or the keys that hold several of them."""
        parts = Counter([name.partition(".")[0] for name in self.outside])
        whole = {name.partition(".")[0]: name for name in self.outside}
        return [f"'{part}' ({count} entries)" if count > 1 else f"'{whole[part]}'" for part, count in parts.items()] + [
            f"'{name}'" for name in self.unknown if not name.endswith(BOOKKEEPING)
        ]


def find_weights(content: object, architecture: Architecture, origin: Origin) -> Weights:
    """The one complete set of weights in the content of a file.

    Raises:
        IntegrityError: The file holds no set that is complete, or several that differ.
    """
    groups, wanted = list(_groups(content)), architecture.model.state_dict()
    if not any(group.tensors for group in groups):
        raise IntegrityError(f"{origin.where} holds no state dict{_held(content)}; save what model.state_dict() gives")
    flat, versions = _flattened(groups)
    key = None if origin.key is None else _bare(f"{origin.key}.".lstrip("."))
    if key is not None and not any(name.startswith(key) for name in flat):
        keys = ", ".join(f"'{name}'" for name in sorted({name.partition(".")[0] for name in flat})[:SHOWN])
        raise IntegrityError(
            f"{origin.where} holds nothing under task.model.weights_key = '{origin.key}'; it has {keys}"
        )
    found = [_fitted(flat, versions, prefix, architecture) for prefix in _prefixes(flat, wanted, key)]
    complete = [weights for weights in found if weights.is_complete(architecture)]
    if not complete and origin.by_order:
        complete = _paired(groups, architecture, origin)
    if not complete:
        best = min(found, key=lambda weights: len(weights.missing) + len(weights.unknown))
        missing = [name for name in best.missing if not name.endswith(COUNTERS)]
        raise IntegrityError(
            f"{origin.where} holds the weights of another architecture: missing {first(missing)}, unexpected "
            f'{first(best.unknown)}; name the architecture that they are of, or set task.model.rename = "order" where '
            f"only the names differ"
        )
    chosen = complete[0]
    if others := [weights.prefix for weights in complete[1:] if not _equal(weights.entries, chosen.entries)]:
        keys = " and ".join(f"'{prefix.rstrip('.')}'" for prefix in (chosen.prefix, *others))
        raise IntegrityError(
            f"{origin.where} holds {len(others) + 1} sets of weights that differ, under {keys}; choose one, e.g. by "
            f'task.model.weights_key = "{others[-1].rstrip(".")}"'
        )
    return chosen


def _groups(content: object, path: str = "", inside: tuple[int, ...] = ()) -> Iterator[Entries]:
    """The mappings of a file that hold tensors or arrays, at any depth."""
    if not isinstance(content, Mapping) or id(content) in inside:
        return
    values = {str(key): _as_tensor(value) for key, value in content.items()}
    versions = {f"{path}{module}".rstrip(".") + ".": facts for module, facts in _metadata(content).items()}
    yield Entries(path, {key: value for key, value in values.items() if isinstance(value, Tensor)}, versions)
    for key, value in values.items():
        yield from _groups(value, f"{path}{key}.", (*inside, id(content)))


def _as_tensor(value: object) -> object:
    is_numeric = isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
    return torch.from_numpy(value) if is_numeric else value


def _metadata(state: object) -> Versions:
    found = getattr(state, "_metadata", None)
    return dict(found) if isinstance(found, Mapping) else {}


def _bare(name: str) -> str:
    """A name without those of wrappers.

    >>> _bare("module._orig_mod.features.module.0.weight")
    'features.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _flattened(groups: list[Entries]) -> tuple[dict[str, Tensor], Versions]:
    """All entries and module facts of a file by their whole names, without the names of wrappers."""
    whole = {f"{group.path}{name}": value for group in groups for name, value in group.tensors.items()}
    versions = {name: facts for group in groups for name, facts in group.versions.items()}
    bare = {_bare(name): value for name, value in whole.items()}
    if len(bare) < len(whole):
        return whole, versions
    return bare, {_bare(name): facts for name, facts in versions.items()}


def _prefixes(flat: Mapping[str, Tensor], wanted: Mapping[str, Tensor], key: str | None) -> list[str]:
    """The prefixes that stand before most of an architecture's names, whole sets of parameters all."""
    known, counts = {_bare(name) for name in wanted}, Counter({key or "": 0})
    for name in flat:
        starts = [0, *(index + 1 for index, letter in enumerate(name) if letter == ".")]
        counts.update(name[:start] for start in starts if name[start:] in known)
    if key is not None:
        counts = Counter({name: count for name, count in counts.items() if name.startswith(key) and (key or not name)})
    enough = max(counts.values()) - sum(name.endswith(COUNTERS) for name in wanted)
    return [prefix for prefix, count in counts.items() if count >= enough]


def _fitted(flat: dict[str, Tensor], versions: Versions, prefix: str, architecture: Architecture) -> Weights:
    """The set under a prefix, as the architecture takes it best: as it is, as of today's version, or translated."""
    own = architecture.model.state_dict()
    names = {_bare(name): name for name in own}
    modules = {_bare(f"{name}."): name for name, _ in architecture.model.named_modules()} | {"": "", ".": ""}
    entries = {
        names.get(rest, rest): value
        for name, value in flat.items()
        if name.startswith(prefix) and (rest := name.removeprefix(prefix))
    }
    elsewhere = _elsewhere(
        flat, [name for name in own if name not in entries and not name.endswith(COUNTERS)], len(own)
    )
    entries |= {name: flat[whole] for name, whole in elsewhere.items()}
    theirs = {
        modules[rest]: facts
        for name, facts in versions.items()
        if name.startswith(prefix) and (rest := name.removeprefix(prefix)) in modules
    }
    outside = [name for name in flat if not name.startswith(prefix) and name not in elsewhere.values()]
    tried = list[Weights]()
    for attempt, facts in (
        (entries, theirs),
        (entries, _metadata(own)),
        (architecture.translated(entries), _metadata(own)),
    ):
        tried.append(_taken(architecture.model, Weights(prefix, attempt, facts, outside=tuple(outside))))
        if tried[-1].is_complete(architecture):
            break
    return min(tried, key=lambda weights: len(weights.missing) + len(weights.unknown))


def _elsewhere(flat: Mapping[str, Tensor], missing: list[str], total: int) -> dict[str, str]:
    """Fewer than half of a set's names, such as a head's, that all lie under one other prefix: their whole names."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for name in missing if 2 * len(missing) < total else []:
        for whole in flat:
            if f".{whole}".endswith(f".{_bare(name)}"):
                found[whole.removesuffix(_bare(name))][name] = whole
    complete = [names for names in found.values() if len(names) == len(missing)]
    return complete[0] if len(complete) == 1 else {}


def _taken(model: nn.Module, weights: Weights) -> Weights:
    """The set with what the model's own ``load_state_dict`` says of it; shapes are not compared, nothing is loaded."""
    probe = copy.deepcopy(model).to("meta")
    own = probe.state_dict()
    known = {name: own.get(name, torch.empty(0, device="meta")) for name in weights.entries}
    try:
        with warnings.catch_warnings():  # torch warns that nothing is loaded, which is what is wanted
            warnings.simplefilter("ignore")
            missing, unknown = probe.load_state_dict(_versioned(known, weights.versions), strict=False)
    except (RuntimeError, ValueError):
        missing, unknown = list(own), list(known)
    entries = {name: value for name, value in weights.entries.items() if name not in set(unknown)}
    return replace(weights, entries=entries, missing=tuple(missing), unknown=tuple(unknown))


def _versioned(entries: dict[str, Tensor], versions: Versions) -> "OrderedDict[str, Tensor]":
    """A state dict with ``_metadata``, which torch keeps in an attribute."""
    state = OrderedDict(entries)
    vars(state)["_metadata"] = versions
    return state


def _paired(groups: list[Entries], architecture: Architecture, origin: Origin) -> list[Weights]:
    """The mappings of a file whose entries pair with the architecture's by order.

    Raises:
        IntegrityError: None does; it says why the largest does not.
    """
    own = architecture.model.state_dict()
    key = "" if origin.key is None else f"{origin.key}.".lstrip(".")
    sizable = sorted((group for group in groups if group.path.startswith(key)), key=lambda group: -len(group.tensors))
    found, errors = list[Weights](), list[IntegrityError]()
    for group in sizable:
        try:
            entries = pair_by_order(
                group.tensors,
                own,
                ordered=origin.ordered,
                is_head=lambda name: name in architecture.head(),
                where=origin.where,
            )
        except IntegrityError as error:
            errors.append(error)
            continue
        found.append(_taken(architecture.model, Weights(group.path, entries, _metadata(own))))
    if not found and errors:
        raise errors[0]
    return found


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def _held(content: object) -> str:
    """A clause that names the object that a file holds in the place of weights."""
    values = [content, *(content.values() if isinstance(content, Mapping) else [])]
    kinds = [type(value).__name__ for value in values if isinstance(value, Placeholder)]
    return f", but a pickled object, '{kinds[0]}'" if kinds else ""


def first(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return f"'{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "") if names else "none"
