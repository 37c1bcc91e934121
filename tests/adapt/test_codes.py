"""Trained codes: what is trained and stored, when codes are frozen, and what goes on top of them."""

import pytest
import torch
from methods import images, mlp, resnet, settled, starts_of
from pydantic import ValidationError
from tiny_studies import make_objective, make_spec
from torch import nn

from pipeline.adapt.batch_norm import BatchNormLayer, running_statistics
from pipeline.adapt.contract import Draw, stored_model
from pipeline.adapt.inits.contract import Start
from pipeline.adapt.inits.residual_svd import ResidualSvd
from pipeline.adapt.lanes import Lanes, Stack, attach
from pipeline.adapt.methods.codes import FIRST, GROWTH, INTERVAL, ROUNDS, Codes
from pipeline.adapt.methods.lora import Lora
from pipeline.compress.contract import CompressedModel
from pipeline.compress.layers import copy_sharing_tensors
from pipeline.compress.methods.int1 import Int1
from pipeline.compress.methods.intn import IntN
from pipeline.compress.methods.sparse import Sparse
from pipeline.compress.packing import select_part
from pipeline.compress.sizes import StoredModel, model_size
from pipeline.compress.targets import find_targets
from pipeline.errors import SpecError
from pipeline.space import Values
from pipeline.train.cut.program import make_program
from pipeline.train.lane import Lane
from pipeline.train.loop import Recipe, train_epoch
from pipeline.train.optimizers.adam import Adam
from pipeline.train.rows import ComputedRows, image_rows


def trained(codes: Codes, compressed: CompressedModel, epochs: int = 6, lr: float = 1e-2) -> Lane:
    """A lane after some epochs on images whose classes can be told apart."""
    part = images(3, 32, 32, count=96)
    begun = codes.begin(compressed, {}, Draw())
    frozen = frozenset(name for name in begun if codes.is_frozen(name))
    lane = Lane(begun, 1.0, Adam(), lr, 16, 0, frozen=frozen)
    program = make_program(compressed, codes, [[(lane.parameters, 1.0)]], part.images[:3])
    rows = program.rows(image_rows(part))
    for _ in range(epochs):
        train_epoch([lane], program, rows, rows, Recipe(epochs=epochs))
    return lane


def of_mlp(bits: int = 2) -> CompressedModel:
    model = settled(mlp)
    method = Int1() if bits == 1 else IntN(bits=bits)
    return method.compress_model(model, find_targets(model, ["*"]), {})


@pytest.mark.parametrize("mode", ["ste", "lc"])
@pytest.mark.parametrize("bits", [1, 2])
def test_trained_codes_lower_the_loss_and_take_no_byte_more(bits, mode):
    compressed = of_mlp(bits)
    lane = trained(Codes(mode=mode), compressed)
    assert lane.curve[-1].val_loss < lane.curve[0].val_loss
    stored = stored_model(Codes(mode=mode), compressed, lane.best_parameters)
    model = compressed.reference
    assert model_size(model, stored).bytes == model_size(model, StoredModel(compressed)).bytes
    assert any(
        not torch.equal(stored.compressed.weights[name].to_tensors()[kind], tensor)
        for name, weight in compressed.weights.items()
        for kind, tensor in weight.to_tensors().items()
        if kind in ("sign", "code")
    )


def test_codes_and_lora_begin_as_the_weight_itself_in_mode_lc_which_does_not_round_in_training():
    compressed = of_mlp(1)
    starts = starts_of(ResidualSvd(), Int1(), compressed, dict.fromkeys(compressed.weights, ()), 4)
    x, lost = torch.randn(5, 3, 32, 32), {}
    for mode in ("ste", "lc"):
        codes, model = Codes(mode=mode, adapter=Lora()), copy_sharing_tensors(compressed.model)
        begun = codes.begin(compressed, starts, Draw(8.0))
        lanes = Lanes([({name: tensor[None] for name, tensor in begun.items()}, [8.0])])
        attach(model, codes, lanes, compressed.weights)
        lost[mode] = (model(x) - compressed.reference(x)).norm()
    assert lost["lc"] < 0.05 * lost["ste"]


def test_the_penalty_of_lc_draws_latent_weights_to_their_codes():
    compressed = of_mlp(2)
    lane = trained(Codes(mode="lc", hold=1.0), compressed, epochs=30)
    for name, weight in compressed.weights.items():
        own = {kind: lane.parameters[f"{name}.weight_{kind}"] for kind in ("latent", "scale")}
        distance = (weight.unrounded(own) - weight.project(own)).norm() / weight.unrounded(own).norm()
        begun = (compressed.reference.get_submodule(name).weight.detach() - weight.dense()).norm()
        assert distance < 0.5 * begun / weight.dense().norm()


