"""Measures what a sweep costs with this package, and with the ways it was done before, on the machine it runs on.

    python scripts/bench_sweep.py [--quick] [--json FILE] [--data FOLDER]

Needs `pip install -e '.[bench]'` and MNIST (``FOLDER/MNIST/raw``). Everything is measured in this one run, in processes
of its own; run it on an otherwise idle machine. It takes about 20 minutes on two cores, with ``--quick`` under 10: the
published sweep is then trained for one epoch instead of ten, and the same budget with pruning for two.

The figures of each part are written to FILE as soon as it is done. A part that fails does not stop the others.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.requirements import require_package

require_package("peft", "peft")  # the modules below import it

from bench import codes, coding, mlp, process, search, sweep  # noqa: E402
from bench.sizes import FULL, QUICK, Sizes  # noqa: E402
from bench.tasks import EPOCHS, TRAIN, VAL  # noqa: E402

PUBLISHED_TRIALS = 280
DATA = Path(__file__).parents[2] / "shared" / "data" / "mnist"


def alone(measure: Callable[..., Any], *arguments: Any) -> Any:
    """Measure in a new process, whose memory and threads nothing else uses."""
    print(f"  {measure.__name__}{arguments} ...", file=sys.stderr, flush=True)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


@dataclass(frozen=True)
class Setup:
    """What is measured, and how.

    Args:
        sizes: How much is trained.
        data: The folder that holds ``MNIST/raw``.
        measure: Calls a measuring function with its arguments.
    """

    sizes: Sizes
    data: Path
    measure: Callable[..., Any] = alone


@dataclass(frozen=True)
class Measured:
    """The result of one part.

    Args:
        figures: The figures, by key.
        counted: What exactly some figures count, by key.
        rows: Rows of the printed table: what was measured, and its value.
    """

    figures: dict[str, Any]
    counted: dict[str, str]
    rows: list[tuple[str, str]]


def peft(setup: Setup) -> Measured:
    """The same trials by a loop of Optuna and peft, and by this package."""
    trials = setup.sizes.queued
    loop, package = (setup.measure(side, setup.data, trials) for side in (mlp.peft_side, mlp.restora_side))
    speedup = package["trials_per_minute"] / loop["trials_per_minute"]
    counted = (
        f"trials per minute over those of an Optuna + peft loop, the same {trials} queued trials of 5 epochs on four "
        f"fifths of MNIST's training images, the others to validate; the loop with the better of 1 and 2 threads, its "
        f"`optimize` alone; this package with compression, starts, choice of lanes, and the stored study"
    )
    return Measured(
        {"peft": loop, "restora": package, "peft_speedup": speedup},
        {"peft_speedup": counted},
        [
            ("Optuna + peft by hand, MNIST MLP", f"{loop['trials_per_minute']:.1f} trials/min"),
            ("the same trials, this way", f"{package['trials_per_minute']:.1f}: {speedup:.1f} times"),
            ("their best accuracies", f"{loop['best']:.4f} and {package['best']:.4f}"),
        ],
    )


def cohorts(setup: Setup) -> Measured:
    """Training rate and memory at several lanes per pass."""
    plain = setup.measure(mlp.plain_rate, setup.sizes.steps)
    measured = {str(lanes): setup.measure(mlp.cohort_rate, setup.data, lanes) for lanes in setup.sizes.lanes}
    rates = {lanes: found["samples_per_second"] for lanes, found in measured.items()}
    memory = {lanes: found["peak_memory"] for lanes, found in measured.items()}
    speedup = {lanes: rate / plain for lanes, rate in rates.items()}
    counted = (
        "trial-samples per second at T lanes per pass, one pass on every core (one in all at T = 1), rank 8, Adam, "
        "batch 256, over training samples per second of a plain loop with the better of 1 and 2 threads"
    )
    return Measured(
        {
            "plain_samples_per_second": plain,
            "samples_per_second": rates,
            "peak_memory": memory,
            "cohort_speedup": speedup,
        },
        {"cohort_speedup": counted},
        [
            ("plain loop", f"{plain / 1e3:,.0f} thousand samples/s"),
            ("T lanes, thousand trial-samples/s", listed({lanes: rate / 1e3 for lanes, rate in rates.items()})),
            ("best over the plain loop", f"{max(speedup.values()):.1f} times"),
            ("peak memory at T lanes, MB", listed({lanes: size / 1e6 for lanes, size in memory.items()})),
        ],
    )


def stored(setup: Setup) -> Measured:
    """The cost of a trial beside its training, of two commands, and of a mapped cache."""
    sizes = setup.sizes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        costs = {
            f"{count:,}": setup.measure(search.trial_milliseconds, count, folder / f"{count}.db", sizes.classes)
            for count in sizes.stored
        }
        url = f"sqlite:///{folder / f'{sizes.stored[0]}.db'}"
        help_seconds = process.command_seconds("--help", cwd=folder, tries=sizes.tries)
        status_seconds = process.command_seconds("status", "benchmark", "--storage", url, cwd=folder, tries=sizes.tries)
    mapped = setup.measure(process.mapped_cache, sizes.megabytes)
    return Measured(
        {
            "trial_milliseconds": {count.replace(",", ""): cost for count, cost in costs.items()},
            "help_seconds": help_seconds,
            "status_seconds": status_seconds,
            "mapped": mapped,
        },
        {
            "trial_milliseconds": "ask (TPE), start, ten reports, tell and storing (SQLite) of a trial, its training "
            "left out, in a study of 14 cells that already holds so many trials",
            "help_seconds": f"`restora --help`, best of {sizes.tries}",
            "status_seconds": f"`restora status` of a study of {sizes.stored[0]:,} trials, best of {sizes.tries}",
            "mapped": "growth of this process's resident memory that no file backs, by reading all of a mapped cache "
            "in random order",
        },
        [
            ("Optuna and SQLite, ms per trial, by trials stored", listed(costs, ".1f")),
            (
                f"memory grown by reading {mapped['cache_bytes'] / 1e9:.2f} GB of cache",
                f"{mapped['grown_bytes'] / 1e6:.0f} MB",
            ),
            ("restora --help", f"{help_seconds:.2f} s"),
            (f"restora status, {sizes.stored[0]:,} trials", f"{status_seconds:.2f} s"),
        ],
    )


def frozen(setup: Setup) -> Measured:
    """The published sweep with the frozen layers run in every step, and with their outputs cached."""
    sizes = setup.sizes
    published, package = setup.measure(sweep.published_trial_epoch, sizes), setup.measure(sweep.whole_sweep, sizes)
    cache, images = setup.measure(sweep.cache_cost, sizes.cached_images), TRAIN + VAL
    speedup = published["seconds"] / package["trial_epoch_seconds"]
    cache_minutes = images / cache["images_per_second"] / 60
    sweep_minutes = package["trial_epoch_seconds"] * PUBLISHED_TRIALS * EPOCHS / 60
    days = published["seconds"] * PUBLISHED_TRIALS * EPOCHS / 86400
    return Measured(
        {
            "published": published,
            "sweep": package,
            "cache": cache,
            "frozen_speedup": speedup,
            "cache_minutes": cache_minutes,
            "sweep_minutes": sweep_minutes,
            "published_sweep_days": days,
        },
        {
            "frozen_speedup": f"seconds of one epoch of one trial, {TRAIN:,} training and {VAL:,} validation images: "
            f"the published way ({sizes.batches} batches of {sizes.batch_size} of each timed after 3, extrapolated by "
            f"images) over this way (the sweep's {package['trials']} trials, {sizes.epochs} of {EPOCHS} epochs "
            f"trained, compression and starts included)",
            "cache_minutes": f"one pass of {images:,} images through the frozen layers, extrapolated from "
            f"{sizes.cached_images}, files written",
            "sweep_minutes": f"all {PUBLISHED_TRIALS} published configurations, {EPOCHS} epochs, none pruned, with "
            f"features cached already; extrapolated from {sizes.epochs} epochs",
            "published_sweep_days": "the same, by the published way's seconds of one epoch of one trial",
        },
        [
            ("one epoch of one trial, published way", f"{published['seconds']:,.0f} s"),
            ("the same, this way", f"{package['trial_epoch_seconds']:.3f} s: {speedup:,.0f} times less"),
            ("the cache, once", f"{cache_minutes:.0f} min ({cache['images_per_second']:.0f} images/s)"),
            ("the published sweep, published way", f"{days:.0f} days"),
            ("the published sweep, this way", f"{sweep_minutes:.1f} min"),
        ],
    )


def pruned(setup: Setup) -> Measured:
    """The published sweep's budget, spent as ``restora run`` does."""
    run = setup.measure(sweep.pruned_sweep, setup.sizes)
    minutes, share = run["seconds"] / 60, run["storage_share"]
    return Measured(
        {"run": run, "run_minutes": minutes, "storage_share": share},
        {
            "run_minutes": f"the same budget as `restora run` spends it: 28 cells of {setup.sizes.trials} trials, "
            f"{run['epochs']} epochs, asked by TPE, pruned by halving, stored in SQLite",
            "storage_share": "seconds of the search in which no cohort trains (asks, starts, reports, tells, the "
            "database, kept adapters) over all seconds of that run",
        },
        [
            (f"its budget in a run with pruning, {run['epochs']} epochs", f"{minutes:.1f} min"),
            ("asks, tells and database in that run", f"{share:.1%}"),
        ],
    )


