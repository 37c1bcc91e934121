"""Folders that cannot be written or locked, and systems without locks: it works, or one sentence says where to go."""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from command import invoke, last_line, write_study
from tiny_studies import make_objective, make_spec, search

from pipeline import environment, locks
from pipeline.errors import NothingUsableError, StorageError
from pipeline.locks import NoLocksError, exclusive, is_held, is_run, locked, refuse_unusable
from pipeline.results.reading import read_results
from pipeline.store.database import open_storage

REASONS = [errno.EOPNOTSUPP, errno.ENOLCK, errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.EIO, errno.EBADF]


@pytest.fixture(params=["no module", *REASONS], ids=lambda one: errno.errorcode.get(one, one))
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks, or a system without them."""

    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    if request.param == "no module":
        monkeypatch.setattr(locks, "fcntl", None)
        monkeypatch.setattr(environment, "resource", None)
    else:
        monkeypatch.setattr(locks.fcntl, "flock", refuse)


def test_what_cannot_be_locked_is_one_error_that_says_where_to_go(no_locks, tmp_path):
    path = tmp_path / "a.lock"
    for held in (locked(path), locked(path, shared=True), locked(path, wait=True), exclusive(path, "study 'a'")):
        with pytest.raises(NoLocksError, match=f"{tmp_path} cannot be locked .*--storage or RESTORA_STORAGE"), held:
            pass
    with pytest.raises(NoLocksError):
        refuse_unusable(tmp_path / "not" / "there", locks=True)
    refuse_unusable(tmp_path / "not" / "there", locks=False)
    assert is_held(path) is None, "nothing is known"
    assert is_run(f"sqlite:///{tmp_path}/studies.db", "a") is None
    assert environment.peak_memory("cpu") >= 0


@pytest.mark.parametrize("no_locks", [errno.EOPNOTSUPP, "no module"], indirect=True)
def test_verbs_say_it_before_a_run_and_those_that_read_work(no_locks):
    write_study(trials=2)
    for verb in ("check", "run"):
        result = invoke(verb, "tiny", "--device", "cpu")
        assert result.exit_code == 4
        assert "cannot be locked" in result.output
    for words in (["ls"], ["--help"], ["new", "other"]):
        assert invoke(*words).exit_code == 0


def test_an_objective_of_ones_own_needs_no_lock(no_locks):
    study = optuna.create_study(direction="maximize")
    study.optimize(make_objective(make_spec(trials=4)), n_trials=1)
    assert study.trials[0].state.name == "COMPLETE"


def test_where_the_database_can_be_locked_a_run_goes_on_in_a_folder_that_cannot(monkeypatch, tmp_path, said):
    lock = locks._lock

    def only_elsewhere(handle: int, folder: Path, **how: bool) -> None:
        if "storage" in folder.parts:
            raise NoLocksError(f"the folder {folder} cannot be locked")
        lock(handle, folder, **how)

    write_study(trials=2)
    monkeypatch.setattr(locks, "_lock", only_elsewhere)
    result = invoke("run", "tiny", "--device", "cpu", "--storage", f"sqlite:///{tmp_path}/elsewhere/studies.db")
    assert result.exit_code == 0, result.stderr
    assert "this run goes on, because its database is locked" in result.stderr


@pytest.fixture(scope="module")
def left() -> Iterator[Path]:
    """The database of a finished study as a killed run leaves it: its last writes are in the write-ahead log alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        storage = open_storage(f"sqlite:///{folder / 'live.db'}")
        search(storage, make_spec(trials=4))
        storage.engine.dispose()
        with storage.engine.connect():
            storage.set_study_user_attr(1, "last", "in the log")
            for suffix in ("", "-wal", "-shm"):
                shutil.copyfile(f"{folder / 'live.db'}{suffix}", f"{folder / 'studies.db'}{suffix}")
        storage.remove_session()
        storage.engine.dispose()
        yield folder


KILLED = {"with all its files": ("", "-wal", "-shm"), "without its index": ("", "-wal")}
"""What a killed run has left beside the database."""


