import json

import pytest
import torch
from tiny_data import write_images
from tiny_studies import count_correct

from pipeline.config.registry import DATASETS
from pipeline.config.task_spec import TaskSpec
from pipeline.errors import IntegrityError, RestoraError, SpecError
from pipeline.paths import BASELINES
from pipeline.task.baseline import baseline_epochs
from pipeline.task.contract import Task
from pipeline.task.opened_task import OpenedTask
from pipeline.task.prepare import prepare, rebuild

MLP = {"source": "mlp", "widths": [192, 16, 3], "dropout": 0.2}


def spec(tmp_path, model=MLP, **tables):
    if not (tmp_path / "images").exists():
        write_images(tmp_path / "images", 12)
    data = {"source": "image-folder", "root": str(tmp_path / "images")}
    tables = {"split": {"val": 0.2, "test": 0.2}, "baseline": {"epochs": 2, "lr": 1e-2, "batch_size": 8}, **tables}
    return TaskSpec.model_validate({"model": model, "data": data, **tables})


def kept():
    return sorted(BASELINES.glob("*.safetensors"))


def test_a_study_files_task_is_opened_split_trained_and_described(tmp_path):
    task = prepare(spec(tmp_path, baseline={"epochs": 20, "lr": 1e-2, "batch_size": 8}))
    assert count_correct(task.model, task.test) == len(task.test)
    assert not task.model.training
    assert task.description["classes"] == 3
    assert task.description["parts"] == {"train": 23, "val": 6, "test": 7}
    assert task.description["preprocessing"]["input"] == [3, 8, 8]
    assert task.description["data"] == {"source": "image-folder"}
    assert set(task.hashes) == {"weights", "data", "split"}


@pytest.mark.parametrize("name", [source.name for source in DATASETS])
def test_every_data_set_becomes_a_task(name, write_data):
    classes = len(DATASETS.parse(write_data(name)).open().classes)
    table = {"model": {"source": "mlp", "widths": [64, classes]}, "data": name, "baseline": {"epochs": 1}}
    task = prepare(TaskSpec.model_validate(table), train_baseline=False)
    for part in (task.train, task.val, task.test):
        images, labels = next(part.batches(2))
        assert images.shape == (2, 1, 8, 8)
        assert torch.equal(labels, part.labels[:2])


def test_the_architecture_is_built_again_from_the_description_alone(tmp_path):
    task = prepare(spec(tmp_path))
    images, _ = next(task.test.batches(4))
    (tmp_path / "images").rename(tmp_path / "gone")
    model = rebuild(json.loads(json.dumps(task.description)))
    model.load_state_dict(task.model.state_dict())
    assert not model.training
    assert torch.equal(model(images), task.model(images))


def test_a_users_own_task_cannot_be_built_from_its_description():
    pair = torch.randn(2, 4), torch.arange(2)
    with pytest.raises(RestoraError, match="give the module as model="):
        rebuild(Task(torch.nn.Linear(4, 2), pair, pair, pair).description)


def test_a_baseline_is_trained_once_and_cached(tmp_path, said):
    first = prepare(spec(tmp_path))
    assert any("epoch 2/2" in line for line in said)
    said.clear()
    assert prepare(spec(tmp_path)).hashes == first.hashes
    assert said == []
    assert len(kept()) == 1


def test_a_baseline_is_watched_from_its_start_through_every_epoch_and_is_the_same(tmp_path):
    first = prepare(spec(tmp_path))
    kept()[0].unlink()
    seen = [model.fc1.weight.detach().clone() for model in baseline_epochs(OpenedTask(spec(tmp_path)))]
    watched = prepare(spec(tmp_path))
    assert watched.hashes == first.hashes
    assert len(seen) == 3
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], watched.model.fc1.weight)


def test_a_baseline_is_the_same_whatever_the_global_generator_holds_and_leaves_it_alone(tmp_path):
    torch.manual_seed(1)
    first = prepare(spec(tmp_path))
    kept()[0].unlink()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert prepare(spec(tmp_path)).hashes == first.hashes
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "change",
    [
        {"model": {**MLP, "widths": [192, 17, 3]}},
        {"model": {**MLP, "dropout": 0.3}},
        {"model": {**MLP, "mean": [0.5]}},
        {"split": {"val": 0.25, "test": 0.2}},
        {"split": {"val": 0.2, "test": 0.2, "seed": 1}},
        {"baseline": {"epochs": 3}},
    ],
)
def test_another_task_has_another_baseline(change, tmp_path):
    prepare(spec(tmp_path))
    prepare(spec(tmp_path, **change))
    assert len(kept()) == 2


