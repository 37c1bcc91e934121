import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_stems import hold

from pipeline.errors import StorageError
from pipeline.train.cache import cache_folder
from pipeline.train.cache.cache_folder import is_in_use, lock, make_room, read_card, size, use


@pytest.fixture
def folder(tmp_path) -> Path:
    """A cache of 1,000 bytes."""
    return make_folder(tmp_path / "caches", "one", 100)


def make_folder(parent: Path, name: str, age: int) -> Path:
    folder = parent / name
    folder.mkdir(parents=True)
    (folder / "0.bin").write_bytes(bytes(1000))
    os.utime(folder, (age, age))
    return folder


def others_see_in_use(folder: Path) -> bool:
    """Whether another process finds the folder in use."""
    code = (
        "from pathlib import Path; from pipeline.train.cache.cache_folder import is_in_use; "
        f"print(is_in_use(Path({str(folder)!r})))"
    )
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {"True": True, "False": False}[asked.stdout.strip()]


def test_a_builder_shuts_out_builders_and_readers(folder):
    with hold(folder, exclusive=True):
        for exclusive in (True, False):
            with pytest.raises(BlockingIOError), lock(folder, exclusive=exclusive):
                pass
    with lock(folder, exclusive=True):
        pass


def test_readers_share_a_folder_and_shut_out_builders(folder):
    with hold(folder):
        with lock(folder, exclusive=False):
            pass
        with pytest.raises(BlockingIOError), lock(folder, exclusive=True):
            pass
    with lock(folder, exclusive=True):
        pass


def test_a_folder_is_locked_before_it_is_there(tmp_path):
    absent = tmp_path / "not" / "yet"
    with hold(absent, exclusive=True), pytest.raises(BlockingIOError), lock(absent, exclusive=False):
        pass
    assert not absent.exists()


def test_a_lock_of_a_folder_does_not_lock_another_folder(folder):
    with hold(folder, exclusive=True), lock(folder.with_name("two"), exclusive=True):
        pass


def test_a_folder_in_use_stays_locked_and_is_shared_with_other_readers(folder):
    with lock(folder, exclusive=True) as handle:
        use(folder, handle)
    with hold(folder):  # another reader comes in
        pass
    assert others_see_in_use(folder)


def test_a_folder_used_twice_is_released_when_its_process_locks_it_exclusively(folder):
    for _ in range(2):
        with lock(folder, exclusive=False) as handle:
            use(folder, handle)
    assert others_see_in_use(folder)
    with lock(folder, exclusive=True):
        pass
    assert not others_see_in_use(folder)


def test_a_folder_is_in_use_as_long_as_another_process_reads_or_builds_it(folder):
    for exclusive in (True, False):
        with hold(folder, exclusive=exclusive):
            assert is_in_use(folder)
        assert not is_in_use(folder)


def test_use_of_a_folder_makes_it_the_most_recently_used(folder):
    with lock(folder, exclusive=False) as handle:
        use(folder, handle)
    assert folder.stat().st_mtime > 1e9


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "{}", '{"sha256": "abc"}', "\udcff"])
def test_a_card_that_is_damaged_is_none(folder, text):
    (folder / "card.json").write_bytes(text.encode("utf8", "surrogateescape"))
    assert read_card(folder) is None


def test_a_card_is_none_until_it_is_written(folder):
    assert read_card(folder) is None
    card = {"sha256": ["abc"]}
    (folder / "card.json").write_text(json.dumps(card))
    assert read_card(folder) == card


def test_room_is_made_by_removing_the_oldest_until_it_fits(folder, said):
    younger, youngest = (make_folder(folder.parent, name, age) for name, age in (("two", 200), ("three", 300)))
    assert make_room(folder.with_name("new"), 500, 3500)
    assert folder.exists()
    assert make_room(folder.with_name("new"), 501, 3500)
    assert [path.exists() for path in (folder, younger, youngest)] == [False, True, True]
    assert make_room(folder.with_name("new"), 3500, 3500)
    assert not younger.exists()
    assert not youngest.exists()
    assert [line.partition(",")[0] for line in said] == [f"cache: removed {name}" for name in ("one", "two", "three")]


def test_the_bytes_of_a_folder_that_is_built_again_are_not_counted_twice(folder):
    make_folder(folder.parent, "two", 50)
    assert make_room(folder, 2000, 3000)
    assert folder.with_name("two").exists()


def test_too_little_free_space_is_an_error_with_the_bytes_needed_and_free(folder, monkeypatch):
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1234))
    with pytest.raises(StorageError, match=r"takes 2,235 bytes in .*/one, and 1,234 are free") as raised:
        make_room(folder, 2235, 10_000)
    assert raised.value.exit_code == 4
    assert make_room(folder, 2234, 10_000), "1,000 bytes of it exist already"


def test_a_folder_that_another_process_removes_meanwhile_makes_room_too(folder, monkeypatch):
    two = make_folder(folder.parent, "two", 200)

    def size_and_gone(path: Path) -> int:
        bytes_ = size(path)
        if path == folder:
            shutil.rmtree(folder)
        return bytes_

    monkeypatch.setattr(cache_folder, "size", size_and_gone)
    assert make_room(folder.with_name("new"), 1000, 2000)
    assert two.exists()


def test_a_folder_or_file_that_disappears_while_it_is_measured_counts_nothing(folder):
    (folder / ".card.json.abc.tmp").symlink_to(folder / "gone")
    assert size(folder) == 1000
    shutil.rmtree(folder)
    assert size(folder) == 0
