"""Packing a recovered model into named tensors, and unpacking it.

For a compressed layer ``fc1`` the tensors are ``fc1.weight.<kind>``, one per packed tensor of its weight, and what the
adapter trained, under the adapter's names (``fc1.lora_A``). All other tensors of the model's ``state_dict`` are stored
unchanged.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.adapt.contract import Adapter, blank, stored_model
from pipeline.adapt.loaded_layers import LowRankSum
from pipeline.compress.contract import CompressedModel, Compression
from pipeline.compress.layers import group_count, matrix_shape, replace_weight, weight_matrix
from pipeline.compress.weight import CompressedWeight
from pipeline.errors import IntegrityError, UsageError
from pipeline.export.joined import join
from pipeline.task.bare_model import replace_modules
from pipeline.task.inspection import first_keys
from pipeline.task.tensor_cache import restore_state


def pack_model(compressed: CompressedModel, adapter: Adapter, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pack a compressed model and the trained tensors of its adapter into the named tensors of a file."""
    stored = stored_model(adapter, compressed, parameters)
    if compressed.storage.coding == "rans":
        return join(stored.coded)
    tensors = stored.tensors()
    return {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}


@dataclass(frozen=True)
class PackedMethod:
    """How the model of a checkpoint was compressed and adapted."""

    compression: Compression
    layers: Sequence[str]
    adapter: Adapter
    alpha: float
    head: Sequence[str] = ()
    ranks: Mapping[str, int] | None = None  # of each layer with an adapter; None if all have one (old cards)


def unpack_model(
    model: nn.Module, tensors: Mapping[str, Tensor], method: PackedMethod, *, merge: bool = False
) -> nn.Module:
    """Replace the tensors of a bare architecture by packed ones, the inverse of ``pack_model``; frozen, in eval mode.

    Compressed weights become dense. Each layer with an adapter becomes ``Adapter.loaded_layer``, or with ``merge``
    stays the bare layer with ``Adapter.merged`` for its weight. All tensors have the dtype and the device of the ones
    replaced.

    Raises:
        IntegrityError: The first tensors that do not fit the architecture.
        UsageError: ``model`` has an adapter already.
        SpecError: The adapter cannot be merged.
    """
    _refuse_adapted(model)
    method.compression.reshape(model, tensors)
    dense = {f"{name}.weight" for name in method.layers}
    modules = dict(model.named_modules())
    prefixes = tuple(f"{name}." for name in method.layers if name in modules)
    names, firsts = first_keys(model, tied=False), first_keys(model)
    tensors = {key: tensor for key, tensor in tensors.items() if names.get(key, key) == key}  # old files hold all names
    packed = {key for key in tensors if key.rpartition(".")[0] in dense}
    for key in tensors:
        if firsts.get(key, key) != key:  # the file unties it, because it was trained apart
            owner, _, name = key.rpartition(".")
            model.get_submodule(owner).register_parameter(name, nn.Parameter(torch.empty_like(tensors[key])))
    state = {
        key: tensor
        for key, tensor in model.state_dict().items()
        if key not in dense and names.get(key) == key and (firsts[key] == key or key in tensors)
    }
    trained = {key: tensor for key, tensor in tensors.items() if key not in packed and key not in state}
    missing = [key for key in state if key not in tensors or tensors[key].shape != state[key].shape]
    unexpected = sorted(key for key in tensors if key not in state and not key.startswith(prefixes))
    if missing or unexpected:
        raise _misfit(missing, unexpected)
    restore_state(model, {key: tensors[key] for key in state})
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in method.layers}
    for key in packed:
        weight, _, kind = key.rpartition(".")
        parts[weight.removesuffix(".weight")][kind] = tensors[key]
    _spread_shared(parts, method.compression)
    weights = dict[str, CompressedWeight]()
    for name, part in parts.items():
        owner = firsts.get(f"{name}.weight", "").removesuffix(".weight")
        if owner in weights and not part:  # the model ties the two layers
            weights[name] = weights[owner]
            replace_weight(model, name, weights[name].dense())
        else:
            weights[name] = _load_weight(model, name, method.compression, part)
    compressed = CompressedModel(model, weights, model, method.head)
    loaded = {}
    for name, parameters in _added_parameters(compressed, method, trained, state).items():
        layer = model.get_submodule(name)
        if merge:
            replace_weight(model, name, method.adapter.merged(weight_matrix(layer), parameters, method.alpha))
        else:
            loaded[name] = method.adapter.loaded_layer(layer, parameters, method.alpha)
    replace_modules(model, loaded)
    return model.eval().requires_grad_(False)


