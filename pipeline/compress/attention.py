"""Attention rewritten with ``nn.Linear`` layers that are called, so that each projection can be compressed and adapted.

Shapes: N images, L query tokens, S key and value tokens, E features per token, H heads of D = E / H features.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.compress.layers import copy_sharing_tensors
from pipeline.errors import SpecError
from pipeline.task.bare_model import replace_modules
from pipeline.task.inspection import is_plain


class SplitQkv(nn.Module):
    """Layers ``q``, ``k`` and ``v`` in place of a fused ``[..., E] -> [..., 3 E]`` layer: thirds of its rows.

    Nearly all attention orders the rows as ``3 x heads x dim``. If it interleaves them head by head, the outputs are
    still the same, but the names are wrong. ``weight`` and ``bias`` are for attention that reads them instead of
    calling the layer (BEiT, Swin V2).
    """

    def __init__(self, fused: nn.Linear) -> None:
        super().__init__()
        self.q, self.k, self.v = (_linear(weight, bias) for weight, bias in _thirds(fused))

    @property
    def weight(self) -> Tensor:
        return torch.cat([self.q.weight, self.k.weight, self.v.weight])

    @property
    def bias(self) -> Tensor | None:
        return None if self.q.bias is None else torch.cat([self.q.bias, self.k.bias, self.v.bias])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)


class PlainAttention(nn.Module):
    """``nn.MultiheadAttention`` as layers ``in_proj`` and ``out_proj`` that share its memory; it is called as before.

    A fused ``in_proj`` is called only if query, key and value are the same tensor. Otherwise its thirds are multiplied
    without calling it, which bypasses an adapter on ``in_proj``; split it for such models.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.in_proj: nn.Module = _linear(attention.in_proj_weight, attention.in_proj_bias)
        self.out_proj = _linear(attention.out_proj.weight, attention.out_proj.bias)
        self.num_heads, self.dropout, self.batch_first = attention.num_heads, attention.dropout, attention.batch_first
        self.scale = attention.head_dim**-0.5
        # What makes ``nn.TransformerEncoderLayer`` call its layers: its fast path reads their weights instead.
        self.in_proj_bias, self._qkv_same_embed_dim = None, True

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal only describes attn_mask, which is missing; give attn_mask as well")
        tokens, returned = -3 if self.batch_first else 0, None
        q, k, v = self._projected(query, key, value)
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).movedim(tokens, -2) for x in (q, k, v))  # [N, H, L or S, D]
        mask = _additive_mask(attn_mask, key_padding_mask, q, k)
        if need_weights:
            scores = q @ k.transpose(-2, -1) * self.scale
            weights = (scores if mask is None else scores + mask).softmax(dim=-1)
            weights = F.dropout(weights, self.dropout, self.training)
            attended = weights @ v
            returned = weights.mean(dim=-3) if average_attn_weights else weights
        else:
            attended = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.out_proj(attended.movedim(-2, tokens).flatten(-2)), returned

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> Any:
        if isinstance(self.in_proj, SplitQkv):
            return self.in_proj.q(query), self.in_proj.k(key), self.in_proj.v(value)
        if query is key and key is value:
            return self.in_proj(query).chunk(3, dim=-1)
        pairs = zip((query, key, value), _thirds(self.in_proj), strict=True)
        return tuple(F.linear(x, weight, bias) for x, (weight, bias) in pairs)


def with_plain_attention(
    model: nn.Module, qkv: Literal["fused", "split"] = "fused", stored: Collection[str] = ()
) -> nn.Module:
    """A frozen copy that shares the model's memory, with its attention as plain layers; the model if it has no such.

    The names of tensors change, so its checkpoint must be loaded into a model that was rewritten in the same way.
    Layers ``qkv`` and ``in_proj`` that are split become ``qkv.q``, ``qkv.k`` and ``qkv.v``.

    Args:
        model: The model; it is not changed.
        qkv: Whether fused projections are split.
        stored: Names of a checkpoint's tensors. Attention whose ``in_proj_weight`` is among them stays as it is:
            earlier versions did not rewrite that of ``nn.TransformerEncoderLayer``.
    """
    names = [
        name
        for name, module, _ in _modules_and_parents(model)
        if _is_convertible(module) and f"{name}.in_proj_weight" not in stored
    ]
    model = _replace_modules(model, names, PlainAttention)
    for module in model.modules() if names else ():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # it would read the weights of its layers
    return _replace_modules(model, _fused_layers(model), SplitQkv) if qkv == "split" else model


