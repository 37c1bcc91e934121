"""What is measured of whole processes: commands, and memory that is mapped instead of loaded."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from pipeline.train.rows import TensorRows


def seconds_of(*words: str, cwd: Path, tries: int = 5) -> list[float]:
    """Wall seconds of ``restora`` with some words, the smallest first."""
    command, took = [str(Path(sys.executable).with_name("restora")), *words], []
    for _ in range(tries):
        started = time.perf_counter()
        subprocess.run(command, cwd=cwd, check=True, capture_output=True)
        took.append(time.perf_counter() - started)
    return sorted(took)


def anonymous_bytes() -> int:
    """Bytes of this process that are its own, and lie in no file."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def mapped_cache(megabytes: int = 1024) -> dict[str, int]:
    """How much a process grows by training's random reads of a whole cache of that size."""
    from bench.tasks import FEATURES, mapped

    rows = megabytes * 2**20 // (4 * FEATURES)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "0.bin").touch()
        whole = TensorRows([mapped(Path(folder), "0.bin", torch.zeros(rows, FEATURES))], torch.zeros(rows).long())
        before = anonymous_bytes()
        for inputs, _ in whole.batches(512, torch.randperm(rows)):
            inputs[0].sum()
        return {"cache_bytes": rows * FEATURES * 4, "grown_bytes": anonymous_bytes() - before}
