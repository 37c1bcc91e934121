"""The importance of each parameter."""

import warnings
from collections.abc import Sequence

from optuna.trial import TrialState
from plotly.subplots import make_subplots

from pipeline.report.figures.contract import PICTURES, Figure, NothingToDraw, Picture
from pipeline.report.figures.labels import short
from pipeline.report.figures.style import OVER, finish, look_of
from pipeline.report.theme import NEUTRAL
from pipeline.results.combination_result import CombinationResult


@PICTURES.register("importances")
class Importances(Picture):
    """Optuna's importances of all parameters that vary, one group of bars per combination."""

    order = 50
    title = "What mattered"
    reading = (
        "Optuna's parameter importances (PED-ANOVA) over the complete trials of a combination: how much each "
        "parameter explains of what sets the best tenth of the trials apart from the others. With few trials this is "
        "only a hint."
    )

    def draw(self, results: Sequence[CombinationResult]) -> Figure:
        look, figure, reasons = look_of(results), make_subplots(), []
        for result in results:
            try:
                shares = _shares(result)
                pattern = {**OVER, "shape": look.pattern(result.label)}
                figure.add_bar(
                    x=list(shares.values())[::-1],
                    y=list(shares)[::-1],
                    orientation="h",
                    name=short(result.label),
                    hovertemplate="%{y}: %{x:.3f}<extra></extra>",
                    marker={"color": NEUTRAL, "line": {"width": 0}, "pattern": pattern},
                )
            except NothingToDraw as reason:
                reasons.append(f"{result.label}: {reason}")
        if not figure.data:
            raise NothingToDraw("; ".join(reasons))
        figure.update_xaxes(title="Importance (share of 1)", rangemode="tozero")
        figure.update_yaxes(title="Parameter")
        figure.update_layout(bargap=0.3, showlegend=len(figure.data) > 1)
        rows = len({name for bars in figure.data for name in bars.y})
        height = 170 + rows * (20 + 14 * len(figure.data))
        said = f"No importances for {'; '.join(reasons)}" if reasons else ""
        return finish(figure, "What mattered", height=height, subtitle=said)


def _shares(result: CombinationResult) -> dict[str, float]:
    """Optuna's importances, the largest first.

    Raises:
        NothingToDraw: There are too few complete trials, or they do not differ.
    """
    from optuna.importance import get_param_importances  # takes a second to import

    trials = result.trials(TrialState.COMPLETE)
    if len(trials) < 2:
        raise NothingToDraw(f"importances need two complete trials, there {('are none', 'is one')[len(trials)]}")
    varied = [name for name in trials[0].params if len({trial.params[name] for trial in trials}) > 1]
    if not varied:
        raise NothingToDraw("all complete trials have the same values")
    with warnings.catch_warnings():
        # Optuna warns if it cannot tell the parameters apart, and then returns equal importances.
        warnings.simplefilter("error", UserWarning)
        try:
            return get_param_importances(result.study, params=varied)
        except UserWarning:
            raise NothingToDraw("the complete trials do not differ enough in accuracy") from None
