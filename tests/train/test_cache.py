import copy
import hashlib
import json
import shutil
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from feature_caches import ROW, folders, found, never, rounded_away
from stopping import CheckedBy
from tiny_stems import FACTS, IMAGES, Features, Scaled, built, digest, make_part, make_stem
from torch import Tensor, nn

from pipeline.config.combination_spec import CombinationSpec
from pipeline.config.search_spec import SearchSpec
from pipeline.config.spec import ComputeSpec
from pipeline.objective.combination import Combination
from pipeline.objective.objective import Objective
from pipeline.task.contract import Task
from pipeline.task.parts import DatasetPart
from pipeline.train.cache import feature_cache as cache
from pipeline.train.cache.feature_cache import FeatureCache
from pipeline.train.rows import ComputedRows


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 2**-11), (torch.bfloat16, 2**-8)]
)
def test_cached_rows_equal_the_stems_outputs_up_to_the_rounding_of_their_dtype(make_cache, dtype, tolerance):
    stem, part = make_stem(), make_part()
    rows = make_cache(dtype=dtype).rows(stem, part, FACTS)
    assert torch.equal(rows.labels, part.labels)
    for cached, exact in zip(rows.tensors, stem(part.images), strict=True):
        assert (cached.dtype, cached.shape) == (dtype, exact.shape)
        torch.testing.assert_close(cached.float(), exact, rtol=tolerance, atol=1e-6)


def test_rows_are_mapped_from_the_files_and_are_not_copied_when_passed_through(make_cache):
    features = make_cache()
    rows = features.rows(make_stem(), make_part(), FACTS)
    held = ComputedRows(rows, lambda maps, means: (maps.flatten(1), means, means * 2)).held()
    mapped = Path("/proc/self/maps").read_text().splitlines()
    (folder,) = folders(features)
    for place, tensors in enumerate(zip(rows.tensors, held.tensors[:2], strict=True)):
        (line,) = [line for line in mapped if line.endswith(f"{folder.name}/{place}.bin")]
        first, last = (int(address, 16) for address in line.split()[0].split("-"))
        for tensor in tensors:
            assert first <= tensor.data_ptr() < tensor.data_ptr() + tensor.nbytes <= last
    assert torch.equal(held.tensors[0], rows.tensors[0].flatten(1))
    assert torch.equal(held.tensors[2], rows.tensors[1] * 2)


def test_changing_a_row_does_not_change_the_file(make_cache):
    rows = make_cache().rows(make_stem(), make_part(), FACTS)
    before = digest(rows)
    rows.tensors[0].zero_()
    assert digest(rows) != before
    assert digest(found(make_cache(), make_stem())) == before


def test_the_accuracy_of_exact_and_rounded_values_is_logged_if_a_cache_rounds(make_cache, said):
    stem, part = make_stem(), make_part()
    part.labels = torch.zeros_like(part.labels)
    features = make_cache(dtype=torch.bfloat16)
    features.rows(stem, part, FACTS, judge=rounded_away)
    exact = int((rounded_away(stem(part.images)).argmax(1) == 0).sum())
    assert 0 < exact < IMAGES
    assert f"cache: features as torch.bfloat16: accuracy 1.0000, in full precision {exact / IMAGES:.4f}" in said
    (folder,) = folders(features)
    assert json.loads((folder / "card.json").read_text())["correct"] == [exact, IMAGES]


def test_no_accuracy_is_measured_if_a_cache_does_not_round(make_cache, said):
    assert make_cache().rows(make_stem(), make_part(), FACTS, judge=lambda inputs: never())
    assert not any("accuracy" in line for line in said)


def test_the_card_holds_the_sha256_of_the_files(make_cache):
    features = make_cache()
    features.rows(make_stem(), make_part(), FACTS)
    (folder,) = folders(features)
    expected = [hashlib.sha256((folder / f"{place}.bin").read_bytes()).hexdigest() for place in range(2)]
    assert json.loads((folder / "card.json").read_text())["sha256"] == expected


@pytest.mark.parametrize("fact", FACTS)
def test_other_images_are_another_cache(make_cache, fact):
    stem = make_stem()
    assert make_cache().key(stem, {**FACTS, fact: "other"}) != make_cache().key(stem, FACTS)


@pytest.mark.parametrize(
    "other",
    [
        make_stem(seed=1),
        make_stem(nn.GELU()),
        make_stem(nn.LeakyReLU(0.2)),
        make_stem(nn.ReLU(), nn.ReLU()),
    ],
    ids=["weights", "another call", "another setting", "one call more"],
)
def test_another_stem_is_another_cache(make_cache, other):
    assert make_cache().key(other, FACTS) != make_cache().key(make_stem(), FACTS)
    assert make_cache().key(make_stem(nn.LeakyReLU(0.1)), FACTS) != make_cache().key(other, FACTS)


def test_another_dtype_is_another_cache(make_cache):
    keys = {make_cache(dtype=dtype).key(make_stem(), FACTS) for dtype in (torch.float32, torch.float16, torch.bfloat16)}
    assert len(keys) == 3


def test_the_same_stem_made_again_is_the_same_cache(make_cache, tmp_path):
    key = make_cache().key(make_stem(), FACTS)
    assert make_cache(folder=tmp_path / "other", limit=1).key(make_stem(), dict(reversed(FACTS.items()))) == key
    assert make_cache().key(copy.deepcopy(make_stem()), FACTS) == key


def test_tensors_outside_the_stem_are_not_part_of_the_key(make_cache):
    class Longer(Features):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(3, 3)

    assert make_cache().key(make_stem(module=Longer), FACTS) == make_cache().key(make_stem(), FACTS)


