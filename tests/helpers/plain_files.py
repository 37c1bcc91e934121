"""Files of compressed models whose codes are neither trained, nor rounded by inputs, nor entropy-coded.

``python tests/helpers/plain_files.py FOLDER`` writes them, with the package that is found first on ``PYTHONPATH``.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from pipeline.adapt.methods.lora import Lora
from pipeline.compress.contract import Compression
from pipeline.compress.layer_statistics import gather_statistics
from pipeline.compress.methods.int1 import Int1
from pipeline.compress.methods.intn import IntN
from pipeline.compress.methods.no_compression import NoCompression
from pipeline.compress.methods.prune_gradient import PruneGradient
from pipeline.compress.methods.prune_magnitude import PruneMagnitude
from pipeline.compress.methods.sparse import Sparse
from pipeline.compress.methods.svd import Svd
from pipeline.compress.methods.svdlora import SvdLora
from pipeline.compress.methods.tou_factors import Tou
from pipeline.export.pack import pack_model
from pipeline.task.parts import TensorPart

EXACT: dict[str, Compression] = {
    "none": NoCompression(),
    "int1": Int1(),
    "int1-tensor": Int1(scale="tensor"),
    "int1-none": Int1(scale="none"),
    "int2": IntN(bits=2),
    "int3": IntN(bits=3),
    "int4": IntN(),
    "int8": IntN(bits=8),
    "int4-affine": IntN(symmetric=False),
    "int4-groups": IntN(group=5, symmetric=False),
    "int4-unclipped": IntN(clip=False),
    "sparse": Sparse(),
    "sparse-1x16": Sparse(block="1x16"),
    "sparse-2of4": Sparse(block="2:4"),
    "sparse-3x3": Sparse(block="3x3"),
    "sparse-max": Sparse(score="max"),
    "sparse-activation": Sparse(score="activation"),
    "prune-magnitude": PruneMagnitude(),
}
"""Methods whose sums are exact for these weights, so that their files are the same bytes on every machine."""
CLOSE: dict[str, Compression] = {
    "int1-activation": Int1(metric="activation"),
    "sparse-refit": Sparse(refit=True),
    "svd": Svd(),
    "svd-values": Svd(rank=2, singular_values=True),
    "svd-activation": Svd(metric="activation"),
    "svd-int8": Svd(factors=IntN(bits=8)),
    "svdlora-int8": SvdLora(bits=8),
    "svdlora-int1": SvdLora(bits=1),
    "tou": Tou(),
    "prune-gradient": PruneGradient(lr=1e-3),
}
"""Methods that decompose, solve, train, or weigh by inputs, whose results depend on the machine in the last digits."""
TARGETS = ["0", "3", "5", "7"]


def distinct(count: int, step: int = 7907) -> Tensor:
    """``count`` different multiples of 1/1024 of both signs, shuffled: sums of them are exact in float32."""
    order = torch.arange(count) * step % count  # a permutation where step and count share no divisor
    return torch.where(order % 2 == 0, order + 1, -order - 1) / 1024


def network() -> nn.Module:
    """A convolution, one in groups, and two linear layers, with weights that every version of torch makes the same."""
    model = nn.Sequential(
        nn.Conv2d(3, 12, (3, 5), stride=2), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(12, 10, 2, groups=2), nn.Flatten(),
        nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 7),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(distinct(parameter.numel()).view_as(parameter))
    return model.eval()


def images() -> TensorPart:
    return TensorPart(distinct(16 * 3 * 9 * 11).view(16, 3, 9, 11), torch.arange(16) % 7)


def packed(method: Compression) -> dict[str, Tensor]:
    """The tensors of the file of ``network`` compressed by a method."""
    model, part = network(), images()
    stats = gather_statistics(model, TARGETS, [part.images]) if method.needs_statistics else {}
    return pack_model(method.compress_model(model, TARGETS, stats, part), Lora(), {})


def written(folder: Path) -> Iterator[str]:
    """Write the file of each method, and give its name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, method in (EXACT | CLOSE).items():
        path = folder / f"{name}.safetensors"
        path.write_bytes(save(packed(method)))
        yield path.name


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in written(Path(sys.argv[1])):
        print(name)
