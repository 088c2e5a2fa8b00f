"""What is reported: every number of a run's table, with what chose it and what it is held against.

The numbers of an operating point come from rows that did not choose it, with baselines on the same
scenarios and one set of bootstrap draws for all, so that comparisons are paired. The in-sample
figure stands beside them, labelled, to show what choosing flatters.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from interp_steer.assignments import everywhere
from interp_steer.candidates import unsteered
from interp_steer.cells import ALIGNED, MALICIOUS
from interp_steer.comparisons import (
    BaselineResult,
    ControlSummary,
    Difference,
    Extras,
    PointArm,
    against_defence,
    against_mean_difference,
    between_methods,
    control_summaries,
)
from interp_steer.guard import GuardPrice, guard_prices
from interp_steer.measured_tables import MeasuredLine, measured_table
from interp_steer.measuring import Measured, Measurer
from interp_steer.operating_points import Chosen, Plan, PointFinder
from interp_steer.pareto import Front, fronts
from interp_steer.scenario_clusters import ScenarioClusters
from interp_steer.scoreboard import JUDGED
from interp_steer.selection import CellScore, Choice
from interp_steer.splits import ScenarioSplit
from interp_steer.two_fold import FoldChoice

_STAR = "* no cell kept enough coherence; shown is the most coherent one."


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """The chosen configuration of one method, scope and threat, and how it is reported."""

    choice: Choice
    """What the selection scenarios said; in a two-fold protocol all scenarios."""
    selected: CellScore
    """The chosen cell's scores on the scenarios that chose it (flattering)."""
    in_sample_recovered: float
    """Recovered share on those scenarios (flattering)."""
    reported: Measured
    """On rows that did not choose: the same cell on the reporting scenarios, or, two-fold, for each
    scenario the cell that the other half chose."""
    folds: tuple[FoldChoice, ...]
    """What each half chose; empty in the protocol `split`."""
    finalists: tuple[Measured, ...]
    """The other finalists on the reporting scenarios (`split`); they were not candidates there."""

    @property
    def line(self) -> MeasuredLine:
        """The point in a table."""
        group, cell = self.choice.group, self.selected.cell
        star = "" if self.choice.keeps_coherence else " *"
        return MeasuredLine(
            name=f"{group.method}, scope {group.scope}, {group.threat}{star}",
            measured=self.reported,
            layer=cell.layer,
            alpha=cell.alpha,
        )

    def _repr_html_(self) -> str:
        return measured_table("operating point", [self.line], note=_STAR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that a run's tables show."""

    aligned: Measured
    """Baseline: aligned prompt, unsteered."""
    unsteered: Mapping[str, Measured]
    """By threat, the baseline that shows it undisturbed; malicious_prompt is always there."""
    points: tuple[OperatingPoint, ...]
    """One for each method, scope and threat, malicious_prompt first."""
    controls: tuple[ControlSummary, ...]
    """One for each kind and operating point that has draws."""
    baselines: tuple[BaselineResult, ...]
    """The prompt-only defence, and the mean difference at each operating point."""
    differences: tuple[Difference, ...]
    """Paired differences between methods, and of methods and baselines."""
    guards: tuple[GuardPrice, ...]
    """What each operating point costs where there is no threat."""
    fronts: tuple[Front, ...]
    """Trait against coherence (in-sample)."""
    split: ScenarioSplit
    """Which scenarios chose and which reported."""
    clusters: ScenarioClusters
    """What the intervals resample."""
    left_out: tuple[str, ...]
    """What takes no part in the report, and why."""
    coherence_share: float
    """Share of the aligned baseline's coherence that an operating point had to keep."""
    n_rows: int = 0
    """Rows of the sweep."""
    n_missing: int = 0
    """Of these, rows whose trait or coherence the judge could not give."""

    @property
    def malicious(self) -> Measured:
        """Baseline: malicious prompt, unsteered."""
        return self.unsteered[MALICIOUS.threat]

    def _repr_html_(self) -> str:
        unsteered = {"aligned prompt": self.aligned, **self.unsteered}
        return measured_table(
            "operating points",
            [
                *(
                    MeasuredLine(name=f"{name}, unsteered", measured=measured, is_baseline=True)
                    for name, measured in unsteered.items()
                ),
                *(point.line for point in self.points),
            ],
            controls=self.controls,
            note=f"95 % intervals; {self.aligned.n_scenarios} scenarios in "
            f"{self.aligned.n_clusters} clusters. {_STAR}",
        )


def report(rows: pa.Table, plan: Plan) -> Report:
    """Choose, measure where it was not chosen, compare.

    Args:
        rows: every row of a sweep.
        plan: which scenarios choose and report, and what was run.

    Raises:
        SelectionError: rows are missing, by the name of the cell.
    """
    finder = PointFinder(rows, plan)
    chosen = finder.points()
    measurer, left_out = finder.measurer, finder.left_out
    arms = [_point_arm(measurer, point) for point in chosen]
    beside = _Beside(Extras(measurer, is_strict=plan.is_strict, left_out=left_out), plan)
    baselines, differences = beside.baselines(arms)
    ids = measurer.board.scenarios
    threats = dict.fromkeys([MALICIOUS.threat, *(arm.group.threat for arm in arms)])
    return Report(
        aligned=_baseline(measurer, everywhere(ALIGNED, ids), MALICIOUS.threat),
        unsteered={t: _baseline(measurer, everywhere(unsteered(t), ids), t) for t in threats},
        points=tuple(_point(measurer, one, arm) for one, arm in zip(chosen, arms, strict=True)),
        controls=beside.controls(arms),
        baselines=tuple(baselines),
        differences=(*between_methods(arms), *differences),
        guards=beside.guards(arms),
        fronts=fronts(finder.board, finder.groups),
        split=plan.split,
        clusters=finder.clusters,
        left_out=tuple(left_out),
        coherence_share=plan.coherence_share,
        n_rows=rows.num_rows,
        n_missing=_n_missing(rows),
    )


def _n_missing(rows: pa.Table) -> int:
    """Rows without a trait or without a coherence."""
    scores = [rows[name].cast(pa.float64()).to_numpy() for name in JUDGED]
    return int((~np.isfinite(scores).all(axis=0)).sum())


class _Beside:
    """Everything that stands beside the operating points."""

    def __init__(self, extras: Extras, plan: Plan) -> None:
        self._extras, self._plan = extras, plan
        split = plan.split
        self._answering = [scenario.id for scenario in split.answering]
        self._chats = [scenario.id for scenario in split.reporting if not scenario.is_raw]
        self._n_raw = len(split.reporting) - len(self._chats)
        self._left_out = extras.left_out

    def controls(self, arms: list[PointArm]) -> tuple[ControlSummary, ...]:
        n_draws = self._plan.control_draws
        found = [
            summary
            for arm in arms
            for summary in control_summaries(self._extras, arm, self._answering, n_draws=n_draws)
        ]
        return tuple(sorted(found, key=lambda summary: summary.kind))

    def baselines(self, arms: list[PointArm]) -> tuple[list[BaselineResult], list[Difference]]:
        results: list[BaselineResult] = []
        differences: list[Difference] = []
        if "defence" in self._plan.extras:
            self._say_what_raw_pairs_lack("the prompt-only defence")
            found = against_defence(self._extras, arms, self._chats) if self._chats else None
            if found is not None:
                results.append(found[0])
                differences += found[1]
        if "mean_difference" in self._plan.extras:
            for arm in arms:
                pair = against_mean_difference(self._extras, arm, self._answering)
                if pair is not None:
                    results.append(pair[0])
                    differences.append(pair[1])
        return results, differences

    def guards(self, arms: list[PointArm]) -> tuple[GuardPrice, ...]:
        if "guard" not in self._plan.extras:
            return ()
        self._say_what_raw_pairs_lack("the guard under a neutral prompt")
        chats = [scenario for scenario in self._answering if scenario in set(self._chats)]
        return tuple(
            price
            for arm in arms
            for price in guard_prices(self._extras, arm, self._answering, chats=chats)
        )

    def _say_what_raw_pairs_lack(self, what: str) -> None:
        if self._n_raw:
            self._left_out.append(
                f"{what} on {self._n_raw} of {self._n_raw + len(self._chats)} scenarios: they are "
                "pairs of raw prompts, which have no such side"
            )


def _baseline(measurer: Measurer, assignment: Mapping, threat: str) -> Measured:
    return measurer.arm(assignment, threat=threat, kind="cluster_bootstrap").measured


def _point_arm(measurer: Measurer, chosen: Chosen) -> PointArm:
    kind = "conditional_bootstrap" if chosen.folds is None else "selection_bootstrap"
    group = chosen.choice.group
    arm = measurer.arm(chosen.assignment, threat=group.threat, kind=kind, chosen=chosen.folds)
    return PointArm(group=group, assignment=chosen.assignment, arm=arm, kind=kind)


def _point(measurer: Measurer, chosen: Chosen, arm: PointArm) -> OperatingPoint:
    choice = chosen.choice
    others = [] if chosen.folds else [score.cell for score in choice.best[1:]]
    finalists = [everywhere(cell, chosen.assignment) for cell in others]
    return OperatingPoint(
        choice=choice,
        selected=choice.best[0],
        in_sample_recovered=chosen.in_sample_recovered,
        reported=arm.arm.measured,
        folds=() if chosen.folds is None else chosen.folds.folds,
        finalists=tuple(
            measurer.arm(assignment, threat=choice.threat).measured
            for assignment in finalists
            if len(assignment) > measurer.missing(assignment)
        ),
    )
