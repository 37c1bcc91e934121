"""Attention as plain layers: every projection an ``nn.Linear`` that is called, and so can be compressed and adapted.

Shapes: N images, L tokens that ask and S that are asked, E numbers a token, H heads of D = E / H.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.compress.layers import is_plain, shared_copy
from pipeline.errors import SpecError


class SplitQkv(nn.Module):
    """Three layers ``q``, ``k`` and ``v``, ``[..., E] -> [..., 3 E]``, in the place of a fused one, over its memory.

    They are the thirds of its rows. Attention that lays out ``3 x heads x dim``, as nearly all does, has query, key
    and value there; where it interleaves them head by head, the outputs stay the same, but the names mean nothing.

    ``weight`` and ``bias`` are joined for attention that reads them and does not call the layer (BEiT, Swin V2).
    """

    def __init__(self, fused: nn.Linear) -> None:
        super().__init__()
        self.q, self.k, self.v = (_linear(*third) for third in _thirds(fused))

    @property
    def weight(self) -> Tensor:
        return torch.cat([self.q.weight, self.k.weight, self.v.weight])

    @property
    def bias(self) -> Tensor | None:
        return None if self.q.bias is None else torch.cat([self.q.bias, self.k.bias, self.v.bias])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)


class PlainAttention(nn.Module):
    """``nn.MultiheadAttention`` of layers ``in_proj`` and ``out_proj`` that it calls; same arguments, same results.

    A fused ``in_proj`` is called where query, key and value are one tensor. Of other calls it multiplies the thirds
    itself, which no adapter reaches: split it there.

    Args:
        attention: What it replaces, and shares the memory of; ``is_convertible``.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.in_proj: nn.Module = _linear(attention.in_proj_weight, attention.in_proj_bias)
        self.out_proj = _linear(attention.out_proj.weight, attention.out_proj.bias)
        self.num_heads, self.dropout, self.batch_first = attention.num_heads, attention.dropout, attention.batch_first
        self.scale = attention.head_dim**-0.5

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
            raise RuntimeError("is_causal says what attn_mask is; give attn_mask as well")
        tokens = -3 if self.batch_first else 0
        q, k, v = self._projected(query, key, value)
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).movedim(tokens, -2) for x in (q, k, v))  # [N, H, L or S, D]
        mask = _joined(attn_mask, key_padding_mask, q, k)
        if need_weights:
            scores = q @ k.transpose(-2, -1) * self.scale
            weights = (scores if mask is None else scores + mask).softmax(dim=-1)
            weights = F.dropout(weights, self.dropout, self.training)
            seen = weights @ v
            given = weights.mean(dim=-3) if average_attn_weights else weights
        else:
            seen = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
            given = None
        return self.out_proj(seen.movedim(-2, tokens).flatten(-2)), given

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> Any:
        if isinstance(self.in_proj, SplitQkv):
            return self.in_proj.q(query), self.in_proj.k(key), self.in_proj.v(value)
        if query is key and key is value:
            return self.in_proj(query).chunk(3, dim=-1)
        pairs = zip((query, key, value), _thirds(self.in_proj), strict=True)
        return tuple(F.linear(x, weight, bias) for x, (weight, bias) in pairs)


def arranged(model: nn.Module, qkv: Literal["fused", "split"] = "fused") -> nn.Module:
    """The model with its attention as plain layers: a frozen copy over the same memory, or itself if nothing changes.

    The names of its tensors change as well; a checkpoint of the arranged model is loaded into an arranged one.

    Args:
        model: Any model; trained, or a bare architecture.
        qkv: Whether layers ``qkv`` and ``in_proj`` stay one layer, or become ``qkv.q``, ``qkv.k`` and ``qkv.v``.

    Raises:
        SpecError: A layer ``qkv`` is to be split that is no Linear of three equal parts.
    """
    model = _replaced(model, [name for name, *place in _places(model) if is_convertible(*place)], PlainAttention)
    return _replaced(model, _fused_layers(model), SplitQkv) if qkv == "split" else model


def is_convertible(module: nn.Module, parent: nn.Module) -> bool:
    """Whether it is torch's attention in the form of ``PlainAttention``, and its parent leaves its weights to it.

    Not so with ``kdim``, ``vdim``, ``add_bias_kv``, ``add_zero_attn``, nor in an ``nn.TransformerEncoderLayer``.
    """
    return (
        type(module) is nn.MultiheadAttention
        and module.in_proj_weight is not None
        and module.bias_k is None
        and not module.add_zero_attn
        and not isinstance(parent, nn.TransformerEncoderLayer)
    )


def has_thirds(layer: nn.Module, parent: nn.Module) -> bool:
    """Whether it gives three times what another Linear layer of its parent takes in: query, key and value at once."""
    given = layer.out_features if isinstance(layer, nn.Linear) else 0
    takers = (each for each in parent.modules() if isinstance(each, nn.Linear) and each is not layer)
    return any(3 * taker.in_features == given for taker in takers)


def _fused_layers(model: nn.Module) -> list[str]:
    names = []
    for name, layer, parent in _places(model):
        names_of_fused = ("in_proj",) if isinstance(parent, PlainAttention) else ("qkv", "to_qkv")
        if name.rpartition(".")[2] not in names_of_fused or isinstance(layer, SplitQkv):
            continue
        if not isinstance(layer, nn.Linear) or not is_plain(layer):
            raise SpecError(f"qkv = \"split\": '{name}' is a {type(layer).__name__}, not a Linear; leave qkv fused")
        if not has_thirds(layer, parent):
            raise SpecError(
                f"qkv = \"split\": '{name}' gives {layer.out_features} numbers, and no layer beside it takes a third "
                f"of them, so that its query, key and value are not of one size; leave qkv fused"
            )
        names.append(name)
    return names


def _places(model: nn.Module) -> list[tuple[str, nn.Module, nn.Module]]:
    """Name, module and parent, at every place where a module stands."""
    return [
        (name, module, model.get_submodule(name.rpartition(".")[0]))
        for name, module in model.named_modules(remove_duplicate=False)
        if name
    ]


def _replaced(model: nn.Module, names: Sequence[str], by: Callable[[Any], nn.Module]) -> nn.Module:
    """A copy with other modules in these places; what stands in several places does so still."""
    if not names:
        return model
    copy = shared_copy(model)
    places = {name: copy.get_submodule(name) for name in names}
    made = {old: by(old) for old in set(places.values())}
    for name, old in places.items():
        copy.set_submodule(name, made[old])
    return copy.eval()


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A frozen layer over the memory of these tensors."""
    out, inner = weight.shape
    layer = nn.Linear(inner, out, bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer


def _thirds(fused: nn.Module) -> list[tuple[Tensor, Tensor | None]]:
    """Weight and bias of query, key and value."""
    weights = fused.get_parameter("weight").chunk(3)
    biases = [None] * 3 if fused.bias is None else fused.get_parameter("bias").chunk(3)
    return list(zip(weights, biases, strict=True))


def _joined(attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """What is added to the scores ``[N, H, L, S]``: minus infinity where a mask of truths is true."""
    masks = []
    if attn_mask is not None:  # [L, S] or [N H, L, S]
        by_head = attn_mask.ndim == 3
        masks.append(attn_mask.reshape(*q.shape[:-1], k.shape[-2]) if by_head else attn_mask)
    if key_padding_mask is not None:  # [N, S]
        masks.append(key_padding_mask[..., None, None, :])
    added = [
        torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else mask
        for mask in masks
    ]
    return sum(added[1:], added[0]) if added else None
