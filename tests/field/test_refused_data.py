"""Data from Python that cannot be taken: refused in one sentence, with part and index."""

import numpy as np
import pytest
import torch
from given_data import CLASSES, COUNT, FEATURES, IMAGES, LABELS, Given, make
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pipeline.errors import IntegrityError, SpecError
from pipeline.task.contract import Task
from pipeline.task.sources import READ_TWICE, as_part

ARRAY = IMAGES.numpy()


def named(value: object) -> str:
    """The name of a case: its text, or its kind where the text has an address or is long."""
    text = str(value)
    return type(value).__name__ if " at 0x" in text or len(text) > 60 else text


def changed(index, value):
    """A data set with another value at an index: an image, a label, or an item."""
    return {
        "image": Given(lambda i: (value if i == index else IMAGES[i], LABELS[i])),
        "label": Given(lambda i: (IMAGES[i], value if i == index else LABELS[i])),
        "item": Given(lambda i: value if i == index else (IMAGES[i], LABELS[i])),
    }


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(FEATURES, dtype=torch.uint8), "of type Tensor, uint8 [6]; give images in floating point"),
        (torch.zeros(FEATURES, dtype=torch.int64), "int64 [6]"),
        (torch.zeros(FEATURES, dtype=torch.bool), "bool [6]"),
        (torch.zeros(FEATURES, dtype=torch.complex64), "complex64 [6]"),
        (torch.zeros(FEATURES, device="meta"), "float32 [6]"),
        (torch.zeros(FEATURES).to_sparse(), "float32 [6]"),
        (torch.tensor(1.0), "float32 []"),
        (np.zeros((2, 3, 3), np.uint8), "uint8 [2, 3, 3]"),
        (np.array(["a", "b"]), "of type ndarray"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "of type MaskedArray"),
        (Image.new("RGB", (2, 3)), "of type Image"),
        ("cat.jpg", "of type str"),
        (None, "of type NoneType"),
        (7, "of type int"),
        ([[1.0, 2.0], [3.0]], "of type list with 2 entries"),
        ({"pixels": 0}, "of type dict with the keys 'pixels'"),
    ],
    ids=named,
)
def test_an_image_that_cannot_be_taken_is_named_with_part_and_index(value, said):
    for index in (0, COUNT - 1):
        with pytest.raises(IntegrityError, match=f"^image {index} of the train part is ") as refused:
            make(changed(index, value)["image"])
        assert said in str(refused.value)
    with pytest.raises(IntegrityError, match=r"^image 2 of the test part is "):
        make((IMAGES, LABELS), test=changed(2, value)["image"])


@pytest.mark.parametrize("dtype", ["u1", "i8", "?", "c8", "O", "U3"])
def test_pairs_of_other_images_are_refused_with_their_type(dtype):
    with pytest.raises(IntegrityError, match=r"train part is of type ndarray, .*; give images in floating"):
        make((ARRAY.astype(dtype), LABELS))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300], ids=named)
@pytest.mark.parametrize("form", ["pair", "data set", "array"])
@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_an_image_that_is_not_finite_is_named_with_part_and_index(value, form, part):
    images = IMAGES.double()
    images[5, 2] = value
    forms = {"pair": (images, LABELS), "data set": TensorDataset(images, LABELS), "array": (images.numpy(), LABELS)}
    with pytest.raises(IntegrityError, match=f"^image 5 of the {part} part holds NaN or infinite values"):
        make(**{"train": (IMAGES, LABELS), part: forms[form]})


BAD_LABELS = [
    (0.5, "label 0.5"),
    (float("nan"), "label nan"),
    (float("inf"), "label inf"),
    (torch.tensor(1.5), "label 1.5"),
    (torch.eye(CLASSES)[1], "label [0.0, 1.0, 0.0]"),
    (np.eye(CLASSES, dtype=int)[1], "label [0, 1, 0]"),
    ([0, 1], "label [0, 1]"),
    ([], "label []"),
    ("cat", "label 'cat'"),
    ("1", "label '1'"),
    (b"1", "label b'1'"),
    (None, "label None"),
    (1j, "label 1j"),
    (2**64, "label 18446744073709551616"),
    (np.uint64(2**64 - 1), "label 18446744073709551615"),
    ({"class": 1}, "label {'class': 1}"),
]


