import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from pipeline.config.registry import MODELS
from pipeline.errors import IntegrityError

ARCHITECTURES = {"timm": "test_resnet", "torchvision": "shufflenet_v2_x0_5"}
HEAD = ("fc.weight", "fc.bias")


@pytest.fixture(params=list(ARCHITECTURES))
def source(request):
    """Make a model source of an architecture of the library, with options."""

    def make(**options):
        return MODELS.parse({"source": request.param, "architecture": ARCHITECTURES[request.param], **options})

    return make


def write(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("file", ["w.safetensors", "w.pt"])
def test_a_local_checkpoint_comes_back_as_it_was_saved(source, file, tmp_path):
    state = source().build(3).state_dict()
    chosen = source(checkpoint=write(state, tmp_path / file))
    loaded = chosen.load(3).state_dict()
    assert chosen.pretrained
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_a_state_dict_inside_a_training_checkpoint_is_found(source, tmp_path):
    state = source().build(3).state_dict()
    path = write({"epoch": 3, "state_dict": state}, tmp_path / "w.pt")
    assert torch.equal(source(checkpoint=path).load(3).state_dict()["fc.weight"], state["fc.weight"])


def test_weights_under_other_names_load_by_their_order(source, tmp_path):
    state = source().build(3).state_dict()
    path = write({f"net.{place}": value for place, value in enumerate(state.values())}, tmp_path / "w.pt")
    loaded = source(checkpoint=path, rename="order").load(3).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    with pytest.raises(IntegrityError, match=r"missing 'conv1.0.weight' and .* more, unexpected 'net.0' and"):
        source(checkpoint=path).load(3)


def test_fault_10_entries_that_do_not_pair_by_order_are_named(source, tmp_path):
    state = source().build(3).state_dict()
    swapped = {"first": state["conv1.1.weight"], **state}
    path = write(swapped, tmp_path / "w.pt")
    with pytest.raises(
        IntegrityError, match=r"first 'first' \[\d+\] in the file against 'conv1.0.weight' \[\d+, 3, 3, 3\]"
    ):
        source(checkpoint=path, rename="order").load(3)
    path = write({**state, "more": torch.ones(1)}, tmp_path / "more.pt")
    with pytest.raises(IntegrityError, match="first unpaired is 'more' of the file"):
        source(checkpoint=path, rename="order").load(3)


def test_fault_10_another_architecture_names_the_first_keys_and_shapes(source, tmp_path):
    state = source().build(3).state_dict()
    del state["conv1.1.weight"]
    path = write({**state, "stem.weight": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(IntegrityError, match=r"missing 'conv1.1.weight', unexpected 'stem.weight'"):
        source(checkpoint=path).load(3)
    path = write({**source().build(3).state_dict(), "conv1.0.weight": torch.ones(7, 3, 5, 5)}, tmp_path / "shape.pt")
    with pytest.raises(IntegrityError, match=r"'conv1.0.weight' is \[7, 3, 5, 5\] in the weights and \[\d+, 3, 3, 3\]"):
        source(checkpoint=path).load(3)


@pytest.mark.parametrize("rename", ["none", "order"])
def test_fault_10_a_head_of_other_classes_names_both_counts_unless_new_head_is_set(source, rename, tmp_path):
    state = source().build(5).state_dict()
    path = write(state, tmp_path / "w.safetensors" if rename == "none" else tmp_path / "w.pt")
    with pytest.raises(IntegrityError, match=r"'fc.weight' has 5 classes, and the data has 3;.*new_head"):
        source(checkpoint=path, rename=rename).load(3)
    loaded = source(checkpoint=path, rename=rename, new_head=True).load(3).state_dict()
    assert len(loaded["fc.weight"]) == 3
    assert all(torch.equal(loaded[key], state[key]) for key in state if key not in HEAD)


class Runs:
    def __reduce__(self):
        return os.mkdir, ("it-ran",)


@pytest.mark.parametrize("save", [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what))])
def test_fault_09_a_pickle_that_would_run_code_is_refused_and_nothing_runs(source, save, tmp_path):
    save({"fc.weight": Runs()}, tmp_path / "w.pt")
    with pytest.raises(IntegrityError, match=r"w\.pt"):
        source(checkpoint=str(tmp_path / "w.pt")).load(3)
    assert not (tmp_path / "it-ran").exists()


def test_fault_09_a_pickle_that_would_run_code_names_what_it_holds(source, tmp_path):
    torch.save({"fc.weight": Runs()}, tmp_path / "w.pt")
    with pytest.raises(IntegrityError, match=r"is refused: beside tensors it holds 'posix.mkdir'"):
        source(checkpoint=str(tmp_path / "w.pt")).load(3)


@pytest.mark.parametrize("file", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("content", [b"", b"<html>", None], ids=["empty", "HTML", "truncated"])
def test_fault_09_a_damaged_checkpoint_is_named(source, file, content, tmp_path):
    path = tmp_path / file
    write(source().build(3).state_dict(), path)
    path.write_bytes(path.read_bytes()[:100_000] if content is None else content)
    with pytest.raises(IntegrityError, match=f"{file} is damaged or no checkpoint"):
        source(checkpoint=str(path)).load(3)


def test_fault_11_a_missing_checkpoint_is_named_with_its_path(source, tmp_path):
    with pytest.raises(IntegrityError, match=f"looked for task.model.checkpoint = gone.pt .{tmp_path}/gone.pt"):
        source(checkpoint="gone.pt").load(3)


def test_a_file_without_a_state_dict_is_refused(source, tmp_path):
    with pytest.raises(IntegrityError, match="holds no state dict"):
        source(checkpoint=write([torch.ones(1)], tmp_path / "w.pt")).load(3)
