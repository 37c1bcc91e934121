"""Files that people give as checkpoints: what other programs wrote, and what is no checkpoint at all."""

import argparse
import collections
import dataclasses
import datetime
import enum
import json
import pathlib
import pickle
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from pipeline.config.registry import MODELS
from pipeline.errors import IntegrityError
from pipeline.task.models.weights_file import read_weights

STATE = {"conv.weight": torch.arange(8.0).view(2, 4), "conv.bias": torch.ones(2), "steps": torch.tensor(3)}


class Settings:
    def __init__(self):
        self.rate = 0.1


class Table(dict):
    pass


class Kind(enum.Enum):
    BEST = 1


@dataclasses.dataclass(slots=True)
class Slotted:
    rate: float = 0.1


def check(file):
    content = file.content
    assert all(torch.equal(torch.as_tensor(content[name]), value) for name, value in STATE.items())


BESIDE = {
    "numpy scalar": np.float64(1.5),
    "numpy text": np.str_("x"),
    "numpy array": np.ones(3, np.float16),
    "numpy objects": np.array([None, Settings()], object),
    "numpy generator": np.random.RandomState(0),
    "namespace": argparse.Namespace(rate=0.1),
    "path": pathlib.PurePosixPath("x"),
    "date": datetime.datetime(2020, 1, 1),
    "default dict": collections.defaultdict(list, a=[1]),
    "own class": Settings(),
    "own dict": Table(a=Settings()),
    "slots": Slotted(),
    "enum": Kind.BEST,
    "class": Settings,
    "optimizer": torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_settings_beside_the_weights_are_never_loaded_and_never_in_the_way(beside, zipped, monkeypatch):
    torch.save({**STATE, "beside": beside}, "w.pth", _use_new_zipfile_serialization=zipped)
    monkeypatch.setattr(Settings, "__init__", lambda self: pytest.fail("code of the file ran"))
    check(read_weights(Path("w.pth")))


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("form", [lambda value: value, lambda value: value.numpy()], ids=["tensors", "arrays"])
def test_pickles_that_were_written_without_torch_are_read(form, protocol):
    content = {name: form(value) for name, value in STATE.items()}
    Path("w.pkl").write_bytes(pickle.dumps({**content, "beside": Settings()}, protocol))
    check(read_weights(Path("w.pkl")))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".pth.tar", ""])
@pytest.mark.parametrize("writer", [torch.save, save_file], ids=["torch", "safetensors"])
def test_the_content_tells_the_format_whatever_the_suffix(writer, suffix):
    writer(STATE, f"w{suffix}")
    check(read_weights(Path(f"w{suffix}")))


@pytest.mark.parametrize("low", [0x0A, 0x20, 0x3C, 0x50, 0x7B, 0x80, 0x89, 0x93])
@pytest.mark.parametrize("high", [0x02, 0x4B, 0x8B])
def test_safetensors_files_begin_with_any_length(low, high):
    data = save(STATE)
    header = data[8 : 8 + int.from_bytes(data[:8], "little")].ljust(256 * high + low)
    body = data[8 + int.from_bytes(data[:8], "little") :]
    Path("w.pth").write_bytes(len(header).to_bytes(8, "little") + header + body)
    check(read_weights(Path("w.pth")))


