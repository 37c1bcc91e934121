import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import VERBS, app, files, invoke, write_study
from typer.testing import CliRunner

from pipeline.cli.app import next_command, print_json
from pipeline.config.registry import REGISTRIES
from pipeline.config.study_file import load_spec
from pipeline.export.checkpoint import load
from pipeline.task.data_check import refuse_bad_data
from pipeline.task.prepare import prepare


@pytest.fixture
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


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


def last_line(text):
    return text.strip().splitlines()[-1]


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_has_an_example(verb):
    result = invoke(verb, "--help")
    assert result.exit_code == 0
    assert f"Example: restora {verb}" in re.sub(r"\s+", " ", result.stdout)


def test_help_needs_no_torch():
    code = f"""
import sys
from typer.testing import CliRunner
from pipeline.cli import app
for verb in {VERBS!r}:
    assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0
print([name for name in ("torch", "optuna", "timm", "sqlalchemy") if name in sys.modules])
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert process.stdout == "[]\n"


def test_no_verb_and_an_unknown_one_are_usage(monkeypatch):
    assert invoke().exit_code == 2
    assert invoke("sing").exit_code == 2
    assert invoke("run", "tiny", "--cohort", "0").exit_code == 2


@pytest.mark.usefixtures("_empty_folder")
def test_ls_lists_all_that_a_study_file_can_name():
    write_study()
    Path("studies/broken.toml").write_text("name = ")
    result = invoke("ls", "--json")
    table = json.loads(result.stdout)
    assert list(table) == [*REGISTRIES, "studies"]
    assert {"tpe", "random"} == {entry["name"] for entry in table["samplers"]}
    assert {"adam", "sgd"} <= {entry["name"] for entry in table["optimizers"]}
    for entries in table.values():
        assert all(entry["name"] and entry["summary"] for entry in entries)
    assert {"timm", "torchvision", "mlp"} <= {entry["name"] for entry in table["models"]}
    assert {"int1", "sparse"} <= {entry["name"] for entry in table["compressions"]}
    studies = {entry["name"]: entry["summary"] for entry in table["studies"]}
    assert studies["tiny"] == "Colours: which small network tells three of them apart?"
    assert "not valid TOML" in studies["broken"]
    assert "int1" in invoke("ls").stdout


@pytest.mark.usefixtures("_empty_folder")
def test_new_writes_a_study_file_that_is_valid_and_commented():
    result = invoke("new", "mine")
    assert (result.exit_code, result.stdout) == (0, "studies/mine.toml\n")
    assert "restora check mine" in result.stderr
    assert load_spec(Path("studies/mine.toml")).name == "mine"
    assert Path("studies/mine.toml").read_text().count("#") > 10


@pytest.mark.usefixtures("_empty_folder")
def test_the_choices_that_new_writes_as_comments_hold_as_well():
    invoke("new", "mine")
    path = Path("studies/mine.toml")
    chosen = re.sub(r"^(hub|targets) = .*\n", "", path.read_text(), flags=re.MULTILINE)
    # Answers of the model and a baseline trained on labels exclude each other.
    chosen = re.sub(r"^# \[task.baseline\]\n(# .*\n)+", "", chosen, flags=re.MULTILINE)
    path.write_text(re.sub(r"^# (?=\[|\w+ = )", "", chosen, flags=re.MULTILINE))
    spec = load_spec(path)
    assert spec.task.metric.name == "agreement"
    assert spec.search.allocation is not None
    assert spec.spectra is not None
    assert [str(each) for each in spec.combination[0].targets] == ["all", "head", "layer4.*"]


@pytest.mark.usefixtures("_empty_folder")
def test_check_ticks_what_is_sound_and_names_an_image_that_is_not():
    write_study()
    result = invoke("check", "tiny")
    assert result.exit_code == 0
    assert set(re.findall(r"^(\S+)", result.stdout, re.MULTILINE)) == {"ok"}
    assert "next: restora plan tiny" in result.stderr
    broken = Path("images/train/red/003.png")
    broken.write_bytes(broken.read_bytes()[:40])
    result = invoke("check", "tiny")
    assert result.exit_code == 6
    assert re.search(r"FAIL +every image decodes.*\n.*images/train/red/003\.png", result.stdout)
    assert "every image decodes" in last_line(result.stderr)
    ticks = json.loads(invoke("check", "tiny", "--json").stdout)
    assert [tick["what"] for tick in ticks if not tick["ok"]] == ["every image decodes"]


@pytest.mark.usefixtures("_empty_folder")
@pytest.mark.parametrize("verb", ["check", "plan", "run"])
def test_a_study_file_that_is_not_valid_is_refused_with_all_its_errors(verb):
    path = write_study()
    text = path.read_text().replace("ranks = [1, 2]", "ranks = [0]").replace('"int1"', '"imt1"')
    path.write_text(text.replace("epochs = 1\n", "epochs = 1\nepocs = 3\n"))
    before = files()
    result = invoke(verb, "tiny")
    assert result.exit_code == 3
    assert "3 errors" in result.stderr
    for said in ("search.ranks", "did you mean 'int1'", "search.epocs"):
        assert said in result.stderr
    assert result.stdout == ""
    assert files() == before


@pytest.mark.usefixtures("_empty_folder")
def test_a_study_file_that_is_not_there_is_said_with_how_to_write_one():
    result = invoke("run", "nowhere")
    assert result.exit_code == 3
    assert "restora new" in result.stderr


@pytest.mark.usefixtures("_empty_folder")
def test_plan_changes_nothing_and_has_sizes_before_anything_is_trained():
    write_study()
    before = files()
    result = invoke("plan", "tiny", "--json")
    assert result.exit_code == 0
    table = json.loads(result.stdout)
    assert (table["trials"], table["trained_baseline"]) == (16, False)
    for combination in table["combinations"]:
        assert [rank["rank"] for rank in combination["ranks"]] == [1, 2]
        assert all(rank["bytes"] > 0 and rank["trainable"] > 0 and rank["tensors"] for rank in combination["ranks"])
    assert {"memory_bytes", "disk_bytes", "seconds"} <= set(table)
    words = invoke("plan", "tiny")
    assert "int1-lora" in words.stdout
    assert "next: restora run tiny" in words.stderr
    assert files() == before


@pytest.mark.usefixtures("_empty_folder")
def test_plan_scores_every_cell_before_any_training_the_best_first():
    write_study()
    result = invoke("plan", "tiny", "--score", "--json")
    assert result.exit_code == 0
    assert "scoring: each cell is evaluated on up to" in result.stderr
    table = json.loads(result.stdout)
    assert table["trained_baseline"]
    for combination in table["combinations"]:
        scores = combination["scores"]
        assert sorted((cell["rank"], cell["init"]) for cell in scores["cells"]) == [
            (1, "paper"), (1, "svd"), (2, "paper"), (2, "svd"),
        ]  # fmt: skip
        order = [(-cell["accuracy"], cell["output_error"]) for cell in scores["cells"]]
        assert order == sorted(order)
        assert scores["images"] == table["parts"]["val"]
        assert scores["seconds"] >= 0
    words = invoke("plan", "tiny", "--score").stdout
    assert words.count("output error") == 2
    assert not Path("storage/studies.db").exists()
    assert json.loads(invoke("plan", "tiny", "--json").stdout)["combinations"][0]["scores"] is None


@pytest.mark.usefixtures("_empty_folder")
def test_plan_shows_the_rank_of_each_layer_of_a_budget():
    path = write_study()
    text = path.read_text().replace("ranks = [1, 2]", 'ranks = [60, 1700]\nallocation = { by = "gain" }')
    path.write_text(text.replace('compression = "int1"', 'compression = "none"').replace('targets = ["fc1"]\n', ""))
    result = invoke("plan", "tiny", "--json")
    assert result.exit_code == 0, result.stderr
    dense, sparse = json.loads(result.stdout)["combinations"]
    assert dense["allocation"] == {"by": "gain", "unit": "bytes", "spectra": "weight"}
    assert sparse["allocation"]["spectra"] == "residual"
    for plan in dense["ranks"]:
        taken = plan["spread"]
        bytes_taken = 4 * (taken["fc1"] * (192 + 8) + taken["fc2"] * (8 + 3))
        assert 0 < bytes_taken <= plan["rank"]
    words = re.sub(r"\s+", " ", invoke("plan", "tiny").stdout)
    assert "spread over layers by gain; compression loses nothing, so by the weights' own spectra" in words
    assert "no adapter: fc1" in words
    assert "the untrained model" in words


def test_run_says_where_it_stands_on_stderr_and_in_a_log_file(ran):
    assert ran.stdout == ""
    assert "int1-lora: 8/8 trials (100%)" in ran.stderr
    assert "restora report tiny" in last_line(ran.stderr)
    log = Path("storage/logs/tiny.log").read_text()
    assert "baseline: epoch 2/2" in log
    assert "sparse-lora: 8/8 trials (100%)" in log
    assert "\x1b" not in ran.stderr + log, "colour off a terminal"


def test_status_knows_each_cell(ran):
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


def test_status_of_a_study_that_is_not_stored_says_which_are(ran):
    result = invoke("status", "other")
    assert result.exit_code == 5
    assert "stored: tiny" in result.stderr


def test_running_again_adds_nothing(ran):
    before = json.loads(invoke("status", "tiny", "--json").stdout)
    assert invoke("run", "tiny").exit_code == 0
    assert json.loads(invoke("status", "tiny", "--json").stdout) == before


def test_export_writes_a_checkpoint_a_rank_and_prints_where(ran):
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


def test_report_writes_its_page_and_prints_where(ran):
    result = invoke("report", "tiny", "--no-png")
    assert result.exit_code == 0
    page = Path(result.stdout.strip())
    assert page == Path("storage/reports/tiny/index.html")
    assert "int1-lora" in page.read_text()
    assert not (page.parent / "png").exists()
    assert "MB that works offline; next: restora export tiny" in last_line(result.stderr)


def test_the_commands_that_a_verb_suggests_name_the_database_that_was_given(ran):
    url = "sqlite:///storage/studies.db"
    reported = last_line(invoke("report", "tiny", "--no-png", "--storage", url).stderr)
    assert reported.endswith(f"next: restora export tiny --storage {url}")
    suggested = last_line(invoke("run", "tiny", "--storage", url).stderr)
    for words in ("report tiny", "export tiny", "dashboard"):
        assert f"restora {words} --storage {url}" in suggested


def test_a_suggested_command_hides_the_password_of_the_database():
    assert "secret" not in next_command("run", "tiny", "postgresql://me:secret@localhost/studies")


def test_report_lists_as_json_the_files_that_it_wrote_and_none_of_an_earlier_report(ran):
    folder = Path("storage/reports/tiny")
    for earlier in (folder / "png" / "accuracy_by_rank.png", folder / "layers.csv"):
        earlier.parent.mkdir(parents=True, exist_ok=True)
        earlier.write_text("of an earlier report")
    written = json.loads(invoke("report", "tiny", "--no-png", "--json").stdout)
    assert written["page"] == str(folder / "index.html")
    assert written["tables"] == [str(folder / f"{name}.csv") for name in ("evaluation", "trials", "epochs")]
    assert written["pictures"] == []


def test_report_takes_several_studies_for_one_page_and_names_the_one_that_is_not_stored(ran):
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


def test_clean_says_what_it_would_remove_and_keeps_trials_winners_and_exports(ran):
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


@pytest.mark.usefixtures("_empty_folder")
def test_a_run_that_is_out_of_time_stops_well_and_says_how_to_go_on(monkeypatch):
    task = load_spec(write_study(epochs=20)).task
    refuse_bad_data(task, prepare(task).hashes, begun=False)
    monkeypatch.setattr("sys.argv", ["restora", "run", "tiny", "--timeout", "0"])
    result = invoke("run", "tiny", "--timeout", "0")
    assert result.exit_code == 0
    assert "To resume: restora run tiny" in last_line(result.stderr)
    assert "To resume" in Path("storage/logs/tiny.log").read_text()
    assert invoke("status", "tiny").exit_code == 0


@pytest.mark.usefixtures("_empty_folder")
def test_a_bug_is_one_line_and_a_traceback_only_with_debug(monkeypatch):
    write_study()
    monkeypatch.setattr("pipeline.run.estimate.prepare", lambda *_, **__: 1 / 0)
    result = invoke("plan", "tiny")
    assert result.exit_code == 1
    assert "ZeroDivisionError" in last_line(result.stderr)
    shown = CliRunner().invoke(app, ["--debug", "plan", "tiny"]).stderr
    assert "Traceback" in shown
    assert "1 / 0" in shown


@pytest.mark.usefixtures("_empty_folder")
def test_a_run_that_is_out_of_time_stops_in_its_baseline_too():
    write_study()
    assert invoke("run", "tiny", "--timeout", "0").exit_code == 0
    assert not list(Path("storage/cache").rglob("*.safetensors"))
    assert invoke("run", "tiny").exit_code == 0


@pytest.mark.usefixtures("_empty_folder")
def test_check_and_run_refuse_targets_that_do_not_fit_before_anything_is_trained():
    path = write_study()
    path.write_text(path.read_text().replace('adapter = "lora"', 'adapter = "lora"\ntargets = ["nothing.*"]', 1))
    assert "nothing.*" in path.read_text()
    assert "FAIL  targets and ranks fit" in invoke("check", "tiny").stdout
    result = invoke("run", "tiny")
    assert result.exit_code == 3
    assert "matches no layer" in result.stderr
    assert not list(Path("storage/cache").rglob("*.safetensors"))


@pytest.mark.usefixtures("_empty_folder")
def test_a_verb_that_reads_makes_no_database():
    assert invoke("status", "nosuch").exit_code == 5
    assert not Path("storage").exists()


def test_what_reads_prints_json_where_it_is_asked_to(ran):
    report = json.loads(invoke("report", "tiny", "--json").stdout)
    assert Path(report["page"]).is_file()
    assert {Path(table).name for table in report["tables"]} == {"evaluation.csv", "trials.csv", "epochs.csv"}
    exported = json.loads(invoke("export", "tiny", "--force", "--json").stdout)
    assert [each["combination"] for each in exported] == ["int1-lora"] * 2 + ["sparse-lora"] * 2
    for each in exported:
        for name, size in each["files"].items():
            assert (Path(each["folder"]) / name).stat().st_size == size
    stray = Path("storage/artifacts/tiny/int1-lora/rank-64.svd.safetensors")
    stray.write_bytes(b"of a rank that is no more")
    cleaned = json.loads(invoke("clean", "--dry-run", "--json").stdout)
    assert cleaned["dry_run"]
    assert {"path": str(stray), "bytes": 25} in cleaned["removed"]
    assert cleaned["bytes"] == sum(each["bytes"] for each in cleaned["removed"])
    assert stray.exists()
    stray.unlink()


def test_a_number_that_is_none_is_null_in_json(capsys):
    print_json({"ratio": float("inf"), "list": [float("nan"), 1.5]})
    assert json.loads(capsys.readouterr().out) == {"ratio": None, "list": [None, 1.5]}


def test_watching_a_study_that_is_finished_ends_at_once(ran):
    words = invoke("status", "tiny", "--watch")
    assert words.exit_code == 0
    assert words.stdout.splitlines()[0].startswith("int1-lora: 8/8 trials (100%)")
    (line,) = invoke("status", "tiny", "--watch", "--json").stdout.splitlines()
    table = json.loads(line)
    assert (table["finished"], table["running"], table["trials"]) == (True, False, 16)
    assert table["combinations"] == [
        {**each, "cells": [{**cell, "reasons": {}} for cell in each["cells"]]}
        for each in json.loads(invoke("status", "tiny", "--json").stdout)
    ]
