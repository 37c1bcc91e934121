import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import VERBS, app, files, invoke, last_line, write_study
from typer.testing import CliRunner

from pipeline.cli.app import next_command, print_json
from pipeline.config.registry import REGISTRIES
from pipeline.config.study_file import load_spec
from pipeline.task.data_check import refuse_bad_data
from pipeline.task.prepare import prepare


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


def test_a_missing_or_unknown_verb_is_a_usage_error(monkeypatch):
    assert invoke().exit_code == 2
    assert invoke("sing").exit_code == 2
    assert invoke("run", "tiny", "--cohort", "0").exit_code == 2


def test_ls_lists_everything_that_a_study_file_can_name():
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


def test_new_writes_a_study_file_that_is_valid_and_commented():
    result = invoke("new", "mine")
    assert (result.exit_code, result.stdout) == (0, "studies/mine.toml\n")
    assert "restora check mine" in result.stderr
    assert load_spec(Path("studies/mine.toml")).name == "mine"
    assert Path("studies/mine.toml").read_text().count("#") > 10


def test_the_options_that_new_writes_as_comments_are_valid_too():
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
    assert [str(target) for target in spec.combination[0].targets] == ["all", "head", "layer4.*"]


def test_check_passes_sound_data_and_names_a_damaged_image():
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


@pytest.mark.parametrize("verb", ["check", "plan", "run"])
def test_an_invalid_study_file_is_refused_with_all_its_errors(verb):
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


def test_the_error_of_a_missing_study_file_says_how_to_write_one():
    result = invoke("run", "nowhere")
    assert result.exit_code == 3
    assert "restora new" in result.stderr


def test_plan_changes_nothing_and_knows_sizes_before_training():
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


def test_plan_scores_every_cell_before_training_the_best_first():
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


def test_plan_shows_the_rank_of_every_layer_of_a_budget():
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


def test_a_suggested_command_hides_the_password_of_the_database():
    assert "secret" not in next_command("run", "tiny", "postgresql://me:secret@localhost/studies")


def test_a_run_that_is_out_of_time_stops_and_says_how_to_resume(monkeypatch):
    task = load_spec(write_study(epochs=20)).task
    refuse_bad_data(task, task.data.open(), prepare(task).hashes, begun=False)
    monkeypatch.setattr("sys.argv", ["restora", "run", "tiny", "--timeout", "0"])
    result = invoke("run", "tiny", "--timeout", "0")
    assert result.exit_code == 0
    assert "To resume: restora run tiny" in last_line(result.stderr)
    assert "To resume" in Path("storage/logs/tiny.log").read_text()
    assert invoke("status", "tiny").exit_code == 0


def test_a_bug_is_reported_in_one_line_and_with_a_traceback_only_with_debug(monkeypatch):
    write_study()
    monkeypatch.setattr("pipeline.run.estimate.plan_rank", lambda *_, **__: 1 / 0)
    result = invoke("plan", "tiny")
    assert result.exit_code == 1
    assert "ZeroDivisionError" in last_line(result.stderr)
    shown = CliRunner().invoke(app, ["--debug", "plan", "tiny"]).stderr
    assert "Traceback" in shown
    assert "1 / 0" in shown


def test_a_run_that_is_out_of_time_stops_while_its_baseline_trains():
    write_study()
    assert invoke("run", "tiny", "--timeout", "0").exit_code == 0
    assert not list(Path("storage/cache").rglob("*.safetensors"))
    assert invoke("run", "tiny").exit_code == 0


def test_check_and_run_refuse_targets_that_do_not_fit_before_anything_is_trained():
    path = write_study()
    path.write_text(path.read_text().replace('adapter = "lora"', 'adapter = "lora"\ntargets = ["nothing.*"]', 1))
    assert "nothing.*" in path.read_text()
    assert "FAIL  targets and ranks fit" in invoke("check", "tiny").stdout
    result = invoke("run", "tiny")
    assert result.exit_code == 3
    assert "matches no layer" in result.stderr
    assert not list(Path("storage/cache").rglob("*.safetensors"))


def test_a_verb_that_only_reads_creates_no_database():
    assert invoke("status", "nosuch").exit_code == 5
    assert not Path("storage").exists()


def test_nan_and_infinity_are_null_in_json(capsys):
    print_json({"ratio": float("inf"), "list": [float("nan"), 1.5]})
    assert json.loads(capsys.readouterr().out) == {"ratio": None, "list": [None, 1.5]}
