"""Weights of small architectures, and models that load them from a file."""

import torch
from safetensors.torch import save_file

from pipeline.config.registry import MODELS

CLASSES = 3


def source(architecture="test_resnet", library="timm", **options):
    return MODELS.parse({"source": library, "architecture": architecture, **options})


def weights(seed=0, architecture="test_resnet", library="timm", classes=CLASSES, **options):
    torch.manual_seed(seed)
    return source(architecture, library, **options).build(classes).state_dict()


def loaded(content, path="w.pth", classes=CLASSES, model=("test_resnet", "timm"), **options):
    """The state dict of a model that loads ``content`` from a file; ``path`` tells its format."""
    if path.endswith(".safetensors"):
        save_file({name: value.contiguous().clone() for name, value in content.items()}, path)
    else:
        torch.save(content, path)
    return source(*model, checkpoint=path, **options).load(classes).state_dict()


def same(found, wanted):
    return all(torch.equal(found[name], value.to(found[name].dtype)) for name, value in wanted.items())
