"""The picture of a trial's learning curves, stored as an artifact, which optuna-dashboard shows with the trial."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.artifacts import ArtifactMeta
from optuna.trial import TrialState
from sqlalchemy.orm import Session

from pipeline.paths import PICTURES
from pipeline.store.curves import Curves, draw_curves
from pipeline.store.optuna_tables import write_artifact, write_attributes
from pipeline.wording import counted

_ENDS = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def curves_of(title: str, metric: str, accuracies: Sequence[float], attributes: Mapping[str, Any]) -> Curves:
    """The learning curves of a trial, by its accuracies after each epoch and its user attributes."""
    losses = attributes.get("train_loss", ()), attributes.get("val_loss", ())
    return Curves(title, metric, accuracies, *losses, attributes.get("best_epoch", 0))


def attach_curves(session: Session, trial_id: int, curves: Curves, end: str) -> None:
    """Draw the learning curves of a trial that ended, and attach them to it; a trial without epochs has none.

    The file is written before the transaction commits, and no reader knows it before.

    Args:
        session: The transaction in which the trial ends.
        trial_id: Its id in the database.
        curves: Its curves.
        end: How it ended: ``complete``, ``pruned``, ``failed`` or ``interrupted``.
    """
    if not curves.accuracies:
        return
    picture = draw_curves(curves, _outcome(end, curves))
    meta = ArtifactMeta(str(uuid.uuid4()), filename="curves.svg", mimetype="image/svg+xml", encoding=None)
    try:
        PICTURES.mkdir(parents=True, exist_ok=True)
        (PICTURES / meta.artifact_id).write_text(picture, encoding="utf-8")
    except OSError as error:  # the trial counts without its picture too
        write_attributes(session, trial_id, {"picture": f"not written: {error}"})
        return
    write_artifact(session, trial_id, meta.artifact_id, vars(meta))


def end_of(state: TrialState, attributes: Mapping[str, Any]) -> str:
    """How a trial ended, in a word."""
    return "interrupted" if "interrupted" in attributes else _ENDS[state]


def _outcome(end: str, curves: Curves) -> str:
    epochs, best = len(curves.accuracies), curves.best_epoch
    if not 0 < best <= epochs:
        return f"{end} after {counted(epochs, 'epoch')}"
    return f"{end}: best {curves.accuracies[best - 1]:.2%} in epoch {best} of {epochs}"
