import json
from pathlib import Path

import pytest
from command import invoke, write_study


def watch(layers, **changes):
    path = write_study(**changes)
    path.write_text(f"{path.read_text()}\n[spectra]\nlayers = {json.dumps(layers)}\n")


def test_a_study_records_the_spectra_that_it_asks_for_once_and_its_report_shows_them():
    watch(["fc*"], epochs=2)
    first = invoke("run", "tiny", "--device", "cpu")
    assert first.exit_code == 0, first.output
    (baseline,) = Path("storage/spectra").glob("*.json")
    courses = json.loads(baseline.read_text())["courses"]
    assert {(course["matrix"], course["layer"]) for course in courses} == {("W", "fc1"), ("W", "fc2")}
    assert {len(course["effective_rank"]) for course in courses} == {3}, "the start and two epochs"
    winners = sorted(Path("storage/artifacts/tiny").rglob("*.spectra.json"))
    assert len(winners) == 8
    page = Path(invoke("report", "tiny", "--no-png").stdout.strip()).read_text()
    assert 'id="spectra"' in page
    assert "Not recorded" not in page

    before = [(path, path.stat().st_mtime_ns) for path in (baseline, *winners)]
    again = invoke("run", "tiny", "--device", "cpu")
    assert "spectra" not in again.stderr
    assert invoke("clean").exit_code == 0
    assert [(path, path.stat().st_mtime_ns) for path, _ in before] == before


def test_spectra_may_be_asked_for_after_a_study_was_run_and_do_not_change_what_it_searched():
    write_study()
    assert invoke("run", "tiny", "--device", "cpu").exit_code == 0
    trials = invoke("status", "tiny", "--json").stdout
    watch(["fc1"])
    later = invoke("run", "tiny", "--device", "cpu")
    assert later.exit_code == 0, later.output
    assert "not all spectra are recorded" in later.stderr
    assert later.stderr.count("is trained again, for its spectra") == 8
    assert invoke("status", "tiny", "--json").stdout == trials
    assert "Not recorded: the baseline" in Path(invoke("report", "tiny", "--no-png").stdout.strip()).read_text()

    assert invoke("clean").exit_code == 0
    assert "not all spectra" not in invoke("run", "tiny", "--device", "cpu").stderr
    assert "Not recorded" not in Path(invoke("report", "tiny", "--no-png").stdout.strip()).read_text()


@pytest.mark.parametrize("verb", ["check", "run"])
def test_a_layer_that_is_not_there_is_refused_before_anything_is_trained(verb):
    watch(["fc9"])
    refused = invoke(verb, "tiny")
    assert refused.exit_code == 3
    assert "spectra.layers: 'fc9' matches no layer" in refused.output
    assert "epoch 1" not in refused.output
