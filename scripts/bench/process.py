"""Measurements of whole processes: the time of commands, and memory that is mapped instead of loaded."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from bench.tasks import FEATURES, mapped
from pipeline.train.rows import TensorRows


def command_seconds(*words: str, cwd: Path, tries: int = 5) -> float:
    """Wall-clock seconds of the fastest of several runs of ``restora`` with these arguments."""
    command, seconds = [sys.executable, "-m", "pipeline.cli", *words], []
    for _ in range(tries):
        started = time.perf_counter()
        subprocess.run(command, cwd=cwd, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def anonymous_bytes() -> int:
    """Resident bytes of this process that no file backs."""
    (line,) = (
        line
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        if line.startswith("RssAnon")
    )
    return int(line.split()[1]) * 1024


def mapped_cache(megabytes: int = 1024) -> dict[str, int]:
    """How much this process grows by reading a whole mapped cache in random order, as training does."""
    rows = megabytes * 2**20 // (4 * FEATURES)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "0.bin").touch()
        whole = TensorRows([mapped(Path(folder), "0.bin", torch.zeros(rows, FEATURES))], torch.zeros(rows).long())
        before = anonymous_bytes()
        for inputs, _ in whole.batches(512, torch.randperm(rows)):
            inputs[0].sum()
        return {"cache_bytes": rows * FEATURES * 4, "grown_bytes": anonymous_bytes() - before}
