import shutil

import pytest
import torch
from feature_caches import ROW, folders, found, never, rounded_away, stop_after
from stopping import CheckedBy
from tiny_stems import BATCH, FACTS, IMAGES, built, digest, hold, make_part, make_stem, small_steps, start


def test_a_stopped_build_resumes_where_it_was(make_cache, said):
    whole = make_cache().rows(make_stem(), make_part(), FACTS)
    shutil.rmtree(make_cache().folder)
    stop_after(make_cache(), 5)
    stop_after(make_cache(), 4)
    stem, features = make_stem(), make_cache()
    rows = features.rows(stem, make_part(), FACTS)
    assert built(stem) == IMAGES - 9 * BATCH
    assert digest(rows) == digest(whole)
    assert said[-1] == "cache: the frozen layers run once over 28 images (72 are done already), 59.2 kB"
    assert found(make_cache(), make_stem())


def test_a_build_repeats_rows_that_its_journal_lacks(make_cache, monkeypatch):
    small_steps(monkeypatch.setattr, journal_bytes=3 * BATCH * ROW)
    stop_after(make_cache(), 8)  # noted after 3 and 6 batches
    stem = make_stem()
    assert make_cache().rows(stem, make_part(), FACTS)
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
def test_a_damaged_line_of_the_journal_costs_that_line(make_cache, damage):
    whole = make_cache().rows(make_stem(), make_part(), FACTS)
    shutil.rmtree(make_cache().folder)
    stop_after(make_cache(), 5)
    (folder,) = folders(make_cache())
    *lines, last = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    assert damage(last) != last
    (folder / "journal.jsonl").write_bytes(b"".join([*lines, damage(last)]))
    stem = make_stem()
    rows = make_cache().rows(stem, make_part(), FACTS)
    assert built(stem) == IMAGES - 4 * BATCH
    assert digest(rows) == digest(whole)


@pytest.mark.parametrize("extra", [b"", b"half a row"])
def test_rows_that_changed_since_they_were_recorded_are_computed_again(make_cache, extra):
    whole = make_cache().rows(make_stem(), make_part(), FACTS)
    shutil.rmtree(make_cache().folder)
    stop_after(make_cache(), 5)
    (folder,) = folders(make_cache())
    data = bytearray((folder / "1.bin").read_bytes())
    data[3 * BATCH * 4 * 4 + 2] ^= 1  # in the fourth batch
    (folder / "1.bin").write_bytes(data + extra)
    stem = make_stem()
    rows = make_cache().rows(stem, make_part(), FACTS)
    assert built(stem) == IMAGES - 3 * BATCH
    assert digest(rows) == digest(whole)


def test_of_two_processes_one_builds_and_the_other_waits_for_it(make_cache, tmp_path):
    processes = [start("beside", tmp_path) for _ in range(2)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    (one, first), (other, second) = [process.communicate(timeout=60) for process in processes]
    assert one == other == digest(make_cache().rows(make_stem(), make_part(), FACTS)) + "\n", first + second
    assert sorted("waiting" in said for said in (first, second)) == [False, True]
    counts = [int(line) for line in (tmp_path / "seen.txt").read_text().splitlines()]
    assert sum(count for count in counts if count in (BATCH, IMAGES % BATCH)) == IMAGES


def test_waiting_for_another_process_can_be_stopped(make_cache, said):
    features = make_cache()
    building = hold(features.folder / features.key(make_stem(), FACTS), exclusive=True)
    with building, CheckedBy(never), pytest.raises(AssertionError, match="a batch is computed"):
        features.rows(make_stem(), make_part(), FACTS)
    assert said == ["cache: another process builds it, waiting"]


def test_correct_images_counted_before_a_stop_are_counted_after_it(make_cache, said):
    part = make_part()
    whole, stopped = make_cache(dtype=torch.bfloat16), make_cache(dtype=torch.bfloat16)
    stopped.folder = whole.folder.with_name("stopped")
    whole.rows(make_stem(), part, FACTS, judge=rounded_away)
    stop_after(stopped, 7, part, judge=rounded_away)
    make_cache(dtype=torch.bfloat16, folder=stopped.folder).rows(make_stem(), part, FACTS, judge=rounded_away)
    accuracies = [line for line in said if "accuracy" in line]
    assert len(accuracies) == 2
    assert accuracies[0] == accuracies[1]