def _added_parameters(
    compressed: CompressedModel, method: PackedMethod, trained: Mapping[str, Tensor], state: Collection[str]
) -> dict[str, dict[str, Tensor]]:
    """What the adapter added to each layer, by the names of the layer and of the parameter, in the adapter's order.

    ``trained`` are its stored tensors; what it trained whole has its name in ``state``, or is in a weight.
    """
    adapter, ranks = method.adapter, method.ranks
    blanks = blank(adapter, compressed, dict.fromkeys(method.layers, 1) if ranks is None else ranks)
    left = adapter.absorb(compressed.weights, blanks)[1]
    wanted = adapter.to_tensors(left)
    absent = {key for key in wanted if key not in state and key not in trained and (trained or ranks)}
    misshapen = {key for key in trained.keys() & wanted.keys() if ranks and _form(trained[key]) != _form(wanted[key])}
    if absent or misshapen or not trained.keys() <= wanted.keys():
        raise _misfit(sorted(absent | misshapen), sorted(trained.keys() - wanted.keys()))
    added: dict[str, dict[str, Tensor]] = {}
    for key, tensor in adapter.from_tensors({key: trained[key] for key in wanted if key in trained}, left).items():
        layer, _, name = key.rpartition(".")
        added.setdefault(layer, {})[name] = tensor
    return added


def _refuse_adapted(model: nn.Module) -> None:
    """Raise ``UsageError`` if a model has an adapter."""
    adapted = [name for name, module in model.named_modules() if isinstance(module, LowRankSum)]
    if adapted:
        raise UsageError(
            f"the model given as model= was loaded from a checkpoint before: its layer '{adapted[0]}' has an adapter; "
            f"give a new instance of the bare architecture"
        )


def _spread_shared(parts: Mapping[str, dict[str, Tensor]], compression: Compression) -> None:
    """Give each layer the packed tensors that the file holds under an earlier one for both, in place."""
    held: dict[tuple[str, str], Tensor] = {}
    for name, part in parts.items():
        if part.keys() <= {"dense"}:  # it stayed dense, or another one stores its weight
            continue
        for kind, key in compression.of_layer(name).shared_kinds.items():
            if kind in part and (kind, key) in held:
                raise _misfit([], [f"{name}.weight.{kind}"])
            if kind in part:
                held[kind, key] = part[kind]
            elif (kind, key) in held:
                part[kind] = held[kind, key]


def _load_weight(
    model: nn.Module, name: str, compression: Compression, tensors: Mapping[str, Tensor]
) -> CompressedWeight:
    """Unpack the compressed weight of one layer, and put it into the model in place."""
    try:
        layer = model.get_submodule(name)
        weight = compression.of_layer(name).load_weight(tensors, matrix_shape(layer), group_count(layer))
        dense = weight.dense()
        given, repacked = (
            {kind: _form(tensor) for kind, tensor in parts.items()} for parts in (tensors, weight.to_tensors())
        )
        fits = dense.shape == matrix_shape(layer) and dense.is_floating_point() and given == repacked
    except (AttributeError, KeyError, ValueError, IndexError, RuntimeError, TypeError):
        fits = False
    if not fits:
        raise _misfit([f"{name}.weight"], [])
    replace_weight(model, name, dense.to(layer.get_parameter("weight")))
    return weight


def _form(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _misfit(missing: list[str], unexpected: list[str]) -> IntegrityError:
    return IntegrityError(
        f"the checkpoint is of another architecture: first missing or misshapen {missing[:3] or 'none'}, first "
        f"unexpected {unexpected[:3] or 'none'}; give the architecture that was exported"
    )
