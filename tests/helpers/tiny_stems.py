"""A stem that notes the images it sees, some images, and processes of their own that cache what it gives."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from children import start_python
from stopping import CheckedBy
from torch import Tensor, fx, nn

from pipeline.task.parts import TensorPart
from pipeline.train.cache import cache_build as build
from pipeline.train.cache import cache_folder
from pipeline.train.cache import feature_cache as cache
from pipeline.train.cache.feature_cache import FeatureCache
from pipeline.train.rows import TensorRows

IMAGES = 100
BATCH = 8
PROBED = (1, cache.SAMPLE)
"""How many images at a time a stem is asked for when nothing is built: one for the shapes, some to compare."""
FACTS = {"data": "d", "split": "s", "preprocessing": "p", "part": "train"}
WAYS = [
    "pipeline/train/cache/cache_build.py",
    "pipeline/train/cache/feature_cache.py",
    "pipeline/train/cache/cache_folder.py",
    "pipeline/paths.py",
]
"""Files whose every line is an instant at which a process may be killed."""


class Noted(nn.Module):
    """Hands images on, and notes how many came at once: here, and where there is one in a file."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.file: Path | None = None

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        if self.file is not None:
            with self.file.open("a") as file:
                file.write(f"{len(images)}\n")
        return images


class Scaled(nn.Module):
    """Multiplies by a number that is neither a weight nor shown: only what it gives tells one from another."""

    def __init__(self, by: float = 1.0) -> None:
        super().__init__()
        self.by = by

    def forward(self, images: Tensor) -> Tensor:
        return images * self.by


class Features(nn.Module):
    """Two tensors an image, ``[n, 4, 6, 6]`` and ``[n, 4]``."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.noted = Noted()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.rest = nn.Sequential(*layers or [nn.ReLU()])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.rest(self.conv(self.noted(images)))
        return features, features.mean((2, 3))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not isinstance(m, nn.Sequential)


def make_stem(*layers: nn.Module, seed: int = 0, module: type[nn.Module] = Features) -> fx.GraphModule:
    """A stem; those of one seed are the same."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = module(*layers).eval().requires_grad_(False)
    return fx.GraphModule(model, _Tracer().trace(model))


def built(stem: fx.GraphModule) -> int:
    """Images that a stem saw to build a cache."""
    return sum(count for count in stem.noted.seen if count not in PROBED)


def make_part(count: int = IMAGES) -> TensorPart:
    images = torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    return TensorPart(images, torch.arange(count) % 4)


def small_steps(setting: Callable[[Any, str, Any], None] = setattr, journal_bytes: int = 1) -> None:
    """Build in small batches, and note each: a batch of both tensors takes 4,736 bytes in float32."""
    setting(build, "PASS", BATCH)
    setting(build, "JOURNAL_BYTES", journal_bytes)


def digest(rows: TensorRows) -> str:
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in rows.tensors)).hexdigest()


@contextmanager
def hold(folder: Path, *, exclusive: bool = False) -> Iterator[None]:
    """Another process reads a cache, or builds it with an exclusive lock."""
    code = f"""
import sys
from pathlib import Path
from pipeline.train.cache.cache_folder import lock, use
folder = Path({str(folder)!r})
with lock(folder, exclusive={exclusive}) as handle:
    {"pass" if exclusive else "use(folder, handle)"}
    print("holds", flush=True)
    {"sys.stdin.read()" if exclusive else "pass"}
sys.stdin.read()
"""
    process = start_python("-c", code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "holds\n"
        yield
    finally:
        process.communicate()


def start(way: str, folder: Path) -> subprocess.Popen[str]:
    """A process of this file: ``main`` says what it does; it waits for a line once it is ready."""
    process = start_python(
        __file__, way, str(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


def beside(folder: Path) -> None:
    """Cache, and do not build a batch before another process waits for it."""
    waits = folder / "waits"

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print(record.getMessage(), file=sys.stderr)
            if "waiting" in record.getMessage():
                waits.touch()

    def check() -> None:
        while not waits.exists():
            time.sleep(0.01)

    stem = make_stem()
    stem.noted.file = folder / "seen.txt"
    logging.getLogger("pipeline").addHandler(Said(logging.INFO))
    logging.getLogger("pipeline").setLevel(logging.INFO)
    with CheckedBy(check):
        print(digest(FeatureCache(folder / "features").rows(stem, make_part(), FACTS)), flush=True)


def killed(folder: Path) -> None:
    """Cache, until SIGKILL comes before the sixth batch."""
    left = [5]

    def check() -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with CheckedBy(check):
        FeatureCache(folder / "features").rows(make_stem(), make_part(), FACTS)


def killed_everywhere(folder: Path) -> None:
    """Kill a process at many lines that lead to a cache, and say how many caches another one could not finish."""
    stem, part = make_stem(), make_part(3 * BATCH)
    whole = digest(FeatureCache(folder / "whole").rows(stem, part, FACTS))
    instants, wrong, place = 0, [], 1
    while True:
        features = folder / f"{place}"
        child = os.fork()
        if not child:
            _die_at(place)
            FeatureCache(features).rows(stem, part, FACTS)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            break
        again = FeatureCache(features).rows(make_stem(), part, FACTS)
        left = [path.name for path in features.rglob("*.tmp")]
        if again is None or digest(again) != whole or left:
            wrong.append((place, left))
        instants += 1
        place += 7
    print(instants, wrong, flush=True)


def _die_at(line: int) -> None:
    root = Path(cache_folder.__file__).parents[3]
    ways = {str(root / way) for way in WAYS}
    left = [line]

    def trace(frame: Any, event: str, argument: object) -> Any:
        if frame.f_code.co_filename not in ways:
            return None
        if event == "line":
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


if __name__ == "__main__":
    torch.set_num_threads(1)
    small_steps()
    print("ready", flush=True)
    sys.stdin.readline()
    {"beside": beside, "killed": killed, "killed-everywhere": killed_everywhere}[sys.argv[1]](Path(sys.argv[2]))