def coded(setup: Setup) -> Measured:
    """Rates of entropy coding, and its sizes beside the ideal entropy."""
    found = setup.measure(coding.coding_rates, setup.sizes.symbols)
    rows = []
    for name, one in found.items():
        for coder in ("rans", "zlib"):
            share = one[coder]["bytes"] / one["ideal_bytes"]
            rates = [f"{one[coder][key] / 1e6:.1f}" for key in ("coded_per_second", "decoded_per_second")]
            rows.append((f"{name}, {coder}: of the entropy; million symbols/s", f"{share:.3f}; {', '.join(rates)}"))
    counted = (
        "of symbols of one byte each in memory: bytes, and symbols coded and decoded per second on one core; the "
        "entropy is that of one table for all symbols, and zlib has its default level"
    )
    return Measured({"coding": found}, {"coding": counted}, rows)


def trained_codes(setup: Setup) -> Measured:
    """The cost of a step that trains codes, over one that trains the same weights as they are."""
    seconds = setup.measure(codes.codes_seconds, setup.sizes.code_steps, setup.sizes.tries)
    ratios = {name: taken / seconds["full"] for name, taken in seconds.items() if name != "full"}
    counted = (
        f"seconds of a training step of one lane, adapter codes over adapter full, MLP 784-256-128-10 on one core, "
        f"batch {codes.BATCH_SIZE}, Adam, validation on one batch included; the best of {setup.sizes.tries + 1} epochs"
    )
    return Measured(
        {"codes_seconds": seconds, "codes_over_full": ratios},
        {"codes_over_full": counted},
        [(f"a step of codes over one of full, {name}", f"{ratio:.2f}") for name, ratio in ratios.items()],
    )


