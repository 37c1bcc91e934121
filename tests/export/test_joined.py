"""Files whose tensors are joined to one entry."""

import pytest
import torch

from pipeline.compress.coded_tensors import coded_tensor
from pipeline.compress.packing import Packing, pack
from pipeline.errors import IntegrityError
from pipeline.export.joined import ENTRY, header_bytes, join, separate

SEEDED = torch.Generator().manual_seed(0)
CODES = torch.randint(0, 2, (50, 40), generator=SEEDED) * torch.randint(0, 3, (40,), generator=SEEDED)
TENSORS = {
    "fc1.weight.code": pack(CODES, 2),
    "fc1.weight.scale": torch.rand(50, generator=SEEDED).half(),
    "fc1.bias": torch.randn(50, generator=SEEDED),
    "norm.num_batches_tracked": torch.tensor(7),
}
CODED = {
    name: coded_tensor(tensor, Packing(2, 40) if name.endswith("code") else None) for name, tensor in TENSORS.items()
}


def test_joined_tensors_come_back_and_others_stay():
    entries = join(CODED)
    assert entries.keys() == {ENTRY}
    back = separate(entries)
    assert list(back) == list(TENSORS)
    assert all(torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype for name, tensor in TENSORS.items())
    assert separate(TENSORS) == TENSORS
    assert header_bytes(TENSORS) == 0


def test_the_header_is_what_the_entry_holds_beside_the_tensors():
    entries = join(CODED)
    assert header_bytes(entries) == len(entries[ENTRY]) - sum(len(tensor.data) for tensor in CODED.values()) < 130


def test_a_damaged_tensor_is_refused_by_its_name():
    entries = join(CODED)
    at = header_bytes(entries) + len(CODED["fc1.weight.code"].data) - 2
    damaged = entries[ENTRY].clone()
    damaged[at] ^= 255
    with pytest.raises(IntegrityError, match=r"'fc1\.weight\.code' is damaged"):
        separate({ENTRY: damaged})


@pytest.mark.parametrize("at", range(0, header_bytes(join(CODED)), 3))
def test_a_damaged_header_is_refused(at):
    damaged = join(CODED)[ENTRY].clone()
    damaged[at] ^= 255
    with pytest.raises(IntegrityError, match="damaged"):
        separate({ENTRY: damaged})


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: torch.cat([data, data[:1]]), lambda d: d[:0]])
def test_a_file_that_is_cut_or_longer_is_refused(change):
    with pytest.raises(IntegrityError, match="damaged"):
        separate({ENTRY: change(join(CODED)[ENTRY])})
