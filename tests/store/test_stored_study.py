import sqlite3
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from bare_studies import complete, make_ledger
from tiny_studies import make_objective, make_spec, search, stored_study

from pipeline.errors import NothingUsableError, StorageError
from pipeline.results.reading import read_results
from pipeline.results.study_state import read_status
from pipeline.run.cleanup import unneeded
from pipeline.store.stored_study import REQUIRED, create_or_resume, note_file


def change_second_study(storage, statement, *values):
    with storage.engine.begin() as connection:
        connection.exec_driver_sql(f"{statement} AND study_id = 2", values)


def test_a_study_is_created_in_one_transaction_so_that_no_kill_leaves_a_part_of_it(storage, tmp_path):
    seen = set()

    def look(_connection):
        reader = sqlite3.connect(tmp_path / "studies.db")
        studies = reader.execute("SELECT study_name FROM studies").fetchall()
        keys = {key for (key,) in reader.execute("SELECT key FROM study_user_attributes")}
        reader.close()
        seen.add((len(studies), keys >= {*REQUIRED, "budget", "last"}))

    sqlalchemy.event.listen(storage.engine, "commit", look)
    create_or_resume(storage, "tiny/int1-lora", {"seed": 0}, {}, {"budget": 4, "last": "fact"})
    assert seen <= {(0, False), (1, True)}


def test_a_run_whose_study_another_run_took_over_writes_nothing_more(storage, open_database):
    ledger = make_ledger(storage)
    complete(ledger, 0, 0.5)
    other = make_ledger(open_database())  # a second connection to the same file
    complete(other, 1, 0.6)
    for write in (
        lambda: complete(ledger, 1, 0.7),
        lambda: ledger.study.set_user_attr("run", {}),
        lambda: note_file(ledger.study, 0, "adapter", Path("a.safetensors"), "0" * 64),
    ):
        with pytest.raises(StorageError, match="another run of this study has taken over"):
            write()
    complete(other, 2, 0.8)
    assert [trial.value for trial in other.study.trials] == [0.5, 0.6, 0.8]
    assert "run" not in other.study.user_attrs


def test_export_may_note_its_files_while_a_run_goes_on(storage, open_database):
    ledger = make_ledger(storage)
    complete(ledger, 0, 0.5)
    exported = optuna.load_study(study_name=ledger.study.study_name, storage=open_database())
    note_file(exported, 0, "checkpoint", Path("model.safetensors"), "0" * 64)
    complete(ledger, 1, 0.6)
    assert ledger.study.trials[0].user_attrs["checkpoint"] == "model.safetensors"


@pytest.mark.parametrize("kept", ["''", "'pinned'", "'pinned', 'hashes', 'id'"])
def test_a_study_that_a_killed_run_left_incomplete_is_left_out_until_the_next_run_completes_it(storage, kept):
    """Version 0.1 committed the attributes of a new study one at a time."""
    search(storage, make_spec(name="other", trials=4, ranks=[2], inits=["svd"]))
    stored_study(storage, make_spec(), make_objective())
    change_second_study(storage, f"DELETE FROM study_user_attributes WHERE key NOT IN ({kept})")
    with pytest.raises(NothingUsableError, match="no study 'tiny' is stored; stored: other"):
        read_results(storage, "tiny")
    assert read_status(str(storage.engine.url), "tiny", with_reasons=False) is None
    assert [result.of for result in read_results(storage, "other")] == ["other"]
    assert unneeded(storage) == []
    changed = make_spec(ranks=[2], epochs=2)  # nothing was searched yet, so the study file may change
    assert search(storage, changed).user_attrs["budget"] == 6
    assert [result.of for result in read_results(storage, "tiny", "other")] == ["tiny", "other"]


@pytest.mark.parametrize(
    ("key", "text"), [("pinned", "{"), ("pinned", "7"), ("pinned", '"text"'), ("baseline", '{"val": 7}')]
)
def test_a_damaged_study_is_left_out_with_one_line_and_the_others_are_read(storage, key, text, caplog):
    search(storage, make_spec(name="other", trials=4, ranks=[2], inits=["svd"]))
    stored_study(storage, make_spec(), make_objective())
    change_second_study(storage, "UPDATE study_user_attributes SET value_json = ? WHERE key = ?", text, key)
    with pytest.raises(NothingUsableError, match="no study 'tiny' is stored"):
        read_results(storage, "tiny")
    read_status(str(storage.engine.url), "tiny", with_reasons=False)
    assert [result.of for result in read_results(storage, "other")] == ["other"]
    assert unneeded(storage) == []
    assert len([line for line in caplog.messages if "study 'tiny/int1-lora' is damaged" in line]) <= 1
