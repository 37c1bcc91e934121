"""Data from Python in every form that can be taken: the same data whatever their form."""

import copy
import functools
import sqlite3
import warnings
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from given_data import COUNT, FEATURES, IMAGES, LABELS, Foreign, Frame, Given, make
from torch import nn
from torch.utils.data import ConcatDataset, Subset, TensorDataset, random_split

from pipeline.errors import IntegrityError
from pipeline.task.parts import DatasetPart

Sample = namedtuple("Sample", ["image", "label"])


def holds(part, images=IMAGES, labels=LABELS):
    batches = list(part.batches(5, torch.arange(COUNT)))
    read, its_labels = (torch.cat(column) for column in zip(*batches, strict=True))
    assert (read.dtype, its_labels.dtype, part.labels.dtype) == (torch.float32, torch.int64, torch.int64)
    assert not read.requires_grad
    assert not read.is_inference()
    assert type(read) is torch.Tensor
    assert all(map(torch.equal, (read, its_labels, part.labels), (images, labels, labels)))


def read_only(array):
    array.flags.writeable = False
    return array


def memory_map(array, path="images.bin"):
    array.tofile(path)
    return np.memmap(path, array.dtype, "r", shape=array.shape)


ARRAY = IMAGES.numpy()
IMAGE_FORMS = {
    "a tensor": lambda: IMAGES,
    "float64": lambda: IMAGES.double(),
    "half": lambda: IMAGES.half(),
    "a parameter": lambda: nn.Parameter(IMAGES.clone()),
    "with a gradient": lambda: IMAGES.clone().requires_grad_() * 1,
    "made in inference mode": lambda: torch.inference_mode()(IMAGES.clone)(),
    "not contiguous": lambda: IMAGES.t().contiguous().t(),
    "a slice": lambda: torch.cat([IMAGES, IMAGES], 1)[:, :FEATURES],
    "an array": lambda: ARRAY.copy(),
    "an array of float64": lambda: ARRAY.astype(np.float64),
    "an array of float16": lambda: ARRAY.astype(np.float16),
    "an array of long doubles": lambda: ARRAY.astype(np.longdouble),
    "big-endian": lambda: ARRAY.astype(">f4"),
    "read-only": lambda: read_only(ARRAY.copy()),
    "in Fortran's order": lambda: np.asfortranarray(ARRAY),
    "with negative strides": lambda: ARRAY[:, ::-1].copy()[:, ::-1],
    "a memory map": lambda: memory_map(ARRAY),
    "a memory map of float64": lambda: memory_map(ARRAY.astype(np.float64)),
    "a list of tensors": lambda: list(IMAGES),
    "a tuple of arrays": lambda: tuple(ARRAY),
    "nested lists": lambda: IMAGES.tolist(),
    "a foreign array": lambda: Foreign(ARRAY),
    "a data frame": lambda: Frame(ARRAY),
    "a data set of images": lambda: Given(lambda index: IMAGES[index]),
}


