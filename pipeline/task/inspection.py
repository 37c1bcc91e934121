"""What a model is: the layers that can be compressed and adapted, and what running it on images shows.

``check``, ``plan``, ``run``, sizes, packing and the card all go by this one inspection.
"""

import functools
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipeline.errors import IntegrityError
from pipeline.task.bare_model import WEIGHTED, tensor_state
from pipeline.task.timm_layers import has_plain_forward
from pipeline.wording import counted, few

CURES = {
    "WeightNorm": "torch.nn.utils.remove_weight_norm(layer)",
    "SpectralNorm": "torch.nn.utils.remove_spectral_norm(layer)",
}
"""What makes a weight that a hook of this class computes a plain parameter; all other such hooks prune."""


def is_plain(module: nn.Module) -> bool:
    """Whether it is a Linear or Conv2d layer that multiplies with its weight as it is stored."""
    return isinstance(module, WEIGHTED) and obstacle(module) is None


def obstacle(module: nn.Module) -> str | None:
    """Why a layer can be neither compressed nor adapted, with the cure if there is one; ``None`` if it can."""
    if not isinstance(module, WEIGHTED):
        return f"a {type(module).__name__}, which cannot be adapted; only Linear and Conv2d layers can"
    if "lora_A" in module._parameters:
        return f"a {type(module).__name__} that has an adapter; to adapt it again load its checkpoint with merge=True"
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
    if not has_plain_forward(module):
        return f"a {type(module).__name__} with a forward of its own, which cannot be adapted"
    return None


def layer_names(model: nn.Module) -> list[str]:
    """Names of all layers that can be compressed and adapted, in the model's order; each once, by its first name.

    ``nn.MultiheadAttention`` reads its layers' weights and never calls them, so they are left out unless
    ``attention.with_plain_attention`` has replaced it.
    """
    attention = tuple(f"{n}." for n, module in model.named_modules() if isinstance(module, nn.MultiheadAttention))
    return [name for name, module in model.named_modules() if is_plain(module) and not name.startswith(attention)]


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
        left = defaultdict[str, list[str]](list)
        for name, module in self.model.named_modules():
            if isinstance(module, WEIGHTED) and (why := obstacle(module)) is not None:
                left[why].append(f"'{name}'")
        notes = [f"{few(names, 3)} stays as it is: {why}" for why, names in left.items()]
        if idle := [f"'{name}'" for name, count in self.positions.items() if not count]:
            notes.append(f"layers that the model never calls stay as they are: {few(idle, 3)}")
        if shared := [f"'{key}' is '{first}'" for key, first in first_keys(self.model).items() if key != first]:
            once = "tensors under two names are counted and stored once, unless they are trained apart"
            notes.append(f"{once}: {few(shared, 3)}")
        return notes


CLOSE = 0.02
"""By how much two computations of the same logits may differ, as a share of the largest; the type may be bfloat16."""


def _is_weighted_leaf(module: nn.Module) -> bool:
    """Whether a module without others inside has a weight, so that it may give logits as a layer does."""
    return not list(module.children()) and any(parameter.ndim > 1 for parameter in module.parameters())


def inspect(model: nn.Module, images: Tensor) -> Inspection:
    """Run a model on a few images ``[n, ...]``, in eval mode.

    The head is found by following the gradient from the logits back to the first layers that it meets.

    Raises:
        IntegrityError: The model does not return logits ``[n, classes]`` for any ``n``, they are not finite, or those
            of an image are others when it runs again.
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
    with torch.no_grad():
        alone = logits_of(model, images[:1])  # a batch may have a single image
    if images.isfinite().all():
        refuse_unsound(model, logits, "the first training images")
        _refuse_changing(alone, logits[:1].detach())
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
        squeezed = isinstance(logits, Tensor) and len(images) == 1 and logits.ndim == 1
        hint = "; look for squeeze() in its forward, and name the axes in it" if squeezed else ""
        raise IntegrityError(
            f"the model returns {found} for {counted(len(images), 'image')}; it must return logits [n, classes] alone"
            f"{hint}"
        )
    if logits.shape[1] == 1:
        raise IntegrityError(
            "the model returns one logit per image; give a model with one per class (of two classes with the logit z "
            "of the second: 0 and z)"
        )
    if len(logits) != len(images):
        raise IntegrityError(
            f"the model returns {len(logits)} rows of logits for {len(images)} images of shape "
            f"{list(images.shape[1:])}; it must return one row per image: look for a view or reshape with a fixed size "
            f"in its forward, or give images of the size that it expects"
        )
    return logits


def refuse_unsound(model: nn.Module, logits: Tensor, images: str) -> None:
    """Refuse a model whose logits for sound ``images`` are NaN or infinite; only those of masked classes are ``-inf``.

    Raises:
        IntegrityError: With the names of the model's tensors that are not finite.
    """
    if not (logits.isnan() | logits.isposinf()).any():
        return
    damaged = [f"'{key}'" for key, tensor in tensor_state(model).items() if not tensor.isfinite().all()]
    named = f" (damaged: {few(damaged, 3)})" if damaged else ""
    raise IntegrityError(f"the model gives NaN or infinite logits for {images}; load sound weights{named}")


def _refuse_changing(alone: Tensor, among_others: Tensor) -> None:
    """Refuse a model that gives an image other logits ``[1, classes]`` when it is run again, without other images."""
    scale = among_others[among_others.isfinite()].abs().max()
    if not torch.allclose(alone, among_others, rtol=0, atol=CLOSE * float(scale)):
        raise IntegrityError(
            "the model gives an image other logits when it is run again without other images; give a model that in "
            "eval mode has neither dropout nor noise, uses no statistics of the images of a batch, and keeps no values "
            "between calls"
        )


def main_logits(output: object) -> Tensor:
    """The logits of what a model returns in train mode, where some models add auxiliary ones (Inception)."""
    if isinstance(output, tuple):
        output = getattr(output, "logits", output[0])
    if not isinstance(output, Tensor):
        raise IntegrityError(f"the model returns {type(output).__name__} in train mode; it must return logits")
    return output
