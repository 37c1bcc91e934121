"""The layers of a model that a study compresses and adapts, chosen by glob or by group."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from pipeline.compress.attention import is_fused_qkv
from pipeline.compress.layers import matrix_shape
from pipeline.config.combination_spec import TargetSpec
from pipeline.config.table import nearest
from pipeline.errors import SpecError
from pipeline.task.bare_model import names_of
from pipeline.task.inspection import Inspection, layer_names, obstacle

QUERIES = ({"qkv"}, {"q", "k", "v"}, {"q", "kv"}, {"qk", "v"}, {"query", "key", "value"})
"""Sets of names of an attention module's projections, without the prefix ``to_`` or the suffix ``_proj``."""

Group = Callable[[Inspection, Sequence[str]], list[str]]
"""The layers of a group, of the names of all layers."""

FEED_FORWARD = re.compile(r"(.*_)?(mlp|ffn?|feed_?forward)\d*(_.*)?", re.IGNORECASE)
"""Names of modules that contain a feed-forward network."""


def resolve(
    inspected: Inspection, entries: Sequence[TargetSpec | str], option: str = "targets"
) -> dict[str, TargetSpec]:
    """The layers that ``entries`` choose, in the model's order, each with the entry that applies to it.

    An entry is the name of a group or a glob over names of layers; a group takes precedence over a layer of the same
    name. If several entries match a layer the last one applies, so general entries come first and exceptions after
    them. A layer under several names matches by any of them, and is called by the first. Groups and globs with
    wildcards leave out layers that the model never calls. The groups:

    - ``all``: every layer, as ``*``; ``linear`` and ``conv``: the layers of that class.
    - ``head``: the layer that gives the logits, found by running the model; several if their outputs are combined.
    - ``attention``: Linear layers in a module with query, key and value projections: children named as in ``QUERIES``
      (or ``to_q``, ``q_proj``, ...), or an ``in_proj`` with three times as many outputs as ``out_proj`` has inputs.
    - ``mlp``: Linear layers and 1 x 1 convolutions in a module called ``mlp``, ``ffn``, ``ff`` or ``feed_forward``,
      alone or with other words, or with layers ``linear1`` and ``linear2``, whose last layer has as many outputs as the
      first has inputs. A plain MLP has none.

    Raises:
        SpecError: An entry matches no layer, or only layers that cannot be adapted or that the model never calls; the
            options of an entry have no effect because later entries override it; or all layers stay dense.
    """
    names = layer_names(inspected.model)
    rules = [TargetSpec.model_validate(entry) for entry in entries]
    matched = [(rule, _matches(inspected, names, rule.match)) for rule in rules]
    unmatched = [f"'{rule.match}' {_mismatch(inspected, names, rule.match)}" for rule, found in matched if not found]
    if unmatched:
        few = names if len(names) <= 12 else [*names[:10], f"... {names[-1]} ({len(names)} in all)"]
        raise SpecError(
            f"{option}: {'; '.join(unmatched)}; layers: {', '.join(few)}; groups: {', '.join(sorted(GROUPS))}"
        )
    chosen = {name: rule for rule, found in matched for name in found}
    for rule in rules:
        if (rule.dense or rule.rank or rule.compression) and all(rule is not holds for holds in chosen.values()):
            raise SpecError(
                f"{option}: '{rule.match}' has no effect, because later entries override it; put it after them"
            )
    targets = [name for name in names if name in chosen and not chosen[name].dense]
    if not targets:
        raise SpecError(f'{option}: all layers that match are dense = true, so none is left to train; put "*" first')
    return {name: chosen[name] for name in targets}


def fixed_ranks(model: nn.Module, chosen: Mapping[str, TargetSpec]) -> dict[str, int]:
    """The rank of each layer whose entry fixes it, clipped to what the layer can take."""
    return {
        name: min(entry.rank, *matrix_shape(model.get_submodule(name)))
        for name, entry in chosen.items()
        if entry.rank is not None
    }


def find_targets(model: nn.Module, entries: Sequence[TargetSpec | str], option: str = "targets") -> list[str]:
    """Names of the layers that ``resolve`` chooses in a model that was not run; its head is found by name."""
    not_run = Inspection(model, 0, tuple(head_by_name(model)), dict.fromkeys(layer_names(model), 1))
    return list(resolve(not_run, entries, option))


