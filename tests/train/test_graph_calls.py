import pytest
import torch
from model_cuts import cut_at, staged
from random_lanes import Calls, aliased, alone, in_stacks, made, trials, uncompressed
from torch import Tensor
from torch.nn import functional as F

from pipeline.adapt.methods.lora import Lora
from pipeline.errors import SpecError
from pipeline.train.cut.program import make_program
from pipeline.train.cut.trace import CannotCutError


def added(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)
    y = m.b(h)
    h.add_(m.norm(h))
    return m.c(y + h)


def test_a_model_that_changes_what_its_gradients_need_is_refused():
    model, images = made(added)
    with pytest.raises(SpecError, match=r"gradients of what adapter 'lora' trains .* modified by an inplace operation"):
        make_program(uncompressed(model), Lora(), [trials(model, ["b", "c"])[:2]], images)


def powered(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)
    y = m.b(m.norm(h))
    h **= 2
    return m.c(y + h)


def within(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)
    y = m.hidden(h)
    return m.c(m.b(y).tanh() + h)


def written_to(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)
    y = torch.add(h, 1.0, out=h)
    return m.c(m.b(y) + h)


def of_a_view(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)
    y = h.view(-1, 2, 3).relu_()
    return m.c(m.b(y.flatten(1)) + h)


def of_the_images(m: Calls, x: Tensor) -> Tensor:
    x -= 0.5
    return m.c(m.b(m.a(x)) + x)


def of_a_lane(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)
    y = m.b(m.norm(h))
    h += y
    return m.c(F.relu(h, inplace=True))


CALLS_IN_PLACE = (aliased, powered, within, written_to, of_a_view, of_the_images, of_a_lane)


@torch.no_grad()
@pytest.mark.parametrize("calls", CALLS_IN_PLACE)
def test_calls_in_place_change_neither_their_inputs_nor_the_outputs(calls):
    model, images = made(calls)
    before, lanes = images.clone(), trials(model, ["b", "c"])
    program = make_program(uncompressed(model), Lora(), [lanes[:-1], lanes[-1:]], images)
    assert torch.equal(images, before)
    assert program.stacks
    rows = torch.randn(5, 6, dtype=torch.float64)
    expected = torch.cat([alone(model, trial, rows) for trial in lanes])
    for _ in range(2):
        if program.cut is not None:
            torch.testing.assert_close(staged(program.cut, lanes, rows), expected, rtol=1e-9, atol=1e-9)
        logits = program.bind(in_stacks(lanes))(*program.inputs(rows))
        torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    assert (program.cut is None) == (calls is aliased), program.why


def controlled(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.c(m.b(h) if h.sum() > 0 else m.b(-h))


def of_its_length(m: Calls, x: Tensor) -> Tensor:
    return m.c(m.b(m.a(x)) / len(x))


def of_its_number(m: Calls, x: Tensor) -> Tensor:
    h = m.b(m.a(x))
    return m.c(h.reshape(x.shape[0] * 2, 3).reshape(-1, 6))


def two_answers(m: Calls, x: Tensor) -> tuple[Tensor, Tensor]:
    h = m.b(m.a(x))
    return m.c(h), h


def read_after(m: Calls, x: Tensor) -> Tensor:
    return m.c(F.linear(m.b(m.a(x)), m.b.weight))


def across_images(m: Calls, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.c(m.b(h - h.mean(0, keepdim=True)))


def another_axis(m: Calls, x: Tensor) -> Tensor:
    return m.c(m.b(m.a(x).expand(2, -1, -1)).mean(0))


def by_keyword(m: Calls, x: Tensor) -> Tensor:
    return m.c(m.b(input=m.a(x)))


REFUSED = {
    "its calls depend on what it is given": (controlled, "cannot be traced .*control flow"),
    "it asks for the number of images": (of_its_length, "cannot be traced .*len"),
    "it reshapes by the number of images": (of_its_number, "computes .* cannot be separated by lane"),
    "it gives two tensors": (two_answers, "output is not one tensor"),
    "a trained layer's weight is read": (read_after, "the values of 'b.weight' are read by linear"),
    "images are seen beside each other": (across_images, "depends on the other images"),
    "its batch is the second axis": (another_axis, "one row per image"),
    "a trained layer is called by keyword": (by_keyword, "not called with one tensor"),
    "no trained layer is reached": (lambda m, x: m.a(x), "output is not one tensor that a trained layer reaches"),
}


@pytest.mark.parametrize(("calls", "why"), REFUSED.values(), ids=REFUSED)
def test_a_model_that_cannot_be_cut_is_refused_with_the_reason(calls, why):
    model, images = made(calls)
    with pytest.raises(CannotCutError, match=why):
        cut_at(model, ["b", "c"], images)
