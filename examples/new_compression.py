"""A compression of your own in one file: `python examples/new_compression.py`.

In the project the class below would be the whole of `pipeline/compress/methods/ternary.py`, and nothing else would
change: study files, sizes, checkpoints, reports and the conformance tests find it by its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from own_model import accuracy, stripes, trained
from pydantic import Field
from torch import Tensor

import pipeline
from pipeline.compress.contract import LayerCompression, LayerStats
from pipeline.compress.packing import pack, unpack
from pipeline.compress.weight import CompressedWeight
from pipeline.config.registry import COMPRESSIONS


@dataclass(frozen=True)
class TernaryWeight(CompressedWeight):
    """Codes -1, 0, +1 in two bits each, and a scale per row."""

    code: Tensor  # [out, in], int8
    scale: Tensor  # [out]

    def dense(self) -> Tensor:
        return self.scale[:, None] * self.code.to(self.scale)

    @property
    def macs(self) -> int:
        return int(self.code.count_nonzero())

    def to_tensors(self) -> dict[str, Tensor]:
        """What the file holds; bytes are counted from it."""
        return {"value": pack((self.code.flatten() + 1).to(torch.uint8), 2), "scale": self.scale.float()}

    def scaled_rows(self, gain: Tensor) -> "TernaryWeight":
        return replace(self, scale=self.scale * gain)


@COMPRESSIONS.register("ternary")
class Ternary(LayerCompression):
    """Ternary weights (Li, Zhang and Liu, 2016, arXiv:1605.04711): ``Q = a_i sign(w) [abs(w) > t_i]``.

    ``t_i = threshold * mean abs(w_i)`` per row, and ``a_i`` is the mean absolute value of the row's kept weights.
    """

    threshold: float = Field(0.7, gt=0)
    """Threshold below which a weight becomes zero, in units of the row's mean absolute value."""

    def compress(self, weight: Tensor, stats: LayerStats | None) -> TernaryWeight:
        magnitude = weight.abs()
        kept = magnitude > self.threshold * magnitude.mean(1, keepdim=True)
        scale = (magnitude * kept).sum(1) / kept.sum(1).clamp(min=1)
        return TernaryWeight((weight.sign() * kept).to(torch.int8), scale)

    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> TernaryWeight:
        codes = unpack(tensors["value"], shape[0] * shape[1], 2).to(torch.int8) - 1
        return TernaryWeight(codes.reshape(shape), tensors["scale"])


def main() -> None:
    test = stripes(800, seed=2)
    task = pipeline.Task(trained(), train=stripes(1200, seed=0), val=stripes(400, seed=1), test=test)
    for method in ("ternary", {"method": "ternary", "threshold": 1.2}, "int1"):
        compression = COMPRESSIONS.parse(method)
        model = compression.compress_model(task.model, ["features.2", "head"], {}).model
        print(f"{method!s:<45} {accuracy(model, test):.1%}")


if __name__ == "__main__":
    main()
