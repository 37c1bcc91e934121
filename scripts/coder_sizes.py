"""Codes the codes of compressed layers by this package's coder, by zlib, and by nncodec where it is installed.

    python scripts/coder_sizes.py [--data FOLDER]

Needs `pip install -e '.[bench]'` and MNIST (``FOLDER/MNIST/raw``), on which an MLP 784-256-128-10 is trained for two
epochs. It takes seconds. `pip install --no-deps nncodec` adds the third coder: its package asks for numpy 1, and its
coder works with numpy 2.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import mlp, plain_loop
from bench.coding import CODERS, measured
from pipeline.compress.packing import unpack
from pipeline.compress.symbol_model import Array
from pipeline.compress.weight import CompressedWeight
from pipeline.config.registry import COMPRESSIONS

DATA = Path(__file__).parents[2] / "shared" / "data" / "mnist"
COMPRESSED: Mapping[str, Any] = {
    "`int1`": "int1",
    "`intN`, 2 bits": {"method": "intN", "bits": 2},
    "`intN`, 4 bits": {"method": "intN", "bits": 4},
    "`sparse`, `keep = 0.05`": {"method": "sparse", "keep": 0.05, "values": {"bits": 3}},
    "`sparse`, `keep = 0.02`": {"method": "sparse", "keep": 0.02, "values": {"bits": 2}},
}


def codes_of(weight: CompressedWeight) -> Iterator[tuple[str, Array, int]]:
    """The kind, the symbols and the bits of each packed tensor of a weight, as the entropy coder gets them."""
    packings = weight.codable_form.packings
    for kind, tensor in weight.codable_form.to_tensors().items():
        if kind in packings:
            width, columns = packings[kind]
            count = tensor.numel() * 8 // width
            codes = unpack(tensor, count - count % max(1, columns), width, torch.uint8).numpy()
            yield kind, codes.reshape(-1, columns) if columns else codes, width


def row(name: str, layers: Sequence[Mapping[str, Any]]) -> str:
    """A row of the table: packed bytes, and per coder the bytes and the seconds to code and to decode all layers."""
    cells = [name, f"{sum(one['packed_bytes'] for one in layers):,}"]
    for coder in CODERS:
        size = sum(one[coder]["bytes"] for one in layers)
        rates = ("coded_per_second", "decoded_per_second")
        coding, decoding = (sum(one["symbols"] / one[coder][rate] for one in layers) for rate in rates)
        cells.append(f"{size:,}; {coding:.3f}, {decoding:.3f}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, metavar="FOLDER", help="folder that holds MNIST/raw")
    given = parser.parse_args()
    mlp.require_mnist(given.data)
    torch.set_num_threads(1)
    model = plain_loop.mlp()
    model.load_state_dict(mlp.baseline(mlp.mnist(given.data)[0]))
    coders = [f"{coder}: bytes; s to code, to decode" for coder in CODERS]
    print(f"| codes | packed | {' | '.join(coders)} |\n|{'---|' * (2 + len(coders))}")
    for name, table in COMPRESSED.items():
        compressed = COMPRESSIONS.parse(table).compress_model(model, ["fc1", "fc2", "fc3"], {})
        found = defaultdict[str, list[dict[str, Any]]](list)
        for weight in compressed.weights.values():
            for kind, symbols, width in codes_of(weight):
                found[kind].append(measured(symbols, width))
        print(*(row(f"{name}, {kind}", layers) for kind, layers in found.items()), sep="\n")


if __name__ == "__main__":
    main()