@pytest.fixture(params=[*KILLED, "closed well"])
def unwritable(request: pytest.FixtureRequest, left: Path) -> Iterator[Path]:
    """The database in a folder that this process may only read."""
    folder = Path(tempfile.mkdtemp())
    source = "studies.db" if request.param in KILLED else "live.db"
    for suffix in KILLED.get(request.param, [""]):
        shutil.copyfile(f"{left / source}{suffix}", f"{folder / 'studies.db'}{suffix}")
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # no right holds root back
    yield folder
    os.seteuid(user)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_database_in_a_folder_that_is_read_only_is_read_with_all_that_was_written(unwritable):
    before = {path.name: path.read_bytes() for path in unwritable.iterdir()}
    storage = open_storage(f"sqlite:///{unwritable / 'studies.db'}", "read")
    (result,) = read_results(storage, "tiny")
    assert len(result.study.trials) == 4 * len(result.cells)
    assert result.facts["last"] == "in the log"
    with pytest.raises(Exception, match="readonly"):
        storage.set_study_user_attr(1, "more", 1)
    storage.remove_session()
    storage.engine.dispose()
    assert {path.name: path.read_bytes() for path in unwritable.iterdir()} == before


def test_whoever_writes_is_told_that_the_folder_is_read_only(unwritable):
    url = f"sqlite:///{unwritable / 'studies.db'}"
    for access in ("create", "write"):
        with pytest.raises(StorageError, match=r"cannot be written: .*Permission denied.*--storage"):
            open_storage(url, access)
    with pytest.raises(StorageError, match="cannot be written"):
        open_storage(f"sqlite:///{unwritable}/below/studies.db")


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", NothingUsableError, "holds no study"),
        (b"no database at all", StorageError, "not an SQLite database"),
        (b"SQLite format 3\x00" + bytes(200), StorageError, "nothing in it was removed"),
    ],
    ids=["empty", "other", "damaged"],
)
def test_a_file_without_studies_is_left_as_it_is_by_readers(data, error, words, tmp_path):
    (tmp_path / "studies.db").write_bytes(data)
    with pytest.raises(error, match=words):
        open_storage(f"sqlite:///{tmp_path / 'studies.db'}", "read")
    assert {path.name: path.read_bytes() for path in tmp_path.glob("studies*")} == {"studies.db": data}


@pytest.mark.parametrize(("umask", "rights"), [(0o077, 0o600), (0o000, 0o666)])
def test_every_file_of_a_run_a_report_and_an_export_follows_the_umask(umask, rights):
    write_study(trials=2)
    outside = {path for path in Path().rglob("*") if path.is_file()}
    before = os.umask(umask)
    try:
        for words in (["run", "tiny", "--device", "cpu"], ["report", "tiny", "--no-png"], ["export", "tiny"]):
            result = invoke(*words)
            assert result.exit_code == 0, last_line(result.stderr)
        assert invoke("new", "other").exit_code == 0
    finally:
        os.umask(before)
    written = [path for path in Path().rglob("*") if path.is_file() and path not in outside]
    kinds = {".db", ".html", ".csv", ".json", ".safetensors", ".lock", ".toml", ".log"}
    assert {path.suffix for path in written} >= kinds
    assert {str(path): oct(stat.S_IMODE(path.stat().st_mode)) for path in written} == {
        str(path): oct(rights) for path in written
    }


def test_a_working_folder_that_is_gone_is_said(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    with monkeypatch.context() as patched:
        patched.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        for words in (["ls"], ["check", "tiny"], ["new", "other"]):
            result = invoke(*words)
            assert (result.exit_code, "the working folder does not exist any more" in result.stderr) == (2, True)


def test_a_plan_is_made_where_nothing_can_be_written_and_a_check_carries_out_all_other_steps(monkeypatch):
    def refuse(**_: object) -> None:
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))

    write_study(trials=2)
    monkeypatch.setattr(locks.tempfile, "TemporaryFile", refuse)
    planned = invoke("plan", "tiny", "--device", "cpu")
    assert (planned.exit_code, "baseline" in planned.stdout) == (0, True), planned.stderr
    checked = invoke("check", "tiny", "--device", "cpu")
    failed = [line for line in checked.stdout.splitlines() if line.startswith("FAIL")]
    assert (checked.exit_code, len(failed)) == (4, 1), checked.stdout
    assert "files can be written" in failed[0]
    assert "--storage" in failed[0]
    assert "memory and disk suffice" in checked.stdout
    assert not Path("storage").exists()
