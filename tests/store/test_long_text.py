import json

from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.stored_study import in_chunks, joined


@given(st.builds(lambda text, times: text * times, st.text(min_size=1, max_size=20), st.integers(0, 600)))
def test_a_text_comes_back_from_its_pieces_and_none_is_over_2_kb(text):
    pieces = in_chunks("file", text)
    assert joined(pieces, "file") == text
    assert all(len(json.dumps(piece)) <= 2000 for piece in pieces.values())


def test_pieces_of_a_longer_text_before_it_are_not_read():
    before, now = in_chunks("file", "x" * 5000), in_chunks("file", "short")
    assert joined(before | now, "file") == "short"


def test_a_study_without_the_text_has_none():
    assert joined({}, "file") is None
