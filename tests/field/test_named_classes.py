"""Data sets from Python that name their classes: one label is one class in all parts."""

import pytest
import torchvision
from given_data import COUNT, IMAGES, LABELS, Given, make
from tiny_data import COLOURS, write_images
from torch import nn
from torch.utils.data import Subset

from pipeline.errors import IntegrityError
from pipeline.task.contract import Task


def folder_of(classes, **options):
    """A data set with names of its classes, as torchvision's ``ImageFolder`` has them."""
    made = Given(lambda i: (IMAGES[i], LABELS[i]))
    vars(made).update(classes=list(classes), **options)
    return made


def test_data_sets_whose_labels_are_of_other_classes_are_refused_by_the_first_such_label():
    train, halves = folder_of("abc"), (range(0, COUNT, 2), range(1, COUNT, 2))
    make(train, val=folder_of("abc"), test=Subset(folder_of("ab"), halves[0]))
    make(train, val=folder_of("acb", target_transform=lambda label: [0, 2, 1][label]))
    for val in (folder_of("ac"), Subset(Subset(folder_of("ac"), range(COUNT)), halves[0])):
        with pytest.raises(IntegrityError, match=r"^label 1 is class 'b' in the train part and 'c' in the val part"):
            make(train, val=val)
    with pytest.raises(IntegrityError, match=r"^label 0 is class 'a' in the train part and 'b' in the test part"):
        make(train, test=folder_of("bac"))


def test_image_folders_of_which_one_lacks_a_class_are_refused(tmp_path):
    write_images(tmp_path / "train", 4, side=4)
    write_images(tmp_path / "val", 4, side=4, classes=dict(sorted(COLOURS.items())[1:]))
    change = torchvision.transforms.ToTensor()
    train, val = (torchvision.datasets.ImageFolder(tmp_path / part, change) for part in ("train", "val"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    Task(model, train, train, train)
    with pytest.raises(IntegrityError, match=r"^label 0 is class .* in the train part and .* in the val part"):
        Task(model, train, val, train)
