"""Measures what a sweep costs, this way and the ways it was done before, on the machine that it runs on.

    python scripts/bench_sweep.py [--quick] [--json FILE] [--data FOLDER]

Needs `pip install -e '.[bench]'` and MNIST (``FOLDER/MNIST/raw``). Everything is measured in this one run, each part in
a process of its own; run it on an otherwise idle machine. All of it takes about 20 minutes on two cores, ``--quick``
under 10: there the published sweep is trained for one epoch of ten, and the same budget with pruning for two.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from bench import mlp, process, storage, sweep
from bench.tasks import EPOCHS, TRAIN, VAL

R = TypeVar("R")
COHORTS = (1, 2, 4, 8, 16, 32)
PUBLISHED_TRIALS = 280
DATA = Path(__file__).parents[2] / "shared" / "data" / "mnist"


def alone(measure: Callable[..., R], *args: Any) -> R:
    """Measure in a fresh process: its memory and its threads are its own."""
    print(f"  {measure.__name__}{args} ...", file=sys.stderr, flush=True)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *args).result()


def frozen(found: dict[str, Any], *, quick: bool) -> None:
    epochs = 1 if quick else EPOCHS
    published, own, cache = (
        alone(sweep.published_trial_epoch),
        alone(sweep.whole_sweep, epochs),
        alone(sweep.cache_cost),
    )
    images = TRAIN + VAL
    found["published"], found["sweep"], found["cache"] = published, own, cache
    found["frozen_speedup"] = published["seconds"] / own["trial_epoch_seconds"]
    found["cache_minutes"] = images / cache["images_per_second"] / 60
    found["sweep_minutes"] = own["trial_epoch_seconds"] * PUBLISHED_TRIALS * EPOCHS / 60
    found["published_sweep_days"] = published["seconds"] * PUBLISHED_TRIALS * EPOCHS / 86400
    found["counted"] |= {
        "frozen_speedup": f"seconds of one epoch of one trial, {TRAIN:,} training and {VAL:,} validation images: the "
        f"published way (20 batches of 32 of each timed after 3, extrapolated by images) over this way (the sweep's "
        f"{own['trials']} trials, {epochs} of {EPOCHS} epochs really trained, compression and starts included)",
        "cache_minutes": f"one pass of {images:,} images through the frozen layers, by the rate of 256, files written",
        "sweep_minutes": f"all {PUBLISHED_TRIALS} published configurations, {EPOCHS} epochs, none pruned, from a ready "
        f"cache; {epochs} epochs were trained" + (", times ten" if quick else ""),
        "published_sweep_days": "the same, by the published way's seconds of one epoch of one trial",
    }


def pruned(found: dict[str, Any], *, quick: bool) -> None:
    epochs = 2 if quick else EPOCHS
    run = alone(sweep.pruned_sweep, epochs)
    found["run"] = run | {"epochs": epochs}
    found["run_minutes"], found["storage_share"] = run["seconds"] / 60, run["storage_share"]
    found["counted"] |= {
        "run_minutes": f"the same budget as `restora run` spends it: 28 cells of 10 trials, {epochs} epochs, asked by "
        f"TPE, pruned by halving, stored in SQLite",
        "storage_share": "seconds in asks, reports, tells and the database over all seconds of that run",
    }


def peft(found: dict[str, Any], data: Path, *, quick: bool) -> None:
    trials = 36
    theirs, own = alone(mlp.peft_side, data, trials), alone(mlp.restora_side, data, trials)
    found["peft"], found["restora"] = theirs, own
    found["peft_speedup"] = own["trials_per_minute"] / theirs["trials_per_minute"]
    found["counted"]["peft_speedup"] = (
        f"trials a minute over those of an Optuna + peft loop, the same {trials} queued trials of 5 epochs on 48,000 "
        f"images, 12,000 to validate; theirs with the better of 1 and 2 threads, its `optimize` alone; here also "
        f"compression, starts, the choice of lanes, and the stored study"
    )


def cohorts(found: dict[str, Any], data: Path) -> None:
    plain = alone(mlp.plain_rate)
    rates = {lanes: alone(mlp.cohort_rate, data, lanes) for lanes in COHORTS}
    found["plain_samples_per_second"] = plain
    found["samples_per_second"] = {str(lanes): each["samples_per_second"] for lanes, each in rates.items()}
    found["peak_memory"] = {str(lanes): each["peak_memory"] for lanes, each in rates.items()}
    found["cohort_speedup"] = {str(lanes): each["samples_per_second"] / plain for lanes, each in rates.items()}
    found["counted"]["cohort_speedup"] = (
        "trial-samples a second at T lanes a pass, one pass on each core (one in all at T = 1), rank 8, Adam, batch "
        "256, over training samples a second of a plain loop with the better of 1 and 2 threads"
    )


def stored(found: dict[str, Any], *, quick: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        counts = (1_000, 3_000) if quick else (1_000, 3_000, 10_000)
        databases = {count: Path(folder) / f"{count}.db" for count in counts}
        costs = {count: alone(storage.cost_of_a_trial, count, path) for count, path in databases.items()}
        found["trial_milliseconds"] = {str(count): cost["milliseconds"] for count, cost in costs.items()}
        found["trial_costs"] = {str(count): cost for count, cost in costs.items()}
        os.environ["RESTORA_STORAGE"] = f"sqlite:///{databases[1_000]}"
        found["help_seconds"] = process.seconds_of("--help", cwd=Path(folder))[0]
        found["status_seconds"] = process.seconds_of("status", "benchmark", cwd=Path(folder))[0]
    found["mapped"] = alone(process.mapped_cache)
    found["counted"] |= {
        "trial_milliseconds": "ask (TPE), ten reports, tell and storing (SQLite) of a trial, in a study of 14 cells "
        "that holds so many already",
        "help_seconds": "`restora --help`, best of 5",
        "status_seconds": "`restora status` of a study of 1,000 trials, best of 5",
        "mapped": "growth of this process's own memory by reading all of a mapped cache in random order",
    }


def table(found: dict[str, Any]) -> str:
    """The figures for people."""
    published, own, cache = found["published"], found["sweep"], found["cache"]
    rates = ", ".join(f"{lanes}: {rate / 1e3:,.0f}" for lanes, rate in found["samples_per_second"].items())
    memory = ", ".join(f"{lanes}: {size / 1e6:,.0f}" for lanes, size in found["peak_memory"].items())
    costs = ", ".join(f"{int(count):,}: {cost:.1f}" for count, cost in found["trial_milliseconds"].items())
    rows = [
        ("one epoch of one trial, published way", f"{published['seconds']:,.0f} s"),
        ("the same, this way", f"{own['trial_epoch_seconds']:.3f} s: {found['frozen_speedup']:,.0f} times less"),
        ("the cache, once", f"{found['cache_minutes']:.0f} min ({cache['images_per_second']:.0f} images/s)"),
        ("the published sweep, published way", f"{found['published_sweep_days']:.0f} days"),
        ("the published sweep, this way", f"{found['sweep_minutes']:.1f} min"),
        (f"its budget in a run with pruning, {found['run']['epochs']} epochs", f"{found['run_minutes']:.1f} min"),
        ("asks, tells and database in that run", f"{found['storage_share']:.1%}"),
        ("Optuna + peft by hand, MNIST MLP", f"{found['peft']['trials_per_minute']:.1f} trials/min"),
        (
            "the same trials, this way",
            f"{found['restora']['trials_per_minute']:.1f}: {found['peft_speedup']:.1f} times",
        ),
        ("their best accuracies", f"{found['peft']['best']:.4f} and {found['restora']['best']:.4f}"),
        ("plain loop", f"{found['plain_samples_per_second'] / 1e3:,.0f} thousand samples/s"),
        ("T lanes, thousand trial-samples/s", rates),
        ("best over the plain loop", f"{max(found['cohort_speedup'].values()):.1f} times"),
        ("peak memory at T lanes, MB", memory),
        ("Optuna and SQLite, ms a trial, by trials stored", costs),
        ("memory grown by reading 1.07 GB of cache", f"{found['mapped']['grown_bytes'] / 1e6:.0f} MB"),
        ("restora --help", f"{found['help_seconds']:.2f} s"),
        ("restora status, 1,000 trials", f"{found['status_seconds']:.2f} s"),
    ]
    return "\n".join(["| what | measured |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under ten minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, with how they were counted")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds MNIST/raw")
    given = parser.parse_args()
    found: dict[str, Any] = {"quick": given.quick, "cores": os.cpu_count(), "counted": {}}
    peft(found, given.data, quick=given.quick)
    cohorts(found, given.data)
    stored(found, quick=given.quick)
    frozen(found, quick=given.quick)
    pruned(found, quick=given.quick)
    print(table(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
