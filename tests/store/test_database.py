import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from bare_studies import complete, make_ledger
from postgresql_server import SECRET
from tiny_studies import asks, by_cell, make_objective, make_spec, outcomes, search, stored_study

from pipeline.config.study_file import pinned
from pipeline.errors import NothingUsableError, SpecError, StorageError
from pipeline.results.reading import read_results
from pipeline.store.database import only_run, open_storage, without_password
from pipeline.store.stored_study import METRIC, create_or_resume

REPOSITORY = Path(__file__).parents[2]


def test_a_study_is_stored_under_its_name_and_says_what_it_maximises(storage):
    study = stored_study(storage, make_spec(), make_objective())
    assert study.study_name == "tiny/int1-lora"
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert study.metric_names == [METRIC]


def test_what_may_grow_or_move_does_not_make_a_study_another(storage):
    stored_study(storage, make_spec(), make_objective())
    grown = make_spec(trials=9).model_copy(update={"seeds": 3})
    resumed = stored_study(storage, grown, make_objective(grown))
    assert resumed.user_attrs["budget"] == 9
    assert len(optuna.get_all_study_names(storage)) == 1


def test_a_study_that_would_go_on_with_other_layers_than_it_began_with_is_refused(storage):
    stored_study(storage, make_spec(), make_objective()).set_user_attr("targets", 1)
    with pytest.raises(SpecError, match="began with 1 target layers and now has 2"):
        stored_study(storage, make_spec(), make_objective())


def test_a_url_without_its_password_keeps_the_rest():
    url = f"postgresql+psycopg://me:{SECRET}@db.example:5432/studies"
    assert without_password(url) == "postgresql+psycopg://me:***@db.example:5432/studies"


def test_a_url_that_is_none_is_refused_without_being_repeated():
    with pytest.raises(StorageError, match=r"give e\.g\. sqlite:///") as refused:
        open_storage(f"me:{SECRET}@host")
    assert SECRET not in str(refused.value)


def test_readers_do_not_wait_for_a_writer(storage, tmp_path: Path):
    import sqlite3

    stored_study(storage, make_spec(), make_objective())
    writer = sqlite3.connect(tmp_path / "studies.db")
    writer.execute("BEGIN IMMEDIATE")
    try:
        assert read_results(storage, "tiny")[0].name == "int1-lora"
    finally:
        writer.rollback()
        writer.close()


def test_an_unknown_study_is_answered_with_those_that_are_stored(storage):
    search(storage, make_spec(trials=4, ranks=[2], inits=["svd"]))
    with pytest.raises(NothingUsableError, match="no study 'other' is stored; stored: tiny"):
        read_results(storage, "other")


def test_a_study_of_someone_elses_in_the_same_database_is_left_only_run(storage):
    from pipeline.run.cleanup import unneeded

    search(storage, make_spec(trials=4, ranks=[2], inits=["svd"]))
    optuna.create_study(storage=storage, study_name="foreign")
    optuna.create_study(storage=storage, study_name="tiny/foreign")
    assert [result.name for result in read_results(storage, "tiny")] == ["int1-lora"]
    assert unneeded(storage) == []


def test_a_study_on_postgresql_comes_to_what_it_comes_to_on_sqlite(postgresql, storage):
    server = open_storage(postgresql)
    try:
        study = search(server, make_spec(trials=4))
        assert {len(trials) for trials in by_cell(study.trials).values()} == {4}
        again = search(server, make_spec(trials=5))
        assert {len(trials) for trials in by_cell(again.trials).values()} == {5}
        search(storage, make_spec(trials=4))
        local = search(storage, make_spec(trials=5))
        assert (asks(again), outcomes(again)) == (asks(local), outcomes(local))
        assert read_results(server, "tiny")[0].best_of_ranks().keys() == {1, 2}
        with pytest.raises(SpecError, match="seed: stored 0, now 1"):
            search(server, make_spec(seed=1))
        assert SECRET not in str([study.user_attrs for study in optuna.get_all_study_summaries(server)])
    finally:
        server.remove_session()
        server.engine.dispose()


def test_a_study_is_run_once_at_a_time_on_a_server(postgresql):
    first, second = open_storage(postgresql), open_storage(postgresql)
    try:
        with only_run(first, "tiny"):
            with only_run(second, "other"):
                pass
            with pytest.raises(StorageError, match="'tiny' is being run"), only_run(second, "tiny"):
                pass
        with only_run(second, "tiny"):
            pass
    finally:
        for server in (first, second):
            server.remove_session()
            server.engine.dispose()


