"""How the search went."""

from collections.abc import Sequence
from html import escape

from optuna.visualization import plot_optimization_history
from plotly.subplots import make_subplots

from pipeline.report.figures.contract import Figure, NothingToDraw, picture
from pipeline.report.figures.look import finish, look_of, whole_steps
from pipeline.search.results import CombinationResult


@picture(
    place=40,
    title="The search",
    says="Optuna's optimization history: every complete trial of a combination, in the order in which they were "
    "stored, and the best so far. Cells search side by side, so ranks and inits alternate.",
)
def history(results: Sequence[CombinationResult]) -> Figure:
    """Optuna's optimization history, a panel for each combination."""
    drawable = [result for result in results if any(cell.best for cell in result.cells)]
    if not drawable:
        raise NothingToDraw("no trial has completed yet")
    look = look_of(results)
    titles = [escape(result.name) for result in drawable]
    figure = make_subplots(cols=len(drawable), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.02)
    for place, result in enumerate(drawable, start=1):
        trials = {trial.number: trial for trial in result.study.get_trials(deepcopy=False)}
        points, best = plot_optimization_history(result.study).data[:2]
        inks = [look.ink(trials[number].params["init"]) for number in points.x]
        points.update(
            name=escape(result.name), showlegend=False, marker={"symbol": look.symbol(result.name), "color": inks}
        )
        points.hovertext = [f"trial {number}, rank {trials[number].params['rank']}" for number in points.x]
        points.hovertemplate = "%{hovertext}<br>%{y:.2%}<extra></extra>"
        best.update(name="best so far", showlegend=place == 1, line={"color": "#000000", "width": 1.5, "shape": "hv"})
        figure.add_traces([points, best], rows=1, cols=place)
    for init in look.inits:
        figure.add_scatter(x=[None], y=[None], mode="markers", name=escape(init), marker={"color": look.ink(init)})
    highest = max(trial.number for result in drawable for trial in result.study.get_trials(deepcopy=False))
    figure.update_xaxes(whole_steps(highest), title="Trial")
    figure.update_yaxes(title="Validation accuracy", tickformat=".4~%", col=1)
    return finish(figure, "Optimization history")
