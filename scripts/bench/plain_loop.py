"""The plain loop: LoRA on an MLP 784-256-128-10, tensors in memory, one trial at a time.

Legend of names: ``x [n, in]`` inputs, ``A [r, in]`` and ``B [out, r]`` the trained factors, ``s = alpha / r``.
"""

import itertools
import math
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (784, 256, 128, 10)
SAMPLES = 54_000
"""Training samples in memory: 60,000 digits of MNIST, a tenth of them held out."""
WARMUP_STEPS = 50


class LoraLinear(nn.Module):
    """``y = base(x) + s (x A^T) B^T`` (Hu et al., 2021, arXiv:2106.09685), with ``base`` frozen.

    ``A`` starts Kaiming uniform and ``B`` at zero, so that the layer begins as its base.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.s = alpha / rank
        self.A = nn.Parameter(torch.empty(rank, base.in_features))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """``[n, in] -> [n, out]``; ``s`` multiplies the ``[n, r]`` product, the smaller one."""
        return torch.add(self.base(x), (x @ self.A.T * self.s) @ self.B.T)


def mlp() -> nn.Sequential:
    """Layers ``fc1``, ``fc2``, ``fc3`` with ReLU between; inputs are flat, ``[n, 784]``."""
    layers: list[tuple[str, nn.Module]] = []
    for place, (inputs, outputs) in enumerate(itertools.pairwise(WIDTHS), start=1):
        layers += [(f"fc{place}", nn.Linear(inputs, outputs)), (f"relu{place}", nn.ReLU())]
    return nn.Sequential(OrderedDict(layers[:-1]))


@torch.no_grad()
def set_int1(model: nn.Module) -> None:
    """Replaces the weight of every linear layer, in place, by ``mean |w_i| sign(w_i)`` a row, with ``sign(0) = +1``."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            scale = layer.weight.abs().mean(1, keepdim=True)
            layer.weight.copy_(torch.where(layer.weight >= 0, scale, -scale))


@contextmanager
def num_threads(threads: int) -> Iterator[None]:
    """Lets torch's operators use that many threads inside, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _batches(samples: int, batch_size: int) -> Iterator[Tensor]:
    """Row numbers of full batches without end, shuffled anew every epoch."""
    while True:
        yield from torch.randperm(samples)[: samples - samples % batch_size].split(batch_size)


def samples_per_second(batch_size: int, threads: int, steps: int, *, rank: int = 8) -> float:
    """Training samples a second of one trial: int1 on all three layers, LoRA on each, ``torch.optim.Adam`` as it comes.

    Counted: shuffling, picking a batch's rows, forward, backward and update, over ``steps`` steps after 50 that are
    not. Not counted: building model and data, evaluation. Inputs are uniform random numbers, as the time does not
    depend on them.
    """
    model = mlp()
    set_int1(model)
    for name, layer in list(model.named_children()):
        if isinstance(layer, nn.Linear):
            setattr(model, name, LoraLinear(layer, rank, alpha=16))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    inputs, labels = torch.rand(SAMPLES, WIDTHS[0]), torch.randint(WIDTHS[-1], (SAMPLES,))
    batches = _batches(SAMPLES, batch_size)

    def train(steps: int) -> None:
        for rows in itertools.islice(batches, steps):
            loss = F.cross_entropy(model(inputs[rows]), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    with num_threads(threads):
        train(WARMUP_STEPS)
        start = time.perf_counter()
        train(steps)
        return steps * batch_size / (time.perf_counter() - start)
