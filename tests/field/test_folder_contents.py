"""Files, links and names in image folders: what is read, what is left out and counted, and what is refused."""

import os
import sys
from pathlib import Path

import pytest
from PIL import features
from test_image_folders import counts, part, put, read, said

from pipeline.errors import IntegrityError
from pipeline.task.data.decode import decode
from pipeline.task.data.folder_tree import SUFFIXES

READ = [
    ".png",
    ".PNG",
    ".jpg",
    ".JPG",
    ".jpeg",
    ".jfif",
    ".jpe",
    ".bmp",
    ".gif",
    ".ppm",
    ".pgm",
    ".tif",
    ".TIFF",
    ".webp",
]
LEFT_OUT = [".heic", ".HEIF", ".jxl", ".cr2", ".svg", ".mp4", ".txt", ".json", ".db", ".ini", ".zip", ".npy", ".part"]


@pytest.fixture
def root(tmp_path):
    return put(tmp_path, *part(".", "cat", "dog", n=8))


@pytest.mark.parametrize(
    "suffix", [*READ, *([".avif"] if "avif" in features.modules and features.check("avif") else [])]
)
def test_an_image_of_any_common_suffix_is_read(root, suffix):
    images = read(put(root, f"cat/more{suffix}"))
    assert counts(images) == {"train": 17}
    assert not images.notes
    assert [images.train[index][0].mode for index in range(len(images.train))] == 17 * ["RGB"]


@pytest.mark.parametrize("suffix", LEFT_OUT)
@pytest.mark.parametrize("where", ["cat", "cat/more", "."])
def test_a_file_of_another_suffix_is_left_out_and_counted_by_its_suffix(root, suffix, where):
    (root / where).mkdir(exist_ok=True)
    for name in ("a", "b"):
        (root / where / f"{name}{suffix}").write_bytes(b"x")
    images = read(root)
    assert counts(images) == {"train": 16}
    assert said(images) == f"left out: {suffix.lower()} files (2)"


def test_a_class_of_files_that_cannot_be_read_has_no_images_and_says_why(root):
    (root / "eel").mkdir()
    (root / "eel" / "1.heic").write_bytes(b"x")
    images = read(root)
    assert images.classes == ("cat", "dog", "eel")
    assert said(images) == "left out: .heic files (1)"


LEFT_BEHIND = {
    ".ipynb_checkpoints/a-checkpoint.png": "hidden folders (1)",
    "cat/.ipynb_checkpoints/a-checkpoint.png": "hidden folders (1)",
    ".git/objects/a.png": "hidden folders (1)",
    "cat/._0.png": "hidden files (1)",
    "cat/.hidden.png": "hidden files (1)",
    "__MACOSX/cat/._0.png": "__MACOSX folders (1)",
    "cat/__macosx/0.png": "__macosx folders (1)",
    "cat/@eaDir/0.jpg/thumb.jpg": "@eaDir folders (1)",
    "$RECYCLE.BIN/0.png": "$RECYCLE.BIN folders (1)",
    "cat/odd.jpg/0.png": "folders named .jpg (1)",
    "odd.png/0.png": "folders named .png (1)",
    "cat/.DS_Store": "hidden files (1)",
    "Thumbs.db": ".db files (1)",
    "cat/desktop.ini": ".ini files (1)",
    "README": "files without a suffix (1)",
    "stray.png": "images beside the folders (1)",
}


@pytest.mark.parametrize(("path", "counted"), LEFT_BEHIND.items())
def test_what_programs_leave_among_images_is_left_out_and_counted(root, path, counted):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(b"\x00\x05\x16\x07")
    images = read(root)
    assert counts(images) == {"train": 16}
    assert images.classes == ("cat", "dog")
    assert images.notes == (f"left out: {counted}",)


