"""From the tables of suites to what figure 11 draws."""

from interp_steer.plots.figure_files import Drawing, MissingStageError
from interp_steer.plots.sources import RunSource
from interp_steer.plots.suite_points import POINT_COLUMNS, SuitePoints, suite_points
from interp_steer.plots.suites import SUITE_COLUMNS, SuiteCurves, suite_curves

CURVES = {
    "capabilities": ("α", "questions", "what does steering cost in capabilities?"),
    "multi_turn": ("turn", "conversations", "do trait and coherence hold over turns?"),
}
"""Suites along an axis: what x is, what n counts, what the figure asks."""
SUITE_OF = {
    "capabilities": "choice|mmlu|mt-bench|alpaca-eval",
    "cross_trait": "cross-trait --other OTHER_RUN",
}
"""What `evaluate --suite` takes, where it is not the figure's own name."""


def draw_curves(source: RunSource, name: str) -> list[Drawing]:
    """Figure 11: one suite's curves, once the run has them.

    Raises:
        MissingStageError: it has not.
    """
    x_title, what, question = CURVES[name]
    _check_there(source, name)
    values = source.analysis(name, SUITE_COLUMNS)
    points = source.shown_points("all")
    result = SuiteCurves(
        values=values,
        x_title=x_title,
        what=what,
        chosen={m: p.alpha for m, p in points.items()} if name == "capabilities" else {},
    )
    title = f"{source.heading}: {question}"
    return [
        Drawing(
            name=name.replace("_", "-"),
            table=values,
            build=lambda column: suite_curves(result, title=title, column=column),
        )
    ]


def draw_cost(source: RunSource) -> list[Drawing]:
    """Figure 11: latency and throughput of each method, with and without diagnostics.

    Raises:
        MissingStageError: the suite was not run.
    """
    _check_there(source, "cost")
    result = SuitePoints(
        values=source.analysis("cost", POINT_COLUMNS),
        what="prompts or batches",
        measures="medians",
        reference={"ratio": 1.0},
        series_titles={"off": "diagnostics off", "on": "diagnostics on"},
    )
    return [_points_drawing(source, "cost", result, "what does steering cost in time?")]


def draw_cross_trait(source: RunSource) -> list[Drawing]:
    """Figure 11: each trait under its own guard, the other's, both, and controls.

    Raises:
        MissingStageError: the suite was not run.
    """
    _check_there(source, "cross_trait")
    result = SuitePoints(
        values=source.analysis("cross_trait", POINT_COLUMNS),
        what="scenarios",
        reference={},
        series_titles={},
    )
    question = "what does one guard do to the other trait?"
    return [_points_drawing(source, "cross-trait", result, question)]


def _points_drawing(source: RunSource, name: str, result: SuitePoints, question: str) -> Drawing:
    title = f"{source.heading}: {question}"
    return Drawing(
        name=name,
        table=result.values,
        build=lambda column: suite_points(result, title=title, column=column),
    )


def _check_there(source: RunSource, name: str) -> None:
    path = source.run.analyses_folder / f"{name}.parquet"
    if not path.exists():
        suite = name.replace("_", "-")
        raise MissingStageError(
            f"the run has no {suite} results ({path})",
            command=f"{source.command('evaluate')} --suite {SUITE_OF.get(name, suite)}",
        )
