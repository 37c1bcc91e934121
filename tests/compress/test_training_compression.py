import pytest
import torch
from torch import nn

from pipeline.compress.methods.prune_gradient import PruneGradient
from pipeline.compress.methods.prune_magnitude import PruneMagnitude
from pipeline.compress.training_compression import compress_cached
from pipeline.paths import COMPRESSED
from pipeline.task.contract import Task


@pytest.fixture
def task(tmp_path, monkeypatch) -> Task:
    monkeypatch.chdir(tmp_path)
    images, labels = torch.randn(24, 6), torch.arange(24) % 3
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    return Task(model, train=(images, labels), val=(images, labels), test=(images, labels))


def compressed(task: Task, method: PruneGradient) -> dict[str, torch.Tensor]:
    return compress_cached(method, task, task.model, ["0"], {}).model.state_dict()


def test_a_model_that_was_pruned_while_training_is_read_from_the_cache_bit_for_bit(task, monkeypatch):
    method = PruneGradient(when="steps", batch_size=8)
    first = compressed(task, method)
    monkeypatch.setattr(PruneGradient, "compress_model", lambda *_: pytest.fail("it was trained again"))
    again = compressed(task, method)
    assert first["0.weight"].shape == (4, 6)
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert len(list(COMPRESSED.glob("*"))) == 1


def test_other_options_and_other_data_are_other_models(task):
    compressed(task, PruneGradient(batch_size=8))
    compressed(task, PruneGradient(batch_size=8, keep=0.25))
    images, labels = torch.randn(24, 6), torch.arange(24) % 3
    compressed(Task(task.model, train=(images, labels), val=task.val, test=task.test), PruneGradient(batch_size=8))
    assert len(list(COMPRESSED.glob("*"))) == 3


def test_a_damaged_file_is_made_again(task):
    method = PruneGradient(batch_size=8)
    first = compressed(task, method)
    (path,) = COMPRESSED.glob("*")
    path.write_bytes(path.read_bytes()[:-7])
    again = compressed(task, method)
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


def test_a_method_that_trains_nothing_keeps_nothing(task):
    compress_cached(PruneMagnitude(), task, task.model, ["0"], {})
    assert not COMPRESSED.exists()
