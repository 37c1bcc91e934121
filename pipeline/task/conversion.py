"""An image and labels of whatever type a user has them in, as the tensors that a part holds."""

import reprlib
from collections.abc import Iterable, Mapping, Set

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import IntegrityError


def as_image(value: object, what: str) -> Tensor:
    """An image or all images of a part as a float32 tensor on the CPU.

    Args:
        value: A tensor, an array, or a list of numbers.
        what: What it is, for messages, with its verb: "image 3 of the train part is".

    Raises:
        IntegrityError: It is none of these, or not of floating point.
    """
    if isinstance(value, Tensor):
        if _is_dense(value) and value.is_floating_point() and value.ndim:
            tensor = value.detach().as_subclass(Tensor).to("cpu", torch.float32)
            return tensor.clone() if tensor.is_inference() else tensor  # those cannot be trained with
    elif hasattr(value, "__array__") or isinstance(value, list | tuple):
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError):  # ragged lists, tensors on other devices
            array = np.empty(0, dtype=object)
        floating = array.dtype.kind == "f" or array.dtype.name == "bfloat16"  # an extension of numpy, of no kind
        if floating and array.ndim and not np.ma.is_masked(value):
            with np.errstate(over="ignore"):  # to infinity, which sound_images refuses
                return torch.from_numpy(array.astype(np.float32, order="C"))
    raise IntegrityError(
        f"{what} {described(value)}; give images in floating point as the model takes them: a picture of uint8 as "
        f"[channels, height, width], divided by 255 and normalised"
    )


def as_labels(values: object, name: str) -> Tensor:
    """Labels of any integer type as int64 ``[N]``; ``name`` is the part's, for messages.

    Raises:
        IntegrityError: They are no sequence, or a label is not one whole number.
    """
    entries = _plain(values)
    if isinstance(entries, Iterable) and not isinstance(entries, Mapping | Set):
        return torch.tensor([as_label(entry, index, name) for index, entry in enumerate(entries)], dtype=torch.int64)
    raise IntegrityError(
        f"the labels of the {name} part are {described(values)}; give one whole number per image (any, "
        f"such as 0, for a metric that uses no labels)"
    )


def as_label(value: object, index: int, name: str) -> int:
    """A label as an ``int``: a whole number of any type, also as a tensor or list of one entry.

    Raises:
        IntegrityError: It is something else; with its ``index`` in the part ``name``.
    """
    entry = _plain(value)
    while isinstance(entry, list | tuple) and len(entry) == 1:
        (entry,) = entry
    if isinstance(entry, int | float) and -(2**63) <= entry < 2**63 and entry == int(entry):
        return int(entry)
    raise IntegrityError(
        f"label {reprlib.repr(entry)} of image {index} of the {name} part is not one whole number; give the index of "
        f"its class, from 0 on (of a one-hot label its argmax)"
    )


def _plain(value: object) -> object:
    """Arrays and tensors as numbers and nested lists of Python, ``None`` without values; other things themselves."""
    if isinstance(value, Tensor) and not _is_dense(value):
        return None
    if hasattr(value, "__array__"):
        return value.tolist() if hasattr(value, "tolist") else np.asarray(value).tolist()
    return value


def _is_dense(tensor: Tensor) -> bool:
    """Whether a tensor has one plain value per entry."""
    return not (tensor.is_nested or tensor.is_quantized or tensor.is_meta) and tensor.layout is torch.strided


def described(value: object) -> str:
    """The type of a value for messages, with its keys, length, or dtype and shape."""
    kind = f"of type {type(value).__name__}"
    if isinstance(value, Mapping):
        return f"{kind} with the keys {reprlib.repr(list(value))[1:-1]}"
    if isinstance(value, tuple | list):
        return f"{kind} with {len(value)} entries"
    if isinstance(value, Tensor) and value.is_nested:
        return f"{kind}, nested"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{kind}, {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return kind