def bare_state(model: nn.Module) -> dict[str, Tensor]:
    """The ``state_dict`` of a model from ``with_plain_attention``, with the names and shapes from before."""
    state = model.state_dict()
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, SplitQkv):
            for key in [key for key in state if key.startswith(f"{name}.")]:
                del state[key]
            fused = {
                "weight": module.weight.detach(),
                "bias": module.bias if module.bias is None else module.bias.detach(),
            }
            state |= {f"{name}.{key}": tensor for key, tensor in fused.items() if tensor is not None}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, PlainAttention):
            for key in [key for key in state if key.startswith(f"{name}.in_proj.")]:
                state[f"{name}.in_proj_{key.rpartition('.')[2]}"] = state.pop(key)
    return state


def _is_convertible(module: nn.Module) -> bool:
    """Whether it is ``nn.MultiheadAttention`` as ``PlainAttention`` covers it."""
    return (
        type(module) is nn.MultiheadAttention
        and module.in_proj_weight is not None
        and module.bias_k is None
        and not module.add_zero_attn
    )


def is_fused_qkv(layer: nn.Module, parent: nn.Module) -> bool:
    """Whether a Linear layer has three times as many outputs as another Linear layer of its parent has inputs."""
    outputs = layer.out_features if isinstance(layer, nn.Linear) else 0
    others = (module for module in parent.modules() if isinstance(module, nn.Linear) and module is not layer)
    return any(3 * other.in_features == outputs for other in others)


def _fused_layers(model: nn.Module) -> list[str]:
    names = []
    for name, layer, parent in _modules_and_parents(model):
        fused_names = ("in_proj",) if isinstance(parent, PlainAttention) else ("qkv", "to_qkv")
        if name.rpartition(".")[2] not in fused_names or isinstance(layer, SplitQkv):
            continue
        if not isinstance(layer, nn.Linear) or not is_plain(layer):
            raise SpecError(f"qkv = \"split\": '{name}' is a {type(layer).__name__}, not a Linear; leave qkv fused")
        if not is_fused_qkv(layer, parent):
            raise SpecError(
                f"qkv = \"split\": '{name}' has {layer.out_features} outputs, and no layer beside it takes a third of "
                f"them as inputs, so query, key and value differ in size; leave qkv fused"
            )
        names.append(name)
    return names


def _modules_and_parents(model: nn.Module) -> list[tuple[str, nn.Module, nn.Module]]:
    """Name, module and parent of every submodule; a shared module appears under each of its names."""
    return [
        (name, module, model.get_submodule(name.rpartition(".")[0]))
        for name, module in model.named_modules(remove_duplicate=False)
        if name
    ]


def _replace_modules(model: nn.Module, names: Sequence[str], replace: Callable[[Any], nn.Module]) -> nn.Module:
    """A copy with the modules of these names replaced; a shared module is replaced once, and stays shared."""
    if not names:
        return model
    copy = copy_sharing_tensors(model)
    olds = {copy.get_submodule(name): name for name in names}
    replace_modules(copy, {name: replace(old) for old, name in olds.items()})
    return copy.eval()


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A frozen layer that shares the memory of these tensors."""
    out, inner = weight.shape
    layer = nn.Linear(inner, out, bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer


def _thirds(fused: nn.Module) -> list[tuple[Tensor, Tensor | None]]:
    weights = fused.get_parameter("weight").chunk(3)
    biases = [None] * 3 if fused.bias is None else fused.get_parameter("bias").chunk(3)
    return list(zip(weights, biases, strict=True))


def _additive_mask(attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """The sum of both masks, to add to the scores ``[N, H, L, S]``; a bool mask is minus infinity where it is True."""
    if attn_mask is not None and attn_mask.ndim == 3:  # [N H, L, S]
        attn_mask = attn_mask.reshape(*q.shape[:-1], k.shape[-2])
    if key_padding_mask is not None:  # [N, S]
        key_padding_mask = key_padding_mask[..., None, None, :]
    additive = [
        torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else mask
        for mask in (attn_mask, key_padding_mask)
        if mask is not None
    ]
    return sum(additive[1:], additive[0]) if additive else None
