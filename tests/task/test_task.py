import pytest
import torch
from torch import nn

from pipeline.errors import IntegrityError
from pipeline.task.contract import Task


def pair(labels, features=4, seed=0):
    images = torch.randn(len(labels), features, generator=torch.Generator().manual_seed(seed))
    return images, torch.tensor(labels, dtype=torch.int64)


def make(train=(0, 1, 2, 0), val=(0, 1), test=(2,), outputs=3, **kwargs):
    torch.manual_seed(0)
    return Task(nn.Linear(4, outputs), pair(train), pair(val, seed=1), pair(test, seed=2), **kwargs)


def test_a_users_own_module_and_tensors_make_a_task():
    task = make()
    assert task.description["classes"] == 3
    assert task.trained
    assert (len(task.train), len(task.val), len(task.test)) == (4, 2, 1)
    assert set(task.hashes) == {"weights", "data", "split"}


def test_the_model_is_a_frozen_copy_and_the_given_one_stays_as_it_was():
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout())
    task = Task(model, pair([0, 1, 2]), pair([0]), pair([1]))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not task.model.training
    assert not any(parameter.requires_grad for parameter in task.model.parameters())
    with torch.no_grad():
        model[0].weight.zero_()
    assert task.model[0].weight.abs().sum() > 0


def test_the_same_task_has_the_same_hashes():
    assert make().hashes == make().hashes


@pytest.mark.parametrize("what", ["weights", "data", "split"])
def test_each_hash_changes_with_what_it_identifies(what):
    changed = {
        "weights": lambda: Task(
            nn.Linear(4, 3, bias=False), pair([0, 1, 2, 0]), pair([0, 1], seed=1), pair([2], seed=2)
        ),
        "data": lambda: Task(make().model, pair([0, 1, 2, 0], seed=9), pair([0, 1], seed=1), pair([2], seed=2)),
        "split": lambda: make(val=(1, 0)),
    }[what]()
    assert {name for name in ("weights", "data", "split") if changed.hashes[name] != make().hashes[name]} == {what}


def test_given_hashes_and_classes_are_kept_and_only_the_first_images_are_read():
    class Large:
        labels = torch.tensor([0, 1, 2])

        def __len__(self):
            return 3

        def batches(self, batch_size, order=None):
            assert order.tolist() == [0, 1]
            yield torch.zeros(2, 4), torch.tensor([0, 1])

    part = Large()
    task = Task(nn.Linear(4, 3), part, part, part, description={"classes": 3}, hashes={"data": "d", "split": "s"})
    assert task.hashes["data"] == "d"
    assert len(task.hashes["weights"]) == 64


def test_a_model_left_untrained_has_no_hash_of_weights():
    task = make(description={"trained": False})
    assert not task.trained
    assert set(task.hashes) == {"data", "split"}


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"train": ()}, "the train part is empty"),
        ({"val": ()}, "the val part is empty"),
        ({"train": (0, 1, 3)}, "label 3 of image 2 of the train part is out of range; the model has 3 classes"),
        ({"test": (-1,)}, "label -1 of image 0 of the test part"),
        ({"train": (1, 1, 1)}, "every training image is of class 1"),
        ({"train": (0, 2, 2)}, "1 of 3 classes have no training image: 1;"),
    ],
)
def test_fault_17_labels_that_cannot_be_learned_are_named(parts, said):
    with pytest.raises(IntegrityError, match=said):
        make(**parts)


def test_a_model_that_returns_no_logits_is_refused():
    with pytest.raises(IntegrityError, match=r"returns torch\.float32 \[2, 2, 3\] for 2 images"):
        Task(nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3))), pair([0, 1]), pair([0]), pair([1]))


def test_a_model_of_another_precision_is_refused_by_name():
    x, y = pair((0, 1, 2, 0))
    with pytest.raises(IntegrityError, match=r"'layer.weight' is torch\.float64; .* model\.float\(\)"):
        Task(nn.Linear(4, 3).double(), (x, y), (x, y), (x, y))
