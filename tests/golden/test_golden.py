"""A study, checkpoints and a baseline that version 0.1.0 wrote are read, exported and searched further."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from command import invoke
from safetensors.torch import load_file

import pipeline

WRITTEN = Path(__file__).parent / "v0_1_0"


@pytest.fixture(autouse=True)
def golden(_own_folder: None, tmp_path: Path) -> Path:
    """The files of the older version, in this test's own folder."""
    return Path(shutil.copytree(WRITTEN, tmp_path, dirs_exist_ok=True))


def said(*words: str) -> str:
    result = invoke(*words)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def cells() -> list[dict]:
    return [cell for combination in json.loads(said("status", "golden", "--json")) for cell in combination["cells"]]


def test_status_says_of_every_cell_what_it_said_then():
    then = [cell for combination in json.loads((WRITTEN / "status.json").read_text()) for cell in combination["cells"]]
    assert [{key: cell[key] for key in before} for cell, before in zip(cells(), then, strict=True)] == then


@pytest.mark.parametrize("table", ["evaluation", "epochs", "trials"])
def test_the_tables_of_a_report_hold_what_they_held_then(table, tmp_path):
    said("report", "golden", "--no-png", "--out", "page")
    with (WRITTEN / f"{table}.csv").open() as old, (tmp_path / "page" / f"{table}.csv").open() as new:
        then, now = list(csv.DictReader(old)), list(csv.DictReader(new))
    assert [{key: row[key] for key in before} for row, before in zip(now, then, strict=True)] == then


def test_checkpoints_give_the_outputs_that_they_gave_then():
    then = load_file(WRITTEN / "outputs.safetensors")
    images = then.pop("images")
    for name, outputs in then.items():
        with torch.inference_mode():
            torch.testing.assert_close(pipeline.load(f"storage/exports/golden/{name}")(images), outputs)


def test_an_export_packs_the_kept_adapters_into_the_same_tensors(tmp_path):
    said("export", "golden", "--force")
    for path in sorted((WRITTEN / "storage" / "exports").rglob("model.safetensors")):
        then, now = load_file(path), load_file(tmp_path / path.relative_to(WRITTEN))
        assert then.keys() == now.keys()
        assert all(torch.equal(then[key], now[key]) for key in then), path


def test_a_finished_study_runs_again_without_a_trial_and_with_the_kept_baseline(tmp_path):
    before = cells()
    said("run", "golden")
    assert cells() == before
    assert len(list((tmp_path / "storage" / "cache" / "baselines").iterdir())) == 1


def test_a_larger_budget_is_searched_further(tmp_path):
    file = tmp_path / "studies" / "golden.toml"
    file.write_text(file.read_text().replace("trials = 3", "trials = 4"))
    said("run", "golden")
    ranked = [cell for cell in cells() if cell["rank"]]
    assert all(cell["states"]["complete"] + cell["states"]["pruned"] == 4 for cell in ranked)
    assert all(cell["tested"] for cell in cells())
