"""Small compressed models of several kinds, and something to train them on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import timm
import torch
from torch import Tensor, nn

from pipeline.adapt.contract import Draw
from pipeline.adapt.inits.contract import AdaptedLayer
from pipeline.adapt.inits.paper import Paper
from pipeline.adapt.methods.lora import Lora
from pipeline.compress.contract import CompressedModel
from pipeline.compress.layers import weight_matrix
from pipeline.compress.methods.int1 import Int1
from pipeline.compress.targets import find_targets
from pipeline.compress.weight import DenseWeight
from pipeline.config.registry import OPTIMIZERS
from pipeline.task.parts import TensorPart
from pipeline.train.cut.program import Program, make_program
from pipeline.train.lane import Lane
from pipeline.train.loop import Recipe, train_epoch
from pipeline.train.rows import ComputedRows, Rows, image_rows


@dataclass
class Setting:
    """A compressed model, and something to train it on."""

    compressed: CompressedModel
    original: nn.Module
    train: TensorPart
    val: TensorPart
    program: Program

    def lane(self, rank: int = 2, optimizer: str = "adam", **values: object) -> Lane:
        """A lane that starts where all lanes of its rank start."""
        generator = torch.Generator().manual_seed(0)
        starts = {}
        for name, weight in self.compressed.weights.items():
            matrix = weight_matrix(self.original.get_submodule(name))
            starts[name] = Paper().start(AdaptedLayer(matrix, weight, DenseWeight), min(rank, *weight.shape), generator)
        lane = Lane({}, alpha=4.0, optimizer=OPTIMIZERS.parse(optimizer), lr=0.01, batch_size=16, seed=3)
        lane = replace(lane, **values)
        lane.parameters = Lora().begin(self.compressed, starts, Draw(lane.alpha))
        return lane

    def epoch(self, lanes: list[Lane], recipe: Recipe | None = None, **parts: object) -> None:
        parts = {"train": self.train, "val": self.val, **parts}
        rows = {name: self.program.rows(self.source(part)) for name, part in parts.items()}
        train_epoch(lanes, self.program, **rows, recipe=recipe or Recipe(epochs=3))

    def source(self, part: TensorPart) -> Rows:
        stem = self.program.cut and self.program.cut.stem
        return ComputedRows(image_rows(part), stem) if stem else image_rows(part)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * 6 * 6, 9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 3))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.Flatten(),
        nn.Linear(54, 3),
    )


class Residual(nn.Module):
    """Two residual blocks, one of them with a grouped convolution, added in place as many networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv1, self.norm1 = nn.Conv2d(6, 6, 3, padding=1, groups=3, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
            y = norm(conv(x))
            y += x
            x = self.relu(y)
        return self.head(x.mean((2, 3)))


def vit() -> nn.Module:
    shape = {"img_size": 6, "patch_size": 3, "in_chans": 2, "embed_dim": 12, "num_heads": 2, "depth": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=3, **shape)


SETTINGS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "mlp": (mlp, "*"),
    "cnn": (Residual, "*"),
    "vit": (vit, "*"),
    "vit's last block": (vit, "blocks.1.*"),
    "head on a frozen trunk": (Residual, "head"),
}
"""What is built, and its targets."""


def make_setting(
    build: Callable[[], nn.Module] = mlp, dtype: torch.dtype = torch.float32, *, targets: str = "*", cached: bool = True
) -> Setting:
    """A trained model, compressed; ``cached`` where what lanes share is had once, else every image takes all of it."""
    torch.manual_seed(1)
    model = build().to(dtype)
    model(torch.randn(30, 2, 6, 6, dtype=dtype) * 2 + 1)  # batch norms have seen something
    model.eval()
    compressed = Int1().compress_model(model, find_targets(model, [targets]), {})
    labels = torch.arange(80) % 3
    images = torch.randn(80, 2, 6, 6, dtype=dtype) + labels[:, None, None, None]
    train, val = TensorPart(images[:50], labels[:50]), TensorPart(images[50:], labels[50:])
    setting = Setting(compressed, model, train, val, None)
    probes = [[(setting.lane(rank).parameters, alpha) for alpha in (1.0, 2.0)] for rank in (1, 2)]
    cut, uncut = make_program(compressed, Lora(), probes, images[:3]), Program(compressed, Lora())
    setting.program = cut if cached else uncut
    assert (setting.program.cut is not None) == cached
    return setting


RULES = [optimizer.name for optimizer in OPTIMIZERS]
"""The names of all optimizers."""
TRIALS: Sequence[dict[str, object]] = (
    {"rank": 2, "optimizer": "sgd", "lr": 0.02, "alpha": 2.0},
    {"rank": 1, "optimizer": "adam", "lr": 0.01, "alpha": 4.0},
    {"rank": 3, "optimizer": "nesterov", "lr": 0.01, "alpha": 1.0},
    {"rank": 1, "optimizer": "rmsprop", "lr": 0.003, "alpha": 5.0},
    {"rank": 2, "optimizer": "adamw", "lr": 0.01, "alpha": 3.0},
    {"rank": 3, "optimizer": "adam", "lr": 0.002, "alpha": 8.0},
)
"""Mixed ranks, rates and alphas, and every optimizer."""


def equal(one: Lane, other: Lane) -> bool:
    """Whether two lanes are at the same place, bit for bit."""
    tensors = [(one.parameters[name], other.parameters[name]) for name in one.parameters]
    moments = list(zip(one.moments or (), other.moments or (), strict=True))
    return one.curve == other.curve and all(torch.equal(*pair) for pair in [*tensors, *moments])
