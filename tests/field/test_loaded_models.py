"""A loaded model behaves as the bare architecture does, whatever is done with either."""

import copy
import io
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import torch
from exported_models import write
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, prune, vector_to_parameters

from pipeline import load
from pipeline.adapt.contract import Adapter
from pipeline.adapt.methods.dora import Dora
from pipeline.adapt.methods.lora import Lora
from pipeline.adapt.methods.no_adapter import NoAdapter
from pipeline.compress.methods.int1 import Int1

pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns of what it will drop, and of shapes that are traced


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


class Cnn(nn.Module):
    """Its images may lack the axis of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, padding=1, groups=2)
        self.second = nn.Conv2d(8, 12, (3, 2), stride=2, bias=False)
        self.last = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x).relu()).relu().mean((-2, -1)))


NETS = {"mlp": (Mlp, (12,)), "cnn": (Cnn, (4, 9, 9))}
ADAPTERS = {"lora": Lora(), "dora": Dora(), "none": NoAdapter()}


@pytest.fixture(scope="module", params=[(net, adapter) for net in NETS for adapter in ADAPTERS], ids="-".join)
def case(request, tmp_path_factory) -> tuple[Callable[..., nn.Module], type[nn.Module], Tensor]:
    """A function that loads a checkpoint, the class of the bare architecture, and 5 images."""
    net, adapter = request.param
    (build, shape), folder = NETS[net], tmp_path_factory.mktemp("checkpoint") / net
    torch.manual_seed(0)
    methods: tuple[Int1, Adapter] = (Int1(), ADAPTERS[adapter])
    write(folder, build(), methods, *shape)
    return lambda **options: load(folder, model=build(), **options), build, torch.randn(5, *shape)


def through_bytes(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def exported(model: nn.Module, x: Tensor) -> Tensor:
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(model, (torch.cat([x, x]),), dynamic_shapes=({0: batch},))
    return program.module()(x)


def traced(model: nn.Module, x: Tensor) -> Tensor:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, torch.cat([x, x])), buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)(x)


def autocast(model: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return model(x)


def emptied_and_filled(model: nn.Module, x: Tensor) -> Tensor:
    state = copy.deepcopy(model.state_dict())
    model.to_empty(device="cpu").load_state_dict(state)
    return model(x)


def from_vector(model: nn.Module, x: Tensor) -> Tensor:
    vector = parameters_to_vector(model.parameters()).clone()
    for parameter in model.parameters():
        parameter.zero_()
    vector_to_parameters(vector, model.parameters())
    return model(x)


def pruned(model: nn.Module, x: Tensor) -> Tensor:
    prune.l1_unstructured(model.first, "weight", amount=0)
    return model(x)


def normed(model: nn.Module, x: Tensor) -> Tensor:
    torch.nn.utils.parametrizations.weight_norm(model.first)
    return model(x)


def ensembled(model: nn.Module, x: Tensor) -> Tensor:
    stacked = torch.func.stack_module_state([model, copy.deepcopy(model)])
    return torch.vmap(partial(torch.func.functional_call, model), (0, None))(stacked, x)[1]


def directional(model: nn.Module, x: Tensor) -> Tensor:
    y, change = torch.func.jvp(model, (x,), (torch.ones_like(x),))
    assert change.abs().max() > 0
    return y


def inferred(model: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(x).clone()


def stored_strided(model: nn.Module, x: Tensor) -> Tensor:
    return model(torch.stack([x, x], dim=-1)[..., 0])


USES: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], float]] = {
    "double": (lambda model, x: model.double()(x.double()), 1e-5),
    "half": (lambda model, x: model.half()(x.half()), 2e-2),
    "bfloat16": (lambda model, x: model.bfloat16()(x.bfloat16()), 1e-1),
    "autocast": (autocast, 1e-1),
    "channels last": (lambda model, x: model.to(memory_format=torch.channels_last)(x), 1e-5),
    "strided": (stored_strided, 1e-5),
    "deepcopy": (lambda model, x: copy.deepcopy(model)(x), 0),
    "pickle": (lambda model, x: pickle.loads(pickle.dumps(model))(x), 0),
    "torch.save": (lambda model, x: through_bytes(model)(x), 0),
    "to_empty": (emptied_and_filled, 0),
    "share_memory": (lambda model, x: model.share_memory()(x), 0),
    "inference_mode": (inferred, 0),
    "vector of parameters": (from_vector, 0),
    "prune": (pruned, 0),
    "weight_norm": (normed, 1e-5),
    "average": (lambda model, x: torch.optim.swa_utils.AveragedModel(model)(x), 0),
    "DataParallel": (lambda model, x: nn.DataParallel(model)(x), 0),
    "functional_call": (lambda model, x: torch.func.functional_call(model, model.state_dict(), (x,)), 0),
    "vmap": (lambda model, x: torch.vmap(model)(x), 1e-5),
    "jvp": (directional, 1e-5),
    "ensemble": (ensembled, 1e-5),
    "trace, another batch": (traced, 1e-5),
    "script": (lambda model, x: torch.jit.freeze(torch.jit.script(model))(x), 1e-5),
    "fx": (lambda model, x: torch.fx.symbolic_trace(model)(x), 0),
    "export, any batch": (exported, 1e-5),
    "compile": (lambda model, x: torch.compile(model, backend="aot_eager", fullgraph=True)(x), 1e-5),
    "quantize_dynamic": (lambda model, x: torch.ao.quantization.quantize_dynamic(model, {nn.Linear})(x), 1e-1),
}


@pytest.mark.parametrize("merge", [False, True], ids=["adapters", "merged"])
@pytest.mark.parametrize(("use", "tolerance"), USES.values(), ids=USES)
def test_what_can_be_done_with_a_module_gives_the_same_outputs(case, use, tolerance, merge):
    opened, _, x = case
    with torch.no_grad():
        y = opened()(x)
        got = use(opened(merge=merge), x)
    assert got.shape == y.shape
    torch.testing.assert_close(got.to(y), y, rtol=0, atol=max(tolerance, 1e-5 if merge else 0))


def test_a_dtype_or_a_device_goes_through_to_the_output(case):
    opened, _, x = case
    for target in (torch.float64, torch.float16, torch.bfloat16, "meta"):
        y = opened().to(target)(x.to(target))
        assert target in (y.dtype, y.device.type)
    y = opened().double()(x.double())
    torch.testing.assert_close(y.float(), opened()(x))


def test_a_model_is_loaded_in_the_dtype_of_the_architecture_that_is_given(tmp_path):
    write(tmp_path / "checkpoint", Cnn(), (Int1(), Dora()), 4, 9, 9)
    x = torch.randn(2, 4, 9, 9)
    for merge in (False, True):
        y = load(tmp_path / "checkpoint", model=Cnn().double(), merge=merge)(x.double())
        assert y.dtype == torch.float64
        torch.testing.assert_close(y.float(), load(tmp_path / "checkpoint", model=Cnn())(x))


def test_torchs_default_dtype_and_device_do_not_matter(case):
    opened, _, x = case
    y = opened()(x)
    try:
        torch.set_default_dtype(torch.float64)
        torch.testing.assert_close(opened(merge=True)(x.double()).float(), y)
        torch.testing.assert_close(opened()(x.double()).float(), y)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_model_is_unpacked_on_the_cpu_whatever_the_default_device_is(tmp_path):
    write(tmp_path / "checkpoint", Cnn(), (Int1(), Dora()), 4, 9, 9)
    bare, x = [Cnn(), Cnn()], torch.randn(2, 4, 9, 9)
    with torch.device("meta"):
        models = [load(tmp_path / "checkpoint", model=bare.pop(), merge=merge) for merge in (False, True)]
    torch.testing.assert_close(*[model(x) for model in models])


def test_every_parameter_learns_after_requires_grad(case):
    opened, _, x = case
    model = opened().train().requires_grad_(True)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).square().mean().backward()
    optimizer.step()
    unmoved = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert unmoved == []
    assert [module.training for module in model.eval().modules()] == [False] * len(list(model.modules()))


SHAPES = {
    "mlp": [(0, 12), (12,), (1, 12), (2, 5, 12), (0, 5, 12), (2, 3, 4, 12)],
    "cnn": [(0, 4, 9, 9), (4, 9, 9), (1, 4, 9, 9), (7, 4, 5, 14)],
}


def test_inputs_of_every_shape_that_the_bare_architecture_takes_give_outputs_of_its_shape(case):
    opened, build, x = case
    model, bare = opened(), build()
    for shape in SHAPES["mlp" if x.ndim == 2 else "cnn"]:
        one = torch.randn(shape)
        y = model(one)
        assert y.shape == bare(one).shape
        torch.testing.assert_close(opened(merge=True)(one), y)
        if one.ndim == x.ndim - 1:
            torch.testing.assert_close(model(one[None])[0], y)


def test_per_sample_gradients_and_jacobians_are_those_of_the_merged_model(case):
    opened, _, x = case
    rows = [torch.vmap(torch.func.jacrev(opened(merge=merge)))(x) for merge in (False, True)]
    torch.testing.assert_close(*rows)


def test_two_loads_agree_in_names_order_and_values(case):
    opened, build, x = case
    one, other = opened(), opened()
    assert [name for name, _ in one.named_parameters()] == [name for name, _ in other.named_parameters()]
    assert list(one.state_dict()) == list(other.state_dict())
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(one.state_dict(), strict=True)
    assert torch.equal(one(x), other(x))
    names = set(one.state_dict()) - set(build().state_dict())
    assert {name.rpartition(".")[2] for name in names} <= {"lora_A", "lora_B", "magnitude"}


def test_the_layers_stay_linear_and_convolutions_whose_hooks_are_called(case):
    opened, build, x = case
    model, bare, seen = opened(), build(), []
    for name, module in bare.named_modules():
        layer = model.get_submodule(name)
        assert isinstance(layer, type(module))
        if name:
            layer.register_forward_hook(lambda layer, *_: seen.append(layer))
    model(x)
    assert len(seen) == len(list(bare.children()))
    assert repr(model).count("rank=2") == sum("lora_A" in name for name in model.state_dict())


def test_a_merged_model_has_the_bare_architectures_modules_and_a_state_dict_that_fits_it_strictly(case):
    opened, build, x = case
    merged, bare = opened(merge=True), build()
    assert [type(module) for module in merged.modules()] == [type(module) for module in bare.modules()]
    bare.load_state_dict(merged.state_dict(), strict=True)
    torch.testing.assert_close(bare(x), opened()(x), rtol=0, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in merged.parameters())
