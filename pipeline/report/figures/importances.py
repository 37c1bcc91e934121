"""Which values mattered."""

import warnings
from collections.abc import Sequence
from html import escape
from typing import Any

from optuna.trial import TrialState
from optuna.visualization import plot_param_importances
from plotly.subplots import make_subplots

from pipeline.report.figures.contract import Figure, NothingToDraw, picture
from pipeline.report.figures.look import finish, look_of
from pipeline.search.results import CombinationResult


@picture(
    place=50,
    title="What mattered",
    says="Optuna's parameter importances (PED-ANOVA) over the complete trials of a combination: how much of what sets "
    "the best tenth of trials apart from the others each parameter explains. With few trials this is a hint, no more.",
)
def importances(results: Sequence[CombinationResult]) -> Figure:
    """Optuna's importances of all parameters that vary, a group of bars for each combination."""
    look, figure, reasons = look_of(results), make_subplots(), []
    for result in results:
        try:
            bars = _optunas(result)
        except NothingToDraw as reason:
            reasons.append(f"{result.name}: {reason}")
            continue
        bars.update(name=escape(result.name), hovertemplate="%{y}: %{x:.3f}")
        bars.marker = {"color": "#BBBBBB", "line": {"color": "#333333", "width": 1}}
        bars.marker.pattern = {"shape": look.pattern(result.name), "fgcolor": "#333333"}
        figure.add_trace(bars)
    if not figure.data:
        raise NothingToDraw("; ".join(reasons))
    figure.update_xaxes(title="Importance (share of 1)", rangemode="tozero")
    figure.update_yaxes(title="Parameter")
    finish(figure, "Parameter importances")
    if reasons:
        figure.update_layout(title_subtitle_text=escape(f"None for {'; '.join(reasons)}"))
    return figure.update_layout(showlegend=True)


def _optunas(result: CombinationResult) -> Any:
    """Optuna's own bars.

    Raises:
        NothingToDraw: Too few trials, or none differs from the others.
    """
    trials = result.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(trials) < 2:
        raise NothingToDraw(f"importances need two complete trials, there {('are none', 'is one')[len(trials)]}")
    varied = [name for name in trials[0].params if len({trial.params[name] for trial in trials}) > 1]
    if not varied:
        raise NothingToDraw("all complete trials have the same values")
    with warnings.catch_warnings():
        # Optuna warns where it cannot tell the parameters apart, and then calls them all equally important.
        warnings.simplefilter("error", UserWarning)
        try:
            return plot_param_importances(result.study, params=varied).data[0]
        except UserWarning:
            raise NothingToDraw("the complete trials do not differ enough in accuracy") from None
