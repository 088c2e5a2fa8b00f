"""What cross-trait found, as a table and as the points of its figure.

Means are over scenarios, and over the draws of a control, which a scenario answers all of; changes
are against the same scenarios under the malicious prompt without a guard.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from interp_steer.analysis.frames import rows_where, texts
from interp_steer.cells import CONTROL_KINDS
from interp_steer.intervals import Estimate
from interp_steer.report_text import METHOD_NAMES
from interp_steer.suites.guard_units import ALWAYS, STEERED
from interp_steer.suites.subject import clusters_of
from interp_steer.suites.summaries import (
    COHERENCE,
    TRAIT,
    Summary,
    estimates,
    measure_columns,
    paired_change,
    point_row,
)
from interp_steer.suites.trait_sides import Side
from interp_steer.table_files import Column, Table

SHOWN = {
    "aligned": "aligned prompt, unsteered",
    "none": "malicious prompt, unsteered",
    "own": "own guard",
    "other": "other guard",
    "both": "both guards",
    "random_direction": "other guard, random direction",
    "shuffled_labels": "other guard, shuffled labels",
}
"""Guards, controls by their kind, as they are shown."""


def cross_trait_summary(frame: pd.DataFrame, sides: Sequence[Side]) -> Summary:
    """The table and the figure's points.

    Args:
        frame: the rows that are wanted.
        sides: the two traits.
    """
    cluster = {key: c for side in sides for key, c in clusters_of(side.scenarios).items()}
    frame = frame.assign(
        item=frame["scenario"],
        cluster=[cluster[s] for s in texts(frame, "scenario")],
        guards=[name.partition(":")[0] for name in texts(frame, "guards")],
        draw=texts(frame, "guards"),
    )
    lines = [line for side in sides for line in _lines(frame, side)]
    trait, coherence, n = measure_columns((TRAIT, COHERENCE))
    table = Table(
        name="cross_trait",
        caption=(
            f"Guards of {sides[0].study.trait} and {sides[1].study.trait} on each other's "
            "scenarios, malicious prompt unless named; own is the guard of the trait that is asked "
            "and judged; controls keep the other guard's gate and signed shift; 95 % intervals "
            "over scenarios."
        ),
        columns=(
            Column(name="asked", title="scenarios and judge"),
            Column(name="method", title="method"),
            Column(name="guards", title="guards"),
            Column(name="draws", title="draws"),
            trait,
            Column(name="change", title="trait against unsteered", digits=1),
            coherence,
            n,
        ),
        rows=tuple(lines),
    )
    return Summary(tables=(table,), figure=pd.DataFrame(list(_points(lines))))


def _lines(frame: pd.DataFrame, side: Side) -> Iterator[dict[str, Any]]:
    """One line a configuration of one trait's scenarios."""
    asked = rows_where(frame, frame["trait_asked"] == side.study.trait)
    none = rows_where(asked, asked["guards"] == "none")
    for method in ("none", *side.points):
        for guards in (*ALWAYS, *STEERED, *CONTROL_KINDS):
            is_it = (asked["guards"] == guards) & (asked["method"] == method)
            rows = rows_where(asked, is_it)
            if rows.empty:
                continue
            n_draws = len(set(texts(rows, "draw")))
            yield {
                "asked": side.study.trait,
                "guards": SHOWN[guards],
                "method": METHOD_NAMES.get(method, ""),
                "draws": n_draws if guards in CONTROL_KINDS else None,
                **estimates(rows, (TRAIT, COHERENCE)),
                "change": None if guards == "none" else paired_change(rows, none, TRAIT),
                "n": len(set(texts(rows, "scenario"))),
                "series": method,
            }


def _points(lines: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for line in lines:
        for measure in (TRAIT, COHERENCE):
            estimate: Estimate = line[measure.name]
            word = line["asked"] if measure is TRAIT else measure.name
            yield point_row(
                f"asked and judged: {line['asked']}; {word} (0-100)",
                line["guards"],
                line["series"],
                estimate,
                line["n"],
            )
