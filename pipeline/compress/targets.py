"""Which layers of a model are compressed and adapted, by glob or by group."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from pipeline.compress.attention import has_thirds
from pipeline.compress.layers import layer_names, matrix_shape
from pipeline.config.combination_spec import TargetSpec
from pipeline.config.table import nearest
from pipeline.errors import SpecError

QUERIES = ({"qkv"}, {"q", "k", "v"}, {"q", "kv"}, {"qk", "v"}, {"query", "key", "value"})
"""Names of an attention module's projections, but for ``to_`` before and ``_proj`` behind."""

FEED_FORWARD = re.compile(r"(.*_)?(mlp|ffn?|feed_?forward)\d*(_.*)?", re.IGNORECASE)
"""Names of modules that hold a feed-forward network."""


def resolve(model: nn.Module, entries: Sequence[TargetSpec | str], option: str = "targets") -> dict[str, int | None]:
    """The layers that the ``entries`` of an option choose, in the model's order, with its rank, none for the cell's.

    An entry is a group or a glob over names of layers; a group goes before a layer of the same name. Where several
    entries match a layer the last one holds: the general first, the exceptions after it. The groups:

    - ``all``: every layer, as ``*``; ``linear`` and ``conv``: those of the class.
    - ``head``: timm's ``get_classifier()``; of other models the layer ``head``, or where there is none the last layer.
    - ``attention``: Linear layers in a module that holds query, key and value projections: children named as in
      ``QUERIES`` (or ``to_q``, ``q_proj``, ...), or an ``in_proj`` that gives three times what ``out_proj`` takes.
    - ``mlp``: Linear layers and 1 x 1 convolutions in a module called ``mlp``, ``ffn``, ``ff`` or ``feed_forward``,
      alone or beside other words, the last of which gives what the first takes. A plain MLP has none of them.

    Raises:
        SpecError: An entry matches no layer, or only such as cannot be adapted; its options are all overridden; or
            all layers are left dense.
    """
    names = layer_names(model)
    rules = [TargetSpec.model_validate(entry) for entry in entries]
    matched = [(rule, _matches(model, names, rule.match)) for rule in rules]
    unmatched = [f"'{rule.match}' {_why_not(model, names, rule.match)}" for rule, found in matched if not found]
    if unmatched:
        raise SpecError(
            f"{option}: {'; '.join(unmatched)}; layers: {_shortened(names)}; groups: {', '.join(sorted(GROUPS))}"
        )
    chosen = {name: rule for rule, found in matched for name in found}
    for rule in rules:
        if (rule.dense or rule.rank) and all(rule is not holds for holds in chosen.values()):
            raise SpecError(f"{option}: later entries override '{rule.match}' everywhere; put it after them")
    targets = [name for name in names if name in chosen and not chosen[name].dense]
    if not targets:
        raise SpecError(f'{option}: all that match are dense, and nothing is left to train; begin with "*"')
    ranks = {name: chosen[name].rank for name in targets}
    return {name: rank and min(rank, *matrix_shape(model.get_submodule(name))) for name, rank in ranks.items()}


def find_targets(model: nn.Module, entries: Sequence[TargetSpec | str], option: str = "targets") -> list[str]:
    """Names of the layers that ``resolve`` finds."""
    return list(resolve(model, entries, option))


def _matches(model: nn.Module, names: Sequence[str], match: str) -> list[str]:
    if match in GROUPS:
        return GROUPS[match](model, names)
    return [name for name in names if fnmatchcase(name, match)]


def _why_not(model: nn.Module, names: Sequence[str], match: str) -> str:
    others = [name for name, _ in model.named_modules() if name and name not in names]
    refused = [] if match in GROUPS else [name for name in others if fnmatchcase(name, match)]
    if refused:
        kind = type(model.get_submodule(refused[0])).__name__
        return f"matches '{refused[0]}', a {kind}, which cannot be adapted; only Linear and Conv2d layers can"
    near = "" if match in GROUPS else nearest(match, [*names, *GROUPS])
    return f"matches no layer{near}"


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:10])}, ... {names[-1]} ({len(names)} in all)"


def _of_class(kind: type[nn.Module]) -> Callable[[nn.Module, Sequence[str]], list[str]]:
    return lambda model, names: [name for name in names if isinstance(model.get_submodule(name), kind)]


def _head(model: nn.Module, names: Sequence[str]) -> list[str]:
    found: Any = getattr(model, "get_classifier", tuple)()
    classifiers = found if isinstance(found, tuple | list) else (found,)
    inside = {module for each in classifiers if isinstance(each, nn.Module) for module in each.modules()}
    own = [name for name in names if model.get_submodule(name) in inside]
    return own or [name for name in names if name == "head"] or list(names[-1:])


def _attention(model: nn.Module, names: Sequence[str]) -> list[str]:
    linear = GROUPS["linear"](model, names)
    return [name for name in linear if _is_attention(model.get_submodule(_block(model, name)))]


def _mlp(model: nn.Module, names: Sequence[str]) -> list[str]:
    blocks: dict[str, list[str]] = {}
    for name in names:
        block = _block(model, name)
        if _called_feed_forward(block) and _is_pointwise(model.get_submodule(name)):
            blocks.setdefault(block, []).append(name)
    # One that does not return to its width is something else: a classifier, or a network of position biases.
    returning = (
        inside
        for inside in blocks.values()
        if matrix_shape(model.get_submodule(inside[-1]))[0] == matrix_shape(model.get_submodule(inside[0]))[1]
    )
    return [name for inside in returning for name in inside]


GROUPS: Mapping[str, Callable[[nn.Module, Sequence[str]], list[str]]] = {
    "all": _of_class(nn.Module),
    "attention": _attention,
    "conv": _of_class(nn.Conv2d),
    "head": _head,
    "linear": _of_class(nn.Linear),
    "mlp": _mlp,
}


def _block(model: nn.Module, name: str) -> str:
    """The innermost module around a layer that is attention or feed-forward; the model itself where none is."""
    around = (each for each in _around(name) if _called_feed_forward(each) or _is_attention(model.get_submodule(each)))
    return next(around, "")


def _around(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition(".")[0]
        yield name


def _called_feed_forward(name: str) -> bool:
    return FEED_FORWARD.fullmatch(name.rpartition(".")[2]) is not None


def _is_attention(module: nn.Module) -> bool:
    children = dict(module.named_children())
    if "in_proj" in children and "out_proj" in children:
        return hasattr(children["in_proj"], "q") or has_thirds(children["in_proj"], module)
    called = {name.removeprefix("to_").removesuffix("_proj") for name in children}
    return any(projections <= called for projections in QUERIES)


def _is_pointwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (
        isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
    )
