"""Batch norms folded into the layers before them, so that they take neither bytes nor time.

With ``g = gamma / sqrt(var + eps)`` the norm of a layer's outputs is the layer with ``g W`` and ``beta + g (b - mean)``
(Jacob et al., 2018, arXiv:1712.05877).

Legend: ``W`` and ``b`` weight and bias of a layer, ``gamma``, ``beta``, ``mean`` and ``var`` of its norm.
"""

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.compress.layers import copy_sharing_tensors
from pipeline.errors import IntegrityError, SpecError
from pipeline.task.bare_model import replace_modules
from pipeline.task.inspection import layer_names, logits_of
from pipeline.task.timm_layers import timm_layer
from pipeline.wording import few

CLOSE = 1e-3
"""By how much the logits of a model may differ without its norms, as a share of the largest."""


class FoldedNorm(nn.Sequential):
    """What stands in the place of a norm that is part of ``layer``: nothing, or the activation that came with it."""

    def __init__(self, norm: nn.Module, layer: str) -> None:
        super().__init__(*((norm.drop, norm.act) if isinstance(norm, timm_layer("norm_act.BatchNormAct2d")) else ()))
        self.layer = layer


def folded_norms(model: nn.Module) -> dict[str, str]:
    """For each norm of a model that was folded, by name, the layer that contains it."""
    return {name: module.layer for name, module in model.named_modules() if isinstance(module, FoldedNorm)}


def fold_batch_norms(model: nn.Module, images: Tensor) -> nn.Module:
    """A frozen copy that shares the model's memory, with every norm folded where that is exact.

    It is where a Linear or Conv2d layer is called once, and nothing but the norm reads its outputs. The copy is run on
    a few ``images``, and a norm without which the logits would change stays.

    Raises:
        SpecError: Not one norm can be folded; the message says why, by name.
    """
    layers, left = _layers_before(model, images)
    copy = _folded(model, layers)
    if layers and not _agree(model, copy, images):
        found = dict[str, str]()
        for norm, layer in layers.items():
            if _agree(model, _folded(model, {**found, norm: layer}), images):
                found[norm] = layer
            else:
                left[norm] = f"the outputs of layer '{layer}' are read elsewhere, too"
        copy, layers = _folded(model, found), found
    if not layers:
        reasons = "; ".join(f"'{norm}': {why}" for norm, why in list(left.items())[:3]) or "it has none"
        raise SpecError(f'batch_norm = "folded", but no batch norm of the model can be: {reasons}; leave it "kept"')
    return copy


def kept_norms_note(model: nn.Module) -> str | None:
    """A sentence that names the norms which stay in a model that was folded; ``None`` if none does."""
    kept = [f"'{name}'" for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    return f"batch norms that cannot be folded into one layer before them stay: {few(kept, 3)}" if kept else None


def reshape_folded(model: nn.Module, folded: Mapping[str, str]) -> None:
    """Take the norms from a bare architecture, in place, and give their layers a bias, as an exported file has it.

    Raises:
        IntegrityError: The architecture has no such modules.
    """
    try:
        norms = {norm: FoldedNorm(model.get_submodule(norm), layer) for norm, layer in folded.items()}
        layers = [model.get_submodule(layer) for layer in folded.values()]
    except AttributeError as error:
        raise IntegrityError(
            f"the checkpoint is of another architecture: {error}; give the architecture that was exported"
        ) from None
    replace_modules(model, norms)
    for layer in layers:
        if layer._parameters.get("bias") is None:
            weight = layer.get_parameter("weight")
            layer.register_parameter("bias", nn.Parameter(weight.new_zeros(len(weight)), requires_grad=False))


def _layers_before(model: nn.Module, images: Tensor) -> tuple[dict[str, str], dict[str, str]]:
    """The layer directly before each norm, and why other norms have none, both by the name of the norm."""
    names, calls = layer_names(model), Counter[str]()
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    outputs, before, axes = list[tuple[str, object]](), dict[str, str | None](), dict[str, int]()
    shared = Counter(id(model.get_submodule(name).get_parameter("weight")) for name in names)

    def note_output(name: str, output: object) -> None:
        calls[name] += 1
        outputs.append((name, output))  # it is kept, so that no other tensor gets its identity

    def note_input(name: str, value: Tensor) -> None:
        calls[name] += 1
        before[name], axes[name] = next((layer for layer, output in outputs if output is value), None), value.ndim

    with ExitStack() as stack, torch.no_grad():
        for name, norm in norms.items():
            hook = norm.register_forward_pre_hook(lambda _, given, name=name: note_input(name, given[0]))
            stack.callback(hook.remove)
        for name in names:
            layer = model.get_submodule(name)
            stack.callback(layer.register_forward_hook(lambda _, __, y, name=name: note_output(name, y)).remove)
        logits_of(model, images)

    found, left = dict[str, str](), dict[str, str]()
    for name, norm in norms.items():
        owner = before.get(name)
        if owner is None:
            left[name] = "it follows no Linear or Conv2d layer directly"
        elif isinstance(model.get_submodule(owner), nn.Linear) and axes[name] > 2:
            left[name] = f"it normalises the second axis, and the outputs of layer '{owner}' are on the last"
        elif norm.running_mean is None or norm.running_var is None:
            left[name] = "it normalises by the statistics of each batch"
        elif type(norm).forward not in (_BatchNorm.forward, timm_layer("norm_act.BatchNormAct2d").forward):
            left[name] = f"a {type(norm).__name__} has a forward of its own"
        elif calls[name] > 1 or calls[owner] > 1 or shared[id(model.get_submodule(owner).get_parameter("weight"))] > 1:
            left[name] = f"layer '{owner}' before it is called more than once, or shares its weight"
        else:
            found[name] = owner
    return found, left


def _folded(model: nn.Module, layers: Mapping[str, str]) -> nn.Module:
    copy = copy_sharing_tensors(model)
    for name, layer in layers.items():
        _fold(copy.get_submodule(layer), copy.get_submodule(name))
    replace_modules(copy, {name: FoldedNorm(copy.get_submodule(name), layer) for name, layer in layers.items()})
    return copy


def _fold(layer: nn.Module, norm: nn.Module) -> None:
    """Give a layer the weight and bias that contain its norm; the tensors that it had are not changed."""
    weight, bias = layer.get_parameter("weight"), layer._parameters.get("bias")
    mean, var = norm.get_buffer("running_mean").double(), norm.get_buffer("running_var").double()
    gain = (var + float(norm.eps)).rsqrt()  # type: ignore[arg-type]
    shift = -mean if bias is None else bias.double() - mean
    if norm._parameters.get("weight") is not None:
        gain = gain * norm.get_parameter("weight").double()
    shift = gain * shift
    if norm._parameters.get("bias") is not None:
        shift = shift + norm.get_parameter("bias").double()
    scaled = weight.double() * gain.view(-1, *[1] * (weight.ndim - 1))
    layer.register_parameter("weight", nn.Parameter(scaled.to(weight.dtype), requires_grad=False))
    layer.register_parameter("bias", nn.Parameter(shift.to(weight.dtype), requires_grad=False))


@torch.no_grad()
def _agree(model: nn.Module, other: nn.Module, images: Tensor) -> bool:
    """Whether two models give the same logits; those of masked classes may be infinite."""
    one, two = (each(images) for each in (model, other))
    largest = float(one[one.isfinite()].abs().max())
    return torch.allclose(one, two, rtol=0, atol=CLOSE * largest)
