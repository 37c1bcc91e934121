"""The picture of a trial's curves, kept as the artifact that optuna-dashboard shows with the trial."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.artifacts import ArtifactMeta
from optuna.trial import TrialState
from sqlalchemy.orm import Session

from pipeline.paths import PICTURES
from pipeline.store.curves import draw_curves
from pipeline.store.optuna_tables import write_artifact, write_attributes

_ENDS = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def attach_curves(
    session: Session,
    trial_id: int,
    name: str,
    metric: str,
    state: TrialState,
    accuracies: Sequence[float],
    attributes: Mapping[str, Any],
) -> None:
    """Keep the curves of a trial that ended; one without an epoch has none.

    The file is there before its row is committed, and nobody reads it before.

    Args:
        session: The transaction in which the trial ends.
        trial_id: Its id in the database.
        name: What the picture calls it.
        metric: What ``accuracies`` are of.
        state: How it ended.
        accuracies: Those of its epochs.
        attributes: Its losses, and its best epoch.
    """
    if not accuracies:
        return
    best = attributes.get("best_epoch", 0)
    picture = draw_curves(
        name,
        _outcome(state, accuracies, attributes),
        metric,
        accuracies,
        attributes.get("train_loss", ()),
        attributes.get("val_loss", ()),
        best,
    )
    meta = ArtifactMeta(str(uuid.uuid4()), filename="curves.svg", mimetype="image/svg+xml", encoding=None)
    try:
        PICTURES.mkdir(parents=True, exist_ok=True)
        (PICTURES / meta.artifact_id).write_text(picture, encoding="utf-8")
    except OSError as error:  # a trial is not to be lost for its picture
        write_attributes(session, trial_id, {"picture": f"not written: {error}"})
        return
    write_artifact(session, trial_id, meta.artifact_id, vars(meta))


def _outcome(state: TrialState, accuracies: Sequence[float], attributes: Mapping[str, Any]) -> str:
    epochs, best = len(accuracies), attributes.get("best_epoch", 0)
    end = "interrupted" if "interrupted" in attributes else _ENDS[state]
    if not 0 < best <= epochs:
        return f"{end} after {epochs} epoch{'s' * (epochs > 1)}"
    return f"{end}: best {accuracies[best - 1]:.2%} in epoch {best} of {epochs}"
