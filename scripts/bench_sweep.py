"""Measures what a sweep costs with this package, and with the ways it was done before, on the machine it runs on.

    python scripts/bench_sweep.py [--quick] [--json FILE] [--data FOLDER]

Needs `pip install -e '.[bench]'` and MNIST (``FOLDER/MNIST/raw``). Everything is measured in this one run, in processes
of its own; run it on an otherwise idle machine. It takes about 20 minutes on two cores, with ``--quick`` under 10: the
published sweep is then trained for one epoch instead of ten, and the same budget with pruning for two.

The figures of each part are written to FILE as soon as it is done. A part that fails does not stop the others.
"""

import argparse
from pathlib import Path

from bench.requirements import require_package

require_package("peft", "peft")  # the modules below import it

from bench import codes, coding, mlp, search, sweep  # noqa: E402
from bench.parts import Setup, run_parts  # noqa: E402
from bench.sizes import FULL, QUICK  # noqa: E402

PARTS = (
    mlp.peft,
    mlp.cohorts,
    search.stored,
    sweep.frozen,
    sweep.pruned,
    coding.coded,
    codes.trained_codes,
)
DATA = Path(__file__).parents[2] / "shared" / "data" / "mnist"


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
