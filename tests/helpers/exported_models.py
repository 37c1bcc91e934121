"""Checkpoints of any model, compression and adapter, written quickly: the adapter is random instead of trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from methods import images, statistics
from torch import nn

from pipeline.adapt.contract import Adapter, blank
from pipeline.adapt.lanes import Lanes, attach
from pipeline.compress.attention import with_plain_attention
from pipeline.compress.contract import Compression
from pipeline.compress.layers import copy_sharing_tensors
from pipeline.compress.targets import find_targets, head_by_name
from pipeline.export.checkpoint import write_checkpoint
from pipeline.export.pack import pack_model

RANK, ALPHA = 2, 3.0


def write(
    folder: Path,
    model: nn.Module,
    methods: tuple[Compression, Adapter],
    *shape: int,
    targets: tuple[str, ...] = ("*",),
    qkv: Literal["fused", "split"] = "fused",
) -> nn.Module:
    """Write the checkpoint of a model of images of ``shape``; gives the model that training would have measured."""
    (compression, adapter), generator = methods, torch.Generator().manual_seed(0)
    model = with_plain_attention(model.eval(), qkv)
    names = find_targets(model, list(targets))
    stats = statistics(model, names, *shape) if compression.needs_statistics else {}
    compressed = compression.compress_model(model, names, stats, images(*shape))
    compressed = replace(compressed, head=head_by_name(compressed.model))
    ranks = {name: min(RANK, *weight.shape) for name, weight in compressed.weights.items()}
    lane = {
        name: tensor if adapter.is_frozen(name) else tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in blank(adapter, compressed, ranks).items()
    }
    lane = dict(adapter.rounded(lane))
    method: dict[str, Any] = {
        "compression": compression.model_dump(mode="json"),
        "adapter": adapter.model_dump(mode="json"),
        "layers": names,
        "qkv": qkv,
        "ranks": ranks,
        "values": {"alpha": ALPHA},
    }
    card = {"task": {"classes": 3}, "method": method, "size": {}}
    write_checkpoint(folder, pack_model(compressed, adapter, lane), card, force=True)
    trained = copy_sharing_tensors(compressed.model)
    lanes = Lanes([({name: tensor[None] for name, tensor in lane.items()}, [ALPHA])])
    attach(trained, adapter, lanes, compressed.weights)
    return trained.eval()
