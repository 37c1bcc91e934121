"""Models that give other logits each time they run on the same images."""

import pytest
import torch
from own_networks import Net, objective_of, seeded, trained
from torch import Tensor
from torch.nn import functional as F


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Noisy(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(self.features(x), 0.5))


class Drifting(Net):
    """Changes a buffer whenever it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        self.mean = 0.5 * self.mean + 0.5 * x.mean(0).detach()
        return self.head(x - self.mean)


@pytest.mark.parametrize(("build", "noted"), [(Net, False), (Noisy, True), (Drifting, True)])
def test_a_model_whose_logits_cannot_be_repeated_is_noted_and_trains(build, noted):
    objective = objective_of(seeded(build))
    notes = objective.task.inspection.notes
    assert any("gives other logits each time it runs on the same images" in note for note in notes) == noted
    assert trained(objective).value is not None