def _matches(inspected: Inspection, names: Sequence[str], match: str) -> list[str]:
    if match in GROUPS:
        found = GROUPS[match](inspected, names)
    else:
        aliases = names_of(inspected.model)
        found = [
            name
            for name in names
            if any(fnmatchcase(alias, match) for alias in aliases[inspected.model.get_submodule(name)])
        ]
    return [name for name in found if inspected.positions[name]]


def _mismatch(inspected: Inspection, names: Sequence[str], match: str) -> str:
    model = inspected.model
    if match == "head" and inspected.head:
        head = inspected.head[0]
        return f"is '{head}', {obstacle(model.get_submodule(head))}"
    if match in GROUPS:
        return "matches no layer"
    idle = [name for name in names if fnmatchcase(name, match)]
    if idle:
        return (
            f"matches '{idle[0]}', which the model never calls, so that no adapter would act there; leave it out (some "
            f"attention layers read a weight themselves)"
        )
    refused = [name for name, _ in model.named_modules() if name and name not in names and fnmatchcase(name, match)]
    if refused:
        why = obstacle(model.get_submodule(refused[0])) or "read by the attention layer that contains it"
        return f"matches '{refused[0]}', {why}"
    return f"matches no layer{nearest(match, [*names, *GROUPS])}"


def head_by_name(model: nn.Module) -> list[str]:
    """The head of a model that was not run: timm's ``get_classifier()``, or the layer ``head``, or the last one."""
    names = layer_names(model)
    found: object = getattr(model, "get_classifier", tuple)()
    classifiers = found if isinstance(found, tuple | list) else (found,)
    inside = {module for head in classifiers if isinstance(head, nn.Module) for module in head.modules()}
    heads = [name for name in names if model.get_submodule(name) in inside]
    return heads or [name for name in names if name == "head"] or list(names[-1:])


def _of_class(kind: type[nn.Module]) -> Group:
    return lambda inspected, names: [name for name in names if isinstance(inspected.model.get_submodule(name), kind)]


def _head(inspected: Inspection, names: Sequence[str]) -> list[str]:
    return [name for name in names if name in inspected.head]


def _attention(inspected: Inspection, names: Sequence[str]) -> list[str]:
    model, linear = inspected.model, GROUPS["linear"](inspected, names)
    return [name for name in linear if _is_attention(model.get_submodule(_block(model, name)))]


def _mlp(inspected: Inspection, names: Sequence[str]) -> list[str]:
    model = inspected.model
    blocks = defaultdict[str, list[str]](list)
    for name in names:
        block = _block(model, name)
        layer = model.get_submodule(name)
        spatial = isinstance(layer, nn.Conv2d) and (layer.kernel_size != (1, 1) or layer.groups != 1)
        if _is_feed_forward(model, block) and not spatial:
            blocks[block].append(name)
    shapes = {name: matrix_shape(model.get_submodule(name)) for name in names}
    # A block whose output width differs from its input width is a classifier, or a network for position biases.
    feed_forward = [layers for layers in blocks.values() if shapes[layers[-1]][0] == shapes[layers[0]][1]]
    return [name for layers in feed_forward for name in layers]


GROUPS: Mapping[str, Group] = {
    "all": _of_class(nn.Module),
    "attention": _attention,
    "conv": _of_class(nn.Conv2d),
    "head": _head,
    "linear": _of_class(nn.Linear),
    "mlp": _mlp,
}


def _block(model: nn.Module, name: str) -> str:
    """The name of the innermost attention or feed-forward module that contains a layer; ``""`` if there is none."""
    while name:
        name = name.rpartition(".")[0]
        if _is_feed_forward(model, name) or _is_attention(model.get_submodule(name)):
            break
    return name


def _is_feed_forward(model: nn.Module, name: str) -> bool:
    named = FEED_FORWARD.fullmatch(name.rpartition(".")[2]) is not None
    return named or {"linear1", "linear2"} <= {child for child, _ in model.get_submodule(name).named_children()}


def _is_attention(module: nn.Module) -> bool:
    children = dict(module.named_children())
    if "in_proj" in children and "out_proj" in children:
        return hasattr(children["in_proj"], "q") or is_fused_qkv(children["in_proj"], module)
    stems = {name.removeprefix("to_").removesuffix("_proj") for name in children}
    return any(projections <= stems for projections in QUERIES)