@pytest.mark.parametrize("writer", [torch.save, save_file], ids=["torch", "safetensors"])
def test_the_index_of_a_checkpoint_in_several_files_reads_them_all(writer):
    where = {name: f"part-{index}" for index, name in enumerate(STATE)}
    for name, part in where.items():
        writer({name: STATE[name]}, part)
    Path("index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    check(read_weights(Path("index.json")))
    Path("part-1").unlink()
    with pytest.raises(IntegrityError, match="part-1"):
        read_weights(Path("index.json"))


def archive_of(name):
    with zipfile.ZipFile("made", "w") as archive:
        archive.writestr(name, b"x")
    return Path("made").read_bytes()


def tar():
    Path("inner").write_bytes(b"x" * 600)
    with tarfile.open("made", "w") as archive:
        archive.add("inner")
    return Path("made").read_bytes()


NO_CHECKPOINTS = {
    "empty": (lambda: b"", "it is empty"),
    "web page": (lambda: b"\n <!DOCTYPE html><html>", "web page"),
    "XML": (lambda: b'<?xml version="1.0"?><Error/>', "web page"),
    "LFS": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer.*git lfs pull"),
    "JSON": (lambda: b'{"error": "not found"}', "JSON file"),
    "text": (lambda: b"Not Found", "begins with b'Not Found'"),
    "gzip": (lambda: b"\x1f\x8b\x08\x00" + bytes(20), "gzip archive; unpack it"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n", "HDF5"),
    "zip": (lambda: archive_of("w.pth"), "zip archive; unpack it"),
    "array": (lambda: b"\x93NUMPY\x01\x00", "single numpy array"),
    "tar": (tar, "tar archive"),
    "TorchScript": (lambda: archive_of("m/constants.pkl"), "TorchScript archive"),
    "Keras": (lambda: archive_of("model.weights.h5"), "model of Keras"),
    "exported": (lambda: archive_of("m/archive_format"), "exported program"),
    "cut pickle": (lambda: pickle.dumps(STATE)[:40], "get it again"),
    "cut safetensors": (lambda: save(STATE)[:60], "get it again"),
}


@pytest.mark.parametrize("path", ["w.pth", "w.safetensors", "w.bin"])
@pytest.mark.parametrize(("content", "said"), NO_CHECKPOINTS.values(), ids=NO_CHECKPOINTS)
def test_what_is_no_checkpoint_is_named(content, said, path):
    data = content()
    Path(path).write_bytes(data)
    with pytest.raises(IntegrityError, match=f"{path} is damaged or no checkpoint: .*{said}"):
        read_weights(Path(path))


@pytest.mark.filterwarnings("ignore")
def test_a_real_torchscript_archive_is_named():
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save("w.pt")
    with pytest.raises(IntegrityError, match="TorchScript archive"):
        read_weights(Path("w.pt"))


def test_a_folder_is_named():
    Path("weights").mkdir()
    with pytest.raises(IntegrityError, match="is a folder; name the file of the weights in it"):
        read_weights(Path("weights"))


@pytest.mark.parametrize("key", ["", "model"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_whole_pickled_model_is_refused_by_the_name_of_its_class(key, zipped):
    source = {"source": "timm", "architecture": "test_resnet"}
    model = MODELS.parse(source).build(3)
    torch.save({key: model} if key else model, "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(IntegrityError, match=r"timm.models.resnet.ResNet.*; save .*state_dict\(\)"):
        MODELS.parse({**source, "checkpoint": "w.pth"}).load(3)


@pytest.mark.parametrize(
    "content", [[], {}, 3, {"epoch": 3}, {"model": None}, {"args": argparse.Namespace(a=1)}], ids=str
)
def test_a_file_without_tensors_is_refused(content):
    torch.save(content, "w.pth")
    with pytest.raises(IntegrityError, match="holds no state dict"):
        MODELS.parse({"source": "timm", "architecture": "test_resnet", "checkpoint": "w.pth"}).load(3)


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "function", [eval, subprocess.Popen, getattr, __import__], ids=lambda function: function.__name__
)
@pytest.mark.parametrize("writer", [torch.save, lambda what, path: Path(path).write_bytes(pickle.dumps(what))])
def test_functions_of_the_standard_library_are_refused_and_nothing_runs(function, writer):
    writer({**STATE, "x": Runs(function, "open('it-ran', 'w')")}, "w.pth")
    with pytest.raises(IntegrityError, match=rf"is refused: .*{function.__name__}.* would run code"):
        read_weights(Path("w.pth"))
    assert not Path("it-ran").exists()
