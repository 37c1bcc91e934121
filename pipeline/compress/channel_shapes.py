"""Layers of a bare architecture that take the shapes of a file: those of a model that has lost channels."""

from collections.abc import Mapping

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def is_depthwise(layer: nn.Module) -> bool:
    """Whether each channel has a filter of its own."""
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels == layer.out_channels


def fit_heads(model: nn.Module) -> None:
    """Give attention as many heads as its layers have."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.attn_dim = module.proj.in_features
            module.num_heads = module.attn_dim // module.head_dim


def fit_shapes(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Let Linear and Conv2d layers, batch norms, PReLUs and attention shrink to the shapes of tensors, in place.

    Args:
        model: The architecture; the values of what changes are lost.
        tensors: By the names of a ``state_dict``; a packed weight is ``fc1.weight.dense [out, in * kh * kw]``.
    """
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d | _BatchNorm | nn.PReLU):
            continue
        channels = None  # the first tensor's, so that another length of bias or statistics is found to be misshapen
        for own, parameter in list(module.named_parameters(recurse=False)):
            shape = _shape(f"{name}.{own}".removeprefix("."), parameter, tensors, channels)
            channels = shape[0] if channels is None else channels
            if shape != parameter.shape:
                module.register_parameter(own, nn.Parameter(parameter.new_empty(shape), parameter.requires_grad))
        for own, buffer in list(module.named_buffers(recurse=False)):
            shape = _shape(f"{name}.{own}".removeprefix("."), buffer, tensors, channels)
            if shape != buffer.shape:
                module.register_buffer(own, buffer.new_empty(shape))
        _fit_attributes(module)
    fit_heads(model)


def _shape(name: str, own: Tensor, tensors: Mapping[str, Tensor], channels: int | None) -> torch.Size:
    """The shape in the file, where that is the tensor's own or a smaller one of its kind; else its own.

    That of one number a channel follows from ``channels``, once they are known.
    """
    if channels is not None and own.ndim == 1:
        return torch.Size([channels])
    given, packed = tensors.get(name), tensors.get(f"{name}.dense")
    shape = own.shape if given is None else given.shape
    if given is None and packed is not None and packed.ndim == 2:
        kernel = own.shape[2:]
        shape = torch.Size([len(packed), packed.shape[1] // kernel.numel(), *kernel])
    smaller = len(shape) == own.ndim and all(now <= before for now, before in zip(shape, own.shape, strict=True))
    return shape if smaller else own.shape


def _fit_attributes(module: nn.Module) -> None:
    """Numbers that a module keeps beside its tensors."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv2d):
        if is_depthwise(module):
            module.groups = len(module.weight)
        module.out_channels, module.in_channels = len(module.weight), module.weight.shape[1] * module.groups
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif isinstance(module, _BatchNorm):
        for each in (module.weight, module.running_mean):
            module.num_features = module.num_features if each is None else len(each)
