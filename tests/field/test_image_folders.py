"""Image folders as people have them: which folder is which part, what is read, and what is left out and said."""

import hashlib
import shutil
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from spec_tables import table

from pipeline.config.registry import DATASETS
from pipeline.config.spec import StudySpec
from pipeline.config.study_file import pinned, upgraded
from pipeline.config.task_spec import TaskSpec
from pipeline.errors import IntegrityError
from pipeline.task.data.contract import Images
from pipeline.task.data.folder_parts import PART_WORDS, class_key, ordered_classes, part_of
from pipeline.task.opened_task import OpenedTask


def put(root: Path, *paths: str) -> Path:
    """Small different images at these paths below a folder, and empty folders at those that end with a slash."""
    for path in paths:
        if path.endswith("/"):
            (root / path).mkdir(parents=True, exist_ok=True)
            continue
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (2, 2), tuple(hashlib.sha256(str(root / path).encode()).digest()[:3]))
        suffix = Path(path).suffix.lower()
        image.save(root / path, {".jfif": "jpeg", ".jpe": "jpeg", ".pgm": "ppm", ".pnm": "ppm"}.get(suffix))
    return root


def part(folder: str, *classes: str, n: int = 2) -> list[str]:
    return [f"{folder}/{name}/{index}.png" for name in classes or ("x", "y") for index in range(n)]


def read(root: Path, **options: str) -> Images:
    return DATASETS.parse({"source": "image-folder", "root": str(root), **options}).open()


def counts(images: Images) -> dict[str, int]:
    return {name: len(items) for name, items in images.parts().items()}


def said(images: Images) -> str:
    return "\n".join(images.notes)


WORDS = {part: [word for word, of in PART_WORDS.items() if of == part] for part in ("train", "val", "test")}
spellings = st.sampled_from([str.lower, str.upper, str.title, lambda word: f"seg_{word}", lambda word: f"{word}-set 2"])


@given(st.data())
def test_a_folder_says_its_part_in_any_case_and_with_words_around_it(data):
    part, spell = data.draw(st.sampled_from(list(WORDS))), data.draw(spellings)
    assert part_of(spell(data.draw(st.sampled_from(WORDS[part])))) == part


@pytest.mark.parametrize("name", ["cat", "trains", "contest", "constrained", "latest", "train_test", "", "é"])
def test_a_word_that_only_contains_a_part_says_none(name):
    assert part_of(name) is None


SPLITS = [
    ("train", "test"), ("Train", "Test"), ("TRAIN", "TEST"), ("training", "testing"), ("Training", "Testing"),
    ("trainset", "testset"), ("train_images", "test_images"), ("TrainImages", "TestImages"), ("train-1", "test-1"),
    ("Training Data", "Test Data"), ("trn", "tst"),
]  # fmt: skip


@pytest.mark.parametrize(("train", "test"), SPLITS)
def test_two_folders_with_class_folders_are_a_split_and_never_two_classes(tmp_path, train, test):
    images = read(put(tmp_path, *part(train, n=3), *part(test)))
    assert images.classes == ("x", "y")
    assert counts(images) == {"train": 6, "test": 4}
    assert said(images) == (
        f"training images from {train} and test images from {test}; validation images are split off the training images"
    )


@pytest.mark.parametrize("val", ["val", "Val", "valid", "VALID", "validation", "Validation", "eval", "dev"])
def test_a_validation_folder_is_the_validation_part_and_without_a_test_folder_the_test_part(tmp_path, val):
    put(tmp_path, *part("train", n=3), *part(val, n=1))
    images = read(tmp_path)
    assert counts(images) == {"train": 6, "test": 2}
    assert f"test images from {val}; validation images are split off" in said(images)
    images = read(put(tmp_path, *part("test")))
    assert counts(images) == {"train": 6, "val": 2, "test": 4}
    assert f"validation images from {val}" in said(images)


def test_parts_without_images_are_left_out_and_said(tmp_path):
    put(tmp_path, *part("train"), *part("test"), "val/x/", "val/y/", "valid/")
    images = read(tmp_path)
    assert counts(images) == {"train": 4, "test": 4}
    assert "left out: folder val (0 images), folder valid (0 images)" in said(images)


@pytest.mark.parametrize("parts", [("train", "test"), (".",)])
def test_folders_without_any_image_that_can_be_read_are_refused_with_what_they_have(tmp_path, parts):
    for name in parts:
        put(tmp_path, f"{name}/x/", f"{name}/y/")
        (tmp_path / name / "x" / "1.heic").write_bytes(b"x")
    with pytest.raises(
        IntegrityError, match=r"has no image that can be read; left out: .heic files \(1\); the suffixes.*.png"
    ):
        read(tmp_path)


