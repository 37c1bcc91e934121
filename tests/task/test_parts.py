import threading
import time

import pytest
import torch

from pipeline.errors import IntegrityError
from pipeline.task.parts import DatasetPart, TensorPart
from pipeline.task.sources import as_part


class Counting:
    """A map-style data set that counts how often its items are read."""

    def __init__(self, n=10):
        self.n = n
        self.read = []

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        self.read.append(index)
        time.sleep(0.001)
        return torch.full((2, 3), float(index)), index % 3


def test_a_pair_of_tensors_comes_in_batches_in_its_order():
    images, labels = torch.randn(5, 2), torch.arange(5)
    batches = list(as_part((images, labels), "train").batches(2))
    assert [len(each) for each, _ in batches] == [2, 2, 1]
    assert torch.equal(torch.cat([each for each, _ in batches]), images)
    assert torch.equal(torch.cat([each for _, each in batches]), labels)


@pytest.mark.parametrize("limit", [10**9, 0], ids=["in memory", "streamed"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_data_set_comes_in_the_given_order_whether_held_or_streamed(limit, threads):
    part = DatasetPart(Counting(), threads=threads, limit=limit)
    order = torch.tensor([7, 1, 1, 9, 0])
    batches = list(part.batches(2, order))
    assert torch.equal(torch.cat([images[:, 0, 0] for images, _ in batches]).long(), order)
    assert torch.equal(torch.cat([labels for _, labels in batches]), order % 3)
    assert (part.in_memory() is None) == (limit == 0)


def test_nothing_is_read_before_it_is_asked_for():
    dataset = Counting()
    part = DatasetPart(dataset, torch.arange(10) % 3)
    assert len(part) == 10
    assert part.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert dataset.read == []


def test_unknown_labels_are_read_from_the_items():
    for limit in (0, 10**9):
        assert DatasetPart(Counting(4), limit=limit).labels.tolist() == [0, 1, 2, 0]


def test_a_held_part_is_read_once_by_many_threads():
    dataset = Counting()
    part = DatasetPart(dataset, limit=10**9)
    threads = [threading.Thread(target=lambda: list(part.batches(3))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(dataset.read[1:]) == list(range(10))


def test_a_stream_holds_nothing_and_reads_one_batch_ahead():
    dataset = Counting()
    part = DatasetPart(dataset, limit=0)
    stream = part.batches(2)
    next(stream)
    stream.close()
    assert max(dataset.read) == 3
    dataset.read.clear()
    list(part.batches(2))
    list(part.batches(2))
    assert sorted(dataset.read) == sorted(2 * list(range(10)))


def test_a_part_is_returned_unchanged():
    part = TensorPart(torch.randn(2, 1), torch.arange(2))
    assert as_part(part, "train") is part


@pytest.mark.parametrize("limit", [10**9, 0], ids=["in memory", "streamed"])
def test_images_of_another_shape_are_refused_and_not_broadcast(limit):
    items = [(torch.zeros(3, 2, 2), 0), (torch.zeros(1, 2, 2), 1)]
    with pytest.raises(IntegrityError, match=r"image 1 of the val part is \[1, 2, 2\], and image 0 is \[3, 2, 2\]"):
        list(DatasetPart(items, name="val", limit=limit).batches(1))
