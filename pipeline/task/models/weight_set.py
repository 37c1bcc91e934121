"""A set of weights under the names of an architecture, what it has to fit, and where it comes from."""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.task.models.flat_entries import Versions, required

BOOKKEEPING = ("n_averaged", "total_ops", "total_params")
"""Entries that averaging and counters of operations add to a model."""


def versioned(entries: dict[str, Tensor], versions: Versions) -> "OrderedDict[str, Tensor]":
    """A state dict with ``_metadata``, which torch keeps in an attribute."""
    state = OrderedDict(entries)
    vars(state)["_metadata"] = versions
    return state


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
        """Whether it is the whole model, or all but its head, and nothing else of a model but another head."""
        lacking = required(self.missing)
        if (lacking and not architecture.head().issuperset(lacking)) or any(self.computed()):
            return False
        head = tuple(f"{name.rpartition('.')[0]}." for name in lacking)
        # Another model's entries stand in modules of the same names; those of a loss stand beside them.
        parts = {name.partition(".")[0] for name, _ in architecture.model.named_modules()} - {""}
        strangers = [name for name in self.unknown if "." not in name or name.partition(".")[0] in parts]
        return all(name.endswith(BOOKKEEPING) or name.startswith(head) for name in strangers)

    def computed(self) -> Iterator[tuple[str, str]]:
        """Missing entries, each with an unknown one that it is computed from."""
        for name in required(self.missing):
            module = name.rpartition(".")[0]
            inside = ("parametrizations", "base_layer", "_packed_params")  # of torch's, of PEFT's, quantised
            made_of = (f"{name}.", f"{name}_", *(f"{module}.{part}." for part in inside))
            yield from ((name, other) for other in self.unknown if other.startswith(made_of))

    def faults(self) -> int:
        """How many entries are missing or unknown."""
        return len(self.missing) + len(self.unknown)

    def state(self, model: nn.Module) -> "OrderedDict[str, Tensor]":
        """What ``model.load_state_dict`` takes; what is missing is as in ``model``."""
        own = model.state_dict()
        return versioned({**self.entries, **{name: own[name] for name in self.missing}}, self.versions)

    def left_out(self) -> list[str]:
        """What of the file is no part of the set: entries, or the keys that hold several of them."""
        parts: dict[str, list[str]] = defaultdict(list)
        for name in (*self.outside, *(name for name in self.unknown if not name.endswith(BOOKKEEPING))):
            parts[name.partition(".")[0]].append(name)
        return [
            f"'{part}' ({len(names)} entries)" if len(names) > 1 else f"'{names[0]}'" for part, names in parts.items()
        ]
