"""Connections of a server that somebody ends: an administrator, a time limit, a restart."""

import logging
import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy
from bare_studies import complete, make_ledger
from command import invoke, write_study
from sqlalchemy.exc import DBAPIError, OperationalError

from pipeline.errors import StorageError
from pipeline.results.reading import read_results
from pipeline.run import study_run
from pipeline.store import server
from pipeline.store.database import Database, only_run, open_storage

END = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname <> ''"
END_LOCKS = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory'"


@pytest.fixture
def ask(postgresql: str) -> Iterator[Callable[[str], int]]:
    """Asks the server for a number, by a connection that nobody else has."""
    engine = sqlalchemy.create_engine(postgresql, poolclass=sqlalchemy.pool.NullPool)

    def answer(statement: str) -> int:
        with engine.begin() as connection:
            return int(connection.exec_driver_sql(statement).scalar() or 0)

    yield answer
    engine.dispose()


@pytest.fixture
def storage(postgresql: str) -> Iterator[Database]:
    opened = open_storage(postgresql)
    yield opened
    opened.remove_session()
    opened.engine.dispose()


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_ledger_writes_and_reads_on_however_its_connections_end(storage, ask, restart_postgresql):
    ledger = make_ledger(storage, name="ended/int1-lora")
    for number, end in enumerate([lambda: ask(END), restart_postgresql, lambda: ask(END)]):
        complete(ledger, number, 0.5)
        end()
        assert len(ledger.study.get_trials()) == number + 1
        end()
    assert ledger.study.user_attrs


def test_the_lock_of_a_run_is_taken_again_and_a_second_run_is_refused(storage, postgresql, ask, monkeypatch, said):
    monkeypatch.setattr(server, "PULSE", 0.05)
    second = open_storage(postgresql)
    with only_run(storage, "cut"):
        for _ in range(2):
            assert ask(END_LOCKS) == 1
            wait_until(lambda: ask("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 1)
            with pytest.raises(StorageError, match="'cut' is being run"), only_run(second, "cut"):
                pass
    assert "it is locked again" in said[-1]
    wait_until(lambda: ask("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0)
    second.engine.dispose()


def test_a_run_whose_lock_is_gone_at_its_end_ends_without_an_error(storage, ask):
    with only_run(storage, "gone"):
        ask(END_LOCKS)
    with only_run(storage, "gone"):
        pass


def test_a_server_that_does_not_come_back_is_a_storage_error_that_says_what_resumes(monkeypatch):
    monkeypatch.setattr(server, "PATIENCE", 0.2)
    monkeypatch.setattr(server, "RETRY", 0.05)
    engine = sqlalchemy.create_engine("postgresql+psycopg://me@127.0.0.1:1/none")
    server.wait_for_restarts(engine)
    began = time.monotonic()
    with pytest.raises(OperationalError):
        engine.connect()
    assert time.monotonic() - began > 0.2
    with pytest.raises(StorageError, match="give the same command again"):
        open_storage("postgresql+psycopg://me@127.0.0.1:1/none")


@pytest.mark.parametrize("times", [1, 2])
def test_a_run_goes_on_from_what_is_stored_after_connections_lost_within_a_transaction(times, monkeypatch, caplog):
    lost = [DBAPIError("COMMIT", {}, Exception("terminated"), connection_invalidated=True) for _ in range(times)]
    scored = study_run.score_winners

    def losing(*arguments: object) -> None:
        if lost:
            raise lost.pop()
        scored(*arguments)

    monkeypatch.setattr(study_run, "score_winners", losing)
    write_study(trials=2)
    with caplog.at_level(logging.WARNING):
        result = invoke("run", "tiny", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("the run goes on from what is stored") == times
    opened = open_storage("sqlite:///storage/studies.db", "read")
    assert all(cell.tested for one in read_results(opened, "tiny") for cell in one.cells)
    opened.remove_session()
    opened.engine.dispose()


def test_a_run_that_loses_every_connection_ends_with_what_resumes_it(monkeypatch):
    def losing(*_: object) -> None:
        raise DBAPIError("COMMIT", {}, Exception("terminated"), connection_invalidated=True)

    monkeypatch.setattr(study_run, "score_winners", losing)
    write_study(trials=2)
    result = invoke("run", "tiny", "--device", "cpu")
    assert result.exit_code == 4
    assert "terminated; nothing in it was removed; correct this and give the same command again" in result.stderr