@pytest.mark.parametrize("form", IMAGE_FORMS)
@pytest.mark.parametrize("limit", [2**31, 0], ids=["held", "streamed"])
def test_images_of_every_floating_point_form_are_the_same_images(form, limit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.task.sources.DatasetPart", functools.partial(DatasetPart, limit=limit))
    given = IMAGE_FORMS[form]()
    with warnings.catch_warnings(action="error"):
        task = make((given, LABELS))
        holds(task.train)
        holds(make([given, LABELS.tolist()]).train)
        if not isinstance(given, Frame):
            items = Given(lambda index: (given[index], LABELS[index]))
            holds(make(items).train)
    expected = make((IMAGES, LABELS)).hashes
    assert {name: task.hashes[name] == expected[name] for name in ("data", "split")} == {"data": True, "split": True}


TYPES = ["uint8", "int8", "int16", "int32", "uint16", "uint32", "uint64", "float32", "float64", "bfloat16"]
KINDS = ["u1", "u2", "u4", "u8", "i1", ">i2", ">i8", "f2", "f4", "O"]
LABEL_FORMS = {
    **{f"a tensor of {name}": functools.partial(LABELS.to, getattr(torch, name)) for name in TYPES},
    **{f"an array of {kind}": functools.partial(LABELS.numpy().astype, kind) for kind in KINDS},
    "a list": LABELS.tolist,
    "a list of whole floats": lambda: [float(label) for label in LABELS],
    "a list of scalars of numpy": lambda: list(LABELS.numpy().astype(np.int16)),
    "a list of tensors": lambda: list(LABELS),
    "a list of tensors of one entry": lambda: list(LABELS[:, None]),
    "a column": lambda: LABELS[:, None],
    "a column in an array": lambda: LABELS[:, None].numpy(),
    "a foreign array": lambda: Foreign(LABELS.numpy()),
    "a tuple": lambda: tuple(LABELS.tolist()),
}


@pytest.mark.parametrize("form", LABEL_FORMS)
def test_labels_of_every_whole_number_type_are_the_same_labels(form):
    labels = LABEL_FORMS[form]()
    holds(make((IMAGES, labels)).train)
    holds(make(Given(lambda index: (IMAGES[index], labels[index]))).train)


def test_labels_of_truth_values_are_two_classes():
    labels = LABELS > 0
    for form in (labels, labels.numpy(), labels.tolist()):
        holds(
            make((IMAGES, form), nn.Linear(FEATURES, 2), val=(IMAGES, labels), test=(IMAGES, labels)).train,
            IMAGES,
            labels.long(),
        )


@pytest.mark.parametrize(
    "form",
    {
        "pairs": lambda index: (IMAGES[index], LABELS[index]),
        "lists": lambda index: [IMAGES[index], int(LABELS[index])],
        "named tuples": lambda index: Sample(IMAGES[index], LABELS[index].numpy()),
        "arrays": lambda index: (ARRAY[index], LABELS.numpy()[index]),
    }.items(),
    ids=lambda form: form[0],
)
def test_items_of_every_pair_form_are_the_same_items(form):
    holds(make(Given(form[1])).train)


def test_data_sets_of_torch_are_taken_and_lists_of_items():
    whole = TensorDataset(IMAGES, LABELS)
    holds(make(whole).train)
    holds(make(Subset(TensorDataset(torch.cat([IMAGES, IMAGES]), torch.cat([LABELS, LABELS])), range(COUNT))).train)
    holds(make(ConcatDataset([Subset(whole, range(5)), Subset(whole, range(5, COUNT))])).train)
    holds(make(list(whole)).train)
    first, _ = random_split(ConcatDataset([whole, whole]), [COUNT, COUNT], torch.Generator().manual_seed(0))
    make(first)


def test_two_items_and_a_pair_of_two_are_told_apart():
    two = [(IMAGES[0], 0), (IMAGES[1], 1)]
    model = nn.Linear(FEATURES, 2)
    for given in (two, tuple(two), (IMAGES[:2], [0, 1]), [list(IMAGES[:2]), [0, 1]], (list(IMAGES[:2]), LABELS[:2])):
        task = make(given, model, val=(IMAGES[:2], [0, 1]), test=two)
        assert torch.equal(next(task.train.batches(2))[0], IMAGES[:2])
        assert task.train.labels.tolist() == [0, 1]


def test_a_data_set_that_fills_one_buffer_again_gives_different_images():
    buffer = torch.empty(FEATURES)
    holds(make(Given(lambda index: (buffer.copy_(IMAGES[index]), LABELS[index]))).train)


def of_database():
    """A data set that only the thread that made it can read."""
    connection = sqlite3.connect(":memory:")
    connection.execute("create table items (image blob, label integer)")
    rows = [(image.numpy().tobytes(), int(label)) for image, label in zip(IMAGES, LABELS, strict=True)]
    connection.executemany("insert into items values (?, ?)", rows)

    def item(index):
        query = "select image, label from items where rowid = ?"
        image, label = connection.execute(query, (index + 1,)).fetchone()
        return np.frombuffer(image, np.float32), label

    return Given(item)


def test_a_data_set_is_read_in_the_thread_that_asks():
    holds(make(of_database()).train)


def test_a_data_set_that_is_too_large_for_memory_is_shared_by_copies_and_names_other_threads(monkeypatch):
    monkeypatch.setattr("pipeline.task.sources.DatasetPart", functools.partial(DatasetPart, limit=0))
    part = copy.deepcopy(make(of_database())).train
    holds(part)
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(IntegrityError, match=r"ProgrammingError: .*n_jobs = 1"),
    ):
        pool.submit(lambda: list(part.batches(5))).result()
