import errno
import os
from pathlib import Path

import pytest

from pipeline.paths import write_whole


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("No space left on device (os error 28)"),
    ],
    ids=["of the system", "of safetensors"],
)
def test_a_full_disk_is_said_with_what_is_needed_and_the_old_file_stays(tmp_path, error):
    path = tmp_path / "baseline.safetensors"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("half")
        raise error

    with pytest.raises(OSError, match=r"the disk is full \(the file takes 5 MB, .* are free\): .*baseline"):
        write_whole(path, write, 5_000_000)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("baseline.safetensors", "old")]


def test_another_error_is_left_as_it_is_and_no_half_file_stays(tmp_path):
    def write(temporary):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_whole(tmp_path / "file", write)
    assert list(tmp_path.iterdir()) == []


def test_a_device_without_room_counts_as_a_full_disk(tmp_path):
    with pytest.raises(OSError, match="the disk is full"):
        write_whole(tmp_path / "file", lambda temporary: Path("/dev/full").write_bytes(bytes(10)))
