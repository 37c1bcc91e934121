"""The machine and the packages that a number was made with."""

import ctypes
import functools
import math
import os
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.errors import NothingUsableError, UsageError
from pipeline.paths import read_text

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

PACKAGES = ("restora", "torch", "torchvision", "timm", "optuna")


def version_of(package: str) -> str:
    """The version of an installed package; that of this one in a clone is read from the clone, or ``unknown``."""
    with suppress(PackageNotFoundError):
        return version(package)
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if package == "restora" and project.is_file():
        return str(tomllib.loads(read_text(project))["project"]["version"])
    return "unknown"


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a trial comes to; read once, not to be changed."""
    return {"python": sys.version.split()[0], **{package: version_of(package) for package in PACKAGES}}


def torchvision_mismatch(error: Exception) -> NothingUsableError | None:
    """What to do about an error that has come because torch and torchvision are no pair; ``None`` for other errors.

    They hold compiled code for each other. If they are not a pair, an import of torchvision dies on an operator that
    torch does not have.
    """
    if not (isinstance(error, RuntimeError | ImportError | OSError) and "torchvision" in str(error)):
        return None
    try:
        import torchvision  # noqa: F401
    except (RuntimeError, ImportError, OSError) as reason:
        mismatch = NothingUsableError(
            f"torchvision {version_of('torchvision')} does not match torch {version_of('torch')} ({reason}); install "
            f"the two as one pair from the same index: pip install --upgrade --force-reinstall torch torchvision"
        )
        mismatch.__cause__ = reason
        return mismatch
    return None


@contextmanager
def plain_modes() -> Iterator[None]:
    """Torch's modes as they are in a new process, whatever the caller has set; a context, or a decorator.

    Tensors made in inference mode cannot be trained with. Autocast and another default type or device change what is
    computed.
    """
    import torch

    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for device in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.empty(0).device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield


def choose_device(name: str) -> str:
    """``auto`` -> ``cuda`` where there is one, else ``cpu``; other names as they are."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.ones(1, device=name).item()  # the device "meta" has no values
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"device '{name}' cannot be used: {reason}; choose auto, cpu or a device of yours") from None
    return name


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for its next tensors of the same sizes.

    glibc gives large blocks back to the system at once, and every step of a training then faults its pages in again:
    measured on two cores, a step of 8 lanes of an MLP took 11.8 ms that way, and takes 5.0 this way. Elsewhere it does
    nothing.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_TOP_PAD of malloc.h, in bytes.
        for option, value in ((-3, 2**30), (-1, 2**31 - 1), (-2, 2**26)) if hasattr(libc, "mallopt") else ():
            libc.mallopt(option, value)


def physical_memory() -> int:
    """Bytes of this machine's memory; without a way to know them, as on Windows, more than any machine has."""
    names = ("SC_PHYS_PAGES", "SC_PAGE_SIZE")
    return math.prod(map(os.sysconf, names)) if set(names) <= os.sysconf_names.keys() else sys.maxsize


def peak_memory(device: str) -> int:
    """Bytes: the most that this process held, on a GPU the most that its tensors held there; 0 where it is unknown."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
