import pytest
import torch

from pipeline.config.registry import OPTIMIZERS
from pipeline.train.lane import LaneOptimizer

REFERENCES = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.01}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.99}),
}


def test_every_optimizer_of_this_package_has_a_reference():
    assert set(REFERENCES) == {optimizer.name for optimizer in OPTIMIZERS}


def lanes(names: list[str]) -> tuple[torch.Tensor, LaneOptimizer]:
    parameters = torch.randn(len(names), 7, dtype=torch.float64)
    moments = torch.zeros_like(parameters), torch.zeros_like(parameters)
    return parameters, LaneOptimizer(parameters, *moments, [OPTIMIZERS.parse(name).rule for name in names])


def test_mixed_lanes_take_the_steps_of_torchs_optimizers():
    names = [*REFERENCES, *reversed(REFERENCES)]
    rates = [0.3 / (place + 2) for place in range(len(names))]
    flat, optimizer = lanes(names)
    alone = [torch.nn.Parameter(row.clone()) for row in flat]
    references = [
        REFERENCES[name][0]([parameter], lr=rate, **REFERENCES[name][1])
        for name, parameter, rate in zip(names, alone, rates, strict=True)
    ]
    for step in range(1, 21):
        gradients = torch.randn_like(flat) * 10.0 ** torch.randint(-3, 2, flat.shape)
        scheduled = [rate / step for rate in rates]
        optimizer.step(gradients, scheduled, step, [True] * len(names))
        for parameter, reference, g, rate in zip(alone, references, gradients, scheduled, strict=True):
            reference.param_groups[0]["lr"] = rate
            parameter.grad = g.clone()
            reference.step()
        torch.testing.assert_close(flat, torch.stack([p.detach() for p in alone]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bad", [0.5, torch.nan, torch.inf])
@pytest.mark.parametrize("name", REFERENCES)
def test_a_lane_that_is_not_live_keeps_every_bit_and_changes_no_other(name, bad):
    torch.manual_seed(0)
    flat, optimizer = lanes([name, "adam", "sgd"])
    torch.manual_seed(0)
    undisturbed, other = lanes([name, "adam", "sgd"])
    before = flat[0].clone()
    for step in range(1, 4):
        gradients = torch.randn_like(flat)
        other.step(gradients, [0.1] * 3, step, [True] * 3)
        gradients[0] = bad
        optimizer.step(gradients, [0.1] * 3, step, [False, True, True])
    assert torch.equal(flat[0], before)
    assert torch.equal(flat[1:], undisturbed[1:])
    assert not torch.equal(undisturbed[0], before)
