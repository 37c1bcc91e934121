import json

import pytest
import sqlalchemy
from optuna_dashboard import get_note, save_note
from stored import STUDY, SUMMARY, Dashboard, begin, finish, load

from pipeline.dashboard.feed import Feed
from pipeline.dashboard.note import LINE
from pipeline.dashboard.study_board import write_board


@pytest.fixture
def feed(storage):
    return Feed(storage, SUMMARY)


def test_a_shorter_picture_leaves_nothing_of_the_longer_one(storage):
    study = begin(storage).study
    for size in (9000, 100):
        write_board(storage, study._study_id, "note", {"mine": json.dumps(["x" * size])})
    assert Dashboard(storage).pictures(STUDY) == {"mine": ["x" * 100]}


def test_nothing_is_written_and_no_version_is_counted_where_nothing_is_new(storage, feed):
    finish(storage)
    feed.reached("ended")
    version = Dashboard(storage).detail(STUDY)["note"]["version"]
    written = []
    listen = (storage.engine, "before_cursor_execute", lambda *event: written.append(event[2]))
    sqlalchemy.event.listen(*listen)
    feed.reached("ended")
    sqlalchemy.event.remove(*listen)
    assert not [text for text in written if text.startswith(("INSERT", "UPDATE", "DELETE"))]
    assert Dashboard(storage).detail(STUDY)["note"]["version"] == version


def test_what_someone_writes_into_a_note_by_the_dashboard_survives_updates(storage, feed):
    stored = begin(storage)
    feed.reached("begun")
    dashboard = Dashboard(storage)
    words = "\n\n# Mine\n" + "long words " * 400
    assert dashboard.write_note(STUDY, dashboard.detail(STUDY)["note"]["body"] + words).startswith("204")
    stored.trial(2, "svd", 0.8)
    feed.reached("searched")
    note = get_note(load(storage, STUDY))
    assert "80.00" in note
    assert note.endswith(LINE + words)
    assert Dashboard(storage).write_note(STUDY, note + "!").startswith("204"), "its page may go on writing"


def test_a_note_that_someone_had_written_before_is_kept_below(storage, feed):
    save_note(begin(storage).study, "my note")
    feed.reached("begun")
    assert get_note(load(storage, STUDY)).endswith(f"{LINE}\n\nmy note")


def test_someone_who_writes_at_the_same_moment_is_not_overwritten(storage):
    study = begin(storage).study
    write_board(storage, study._study_id, "first", {})

    meanwhile = [f"{LINE} theirs"]

    def write_once(*event):
        if meanwhile and event[2].startswith("SELECT study_system_attributes."):
            save_note(study, meanwhile.pop())

    listen = (storage.engine, "after_cursor_execute", write_once)
    sqlalchemy.event.listen(*listen)
    write_board(storage, study._study_id, "second", {})
    sqlalchemy.event.remove(*listen)
    assert meanwhile == []
    assert get_note(load(storage, STUDY)) == f"second\n\n---\n{LINE} theirs"


def test_a_note_that_lacks_a_piece_is_written_anew(storage, feed, said):
    stored = finish(storage)
    storage.set_study_system_attr(stored.study._study_id, "dashboard:note_str:5", "a piece of a longer note")
    feed.reached("ended")
    assert said == []
    assert get_note(load(storage, STUDY)).startswith("**int1-lora** of study **digits**")
