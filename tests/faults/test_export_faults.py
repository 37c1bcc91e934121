"""Faults of exported checkpoints and of files that are written whole. Numbers are those of the table of faults."""

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import fresh_process
import optuna
import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from tiny_studies import BatchNormNet, Mlp, adapted, make_objective, make_spec
from torch import nn

from pipeline import load, save
from pipeline.errors import IntegrityError, StorageError, UsageError
from pipeline.paths import write_whole
from pipeline.run.planned_sizes import plan_rank
from pipeline.run.winners import train_alone
from pipeline.space import Values


@pytest.fixture(scope="module")
def optimized():
    objective = make_objective(make_spec(pruner={"method": "none"}))
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=3)
    return objective, study.trials


@pytest.fixture
def folder(optimized, tmp_path: Path) -> Path:
    return save(optimized[0], optimized[1][0], tmp_path / "exported")


@pytest.mark.parametrize("instant", ["before", "half", "whole", "replaced"])
def test_fault_05_a_kill_while_a_file_is_saved_leaves_the_old_one_or_the_new_one(tmp_path: Path, instant):
    path = tmp_path / "kept"
    path.write_text("old" * 1000)
    code = f"""
import os, signal, sys
from pathlib import Path
from pipeline import paths
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def write(path):
    if {instant!r} == "before":
        die()
    with open(path, "w") as file:
        file.write("new" * 500)
        file.flush()
        if {instant!r} == "half":
            die()
        file.write("new" * 500)
replace = os.replace
def watched(*names):
    if {instant!r} == "whole":
        die()
    replace(*names)
    die()
os.replace = watched
paths.write_whole(Path({str(path)!r}), write)
"""
    child = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert child.returncode == -signal.SIGKILL
    assert path.read_text() == ("new" if instant == "replaced" else "old") * 1000


def test_fault_05_a_save_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path):
    path = tmp_path / "kept"
    path.write_text("old")

    def write(new: Path) -> None:
        new.write_text("half")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_whole(path, write)
    assert (os.listdir(tmp_path), path.read_text()) == (["kept"], "old")


def test_fault_05_what_a_kill_left_half_written_is_cleared(storage):
    from pipeline.run.cleanup import unneeded

    half = Path("storage/artifacts/tiny/int1-lora/.rank-2.svd.safetensors.abc.tmp")
    half.parent.mkdir(parents=True)
    half.write_text("half")
    assert unneeded(storage) == [half]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "header", "empty", "gone"])
def test_fault_09_a_damaged_checkpoint_is_refused_by_name(folder, damage):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage in ("flipped", "header"):
        data[-9 if damage == "flipped" else 20] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(data[: len(data) - 5 if damage == "truncated" else 0])
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        load(folder, model=Mlp())


def test_fault_09_another_trials_file_or_card_is_refused(optimized, folder, tmp_path: Path):
    other = save(optimized[0], optimized[1][1], tmp_path / "other")
    (folder / "card.json").write_bytes((other / "card.json").read_bytes())
    with pytest.raises(IntegrityError, match="of another checkpoint"):
        load(folder, model=Mlp())


def test_fault_09_a_pickle_in_a_checkpoints_place_is_refused_and_nothing_runs(folder, tmp_path: Path):
    class Runs:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    (folder / "model.safetensors").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(IntegrityError):
        load(folder, model=Mlp())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("card", ["", "{", "[]", '"text"', "{}"])
def test_fault_09_a_card_that_is_none_is_refused_by_name(folder, card):
    (folder / "card.json").write_text(card)
    with pytest.raises(IntegrityError, match=r"card\.json (is damaged|has format None)"):
        load(folder, model=Mlp())


