"""What a score of questions comes to: by coefficient, with the change against the unsteered model.

The items are the same under every configuration, so that the change is paired. A capability that
stays says that this test does not notice the steering, not that nothing is lost.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp_steer.analysis.frames import values_of
from interp_steer.cells import METHODS, Cell
from interp_steer.report_text import METHOD_NAMES
from interp_steer.suites.configurations import Configurations, in_order
from interp_steer.suites.evaluation import cell_key
from interp_steer.suites.summaries import (
    Measure,
    Summary,
    cells_of,
    configuration_columns,
    configuration_values,
    estimates,
    figure_row,
    measure_columns,
    paired_change,
    rows_of_cell,
)
from interp_steer.table_files import Column, Table, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One item of a suite of questions."""

    id: str
    """Unique in its file."""
    turns: tuple[str, ...]
    """What the user says, turn by turn."""
    category: str = ""
    """Stratum, free text."""
    references: tuple[str | None, ...] = ()
    """What a judge may compare each turn's answer with; empty where there is nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionUnit:
    """One question under one configuration."""

    question: Question
    """What is asked."""
    cell: Cell
    """The configuration."""

    @property
    def key(self) -> tuple[object, ...]:
        """Question and configuration."""
        return (self.question.id, *cell_key(self.cell))


def question_units(questions: Sequence[Question], cells: Sequence[Cell]) -> list[QuestionUnit]:
    """Every question under every configuration, question by question."""
    return [QuestionUnit(question=q, cell=cell) for q in questions for cell in cells]


def capability_summary(
    frame: pd.DataFrame,
    measure: Measure,
    chosen: Configurations,
    *,
    name: str,
    caption: str,
    notes: Sequence[str] = (),
) -> Summary:
    """Table and figure of one score by coefficient.

    Args:
        frame: rows with `cell`, `item`, `cluster` and the measure's column; unsteered ones too.
        measure: the score.
        chosen: says which configuration is an operating point.
        name: of the table.
        caption: of the table.
        notes: what a reader must know.
    """
    by_cell = {cell: rows_of_cell(frame, cell) for cell in in_order(cells_of(frame))}
    base = next(rows for cell, rows in by_cell.items() if not cell.is_steered)
    lines: list[Mapping[str, Value]] = []
    for cell, rows in by_cell.items():
        change = paired_change(rows, base, measure) if cell.is_steered else None
        found = estimates(rows, [measure])
        lines.append(
            {
                **configuration_values(cell, chosen),
                **found,
                "change": change,
                "n": len(values_of(rows, "item")),
            }
        )
    score, n = measure_columns([measure])
    change_column = Column(name="change", title="change against unsteered", digits=measure.digits)
    table = Table(
        name=name,
        caption=caption,
        columns=(*configuration_columns(), score, change_column, n),
        rows=tuple(lines),
    )
    return Summary(tables=(table,), figure=_figure(by_cell, measure), notes=tuple(notes))


def _figure(by_cell: Mapping[Cell, pd.DataFrame], measure: Measure) -> pd.DataFrame:
    """One panel a method, for coefficients of two methods are not on one scale."""
    base_cell = next(cell for cell in by_cell if not cell.is_steered)
    base = estimates(by_cell[base_cell], [measure])[measure.name]
    points: list[dict[str, Any]] = []
    for method in METHODS:
        cells = [cell for cell in by_cell if cell.method == method]
        if not cells:
            continue
        panel = f"{measure.title}, {METHOD_NAMES[method]}"
        for cell in cells:
            found = estimates(by_cell[cell], [measure])[measure.name]
            if math.isfinite(found.value):
                n = len(values_of(by_cell[cell], "item"))
                points.append(figure_row(panel, method, cell.alpha or 0.0, found, n))
        # A level, drawn over the whole range: alpha 0 is not "unsteered" for every method.
        most = float(np.max([cell.alpha or 0.0 for cell in cells]))
        n = len(values_of(by_cell[base_cell], "item"))
        points += [figure_row(panel, "unsteered", x, base, n) for x in (0.0, most)]
    return pd.DataFrame(points)
