"""From a run's sweep to the results that figures 3, 6 and 7 draw.

Means and intervals are those of the analyses (`clusters`): clusters of scenarios resampled, given
the cell. Scores are of the scenarios that the most cells answered, which are those that chose.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp_steer.analysis.bootstrap import grouped_means
from interp_steer.analysis.frames import numbers, rows_where, texts, values_of
from interp_steer.analysis.run_rows import is_cell, on_most_scenarios, steered_rows
from interp_steer.cells import ALIGNED, MALICIOUS, Cell
from interp_steer.plots.figure_files import Drawing, FigureError, MissingStageError
from interp_steer.plots.frontier import frontiers
from interp_steer.plots.layers import (
    MEASURES,
    Baseline,
    LayerSweep,
    trait_coherence_by_layer,
)
from interp_steer.plots.maps import layer_alpha_maps
from interp_steer.plots.measures import MEASURE_TITLES, LayerMeasures, measures_by_layer
from interp_steer.plots.sources import RunSource
from interp_steer.plots.text import as_text


def layer_sweep(source: RunSource, scope: str) -> LayerSweep:
    """Scores of every cell of one scope under the malicious prompt, with the baselines.

    Raises:
        MissingStageError: the sweep has no such cell, or no baseline on the same scenarios.
    """
    run = source.run
    of = (run.sweep_folder, run.operating_points_file, run.manifest_file)
    return source.keep(("layer_sweep", scope), of, lambda: _layer_sweep(source, scope))


def _layer_sweep(source: RunSource, scope: str) -> LayerSweep:
    rows, points = _steered(source, source.scores, scope), source.shown_points(scope)
    if not all(is_measured(rows, name) for name in MEASURES):
        raise MissingStageError(
            f"no row of the sweep in scope {scope} has a trait and a coherence: nothing was "
            f"scored; remove {source.run.sweep_folder}",
            command=source.command("sweep"),
        )
    scores = grouped_means(rows, ["method", "layer", "alpha"], ["trait", "coherence"])
    scores["layer"] = scores["layer"].astype(int)
    there = set(cells_of(scores))
    config = source.run.manifest["sweep"]["config"]
    return LayerSweep(
        scores=scores,
        aligned=_baseline(source, ALIGNED, rows),
        malicious=_baseline(source, MALICIOUS, rows),
        operating_points={
            m: (p.layer, p.alpha) for m, p in points.items() if (m, p.layer, p.alpha) in there
        },
        n_generations=int(numbers(scores, "n_rows").min()),
        n_missing=int(np.isnan(rows[list(MEASURES)].to_numpy(dtype=float)).any(axis=1).sum()),
        coherence_share=float(config.get("coherence_share", 0.9)),
    )


def _steered(source: RunSource, sweep: pd.DataFrame, scope: str) -> pd.DataFrame:
    rows = steered_rows(rows_where(sweep, sweep["scope"] == scope))
    rows = on_most_scenarios(rows)
    if rows.empty:
        command = f"{source.command('sweep')} --scopes {scope}"
        raise MissingStageError(
            f"the sweep has no steered cell in scope {scope} under the malicious prompt",
            command=command,
        )
    return rows


def _baseline(source: RunSource, cell: Cell, rows: pd.DataFrame) -> Baseline:
    found = rows_where(source.scores, is_cell(source.scores, cell))
    found = rows_where(found, found["scenario"].isin(sorted(values_of(rows, "scenario"))))
    if found.empty:
        raise MissingStageError(
            f"the sweep has no {cell.label} on the scenarios of its cells",
            command=source.command("sweep"),
        )
    trait, coherence = (_known_mean(numbers(found, name)) for name in MEASURES)
    return Baseline(trait=trait, coherence=coherence)


def _known_mean(values: Float[np.ndarray, "row"]) -> float:
    """Mean of the finite values; NaN where there are none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else np.nan


def cells_of(scores: pd.DataFrame) -> list[tuple[str, int, float]]:
    """Method, layer and coefficient of every row."""
    layers, alphas = numbers(scores, "layer"), numbers(scores, "alpha")
    keys = zip(texts(scores, "method"), layers, alphas, strict=True)
    return [(method, int(layer), float(alpha)) for method, layer, alpha in keys]


def is_measured(rows: pd.DataFrame, name: str) -> bool:
    """Whether a single row has a value in the column `name`."""
    return bool(np.isfinite(numbers(rows, name)).any())


def sweep_scopes(source: RunSource) -> list[str]:
    """Scopes whose cells are drawn: `all` and `response`, or others where the grid has neither.

    Raises:
        MissingStageError: there are none.
    """
    there = values_of(steered_rows(source.scores), "scope")
    found = [scope for scope in source.scopes() if scope in there]
    shown = [scope for scope in found if scope in ("all", "response")] or found
    if not shown:
        raise MissingStageError(
            "the sweep has no steered cell under the malicious prompt",
            command=source.command("sweep"),
        )
    return shown


def draw_trait_coherence(source: RunSource) -> list[Drawing]:
    """Figure 3, one drawing a scope."""
    return [
        Drawing(
            name=f"trait-coherence-{file_name(scope)}",
            table=_table(sweep, scope),
            build=lambda column, sweep=sweep, scope=scope: trait_coherence_by_layer(
                sweep,
                title=f"{source.heading}, scope {as_text(scope)}: "
                "at which layers does each method work?",
                column=column,
            ),
            notes=_notes(source),
        )
        for scope, sweep in _sweeps(source).items()
    ]