class Narrow(Mlp):
    """Like ``Mlp``, but for the inputs of its first layer: no bias tells them apart."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(8, 12)


@pytest.mark.parametrize(
    ("module", "missing", "unexpected"),
    [
        (nn.Linear(16, 4), "'layer.weight'", "'fc1"),
        (BatchNormNet(), "'conv1", "'fc1"),
        (Narrow(), "'fc1.weight'", "none"),
        (nn.Sequential(Mlp()), "'0.fc1", "'fc1"),
    ],
)
def test_fault_10_another_architecture_is_refused_with_the_first_keys(folder, module, missing, unexpected):
    with pytest.raises(IntegrityError, match=rf"another architecture: .*{missing}.* unexpected .*{unexpected}"):
        load(folder, model=module)


@pytest.mark.parametrize(
    ("compression", "adapter"),
    [
        ({"method": "intN", "bits": 4, "symmetric": False, "group": 5}, "lora"),
        ({"method": "svd", "factors": "int1"}, {"method": "dora", "factors": "int8"}),
        ("prune_magnitude", {"method": "lora", "bias": True}),
        ("int1", "none"),
    ],
    ids=str,
)
def test_fault_10_tensors_that_are_missing_or_of_another_form_are_refused_by_name(compression, adapter, tmp_path):
    objective = make_objective(make_spec(combination={"compression": compression, "adapter": adapter}))
    study = optuna.create_study(direction="maximize")
    study.optimize(objective, n_trials=1)
    folder = save(objective, study.best_trial, tmp_path / "mine")
    card, data = json.loads((folder / "card.json").read_text()), (folder / "model.safetensors").read_bytes()
    whole = load_tensors(data)

    def refused(tensors, layer):
        data = save_tensors(tensors)
        (folder / "model.safetensors").write_bytes(data)
        write_card(folder, {**card, "sha256": hashlib.sha256(data).hexdigest()})
        with pytest.raises(IntegrityError, match=rf"another architecture: .*{layer}"):
            load(folder, model=Mlp())

    for name, tensor in whole.items():
        rest = {key: other for key, other in whole.items() if key != name}
        refused(rest, name.partition(".")[0])
        refused({**rest, name: tensor[None]}, name.partition(".")[0])
        if tensor.dtype == torch.float32 and name not in Mlp().state_dict():
            refused({**rest, name: tensor.view(torch.int32)}, name.partition(".")[0])


def write_card(folder: Path, card: dict) -> None:
    """Write a card in the format of version 0.1.0, which has no hash of its content."""
    old = {key: value for key, value in card.items() if key != "card_sha256"}
    (folder / "card.json").write_text(json.dumps({**old, "format": 1}))


def test_fault_09_no_flipped_bit_of_a_card_changes_what_is_loaded(folder):
    path, images = folder / "card.json", torch.randn(5, 16)
    data = path.read_bytes()
    expected = load(folder, model=Mlp())(images)
    for index in range(0, len(data), 7):
        path.write_bytes(data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :])
        try:
            outputs = load(folder, model=Mlp())(images)
        except IntegrityError:
            continue
        assert torch.equal(outputs, expected), index


def test_fault_09_a_changed_card_is_refused_with_both_hashes(folder):
    card = json.loads((folder / "card.json").read_text())
    card["method"]["values"]["alpha"] *= 2
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(IntegrityError, match=rf"card\.json has changed .* expected {card['card_sha256']}"):
        load(folder, model=Mlp())


@pytest.mark.parametrize("key", ["sha256", "task", "method.adapter", "method.layers", "method.values"])
def test_fault_09_a_key_that_a_card_lacks_is_named(folder, key):
    card = json.loads((folder / "card.json").read_text())
    outer, _, inner = key.rpartition(".")
    del (card[outer] if outer else card)[inner]
    write_card(folder, card)
    with pytest.raises(IntegrityError, match=rf"card\.json, written by version .*, lacks {key}"):
        load(folder, model=Mlp())


def test_fault_09_a_method_that_is_not_registered_here_is_named(folder):
    card = json.loads((folder / "card.json").read_text())
    write_card(folder, {**card, "method": {**card["method"], "compression": {"method": "int0"}}})
    with pytest.raises(IntegrityError, match=r"card\.json names .*unknown compression 'int0'"):
        load(folder, model=Mlp())


def test_fault_28_a_card_of_another_format_says_which_version_wrote_it(folder):
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "format": 99, "versions": {"restora": "7.7"}}))
    with pytest.raises(IntegrityError, match=r"format 99, written by version 7\.7"):
        load(folder, model=Mlp())


def test_fault_24_a_target_that_is_there_is_refused_without_force_and_replaced_with_it(optimized, folder):
    objective, trials = optimized
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UsageError, match="--force"):
        save(objective, trials[1], folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    save(objective, trials[1], folder, force=True)
    assert json.loads((folder / "card.json").read_text())["trial"] == 1
    load(folder, model=Mlp())
    assert os.listdir(folder.parent) == [folder.name], "nothing half-written is left beside it"


def test_fault_24_a_place_that_cannot_be_written_is_a_storage_error(optimized, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        save(optimized[0], optimized[1][0], tmp_path / "file" / "folder")


@pytest.mark.parametrize("failing", [1, 2])
def test_fault_24_a_swap_that_fails_midway_leaves_the_old_checkpoint(optimized, folder, monkeypatch, failing):
    rename, calls = Path.rename, []

    def sometimes(self, target):
        calls.append(target)
        if len(calls) == failing:
            raise OSError("no space")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", sometimes)
    with pytest.raises(StorageError, match="no space"):
        save(optimized[0], optimized[1][1], folder, force=True)
    monkeypatch.undo()
    assert json.loads((folder / "card.json").read_text())["trial"] == 0
    load(folder, model=Mlp())
    assert os.listdir(folder.parent) == [folder.name]


def test_fault_25_a_fresh_process_comes_to_the_same_outputs_and_the_sizes_are_as_predicted(optimized, folder):
    objective, trials = optimized
    values = Values.of(trials[0].params)
    parameters = train_alone(objective, values).best_parameters
    images, labels = next(objective.combination.task.test.batches(1000))
    with torch.inference_mode():
        logits = adapted(objective, parameters, values.alpha)(images)
    helpers = str(Path(__file__).parents[1] / "helpers")
    answer = fresh_process.ask(
        {folder: {"images": images, "labels": labels, "logits": logits}},
        model=f"sys.path.append({helpers!r})\nfrom tiny_studies import Mlp",
        argument=", model=Mlp()",
    )[folder]
    card = json.loads((folder / "card.json").read_text())
    assert answer["difference"] < 1e-5
    assert answer["correct"] == card["accuracy"]["recovered"]["test"]["correct"]
    size = (folder / "model.safetensors").stat().st_size
    assert size == card["size"]["file_bytes"] == card["size"]["header_bytes"] + card["size"]["tensor_bytes"]
    assert plan_rank(objective.combination, values.rank)["bytes"] == card["size"]["tensor_bytes"]
