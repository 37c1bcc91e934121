import copy
import hashlib
import json
import os
import shutil
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from stopping import CheckedBy, StopAfter
from tiny_stems import (
    BATCH,
    FACTS,
    IMAGES,
    Features,
    Scaled,
    built,
    digest,
    hold,
    make_part,
    make_stem,
    small_steps,
    start,
)
from torch import Tensor, nn

from pipeline.config.combination_spec import CombinationSpec
from pipeline.config.search_spec import SearchSpec
from pipeline.config.spec import ComputeSpec
from pipeline.guard import StopTraining
from pipeline.objective.combination import Combination
from pipeline.objective.objective import Objective
from pipeline.task.contract import Task
from pipeline.task.parts import DatasetPart, TensorPart
from pipeline.train.cache import feature_cache as cache
from pipeline.train.cache.feature_cache import FeatureCache
from pipeline.train.rows import ComputedRows, TensorRows

ROW = (4 * 6 * 6 + 4) * 4
"""Bytes of an image's features in float32."""


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch):
    small_steps(monkeypatch.setattr)


@pytest.fixture
def make(tmp_path):
    """Makes caches in one folder."""

    def make(**settings: object) -> FeatureCache:
        return FeatureCache(**{"folder": tmp_path / "features", **settings})

    return make


def folders(features: FeatureCache) -> list[Path]:
    return sorted(path for path in features.folder.iterdir() if path.is_dir())


def never() -> None:
    raise AssertionError("a batch is computed")


def found(features: FeatureCache, stem: nn.Module) -> TensorRows | None:
    """The rows of a cache that has to be there already."""
    with CheckedBy(never):
        return features.rows(stem, make_part(), FACTS)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 2**-11), (torch.bfloat16, 2**-8)]
)
def test_cached_rows_equal_the_stems_outputs_up_to_the_rounding_of_their_dtype(make, dtype, tolerance):
    stem, part = make_stem(), make_part()
    rows = make(dtype=dtype).rows(stem, part, FACTS)
    assert torch.equal(rows.labels, part.labels)
    for cached, exact in zip(rows.tensors, stem(part.images), strict=True):
        assert (cached.dtype, cached.shape) == (dtype, exact.shape)
        torch.testing.assert_close(cached.float(), exact, rtol=tolerance, atol=1e-6)


def test_rows_are_mapped_from_the_files_and_are_not_copied_when_passed_through(make):
    features = make()
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


def test_changing_a_row_does_not_change_the_file(make):
    rows = make().rows(make_stem(), make_part(), FACTS)
    before = digest(rows)
    rows.tensors[0].zero_()
    assert digest(rows) != before
    assert digest(found(make(), make_stem())) == before


def rounded_away(inputs: tuple[Tensor, ...]) -> Tensor:
    """Logits that tell whether a number was rounded: class 1 for what bfloat16 makes smaller."""
    return torch.stack([inputs[1][:, 0].bfloat16().float(), inputs[1][:, 0]], 1)


def test_the_accuracy_of_exact_and_rounded_values_is_logged_if_a_cache_rounds(make, said):
    stem, part = make_stem(), make_part()
    part.labels = torch.zeros_like(part.labels)
    features = make(dtype=torch.bfloat16)
    features.rows(stem, part, FACTS, judge=rounded_away)
    exact = int((rounded_away(stem(part.images)).argmax(1) == 0).sum())
    assert 0 < exact < IMAGES
    assert f"cache: features as torch.bfloat16: accuracy 1.0000, in full precision {exact / IMAGES:.4f}" in said
    (folder,) = folders(features)
    assert json.loads((folder / "card.json").read_text())["correct"] == [exact, IMAGES]


def test_no_accuracy_is_measured_if_a_cache_does_not_round(make, said):
    assert make().rows(make_stem(), make_part(), FACTS, judge=lambda inputs: never())
    assert not any("accuracy" in line for line in said)


def test_correct_images_counted_before_a_stop_are_counted_after_it(make, said):
    part = make_part()
    whole, stopped = make(dtype=torch.bfloat16), make(dtype=torch.bfloat16)
    stopped.folder = whole.folder.with_name("stopped")
    whole.rows(make_stem(), part, FACTS, judge=rounded_away)
    stop_after(stopped, 7, part, judge=rounded_away)
    make(dtype=torch.bfloat16, folder=stopped.folder).rows(make_stem(), part, FACTS, judge=rounded_away)
    accuracies = [line for line in said if "accuracy" in line]
    assert len(accuracies) == 2
    assert accuracies[0] == accuracies[1]


