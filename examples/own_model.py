"""Compress a model of your own, win the accuracy back, and use the checkpoint: `python examples/own_model.py`.

The model is a small convolutional network, and the data are striped images that this file draws. Both stand for yours:
any ``nn.Module`` with ``Linear`` or ``Conv2d`` layers, and any images and labels as tensors or map-style data sets.
"""

import tempfile
from pathlib import Path

import optuna
import torch
from torch import Tensor, nn
from torch.nn import functional

import pipeline

STUDY = Path(__file__).parent / "stripes.toml"


class StripeNet(nn.Module):
    """Tells four directions of stripes apart; images [n, 1, 12, 12], logits [n, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 16, 5), nn.ReLU(), nn.Conv2d(16, 16, 5), nn.ReLU())
        self.head = nn.Linear(16 * 4 * 4, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).flatten(1))


def stripes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy stripes in one of four directions: images [count, 1, 12, 12] and labels [count]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    patterns = torch.stack([rows, columns, rows + columns, rows - columns])
    phases = 4 * torch.rand(count, 1, 1, generator=generator)
    images = (1.5 * (patterns[labels] + phases)).sin() + torch.randn(count, 12, 12, generator=generator)
    return images[:, None], labels


def trained() -> StripeNet:
    """The model before compression, trained for a few seconds."""
    torch.manual_seed(0)
    model, (images, labels) = StripeNet(), stripes(1200, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(6):
        for batch in torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch)).split(64):
            loss = functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


def accuracy(model: nn.Module, part: tuple[Tensor, Tensor]) -> float:
    images, labels = part
    with torch.inference_mode():
        return float((model(images).argmax(1) == labels).double().mean())


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    model, test = trained(), stripes(800, seed=2)
    task = pipeline.Task(model, train=stripes(1200, seed=0), val=stripes(400, seed=1), test=test)
    spec = pipeline.load_spec(STUDY)
    objective = pipeline.Objective(task, spec.combination[0], spec.search)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=6)

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = pipeline.save(objective, study.best_trial, Path(folder) / "stripes")
        restored = pipeline.load(checkpoint, model=StripeNet())
        size = (checkpoint / "model.safetensors").stat().st_size
    whole = sum(parameter.numel() for parameter in model.parameters()) * 4
    print(f"original    {accuracy(model, test):.1%}  {whole:,} bytes")
    print(f"compressed  {accuracy(objective.combination.compressed.model, test):.1%}")
    print(f"restored    {accuracy(restored, test):.1%}  {size:,} bytes of file")


if __name__ == "__main__":
    main()
