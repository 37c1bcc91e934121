"""Models that ask their layers for types, devices, classes and sizes compute in training what they compute loaded."""

import pytest
import torch
from own_networks import IMAGES, LABELS, Net, given, objective_of, seeded, trained
from torch import Tensor, nn
from torch.nn import functional as F

import pipeline
from pipeline.adapt.lanes import FormOnly, Lanes
from pipeline.errors import SpecError
from pipeline.run.winners import recover
from pipeline.space import Values


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Asking(Net):
    """Does something else than ``Net`` before or after it."""

    def __init__(self, before=lambda net, x: x, after=lambda net, y: y) -> None:
        super().__init__()
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self, super().forward(self.before(self, x)))


class Chain(nn.Module):
    """Decides by the class of each layer what comes after it."""

    def __init__(self) -> None:
        super().__init__()
        pool, flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.layers = nn.ModuleList([nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), pool, flat, nn.Linear(8, 4)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
            x = x.relu() if isinstance(layer, nn.Conv2d) else x
        return x


class Nested(Net):
    """Calls its layers from holders that are no modules."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = [[self.head], [self.hidden]]

    def forward(self, x: Tensor) -> Tensor:
        (head,), (hidden,) = self.rows
        return head(hidden(self.conv(x).relu().mean((2, 3))).relu())


class ByKeyword(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(input=self.features(x))


class RowByRow(Net):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.head(row) for row in self.features(x)])


class Complex(Net):
    """Its first parameter is complex."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.polar(torch.ones(8), torch.arange(8.0)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.features(x) * self.turn).real)


class Stopped(Net):
    """No gradient reaches the features."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).detach())


ASKING = {
    "the type": lambda: Asking(lambda net, x: x.to(net.conv.weight.dtype)),
    "the device": lambda: Asking(lambda net, x: x.to(net.head.weight.device, net.conv.bias.dtype)),
    "type and device": lambda: Asking(lambda net, x: x.to(net.conv.weight)),
    "the type as": lambda: Asking(lambda net, x: x.type_as(net.conv.weight)),
    "the shape": lambda: Asking(after=lambda net, y: y.view(-1, net.head.weight.shape[0])),
    "sizes": lambda: Asking(after=lambda net, y: y[:, : net.head.weight.size(0)] * net.head.weight.ndim),
    "attributes": lambda: Asking(after=lambda net, y: y.view(-1, net.head.out_features)),
    "of a convolution": lambda: Asking(lambda net, x: F.pad(x, [net.conv.kernel_size[0] // 2] * 4)),
    "whether it has a bias": lambda: Asking(after=lambda net, y: y if net.head.bias is not None else -y),
    "whether it has a weight": lambda: Asking(after=lambda net, y: y if hasattr(net.head, "weight") else -y),
    "a tensor of its form": lambda: Asking(after=lambda net, y: y + torch.ones_like(net.head.bias)),
    "a tensor of its type": lambda: Asking(after=lambda net, y: y + net.head.weight.new_ones(4)),
    "the first parameter": lambda: Asking(lambda net, x: x.to(next(net.parameters()).dtype)),
    "whether it is a parameter": lambda: Asking(
        after=lambda net, y: y if isinstance(net.head.weight, nn.Parameter) else -y
    ),
    "its class": Chain,
    "from nested lists": Nested,
    "by keyword": ByKeyword,
    "row by row": RowByRow,
    "a complex parameter": Complex,
    "features without gradients": Stopped,
}


def logits_in_training(objective: pipeline.Objective, trial) -> Tensor:
    base, values = objective.bases.of(Values.of(trial.params).cell), Values.of(trial.params)
    parameters = {name: tensor[None] for name, tensor in recover(objective, None, trial).parameters.items()}
    with torch.no_grad():
        return base.program.bind(Lanes([(parameters, [values.alpha])]))(*base.program.inputs(IMAGES))


@pytest.mark.parametrize("adapter", ["lora", "dora", "full"])
@pytest.mark.parametrize("build", ASKING.values(), ids=ASKING)
def test_a_model_that_asks_for_the_form_of_its_layers_trains_as_what_is_loaded_computes(build, adapter):
    objective = objective_of(seeded(build), adapter=adapter)
    trial = trained(objective)
    pipeline.save(objective, trial, "saved")
    expected = logits_in_training(objective, trial)
    for merge in (False, True):
        with torch.no_grad():
            logits = pipeline.load("saved", model=build(), merge=merge)(IMAGES)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


READING = {
    "multiplied": lambda net, y: y + F.linear(y[:, :1].expand(-1, 8), net.hidden.weight)[:, :4],
    "summed": lambda net, y: y + 0 * net.hidden.weight.sum(),
    "compared": lambda net, y: y * (net.hidden.weight != 0).float().mean(),
    "one of them": lambda net, y: y if float(net.hidden.weight[0, 0]) == float(net.hidden.weight[0, 0]) else -y,
    "in a condition": lambda net, y: y if net.hidden.weight.abs().max() > 0 else -y,
    "turned": lambda net, y: y + net.hidden.weight.t()[:1, :4],
    "by its name": lambda net, y: y + net.get_parameter("hidden.weight").sum(),
    "detached": lambda net, y: y + net.hidden.weight.detach().norm(),
    "as data": lambda net, y: y + net.hidden.weight.data.norm(),
    "in the state dict": lambda net, y: y * net.state_dict()["hidden.weight"].abs().mean(),
    "of all parameters": lambda net, y: y * sum(p.square().sum() for p in net.hidden.parameters()),
    "moved": lambda net, y: y + net.hidden.weight.to(torch.float64).sum().float(),
}


@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize("after", READING.values(), ids=READING)
def test_a_model_that_reads_the_values_of_a_trained_layer_is_refused_by_its_name(after, adapter):
    with pytest.raises(SpecError, match=r"'hidden.weight' are read by \w+\); it trains .*hidden.*: leave that layer"):
        trained(objective_of(Asking(after=after), adapter=adapter))
    objective = objective_of(Asking(after=after), ["conv", "head"])
    assert trained(objective).value is not None


class WithoutGradients(Net):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > -1e9 else x  # which cannot be traced


def test_a_model_whose_forward_stops_all_gradients_is_refused(caplog):
    with pytest.raises(SpecError, match=r"no gradient reaches what adapter 'lora' trains in conv, hidden and head"):
        trained(objective_of(WithoutGradients()))
    with caplog.at_level("INFO", "pipeline"):
        trained(objective_of(Stopped()))
    assert "no gradient reaches conv and hidden: what adapter 'lora' adds there stays as it starts" in caplog.messages


def test_a_form_has_no_values_and_takes_no_memory():
    form = FormOnly.of(torch.zeros(1000, 1000, dtype=torch.float16), "fc.weight")
    assert (form.shape, form.dtype, form.numel(), len(form)) == ((1000, 1000), torch.float16, 10**6, 1000)
    with pytest.raises(RuntimeError, match=r"the values of 'fc.weight' are read by matmul"):
        form @ torch.zeros(1000)


MODES = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "the device meta": lambda: torch.device("meta"),
}


def result_of(mode) -> tuple[float, Tensor]:
    torch.manual_seed(0)
    model = Net()
    with mode():
        objective = objective_of(task=given(model), model=model)
        trial = trained(objective)
        pipeline.save(objective, trial, "saved", force=True)
    with torch.no_grad():
        return trial.value, pipeline.load("saved", model=Net())(IMAGES)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_modes_of_the_caller_change_nothing(mode):
    value, logits = result_of(torch.enable_grad)
    in_mode, other = result_of(mode)
    assert in_mode == value == pytest.approx((logits.argmax(1) == LABELS).float().mean().item())
    torch.testing.assert_close(other, logits, rtol=0, atol=0)


def test_another_default_type_of_the_caller_changes_nothing():
    _, logits = result_of(torch.enable_grad)
    net = seeded(Net)
    torch.set_default_dtype(torch.float64)
    try:
        objective = objective_of(net)
        pipeline.save(objective, trained(objective), "saved", force=True)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(pipeline.load("saved", model=Net())(IMAGES), logits, rtol=0, atol=0)


def test_a_loaded_model_is_adapted_again_once_its_adapters_are_merged():
    objective = objective_of(seeded(Net))
    pipeline.save(objective, trained(objective), "saved")
    loaded = pipeline.load("saved", model=Net())
    with pytest.raises(SpecError, match=r"'head' is 'head', a AdaptedLinear that has an adapter; .* with merge=True"):
        objective_of(loaded, ["head"])
    again = objective_of(pipeline.load("saved", model=Net(), merge=True))
    assert trained(again).value is not None
