from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from pipeline.task.parts import DatasetPart, TensorPart
from pipeline.train import rows as rows_module
from pipeline.train.rows import ComputedRows, Inputs, Rows, TensorRows, image_rows

N = 23


def make_rows() -> TensorRows:
    return TensorRows([torch.randn(N, 3, 4), torch.arange(N)], torch.arange(N) % 5)


def whole(rows: Rows, batch_size: int = 7, order: Tensor | None = None) -> tuple[list[Tensor], Tensor, list[int]]:
    """All tensors, all labels, and the sizes of the batches they came in."""
    batches = list(rows.batches(batch_size, order))
    tensors = [torch.cat(column) for column in zip(*(inputs for inputs, _ in batches), strict=True)]
    labels = torch.cat([labels for _, labels in batches])
    return tensors, labels, [len(labels) for _, labels in batches]


def same(rows: Rows, others: Rows) -> bool:
    """Whether two give the same, as they lie and by an order."""
    order = torch.randperm(N)
    for some, other in ((whole(rows), whole(others)), (whole(rows, 5, order), whole(others, 5, order))):
        if some[2] != other[2] or not all(map(torch.equal, [*some[0], some[1]], [*other[0], other[1]])):
            return False
    return True


def test_rows_come_in_order_and_the_last_batch_is_smaller():
    rows = make_rows()
    tensors, labels, sizes = whole(rows)
    assert all(map(torch.equal, [*tensors, labels], [*rows.tensors, rows.labels]))
    assert sizes == [7, 7, 7, 2]
    assert len(rows) == N


def test_rows_follow_an_order_that_may_skip_and_repeat_indices():
    rows, order = make_rows(), torch.tensor([22, 3, 3, 0, 17])
    tensors, labels, sizes = whole(rows, 2, order)
    assert all(map(torch.equal, [*tensors, labels], [tensor[order] for tensor in (*rows.tensors, rows.labels)]))
    assert sizes == [2, 2, 1]


def test_rows_move_to_a_device_if_they_fit_its_limit():
    rows = make_rows()
    bytes_ = N * (3 * 4 * 4 + 8)
    moved = rows.to("meta", limit=bytes_)
    assert {tensor.device.type for tensor in (*moved.tensors, moved.labels)} == {"meta"}
    assert rows.to("meta", limit=bytes_ - 1) is rows


def computed(features: Tensor, places: Tensor) -> Inputs:
    return features.flatten(1), places, features.transpose(1, 2), features.sum((1, 2)) * places


def test_tensors_passed_through_are_not_copied_and_computed_ones_are_held():
    rows = make_rows()
    held = ComputedRows(rows, computed).held()
    assert isinstance(held, TensorRows)
    flat, places, turned, new = held.tensors
    assert flat.untyped_storage().data_ptr() == rows.tensors[0].untyped_storage().data_ptr()
    assert places.untyped_storage().data_ptr() == rows.tensors[1].untyped_storage().data_ptr()
    assert all(map(torch.equal, held.tensors, computed(*rows.tensors)))
    others = {tensor.untyped_storage().data_ptr() for tensor in rows.tensors}
    assert not {tensor.untyped_storage().data_ptr() for tensor in (turned, new)} & others
    assert held.labels is rows.labels


def test_tensors_passed_through_do_not_count_towards_the_limit():
    rows = make_rows()
    held = ComputedRows(rows, lambda features, places: (features.flatten(1), places)).held(limit=0)
    assert isinstance(held, TensorRows)


def test_computed_rows_are_held_up_to_the_limit_and_recomputed_above_it(monkeypatch):
    monkeypatch.setattr(rows_module, "BATCH", 4)
    rows = ComputedRows(make_rows(), computed)
    bytes_ = N * (3 * 4 * 4 + 4)  # the turned features, and the new number
    assert rows.held(limit=bytes_ - 1) is rows
    held = rows.held(limit=bytes_)
    assert isinstance(held, TensorRows)
    assert same(held, rows)


def test_rows_recomputed_above_the_limit_hold_nothing():
    asked = []
    rows = ComputedRows(make_rows(), lambda features, places: (asked.append(len(places)) or features * 2,)).held(
        limit=0
    )
    asked.clear()
    for _ in range(2):
        assert whole(rows)[2] == [7, 7, 7, 2]
    assert asked == [7, 7, 7, 2] * 2


def test_no_grad_does_not_extend_to_the_consumer_of_a_batch():
    layer = nn.Linear(4, 2)
    rows = ComputedRows(make_rows(), lambda features, places: (layer(features),))
    for inputs, _ in rows.batches(7):
        assert torch.is_grad_enabled()
        assert not inputs[0].requires_grad
        (layer(inputs[0].repeat(1, 1, 2)).sum()).backward()
        assert layer.weight.grad is not None
        break  # and leaves it in the middle
    assert torch.is_grad_enabled()
    (tensor,) = rows.held().tensors
    assert torch.is_grad_enabled()
    assert not tensor.requires_grad


def test_computing_rows_restores_the_grad_mode():
    with torch.no_grad():
        for _ in ComputedRows(make_rows(), computed).batches(7):
            assert not torch.is_grad_enabled()
        assert not torch.is_grad_enabled()


class Items:
    """A data set that counts how often an item is read."""

    def __init__(self) -> None:
        self.images, self.read = torch.randn(N, 2, 3), 0

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read += 1
        return self.images[index], index % 5


@pytest.fixture
def items() -> Items:
    return Items()


def test_a_part_above_its_limit_is_streamed_and_gives_the_same_rows(items):
    bytes_ = items.images.nbytes
    held, streamed = (image_rows(DatasetPart(items, limit=limit)) for limit in (bytes_, bytes_ - 1))
    assert isinstance(held, TensorRows)
    assert not isinstance(streamed, TensorRows)
    assert same(held, streamed)
    assert len(streamed) == N


def test_rows_computed_from_a_stream_are_recomputed_and_equal(items):
    streamed = ComputedRows(image_rows(DatasetPart(items, limit=0)), lambda images: (images.flatten(1), images * 2))
    assert streamed.held() is streamed
    held = ComputedRows(image_rows(DatasetPart(items)), lambda images: (images.flatten(1), images * 2)).held()
    assert isinstance(held, TensorRows)
    assert same(held, streamed)
    assert len(streamed) == N


def test_a_part_in_memory_is_read_once_and_held_once(items):
    part = TensorPart(items.images, torch.arange(N) % 5)
    assert image_rows(part).tensors[0] is part.images
    rows = image_rows(DatasetPart(items))
    read = items.read
    for _ in range(3):
        whole(rows)
    assert items.read == read == N + 1  # one to see its shape


class OtherBatches(TensorPart):
    """A user's own part, whose batches are not its images."""

    def batches(self, batch_size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in super().batches(batch_size, order):
            yield images + 1, labels


def test_the_batches_of_a_user_defined_part_are_taken_as_they_are(items):
    part = OtherBatches(items.images, torch.arange(N) % 5)
    tensors, labels, _ = whole(image_rows(part))
    assert torch.equal(tensors[0], items.images + 1)
    assert torch.equal(labels, part.labels)
