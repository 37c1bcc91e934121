"""A recovered model as named tensors, packed, and back.

A file holds, for a compressed layer ``fc1``, ``fc1.weight.<kind>`` for each packed tensor, what the adapter trained
under its own names (``fc1.lora_A``), and every untouched tensor of the model's ``state_dict`` as it is.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from pipeline.adapt.contract import Adapter
from pipeline.compress.contract import CompressedModel, LayerCompression
from pipeline.compress.layers import group_count, matrix_shape, replace_weight
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
    compression: LayerCompression,
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
    strange = [key for key in tensors if key not in own and not key.startswith(held)]
    if missing or strange:
        raise _another(missing, strange)
    model.load_state_dict({key: tensors[key] for key in own}, strict=False)
    for name in targets:
        prefix = f"{name}.weight."
        parts = {key.removeprefix(prefix): tensors[key] for key in packed if key.startswith(prefix)}
        try:
            weight = compression.load_weight(parts, matrix_shape(layers[name]), group_count(layers[name]))
            fits = weight.bits.total() == 8 * sum(tensor.nbytes for tensor in parts.values())
        except (KeyError, ValueError, IndexError, RuntimeError):
            fits = False
        if not fits:
            raise _another([f"{name}.weight"], [])
        replace_weight(model, name, weight.dense())
    attached = adapter.attach(model, {key: tensor[None] for key, tensor in trained.items()}, [alpha])
    if attached.keys() != trained.keys():
        raise _another([], sorted(trained.keys() - attached.keys()))
    return model.eval().requires_grad_(False)


def _another(missing: list[str], strange: list[str]) -> IntegrityError:
    return IntegrityError(
        f"the checkpoint is of another architecture: first missing or misshapen {missing[:3] or 'none'}, first "
        f"unexpected {strange[:3] or 'none'}"
    )