PARTS = (peft, cohorts, stored, frozen, pruned, coded, trained_codes)


def listed(values: dict[str, float], form: str = ",.0f") -> str:
    """Values by key in one line."""
    return ", ".join(f"{key}: {value:{form}}" for key, value in values.items())


def run_parts(setup: Setup, parts: Sequence[Callable[[Setup], Measured]], file: Path | None, quick: bool) -> list[str]:
    """Measure the parts in turn, and print the table of those that are done even if the script is stopped.

    Args:
        setup: What is measured, and how.
        parts: The parts.
        file: Where all figures so far are written after each part; None writes no file.
        quick: Whether the sizes are those of ``--quick``; written beside the figures.

    Returns:
        The names of the parts that failed; their tracebacks are printed.
    """
    found: dict[str, Any] = {"quick": quick, "cores": os.cpu_count(), "counted": {}}
    rows, failed = [("what", "measured"), ("---", "---")], []
    try:
        for part in parts:
            try:
                measured = part(setup)
            except Exception:
                traceback.print_exc()
                failed.append(part.__name__)
                continue
            found |= measured.figures
            found["counted"] |= measured.counted
            rows += measured.rows
            if file:
                file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    finally:
        print("\n".join(f"| {what} | {value} |" for what, value in rows))
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under ten minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, with how they were counted")
    parser.add_argument("--data", type=Path, default=DATA, metavar="FOLDER", help="folder that holds MNIST/raw")
    given = parser.parse_args()
    mlp.require_mnist(given.data)
    failed = run_parts(Setup(QUICK if given.quick else FULL, given.data), PARTS, given.json, given.quick)
    if failed:
        raise SystemExit(f"error: these parts failed, the others are measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
