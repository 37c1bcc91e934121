"""`check`, `plan` and `run` agree: what one of them refuses the others refuse too, with the same exit code."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from command import invoke, write_study
from safetensors.torch import save_file

from pipeline.locks import database_lock, exclusive

STUDY = Path("studies/tiny.toml")
DATABASE = Path("storage/studies.db")
LAST = {"check": "next: restora plan tiny", "plan": "next: restora run tiny", "run": "done. next: restora report tiny"}


def edit(*pairs: tuple[str, str]) -> None:
    text = STUDY.read_text()
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    STUDY.write_text(text)


def pretrained(save: Callable[[Path], object]) -> None:
    """Give the study a small network of timm with a checkpoint."""
    save(Path("weights.safetensors"))
    model = 'source = "timm"\narchitecture = "test_resnet"\nimage_size = 32\ncheckpoint = "weights.safetensors"'
    edit(
        ('source = "mlp"\nwidths = [192, 8, 3]', model),
        ("[task.baseline]\nepochs = 2\nbatch_size = 8\n", ""),
        ('targets = ["fc1"]', 'targets = ["head"]'),
        ('adapter = "lora"\n\n', 'adapter = "lora"\ntargets = ["head"]\n\n'),
    )


def save_weights(path: Path, **changes: torch.Tensor) -> None:
    save_file({**timm.create_model("test_resnet", num_classes=3).state_dict(), **changes}, path)


def other_database(write: Callable[[Path], object]) -> None:
    DATABASE.parent.mkdir()
    write(DATABASE)


def foreign_tables(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE version_info (version_info_id INTEGER, schema_version INTEGER)")
    connection.close()


def agreement() -> None:
    pretrained(save_weights)
    edit(("[task.model]", '[task]\nmetric = "agreement"\n\n[task.model]'))


def damaged(path: str) -> None:
    Path(path).write_bytes(Path(path).read_bytes()[:60])


def searched_before() -> None:
    assert invoke("run", "tiny").exit_code == 0


def one_combination() -> None:
    text = STUDY.read_text()
    STUDY.write_text(text[: text.index('[[combination]]\nname = "sparse-lora"')] + text[text.index("[search]") :])


REFUSED: dict[str, tuple[int, Callable[[], object]]] = {
    "the study file is not there": (3, lambda: STUDY.unlink()),
    "the study file is no TOML": (3, lambda: STUDY.write_text("name = [")),
    "a key is misspelt": (3, lambda: edit(("epochs = 1\n", "epoks = 1\n"))),
    "the database is another file": (4, lambda: other_database(lambda path: path.write_text("not a database at all"))),
    "the database is a folder": (4, lambda: other_database(Path.mkdir)),
    "storage is a file": (4, lambda: Path("storage").write_text("")),
    "the database is in memory": (4, lambda: os.environ.update(RESTORA_STORAGE="sqlite://")),
    "the database has a driver that Optuna cannot use": (
        4,
        lambda: os.environ.update(RESTORA_STORAGE="sqlite+aiosqlite:///studies.db"),
    ),
    "storage leads nowhere": (4, lambda: Path("storage").symlink_to("nowhere")),
    "there is no data": (6, lambda: shutil.rmtree("images")),
    "the training folder is empty": (3, lambda: [shutil.rmtree(one) for one in Path("images/train").iterdir()]),
    "a training image is cut": (6, lambda: damaged("images/train/red/003.png")),
    "a test image is cut": (6, lambda: damaged("images/test/red/000.png")),
    "an image is no image": (6, lambda: Path("images/train/red/003.png").write_text("<!DOCTYPE html>")),
    "an image is in train and test": (
        6,
        lambda: shutil.copy("images/train/red/003.png", "images/test/red/000.png"),
    ),
    "the model has another number of classes": (3, lambda: edit(("widths = [192, 8, 3]", "widths = [192, 8, 5]"))),
    "the model has another number of inputs": (3, lambda: edit(("widths = [192, 8, 3]", "widths = [190, 8, 3]"))),
    "the checkpoint is not there": (6, lambda: pretrained(lambda path: None)),
    "the checkpoint is damaged": (6, lambda: pretrained(lambda path: path.write_bytes(b"PK no weights"))),
    "the checkpoint is of another architecture": (
        6,
        lambda: pretrained(lambda path: save_file({"fc3.weight": torch.zeros(3, 8)}, path)),
    ),
    "nothing trains the model": (3, lambda: edit(("[task.baseline]\nepochs = 2\nbatch_size = 8\n", ""))),
    "a target matches nothing": (3, lambda: edit(('targets = ["fc1"]', 'targets = ["nothing.*"]'))),
    "a rank is above every target": (3, lambda: edit(("ranks = [1, 2]", "ranks = [1, 200]"))),
    "factors are wanted and there are none": (3, lambda: edit(('adapter = "lora"\n\n', 'adapter = "tou"\n\n'))),
    "nothing is fused": (3, lambda: edit(('targets = ["fc1"]', 'targets = ["fc1"]\nqkv = "split"'))),
    "no batch norm": (3, lambda: edit(('targets = ["fc1"]', 'targets = ["fc1"]\nbatch_norm = "reestimated"'))),
    "a budget is too small": (3, lambda: edit(("ranks = [1, 2]", 'ranks = [3]\nallocation = { by = "gain" }'))),
    "a budget is too large": (3, lambda: edit(("ranks = [1, 2]", 'ranks = [99999]\nallocation = "energy"'))),
    "the gains of rows have no scale": (
        3,
        lambda: edit(
            ('"int1"\n', '{ method = "int1", scale = "none" }\n'),
            ('adapter = "lora"\n\n', 'adapter = { method = "lora", scales = true }\n\n'),
        ),
    ),
    "spectra are of no layer": (3, lambda: edit(("[search]", '[spectra]\nlayers = ["nothing"]\n\n[search]'))),
    "the stored study has another space": (3, lambda: [searched_before(), edit(("high = 1e-2", "high = 1e-1"))]),
    "the stored study has other data": (
        3,
        lambda: [searched_before(), Path("images/train/red/003.png").unlink(), Path("storage/cache").rename("away")],
    ),
}
ACCEPTED: dict[str, Callable[[], object]] = {
    "a new study": lambda: None,
    "a study with trained weights": lambda: pretrained(save_weights),
    "a batch larger than the data": lambda: edit(("batch_size = 8\n", "batch_size = 500\n")),
    "a batch of one image": lambda: edit(("batch_size = 8\n", "batch_size = 1\n")),
    "statistics are needed": lambda: edit(
        ('"int1"', '{ method = "int1", metric = "activation" }'), ('["paper"]', '["qera", "eva"]')
    ),
    "a rank above one of the targets": lambda: edit(("ranks = [1, 2]", "ranks = [1, 8]")),
    "a budget below most first ranks": lambda: [
        one_combination(),
        edit(("ranks = [1, 2]", 'ranks = [60]\nallocation = { by = "gain" }')),
    ],
    "a budget below the first step of an allocation": lambda: [
        one_combination(),
        edit(("ranks = [1, 2]", 'ranks = [60, 900]\nallocation = "energy"')),
    ],
    "a stored study gets more trials": lambda: [searched_before(), edit(("trials = 2\n", "trials = 3\n"))],
}


@pytest.fixture
def _study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    write_study()
    edit(('["paper", "svd"]', '["paper"]'))


@pytest.mark.usefixtures("_study")
@pytest.mark.parametrize(("code", "change"), REFUSED.values(), ids=REFUSED)
def test_what_a_run_refuses_check_refuses_with_the_same_exit_code_and_keeps_its_ticks(code, change):
    change()
    checked, as_json, planned = invoke("check", "tiny"), invoke("check", "tiny", "--json"), invoke("plan", "tiny")
    before = trained()
    ran = invoke("run", "tiny")
    assert (checked.exit_code, as_json.exit_code, ran.exit_code) == (code, code, code), (checked.stderr, ran.stderr)
    assert "this is a bug" not in checked.stderr + planned.stderr + ran.stderr
    ticks = json.loads(as_json.stdout)
    failed = [tick for tick in ticks if not tick["ok"]]
    assert failed
    assert all(tick["said"] and tick["error"] for tick in failed)
    assert ticks[0]["what"] == "study file is valid"
    assert trained() == before, "a run that is refused trains nothing"
    if failed[0]["what"] != "study file is valid":
        assert all(tick["what"] in checked.stdout for tick in ticks)


def trained() -> list[Path]:
    return sorted(Path().rglob("baselines/*.safetensors"))


@pytest.mark.usefixtures("_study")
@pytest.mark.parametrize("change", ACCEPTED.values(), ids=ACCEPTED)
def test_what_check_passes_a_run_carries_out(change):
    change()
    for verb, end in LAST.items():
        result = invoke(verb, "tiny")
        assert (result.exit_code, end in result.stderr) == (0, True), (verb, result.stdout, result.stderr)
        assert "FAIL" not in result.stdout


@pytest.mark.usefixtures("_study")
def test_steps_that_do_not_need_a_failed_one_are_carried_out():
    edit(('targets = ["fc1"]', 'targets = ["nothing.*"]'), ("widths = [192, 8, 3]", "widths = [192, 8, 3]"))
    other_database(lambda path: path.write_text("not a database at all"))
    ticks = {tick["what"]: tick["ok"] for tick in json.loads(invoke("check", "tiny", "--json").stdout)}
    assert (ticks["database is usable"], ticks["model loads"], ticks["images fit the model"]) == (False, True, True)


@pytest.mark.usefixtures("_study")
def test_a_study_that_is_being_run_is_not_ready():
    searched_before()
    with exclusive(database_lock(DATABASE, "tiny"), "study 'tiny'"):
        result = invoke("check", "tiny")
    assert (result.exit_code, "is being run" in result.stdout) == (4, True)
    assert invoke("check", "tiny").exit_code == 0


@pytest.mark.usefixtures("_study")
@pytest.mark.parametrize("verb", ["check", "plan", "run"])
@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "meta", "CPU", ""])
def test_a_device_that_is_not_there_is_refused_by_every_verb(verb, device):
    result = invoke(verb, "tiny", "--device", device)
    assert (result.exit_code, f"device '{device}' cannot be used" in result.stdout + result.stderr) == (2, True)
    assert result.stdout.count("FAIL") == (verb == "check"), "the other steps are carried out on the CPU"


@pytest.mark.usefixtures("_study")
@pytest.mark.parametrize("verb", ["check", "plan", "run"])
def test_an_unexpected_exception_of_a_step_is_an_error_of_its_kind_with_its_type_and_text(verb, monkeypatch):
    def fail(*_: object) -> None:
        raise ZeroDivisionError("seven by nothing")

    monkeypatch.setattr("pipeline.run.readiness_steps.watched_layers", fail)
    result = invoke(verb, "tiny")
    assert result.exit_code == 3
    assert "ZeroDivisionError: seven by nothing" in result.stdout + result.stderr
    if verb == "check":
        ticks = json.loads(invoke("check", "tiny", "--json").stdout)
        assert {tick["what"]: tick["error"] for tick in ticks}["targets and ranks fit"] == "SpecError"


@pytest.mark.usefixtures("_study")
@pytest.mark.parametrize("verb", ["check", "plan"])
@pytest.mark.parametrize("change", [lambda: None, agreement], ids=["accuracy", "agreement"])
def test_asking_changes_nothing(verb, change):
    change()
    before = sorted(Path().rglob("*"))
    assert invoke(verb, "tiny").exit_code == 0
    assert sorted(Path().rglob("*")) == before
    assert not os.path.exists("storage")