def test_fault_18_other_data_has_another_baseline_and_another_hash(tmp_path):
    first = prepare(spec(tmp_path))
    write_images(tmp_path / "images", 12, seed=7)
    assert prepare(spec(tmp_path)).hashes["data"] != first.hashes["data"]
    assert len(kept()) == 2


@pytest.mark.parametrize("damage", ["a flipped bit", "truncated", "another task's"])
def test_fault_09_a_damaged_baseline_is_named_and_trained_again(damage, tmp_path, said):
    first = prepare(spec(tmp_path))
    path = kept()[0]
    whole = path.read_bytes()
    if damage == "a flipped bit":
        path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    elif damage == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        prepare(spec(tmp_path, model={**MLP, "dropout": 0.1}))
        next(other for other in kept() if other != path).replace(path)
    said.clear()
    assert prepare(spec(tmp_path)).hashes == first.hashes
    assert f"{path} is damaged" in said[0]
    assert path.read_bytes() == whole


def test_without_training_the_model_stays_untrained_until_a_baseline_is_cached(tmp_path):
    task = prepare(spec(tmp_path), train_baseline=False)
    assert not task.trained
    assert set(task.hashes) == {"data", "split"}
    assert kept() == []
    trained = prepare(spec(tmp_path))
    assert prepare(spec(tmp_path), train_baseline=False).hashes == trained.hashes


def test_without_a_baseline_weights_are_used_as_they_are_loaded(tmp_path):
    model = {"source": "timm", "architecture": "test_resnet", "image_size": 32}
    prepared = prepare(spec(tmp_path, model=model, baseline={"epochs": 1}))
    torch.save(prepared.model.state_dict(), tmp_path / "w.pt")
    model = {**model, "checkpoint": str(tmp_path / "w.pt")}
    assert prepare(spec(tmp_path, model=model, baseline=None)).hashes["weights"] == prepared.hashes["weights"]


def test_a_model_with_neither_weights_nor_a_baseline_is_refused(tmp_path):
    with pytest.raises(SpecError, match=r"'mlp' has no weights, .* \[task.baseline\]"):
        prepare(spec(tmp_path, baseline=None))


def test_a_diverging_baseline_is_named_with_its_epoch_and_not_cached(tmp_path):
    with pytest.raises(SpecError, match=r"in epoch \d; lower task.baseline.lr = 1e\+30"):
        prepare(spec(tmp_path, baseline={"epochs": 2, "optimizer": "sgd", "lr": 1e30}))
    assert kept() == []


def test_batch_norm_survives_a_last_batch_of_one(tmp_path):
    model = {"source": "timm", "architecture": "test_resnet", "image_size": 32}
    prepare(spec(tmp_path, model=model, baseline={"epochs": 1, "batch_size": 11}))


def test_fault_16_an_image_that_cannot_be_decoded_stops_the_task_with_its_path(tmp_path):
    table = spec(tmp_path)
    for path in (tmp_path / "images" / "red").iterdir():
        path.write_bytes(b"<html>")
    with pytest.raises(IntegrityError, match=r"red/0..\.png: is not an image, it begins with b'<html>'"):
        prepare(table)


def test_fault_17_an_empty_class_is_named(tmp_path):
    table = spec(tmp_path)
    (tmp_path / "images" / "violet").mkdir()
    with pytest.raises(IntegrityError, match=r"without training images: .violet. \(no images\);"):
        prepare(table.model_copy(update={"model": table.model.model_copy(update={"widths": (192, 4)})}))


def test_a_random_head_without_a_baseline_is_refused(tmp_path):
    model = {"source": "timm", "architecture": "test_resnet", "hub": True, "new_head": True}
    with pytest.raises(SpecError, match=r"new_head = true leaves the head random, and there is no \[task.baseline\]"):
        prepare(spec(tmp_path, model=model, baseline=None))