def test_everything_left_out_beside_parts_is_one_line(tmp_path):
    put(tmp_path, *part("train"), *part("test"), "train/stray.png", "extra/a/1.png", "docs/", "test/z/")
    (tmp_path / "train" / "labels.csv").write_text("x")
    assert read(tmp_path).notes[1:] == (
        "left out: .csv files (1), folder docs (0 images), folder extra (1 image), folder test/z (0 images), "
        "images beside the folders of train (1)",
    )


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
class TestLinks:
    def test_links_to_files_and_folders_are_followed(self, root, tmp_path_factory):
        other = put(tmp_path_factory.mktemp("disk"), *part("."))
        (root / "cat" / "link.png").symlink_to(other / "x" / "0.png")
        (root / "cat" / "more").symlink_to(other / "x", target_is_directory=True)
        (root / "eel").symlink_to(other / "y", target_is_directory=True)
        images = read(root)
        assert images.classes == ("cat", "dog", "eel")
        assert images.train.labels.bincount().tolist() == [8 + 1 + 2, 8, 2]

    def test_the_data_may_be_a_link_itself(self, root, tmp_path_factory):
        link = tmp_path_factory.mktemp("here") / "data"
        link.symlink_to(root, target_is_directory=True)
        assert counts(read(link)) == {"train": 16}
        assert read(link).fingerprint() == read(root).fingerprint()

    @pytest.mark.parametrize("target", [".", "..", "../dog/back"])
    def test_circular_links_are_left_out(self, root, target):
        (root / "cat" / "round").symlink_to(target, target_is_directory=True)
        (root / "dog" / "back").symlink_to("../cat", target_is_directory=True)
        images = read(root)
        assert "circular links" in said(images)
        assert len(images.train) >= 16

    @pytest.mark.parametrize("target", ["nowhere.png", "broken.png"])
    def test_links_that_lead_nowhere_or_to_themselves_are_left_out(self, root, target):
        (root / "cat" / "broken.png").symlink_to(target)
        assert said(read(root)) == "left out: broken links (1)"

    def test_a_pipe_is_no_image(self, root):
        os.mkfifo(root / "cat" / "pipe.png")
        assert said(read(root)) == "left out: special files (1)"


NAMES = [
    b"caf\xe9",
    "кошка".encode(),
    "🐈 cat".encode(),
    b"a b",
    b"x" * 255,
    b"a\nb",
    "e\u0301".encode(),
    b"100%",
    b"[a]*?",
]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse some of these names")
@pytest.mark.parametrize("name", NAMES)
def test_names_of_any_bytes_are_read_identified_and_can_be_printed(root, name):
    folder = root / os.fsdecode(name)
    (root / "dog").rename(folder)
    (folder / "0.png").rename(folder / os.fsdecode(name[:200] + b".png"))
    (folder / "1.png").write_bytes(b"")
    images = read(root)
    assert counts(images) == {"train": 16}
    assert images.fingerprint() == read(root).fingerprint()
    for index in range(16):
        assert images.train.where(index).encode()
    with pytest.raises(IntegrityError, match="is empty") as refused:
        decode(folder / "1.png")
    assert str(refused.value).encode()


@pytest.mark.parametrize("folder", ["cat", "cat/more"])
def test_a_folder_that_cannot_be_read_is_named(root, folder, monkeypatch):
    put(root, "cat/more/1.png")
    scan = os.scandir

    def refuse(path):
        if Path(path) == root / folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(IntegrityError, match=rf"folder {root / folder} cannot be read: Permission denied"):
        read(root)


@pytest.mark.parametrize("above", [".cache", "__MACOSX", "odd.jpg"])
def test_the_root_may_lie_below_folders_of_any_name(tmp_path, above):
    root = tmp_path / above / "data"
    put(root, *part("train"), *part("test"))
    assert counts(read(root)) == {"train": 4, "test": 4}
    assert counts(read(root / "train")) == {"train": 4}


@pytest.mark.parametrize(("names", "said"), [(["cat.jpg", "dog.jpg"], r"folders named .jpg \(2\)"),
                                             ([".cat", ".dog"], r"hidden folders \(2\)")])  # fmt: skip
def test_a_root_of_which_every_folder_is_left_out_says_what_was(tmp_path, names, said):
    for name in names:
        put(tmp_path, f"{name}/1.png")
    with pytest.raises(IntegrityError, match=rf"one folder per class \(left out there: {said}\)"):
        read(tmp_path)


def test_a_packed_data_set_is_called_a_file(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(IntegrityError, match=r"data.zip \(a file; unpack it\)"):
        read(tmp_path / "data.zip")


def test_suffixes_are_in_lower_case():
    assert all(suffix == suffix.lower() for suffix in SUFFIXES)


def test_the_identity_of_a_plain_folder_is_that_of_earlier_versions(tmp_path):
    for path in (
        "flat/b/1.png",
        "flat/b/0/2.png",
        "flat/a/3.png",
        "two/train/b/1.png",
        "two/train/a/2.jpg",
        "two/test/a/3.bmp",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    identities = [read(tmp_path / name).fingerprint()[:16] for name in ("flat", "two")]
    assert identities == ["7b277bd16a69e97e", "ca49551a46baa2f9"]
