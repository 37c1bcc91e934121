"""The verbs that need a study that has been run."""

import json
import re
from pathlib import Path

import pytest
from command import files, invoke, last_line, write_study

from pipeline.export.checkpoint import load


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A folder in which the study has been run, and what that said."""
    folder = tmp_path_factory.mktemp("ran")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("RESTORA_STORAGE", raising=False)
        write_study()
        result = invoke("run", "tiny", "--device", "cpu")
        assert result.exit_code == 0, result.output
        yield result


def test_run_writes_its_progress_to_stderr_and_a_log_file(ran):
    assert ran.stdout == ""
    assert "int1-lora: 8/8 trials (100%)" in ran.stderr
    assert "restora report tiny" in last_line(ran.stderr)
    log = Path("storage/logs/tiny.log").read_text()
    assert "baseline: epoch 2/2" in log
    assert "sparse-lora: 8/8 trials (100%)" in log
    assert "\x1b" not in ran.stderr + log, "colour off a terminal"


def test_status_lists_every_cell(ran):
    result = invoke("status", "tiny", "--json")
    assert result.exit_code == 0
    table = json.loads(result.stdout)
    assert [combination["combination"] for combination in table] == ["int1-lora", "sparse-lora"]
    for combination in table:
        assert [(cell["rank"], cell["init"]) for cell in combination["cells"]] == [
            (1, "paper"), (1, "svd"), (2, "paper"), (2, "svd"),
        ]  # fmt: skip
        for cell in combination["cells"]:
            assert (cell["budget"], cell["states"]["complete"], cell["states"]["running"]) == (2, 2, 0)
            assert 0 <= cell["best"] <= 1
            assert isinstance(cell["trial"], int)
    assert "rank 1" in invoke("status", "tiny").stdout


def test_status_of_an_unknown_study_names_the_stored_studies(ran):
    result = invoke("status", "other")
    assert result.exit_code == 5
    assert "stored: tiny" in result.stderr


def test_running_a_finished_study_again_changes_nothing(ran):
    before = json.loads(invoke("status", "tiny", "--json").stdout)
    assert invoke("run", "tiny").exit_code == 0
    assert json.loads(invoke("status", "tiny", "--json").stdout) == before


def test_export_writes_a_checkpoint_per_rank_and_prints_its_folder(ran):
    result = invoke("export", "tiny")
    assert result.exit_code == 0
    folders = [Path(line) for line in result.stdout.splitlines()]
    assert folders == [
        Path(f"storage/exports/tiny/{combination}/rank-{rank}")
        for combination in ("int1-lora", "sparse-lora")
        for rank in (1, 2)
    ]
    for folder in folders:
        load(folder)
    again = invoke("export", "tiny")
    assert again.exit_code == 2
    assert "--force" in again.stderr
    assert invoke("export", "tiny", "--force", "--combination", "int1-lora").exit_code == 0


def test_export_takes_one_trial_of_one_combination(ran):
    refused = invoke("export", "tiny", "--trial", "1")
    assert refused.exit_code == 2
    assert "int1-lora, sparse-lora" in refused.stderr
    result = invoke("export", "tiny", "--combination", "sparse-lora", "--trial", "1", "--force")
    assert result.exit_code == 0
    card = json.loads((Path(result.stdout.strip()) / "card.json").read_text())
    assert (card["trial"], card["chosen_by"]) == (1, "--trial 1")
    absent = invoke("export", "tiny", "--combination", "sparse-lora", "--trial", "99", "--force")
    assert absent.exit_code == 5
    assert invoke("export", "tiny", "--combination", "nothing").exit_code == 3


def test_report_writes_a_page_and_prints_its_path(ran):
    result = invoke("report", "tiny", "--no-png")
    assert result.exit_code == 0
    page = Path(result.stdout.strip())
    assert page == Path("storage/reports/tiny/index.html")
    assert "int1-lora" in page.read_text()
    assert not (page.parent / "png").exists()
    assert "MB that works offline; next: restora export tiny" in last_line(result.stderr)


def test_suggested_commands_name_the_database_that_was_given(ran):
    url = "sqlite:///storage/studies.db"
    reported = last_line(invoke("report", "tiny", "--no-png", "--storage", url).stderr)
    assert reported.endswith(f"next: restora export tiny --storage {url}")
    suggested = last_line(invoke("run", "tiny", "--storage", url).stderr)
    for words in ("report tiny", "export tiny", "dashboard"):
        assert f"restora {words} --storage {url}" in suggested


def test_report_lists_the_files_it_wrote_as_json_and_none_of_an_earlier_report(ran):
    folder = Path("storage/reports/tiny")
    for earlier in (folder / "png" / "accuracy_by_rank.png", folder / "ranks.csv"):
        earlier.parent.mkdir(parents=True, exist_ok=True)
        earlier.write_text("of an earlier report")
    written = json.loads(invoke("report", "tiny", "--no-png", "--json").stdout)
    assert written["page"] == str(folder / "index.html")
    assert written["tables"] == [str(folder / f"{name}.csv") for name in ("evaluation", "trials", "epochs", "layers")]
    assert written["pictures"] == []


def test_report_puts_several_studies_on_one_page_and_names_one_that_is_not_stored(ran):
    write_study("small", seed=1)
    assert invoke("run", "small", "--device", "cpu").exit_code == 0
    result = invoke("report", "tiny", "small", "studies/tiny.toml", "--no-png")
    assert result.exit_code == 0, result.output
    page = Path(result.stdout.strip())
    assert page == Path("storage/reports/tiny+small/index.html")
    assert {"tiny/int1-lora", "small/int1-lora"} <= set(re.findall(r"(?:tiny|small)/int1-lora", page.read_text()))
    missing = invoke("report", "tiny", "none", "--no-png")
    assert missing.exit_code == 5
    assert "no study 'none' is stored; stored: small, tiny" in missing.stderr


def test_clean_lists_what_it_removes_and_keeps_trials_winners_and_exports(ran):
    stray = Path("storage/artifacts/tiny/int1-lora/rank-64.svd.safetensors")
    stray.write_bytes(b"of a rank that is no more")
    before = files()
    said = invoke("clean", "--dry-run").stdout.splitlines()
    assert files() == before
    assert str(stray) in said
    assert invoke("clean").stdout.splitlines() == said
    assert before - files() == set(said)
    assert all("baselines" in path or "checked" in path or path == str(stray) for path in said)
    assert invoke("run", "tiny").exit_code == 0


def test_report_export_and_clean_print_json(ran):
    report = json.loads(invoke("report", "tiny", "--json").stdout)
    assert Path(report["page"]).is_file()
    tables = ["evaluation.csv", "trials.csv", "epochs.csv", "layers.csv"]
    assert [Path(table).name for table in report["tables"]] == tables
    assert {row["combination"] for row in report["layers"]} == {"int1-lora", "sparse-lora"}
    assert all(0 < row["error_before"] < 1 and row["bits_a_weight"] < 32 for row in report["layers"])
    exported = json.loads(invoke("export", "tiny", "--force", "--json").stdout)
    assert [checkpoint["combination"] for checkpoint in exported] == ["int1-lora"] * 2 + ["sparse-lora"] * 2
    for checkpoint in exported:
        for name, size in checkpoint["files"].items():
            assert (Path(checkpoint["folder"]) / name).stat().st_size == size
    stray = Path("storage/artifacts/tiny/int1-lora/rank-64.svd.safetensors")
    stray.write_bytes(b"of a rank that is no more")
    cleaned = json.loads(invoke("clean", "--dry-run", "--json").stdout)
    assert cleaned["dry_run"]
    assert {"path": str(stray), "bytes": 25} in cleaned["removed"]
    assert cleaned["bytes"] == sum(file["bytes"] for file in cleaned["removed"])
    assert stray.exists()
    stray.unlink()


def test_watching_a_finished_study_ends_at_once(ran):
    words = invoke("status", "tiny", "--watch")
    assert words.exit_code == 0
    assert words.stdout.splitlines()[0].startswith("int1-lora: 8/8 trials (100%)")
    (line,) = invoke("status", "tiny", "--watch", "--json").stdout.splitlines()
    table = json.loads(line)
    assert (table["finished"], table["running"], table["trials"]) == (True, False, 16)
    assert table["combinations"] == [
        {**combination, "cells": [{**cell, "reasons": {}} for cell in combination["cells"]]}
        for combination in json.loads(invoke("status", "tiny", "--json").stdout)
    ]