def test_a_study_is_run_once_at_a_time_on_one_file_whatever_the_folder(storage, tmp_path, monkeypatch):
    with only_run(storage, "tiny"):
        monkeypatch.chdir(tmp_path)
        with (
            pytest.raises(StorageError, match=f"'tiny' is being run by process {os.getpid()}"),
            only_run(storage, "tiny"),
        ):
            pass


def test_a_symbolic_link_to_the_file_lets_no_second_run_in(storage, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "link.db").symlink_to(tmp_path / "studies.db")
    linked = open_storage(f"sqlite:///{tmp_path / 'other' / 'link.db'}")
    with only_run(storage, "tiny"), pytest.raises(StorageError, match="'tiny' is being run"), only_run(linked, "tiny"):
        pass
    linked.remove_session()
    linked.engine.dispose()


def test_a_run_on_a_server_whose_lock_was_cut_stops_once_another_run_was_let_in(postgresql, monkeypatch):
    monkeypatch.setattr("pipeline.store.server.PULSE", 60)  # so that it is not taken again first
    first, second = open_storage(postgresql), open_storage(postgresql)
    cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory'"
    try:
        with only_run(first, "cut"):
            ledger = make_ledger(first, name="cut/int1-lora")
            complete(ledger, 0, 0.5)
            with second.engine.begin() as connection:
                assert connection.exec_driver_sql(cut).scalar() == 1
            complete(ledger, 1, 0.6)  # nobody else runs it, so it goes on
            with only_run(second, "cut"):
                other = make_ledger(second, name="cut/int1-lora")
                with pytest.raises(StorageError, match="another run of this study has taken over"):
                    complete(ledger, 2, 0.7)
                complete(other, 2, 0.8)
        assert [trial.value for trial in other.study.trials] == [0.5, 0.6, 0.8]
    finally:
        for server in (first, second):
            server.remove_session()
            server.engine.dispose()


def test_processes_that_open_one_empty_server_database_at_once_all_succeed(postgresql):
    engine = sqlalchemy.create_engine(postgresql, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE empty")
    engine.dispose()
    code = "import sys; from pipeline.store.database import open_storage; open_storage(sys.argv[1])"
    url = postgresql.replace("/postgres", "/empty")
    opening = [subprocess.Popen([sys.executable, "-c", code, url], cwd=REPOSITORY) for _ in range(4)]
    assert [process.wait(60) for process in opening] == [0] * 4


def test_a_server_that_refuses_is_named_without_the_password(postgresql):
    wrong = postgresql.replace(SECRET, "wrong-" + SECRET)
    with pytest.raises(StorageError, match=r"127\.0\.0\.1") as refused:
        open_storage(wrong)
    assert SECRET not in str(refused.value)


def test_a_study_of_a_version_that_knew_fewer_options_goes_on_and_one_with_other_values_does_not(storage):
    spec = make_spec()
    old = pinned(spec, spec.combination[0])
    del old["compute"]
    del old["search"]["warmup"]
    now = pinned(spec, spec.combination[0])
    study = create_or_resume(storage, "tiny/int1-lora", now, {}, {"budget": 6})
    study.set_user_attr("pinned", old)
    assert create_or_resume(storage, "tiny/int1-lora", now, {}, {"budget": 6}).user_attrs["pinned"] == now
    study.set_user_attr("pinned", old)
    warmed = make_spec(warmup=1.0)
    with pytest.raises(SpecError, match=r"warmup: stored 0.0, now 1.0"):
        create_or_resume(storage, "tiny/int1-lora", pinned(warmed, warmed.combination[0]), {}, {"budget": 6})


def test_a_password_in_the_query_of_a_url_is_hidden_too():
    url = f"postgresql+psycopg://db.example/studies?user=me&password={SECRET}"
    assert without_password(url) == "postgresql+psycopg://db.example/studies?password=hidden&user=me"


def test_a_file_that_is_opened_twice_in_one_process_keeps_its_log_while_others_read(tmp_path):
    """Closing a second descriptor of the file would drop SQLite's locks, and a reader would remove the log."""
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    first = open_storage(url)
    study = optuna.create_study(storage=first, study_name="one")
    study.set_user_attr("before", 1)
    second = open_storage(url)
    read = f"import sqlite3; print(sqlite3.connect({str(tmp_path / 'studies.db')!r}).execute("
    read += "'select key from study_user_attributes order by key').fetchall())"
    subprocess.run([sys.executable, "-c", read], check=True, capture_output=True)
    assert (tmp_path / "studies.db-wal").exists()
    study.set_user_attr("later", 2)
    found = subprocess.run([sys.executable, "-c", read], check=True, capture_output=True, text=True).stdout
    assert found == "[('before',), ('later',)]\n"
    for storage in (first, second):
        storage.remove_session()
        storage.engine.dispose()
