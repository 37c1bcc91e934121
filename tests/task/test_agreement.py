import threading
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from stopping import CheckedBy
from tiny_data import write_images
from tiny_studies import count_correct
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from pipeline.config.registry import MODELS
from pipeline.config.task_spec import TaskSpec
from pipeline.errors import IntegrityError
from pipeline.paths import ANSWERS
from pipeline.task.contract import Task
from pipeline.task.data_check import check_images
from pipeline.task.metrics.agreement import FEW, PredictedPart
from pipeline.task.parts import DatasetPart, Part, TensorPart
from pipeline.task.prepare import prepare
from pipeline.train.rows import TensorRows, image_rows


class Counting(nn.Module):
    """Five outputs; counts the images that it classified."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.classified = nn.Linear(4, 5), 0

    def forward(self, x: Tensor) -> Tensor:
        self.classified += len(x)
        return self.fc(x)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))


def task(**changes: object) -> Task:
    parts = {name: (images(40, seed), torch.zeros(40).long()) for seed, name in enumerate(("train", "val", "test"))}
    return Task(Counting(), **{**parts, "metric": "agreement", **changes})


def test_labels_are_the_models_predictions_so_its_agreement_is_one():
    own = task()
    for part in (own.train, own.val, own.test):
        assert torch.equal(part.labels, own.model(part.part.images).argmax(1))
        assert len(part.labels.unique()) > 1
        assert count_correct(own.model, part) == len(part) == 40
    assert own.description["classes"] == 5
    assert own.description["metric"] == "agreement"


def test_labels_of_the_data_are_not_used():
    nonsense = (images(6), torch.tensor([99, -1, 0, 0, 7, 1000]))
    own = task(val=nonsense)
    assert torch.equal(own.val.labels, own.model(nonsense[0]).argmax(1))
    with pytest.raises(IntegrityError, match="label 99 of image 0 of the val part is out of range"):
        task(val=nonsense, metric="accuracy")


def test_a_part_without_images_is_refused():
    with pytest.raises(IntegrityError, match="the test part is empty"):
        task(test=(images(0), torch.zeros(0).long()))


def test_making_a_task_classifies_two_images_and_one_alone_and_its_labels_classify_each_image_once():
    own = task()
    assert own.model.classified == 3
    for _ in range(2):
        assert len(own.train.labels) == 40
    assert own.model.classified == 43


def test_labels_of_a_few_images_do_not_wait_for_all():
    model = Counting()
    part = PredictedPart(TensorPart(images(3 * FEW), torch.zeros(3 * FEW).long()), model)
    order = torch.tensor([9, 0, 3 * FEW - 1])
    ((some, labels),) = part.batches(4, order)
    assert model.classified == 3
    assert torch.equal(some, part.part.images[order])
    assert torch.equal(labels, part.labels[order])
    assert model.classified == 3 + 3 * FEW


def streamed(source: TensorPart) -> Part:
    return DatasetPart(TensorDataset(source.images, source.labels), limit=0)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("order", [None, torch.tensor([39, 2, 2, 7, 0]), torch.arange(FEW + 30) % 40])
@pytest.mark.parametrize(
    "make", [lambda source: source, streamed, lambda source: DatasetPart(TensorDataset(source.images, source.labels))]
)
def test_every_image_comes_with_its_own_prediction_whatever_the_order(make, order, known):
    source, model = TensorPart(images(40), torch.arange(40)), Counting()
    part = PredictedPart(make(source), model)
    expected = model(source.images).argmax(1)
    if known:
        assert torch.equal(part.labels, expected)
    places = torch.arange(40) if order is None else order
    batches = list(part.batches(7, order))
    assert torch.equal(torch.cat([some for some, _ in batches]), source.images[places])
    assert torch.equal(torch.cat([labels for _, labels in batches]), expected[places])
    rows = image_rows(part)
    assert isinstance(rows, TensorRows) == (make is not streamed)
    assert torch.equal(torch.cat([labels for _, labels in rows.batches(7, order)]), expected[places])


def test_threads_that_need_labels_at_once_classify_each_image_once():
    model = Counting()
    part = PredictedPart(TensorPart(images(4000), torch.zeros(4000).long()), model)
    threads = [threading.Thread(target=lambda: part.labels) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert model.classified == 4000


def test_the_metric_changes_the_hash_of_the_split():
    agreement, accuracy = task(), task(train=(images(40), torch.arange(40) % 5), metric="accuracy")
    assert {k for k in agreement.hashes if agreement.hashes[k] != accuracy.hashes[k]} == {"weights", "split"}
    assert task(train=(images(41), torch.zeros(41).long())).hashes["split"] != agreement.hashes["split"]


def checkpoint(path: Path, classes: int = 7) -> dict[str, object]:
    table = {"source": "timm", "architecture": "test_byobnet", "image_size": 32}
    torch.manual_seed(1)
    torch.save(MODELS.parse(table).build(classes).state_dict(), path / "weights.pt")
    return {**table, "checkpoint": str(path / "weights.pt")}


def spec(path: Path, metric: str = "agreement", **changes: object) -> TaskSpec:
    if not (path / "data").exists():
        write_images(path / "data" / "train", 10, side=32)
        write_images(path / "data" / "test", 4, seed=1, side=32)
    data = {"source": "image-folder", "root": str(path / "data")}
    return TaskSpec.model_validate({"model": checkpoint(path), "data": data, "metric": metric, **changes})


def test_a_study_files_model_keeps_the_outputs_of_its_weights(tmp_path):
    own = prepare(spec(tmp_path))
    assert own.description["classes"] == 7
    assert count_correct(own.model, own.test) == len(own.test) == 12
    assert set(own.hashes) == {"weights", "data", "split"}
    with pytest.raises(IntegrityError, match="has 7 classes, and the data has 3"):
        prepare(spec(tmp_path, "accuracy"))


def test_entries_paired_by_order_give_the_number_of_classes_too(tmp_path):
    own = spec(tmp_path)
    path = Path(own.model.checkpoint)
    torch.save({f"entry{place}": value for place, value in enumerate(torch.load(path).values())}, path)
    assert prepare(spec_of(own, rename="order")).description["classes"] == 7
    with pytest.raises(IntegrityError, match=r"another architecture: missing 'stem.conv.weight'"):
        prepare(own)


def spec_of(own: TaskSpec, **options: object) -> TaskSpec:
    return own.model_copy(update={"model": own.model.model_copy(update=options)})


@pytest.mark.parametrize(
    ("table", "classes"),
    [
        ({"source": "mlp", "widths": [192, 8, 3]}, 3),
        ({"source": "timm", "architecture": "resnet18.a1_in1k", "hub": True}, 1000),
        ({"source": "timm", "architecture": "vit_tiny_patch16_224.augreg_in21k", "hub": True}, 21843),
        ({"source": "torchvision", "architecture": "resnet18", "weights": "DEFAULT"}, 1000),
    ],
)
def test_every_source_knows_the_number_of_classes_of_its_weights(table, classes):
    assert MODELS.parse(table).pretrained_classes() == classes


def test_predictions_are_cached_until_the_task_changes(tmp_path, said):
    first = prepare(spec(tmp_path))
    assert not said
    labels = first.val.labels
    assert said == ["agreement: the uncompressed model classifies 3 images"]
    assert torch.equal(prepare(spec(tmp_path)).val.labels, labels)
    assert len(said) == 1
    for other in (
        spec(tmp_path, split={"seed": 3}),
        spec_of(spec(tmp_path), mean=(0.1, 0.2, 0.3)),
        spec_of(spec(tmp_path), architecture="test_byobnet.r160_in1k"),
    ):
        prepare(other).val.labels  # noqa: B018
    assert len(said) == 4
    assert len(list(ANSWERS.iterdir())) == 4


@pytest.mark.parametrize("damage", [lambda data: data[:-4], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_damaged_predictions_are_named_and_predicted_again(tmp_path, damage, said):
    labels = prepare(spec(tmp_path)).val.labels
    said.clear()
    (path,) = ANSWERS.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert torch.equal(prepare(spec(tmp_path)).val.labels, labels)
    assert f"{path} is damaged" in said[0]
    assert "classifies 3 images" in said[1]
    assert torch.equal(prepare(spec(tmp_path)).val.labels, labels)
    assert len(said) == 2


class StopError(Exception):
    pass


def test_classifying_can_be_stopped_and_caches_nothing_then(tmp_path):
    def stop():
        raise StopError

    with pytest.raises(StopError), CheckedBy(stop):
        prepare(spec(tmp_path)).train.labels  # noqa: B018
    assert not ANSWERS.exists()


def test_a_folder_of_one_class_and_a_class_without_training_images_are_allowed(tmp_path):
    write_images(tmp_path / "data", 20, side=32, classes={"all": (90, 90, 90)})
    own = prepare(spec(tmp_path))
    assert (own.description["classes"], len(own.train)) == (7, 16)
    ticks = {finding.what: finding.ok for finding in check_images(spec(tmp_path), spec(tmp_path).data.open())}
    assert all(ticks.values())
    assert "classes have training images" not in ticks
    judged = spec(tmp_path, "accuracy")
    assert not all(finding.ok for finding in check_images(judged, judged.data.open()))


def test_agreement_and_a_baseline_to_train_are_refused_together(tmp_path):
    with pytest.raises(ValidationError, match="has nothing to train on; leave one of them out"):
        spec(tmp_path, baseline={"epochs": 1})
