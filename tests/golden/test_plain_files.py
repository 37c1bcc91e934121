"""Without trained codes, rounding by inputs or coding, files are those of the version before these existed."""

from pathlib import Path

import pytest
import torch
from plain_files import CLOSE, EXACT, TARGETS, images, network, packed
from safetensors.torch import load, save
from torch import Tensor

from pipeline.adapt.methods.lora import Lora
from pipeline.compress.contract import Compression
from pipeline.export.pack import PackedMethod, unpack_model

WRITTEN = Path(__file__).parent / "plain_files"


def then(name: str) -> bytes:
    return (WRITTEN / f"{name}.safetensors").read_bytes()


def outputs(method: Compression, tensors: dict[str, Tensor]) -> Tensor:
    model = unpack_model(network(), tensors, PackedMethod(method, TARGETS, Lora(), 1.0))
    with torch.inference_mode():
        return model(images().images)


@pytest.mark.parametrize("name", EXACT)
def test_a_file_holds_the_same_bytes_as_then(name):
    assert save(packed(EXACT[name])) == then(name)


@pytest.mark.parametrize("name", CLOSE)
def test_a_file_that_depends_on_the_machine_has_the_size_and_the_outputs_of_then(name):
    method, new = CLOSE[name], packed(CLOSE[name])
    assert len(save(new)) == len(then(name))
    before, after = outputs(method, load(then(name))), outputs(method, new)
    assert (after - before).norm() <= 1e-2 * before.norm()


def test_every_file_is_compared():
    assert {path.stem for path in WRITTEN.iterdir()} == EXACT.keys() | CLOSE.keys()
