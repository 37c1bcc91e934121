"""A recovered model as named tensors, packed, and back.

A file holds, for a compressed layer ``fc1``, ``fc1.weight.<kind>`` for each packed tensor, what the adapter trained
under its own names (``fc1.lora_A``), and every untouched tensor of the model's ``state_dict`` as it is.
"""

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from pipeline.adapt.contract import Adapter, blank
from pipeline.adapt.lanes import Lanes, attach
from pipeline.compress.contract import CompressedModel, Compression
from pipeline.compress.layers import group_count, matrix_shape, replace_weight
from pipeline.compress.weight import CompressedWeight
from pipeline.errors import IntegrityError


def pack_model(compressed: CompressedModel, adapter: Adapter, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a recovered model.

    Args:
        compressed: The compressed model that was adapted.
        adapter: What was trained.
        parameters: Its tensors.
    """
    weights, left = adapter.absorb(compressed.weights, parameters)
    packed = {
        f"{name}.weight.{kind}": tensor
        for name, weight in weights.items()
        for kind, tensor in weight.to_tensors().items()
    }
    dense = {f"{name}.weight" for name in weights}
    untouched = {key: tensor for key, tensor in compressed.model.state_dict().items() if key not in dense}
    tensors = {**packed, **untouched, **adapter.to_tensors(left)}
    return {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}


def unpack_model(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    compression: Compression,
    targets: list[str],
    adapter: Adapter,
    alpha: float,
    adapted: Collection[str] | None = None,
) -> nn.Module:
    """Fill a bare architecture with packed tensors.

    Args:
        model: The architecture; its tensors are replaced.
        tensors: What ``pack_model`` gave.
        compression: What compressed the targets.
        targets: The compressed layers.
        adapter: What was trained.
        alpha: Its alpha.
        adapted: The targets that have an adapter; all, where not given.

    Raises:
        IntegrityError: The tensors are not those of this architecture; the first that differ are named.
    """
    compression.reshape(model, tensors)
    dense = {f"{name}.weight" for name in targets}
    layers = dict(model.named_modules())
    held = tuple(f"{name}." for name in targets if name in layers)
    packed = {key for key in tensors if key.rpartition(".")[0] in dense}
    own = {key: tensor for key, tensor in model.state_dict().items() if key not in dense}
    beside = {key: tensor for key, tensor in tensors.items() if key not in packed and key not in own}
    missing = [key for key in own if key not in tensors or tensors[key].shape != own[key].shape]
    strange = sorted(key for key in tensors if key not in own and not key.startswith(held))
    if missing or strange:
        raise _another(missing, strange)
    model.load_state_dict({key: tensors[key] for key in own}, strict=False)
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in targets}
    for key in packed:
        weight, _, kind = key.rpartition(".")
        parts[weight.removesuffix(".weight")][kind] = tensors[key]
    weights = {name: _load_weight(model, name, compression, part) for name, part in parts.items()}
    compressed = CompressedModel(model, weights, model)
    # What the adapter trained whole, or made part of a weight, is there already.
    blanks = blank(adapter, compressed, dict.fromkeys(targets if adapted is None else adapted, 1))
    names = adapter.to_tensors(adapter.absorb(weights, blanks)[1]).keys() - own.keys()
    if beside and names != beside.keys():
        raise _another(sorted(names - beside.keys()), sorted(beside.keys() - names))
    if beside:
        lane = {key: tensor[None] for key, tensor in adapter.from_tensors(beside).items()}
        attach(model, adapter, Lanes([(lane, [alpha])]))
    return model.eval().requires_grad_(False)


def _load_weight(
    model: nn.Module, name: str, compression: Compression, tensors: Mapping[str, Tensor]
) -> CompressedWeight:
    """Give a layer its compressed weight back, in place."""
    try:
        layer = model.get_submodule(name)
        weight = compression.load_weight(tensors, matrix_shape(layer), group_count(layer))
        fits = weight.bits.total() == 8 * sum(tensor.nbytes for tensor in tensors.values())
    except (AttributeError, KeyError, ValueError, IndexError, RuntimeError):
        fits = False
    if not fits:
        raise _another([f"{name}.weight"], [])
    replace_weight(model, name, weight.dense())
    return weight


def _another(missing: list[str], strange: list[str]) -> IntegrityError:
    return IntegrityError(
        f"the checkpoint is of another architecture: first missing or misshapen {missing[:3] or 'none'}, first "
        f"unexpected {strange[:3] or 'none'}"
    )