def test_the_card_holds_the_sha256_of_the_files(make):
    features = make()
    features.rows(make_stem(), make_part(), FACTS)
    (folder,) = folders(features)
    expected = [hashlib.sha256((folder / f"{place}.bin").read_bytes()).hexdigest() for place in range(2)]
    assert json.loads((folder / "card.json").read_text())["sha256"] == expected


@pytest.mark.parametrize("fact", FACTS)
def test_other_images_are_another_cache(make, fact):
    stem = make_stem()
    assert make().key(stem, {**FACTS, fact: "other"}) != make().key(stem, FACTS)


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
def test_another_stem_is_another_cache(make, other):
    assert make().key(other, FACTS) != make().key(make_stem(), FACTS)
    assert make().key(make_stem(nn.LeakyReLU(0.1)), FACTS) != make().key(other, FACTS)


def test_another_dtype_is_another_cache(make):
    keys = {make(dtype=dtype).key(make_stem(), FACTS) for dtype in (torch.float32, torch.float16, torch.bfloat16)}
    assert len(keys) == 3


def test_the_same_stem_made_again_is_the_same_cache(make, tmp_path):
    key = make().key(make_stem(), FACTS)
    assert make(folder=tmp_path / "other", limit=1).key(make_stem(), dict(reversed(FACTS.items()))) == key
    assert make().key(copy.deepcopy(make_stem()), FACTS) == key


def test_tensors_outside_the_stem_are_not_part_of_the_key(make):
    class Longer(Features):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(3, 3)

    assert make().key(make_stem(module=Longer), FACTS) == make().key(make_stem(), FACTS)


def test_an_existing_cache_is_found_without_building(make, said):
    first, second = make_stem(), make_stem()
    rows = make().rows(first, make_part(), FACTS)
    assert built(first) == IMAGES
    said.clear()
    again = found(make(), second)
    assert digest(again) == digest(rows)
    assert built(second) == 0
    assert said == []


def test_one_object_opens_a_cache_once(make):
    features, stem = make(), make_stem()
    rows = features.rows(stem, make_part(), FACTS)
    shutil.rmtree(features.folder)
    assert features.rows(stem, make_part(), FACTS) is rows