def test_the_penalty_of_lc_is_that_of_each_lane_and_grows_with_the_share_of_the_training():
    codes, compressed = Codes(mode="lc"), of_mlp(2)
    begun = codes.begin(compressed, {}, Draw())
    parameters = {name: torch.stack([tensor, tensor]) for name, tensor in begun.items()}
    for name in compressed.weights:
        parameters[f"{name}.weight_latent"][1] *= 1.1
    distances = []
    for lane in range(2):
        pairs = [
            ({kind: parameters[f"{name}.weight_{kind}"][lane] for kind in ("latent", "scale")}, weight)
            for name, weight in compressed.weights.items()
        ]
        distances.append(sum((own["latent"] - weight.project(own)).square().sum() for own, weight in pairs))
    for share, mu in ((0.0, FIRST), (0.5, FIRST * GROWTH ** (ROUNDS // 2))):
        found = codes.penalty(compressed.weights, parameters, share)
        torch.testing.assert_close(found, mu / 2 * torch.stack(distances))


def test_the_penalty_of_lc_draws_weights_that_are_not_kept_to_zero():
    model, distances = settled(mlp), []
    compressed = Sparse(keep=0.25).compress_model(model, find_targets(model, ["*"]), {})
    name = next(iter(compressed.weights))
    for mode in ("ste", "lc"):
        lane = trained(Codes(mode=mode), compressed, epochs=30)
        latent, kept = (lane.parameters[f"{name}.weight_{kind}"] for kind in ("latent", "kept"))
        distances.append(latent.flatten().scatter(0, kept, 0.0).norm() / latent.norm())
    assert distances[1] < 0.5 * distances[0]


def test_a_code_that_flips_twice_after_hold_is_frozen_in_the_middle_of_its_cell():
    codes, compressed = Codes(hold=0.5), of_mlp(2)
    parameters = {name: tensor[None].clone() for name, tensor in codes.begin(compressed, {}, Draw()).items()}
    latent, scale = parameters["2.weight_latent"], parameters["2.weight_scale"]
    inner = [0.6 * scale[0, 0, 0], 1.4 * scale[0, 0, 0]]  # to either side of code 1
    for number in range(6):
        latent[0, 0, 0] = inner[number % 2] - scale[0, 0, 0] * (number % 2 == 0)
        codes.after_step(compressed.weights, parameters, 50 + INTERVAL * number, 100)
        if number == 1:
            assert latent[0, 0, 0] == inner[1]
    weight = compressed.weights["2"]
    _, middle = weight.latent_codes({"latent": latent[0], "scale": scale[0]})["latent"]
    assert latent[0, 0, 0] == middle[0, 0]
    assert parameters["2.hold_latent_flips"].sum() == 2


def test_nothing_is_frozen_before_hold_or_between_intervals():
    codes, compressed = Codes(hold=0.5), of_mlp(1)
    parameters = {name: tensor[None].clone() for name, tensor in codes.begin(compressed, {}, Draw()).items()}
    before = {name: tensor.clone() for name, tensor in parameters.items()}
    for step in (10, 20, 51, 55):
        parameters["2.weight_latent"].neg_()
        codes.after_step(compressed.weights, parameters, step, 100)
    assert all(torch.equal(tensor, before[name]) for name, tensor in parameters.items())


def test_the_first_comparison_after_hold_only_notes_the_codes():
    codes, compressed = Codes(hold=0.5), of_mlp(1)
    parameters = {name: tensor[None].clone() for name, tensor in codes.begin(compressed, {}, Draw()).items()}
    for step, flips in ((50, 0), (60, 1)):
        parameters["2.weight_latent"].neg_()
        codes.after_step(compressed.weights, parameters, step, 100)
        assert (parameters["2.hold_latent_flips"] == flips).all()


def test_norms_after_the_first_compressed_layer_are_trained_and_those_before_it_are_not():
    model = settled(resnet)
    compressed = Int1().compress_model(model, ["layer2.0.conv1", "fc"], {})
    begun = Codes().begin(compressed, {}, Draw())
    assert "layer2.0.bn1.weight" in begun
    assert "layer1.0.bn1.weight" not in begun
    assert "fc.bias" in begun
    assert not any(name.startswith("layer2.0.bn1") for name in Codes(norms=False).begin(compressed, {}, Draw()))


def test_a_low_rank_adapter_on_top_begins_at_its_start_and_is_stored_beside_the_codes():
    codes, compressed = Codes.model_validate({"adapter": {"method": "lora", "factors": "float16"}}), of_mlp(2)
    starts = {
        name: Start(torch.ones(2, weight.shape[1]), torch.ones(weight.shape[0], 2))
        for name, weight in compressed.weights.items()
    }
    begun = codes.begin(compressed, starts, Draw(4.0))
    stored = stored_model(codes, compressed, begun)
    assert {name.rpartition(".")[2] for name in stored.adapter} == {"lora_A", "lora_B", "bias"}
    assert stored.adapter["2.lora_A"].dtype == torch.float16


@pytest.mark.parametrize("init", ["loftq", "pissa", "olora", "svd"])
@pytest.mark.parametrize("compression", ["int1", {"method": "intN", "bits": 3}])
def test_latent_weights_begin_at_what_an_init_that_moves_the_base_leaves_to_the_codes(compression, init):
    methods = {"compression": compression, "adapter": {"method": "codes", "adapter": "lora"}}
    spec = make_spec(combination=methods, inits=[init], ranks=[2])
    objective = make_objective(spec)
    lane = objective.lane(Values(2, init, alpha=2.0, optimizer="adam", lr=1e-2, batch_size=16))
    base = objective.bases.of(Values(2, init).cell).compressed
    for name, weight in base.weights.items():
        own = {kind: lane.parameters[f"{name}.{kind}"] for kind in ("lora_A", "lora_B", "weight_latent")}
        W = base.reference.get_submodule(name).weight
        coded = W if init == "svd" else W - own["lora_B"] @ own["lora_A"]
        begun = select_part({key.removeprefix(f"{name}."): t for key, t in lane.parameters.items()}, "weight")
        assert torch.equal(weight.project(begun), weight.dense())
        near = torch.isclose(own["weight_latent"], coded, atol=1e-6)
        assert near.float().mean() > 0.8


@pytest.mark.parametrize(
    ("adapter", "reason"),
    [
        ("full", "unknown low-rank adapter 'full'; allowed: dora, lora"),
        ("tuo", "unknown low-rank adapter 'tuo'; allowed: dora, lora"),
        ({"method": "codes", "adapter": "lora"}, "unknown low-rank adapter 'codes'; allowed: dora, lora"),
        ({"method": "lora", "scales": True}, "scales"),
    ],
)
def test_other_adapters_on_top_are_refused(adapter, reason):
    with pytest.raises(ValidationError, match=reason):
        Codes.model_validate({"adapter": adapter})


def test_layers_that_share_a_weight_are_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    compressed = Int1().compress_model(model, ["0", "1"], {})
    with pytest.raises(SpecError, match="'0' and '1' share one weight"):
        Codes().begin(compressed, {}, Draw())


@pytest.mark.parametrize("choices", ["moving", "fixed"])
def test_positions_are_chosen_anew_every_interval_unless_they_are_fixed(choices):
    model = settled(mlp)
    compressed = Sparse(keep=0.1).compress_model(model, ["2"], {})
    codes = Codes(choices=choices)
    parameters = {name: tensor[None].clone() for name, tensor in codes.begin(compressed, {}, Draw()).items()}
    parameters["2.weight_latent"][:] = torch.randn(parameters["2.weight_latent"].shape)
    for step, moves in ((INTERVAL - 1, False), (INTERVAL, choices == "moving")):
        before = parameters["2.weight_kept"].sort().values
        codes.after_step(compressed.weights, parameters, step, 1000)
        assert torch.equal(parameters["2.weight_kept"].sort().values, before) != moves


def test_batch_norms_of_each_lane_follow_its_own_batches_and_are_stored_with_their_statistics():
    compressed = IntN(bits=2).compress_model(settled(resnet), ["layer2.0.conv1"], {})
    part, codes = images(3, 32, 32, count=16), Codes()
    lanes = []
    for lr in (1e-2, 1e-4):
        begun = codes.begin(compressed, {}, Draw())
        frozen = frozenset(name for name in begun if codes.is_frozen(name))
        lanes.append(Lane(begun, 1.0, Adam(), lr, 8, 0, frozen=frozen))
    name = "layer2.0.bn2.running_mean"
    begun = lanes[0].parameters[name].clone()
    program = make_program(compressed, codes, [[(lane.parameters, 1.0) for lane in lanes]], part.images[:3])
    assert program.cut is not None
    assert program.cut.stem is not None
    rows = program.rows(ComputedRows(image_rows(part), program.cut.stem))
    train_epoch(lanes, program, rows, rows, Recipe(epochs=1))
    one, other = (lane.parameters[name] for lane in lanes)
    assert not torch.equal(one, begun)
    assert not torch.equal(one, other)
    assert torch.equal(stored_model(codes, compressed, lanes[0].parameters).tensors()[name], one)
    assert torch.equal(compressed.model.state_dict()[name], begun)
    assert name not in Codes(statistics="kept").begin(compressed, {}, Draw())


@pytest.mark.parametrize("momentum", [None, 0.3])
def test_statistics_of_a_batch_norm_follow_its_batches_with_its_momentum_or_a_tenth(momentum):
    norm, x = nn.BatchNorm1d(2, momentum=momentum), torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    own = {name: tensor[None] for name, tensor in [*norm.named_parameters(), *running_statistics(norm).items()]}
    BatchNormLayer(norm).forward(x, None, [Stack(own, torch.ones(1))])
    torch.testing.assert_close(own["running_mean"], (momentum or 0.1) * x.mean(0)[None])


def test_a_batch_with_one_value_per_channel_is_normalised_by_the_running_statistics():
    norm, x = nn.BatchNorm1d(2), torch.tensor([[1.0, 2.0]])
    norm.running_mean += 0.5
    own = {name: tensor[None].clone() for name, tensor in running_statistics(norm).items()}
    y = BatchNormLayer(norm).forward(x, None, [Stack(own, torch.ones(1))])
    torch.testing.assert_close(y, norm.eval()(x))
    assert torch.equal(own["running_mean"][0], norm.running_mean)
