"""What a model is: its bare form, the layers that can be compressed and adapted, and what running one image shows.

``check``, ``plan``, ``run``, sizes, packing and the card all go by this one inspection.
"""

import copy
import functools
import json
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.linear import Linear
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from pipeline.errors import IntegrityError

# A subclass with its own forward may transform its weight first, as weight standardisation does. A low-rank sum on the
# stored weight is then no low-rank sum on the weight that is multiplied.
PLAIN_FORWARDS = (nn.Linear.forward, Linear.forward, nn.Conv2d.forward, Conv2dSame.forward)

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

WEIGHTED = (nn.Linear, nn.Conv2d)

CURES = {
    "WeightNorm": "torch.nn.utils.remove_weight_norm(layer)",
    "SpectralNorm": "torch.nn.utils.remove_spectral_norm(layer)",
}
"""What makes a weight that a hook of this class computes a plain parameter; all other such hooks prune."""


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
        if isinstance(module, torch.jit.ScriptModule):
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
    computed = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return bare(copy.deepcopy(model, computed)).eval().requires_grad_(False)


def is_plain(module: nn.Module) -> bool:
    """Whether it is a Linear or Conv2d layer that multiplies with its weight as it is stored."""
    return isinstance(module, WEIGHTED) and obstacle(module) is None


def obstacle(module: nn.Module) -> str | None:
    """Why a layer can be neither compressed nor adapted, with the cure if there is one; ``None`` if it can."""
    if not isinstance(module, WEIGHTED):
        return f"a {type(module).__name__}, which cannot be adapted; only Linear and Conv2d layers can"
    if parametrize.is_parametrized(module):
        return (
            f"a {type(module).__name__} whose weight is computed by parametrizations; to adapt it call "
            f'torch.nn.utils.parametrize.remove_parametrizations(layer, "weight") first'
        )
    hooks = [type(hook).__name__ for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values())]
    if "weight" not in module._parameters:
        cures = [CURES.get(hook, 'torch.nn.utils.prune.remove(layer, "weight")') for hook in hooks]
        return (
            f"a {type(module).__name__} whose weight is computed ({', '.join(hooks) or 'no parameter'}); to adapt it "
            f"call {cures[0] if cures else 'register_parameter'} first"
        )
    if hooks:
        return f"a {type(module).__name__} with a forward hook ({', '.join(hooks)}); to adapt it remove the hook first"
    if type(module).forward not in PLAIN_FORWARDS or "forward" in vars(module):
        return f"a {type(module).__name__} with a forward of its own, which cannot be adapted"
    return None


def layer_names(model: nn.Module) -> list[str]:
    """Names of all layers that can be compressed and adapted, in the model's order; each once, by its first name.

    ``nn.MultiheadAttention`` reads its layers' weights and never calls them, so they are left out unless
    ``attention.with_plain_attention`` has replaced it.
    """
    attention = tuple(f"{n}." for n, module in model.named_modules() if isinstance(module, nn.MultiheadAttention))
    return [name for name, module in model.named_modules() if is_plain(module) and not name.startswith(attention)]


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


def first_keys(model: nn.Module, *, tied: bool = True) -> dict[str, str]:
    """For each key of a tensor in the model's ``state_dict`` the first key of the same tensor.

    They differ where the model contains a module under two names, and, if ``tied``, where layers share a weight.
    """
    firsts: dict[object, str] = {}
    keys = {}
    for key, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor):
            module, _, name = key.rpartition(".")
            keys[key] = firsts.setdefault(value if tied else (model.get_submodule(module), name), key)
    return keys


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


