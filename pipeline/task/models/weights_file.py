"""Reading a file of weights, whatever program wrote it. No code of the file runs; what is no checkpoint is named."""

import codecs
import io
import json
import pickle
import re
import sys
import tarfile
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch.serialization import safe_globals

from pipeline.errors import IntegrityError

LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of torch begin that are no zip archives; other pickles were written without torch."""
NO_CHECKPOINTS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull`",
    b"<": "a web page, such as a download's error page; download the file itself",
    b"\x89HDF": "an HDF5 file, as Keras writes; convert it to a state dict of torch",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"\x93NUMPY": "a single numpy array; save what model.state_dict() gives",
}
"""What files are that begin with these bytes."""
SETTINGS = re.compile(
    r"(argparse|collections|datetime|decimal|enum|pathlib|types|uuid)\..*|builtins\."
    r"(bool|bytes|complex|dict|float|frozenset|int|list|object|range|set|slice|str|tuple)"
)
"""Objects of the standard library that are settings. They are left out as those of other libraries are; all others
of the standard library are refused, because they may run code."""
CLASS = "pickled_class"
"""The attribute of a placeholder that names its class."""


class FileContent(NamedTuple):
    """What a file of weights holds."""

    content: object
    """Mappings and lists of tensors, arrays, and placeholders for other objects."""
    ordered: bool
    """Whether it keeps the order of the entries, which safetensors does not."""


def read_weights(path: Path) -> FileContent:
    """Read a file of weights.

    It may be a file of torch, safetensors, an archive or pickle of arrays, or the index of several such files.

    Raises:
        IntegrityError: The file is not there, damaged, no checkpoint, or would run code.
    """
    if path.is_dir():
        raise IntegrityError(f"task.model.checkpoint = {path} is a folder; name the file of the weights in it")
    if not path.is_file():
        raise IntegrityError(
            f"weights are not there: looked for task.model.checkpoint = {path} ({path.absolute()}); copy them there, "
            f"or correct the path"
        )
    try:
        reader = _reader(path)
        return FileContent(reader(path), ordered=reader not in (load_file, _read_index))
    except IntegrityError:
        raise
    except PermissionError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}; let this user read it") from None
    except Exception as error:
        # Damaged files make the readers raise nearly anything: SafetensorError, RuntimeError, EOFError, KeyError, ...
        said = str(error).partition("\n")[0] or type(error).__name__
        raise _no_checkpoint(path, f"{said}; get it again") from None


def _no_checkpoint(path: Path, why: str) -> IntegrityError:
    return IntegrityError(f"{path} is damaged or no checkpoint: {why}")


def _reader(path: Path) -> Callable[[Path], object]:
    """The function that reads a file, by how the file begins; its suffix may be anything."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise _no_checkpoint(path, "it is empty; get it again")
    # First, because these files begin with a length, whose bytes may be those that begin any other.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return load_file
    for magic, kind in NO_CHECKPOINTS.items():
        if start.lstrip().startswith(magic):
            raise _no_checkpoint(path, f"it is {kind}")
    if start.startswith(b"PK"):
        return _read_zip
    if start.startswith(LEGACY_TORCH):
        return _read_torch
    if start.startswith(b"\x80"):
        return _read_pickle
    if start.lstrip().startswith(b"{") and b"\0" not in start[:8]:
        return _read_index
    if start[8:9] == b"{":
        return load_file
    if tarfile.is_tarfile(path):
        raise _no_checkpoint(path, "it is a tar archive; unpack it, or save the state dict again by torch.save")
    raise _no_checkpoint(path, f"it begins with {start[:16]!r}, as no file of torch or safetensors does; get it again")


def _read_zip(path: Path) -> object:
    """Read a file of ``torch.save`` or ``numpy.savez``; other zip archives are refused by their names."""
    with zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[2] or name for name in archive.namelist()}
    kinds = {
        "constants.pkl": "a TorchScript archive; save the state_dict() of torch.jit.load(...) by torch.save",
        "model.weights.h5": "a model of Keras; convert it to a state dict of torch",
        "archive_format": "an exported program; save the state_dict of torch.export.load(...) by torch.save",
    }
    for name, kind in kinds.items():
        if name in names:
            raise _no_checkpoint(path, f"it is {kind}")
    if "data.pkl" in names:
        return _read_torch(path)
    if all(name.endswith(".npy") for name in archive.namelist()):
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    raise _no_checkpoint(path, "it is a zip archive; unpack it")


