import threading
import time

import pytest

from pipeline.errors import StorageError
from pipeline.locks import database_lock, exclusive, is_held, is_run


def test_a_lock_is_held_until_its_context_ends(tmp_path):
    path = tmp_path / "locks" / "tiny.lock"
    assert is_held(path) is None, "there is no such file, and none is made"
    assert not path.exists()
    with exclusive(path, "study 'tiny'"):
        assert is_held(path) is True
    assert is_held(path) is False


def test_who_only_looks_keeps_no_run_from_starting(tmp_path):
    path, ended = tmp_path / "tiny.lock", threading.Event()
    path.touch()

    def look():
        while not ended.is_set():
            is_held(path)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(50):
            with exclusive(path, "study 'tiny'"):
                time.sleep(0)
    finally:
        ended.set()
        looker.join()


def test_a_second_holder_is_refused(tmp_path):
    path = tmp_path / "tiny.lock"
    with exclusive(path, "study 'tiny'"), pytest.raises(StorageError, match="is being run by process"):
        exclusive(path, "study 'tiny'").__enter__()


def test_a_run_is_known_by_the_lock_beside_its_database_whatever_folder_it_is_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path}/far/studies.db"
    assert is_run(url, "tiny") is None
    with exclusive(database_lock(f"{tmp_path}/far/studies.db", "tiny"), "study 'tiny'"):
        assert is_run(url, "tiny") is True
        assert is_run(url, "other") is None
    assert is_run(url, "tiny") is False


def test_of_a_server_only_a_run_of_this_folder_is_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = "postgresql+psycopg://me@host/studies"
    with exclusive(tmp_path / "storage/locks/tiny.lock", "study 'tiny'"):
        assert is_run(url, "tiny") is True
    assert is_run(url, "tiny") is None
