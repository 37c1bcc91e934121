"""The learning curves of a trial as a small SVG, stored as an artifact, which optuna-dashboard shows with the trial."""

import math
import textwrap
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from optuna.artifacts import ArtifactMeta
from optuna.trial import TrialState
from sqlalchemy.orm import Session

from pipeline.paths import PICTURES
from pipeline.store.optuna_tables import write_artifact, write_attributes
from pipeline.wording import counted

LEFT, RIGHT, TOP, BOTTOM = 62, 462, 92, 306
"""Edges of the panels in a picture of 480 x 360, which stays readable at half that size."""
GAP = 54
STYLE = (
    "text{font:18px system-ui,sans-serif;fill:#333}.t{font-weight:600}.e{text-anchor:end}.m{text-anchor:middle}"
    "path{fill:none;stroke-width:2.5;stroke-linecap:round;stroke-linejoin:round}.g{stroke:#ccc;stroke-width:1}"
    ".v{stroke:#0072b2}.r{stroke:#d55e00;stroke-dasharray:7 6}.b{fill:#fff}.d{fill:#0072b2}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.g{stroke:#555}.b{fill:#1e1e1e}"
    ".v{stroke:#56b4e9}.r{stroke:#e69f00}.d{fill:#56b4e9}}"
)
"""Okabe and Ito's blue and orange. The orange line is dashed, so that colour is not needed to tell them apart."""
ENDS = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


@dataclass(frozen=True)
class _Panel:
    """Curves over the epochs; the first of the ascending ``ticks`` is at the lower edge, the last at the upper."""

    bottom: float
    height: float
    ticks: tuple[float, ...]
    epochs: int

    def x(self, epoch: int) -> float:
        return LEFT + (RIGHT - LEFT) * ((epoch - 1) / (self.epochs - 1) if self.epochs > 1 else 0.5)

    def y(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        return self.bottom - self.height * (value - low) / (high - low)

    def axis(self) -> Iterator[str]:
        for tick in self.ticks:
            y = self.y(tick)
            yield f'<path class="g" d="M{LEFT} {y:.0f}H{RIGHT}"/>'
            yield f'<text class="e" x="{LEFT - 8}" y="{y + 6:.0f}">{tick:.6g}</text>'

    def line(self, kind: str, values: Sequence[float]) -> str:
        """One curve; a single point becomes a dash. Epochs whose value is not finite are left out."""
        points = [f"{self.x(epoch):.0f} {self.y(v):.0f}" for epoch, v in enumerate(values, 1) if math.isfinite(v)]
        if len(points) == 1:
            points[0] += "m-16 0h32"
        return f'<path class="{kind}" d="M{"L".join(points)}"/>' if points else ""


def draw_curves(
    title: str, metric: str, accuracies: Sequence[float], attributes: Mapping[str, Any], state: TrialState
) -> str:
    """Draw the accuracy of a trial over the epochs, and below it the losses if there are any; returns SVG.

    Of its user attributes, ``train_loss`` and ``val_loss`` of each epoch, ``best_epoch`` from 1 and ``interrupted`` are
    drawn where they are known.
    """
    train_loss, val_loss = attributes.get("train_loss", ()), attributes.get("val_loss", ())
    best_epoch, outcome = attributes.get("best_epoch", 0), "interrupted" if "interrupted" in attributes else ENDS[state]
    epochs, percent = len(accuracies), [100 * accuracy for accuracy in accuracies]
    losses = [*train_loss, *val_loss]
    height = (BOTTOM - TOP - GAP) / 2 if losses else BOTTOM - TOP
    upper = _Panel(TOP + height, height, _ticks(percent), epochs)
    parts = [*upper.axis(), upper.line("v", percent)]
    parts.append(f'<text x="{LEFT}" y="{TOP - 12}">{escape(metric)} (%)</text>')
    if 0 < best_epoch <= epochs:
        outcome += f": best {accuracies[best_epoch - 1]:.2%} in epoch {best_epoch} of {epochs}"
    else:
        outcome += f" after {counted(epochs, 'epoch')}"
    if 0 < best_epoch <= epochs and math.isfinite(percent[best_epoch - 1]):
        x, y = upper.x(best_epoch), upper.y(percent[best_epoch - 1])
        parts.append(f'<circle class="d" cx="{x:.0f}" cy="{y:.0f}" r="5"/>')
    if losses:
        lower = _Panel(BOTTOM, height, _ticks(losses), epochs)
        parts += [*lower.axis(), lower.line("r", train_loss), lower.line("v", val_loss)]
        y = BOTTOM - height - 12
        parts.append(f'<text x="{LEFT}" y="{y:.0f}">loss:</text>')
        for x, kind, name in ((114, "r", "training"), (250, "v", "validation")):
            parts.append(f'<path class="{kind}" d="M{x} {y - 6:.0f}h32"/><text x="{x + 40}" y="{y:.0f}">{name}</text>')
    for epoch in _epoch_ticks(epochs):
        parts.append(f'<text class="m" x="{upper.x(epoch):.0f}" y="{BOTTOM + 22}">{epoch}</text>')
    parts.append(f'<text class="m" x="{(LEFT + RIGHT) // 2}" y="{BOTTOM + 43}">epoch</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 360" role="img">'
        f"<title>{escape(title)}</title>"
        f'<style>{STYLE}</style><path class="b" style="stroke:none" d="M0 0H480V360H0z"/>'
        f'<text class="t" x="12" y="26">{escape(textwrap.shorten(title, 42, placeholder="…"))}</text>'
        f'<text x="12" y="50">{outcome}</text>{"".join(parts)}</svg>\n'
    )


def _ticks(values: Sequence[float]) -> tuple[float, ...]:
    """Three to six round numbers; the first is at most the lowest value, the last at least the highest."""
    known = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(known), max(known)
    size = max(abs(low), abs(high), 1e-6)
    reach = high - low if high - low > 1e-6 * size else size / 50  # otherwise the axis could not tell the values apart
    unit = 10 ** math.floor(math.log10(reach))
    step = next(unit * m for m in (0.2, 0.5, 1, 2, 5) if reach / (unit * m) <= 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    return tuple(step * n for n in range(first, max(last, first + 2) + 1))


def _epoch_ticks(epochs: int) -> list[int]:
    """The first epoch and up to six round numbers after it."""
    step = next(10**power * m for power in range(9) for m in (1, 2, 5) if epochs / (10**power * m) <= 6.5)
    return [1, *(epoch for epoch in range(step, epochs + 1, step) if epoch > (step + 1) / 2 and epoch > 1)]


def attach_picture(session: Session, trial_id: int, picture: str) -> None:
    """Attach a picture to a trial. Its file is written before the transaction commits; no reader knows it before."""
    meta = ArtifactMeta(str(uuid.uuid4()), filename="curves.svg", mimetype="image/svg+xml", encoding=None)
    try:
        PICTURES.mkdir(parents=True, exist_ok=True)
        (PICTURES / meta.artifact_id).write_text(picture, encoding="utf-8", errors="backslashreplace")
    except OSError as error:  # the trial counts without its picture too
        write_attributes(session, trial_id, {"picture": f"not written: {error}"})
    else:
        write_artifact(session, trial_id, meta.artifact_id, vars(meta))
