"""The shapes of pruned models: a bare architecture takes them on, to be loaded with the tensors of a file."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.task.timm_layers import timm_layer


def is_depthwise(layer: nn.Module) -> bool:
    """Whether it is a convolution with one filter per channel."""
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels == layer.out_channels


def fit_heads(model: nn.Module) -> None:
    """Set the number of heads of timm's attention to what its layers now hold, in place."""
    for module in model.modules():
        if isinstance(module, timm_layer("attention.Attention")):
            module.attn_dim = module.proj.in_features
            module.num_heads = module.attn_dim // module.head_dim


def fit_shapes(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Shrink layers, batch norms, PReLUs and attention to the shapes of ``tensors``, in place; values are lost.

    ``tensors`` are named as in a ``state_dict``; a packed weight is ``fc1.weight.dense [out, in * kh * kw]``.
    """
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d | _BatchNorm | nn.PReLU):
            continue
        # Only the first tensor decides the number of channels: another length in the file is then reported on loading.
        channels = None
        for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            shape = _fitted_shape(f"{name}.{key}".removeprefix("."), tensor, tensors, channels)
            channels = shape[0] if channels is None else channels
            if shape == tensor.shape:
                continue
            if isinstance(tensor, nn.Parameter):
                tensor.data = tensor.new_empty(shape)
            else:  # models that share tensors share the buffer itself
                module.register_buffer(key, tensor.new_empty(shape))
        fit_attributes(module)
    fit_heads(model)


def _fitted_shape(name: str, tensor: Tensor, tensors: Mapping[str, Tensor], channels: int | None) -> torch.Size:
    """``[channels]`` for one axis; otherwise the shape in the file if it is no larger and has as many axes."""
    if channels is not None and tensor.ndim == 1:
        return torch.Size([channels])
    stored, packed = tensors.get(name), tensors.get(f"{name}.dense")
    shape = tensor.shape if stored is None else stored.shape
    if stored is None and packed is not None and packed.ndim == 2:
        kernel = tensor.shape[2:]
        shape = torch.Size([len(packed), packed.shape[1] // kernel.numel(), *kernel])
    fits = len(shape) == tensor.ndim and all(now <= before for now, before in zip(shape, tensor.shape, strict=True))
    return shape if fits else tensor.shape


def fit_attributes(module: nn.Module) -> None:
    """Set the sizes that a module keeps as attributes to those of its tensors."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv2d):
        if is_depthwise(module):
            module.groups = len(module.weight)
        module.out_channels, module.in_channels = len(module.weight), module.weight.shape[1] * module.groups
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif isinstance(module, _BatchNorm):
        for tensor in (module.weight, module.running_mean):
            module.num_features = module.num_features if tensor is None else len(tensor)