def draw_maps(source: RunSource) -> list[Drawing]:
    """Figure 6, the maps, one drawing a scope."""
    return [
        Drawing(
            name=f"layer-alpha-{file_name(scope)}",
            table=_table(sweep, scope),
            build=lambda column, sweep=sweep, scope=scope: layer_alpha_maps(
                sweep,
                title=f"{source.heading}, scope {as_text(scope)}: which layer, and how strong?",
                column=column,
            ),
            notes=_notes(source),
        )
        for scope, sweep in _sweeps(source).items()
    ]


def draw_frontiers(source: RunSource) -> list[Drawing]:
    """Figure 6, the frontiers."""
    sweeps = _sweeps(source)
    table = pd.concat([_table(sweep, scope) for scope, sweep in sweeps.items()], ignore_index=True)
    title = f"{source.heading}: what does trait cost in coherence?"
    return [
        Drawing(
            name="frontiers",
            table=table,
            build=lambda column: frontiers(
                {as_text(scope): sweep for scope, sweep in sweeps.items()},
                title=title,
                column=column,
            ),
            notes=_notes(source),
        )
    ]


def draw_measures(source: RunSource) -> list[Drawing]:
    """Figure 7, one drawing a scope."""
    drawings = []
    for scope in sweep_scopes(source):
        result = layer_measures(source, scope)
        drawings.append(
            Drawing(
                name=f"judge-free-{file_name(scope)}",
                table=result.values,
                build=lambda column, result=result, scope=scope: measures_by_layer(
                    result,
                    title=f"{source.heading}, scope {as_text(scope)}: "
                    "what do measures without a judge say?",
                    column=column,
                ),
                notes=_notes(source),
            )
        )
    return drawings


def layer_measures(source: RunSource, scope: str) -> LayerMeasures:
    """Judge-free measures by layer at each method's shown coefficient.

    That is the operating point's, or, before one was chosen, the middle one of the grid.

    Raises:
        MissingStageError: the sweep holds none of the measures.
    """
    rows = _steered(source, source.measures, scope)
    names = [n for n in MEASURE_TITLES if n in rows and is_measured(rows, n)]
    if not names:
        raise MissingStageError(
            "the sweep has no judge-free measures; it was made before they were recorded, so "
            f"remove {source.run.sweep_folder}",
            command=source.command("sweep"),
        )
    shown = _shown_alphas(source, rows, scope)
    wanted = [shown.get(m) == a for m, a in zip(rows["method"], rows["alpha"], strict=True)]
    kept = rows_where(rows, wanted)
    reference = "cross_entropy_reference"
    extra = [reference] if reference in rows and is_measured(rows, reference) else []
    wide = grouped_means(kept, ["method", "layer", "alpha"], [*names, *extra])
    long = [
        wide[["method", "layer", "alpha", "n_rows", "n_scenarios"]].assign(
            measure=name, value=wide[name], low=wide[f"{name}_low"], high=wide[f"{name}_high"]
        )
        for name in (*names, *extra)
    ]
    values = pd.concat(long, ignore_index=True)
    values["layer"] = values["layer"].astype(int)
    return LayerMeasures(values=values, alphas=shown)


def _shown_alphas(source: RunSource, rows: pd.DataFrame, scope: str) -> dict[str, float]:
    points = source.shown_points(scope)
    shown = {}
    for method, group in rows.groupby("method"):
        alphas = sorted(set(group["alpha"]))
        wanted = points[str(method)].alpha if str(method) in points else None
        shown[str(method)] = wanted if wanted in alphas else alphas[(len(alphas) - 1) // 2]
    return shown


def _sweeps(source: RunSource) -> dict[str, LayerSweep]:
    return {scope: layer_sweep(source, scope) for scope in sweep_scopes(source)}


def _table(sweep: LayerSweep, scope: str) -> pd.DataFrame:
    """The scores with the scope and whether the cell was chosen; baselines as rows of their own."""
    chosen = {(m, *cell) for m, cell in sweep.operating_points.items()}
    frame = sweep.scores.assign(
        scope=scope,
        is_operating_point=[cell in chosen for cell in cells_of(sweep.scores)],
    )
    bases: Sequence[dict[str, object]] = [
        {
            "method": f"{side} baseline",
            "trait": getattr(sweep, side).trait,
            "coherence": getattr(sweep, side).coherence,
            "scope": "none",
            "is_operating_point": False,
            "layer": np.nan,
            "alpha": np.nan,
        }
        for side in ("aligned", "malicious")
    ]
    return pd.concat([frame.astype({"layer": float}), pd.DataFrame(bases)], ignore_index=True)


def _notes(source: RunSource) -> tuple[str, ...]:
    if source.run.operating_points_file.exists():
        return ()
    return (f"no operating point is marked: make them with `{source.command('select')}`",)


def file_name(scope: str) -> str:
    """A scope as part of a file name."""
    if not scope:
        raise FigureError("a scope without a name cannot be part of a file name")
    return "".join(c if c.isalnum() else "-" for c in scope)
