"""Measuring an assignment of cells to scenarios: means, recovered share, paired resamples.

Whatever is measured on the same scenarios shares their resamples, and its baselines are taken on
these scenarios too. A cell that lacks some of its rows is refused, never measured on the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from interp_steer.assignments import Assignment, everywhere
from interp_steer.candidates import unsteered
from interp_steer.cells import ALIGNED, Cell
from interp_steer.intervals import (
    Estimate,
    IntervalKind,
    difference_estimate,
    mean_estimate,
    recovered_estimate,
)
from interp_steer.scoreboard import JUDGED, Scoreboard
from interp_steer.splits import SelectionError
from interp_steer.statistics import (
    N_RESAMPLES,
    Resamples,
    Sampled,
    draw_resamples,
    sampled_mean,
    sampled_recovered,
)
from interp_steer.two_fold import TwoFold


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """An assignment on the reporting scenarios, with intervals."""

    cells: tuple[Cell, ...]
    """The cells whose rows it is made of: one, or two where two halves chose differently."""
    trait: Estimate
    """Mean trait, 0-100."""
    coherence: Estimate
    """Mean coherence, 0-100."""
    recovered: Estimate
    """Share of the trait gap closed on the same scenarios (0 as the threat, 1 as aligned)."""
    n_scenarios: int
    """Scenarios behind the numbers."""
    n_clusters: int
    """Independent clusters among them (see `scenario_clusters`)."""
    n_missing: int = 0
    """Rows that the judge could not score; the means are over the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A `Measured` that still has its resamples, so that it can be compared with another."""

    measured: Measured
    """The numbers."""
    trait: Sampled
    """Mean trait in every resample."""
    coherence: Sampled
    """Mean coherence in every resample."""
    recovered: Sampled
    """Recovered share in every resample."""
    resamples: Resamples
    """What they were resampled with."""
    scenarios: tuple[str, ...]
    """On which scenarios."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Paired differences of two arms on the same scenarios."""

    trait: Estimate
    """Difference of mean trait, points."""
    coherence: Estimate
    """Difference of mean coherence, points."""
    recovered: Estimate
    """Difference of recovered shares."""
    n_scenarios: int
    """Scenarios behind the numbers."""


class Measurer:
    """Measures assignments on one board, paired through one seed of bootstrap draws."""

    def __init__(
        self,
        board: Scoreboard,
        clusters: Mapping[str, str],
        *,
        halves: Sequence[Sequence[str]] = (),
        n_resamples: int = N_RESAMPLES,
        seed: int = 42,
    ) -> None:
        """Keep what is resampled.

        Args:
            board: rows of the reporting scenarios.
            clusters: cluster of each scenario.
            halves: scenarios of each half of a two-fold protocol, resampled each on its own.
            n_resamples: bootstrap samples.
            seed: seed of the draws.
        """
        self.board = board
        self._clusters = clusters
        self._part = {s: part for part, half in enumerate(halves) for s in half}
        self._n_resamples, self._seed = n_resamples, seed
        self._known: dict[tuple[str, ...], Resamples] = {}

    def resamples(self, scenarios: Sequence[str]) -> Resamples:
        """The resamples of some scenarios; the same ones whenever they are asked for."""
        key = tuple(scenarios)
        if key not in self._known:
            self._known[key] = draw_resamples(
                [self._clusters[scenario] for scenario in key],
                strata=[self._part.get(scenario, 0) for scenario in key],
                n_resamples=self._n_resamples,
                seed=self._seed,
            )
        return self._known[key]

    def arm(
        self,
        assignment: Assignment,
        *,
        threat: str = "malicious_prompt",
        kind: IntervalKind = "conditional_bootstrap",
        chosen: TwoFold | None = None,
    ) -> Arm:
        """Trait, coherence and recovered share of an assignment.

        Args:
            assignment: cell of each scenario.
            threat: whose unsteered baseline is 0 % recovered.
            kind: what the interval includes.
            chosen: takes the place of the trait and coherence of the rows: the two-fold choice that
                made the assignment, with draws that choose anew.

        Raises:
            SelectionError: rows of a cell or of a baseline are missing, by name.
        """
        scenarios = self.order(assignment)
        resamples = self.resamples(scenarios)
        trait = self._mean(assignment, "trait") if chosen is None else chosen.trait
        coherence = self._mean(assignment, "coherence") if chosen is None else chosen.coherence
        aligned = self._mean(everywhere(ALIGNED, scenarios), "trait")
        floor = self._mean(everywhere(unsteered(threat), scenarios), "trait")
        share = sampled_recovered(steered=trait, malicious=floor, aligned=aligned)
        steered = mean_estimate(trait, resamples, kind=kind)
        measured = Measured(
            cells=tuple(dict.fromkeys(assignment[s] for s in scenarios)),
            trait=steered,
            coherence=mean_estimate(coherence, resamples, kind=kind),
            recovered=recovered_estimate(
                share,
                resamples,
                steered=steered,
                malicious=floor.value,
                aligned=aligned.value,
                kind=kind,
            ),
            n_scenarios=len(scenarios),
            n_clusters=resamples.n_clusters,
            n_missing=self.board.n_missing([assignment[s] for s in scenarios], scenarios),
        )
        return Arm(
            measured=measured,
            trait=trait,
            coherence=coherence,
            recovered=share,
            resamples=resamples,
            scenarios=scenarios,
        )

    def column(self, assignment: Assignment, column: str) -> Sampled | None:
        """Mean of any column; None where it is not there or lacks a value on some scenario."""
        scenarios = self.order(assignment)
        cells = [assignment[scenario] for scenario in scenarios]
        scores = self.board.scores(column, cells, scenarios)
        if scores is None:
            return None
        resamples = self.resamples(scenarios)
        return sampled_mean(scores, resamples, may_have_gaps=column in JUDGED)

    def order(self, assignment: Assignment) -> tuple[str, ...]:
        """The scenarios of an assignment, in the order of the board."""
        return tuple(scenario for scenario in self.board.scenarios if scenario in assignment)

    def missing(self, assignment: Assignment) -> int:
        """How many of its scenarios an assignment has no rows on."""
        answered = {cell: self.board.answered(cell) for cell in set(assignment.values())}
        return sum(scenario not in answered[cell] for scenario, cell in assignment.items())

    def _mean(self, assignment: Assignment, column: str) -> Sampled:
        missing = self.missing(assignment)
        if missing:
            cell = next(c for s, c in assignment.items() if s not in self.board.answered(c))
            raise SelectionError(
                f"the sweep is incomplete: it lacks rows of {cell.label} on {missing} of "
                f"{len(assignment)} scenarios. Run `interp-steer sweep` on this run again, it "
                "adds what is missing"
            )
        return cast(Sampled, self.column(assignment, column))


def contrast(one: Arm, other: Arm, *, kind: IntervalKind = "conditional_bootstrap") -> Contrast:
    """The paired differences one - other.

    Raises:
        SelectionError: the arms are not on the same scenarios.
    """
    if one.scenarios != other.scenarios:
        raise SelectionError(
            f"a paired difference needs the same scenarios, got {len(one.scenarios)} and "
            f"{len(other.scenarios)}; restrict both arms to those they share"
        )

    def difference(name: str) -> Estimate:
        a, b = getattr(one, name), getattr(other, name)
        estimates = getattr(one.measured, name), getattr(other.measured, name)
        return difference_estimate(a.minus(b), one.resamples, of=estimates, kind=kind)

    return Contrast(
        trait=difference("trait"),
        coherence=difference("coherence"),
        recovered=difference("recovered"),
        n_scenarios=len(one.scenarios),
    )
