"""The bare form of a model: without wrappers, and of tensors and modules that can be replaced and stored."""

import copy
import json
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Mapping

from torch import Tensor, nn
from torch.jit import ScriptModule
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import UninitializedParameter

from pipeline.errors import IntegrityError

WEIGHTED = (nn.Linear, nn.Conv2d)
"""Classes of the layers that can be compressed and adapted."""

WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "ModelEma": "ema",
    "ModelEmaV2": "module",
    "ModelEmaV3": "module",
    "OptimizedModule": "_orig_mod",
}
"""Classes of torch and timm that contain a model under one name and compute what it computes."""


def bare(model: nn.Module) -> nn.Module:
    """The model without wrappers (``WRAPPERS``), which are looked through at any depth; those inside it are removed.

    A model that is a single layer becomes the layer ``layer`` of a ``Sequential``.

    Raises:
        IntegrityError: It is no ``nn.Module``, is compiled to TorchScript, or has a lazy layer without weights.
    """
    model = _unwrapped(model)
    _refuse_unusable(model)
    for name, module in list(model.named_modules()):
        if _unwrapped(module) is not module:
            replace_modules(model, {name: _unwrapped(module)})
    return nn.Sequential(OrderedDict(layer=model)) if isinstance(model, WEIGHTED) else model


def _unwrapped(module: nn.Module) -> nn.Module:
    kind = type(module)
    known = kind.__module__.startswith(("torch.", "timm.")) and kind.__name__ in WRAPPERS
    return _unwrapped(module.get_submodule(WRAPPERS[kind.__name__])) if known else module


def _refuse_unusable(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise IntegrityError(f"the model is a {type(model).__name__}; give an nn.Module with trained weights")
    known = set(model.modules())
    for name, module in model.named_modules():
        where = f"'{name}' of the model" if name else "the model"
        if isinstance(module, ScriptModule):
            raise IntegrityError(
                f"{where} is TorchScript ({type(module).__name__}), whose layers cannot be replaced; give the "
                f"nn.Module that it was made from"
            )
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise IntegrityError(
                f"{where} is a {type(module).__name__} without running statistics, so that the logits of an image "
                f"depend on the other images of its batch; make it with track_running_stats=True, and train it"
            )
        if any(tensor.is_meta for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
            raise IntegrityError(
                f"{where} is on the meta device, where tensors hold no values; build it on the CPU or a GPU"
            )
        outside = [key for key, value in vars(module).items() if _holds_other_layers(value, known)]
        if outside:
            raise IntegrityError(
                f"'{outside[0]}' of {where} holds layers in a Python {type(vars(module)[outside[0]]).__name__}, where "
                f"torch neither counts nor saves them; put them into an nn.ModuleList or nn.ModuleDict"
            )
        if any(isinstance(parameter, UninitializedParameter) for parameter in module.parameters(recurse=False)):
            raise IntegrityError(
                f"{where} is a {type(module).__name__} that has no weights yet; run the model on one image first"
            )


def _holds_other_layers(value: object, known: Collection[nn.Module]) -> bool:
    """Whether a plain list or table holds modules with parameters that are none of the model's."""
    items = value if isinstance(value, list | tuple) else value.values() if type(value) is dict else ()
    others = (item for item in items if isinstance(item, nn.Module) and item not in known)
    return any(True for other in others for _ in other.parameters())


def bare_copy(model: nn.Module) -> nn.Module:
    """A copy of the bare model in eval mode and frozen, also where hooks keep tensors of the last forward pass."""
    model = _unwrapped(model)
    _refuse_unusable(model)
    return bare(copy.deepcopy(model, computed_tensors(model))).eval().requires_grad_(False)


def computed_tensors(model: nn.Module) -> dict[int, object]:
    """Copies of the tensors that hooks left in a model's last forward pass, by id; ``deepcopy`` would refuse them."""
    return {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }


def names_of(model: nn.Module) -> dict[nn.Module, list[str]]:
    """All names of each module; a module that the model contains twice has several."""
    names = defaultdict[nn.Module, list[str]](list)
    for name, module in model.named_modules(remove_duplicate=False):
        names[module].append(name)
    return names


def replace_modules(model: nn.Module, replacements: Mapping[str, nn.Module]) -> None:
    """Replace modules by name, wherever the model holds them: under all names, and in plain lists and tables."""
    by_id = {id(model.get_submodule(name)): new for name, new in replacements.items()}

    def replaced(value: object) -> object:
        if isinstance(value, nn.Module):
            return by_id.get(id(value), value)
        if isinstance(value, list) and any(id(item) in by_id for item in value):
            return [replaced(item) for item in value]
        if type(value) is tuple and any(id(item) in by_id for item in value):
            return tuple(replaced(item) for item in value)
        return value

    for holder in list(model.modules()):
        for table in (
            holder._modules,
            *(value for value in vars(holder).values() if type(value) is dict),
            vars(holder),
        ):
            for key, value in list(table.items()):
                if (new := replaced(value)) is not value:
                    table[key] = new


def tensor_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model's ``state_dict``."""
    return {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}


def extra_state(model: nn.Module) -> dict[str, object]:
    """What modules keep by ``get_extra_state`` that is no tensor, by key of the ``state_dict``; JSON values.

    Raises:
        IntegrityError: Something of the model's state is neither a tensor nor a JSON value.
    """
    extra = {key: value for key, value in model.state_dict().items() if not isinstance(value, Tensor)}
    for key, value in extra.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise IntegrityError(
                f"'{key}' of the model's state is a {type(value).__name__}, which a checkpoint cannot hold: it holds "
                f"tensors and JSON values; give the float32 model, or let get_extra_state return such values"
            ) from None
    return extra