def _read_torch(path: Path) -> object:
    """Read by ``torch.load(weights_only=True)``, with placeholders for objects that are no tensors."""
    allowed, found = _numpy_objects(), list[str]()
    while True:
        try:
            # torch warns about pickles that it then refuses. Given a path, it decides by the suffix.
            with warnings.catch_warnings(), path.open("rb") as file, safe_globals(_named(allowed)):
                warnings.simplefilter("ignore")
                return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            named = re.search(r"GLOBAL (\S+)", str(error))
            name = "" if named is None else named[1] if "." in named[1] else f"builtins.{named[1]}"
            found += [name] if name else []
            if not found:
                raise _no_checkpoint(path, "its pickle is damaged; get it again") from None
            if name in allowed or not _is_inert(name):
                raise _refused(path, *dict.fromkeys([found[0], name or found[0]])) from None
            allowed[name] = _placeholder(name)


def _named(allowed: dict[str, Any]) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Objects with their names, as ``safe_globals`` takes them."""
    return [(value, name) for name, value in allowed.items()]


def _read_pickle(path: Path) -> object:
    """Read a pickle that was written without torch, such as one of numpy arrays."""
    allowed: dict[str, Any] = {
        **_numpy_objects(),
        "_codecs.encode": codecs.encode,
        "collections.OrderedDict": OrderedDict,
        "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
        "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
        "torch.storage._load_from_bytes": lambda data: torch.load(io.BytesIO(data), "cpu", weights_only=True),
    }

    class Restricted(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            full = f"{module}.{name}"
            if full not in allowed and not _is_inert(full):
                raise _refused(path, full)
            return allowed.get(full) or _placeholder(full)

    with path.open("rb") as file:
        return Restricted(file).load()


def _read_index(path: Path) -> object:
    """Read all files that the index of a sharded checkpoint names."""
    index = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(index.get("weight_map"), dict):
        raise _no_checkpoint(path, "it is a JSON file; name the file of the weights")
    shards: dict[str, str] = index["weight_map"]
    content: dict[str, object] = {}
    for shard in sorted(set(shards.values())):
        part, _ = read_weights(path.parent / shard)
        content |= part if isinstance(part, dict) else {}
    return content


def _is_inert(name: str) -> bool:
    """Whether a global of a pickle is taken for settings, or for a class of a library, which is never imported."""
    module = name.partition(".")[0]  # that of Python 2 in older pickles
    is_library = IMPORT_MAPPING.get(module, module).partition(".")[0] not in sys.stdlib_module_names
    return name != "" and (is_library or bool(SETTINGS.fullmatch(name)))


def _placeholder(name: str) -> type:
    """A class whose instances take the items and the state of the objects that they stand for.

    They are of ``Counter``, the one kind of dict for which torch's unpickler takes slots.
    """

    def new(cls: type, *_: object, **__: object) -> "Counter[str]":
        made = Counter[str]()
        vars(made)[CLASS] = name
        return made

    return type(name, (), {"__new__": new})


def pickled_classes(content: object) -> list[str]:
    """The classes of the objects that a file holds, or that its first mapping holds."""
    values = [content, *(content.values() if isinstance(content, Mapping) else [])]
    return [value.__dict__[CLASS] for value in values if CLASS in getattr(value, "__dict__", {})]


def _refused(path: Path, *names: str) -> IntegrityError:
    held = " and ".join(f"'{name}'" for name in names)
    return IntegrityError(
        f"{path} is refused: beside tensors it holds {held}, which would run code when loaded; save the model's "
        f"state_dict() alone, best as .safetensors"
    )


def _numpy_objects() -> dict[str, Any]:
    """What pickles of numpy's arrays and scalars name, under the names of numpy 1 and 2."""
    functions = {
        "multiarray._reconstruct": np.ones(1).__reduce__()[0],
        "multiarray.scalar": np.float32(1).__reduce__()[0],
        "numeric._frombuffer": np.ones(1).__reduce_ex__(5)[0],
    }
    named = {f"numpy.{core}.{name}": function for name, function in functions.items() for core in ("core", "_core")}
    kinds = {f"numpy.dtypes.{(kind := type(np.dtype(code))).__name__}": kind for code in "?bBhHiIlLqQefdgFDGSUVOMm"}
    return {**named, "numpy.ndarray": np.ndarray, "numpy.dtype": np.dtype, **kinds}
