"""The one set of weights in the content of a file, under the names of an architecture.

The architecture's own ``load_state_dict`` decides whether a set is complete. Several that differ are asked about.
"""

import copy
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from pipeline.errors import IntegrityError
from pipeline.task.models.flat_entries import Entries, Versions, bare, flattened, groups, metadata, prefixes, required
from pipeline.task.models.order import pair_by_order
from pipeline.task.models.weight_set import Architecture, Origin, Weights, versioned
from pipeline.task.models.weights_file import pickled_classes

SHOWN = 3
"""How many of the parts that are left out a message names."""


def find_weights(content: object, architecture: Architecture, origin: Origin) -> Weights:
    """The one complete set of weights in the content of a file.

    Raises:
        IntegrityError: The file holds no set that is complete, or several that differ.
    """
    parts = list(groups(content))
    if not any(group.tensors for group in parts):
        classes = pickled_classes(content)
        held = f", but pickled objects of {', '.join(classes)}" if classes else ""
        raise IntegrityError(f"{origin.where} holds no state dict{held}; save what model.state_dict() gives")
    flat, versions = flattened(parts)
    starts = prefixes(flat, architecture.model.state_dict(), _key(flat, origin))
    found = [_fitted(flat, versions, prefix, architecture) for prefix in starts]
    complete = [weights for weights in found if weights.is_complete(architecture)]
    if origin.by_order:
        complete = [_with_other_head(weights, flat, architecture, origin) for weights in complete] or _paired(
            parts, architecture, origin
        )
    if not complete:
        raise _misfit(min(found, key=Weights.faults), origin.where)
    chosen = complete[0]
    if others := [weights.prefix for weights in complete[1:] if not _equal(weights.entries, chosen.entries)]:
        keys = " or ".join(f'"{prefix.rstrip(".")}"' for prefix in (chosen.prefix, *others))
        raise IntegrityError(
            f"{origin.where} holds {len(others) + 1} sets of weights that differ; choose one by task.model.weights_key "
            f"= {keys}"
        )
    return chosen


def _key(flat: Mapping[str, Tensor], origin: Origin) -> str | None:
    """How the names of the set that is meant begin; ``None`` if none is named."""
    if origin.key is None:
        return None
    key = f"{origin.key.rstrip('.')}.".lstrip(".")
    for start in (key, bare(key)):
        if any(name.startswith(start) for name in flat):
            return start
    keys = ", ".join(f"'{name}'" for name in sorted({name.partition(".")[0] for name in flat})[:SHOWN])
    raise IntegrityError(f"{origin.where} holds nothing under task.model.weights_key = '{origin.key}'; it has {keys}")


def _misfit(best: Weights, where: str) -> IntegrityError:
    """Why the set that fits best is not complete."""
    missing = required(best.missing)
    for name, other in best.computed():
        return IntegrityError(
            f"{where}: '{name}' is computed from '{other}'; give plain weights, as models have before a quantisation, "
            f"after prune.remove, remove_parametrizations or merge_and_unload, or from pipeline.load(..., merge=True)"
        )
    if not best.unknown:
        return IntegrityError(
            f"{where} holds a part of the weights: missing {first(missing)}; give the file of all that "
            f"model.state_dict() gives, or the index (.index.json) of a checkpoint in several files"
        )
    return IntegrityError(
        f"{where} holds the weights of another architecture: missing {first(missing)}, unexpected "
        f'{first(best.unknown)}; name the architecture that they are of, or set task.model.rename = "order" where only '
        f"the names differ"
    )


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
    entries = {name: value for name, value in entries.items() if f"{prefix}{name}" not in elsewhere.values()}
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
        weights = _taken(architecture.model, Weights(prefix, attempt, facts, outside=tuple(outside)))
        if weights.is_complete(architecture):
            return weights
        tried.append(weights)
    return min(tried, key=Weights.faults)


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
            missing, unknown = probe.load_state_dict(versioned(known, weights.versions), strict=False)
    except (RuntimeError, ValueError):
        missing, unknown = list(own), list(known)
    entries = {name: value for name, value in weights.entries.items() if name not in set(unknown)}
    return replace(weights, entries=entries, missing=tuple(missing), unknown=tuple(unknown))


def _with_other_head(
    weights: Weights, flat: Mapping[str, Tensor], architecture: Architecture, origin: Origin
) -> Weights:
    """A set that lacks its head with the one that lies beside it under other names, if there is one."""
    own, lacking = architecture.model.state_dict(), required(weights.missing)
    if not lacking:
        return weights
    beside = [*(f"{weights.prefix}{name}" for name in weights.unknown), *weights.outside]
    try:
        head = pair_by_order(
            {name: flat[name] for name in beside if name in flat},
            {name: own[name] for name in lacking},
            ordered=origin.ordered,
            is_head=lambda _: True,
            where=origin.where,
        )
    except IntegrityError:
        return weights
    missing = tuple(name for name in weights.missing if name not in head)
    return replace(weights, entries={**weights.entries, **head}, missing=missing, unknown=(), outside=())


def _paired(parts: list[Entries], architecture: Architecture, origin: Origin) -> list[Weights]:
    """The mappings of a file whose entries pair with the architecture's by order.

    Raises:
        IntegrityError: None does; it says why the largest does not.
    """
    own = architecture.model.state_dict()
    key = "" if origin.key is None else f"{origin.key.rstrip('.')}.".lstrip(".")
    chosen = (
        (group, {name: value for name, value in group.tensors.items() if f"{group.path}{name}".startswith(key)})
        for group in parts
    )
    sizable = sorted(((group, tensors) for group, tensors in chosen if tensors), key=lambda pair: -len(pair[1]))
    found, errors = list[Weights](), list[IntegrityError]()
    for group, tensors in sizable:
        try:
            entries = pair_by_order(
                tensors,
                own,
                ordered=origin.ordered,
                is_head=lambda name: name in architecture.head(),
                where=origin.where,
            )
        except IntegrityError as error:
            errors.append(error)
            continue
        outside = [
            f"{other.path}{name}"
            for other in parts
            for name in other.tensors
            if other is not group or name not in tensors
        ]
        weights = Weights(group.path, entries, metadata(own), outside=tuple(outside))
        found.append(_taken(architecture.model, weights))
    if not found and errors:
        raise errors[0]
    return found


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        value.dtype == second[name].dtype and torch.equal(value, second[name]) for name, value in first.items()
    )


def first(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return f"'{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "") if names else "none"
