"""What is reported: baselines, operating points and controls on scenarios that chose nothing.

Every number is taken on the reporting scenarios, with its baselines on the same ones and one set of
bootstrap draws for all, so that comparisons are paired. The intervals are conditional on the chosen
configurations.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from interp_steer.cells import ALIGNED, CONTROL_KINDS, MALICIOUS, NONE, Cell, parse_control
from interp_steer.scenarios import Scenario
from interp_steer.selection import (
    CellScore,
    Choice,
    ScenarioSplit,
    SelectionError,
    cell_scores,
    choose,
    in_sample_recovered,
    rows_by_cell,
)
from interp_steer.statistics import (
    ClusterScores,
    Estimate,
    cluster_scores,
    mean_estimate,
    recovered_estimate,
    resample_weights,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One cell on the reporting scenarios."""

    cell: Cell
    """The configuration."""
    trait: Estimate
    """Mean trait, 0-100."""
    coherence: Estimate
    """Mean coherence, 0-100."""
    recovered: Estimate
    """Share of the trait gap closed on the same scenarios (0 as malicious, 1 as aligned)."""
    n_scenarios: int
    """Scenarios behind the numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """The chosen configuration of one method and scope, and how it does where it was not chosen."""

    choice: Choice
    """What the selection scenarios said."""
    selected: CellScore
    """The chosen cell's scores on the scenarios that chose it (flattering)."""
    in_sample_recovered: float
    """Recovered share on those scenarios (flattering)."""
    reported: Measured
    """The same cell on the reporting scenarios."""
    finalists: tuple[Measured, ...]
    """The other finalists there; they were not candidates any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSummary:
    """Draws of one kind of control at one operating point."""

    kind: str
    """random_direction or shuffled_labels."""
    method: str
    """The method whose gate and signed shift were kept."""
    scope: str
    """Its scope."""
    recovered: tuple[float, ...]
    """Recovered share of each draw, on the scenarios that the controls answered."""
    coherence: float
    """Mean coherence over the draws, 0-100."""
    n_scenarios: int
    """Scenarios behind each draw."""

    @property
    def mean(self) -> float:
        """Mean recovered share over the draws."""
        return sum(self.recovered) / len(self.recovered)

    @property
    def max(self) -> float:
        """Largest recovered share of a draw."""
        return max(self.recovered)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that a run's table shows."""

    aligned: Measured
    """Baseline: aligned prompt, unsteered."""
    malicious: Measured
    """Baseline: malicious prompt, unsteered."""
    points: tuple[OperatingPoint, ...]
    """One for each method and scope."""
    controls: tuple[ControlSummary, ...]
    """One for each kind, method and scope that has draws."""
    split: ScenarioSplit
    """Which scenarios chose and which reported."""
    coherence_share: float
    """Share of the aligned baseline's coherence that an operating point had to keep."""


class Reporter:
    """Measures cells on the reporting scenarios, paired through one seed of bootstrap draws."""

    def __init__(
        self, rows: pa.Table, scenarios: Sequence[Scenario], *, n_resamples: int = 1000, seed: int
    ) -> None:
        self._order = [scenario.id for scenario in scenarios]
        self._groups = rows_by_cell(rows, scenarios)
        self._n_resamples, self._seed = n_resamples, seed

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell that has rows on the reporting scenarios."""
        return tuple(self._groups)

    def measure(self, cell: Cell) -> Measured:
        """Trait, coherence and recovered share of `cell` on the scenarios that it answered.

        The baselines are taken on those scenarios too.

        Raises:
            SelectionError: the cell or a baseline has no rows there.
        """
        present = set(self._rows(cell)["scenario"])
        order = [scenario for scenario in self._order if scenario in present]
        weights = resample_weights(len(order), n_resamples=self._n_resamples, seed=self._seed)
        trait = self._scores(cell, "trait", order)
        return Measured(
            cell=cell,
            trait=mean_estimate(trait, weights),
            coherence=mean_estimate(self._scores(cell, "coherence", order), weights),
            recovered=recovered_estimate(
                steered=trait,
                malicious=self._scores(MALICIOUS, "trait", order),
                aligned=self._scores(ALIGNED, "trait", order),
                weights=weights,
            ),
            n_scenarios=len(order),
        )

    def _scores(self, cell: Cell, column: str, order: Sequence[str]) -> ClusterScores:
        rows = self._rows(cell)
        rows = rows[rows["scenario"].isin(order)]
        return cluster_scores(rows[column].tolist(), rows["scenario"].tolist(), order=order)

    def _rows(self, cell: Cell):
        if cell not in self._groups:
            raise SelectionError(
                f"the sweep has no rows of {cell.label} on the reporting scenarios; run "
                "`interp-steer sweep` on this run again, it adds what is missing"
            )
        return self._groups[cell]


def report(
    rows: pa.Table, split: ScenarioSplit, *, coherence_share: float = 0.9, seed: int = 42
) -> Report:
    """Choose on the selection scenarios, report on the others.

    Args:
        rows: every row of a sweep.
        split: which scenarios choose and which report.
        coherence_share: see `choose`.
        seed: seed of the bootstrap.

    Raises:
        SelectionError: rows are missing, by the name of the cell.
    """
    scores = cell_scores(rows, split.selection)
    choices = choose(rows, split.selection, coherence_share=coherence_share)
    reporter = Reporter(rows, split.reporting, seed=seed)
    points = tuple(_point(choice, scores, reporter) for choice in choices)
    return Report(
        aligned=reporter.measure(ALIGNED),
        malicious=reporter.measure(MALICIOUS),
        points=points,
        controls=tuple(
            summary
            for kind in CONTROL_KINDS
            for point in points
            for summary in _control(kind, point, reporter)
        ),
        split=split,
        coherence_share=coherence_share,
    )


def _point(choice: Choice, scores: Sequence[CellScore], reporter: Reporter) -> OperatingPoint:
    selected = choice.best[0]
    group = (choice.method, choice.scope)
    others = [
        cell
        for cell in reporter.cells
        if cell.is_trait_steering and (cell.method, cell.scope) == group and cell != selected.cell
    ]
    return OperatingPoint(
        choice=choice,
        selected=selected,
        in_sample_recovered=in_sample_recovered(selected, scores),
        reported=reporter.measure(selected.cell),
        finalists=tuple(reporter.measure(cell) for cell in others),
    )


def _control(kind: str, point: OperatingPoint, reporter: Reporter) -> list[ControlSummary]:
    """The draws of one kind at one operating point, as a list of one; empty without draws."""
    at_point = [
        cell
        for cell in reporter.cells
        if cell.control != NONE
        and parse_control(cell.control)[0] == kind
        and cell.with_control(NONE) == point.selected.cell
    ]
    draws = [reporter.measure(cell) for cell in at_point]
    if not draws:
        return []
    return [
        ControlSummary(
            kind=kind,
            method=point.choice.method,
            scope=point.choice.scope,
            recovered=tuple(draw.recovered.value for draw in draws),
            coherence=math.fsum(draw.coherence.value for draw in draws) / len(draws),
            n_scenarios=min(draw.n_scenarios for draw in draws),
        )
    ]