def test_an_existing_cache_is_found_without_building(make_cache, said):
    first, second = make_stem(), make_stem()
    rows = make_cache().rows(first, make_part(), FACTS)
    assert built(first) == IMAGES
    said.clear()
    again = found(make_cache(), second)
    assert digest(again) == digest(rows)
    assert built(second) == 0
    assert said == []


def test_one_object_opens_a_cache_once(make_cache):
    features, stem = make_cache(), make_stem()
    rows = features.rows(stem, make_part(), FACTS)
    shutil.rmtree(features.folder)
    assert features.rows(stem, make_part(), FACTS) is rows


def test_a_plan_gives_bytes_and_existence_and_builds_nothing(make_cache):
    stem, part, features = make_stem(), make_part(), make_cache()
    assert features.plan(stem, part, FACTS) == (IMAGES * ROW, False)
    assert make_cache(dtype=torch.float16).plan(stem, part, FACTS) == (IMAGES * ROW // 2, False)
    make_cache().rows(stem, part, FACTS)
    assert features.plan(stem, part, FACTS) == (IMAGES * ROW, True)
    (folder,) = folders(features)
    assert sum((folder / f"{place}.bin").stat().st_size for place in range(2)) == IMAGES * ROW


def test_a_stem_whose_code_has_changed_is_detected_and_built_again(make_cache, said):
    make_cache().rows(make_stem(Scaled(1.0)), make_part(), FACTS)
    changed = make_stem(Scaled(1.1))
    assert make_cache().key(changed, FACTS) == make_cache().key(make_stem(Scaled(1.0)), FACTS)
    rows = make_cache().rows(changed, make_part(), FACTS)
    torch.testing.assert_close(rows.tensors[0], changed(make_part().images)[0])
    assert sum("holds other outputs than the frozen layers give now" in line for line in said) == 1
    assert found(make_cache(), changed)


class Noise(nn.Module):
    """Random numbers, other ones each time."""

    def forward(self, images: Tensor) -> Tensor:
        return images + 0.01 * torch.randn_like(images)


class Augmented:
    """A data set whose images are others each time."""

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.randn(2, 6, 6), index % 4


@pytest.mark.parametrize(
    ("stem", "part"),
    [
        (make_stem(Noise()), make_part()),
        (make_stem(nn.BatchNorm2d(4, track_running_stats=False)), make_part()),
        (make_stem(), DatasetPart(Augmented(), limit=0)),
    ],
    ids=["random numbers", "statistics of a batch", "augmented images"],
)
@pytest.mark.parametrize("long", [1000, 1], ids=["found at the end", "found before the build"])
def test_outputs_that_change_from_run_to_run_are_not_cached(make_cache, said, stem, part, long, monkeypatch):
    monkeypatch.setattr(cache, "LONG", long)
    features = make_cache()
    assert features.rows(stem, part, FACTS) is None
    assert folders(features) == []
    assert "give other outputs when they run again" in said[-1]
    assert "nothing is cached" in said[-1]


def test_an_augmented_part_does_not_get_the_cache_of_a_plain_one(make_cache, said):
    make_cache().rows(make_stem(), make_part(), FACTS)
    assert make_cache().rows(make_stem(), DatasetPart(Augmented(), limit=0), FACTS) is None
    assert folders(make_cache()) == []
    assert "nothing is cached" in said[-1]


def make_objective(features: FeatureCache, preprocessing: str = "none", seed: int = 0) -> Objective:
    """Of a task of two layers, of which the second is trained."""
    torch.manual_seed(7)
    model = nn.Sequential(OrderedDict(flat=nn.Flatten(), fc1=nn.Linear(72, 9), act=nn.ReLU(), fc2=nn.Linear(9, 4)))
    torch.manual_seed(seed)
    parts = {name: (torch.randn(20, 2, 6, 6), torch.arange(20) % 4) for name in ("train", "val", "test")}
    task = Task(model, **parts, description={"preprocessing": preprocessing})
    table = {"name": "int1-lora", "compression": "int1", "adapter": "lora", "targets": ["fc2"]}
    search = {"ranks": [1], "inits": ["svd"], "alpha": 1, "optimizer": ["adam"], "lr": {"low": 1e-3, "high": 1e-2}}
    search |= {"batch_size": [8], "epochs": 1, "trials": 6}
    spec = CombinationSpec.model_validate(table), SearchSpec.model_validate(search)
    return Objective.of(Combination(task, *spec), ComputeSpec(), features)


def test_another_part_of_a_task_another_preprocessing_and_other_images_have_other_caches(make_cache):
    expected = 0
    for settings in ({}, {"preprocessing": "crop"}, {"seed": 1}):
        features = make_cache()
        for name in ("train", "val", "test"):
            objective = make_objective(features, **settings)
            rows = objective.bases.common.source(name)
            images = getattr(objective.combination.task, name).images
            torch.testing.assert_close(rows.tensors[0], objective.bases.common.program.cut.stem(images)[0])
            expected += 1
            assert len(folders(features)) == expected
    with CheckedBy(never):
        make_objective(make_cache()).bases.common.source("val")


def test_without_room_for_a_cache_the_stem_runs_in_every_epoch_and_gives_the_same_rows(make_cache):
    small = make_cache(folder=make_cache().folder / "small", limit=10)
    cached, computed = (make_objective(features).bases.common.source("train") for features in (make_cache(), small))
    assert isinstance(computed, ComputedRows)
    order = torch.randperm(20)
    for some, other in zip(cached.batches(8, order), computed.batches(8, order), strict=True):
        torch.testing.assert_close(some, other)
