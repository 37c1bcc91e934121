from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from random_lanes import Calls, Trial, aliased, alone, in_stacks, made, trials, uncompressed
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.adapt.contract import Draw
from pipeline.adapt.lanes import Lanes
from pipeline.adapt.methods.full import Full
from pipeline.adapt.methods.head import Head
from pipeline.adapt.methods.lora import Lora
from pipeline.compress.contract import CompressedModel
from pipeline.errors import SpecError
from pipeline.task.parts import TensorPart
from pipeline.train.cut.program import Program, make_program
from pipeline.train.rows import image_rows


def program_of(model: nn.Module, lanes: list[Trial], images: Tensor) -> Program:
    return make_program(uncompressed(model), Lora(), [lanes[:-1], lanes[-1:]], images)


def branching(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.c(m.b(h) if h.abs().max() > 0.1 else m.b(-h))


def of_its_length(m: Calls, x: Tensor) -> Tensor:
    return m.c(m.b(m.a(x).reshape(len(x), 6)))


def across_images(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.c(m.b(h - h.mean(0, keepdim=True)))


FALL_BACKS = {
    "its calls depend on what it is given": (branching, "control flow"),
    "it asks for the number of images": (of_its_length, "len"),
    "a name stays with what is changed in place": (aliased, "other outputs"),
    "images are seen beside each other": (across_images, "other images"),
}


@torch.no_grad()
@pytest.mark.parametrize(("calls", "why"), FALL_BACKS.values(), ids=FALL_BACKS)
def test_a_model_that_cannot_be_cut_runs_whole_and_gives_the_same_logits(calls, why):
    model, images = made(calls)
    lanes = trials(model, ["b", "c"])
    program = program_of(model, lanes, images)
    assert program.cut is None
    assert program.stacks
    assert why in program.why
    expected = torch.cat([alone(model, trial, images) for trial in lanes])
    logits = program.bind(in_stacks(lanes))(*program.inputs(images))
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


def random_numbers(m: Calls, x: Tensor) -> Tensor:
    return m.c(m.b(m.a(x)) + torch.rand_like(x))


def random_stem(m: Calls, x: Tensor) -> Tensor:
    return m.c(m.b(m.a(x) + torch.rand(6, dtype=x.dtype)))


def across_lanes(m: Calls, x: Tensor) -> Tensor:
    h = m.b(m.a(x))
    return m.c(h - h.mean(0))


@pytest.mark.parametrize("calls", [random_numbers, random_stem, across_lanes])
def test_a_model_that_mixes_a_batch_takes_one_lane_per_pass(calls):
    model, images = made(calls)
    program = program_of(model, trials(model, ["b", "c"]), images)
    assert program.cut is None
    assert not program.stacks
    assert program.why


@torch.no_grad()
def test_a_model_whose_batch_is_its_second_axis_takes_one_lane_per_pass_and_is_right():
    model, images = made(lambda m, x: m.c(m.b(m.a(x)[:, None].expand(-1, 2, -1).transpose(0, 1)).tanh()).mean(0))
    lanes = trials(model, ["b", "c"])
    program = program_of(model, lanes, images)
    assert not program.stacks
    for parameters, alpha in lanes:
        one = Lanes([({name: tensor[None] for name, tensor in parameters.items()}, [alpha])])
        logits = program.bind(one)(*program.inputs(images))
        torch.testing.assert_close(logits, alone(model, (parameters, alpha), images), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_rows_hold_the_inputs_of_the_lanes_and_leave_the_images_unchanged():
    model, images = made(lambda m, x: m.c(m.b(x).relu()))
    lanes = trials(model, ["b", "c"])
    program = program_of(model, lanes, images)
    assert program.cut.stem is None
    part = TensorPart(torch.randn(9, 6, dtype=torch.float64), torch.arange(9) % 3)
    before = part.images.clone()
    rows = program.rows(image_rows(part))
    ((inputs, labels),) = rows.batches(9)
    assert torch.equal(part.images, before)
    assert torch.equal(labels, part.labels)
    assert inputs[0].data_ptr() == part.images.data_ptr(), "images that pass through are held once"
    torch.testing.assert_close(inputs[1], model.b(part.images), rtol=1e-12, atol=1e-12)
    expected = torch.cat([alone(model, trial, part.images) for trial in lanes])
    torch.testing.assert_close(program.bind(in_stacks(lanes))(*inputs), expected, rtol=1e-9, atol=1e-9)


def test_a_whole_program_takes_images_as_they_are():
    model, images = made(lambda m, x: m.c(m.b(m.a(x))))
    program = Program(uncompressed(model), Lora(), why="the test said so")
    assert program.inputs(images) == (images,)
    assert (program.why, program.stacks, program.without_lanes(model)) == ("the test said so", True, model)


def test_a_target_whose_weight_the_model_reads_directly_is_refused():
    model, images = made(lambda m, x: m.c(F.linear(m.b(m.a(x)), m.b.weight)))
    with pytest.raises(SpecError, match=r"'b.weight' are read by linear"):
        program_of(model, trials(model, ["b", "c"]), images)


def test_another_thread_computes_undisturbed_while_a_model_is_traced():
    other, images = made(lambda m, x: m.c(m.b(m.a(x))))
    expected = other(images)

    def meanwhile(m: Calls, x: Tensor) -> Tensor:
        with ThreadPoolExecutor(1) as thread:
            assert torch.equal(thread.submit(other, images).result(), expected)
        return m.c(m.b(m.a(x)))

    model, _ = made(meanwhile)
    program = program_of(model, trials(model, ["b", "c"]), images)
    assert program.cut is not None, program.why


class Reading(nn.Module):
    """A model that reads the weight of a layer and does not call it, as BEiT's attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.linear(x, self.read.weight, self.read.bias))


def test_a_weight_that_is_read_directly_cannot_be_trained_whole():
    model = Reading().eval()
    lane = {name: torch.randn_like(tensor) for name, tensor in model.named_parameters()}
    with pytest.raises(SpecError, match=r"adapter 'full' cannot train it.*read and head"):
        make_program(uncompressed(model), Full(), [[(lane, 1.0)]], torch.randn(3, 4))


def test_all_classifiers_of_a_model_are_its_head():
    model = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1, embed_dim=48, num_classes=3)
    names = Head().begin(CompressedModel(model, {}, model), {}, Draw())
    assert set(names) == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}
