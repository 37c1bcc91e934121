"""A recovered model as named tensors, packed, and back.

A file holds, for a compressed layer ``fc1``, ``fc1.weight.<kind>`` for each packed tensor, what the adapter trained
under its own names (``fc1.lora_A``), and every untouched tensor of the model's ``state_dict`` as it is.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from pipeline.adapt.contract import Adapter, adapter_parameters
from pipeline.adapt.lanes import Lanes, attach
from pipeline.compress.contract import CompressedModel, Compression
from pipeline.compress.layers import matrix_shape
from pipeline.errors import IntegrityError


def pack_model(compressed: CompressedModel, adapter: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a recovered model."""
    packed = {
        f"{name}.weight.{kind}": tensor
        for name, weight in compressed.weights.items()
        for kind, tensor in weight.to_tensors().items()
    }
    dense = {f"{name}.weight" for name in compressed.weights}
    untouched = {key: tensor for key, tensor in compressed.model.state_dict().items() if key not in dense}
    tensors = {**packed, **untouched, **adapter}
    return {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}


def unpack_model(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    compression: Compression,
    targets: list[str],
    adapter: Adapter,
    alpha: float,
) -> nn.Module:
    """Fill a bare architecture with packed tensors.

    Args:
        model: The architecture; its tensors are replaced.
        tensors: What ``pack_model`` gave.
        compression: What compressed the targets.
        targets: The compressed layers.
        adapter: What was trained.
        alpha: Its alpha.

    Raises:
        IntegrityError: The tensors are not those of this architecture; the first that differ are named.
    """
    dense = {f"{name}.weight" for name in targets}
    layers = dict(model.named_modules())
    held = tuple(f"{name}." for name in targets if name in layers)
    packed = {key for key in tensors if key.rpartition(".")[0] in dense}
    own = {key: tensor for key, tensor in model.state_dict().items() if key not in dense}
    trained = {key: tensor for key, tensor in tensors.items() if key not in packed and key not in own}
    missing = [key for key in own if key not in tensors or tensors[key].shape != own[key].shape]
    strange = sorted(key for key in tensors if key not in own and not key.startswith(held))
    if missing or strange:
        raise _another(missing, strange)
    model.load_state_dict({key: tensors[key] for key in own}, strict=False)
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in targets}
    for key in packed:
        weight, _, kind = key.rpartition(".")
        parts[weight.removesuffix(".weight")][kind] = tensors[key]
    try:
        compression.load_layers(model, parts)
    except (ValueError, AttributeError) as error:
        raise _another([f"{error}.weight"], []) from None
    shapes = {name: matrix_shape(model.get_submodule(name)) for name in targets}
    names = adapter_parameters(adapter, model, shapes, rank=1).keys() - own.keys()  # a trained bias is there already
    if trained and names != trained.keys():
        raise _another(sorted(names - trained.keys()), sorted(trained.keys() - names))
    if trained:
        attach(model, adapter, Lanes([({key: tensor[None] for key, tensor in trained.items()}, [alpha])]))
    return model.eval().requires_grad_(False)


def _another(missing: list[str], strange: list[str]) -> IntegrityError:
    return IntegrityError(
        f"the checkpoint is of another architecture: first missing or misshapen {missing[:3] or 'none'}, first "
        f"unexpected {strange[:3] or 'none'}"
    )
