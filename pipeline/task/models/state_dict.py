"""The one set of weights in the content of a file, under the names of an architecture.

The architecture's own ``load_state_dict`` decides whether a set is complete. Several that differ are asked about.
"""

import copy
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pipeline.errors import IntegrityError
from pipeline.task.models.flat_entries import Entries, Versions, bare, flattened, groups, metadata, prefixes, required
from pipeline.task.models.order import pair_by_order
from pipeline.task.models.weights_file import pickled_classes

BOOKKEEPING = ("n_averaged", "total_ops", "total_params")
"""Entries that averaging and counters of operations add to a model."""
SHOWN = 3
"""How many of the parts that are left out a message names."""


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
        lacking = set(required(self.missing))
        return all(name.endswith(BOOKKEEPING) for name in strangers) and (not lacking or lacking == architecture.head())

    def state(self, model: nn.Module) -> "OrderedDict[str, Tensor]":
        """What ``model.load_state_dict`` takes; what is missing is as in ``model``."""
        own = model.state_dict()
        return _versioned({**self.entries, **{name: own[name] for name in self.missing}}, self.versions)

    def left_out(self) -> list[str]:
        """What of the file is no part of the set: entries, or the keys that hold several of them."""
        parts: dict[str, list[str]] = defaultdict(list)
        for name in (*self.outside, *(name for name in self.unknown if not name.endswith(BOOKKEEPING))):
            parts[name.partition(".")[0]].append(name)
        return [
            f"'{part}' ({len(names)} entries)" if len(names) > 1 else f"'{names[0]}'" for part, names in parts.items()
        ]


def find_weights(content: object, architecture: Architecture, origin: Origin) -> Weights:
    """The one complete set of weights in the content of a file.

    Raises:
        IntegrityError: The file holds no set that is complete, or several that differ.
    """
    parts, wanted = list(groups(content)), architecture.model.state_dict()
    if not any(group.tensors for group in parts):
        classes = pickled_classes(content)
        held = f", but pickled objects of {', '.join(classes)}" if classes else ""
        raise IntegrityError(f"{origin.where} holds no state dict{held}; save what model.state_dict() gives")
    flat, versions = flattened(parts)
    key = None if origin.key is None else f"{origin.key}.".lstrip(".")
    if key is not None and not any(name.startswith(key) for name in flat):
        key = bare(key)
    if key is not None and not any(name.startswith(key) for name in flat):
        keys = ", ".join(f"'{name}'" for name in sorted({name.partition(".")[0] for name in flat})[:SHOWN])
        raise IntegrityError(
            f"{origin.where} holds nothing under task.model.weights_key = '{origin.key}'; it has {keys}"
        )
    found = [_fitted(flat, versions, prefix, architecture) for prefix in prefixes(flat, wanted, key)]
    complete = [weights for weights in found if weights.is_complete(architecture)]
    if not complete and origin.by_order:
        complete = _paired(parts, architecture, origin)
    if not complete:
        best = min(found, key=lambda weights: len(weights.missing) + len(weights.unknown))
        missing = required(best.missing)
        if not best.unknown:
            raise IntegrityError(
                f"{origin.where} holds a part of the weights: missing {first(missing)}; give the file of all that "
                f"model.state_dict() gives, or the index (.index.json) of a checkpoint in several files"
            )
        raise IntegrityError(
            f"{origin.where} holds the weights of another architecture: missing {first(missing)}, unexpected "
            f'{first(best.unknown)}; name the architecture that they are of, or set task.model.rename = "order" where '
            f"only the names differ"
        )
    chosen = complete[0]
    if others := [weights.prefix for weights in complete[1:] if not _equal(weights.entries, chosen.entries)]:
        keys = " or ".join(f'"{prefix.rstrip(".")}"' for prefix in (chosen.prefix, *others))
        raise IntegrityError(
            f"{origin.where} holds {len(others) + 1} sets of weights that differ; choose one by task.model.weights_key "
            f"= {keys}"
        )
    return chosen


def _fitted(flat: dict[str, Tensor], versions: Versions, prefix: str, architecture: Architecture) -> Weights:
    """The set under a prefix, as the architecture takes it best: as it is, as of today's version, or translated."""
    own = architecture.model.state_dict()
    names = {bare(name): name for name in own}
    modules = {bare(f"{name}."): name for name, _ in architecture.model.named_modules()} | {"": "", ".": ""}
    entries = {
        names.get(rest, rest): value
        for name, value in flat.items()
        if name.startswith(prefix) and (rest := name.removeprefix(prefix))
    }
    elsewhere = _elsewhere(flat, required(name for name in own if name not in entries), len(own))
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
        (entries, metadata(own)),
        (architecture.translated(entries), metadata(own)),
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
            if f".{whole}".endswith(f".{bare(name)}"):
                found[whole.removesuffix(bare(name))][name] = whole
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


def _paired(parts: list[Entries], architecture: Architecture, origin: Origin) -> list[Weights]:
    """The mappings of a file whose entries pair with the architecture's by order.

    Raises:
        IntegrityError: None does; it says why the largest does not.
    """
    own = architecture.model.state_dict()
    key = "" if origin.key is None else f"{origin.key}.".lstrip(".")
    sizable = sorted((group for group in parts if group.path.startswith(key)), key=lambda group: -len(group.tensors))
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
        found.append(_taken(architecture.model, Weights(group.path, entries, metadata(own))))
    if not found and errors:
        raise errors[0]
    return found


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def first(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return f"'{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "") if names else "none"
