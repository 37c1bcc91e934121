"""Adapters and trials on models that have lost channels."""

import pytest
import timm
import torch
from tiny_studies import Mlp, ResidualNet, adapted, make_objective, make_spec, make_task, measure

from pipeline.adapt.contract import Draw
from pipeline.adapt.inits.contract import Start
from pipeline.adapt.lanes import Lanes
from pipeline.adapt.methods.lora import Lora
from pipeline.compress.methods.prune_magnitude import PruneMagnitude
from pipeline.compress.targets import find_targets
from pipeline.export.pack import PackedMethod, pack_model, unpack_model
from pipeline.run.winners import score_model
from pipeline.space import Values
from pipeline.task.contract import Task
from pipeline.task.parts import TensorPart
from pipeline.train.cut.program import make_program
from pipeline.train.lane import Lane
from pipeline.train.loop import Recipe, train_epoch
from pipeline.train.optimizers.adam import Adam
from pipeline.train.rows import image_rows

EACH = pytest.mark.parametrize(
    "compression", ["prune_magnitude", {"method": "prune_gradient", "when": "steps", "batch_size": 16}], ids=str
)


def test_lora_trains_on_a_pruned_resnet_and_comes_back_from_a_file():
    build = lambda: timm.create_model("test_resnet", num_classes=3, zero_init_last=False)  # noqa: E731
    model, part = build().eval(), TensorPart(torch.randn(8, 3, 32, 32), torch.arange(8) % 3)
    targets, compression, adapter = find_targets(model, ["*"]), PruneMagnitude(), Lora()
    compressed = compression.compress_model(model, targets, {}, part)
    shapes = {name: weight.shape for name, weight in compressed.weights.items()}
    starts = {name: Start(torch.randn(2, inner), torch.zeros(out, 2)) for name, (out, inner) in shapes.items()}
    lane = Lane(adapter.begin(compressed, starts, Draw(4.0)), 4.0, Adam(), 1e-2, 4, 0)
    program = make_program(compressed, adapter, [[(lane.parameters, lane.alpha)]], part.images)
    assert program.cut is not None, program.why
    rows = program.rows(image_rows(part))
    train_epoch([lane], program, rows, rows, Recipe(epochs=1))
    assert all(tensor.any() for name, tensor in lane.parameters.items() if name.endswith("lora_B"))
    method = PackedMethod(compression, targets, adapter, lane.alpha)
    loaded = unpack_model(build(), pack_model(compressed, adapter, lane.parameters), method)
    with torch.no_grad():
        expected = program.bind(
            Lanes([({name: tensor[None] for name, tensor in lane.parameters.items()}, [lane.alpha])])
        )(*program.inputs(part.images))
        torch.testing.assert_close(loaded(part.images), expected, rtol=1e-4, atol=1e-5)


@EACH
@pytest.mark.parametrize("module", [Mlp, ResidualNet])
def test_an_objective_trains_and_sizes_a_pruned_model(compression, module):
    task = make_task(module)
    objective = make_objective(make_spec(combination={"compression": compression}), task)
    small, facts = objective.combination.compressed_size, objective.combination.facts(2)
    assert small.dense_bytes == sum(tensor.nbytes for tensor in task.model.state_dict().values())
    assert small.bytes < 0.7 * small.dense_bytes
    assert small.bytes < facts.size.bytes
    assert facts.ranks == dict.fromkeys(objective.combination.targets, 2)
    for init in ("paper", "svd"):
        lane = objective.lane(Values(2, init, 4.0, "adam", 1e-2, 16))
        start = adapted(objective, lane.parameters, 4.0)
        assert measure(start, task.val) == measure(objective.combination.compressed.model, task.val)
        objective.train_epoch([lane])
        assert lane.failure is None
        assert lane.curve
        tensors = pack_model(objective.combination.compressed, objective.combination.adapter, lane.parameters)
        assert sum(tensor.nbytes for tensor in tensors.values()) == facts.size.bytes


def test_a_pruned_transformer_is_held_against_the_whole_one():
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48, num_classes=3)
    images, labels = torch.randn(12, 3, 32, 32), torch.arange(12) % 3
    task = Task(vit, *[(images, labels)] * 3)
    objective = make_objective(make_spec(combination={"compression": "prune_magnitude"}), task)
    assert objective.bases.common.program.cut is not None
    for model in (objective.combination.model, objective.combination.compressed.model):
        assert score_model(objective, model, "val") == measure(model, task.val)
