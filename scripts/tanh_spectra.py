"""Watches the spectra of a three-layer tanh network over a regression; writes one page, prints one table.

    python scripts/tanh_spectra.py [--seed 0] [--epochs 60] [--out storage/reports/tanh-spectra.html]

Needs scikit-learn: `pip install -e '.[bench]'`. It takes seconds.
"""

import argparse
from pathlib import Path

from bench.requirements import require_package
from bench.tanh_network import watch_tanh
from pipeline.paths import STORAGE, write_whole
from pipeline.report.blocks import Drawing
from pipeline.report.document import document
from pipeline.report.figures.animation import draw_courses

SAYS = (
    "The shares of the singular values of each layer of tanh(A3 tanh(A2 tanh(A1 x))), trained on scikit-learn's "
    "make_regression, and the effective rank of each layer over epochs."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of data, start and order")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the data; a frame each")
    parser.add_argument("--out", type=Path, default=STORAGE / "reports" / "tanh-spectra.html", help="the page")
    given = parser.parse_args()
    require_package("sklearn", "scikit-learn")
    watched, losses = watch_tanh(given.seed, given.epochs)
    drawing = Drawing("spectra", "Singular values over epochs", SAYS, draw_courses(watched, {}))
    text = document("Spectra of a tanh network", drawn=True, content=[drawing])

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    write_whole(given.out, write)
    print(f"layer  effective rank at epoch 0  at epoch {given.epochs}")
    for course in watched:
        print(f"{course.layer:<5}  {course.effective_rank[0]:>25.2f}  {course.effective_rank[-1]:>11.2f}")
    print(f"mean squared error of the first and the last epoch: {losses[0]:.5f}, {losses[-1]:.5f}")
    print(given.out)


if __name__ == "__main__":
    main()
