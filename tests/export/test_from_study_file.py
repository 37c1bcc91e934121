"""From a study file through a trained adapter to the exported file's forward pass, model source by model source."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import fresh_process
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_data import write_images
from tiny_studies import adapted
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config.registry import COMPRESSIONS, LOSSES
from pipeline.config.study_file import load_spec
from pipeline.export.checkpoint import load
from pipeline.objective.objective import Objective
from pipeline.run.planned_sizes import plan_rank
from pipeline.run.winners import recover
from pipeline.space import Values
from pipeline.store.kept_adapters import Kept
from pipeline.task.prepare import prepare

STUDY = """
name = "{name}"
[task.model]
{model}
[task.data]
source = "image-folder"
root = "images"
[task.split]
val = 0.3
{baseline}
[[combination]]
name = "only"
compression = {{ {compression} }}
adapter = "lora"
targets = {targets}
[search]
ranks = [2]
inits = ["svd"]
alpha = 4
optimizer = ["adam"]
lr = {{ low = 1e-3, high = 1e-2, log = true }}
batch_size = [16]
epochs = 1
trials = 2
sampler = {{ startup = 1 }}
pruner = {{ method = "none" }}
"""
BASELINE = "[task.baseline]\nepochs = 1\nbatch_size = 16"


@dataclass
class Case:
    model: str
    compression: str
    targets: list[str]
    baseline: str = BASELINE


CASES = {
    "timm-resnet18": Case(
        'source = "timm"\narchitecture = "resnet18"\nimage_size = 32',
        'method = "sparse", block = "4x4"', ["conv1", "layer1.*.conv?", "fc"],
    ),
    "timm-vit": Case(
        'source = "timm"\narchitecture = "vit_tiny_patch16_224"\nimage_size = 32',
        'method = "int1"', ["patch_embed.proj", "blocks.0.*", "blocks.1.attn.qkv", "head"],
    ),
    "torchvision-resnet18": Case(
        'source = "torchvision"\narchitecture = "resnet18"\nimage_size = 32',
        'method = "int1", metric = "activation"', ["layer1.0.conv?", "layer2.0.downsample.0", "fc"],
    ),
    "timm-checkpoint": Case(
        'source = "timm"\narchitecture = "mobilenetv3_small_050"\nimage_size = 32\ncheckpoint = "weights.safetensors"',
        'method = "sparse", block = "1x16", score = "activation"', ["blocks.0.*", "conv_head"], baseline="",
    ),
}  # fmt: skip


@dataclass
class Exported:
    folder: Path
    objective: Objective
    parameters: dict[str, torch.Tensor]
    alpha: float

    @property
    def card(self):
        return json.loads((self.folder / "card.json").read_text())

    def inputs(self):
        """The test part, and what the trained model in memory says of it."""
        images, labels = next(self.objective.combination.task.test.batches(100))
        with torch.inference_mode():
            logits = adapted(self.objective, self.parameters, self.alpha)(images)
        return {"images": images, "labels": labels, "logits": logits}


def run_and_export(name: str, case: Case) -> Exported:
    Path("studies").mkdir(exist_ok=True)
    Path(f"studies/{name}.toml").write_text(STUDY.format(name=name, **vars(case)))
    # With the number of trials in a pass given, none has to be measured, which takes longer than the search.
    for command in (["check", name], ["run", name, "--cohort", "2"], ["export", name]):
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    (folder,) = (Path(line).absolute() for line in result.stdout.splitlines())
    spec = load_spec(Path(f"studies/{name}.toml"))
    objective = Objective(prepare(spec.task), spec.combination[0], spec.search, seed=spec.seed)
    from pipeline.results.reading import read_results
    from pipeline.store.database import open_storage

    (result,) = read_results(open_storage("sqlite:///storage/studies.db"), name)
    trial = result.best_of_ranks()[2].best
    parameters = recover(objective, Kept(name, "only"), trial).parameters
    return Exported(folder, objective, parameters, Values.of(trial.params).alpha)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """All cases, run and exported, with what a fresh process finds of each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("studies"))
        patch.delenv("RESTORA_STORAGE", raising=False)
        write_images(Path("images/train"), 6)
        write_images(Path("images/test"), 2, seed=1)
        torch.manual_seed(0)
        torch.set_num_threads(1)
        model = timm.create_model("mobilenetv3_small_050", num_classes=3)
        save_file(model.state_dict(), "weights.safetensors")
        made = {name: run_and_export(name, case) for name, case in CASES.items()}
        answers = fresh_process.ask({exported.folder: exported.inputs() for exported in made.values()})
        yield made, {name: answers[exported.folder] for name, exported in made.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_fresh_process_loads_the_checkpoint_and_gives_the_same_outputs(exports, name):
    made, answers = exports
    assert answers[name]["difference"] < 1e-5
    assert answers[name]["correct"] == made[name].card["accuracy"]["recovered"]["test"]["correct"]
    assert not answers[name]["training"]


@pytest.mark.parametrize("name", CASES)
def test_the_adapter_was_trained_and_the_base_is_compressed(exports, name):
    exported = exports[0][name]
    images, _ = next(exported.objective.combination.task.test.batches(4))
    model = load(exported.folder)
    with torch.inference_mode():
        dense, compressed = (
            exported.objective.combination.task.model(images),
            exported.objective.combination.compressed.model(images),
        )
        recovered = model(images)
    assert (dense - compressed).abs().max() > 1e-4
    assert (recovered - compressed).abs().max() > 1e-4


@pytest.mark.parametrize("name", CASES)
def test_a_merged_model_has_the_state_dict_of_the_baseline(exports, name):
    exported = exports[0][name]
    images, _ = next(exported.objective.combination.task.test.batches(4))
    merged, bare = load(exported.folder, merge=True), copy.deepcopy(exported.objective.combination.task.model)
    bare.load_state_dict(merged.state_dict(), strict=True)
    with torch.inference_mode():
        recovered = load(exported.folder)(images)
        for model in (merged, bare):
            torch.testing.assert_close(model(images), recovered, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_file_holds_the_bytes_that_its_card_and_the_plan_say(exports, name):
    exported = exports[0][name]
    size, file = exported.card["size"], exported.folder / "model.safetensors"
    assert file.stat().st_size == size["file_bytes"] == size["header_bytes"] + size["tensor_bytes"]
    assert int.from_bytes(file.read_bytes()[:8], "little") + 8 == size["header_bytes"]
    plan = plan_rank(exported.objective.combination, 2)
    assert plan["bytes"] == size["tensor_bytes"]
    kinds = {"sign": "payload", "value": "payload", "index": "index", "scale": "scale"}
    found: dict[str, int] = {}
    with safe_open(file, framework="pt") as tensors:
        for key in tensors.keys():  # noqa: SIM118 - it is no mapping
            layer, _, kind = key.rpartition(".")
            tensor = tensors.get_tensor(key)
            if kind in ("lora_A", "lora_B"):
                place = f"{layer}.adapter"
            elif layer.endswith(".weight"):
                place = f"{layer.removesuffix('.weight')}.{kinds[kind]}"
            else:
                continue
            found[place] = found.get(place, 0) + tensor.numel() * tensor.element_size()
    assert found == plan["tensors"]
    assert any(module == "payload" for module in {key.rpartition(".")[2] for key in found})


@pytest.mark.parametrize("name", CASES)
def test_the_card_names_the_method_and_the_results(exports, name):
    exported = exports[0][name]
    card = exported.card
    assert card["chosen_by"] == "validation accuracy"
    assert card["method"]["layers"] == exported.objective.combination.targets
    assert COMPRESSIONS.parse(card["method"]["compression"]) == exported.objective.combination.compression
    search = exported.objective.combination.search
    assert LOSSES.parse(card["method"]["loss"]) == search.loss
    assert card["method"]["warmup"] == search.warmup
    assert card["method"]["augmentation"] == [one.complete() for one in search.augmentation]
    assert card["hashes"] == dict(exported.objective.combination.task.hashes)
    assert {"baseline", "compressed", "recovered"} <= set(card["accuracy"])
    for measured in ("baseline", "compressed", "recovered"):
        for part in ("val", "test"):
            low, high = card["accuracy"][measured][part]["wilson_95"]
            assert low <= card["accuracy"][measured][part]["accuracy"] <= high
    assert {"torch", "restora", "python"} <= set(card["versions"])