@pytest.mark.parametrize("above", ["dataset", "a/b/c", "images"])
@pytest.mark.parametrize("inner", ["", "/train", "/images"])
@pytest.mark.parametrize("stray", [(), ("stray.png",)])
def test_folders_that_only_wrap_others_are_opened(tmp_path, above, inner, stray):
    put(tmp_path, *part(f"{above}/train{inner}"), *part(f"{above}/test", n=1), f"{above}/__MACOSX/")
    put(tmp_path, *stray, *(f"{above}/{path}" for path in stray))
    assert counts(read(tmp_path)) == {"train": 4, "test": 2}


def test_a_single_class_with_a_folder_in_it_stays_one(tmp_path):
    images = read(put(tmp_path, "cat/1.png", "cat/more/2.png"))
    assert (images.classes, counts(images)) == (("cat",), {"train": 2})


def test_class_folders_that_one_folder_wraps_are_the_classes(tmp_path):
    images = read(put(tmp_path, *part("all/images", "cat", "dog")))
    assert images.classes == ("cat", "dog")
    assert said(images).startswith("training images from all/images; validation and test images are split off")


def test_a_part_with_one_class_keeps_it(tmp_path):
    images = read(put(tmp_path, *part("train"), "test/x/1/a.png", "test/x/2/b.png"))
    assert images.test.labels.tolist() == [0, 0]


@pytest.mark.parametrize(
    "classes", [("test", "prod", "ok"), ("train", "car", "plane"), ("val", "cat"), ("test_tube", "flask"), ("dev", "x")]
)
def test_a_class_may_be_called_like_a_part(tmp_path, classes):
    images = read(put(tmp_path, *part(".", *classes), f"{classes[0]}/more/2.png"))
    assert images.classes == tuple(sorted(classes))
    assert counts(images) == {"train": 2 * len(classes) + 1}


UNCLEAR = {
    "classes beside a test part": [*part(".", "x", "y"), *part("test")],
    "classes beside a validation part that lacks one": [*part(".", "x", "y"), *part("val", "x")],
    "a test part and one of no known name": [*part("test"), *part("mine")],
    "parts of unknown names": [*part("Lernen"), *part("Prüfen")],
    "three parts of unknown names": [*part("a"), *part("b"), *part("c")],
    "a training part beside a folder of unknown name": [*part("train"), *part("holdout")],
    "a training part beside images without labels": [*part("train"), "test/1.png"],
    "a class called train that holds folders": [*part("train", "steam", "diesel"), "car/1.png", "plane/1.png"],
    "parts without classes": ["train/1.png", "test/1.png"],
    "parts without classes beside others": ["train/1.png", "test/1.png", "more/1.png"],
    "only parts without classes": ["val/1.png", "test/1.png"],
    "a training part without classes": ["train/1.png"],
    "an empty training part": ["train/"],
    "parts in classes": [*part("a", "train", "test"), *part("b", "train", "test"), *part("c", "train"), *part("d")],
    "two training parts": [*part("train_a"), *part("train_b"), *part("test")],
    "two validation parts": [*part("train"), *part("val"), *part("eval")],
}


@pytest.mark.parametrize("paths", UNCLEAR.values(), ids=UNCLEAR)
def test_what_cannot_be_told_is_refused_with_the_options_that_tell_it(tmp_path, paths):
    with pytest.raises(IntegrityError, match=r"not clear which folders are parts.*task\.data\.train, val and test"):
        read(put(tmp_path, *paths))


def test_the_options_tell_which_folder_is_which(tmp_path):
    put(tmp_path, *part("Lernen", n=3), *part("Prüfen"), *part("more/Wählen", n=1))
    assert counts(read(tmp_path, train="Lernen", test="Prüfen")) == {"train": 6, "test": 4}
    assert counts(read(tmp_path, train="Lernen", val="more/Wählen")) == {"train": 6, "val": 2}
    images = read(tmp_path, train=".")
    assert images.classes == ("Lernen", "Prüfen", "more")
    assert counts(images) == {"train": 12}
    with pytest.raises(IntegrityError, match="has no folder 'Test'; folders there: Lernen, Prüfen, more"):
        read(tmp_path, train="Lernen", test="Test")
    with pytest.raises(IntegrityError, match="not that of train"):
        read(tmp_path, test="Prüfen")


def test_the_options_can_name_what_was_read_before_parts_were_found_by_name(tmp_path):
    put(tmp_path, *part("train"), *part("test", n=1), *part("val", n=1))
    before = shutil.copytree(tmp_path, tmp_path / "before")
    shutil.rmtree(before / "val")
    assert read(tmp_path, train="train", test="test").fingerprint() == read(before).fingerprint()