def test_a_plan_gives_bytes_and_existence_and_builds_nothing(make):
    stem, part, features = make_stem(), make_part(), make()
    assert features.plan(stem, part, FACTS) == (IMAGES * ROW, False)
    assert make(dtype=torch.float16).plan(stem, part, FACTS) == (IMAGES * ROW // 2, False)
    make().rows(stem, part, FACTS)
    assert features.plan(stem, part, FACTS) == (IMAGES * ROW, True)
    (folder,) = folders(features)
    assert sum((folder / f"{place}.bin").stat().st_size for place in range(2)) == IMAGES * ROW


def test_a_stem_whose_code_has_changed_is_detected_and_built_again(make, said):
    make().rows(make_stem(Scaled(1.0)), make_part(), FACTS)
    changed = make_stem(Scaled(1.1))
    assert make().key(changed, FACTS) == make().key(make_stem(Scaled(1.0)), FACTS)
    rows = make().rows(changed, make_part(), FACTS)
    torch.testing.assert_close(rows.tensors[0], changed(make_part().images)[0])
    assert sum("holds other outputs than the frozen layers give now" in line for line in said) == 1
    assert found(make(), changed)


def stop_after(features: FeatureCache, batches: int, part: TensorPart | None = None, **settings: object) -> None:
    """A build that is stopped before its batch ``batches + 1``."""
    stem = make_stem()
    with pytest.raises(StopTraining), StopAfter(batches):
        features.rows(stem, part or make_part(), FACTS, **settings)
    assert built(stem) == batches * BATCH


def test_a_stopped_build_resumes_where_it_was(make, said):
    whole = make().rows(make_stem(), make_part(), FACTS)
    shutil.rmtree(make().folder)
    stop_after(make(), 5)
    stop_after(make(), 4)
    stem, features = make_stem(), make()
    rows = features.rows(stem, make_part(), FACTS)
    assert built(stem) == IMAGES - 9 * BATCH
    assert digest(rows) == digest(whole)
    assert said[-1] == "cache: the frozen layers run once over 28 images (72 are done already), 59.2 kB"
    assert found(make(), make_stem())


def test_a_build_repeats_rows_that_its_journal_lacks(make, monkeypatch):
    small_steps(monkeypatch.setattr, journal_bytes=3 * BATCH * ROW)
    stop_after(make(), 8)  # noted after 3 and 6 batches
    stem = make_stem()
    assert make().rows(stem, make_part(), FACTS)
    assert built(stem) == IMAGES - 6 * BATCH


def halved(line: bytes) -> bytes:
    return line[: len(line) // 2]


def not_text(line: bytes) -> bytes:
    return b"\xff" + line[1:]


def another_key(line: bytes) -> bytes:
    return line.replace(b'"rows"', b'"rowt"')


def more_rows(line: bytes) -> bytes:
    return line.replace(b'{"rows": 40', b'{"rows": 44')


@pytest.mark.parametrize("damage", [halved, not_text, another_key, more_rows])
def test_a_damaged_line_of_the_journal_costs_that_line(make, damage):
    whole = make().rows(make_stem(), make_part(), FACTS)
    shutil.rmtree(make().folder)
    stop_after(make(), 5)
    (folder,) = folders(make())
    *lines, last = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    assert damage(last) != last
    (folder / "journal.jsonl").write_bytes(b"".join([*lines, damage(last)]))
    stem = make_stem()
    rows = make().rows(stem, make_part(), FACTS)
    assert built(stem) == IMAGES - 4 * BATCH
    assert digest(rows) == digest(whole)


@pytest.mark.parametrize("extra", [b"", b"half a row"])
def test_rows_that_changed_since_they_were_recorded_are_computed_again(make, extra):
    whole = make().rows(make_stem(), make_part(), FACTS)
    shutil.rmtree(make().folder)
    stop_after(make(), 5)
    (folder,) = folders(make())
    data = bytearray((folder / "1.bin").read_bytes())
    data[3 * BATCH * 4 * 4 + 2] ^= 1  # in the fourth batch
    (folder / "1.bin").write_bytes(data + extra)
    stem = make_stem()
    rows = make().rows(stem, make_part(), FACTS)
    assert built(stem) == IMAGES - 3 * BATCH
    assert digest(rows) == digest(whole)


def test_of_two_processes_one_builds_and_the_other_waits_for_it(make, tmp_path):
    processes = [start("beside", tmp_path) for _ in range(2)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    (one, first), (other, second) = [process.communicate(timeout=60) for process in processes]
    assert one == other == digest(make().rows(make_stem(), make_part(), FACTS)) + "\n", first + second
    assert sorted("waiting" in said for said in (first, second)) == [False, True]
    counts = [int(line) for line in (tmp_path / "seen.txt").read_text().splitlines()]
    assert sum(count for count in counts if count in (BATCH, IMAGES % BATCH)) == IMAGES


def test_waiting_for_another_process_can_be_stopped(make, said):
    features = make()
    building = hold(features.folder / features.key(make_stem(), FACTS), exclusive=True)
    with building, CheckedBy(never), pytest.raises(AssertionError, match="a batch is computed"):
        features.rows(make_stem(), make_part(), FACTS)
    assert said == ["cache: another process builds it, waiting"]


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
def test_outputs_that_change_from_run_to_run_are_not_cached(make, said, stem, part, long, monkeypatch):
    monkeypatch.setattr(cache, "LONG", long)
    features = make()
    assert features.rows(stem, part, FACTS) is None
    assert folders(features) == []
    assert "give other outputs when they run again" in said[-1]
    assert "nothing is cached" in said[-1]


def test_an_augmented_part_does_not_get_the_cache_of_a_plain_one(make, said):
    make().rows(make_stem(), make_part(), FACTS)
    assert make().rows(make_stem(), DatasetPart(Augmented(), limit=0), FACTS) is None
    assert folders(make()) == []
    assert "nothing is cached" in said[-1]


def part_facts(name: str) -> dict[str, str]:
    return {**FACTS, "part": name}


@pytest.fixture
def aged(make, monkeypatch) -> list[Path]:
    """Three caches, the first the oldest, that nobody computes with."""
    small_steps(monkeypatch.setattr, journal_bytes=2**26)
    stem, part = make_stem(), make_part()
    caches = []
    for age, name in enumerate("abc"):
        features = make(folder=make().folder / name)  # so that this process does not hold those in the common folder
        features.rows(stem, part, part_facts(name))
        (folder,) = folders(features)
        caches.append(make().folder / folder.name)
        shutil.copytree(folder, caches[-1])
        shutil.rmtree(features.folder)
        os.utime(caches[-1], (age + 1, age + 1))
    return caches


def room_for(caches: int) -> int:
    """A limit for that many caches, with their cards and journals."""
    return caches * IMAGES * ROW + 40_000


def test_the_least_recently_used_cache_is_removed_first_above_the_limit(make, aged, said):
    assert make(limit=room_for(3)).rows(make_stem(), make_part(), FACTS)
    assert [folder.exists() for folder in aged] == [False, True, True]
    assert any(f"removed {aged[0].name}, the least recently used" in line for line in said)


def test_a_cache_that_is_used_again_is_the_most_recently_used(make, aged):
    make().rows(make_stem(), make_part(), part_facts("a"))
    make(limit=room_for(3)).rows(make_stem(), make_part(), FACTS)
    assert [folder.exists() for folder in aged] == [True, False, True]


def test_a_cache_that_another_process_reads_stays(make, aged):
    with hold(aged[0]):
        assert make(limit=room_for(3)).rows(make_stem(), make_part(), FACTS)
    assert [folder.exists() for folder in aged] == [True, False, True]


def test_nothing_is_cached_if_caches_in_use_leave_no_room(make, aged, said):
    with hold(aged[0]):
        assert make(limit=room_for(1)).rows(make_stem(), make_part(), FACTS) is None
    assert aged[0].exists()
    assert "exceed --cache-limit" in said[-1]


def test_a_cache_larger_than_the_limit_is_logged_not_built_and_removes_none(make, aged, said):
    stem = make_stem()
    assert make(limit=IMAGES * ROW - 1).rows(stem, make_part(), FACTS) is None
    assert said == [*said[:-1], "cache: 59.2 kB exceed --cache-limit; frozen layers run in every epoch"]
    assert built(stem) == 0
    assert all(folder.exists() for folder in aged)
    assert make(limit=room_for(1)).rows(stem, make_part(), FACTS)


def test_a_process_holds_a_cache_once_however_often_it_opens_it(make):
    make().rows(make_stem(), make_part(), FACTS)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        make().rows(make_stem(), make_part(), FACTS)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_cache_that_is_damaged_while_this_process_holds_it_twice_is_built_again(make, said):
    def check() -> None:
        assert not any("waiting" in line for line in said), "it waits for itself"

    for _ in range(2):
        make().rows(make_stem(), make_part(), FACTS)
    (folder,) = folders(make())
    (folder / "1.bin").write_bytes(b"")
    with CheckedBy(check):
        assert make().rows(make_stem(), make_part(), FACTS)


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


def test_each_part_of_a_task_each_preprocessing_and_other_images_have_caches_of_their_own(make):
    expected = 0
    for settings in ({}, {"preprocessing": "crop"}, {"seed": 1}):
        features = make()
        for name in ("train", "val", "test"):
            objective = make_objective(features, **settings)
            rows = objective.bases.common.source(name)
            images = getattr(objective.combination.task, name).images
            torch.testing.assert_close(rows.tensors[0], objective.bases.common.program.cut.stem(images)[0])
            expected += 1
            assert len(folders(features)) == expected
    with CheckedBy(never):
        make_objective(make()).bases.common.source("val")


def test_without_room_for_a_cache_the_stem_runs_in_every_epoch_and_gives_the_same_rows(make):
    small = make(folder=make().folder / "small", limit=10)
    cached, computed = (make_objective(features).bases.common.source("train") for features in (make(), small))
    assert isinstance(computed, ComputedRows)
    order = torch.randperm(20)
    for some, other in zip(cached.batches(8, order), computed.batches(8, order), strict=True):
        torch.testing.assert_close(some, other)
