import json
import shutil
from pathlib import Path

import pytest
from command import invoke, write_study

from pipeline.paths import BASELINES, CHECKED
from pipeline.run import readiness_steps

TESTED = Path("images/test/red/000.png")


def completed() -> int:
    table = json.loads(invoke("status", "tiny", "--json").stdout)
    return sum(cell["states"]["complete"] for combination in table for cell in combination["cells"])


@pytest.fixture
def small_study() -> None:
    write_study()


@pytest.mark.usefixtures("small_study")
def test_fault_16_a_damaged_test_image_stops_a_run_before_its_baseline_and_mending_it_starts_the_study():
    whole = TESTED.read_bytes()
    TESTED.write_bytes(whole[:60])
    refused = invoke("run", "tiny")
    assert (refused.exit_code, str(TESTED) in refused.stderr) == (6, True)
    assert not BASELINES.exists()
    assert invoke("status", "tiny").exit_code == 5
    TESTED.write_bytes(whole)
    assert invoke("run", "tiny").exit_code == 0
    assert completed() == 16


@pytest.mark.usefixtures("small_study")
def test_fault_17_an_image_in_train_and_test_stops_a_run():
    shutil.copy("images/train/red/004.png", TESTED)
    refused = invoke("run", "tiny")
    assert refused.exit_code == 6
    assert "no image in train and test: 1 found" in refused.stderr


@pytest.mark.usefixtures("small_study")
def test_a_study_that_has_begun_with_bad_data_goes_on_and_says_so(monkeypatch):
    shutil.copy("images/train/red/004.png", TESTED)
    with monkeypatch.context() as patched:  # as versions without this check did
        patched.setattr(readiness_steps, "refuse_bad_data", lambda *_, **__: None)
        assert invoke("run", "tiny").exit_code == 0
    again = invoke("run", "tiny")
    assert again.exit_code == 0
    assert "no image in train and test: 1 found" in again.stderr


@pytest.mark.usefixtures("small_study")
def test_a_second_run_does_not_check_the_images_again_until_clean_removes_the_record():
    said = "every image is decoded once"
    assert [said in invoke("run", "tiny").stderr for _ in range(2)] == [True, False]
    (record,) = CHECKED.iterdir()
    assert str(record) in invoke("clean").stdout
    assert not record.exists()