@pytest.mark.parametrize(("value", "said"), BAD_LABELS, ids=[said for _, said in BAD_LABELS])
def test_a_label_that_is_no_whole_number_is_named_with_part_and_index(value, said):
    with pytest.raises(IntegrityError) as refused:
        make(changed(3, value)["label"])
    assert str(refused.value).startswith(f"{said} of image 3 of the train part is not one whole number; give the index")
    with pytest.raises(IntegrityError) as refused:
        make((IMAGES, LABELS), val=(IMAGES, [*LABELS[:3], value, *LABELS[4:]]))
    assert str(refused.value).startswith(f"{said} of image 3 of the val part is not one whole number")


@pytest.mark.parametrize(("value", "said"), [(-1, "label -1"), (CLASSES, "label 3"), (2**40, "label 1099511627776")])
def test_a_label_out_of_range_is_named_with_part_and_index(value, said):
    for given in (changed(4, value)["label"], (IMAGES, [*LABELS[:4], value, *LABELS[5:]])):
        with pytest.raises(IntegrityError, match=f"^{said} of image 4 of the train part is out of range"):
            make(given)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (nn.functional.one_hot(LABELS), r"label \[1, 0, 0\] of image 0"),
        (LABELS[:-1], "has 12 images and 11 labels"),
        (LABELS[:, None, None][:5], "has 12 images and 5 labels"),
        (7, "the labels of the train part are of type int"),
        (torch.tensor(7), "the labels of the train part are of type Tensor"),
        (None, "the labels of the train part are of type NoneType"),
        ({0: 1}, "the labels of the train part are of type dict"),
        (set(LABELS.tolist()), "the labels of the train part are of type set"),
        (LABELS.to("meta"), r"the labels of the train part are of type Tensor, int64 \[12\]"),
        (LABELS.to_sparse(), r"the labels of the train part are of type Tensor, int64 \[12\]"),
        ([*LABELS[:5], LABELS[0].to("meta"), *LABELS[6:]], "label None of image 5 of the train part"),
    ],
)
def test_labels_that_do_not_fit_the_images_are_refused(labels, said):
    with pytest.raises(IntegrityError, match=said):
        make((IMAGES, labels))


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"image": 0, "label": 1}, "of type dict with the keys 'image', 'label'"),
        ((IMAGES[0], 0, 1), "of type tuple with 3 entries"),
        ((IMAGES[0],), "of type tuple with 1 entries"),
        (IMAGES[0], "of type Tensor, float32 [6]"),
        ("ab", "of type str"),
        (None, "of type NoneType"),
        (Image.new("L", (2, 2)), "of type Image"),
    ],
    ids=["dict", "three", "one", "tensor", "str", "None", "picture"],
)
def test_an_item_that_is_no_pair_is_named_with_part_and_index(item, said):
    with pytest.raises(IntegrityError) as refused:
        make(changed(2, item)["item"])
    assert str(refused.value).startswith(f"item 2 of the train part is {said}; give a data set whose items are (image,")


class Endless(IterableDataset):
    def __iter__(self):
        yield from zip(IMAGES, LABELS, strict=True)


class WithLength(Endless):
    def __len__(self):
        return COUNT


class NoLength(Dataset):
    def __getitem__(self, index):
        return IMAGES[index], LABELS[index]


class BrokenLength(NoLength):
    def __len__(self):
        raise NotImplementedError("unknown")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"x": IMAGES, "y": LABELS}, "cannot be of type dict with the keys 'x', 'y'; give a pair"),
        (DataLoader(TensorDataset(IMAGES, LABELS)), "cannot be of type DataLoader.*give its data set, loader.dataset"),
        (Endless(), "cannot be of type Endless; .*with __len__ and __getitem__"),
        (WithLength(), "cannot be of type WithLength"),
        (NoLength(), "cannot be of type NoLength"),
        (BrokenLength(), "of type BrokenLength, whose length cannot be read: unknown"),
        (iter([(IMAGES[0], 0)]), "cannot be of type list_iterator"),
        ("data/train", "cannot be of type str"),
        (None, "cannot be of type NoneType"),
        (IMAGES, "item 0 of the train part is of type Tensor"),
        ((IMAGES, LABELS, LABELS), "item 0 of the train part is of type Tensor"),
        ((iter(IMAGES), LABELS), "cannot be of type"),
        ((torch.tensor(1.0), LABELS), "length cannot be read"),
        ([], "the train part is empty"),
        (([], []), "the train part is empty"),
        ((IMAGES[:0], LABELS[:0]), "the train part is empty"),
        (TensorDataset(IMAGES[:0], LABELS[:0]), "the train part is empty"),
    ],
    ids=named,
)
def test_a_source_of_another_kind_is_refused_and_says_what_to_give(source, said):
    with pytest.raises(IntegrityError, match=said):
        make(source)