def test_a_stored_study_goes_on_when_the_options_name_the_folders_that_it_read():
    def stored(**options: str) -> dict[str, object]:
        spec = StudySpec.model_validate(table(task__data={"source": "image-folder", **options}))
        return pinned(spec, spec.combination[0])

    assert stored(root="here", train="train", test="test") == upgraded(stored(root="there"))


@pytest.mark.parametrize("wrapped", ["images", "cam1", "2021/05"])
def test_folders_in_class_folders_belong_to_the_class(tmp_path, wrapped):
    images = read(put(tmp_path, *(f"{name}/{wrapped}/{i}.png" for name in ("cat", "dog", "eel", "fox") for i in "12")))
    assert images.classes == ("cat", "dog", "eel", "fox")
    assert images.train.labels.bincount().tolist() == [2, 2, 2, 2]


class TestClasses:
    @given(st.sets(st.integers(-200, 200), min_size=2))
    def test_whole_numbers_are_in_numeric_order(self, numbers):
        assert list(map(int, ordered_classes(map(str, numbers)))) == sorted(numbers)

    @given(st.sets(st.text(min_size=1), min_size=2))
    def test_other_names_are_in_the_order_of_letters(self, names):
        assert ordered_classes([*names, "a"]) == sorted([*names, "a"])

    @pytest.mark.parametrize(
        ("names", "order"),
        [
            (["10", "9", "0"], ["0", "9", "10"]),
            (["07", "010", "1"], ["1", "07", "010"]),
            (["01", "1", "2"], ["01", "1", "2"]),
            (["-1", "-10", "1"], ["-10", "-1", "1"]),
            (["10", "9", "b"], ["10", "9", "b"]),
            (["1.5", "10", "9"], ["1.5", "10", "9"]),
            (["²", "10", "9"], ["10", "9", "²"]),
        ],
    )
    def test_leading_zeros_signs_and_mixtures(self, names, order):
        assert ordered_classes(names) == order

    def test_an_order_that_is_not_that_of_letters_is_said_and_no_other(self, tmp_path):
        images = read(put(tmp_path, *part("many", *map(str, range(11)))))
        assert images.classes == tuple(map(str, range(11)))
        assert "order of their numbers: '0', '1', '2'" in said(images)
        assert "order" not in said(read(put(tmp_path, *part("few", *map(str, range(10)))), train="few"))

    @pytest.mark.parametrize(
        ("train", "test"),
        [("Cat", "cat"), ("cat", "CAT"), ("cat", "cat "), (unicodedata.normalize("NFC", "café"), "cafe\u0301")],
    )
    def test_a_class_that_a_part_spells_otherwise_is_the_same_and_said(self, tmp_path, train, test):
        images = read(put(tmp_path, *part("train", train, "dog"), *part("test", test, "dog")))
        assert images.test.labels.bincount().tolist() == [2, 2]
        assert "test images of" in said(images)

    def test_classes_that_differ_only_in_spelling_are_two_and_said(self, tmp_path):
        images = read(put(tmp_path, *part(".", "Cat", "cat", "dog")))
        assert len(images.classes) == 3
        assert said(images) == "classes 'Cat' and 'cat' differ only in case, spaces or the encoding of accents"

    def test_a_spelling_that_two_classes_share_is_no_guess(self, tmp_path):
        with pytest.raises(IntegrityError, match="has images of class 'CAT'"):
            read(put(tmp_path, *part("train", "Cat", "cat"), *part("test", "CAT")))

    def test_a_class_that_a_part_lacks_or_has_empty_is_noted(self, tmp_path):
        put(tmp_path, *part("train", "a", "b", "c"), *part("test", "a", "c"), *part("val", "a", "b"), "val/c/")
        table = {
            "model": {"source": "mlp", "widths": [12, 3]},
            "data": {"source": "image-folder", "root": str(tmp_path)},
        }
        opened = OpenedTask(TaskSpec.model_validate(table))
        assert opened.images.test.labels.tolist() == [0, 0, 2, 2]
        assert {"no test images of class 'b'", "no validation images of class 'c'"} < set(opened.notes)

    @pytest.mark.parametrize("where", ["test", "val"])
    def test_a_class_that_training_lacks_is_refused_with_images_and_noted_without(self, tmp_path, where):
        put(tmp_path, *part("train"), *part("test"), f"{where}/new/")
        assert f"folder {where}/new (0 images)" in said(read(put(tmp_path, *part("val"))))
        with pytest.raises(IntegrityError, match=rf"{where} has images of class 'new', which .*train lacks"):
            read(put(tmp_path, f"{where}/new/1.png"))

    @given(st.text(min_size=1))
    def test_the_key_of_a_class_ignores_case_and_encoding(self, name):
        assert class_key(name.upper().lower()) == class_key(unicodedata.normalize("NFD", name.upper().lower()))
