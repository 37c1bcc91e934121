import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from stopping import StopAfter
from tiny_data import write_images
from tiny_studies import make_spec

from pipeline.config.task_spec import TaskSpec
from pipeline.errors import IntegrityError
from pipeline.guard import StopTraining
from pipeline.paths import CHECKED
from pipeline.run.readiness import Readiness
from pipeline.task.data.contract import ArrayItems, FileItems, Images
from pipeline.task.data_check import check_images, refuse_bad_data


def ticks(tmp_path, **tables):
    table = {
        "model": {"source": "mlp", "widths": [192, 3]},
        "data": {"source": "image-folder", "root": str(tmp_path)},
        "baseline": {"epochs": 1},
        **tables,
    }
    spec = make_spec(task=table)
    found = Readiness(spec, f"sqlite:///{tmp_path}/storage/studies.db", "cpu", images="all").steps()
    return {finding.what: (finding.ok, finding.said) for finding in found}


def both(tmp_path):
    write_images(tmp_path / "train", 10)
    write_images(tmp_path / "test", 3, seed=1)
    return tmp_path


def test_sound_data_passes_every_check(tmp_path):
    found = ticks(both(tmp_path))
    assert all(ok for ok, _ in found.values())
    assert list(found) == [
        "device is there", "database is usable", "files can be written", "data found", "model loads",
        "images fit the model", "labels are in range", "classes have training images", "every image decodes",
        "images become RGB", "no image in train and test", "baseline trains", "targets and ranks fit",
        "search can begin", "stored study is the same", "memory and disk suffice",
    ]  # fmt: skip
    assert not (tmp_path / "storage").exists()


def test_fault_11_of_missing_data_nothing_else_is_said(tmp_path):
    found = ticks(tmp_path / "nowhere")
    assert list(found) == [
        "device is there",
        "database is usable",
        "files can be written",
        "data found",
        "search can begin",
    ]
    assert not found["data found"][0]


def test_fault_10_a_model_that_does_not_fit_the_data_is_found(tmp_path):
    ok, said = ticks(both(tmp_path), model={"source": "mlp", "widths": [192, 7]})["model loads"]
    assert not ok
    assert "ends with 7, and the data has 3 classes" in said
    assert not ticks(tmp_path, baseline=None)["model loads"][0]


def test_fault_16_every_image_that_cannot_be_decoded_is_listed_with_its_reason(tmp_path):
    both(tmp_path)
    (tmp_path / "train" / "red" / "000.png").write_bytes(b"")
    (tmp_path / "test" / "blue" / "001.png").write_bytes(b"<!DOCTYPE html>")
    ok, said = ticks(tmp_path)["every image decodes"]
    assert not ok
    assert "2 found" in said
    assert "train/red/000.png: is empty" in said
    assert "test/blue/001.png: is not an image" in said


def test_fault_16_converted_images_are_counted_by_kind(tmp_path):
    both(tmp_path)
    for place, mode in enumerate(("L", "L", "RGBA", "I;16")):
        Image.new(mode, (8, 8), place).save(tmp_path / "train" / "red" / f"{place:03}.png")
    Image.new("CMYK", (8, 8)).save(tmp_path / "train" / "red" / "more.jpg")
    ok, said = ticks(tmp_path)["images become RGB"]
    assert ok
    assert said == "converted: 1 of mode CMYK, 1 of mode I;16, 2 of mode L, 1 of mode RGBA"


def test_fault_17_a_class_without_training_images_is_named(tmp_path):
    both(tmp_path)
    (tmp_path / "train" / "violet").mkdir()
    ok, said = ticks(tmp_path)["classes have training images"]
    assert not ok
    assert "'violet' (no images)" in said


def test_fault_17_the_same_image_in_train_and_test_is_named_in_any_file_format(tmp_path):
    both(tmp_path)
    with Image.open(tmp_path / "train" / "red" / "004.png") as image:
        image.save(tmp_path / "test" / "red" / "copy.bmp")
    ok, said = ticks(tmp_path)["no image in train and test"]
    assert not ok
    assert f"{tmp_path}/test/red/copy.bmp is {tmp_path}/train/red/004.png" in said


def test_fault_17_copies_are_found_across_a_split_too(tmp_path):
    write_images(tmp_path, 1)
    for place in range(1, 9):
        for name in ("blue", "green", "red"):
            shutil.copy(tmp_path / name / "000.png", tmp_path / name / f"{place:03}.png")
    ok, said = ticks(tmp_path, split={"val": 0.2, "test": 0.2})["no image in train and test"]
    assert not ok
    assert "5 found" in said


def test_duplicates_within_a_published_data_set_are_counted_and_allowed():
    pixels, labels = torch.arange(4 * 64, dtype=torch.uint8).reshape(4, 8, 8), torch.tensor([0, 1, 0, 1])
    images = Images(ArrayItems("train", pixels, labels), ArrayItems("test", pixels[:3], labels[:3]), ("a", "b"))
    spec = TaskSpec.model_validate({"model": {"source": "mlp", "widths": [64, 2]}, "data": "mnist"})
    assert not list(check_images(spec, images))[-1].ok
    *_, found = check_images(spec, dataclasses.replace(images, published=True))
    assert (found.ok, found.said) == (True, "3 of 3 test images are in both, as published")


HASHES = {"data": "d", "split": "s"}


class TestBeforeTheFirstTrial:
    @pytest.fixture
    def spec(self, tmp_path):
        data = {"source": "image-folder", "root": str(both(tmp_path / "images"))}
        return TaskSpec.model_validate({"model": {"source": "mlp", "widths": [192, 3]}, "data": data})

    @pytest.fixture
    def damage(self, spec):
        path = Path(spec.data.root) / "test" / "red" / "001.png"
        path.write_bytes(path.read_bytes()[:60])
        return path

    def test_damaged_test_images_are_refused_by_name(self, spec, damage):
        with pytest.raises(IntegrityError, match=rf"every image decodes: 1 found:\n  {damage}"):
            refuse_bad_data(spec, spec.data.open(), HASHES, begun=False)

    def test_a_study_that_has_begun_goes_on_and_says_what_is_damaged(self, spec, damage, caplog):
        refuse_bad_data(spec, spec.data.open(), HASHES, begun=True)
        assert str(damage) in caplog.text
        assert not list(CHECKED.glob("*"))

    def test_data_that_passed_is_not_decoded_again_and_other_data_is(self, spec, monkeypatch):
        decoded = []
        stored = FileItems.stored
        monkeypatch.setattr(FileItems, "stored", lambda items, index: decoded.append(index) or stored(items, index))
        for _ in range(2):
            refuse_bad_data(spec, spec.data.open(), HASHES, begun=False)
        assert len(decoded) == 39
        refuse_bad_data(spec, spec.data.open(), {**HASHES, "data": "other"}, begun=False)
        assert len(decoded) == 2 * 39

    def test_a_signal_stops_it(self, spec):
        with StopAfter(5), pytest.raises(StopTraining):
            refuse_bad_data(spec, spec.data.open(), HASHES, begun=False)