def test_a_data_set_that_ends_before_its_length_or_fails_is_named_with_the_item():
    for count, fails in ((COUNT + 1, COUNT), (COUNT, 5)):

        def item(index, fails=fails):
            if index == fails:
                raise IndexError("no such row")
            return IMAGES[index], LABELS[index]

        with pytest.raises(
            IntegrityError, match=f"^item {fails} of the train part .* cannot be read: IndexError: no such"
        ) as refused:
            make(Given(item, count))
        assert isinstance(refused.value.__cause__, IndexError)


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_data_set_that_augments_at_random_is_refused(part):
    flipping = Given(lambda i: (IMAGES[i].flip(0) if torch.rand(()) < 0.5 else IMAGES[i], LABELS[i]), 2 * READ_TWICE)
    flipping.item = lambda i, whole=flipping.item: whole(i % COUNT)
    noisy = Given(lambda i: (IMAGES[i] + torch.randn(FEATURES), LABELS[i]))
    cropping = Given(lambda i: (IMAGES[i, : 5 + int(torch.rand(()) < 0.5)], LABELS[i]))
    for given in (flipping, noisy, cropping):
        with pytest.raises(IntegrityError, match=f"of the {part} part is .*(when it is read again|resize all)"):
            make(**{"train": (IMAGES, LABELS), part: given})
    relabelling = Given(lambda i: (IMAGES[i], int(torch.randint(10**6, ()))))
    with pytest.raises(IntegrityError, match=f"^label .* of the {part} part is .* when it is read again"):
        make(**{"train": (IMAGES, LABELS), part: relabelling})


@pytest.mark.parametrize("rare", [0, COUNT // 2, 10 * COUNT - READ_TWICE], ids=["all", "some", "the last"])
def test_augmentation_of_a_part_of_the_items_is_refused(rare):
    noisy = Given(lambda i: (IMAGES[i % COUNT] + (i >= rare) * torch.rand(()), LABELS[i % COUNT]), 10 * COUNT)
    with pytest.raises(IntegrityError, match="give a data set without random augmentation"):
        make(noisy)


@pytest.mark.parametrize("metric", ["f1", "", None, 3, "Accuracy"])
def test_an_unknown_metric_is_refused_with_those_that_there_are(metric):
    with pytest.raises(SpecError, match=r"^metric = "):
        Task(nn.Linear(FEATURES, CLASSES), *[(IMAGES, LABELS)] * 3, metric=metric)


def test_images_of_other_sizes_are_refused_within_a_part_and_between_parts():
    sizes = Given(lambda i: (torch.zeros(FEATURES + (i == 7)), LABELS[i]))
    with pytest.raises(IntegrityError, match=r"image 7 of the train part is \[7\], and image 0 is \[6\]; resize all"):
        make(sizes)
    with pytest.raises(IntegrityError, match=r"image 7 of the train part is \[7\], and image 0 is \[6\]"):
        make(([image for image, _ in sizes], LABELS))
    pooled = nn.Sequential(nn.AdaptiveAvgPool1d(FEATURES), nn.Linear(FEATURES, CLASSES))
    with pytest.raises(IntegrityError, match=r"images of the val part are \[9\], and those of the train part \[6\]"):
        make((IMAGES, LABELS), pooled, val=(torch.zeros(COUNT, 9), LABELS))


def test_images_that_the_model_cannot_take_are_refused_with_their_shape():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(CLASSES))
    model(torch.zeros(1, 3, 8, 8))
    last = torch.zeros(COUNT, 8, 8, 3)
    with pytest.raises(IntegrityError, match=r"cannot take images of the train part, .*\[8, 8, 3\].*channels"):
        Task(model, *[(last, LABELS)] * 3)


def test_a_part_of_a_users_own_is_taken_as_it_is_and_checked():
    class Own:
        def __init__(self, images, labels):
            self.images, self.labels = images, labels

        def __len__(self):
            return len(self.images)

        def batches(self, batch_size, order=None):
            order = torch.arange(len(self)) if order is None else order
            for indices in order.split(batch_size):
                yield self.images[indices], LABELS[indices]

    part = Own(IMAGES, LABELS)
    assert as_part(part, "train") is part
    make(part)
    with pytest.raises(IntegrityError, match=r"labels of the train part are of type Tensor, float32 \[12\]"):
        make(Own(IMAGES, LABELS.float()))
    with pytest.raises(IntegrityError, match="labels of the train part are of type list"):
        make(Own(IMAGES, LABELS.tolist()))
    with pytest.raises(IntegrityError, match="image 0 of the train part holds NaN"):
        make(Own(IMAGES * float("nan"), LABELS))
