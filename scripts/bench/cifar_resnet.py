"""ResNet-20 and -56 of He et al. (2015, arXiv:1512.03385) for CIFAR-10, their weights, and the images as tensors."""

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.task.contract import Task
from pipeline.task.tensor_cache import read_tensors, write_tensors

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 10


class Block(nn.Module):
    """Two 3 x 3 convolutions; a shortcut without weights takes every second pixel, and pads channels with zeros."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.stride, self.padding = stride, (outer - inner) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(x + y)


class ResNet(nn.Module):
    """A stem of 16 channels, three stages of ``blocks`` blocks with 16, 32 and 64 channels, and a linear head."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        stages, inner = [], 16
        for outer in (16, 32, 64):
            sizes = [(inner, outer, 1 + (inner < outer)), *[(outer, outer, 1)] * (blocks - 1)]
            stages.append(nn.Sequential(*(Block(*size) for size in sizes)))
            inner = outer
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def load_resnet(folder: Path, depth: int = 20) -> ResNet:
    """The network of ``depth`` 20 or 56 with the weights that lie in ``folder``."""
    model = ResNet((depth - 2) // 6)
    (path,) = folder.glob(f"resnet{depth}-*.th")
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    model.load_state_dict({key.removeprefix("module."): tensor for key, tensor in state.items()})
    return model.eval()


def read_images(archive: Path, cache: Path) -> dict[str, Tensor]:
    """``train`` and ``test``, uint8 ``[N, 3, 32, 32]``, and their ``_labels``, from a tar of class folders."""
    held = read_tensors(cache)
    if held is not None:
        return held
    found: dict[str, list[tuple[str, str, bytes]]] = {"train": [], "test": []}
    with tarfile.open(archive) as tar:
        for member in tar:
            *_, part, label, name = ("", "", *Path(member.name).parts)
            if part in found and member.isfile():
                found[part].append((label, name, tar.extractfile(member).read()))  # type: ignore[union-attr]
    classes = sorted({label for label, _, _ in found["test"]})
    tensors = {}
    for part, files in found.items():
        files.sort()
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for _, _, data in files])
        tensors[part] = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        tensors[f"{part}_labels"] = torch.tensor([classes.index(label) for label, _, _ in files])
    cache.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(cache, tensors)
    return tensors


def cifar_task(model: nn.Module, images: dict[str, Tensor], train: int | None = None) -> Task:
    """A task that validates on one half of the test images and tests on the other.

    The weights were trained on all training images, so a part of those would flatter. ``train`` is how many training
    images there are, all if it is ``None``, drawn with a fixed seed.
    """
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    parts = {part: ((images[part].float() / 255 - mean) / std, images[f"{part}_labels"]) for part in ("train", "test")}
    order = torch.randperm(len(parts["test"][0]), generator=torch.Generator().manual_seed(0))
    val, test = order.chunk(2)
    chosen = torch.randperm(len(parts["train"][0]), generator=torch.Generator().manual_seed(0))[:train].sort().values
    x, y = parts["test"]
    return Task(
        model,
        train=(parts["train"][0][chosen], parts["train"][1][chosen]),
        val=(x[val], y[val]),
        test=(x[test], y[test]),
        description={"preprocessing": {"mean": MEAN, "std": STD}},
    )
