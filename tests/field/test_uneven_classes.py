"""What an accuracy means beside the share of the largest class, and classes too small for the split."""

import json

import pytest
import torch
from command import STUDY, invoke
from hypothesis import given
from hypothesis import strategies as st
from test_image_folders import part, put

from pipeline.config.task_spec import TaskSpec
from pipeline.errors import IntegrityError
from pipeline.numbers import far_from_uniform
from pipeline.task.class_counts import score_largest_class
from pipeline.task.opened_task import OpenedTask


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_the_largest_class_is_scored_as_a_model_that_always_answers_it(labels):
    correct, images = score_largest_class(torch.tensor(labels))
    assert images == len(labels)
    assert correct == max(labels.count(label) for label in labels)


@pytest.mark.parametrize(
    ("largest", "images", "classes", "uneven"),
    [
        (50, 100, 2, False), (70, 100, 2, False), (80, 100, 2, True), (99, 100, 2, True), (10, 100, 10, False),
        (25, 100, 10, True), (2, 3, 3, False), (3, 3, 2, False), (9, 10, 2, True), (0, 0, 2, False),
    ],
)  # fmt: skip
def test_classes_are_uneven_beyond_one_and_a_half_times_the_equal_share_and_beyond_chance(
    largest, images, classes, uneven
):
    assert far_from_uniform(largest, images, classes) == uneven


def opened(root, metric="accuracy", **split):
    return OpenedTask(
        TaskSpec.model_validate(
            {
                "model": {"source": "mlp", "widths": [12, 3]},
                "data": {"source": "image-folder", "root": str(root)},
                "split": {"val": 0.2, "test": 0.2, **split},
                "baseline": {"epochs": 1},
            }
        )
    )


@pytest.mark.parametrize(("root", "where"), [(".", "test"), ("train", "validation")])
def test_a_class_that_the_split_leaves_without_training_images_is_said_by_its_folder(tmp_path, root, where):
    put(tmp_path, *part(root, "cat", "dog", n=8), f"{root}/one of a kind/1.png")
    put(tmp_path, *(part("test", "cat", "dog") if root == "train" else []))
    with pytest.raises(IntegrityError, match=rf"'one of a kind' \(1 image in {where}\)"):
        opened(tmp_path).parts  # noqa: B018


def test_an_empty_class_is_said_by_its_folder(tmp_path):
    put(tmp_path, *part(".", "cat", "dog", n=8), "none/")
    with pytest.raises(IntegrityError, match=r"without training images: 'none' \(no images\); add images"):
        opened(tmp_path).parts  # noqa: B018


def test_a_class_that_the_split_gives_no_validation_images_is_noted(tmp_path):
    put(tmp_path, *part(".", "ant", n=2), *part(".", "cat", "dog", n=20))
    assert "no validation images of class 'ant'" in opened(tmp_path, val=0.1, test=0.1).notes


@pytest.mark.parametrize(("few", "noted"), [(8, False), (2, True)])
def test_uneven_classes_are_noted_with_the_accuracy_of_always_answering_the_largest(tmp_path, few, noted):
    put(tmp_path, *part(".", "cat", "dog", n=few), *part(".", "moth", n=16))
    notes = [note for note in opened(tmp_path, val=0.25, test=0.25).notes if "always answers" in note]
    assert bool(notes) == noted
    assert all("are of class 'moth'" in note for note in notes)


class TestOfAStudy:
    @pytest.fixture
    def said(self, tmp_path, monkeypatch):
        """What each verb says of a study of 1 : 1 : 20."""
        put(tmp_path / "images" / "train", *part(".", "ant", "bee", n=2), *part(".", "cat", n=40))
        put(tmp_path / "images" / "test", *part(".", "ant", "bee", n=1), *part(".", "cat", n=20))
        (tmp_path / "studies").mkdir()
        text = STUDY.format(name="tiny", seed=0, epochs=1, trials=2).replace("[192, 8, 3]", "[12, 8, 3]")
        (tmp_path / "studies" / "tiny.toml").write_text(text)

        def said(*words):
            done = invoke(*words)
            assert done.exit_code == 0, done.stderr
            return " ".join((done.stdout + done.stderr).split())

        return said

    def test_every_verb_shows_the_share_beside_its_accuracies(self, said, tmp_path):
        note = "90.91 % of the test images are of class 'cat'"
        assert note in said("check", "tiny")
        assert note in said("plan", "tiny")
        assert json.loads(invoke("plan", "tiny", "--json").stdout)["largest_class"]["test"] == pytest.approx(20 / 22)
        assert note in said("run", "tiny")
        assert "always answering the largest class: accuracy 0.9" in said("status", "tiny")
        (status, _) = json.loads(invoke("status", "tiny", "--json").stdout)
        assert status["largest_class"]["test"] == pytest.approx(20 / 22)
        said("export", "tiny")
        card = json.loads(next(tmp_path.rglob("card.json")).read_text())
        assert card["task"]["class_names"] == ["ant", "bee", "cat"]
        assert any(note in one for one in card["task"]["data_notes"])
        assert card["accuracy"]["largest_class"]["test"]["correct"] == 20
        said("report", "tiny", "--no-png", "--out", "page")
        page = next((tmp_path / "page").glob("*.html")).read_text()
        assert "always the largest class" in page
        assert "Always answering the largest class would have 90.91" in page
        assert "largest_class_test" in (tmp_path / "page" / "evaluation.csv").read_text()
