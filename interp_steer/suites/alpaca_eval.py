"""AlpacaEval: does a judge prefer the steered answer to the same model's unsteered one?

50 % is no change, below it is harm. Which answer is shown first is drawn for each instruction and
configuration. Beside the plain win rate stands the length-controlled one (`length_controlled`).
"""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from interp_steer.analysis.bootstrap import ClusterBootstrap
from interp_steer.analysis.frames import rows_where, texts
from interp_steer.cells import NEUTRAL, Cell
from interp_steer.intervals import PERCENT
from interp_steer.report_text import METHOD_NAMES
from interp_steer.statistics import Estimate
from interp_steer.suites.capabilities import Question
from interp_steer.suites.configurations import in_order
from interp_steer.suites.evaluation import Evaluation
from interp_steer.suites.length_controlled import length_controlled_estimate
from interp_steer.suites.question_files import read_alpaca_eval
from interp_steer.suites.questions import answered, quality_judge
from interp_steer.suites.ratings import QualityJudge
from interp_steer.suites.settings import required
from interp_steer.suites.subject import Subject
from interp_steer.suites.summaries import (
    Summary,
    cells_of,
    configuration_columns,
    configuration_values,
    figure_row,
    rows_of_cell,
    rows_of_cells,
)
from interp_steer.table_files import Column, Table

PANEL = "AlpacaEval (% length-controlled wins)"


def run_alpaca_eval(subject: Subject) -> tuple[Evaluation, Summary]:
    """Answer and compare what is missing, then summarise.

    Raises:
        EvaluationError: no file of instructions, or one that does not fit.
        EndpointError: the judge's endpoint cannot be used.
    """
    path = required(
        subject.config.questions, option="questions", suite="alpaca-eval", what="alpaca_eval.json"
    )
    questions = read_alpaca_eval(path)
    evaluation, cells = answered(subject, "alpaca-eval", questions)
    asked = {question.id: question for question in questions[: subject.config.limit]}
    frame = rows_of_cells(evaluation.rows(), cells)
    frame = rows_where(frame, [name in asked for name in texts(frame, "question")])
    return evaluation, _summary(frame, subject, asked, quality_judge(subject))


def _summary(
    frame: pd.DataFrame, subject: Subject, asked: Mapping[str, Question], judge: QualityJudge
) -> Summary:
    base = _by_question(rows_of_cell(frame, NEUTRAL))
    lines, points, missing = [], [], 0
    for cell in in_order(cells_of(frame)):
        if not cell.is_steered:
            continue
        own = _by_question(rows_of_cell(frame, cell))
        names = [name for name in own if name in base]
        wins = _wins(names, own, base, asked=asked, judge=judge, cell=cell)
        known = np.isfinite(wins)
        missing += int((~known).sum())
        longer = np.array([len(own[name]) - len(base[name]) for name in names], dtype=np.float64)
        rates = _rates(
            [n for n, k in zip(names, known, strict=True) if k], wins[known], longer[known]
        )
        n = int(known.sum())
        named = configuration_values(cell, subject.configurations)
        lines.append({**named, **rates, "n": n})
        panel = f"{PANEL}, {METHOD_NAMES[cell.method]}"
        points.append(
            figure_row(panel, cell.method, cell.alpha or 0.0, rates["length_controlled"], n)
        )
    table = Table(
        name="alpaca_eval",
        caption=(
            f"Wins against the same model unsteered, {len(asked)} instructions, judged by "
            f"{judge.name}; 50 % is no change; length-controlled: at equal length; 95 % intervals "
            "over instructions."
        ),
        columns=(
            *configuration_columns(),
            Column(name="length_controlled", title="length-controlled wins (%)", digits=1),
            Column(name="wins", title="wins (%)", digits=1),
            Column(name="longer", title="characters longer", digits=0),
            Column(name="n", title="n"),
        ),
        rows=tuple(lines),
    )
    notes = (f"the judge gave no usable answer to {missing} comparisons",) if missing else ()
    return Summary(tables=(table,), figure=pd.DataFrame(points), notes=notes)


def _by_question(rows: pd.DataFrame) -> dict[str, str]:
    return dict(zip(texts(rows, "question"), texts(rows, "response"), strict=True))


def _wins(
    names: Sequence[str],
    own: Mapping[str, str],
    base: Mapping[str, str],
    *,
    asked: Mapping[str, Question],
    judge: QualityJudge,
    cell: Cell,
) -> np.ndarray:
    """1 where the steered answer wins, NaN where the judge gave nothing usable."""
    is_first = [random.Random(f"{name} {cell.label}").random() < 0.5 for name in names]
    pairs = [
        (own[name], base[name]) if first else (base[name], own[name])
        for name, first in zip(names, is_first, strict=True)
    ]
    found = judge.prefer([asked[name].turns[0] for name in names], pairs)
    return np.array(
        [
            math.nan if one is None else one if first else 1.0 - one
            for one, first in zip(found, is_first, strict=True)
        ]
    )


def _rates(names: Sequence[str], wins: np.ndarray, longer: np.ndarray) -> dict[str, Any]:
    boot = ClusterBootstrap(names)
    plain: Estimate = boot.mean(100.0 * wins, bounds=PERCENT)
    return {
        "length_controlled": length_controlled_estimate(wins, longer),
        "wins": plain,
        "longer": boot.mean(longer),
    }
