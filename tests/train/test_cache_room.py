import os
import shutil
from pathlib import Path

import pytest
from feature_caches import ROW, folders
from stopping import CheckedBy
from tiny_stems import FACTS, IMAGES, built, hold, make_part, make_stem, small_steps


def part_facts(name: str) -> dict[str, str]:
    return {**FACTS, "part": name}


@pytest.fixture
def aged(make_cache, monkeypatch) -> list[Path]:
    """Three caches, the first the oldest, that nobody computes with."""
    small_steps(monkeypatch.setattr, journal_bytes=2**26)
    stem, part = make_stem(), make_part()
    caches = []
    for age, name in enumerate("abc"):
        # In another folder first, so that this process does not hold those in the common one.
        features = make_cache(folder=make_cache().folder / name)
        features.rows(stem, part, part_facts(name))
        (folder,) = folders(features)
        caches.append(make_cache().folder / folder.name)
        shutil.copytree(folder, caches[-1])
        shutil.rmtree(features.folder)
        os.utime(caches[-1], (age + 1, age + 1))
    return caches


def room_for(caches: int) -> int:
    """A limit for that many caches, with their cards and journals."""
    return caches * IMAGES * ROW + 40_000


def test_the_least_recently_used_cache_is_removed_first_above_the_limit(make_cache, aged, said):
    assert make_cache(limit=room_for(3)).rows(make_stem(), make_part(), FACTS)
    assert [folder.exists() for folder in aged] == [False, True, True]
    assert any(f"removed {aged[0].name}, the least recently used" in line for line in said)


def test_a_cache_that_is_used_again_is_the_most_recently_used(make_cache, aged):
    make_cache().rows(make_stem(), make_part(), part_facts("a"))
    make_cache(limit=room_for(3)).rows(make_stem(), make_part(), FACTS)
    assert [folder.exists() for folder in aged] == [True, False, True]


def test_a_cache_that_another_process_reads_stays(make_cache, aged):
    with hold(aged[0]):
        assert make_cache(limit=room_for(3)).rows(make_stem(), make_part(), FACTS)
    assert [folder.exists() for folder in aged] == [True, False, True]


def test_nothing_is_cached_if_caches_in_use_leave_no_room(make_cache, aged, said):
    with hold(aged[0]):
        assert make_cache(limit=room_for(1)).rows(make_stem(), make_part(), FACTS) is None
    assert aged[0].exists()
    assert "exceed --cache-limit" in said[-1]


def test_a_cache_larger_than_the_limit_is_logged_not_built_and_removes_none(make_cache, aged, said):
    stem = make_stem()
    assert make_cache(limit=IMAGES * ROW - 1).rows(stem, make_part(), FACTS) is None
    assert said == [*said[:-1], "cache: 59.2 kB exceed --cache-limit; frozen layers run in every epoch"]
    assert built(stem) == 0
    assert all(folder.exists() for folder in aged)
    assert make_cache(limit=room_for(1)).rows(stem, make_part(), FACTS)


def test_a_process_holds_a_cache_once_however_often_it_opens_it(make_cache):
    make_cache().rows(make_stem(), make_part(), FACTS)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        make_cache().rows(make_stem(), make_part(), FACTS)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_cache_that_is_damaged_while_this_process_holds_it_twice_is_built_again(make_cache, said):
    def check() -> None:
        assert not any("waiting" in line for line in said), "it waits for itself"

    for _ in range(2):
        make_cache().rows(make_stem(), make_part(), FACTS)
    (folder,) = folders(make_cache())
    (folder / "1.bin").write_bytes(b"")
    with CheckedBy(check):
        assert make_cache().rows(make_stem(), make_part(), FACTS)
