import json
import re

import pytest
from pydantic import ValidationError

from pipeline.errors import IntegrityError
from pipeline.results.spectra_file import Course, Spectra, read_spectra, write_spectra
from pipeline.store.stored_study import trial_key

SPECTRA = Spectra(
    of=trial_key("id", 3),
    values=2,
    courses=(Course(matrix="W", layer="fc", shares=((0.6, 0.4), (1.0, 0.0)), effective_rank=(1.96, 1.0)),),
)


def test_what_is_written_is_read_back(tmp_path):
    write_spectra(tmp_path / "deep" / "spectra.json", SPECTRA)
    assert read_spectra(tmp_path / "deep" / "spectra.json", "id/3") == SPECTRA
    assert read_spectra(tmp_path / "deep" / "spectra.json", "id/4") is None
    assert read_spectra(tmp_path / "none.json", "id/3") is None


@pytest.mark.parametrize("damage", ["truncated", "empty", "no JSON", "unequal epochs", "not finite", "unknown key"])
def test_a_damaged_file_is_an_error_that_names_it(damage, tmp_path):
    path = tmp_path / "spectra.json"
    write_spectra(path, SPECTRA)
    whole = path.read_text()
    table = json.loads(whole)
    course = table["courses"][0]
    if damage == "unequal epochs":
        course["effective_rank"].append(1.0)
    elif damage == "not finite":
        course["effective_rank"][0] = float("nan")
    elif damage == "unknown key":
        table["epochs"] = 2
    texts = {"truncated": whole[: len(whole) // 2], "empty": "", "no JSON": "\x00\xff" + whole}
    path.write_text(texts.get(damage, json.dumps(table)))
    with pytest.raises(IntegrityError, match=re.escape(f"spectra {path} are damaged (")):
        read_spectra(path, "id/3")


def test_a_record_covers_no_more_layers_and_values_than_it_holds():
    assert SPECTRA.covers(["fc"], 2)
    assert not SPECTRA.covers(["fc", "head"], 2)
    assert not SPECTRA.covers(["fc"], 3)


def test_a_course_has_at_least_its_start():
    with pytest.raises(ValidationError, match="0 epochs"):
        Course(matrix="W", layer="fc", shares=(), effective_rank=())
