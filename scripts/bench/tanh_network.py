"""Three layers of ``tanh(A X)`` on a synthetic regression, small enough to watch every spectrum in seconds."""

import torch
from torch import Tensor, nn

from pipeline.results.spectra_file import Course
from pipeline.run.recorded_spectra import Snapshot, courses, weight_snapshot
from pipeline.seeds import derive

SAMPLES, FEATURES, INFORMATIVE, TARGETS, WIDTH, BATCH = 1024, 64, 8, 32, 64, 64
LAYERS = ("A1", "A2", "A3")


class TanhNetwork(nn.Module):
    """``tanh(A3 tanh(A2 tanh(A1 x)))``, ``[n, 64] -> [n, 32]``; no biases, so that each layer is one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.A1 = nn.Linear(FEATURES, WIDTH, bias=False)
        self.A2 = nn.Linear(WIDTH, WIDTH, bias=False)
        self.A3 = nn.Linear(WIDTH, TARGETS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.A1, self.A2, self.A3):
            x = torch.tanh(layer(x))
        return x


def regression(seed: int) -> tuple[Tensor, Tensor]:
    """scikit-learn's ``make_regression`` with 8 of 64 features informative.

    Returns:
        Inputs ``[1024, 64]``, and targets ``[1024, 32]`` in (-1, 1).
    """
    from sklearn.datasets import make_regression

    x, y = make_regression(
        SAMPLES, FEATURES, n_informative=INFORMATIVE, n_targets=TARGETS, noise=1.0, random_state=derive(seed, "data")
    )
    targets = torch.from_numpy(y).float()
    return torch.from_numpy(x).float(), 0.9 * targets / targets.abs().max()


def watch_tanh(seed: int, epochs: int, lr: float = 3e-3) -> tuple[tuple[Course, ...], list[float]]:
    """Train the network by Adam on the mean squared error.

    Returns:
        The spectra of its three layers, from epoch 0; and the mean loss of each epoch.

    Raises:
        IntegrityError: A weight is no longer finite.
    """
    x, y = regression(seed)
    order = torch.Generator().manual_seed(derive(seed, "order"))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "weights"))
        model = TanhNetwork()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    snapshots: list[Snapshot] = [weight_snapshot(model, LAYERS)]
    losses = []
    for _ in range(epochs):
        total = 0.0
        for chosen in torch.split(torch.randperm(SAMPLES, generator=order), BATCH):
            loss = nn.functional.mse_loss(model(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(chosen) / SAMPLES
        losses.append(total)
        snapshots.append(weight_snapshot(model, LAYERS))
    return courses(snapshots, WIDTH), losses
