"""Faults of the caches of frozen layers: killed, full, damaged. Numbers are those of the table of faults."""

import errno
import json
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny_stems
from command import invoke, write_study
from tiny_stems import BATCH, FACTS, IMAGES, built, digest, hold, make_part, make_stem, small_steps

from pipeline.errors import StorageError
from pipeline.store.database import open_storage
from pipeline.train.cache import feature_cache
from pipeline.train.cache.feature_cache import FeatureCache

BYTES = IMAGES * (4 * 6 * 6 + 4) * 4


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch):
    small_steps(monkeypatch.setattr)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The sha256 of what a cache gives that nothing happened to."""
    return digest(FeatureCache(tmp_path_factory.mktemp("whole")).rows(make_stem(), make_part(), FACTS))


def the_folder() -> Path:
    (folder,) = [path for path in Path("features").iterdir() if path.is_dir()]
    return folder


def cached(stem=None, **settings):
    features = FeatureCache(Path("features").resolve(), **settings)
    return features.rows(stem or make_stem(), make_part(), FACTS)


def test_fault_05_after_sigkill_of_a_process_that_builds_another_finishes_its_cache(whole, said):
    process = tiny_stems.start("killed", Path.cwd())
    process.communicate("\n", timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (the_folder() / "card.json").exists()
    stem = make_stem()
    assert digest(cached(stem)) == whole
    assert built(stem) == IMAGES - 5 * BATCH
    assert "(40 are done already)" in said[0]


def test_fault_05_killed_at_any_line_a_cache_is_finished_by_the_next_and_nothing_half_written_stays():
    process = tiny_stems.start("killed-everywhere", Path.cwd())
    stdout, stderr = process.communicate("\n", timeout=60)
    assert process.returncode == 0, stderr
    instants, _, wrong = stdout.strip().partition(" ")
    assert int(instants) > 40
    assert wrong == "[]"


def no_room(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def full_disk(when: str) -> Iterator[None]:
    """Let the disk run full while rows are written, when they are flushed, or when the card is written."""
    with pytest.MonkeyPatch.context() as patched:
        if when == "rows":
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            fourth_batch = 4 * BATCH * 4 * 6 * 6 * 4 - 1
            resource.setrlimit(resource.RLIMIT_FSIZE, (fourth_batch, before[1]))
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
        else:
            patched.setattr(*{"flush": (os, "fsync"), "card": (feature_cache, "write_text")}[when], no_room)
            yield


@pytest.mark.parametrize(
    ("when", "left"), [("rows", IMAGES - 3 * BATCH), ("flush", IMAGES), ("card", 0)], ids=lambda v: str(v)
)
def test_fault_06_a_full_disk_ends_a_build_with_the_bytes_needed_and_keeps_what_is_built(whole, when, left):
    refused = pytest.raises(StorageError, match=rf"cache in .*/features/.* needs {BYTES:,} bytes: .*Errno")
    with full_disk(when), refused as raised:
        cached()
    assert raised.value.exit_code == 4
    stem = make_stem()
    assert digest(cached(stem=stem)) == whole
    assert built(stem) == left


def test_fault_06_a_disk_without_room_is_told_before_anything_is_written(monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=BYTES - 1))
    stem = make_stem()
    with pytest.raises(StorageError, match=f"takes {BYTES:,} bytes in .*, and {BYTES - 1:,} are free; make room"):
        cached(stem=stem)
    assert built(stem) == 0
    assert not list(Path("features").glob("*/*"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=BYTES))
    assert cached()


def with_a_stem() -> None:
    """A study of one combination, whose first layer is frozen."""
    path = write_study()
    before, _, after = path.read_text().partition('adapter = "lora"\n\n[[combination]]')
    path.write_text(f'{before}adapter = "lora"\ntargets = ["fc2"]\n\n[search]{after.partition("[search]")[2]}')


def test_fault_06_a_run_without_room_for_its_cache_ends_in_exit_code_4_and_says_how_to_resume(monkeypatch):
    with_a_stem()
    usage = shutil.disk_usage(".")
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.train.cache.cache_folder.shutil.disk_usage", lambda path: usage._replace(free=100))
        result = invoke("run", "tiny", "--device", "cpu")
    assert result.exit_code == 4
    assert "and 100 B are free" in result.stderr
    assert 'set compute.cache = "off"' in result.stderr
    again = invoke("run", "tiny", "--device", "cpu")
    assert again.exit_code == 0, again.stderr
    assert len(list(Path("storage/cache/features").glob("*/card.json"))) == 3


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def lengthened(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"0")


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path, place: int = -9) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncated, lengthened, emptied, flipped, Path.unlink])
@pytest.mark.parametrize("file", ["0.bin", "1.bin"])
def test_fault_09_a_damaged_cache_is_named_with_its_sha256_and_built_again(whole, file, damage, said):
    cached()
    path = the_folder() / file
    expected = json.loads((the_folder() / "card.json").read_text())["sha256"][int(file[0])]
    damage(path)
    said.clear()
    assert digest(cached()) == whole
    (named,) = [line for line in said if "damaged" in line]
    assert str(path) in named
    assert f"expected {expected}" in named or damage is Path.unlink
    said.clear()
    assert digest(cached()) == whole
    assert said == []


def test_fault_09_a_flipped_bit_costs_the_images_from_there_on(whole):
    cached()
    flipped(the_folder() / "1.bin")
    stem = make_stem()
    assert digest(cached(stem=stem)) == whole
    assert built(stem) == IMAGES % BATCH


def test_fault_09_another_caches_file_is_found_out(whole, said):
    cached()
    other = FeatureCache(Path("other"))
    other.rows(make_stem(seed=1), make_part(), FACTS)
    (its,) = Path("other").glob("*/0.bin")
    shutil.copy(its, the_folder() / "0.bin")
    said.clear()
    assert digest(cached()) == whole
    assert f"{the_folder()}/0.bin is damaged" in said[0]


@pytest.mark.parametrize("text", ["", "garbage", "[]", "{}", '{"sha256": []}', '{"sha256": "0"}'])
def test_fault_09_a_card_that_is_garbage_is_named_and_written_again(whole, text, said):
    cached()
    card = the_folder() / "card.json"
    before = json.loads(card.read_text())
    card.write_text(text)
    said.clear()
    assert digest(cached()) == whole
    assert f"cache: {card.resolve()} is damaged; it is built again" in said
    assert json.loads(card.read_text()) == before


def test_fault_09_a_lost_card_costs_no_image(monkeypatch, whole):
    small_steps(monkeypatch.setattr, journal_bytes=2**26)
    cached()
    (the_folder() / "card.json").unlink()
    stem = make_stem()
    assert digest(cached(stem=stem)) == whole
    assert built(stem) == 0


@pytest.mark.parametrize("place", range(0, 100, 7))
def test_fault_09_one_flipped_bit_of_a_card_never_stops_a_run(whole, place):
    cached()
    flipped(the_folder() / "card.json", place)
    assert digest(cached()) == whole


@pytest.mark.parametrize("place", range(0, 180, 13))
def test_fault_09_one_flipped_bit_of_a_journal_never_stops_a_run(whole, place):
    cached()
    (the_folder() / "card.json").unlink()
    flipped(the_folder() / "journal.jsonl", -1 - place)
    assert digest(cached()) == whole


def test_clean_removes_caches_that_no_process_computes_with():
    open_storage("sqlite:///storage/studies.db")
    features = Path("storage/cache/features")
    for name in "ab":
        (features / name).mkdir(parents=True)
        (features / name / "card.json").write_text("{}")
    with hold(features / "a"):
        assert invoke("clean").stdout.split() == [str(features / "b")]
    assert [(features / name).exists() for name in "ab"] == [True, False]
    assert invoke("clean").stdout.split() == [str(features / "a")]
    assert not (features / "a").exists()