@dataclass(frozen=True, eq=False)
class Inspection:
    """A model and what running it on images has shown."""

    model: nn.Module
    outputs: int  # logits per image
    head: tuple[str, ...]  # the layers that give the logits: no other layer comes after them
    positions: Mapping[str, int]  # how many vectors each of ``layer_names`` multiplies per image; 0 if it is not called

    @property
    def notes(self) -> list[str]:
        """A sentence for all that is neither compressed nor adapted, and for tensors that several layers share."""
        layers = [(name, module) for name, module in self.model.named_modules() if isinstance(module, WEIGHTED)]
        computed = [(name, why) for name, module in layers if (why := obstacle(module)) is not None]
        idle = [f"'{name}'" for name, count in self.positions.items() if not count]
        shared = [f"'{key}' is '{first}'" for key, first in first_keys(self.model).items() if key != first]
        return [
            *(f"'{name}' stays as it is, {why}" for name, why in computed),
            *([f"layers that the model never calls stay as they are: {first_few(idle)}"] if idle else []),
            *(
                [
                    f"tensors under two names are counted and stored once, unless they are trained apart: "
                    f"{first_few(shared)}"
                ]
                if shared
                else []
            ),
        ]


def _is_weighted_leaf(module: nn.Module) -> bool:
    return not list(module.children()) and any(parameter.ndim > 1 for parameter in module.parameters())


def first_few(texts: Sequence[str], most: int = 3) -> str:
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def inspect(model: nn.Module, images: Tensor) -> Inspection:
    """Run a model on a few images ``[n, ...]``, in eval mode.

    The head is found by following the gradient from the logits back to the first layers that it meets.

    Raises:
        IntegrityError: The model does not return logits ``[n, classes]``.
    """
    names, positions = layer_names(model), dict[str, int]()
    outputs: list[tuple[str, Tensor]] = []

    def record(name: str, layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return None
        if name in names:
            rows = len(images) * len(layer.get_parameter("weight"))
            positions[name] = positions.get(name, 0) + output.numel() // rows
        outputs.append((name, output.detach().requires_grad_()))
        return outputs[-1][1].clone()  # the gradient ends here; a later layer may change the copy in place

    with ExitStack() as stack, torch.enable_grad():
        for name, module in model.named_modules():
            if isinstance(module, WEIGHTED) or _is_weighted_leaf(module):
                stack.callback(module.register_forward_hook(functools.partial(record, name)).remove)
        logits, head = logits_of(model, images), list[str]()
        if logits.requires_grad:
            gradients = torch.autograd.grad(logits.sum(), [output for _, output in outputs], allow_unused=True)
            head = [name for (name, _), gradient in zip(outputs, gradients, strict=True) if gradient is not None]
    if not head:  # the model forbids gradients
        head = [name for name, output in outputs if logits.shape[1] in output.shape[1:]][-1:]
    return Inspection(model, logits.shape[1], tuple(dict.fromkeys(head)), {n: positions.get(n, 0) for n in names})


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """The logits ``[n, classes]`` of images ``[n, ...]``; an ``IntegrityError`` if the model returns something else."""
    try:
        logits: object = model(images)
    except Exception as error:  # each architecture raises errors of its own for images that it cannot take
        raise IntegrityError(
            f"the model cannot take images of the train part, {images.dtype} {list(images.shape[1:])}: "
            f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}; give images as it takes them (its "
            f"convolutions take [channels, height, width])"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.is_floating_point():
        found = f"{logits.dtype} {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise IntegrityError(
            f"the model returns {found} for {len(images)} images; it must return logits [n, classes] alone"
        )
    if len(logits) != len(images):
        raise IntegrityError(
            f"the model returns {len(logits)} rows of logits for {len(images)} images of shape "
            f"{list(images.shape[1:])}; it must return one row per image: look for a view or reshape with a fixed size "
            f"in its forward, or give images of the size that it expects"
        )
    return logits


def main_logits(output: object) -> Tensor:
    """The logits of what a model returns in train mode, where some models add auxiliary ones (Inception)."""
    if isinstance(output, tuple):
        output = getattr(output, "logits", output[0])
    if not isinstance(output, Tensor):
        raise IntegrityError(f"the model returns {type(output).__name__} in train mode; it must return logits")
    return output
