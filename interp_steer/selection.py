"""Which scenarios choose, which scenarios report, and the operating point of each method and scope.

Choosing a configuration and reporting it on the same scenarios flatters it. The test scenarios are
therefore split once, by a rule that depends on nothing but their ids: the *selection* scenarios
decide, the *reporting* scenarios give every number that is shown. What is chosen is chosen by
downstream generations alone; how well a layer's probe separates plays no part.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from interp_steer.cells import ALIGNED, CELL_COLUMNS, MALICIOUS, METHODS, Cell
from interp_steer.errors import InterpSteerError
from interp_steer.scenarios import Scenario
from interp_steer.statistics import recovered


class SelectionError(InterpSteerError):
    """A split or a set of rows from which no operating point can be chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioSplit:
    """The test scenarios, parted into those that choose and those that report."""

    selection: tuple[Scenario, ...]
    """Scenarios that choose the operating points."""
    reporting: tuple[Scenario, ...]
    """Scenarios that every reported number comes from; any prefix is balanced by category."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellScore:
    """Mean scores of one cell on some scenarios."""

    cell: Cell
    """The configuration."""
    trait: float
    """Mean trait, 0-100."""
    coherence: float
    """Mean coherence, 0-100."""
    n_rows: int
    """Generations behind the means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What the selection scenarios say about one method and scope."""

    method: str
    """swfc, sttp or stmp."""
    scope: str
    """Scope of the edit."""
    best: tuple[CellScore, ...]
    """Finalists, the best first; the first is the operating point."""
    keeps_coherence: bool
    """False where no cell kept enough coherence: `best` then holds the most coherent cell alone."""


def balanced_order(scenarios: Sequence[Scenario], *, seed: int = 42) -> tuple[Scenario, ...]:
    """Order scenarios so that every prefix takes the categories in turn.

    Within a category the order is that of a hash of (seed, id): it depends neither on the order of
    the file nor on which other scenarios there are.
    """
    by_category: dict[str, list[Scenario]] = {}
    for scenario in sorted(scenarios, key=lambda s: _rank(seed, s.id)):
        by_category.setdefault(scenario.category, []).append(scenario)
    ranked = [
        (place, category, scenario)
        for category, members in by_category.items()
        for place, scenario in enumerate(members)
    ]
    return tuple(scenario for _, _, scenario in sorted(ranked, key=lambda entry: entry[:2]))


def split_scenarios(
    scenarios: Sequence[Scenario], *, n_selection: int, seed: int = 42
) -> ScenarioSplit:
    """Split test scenarios, balanced by category, into selection and reporting.

    Args:
        scenarios: the test scenarios.
        n_selection: how many of them choose.
        seed: seed of the order (see `balanced_order`).

    Raises:
        SelectionError: one side of the split would be empty.
    """
    if not 0 < n_selection < len(scenarios):
        raise SelectionError(
            f"{n_selection} selection scenarios out of {len(scenarios)} test scenarios leave one "
            f"side empty; choose 1 to {len(scenarios) - 1}"
        )
    order = balanced_order(scenarios, seed=seed)
    return ScenarioSplit(selection=order[:n_selection], reporting=order[n_selection:])


def cell_scores(rows: pa.Table, scenarios: Iterable[Scenario]) -> list[CellScore]:
    """Mean trait and coherence of every cell over its rows on `scenarios`."""
    return [
        CellScore(
            cell=cell,
            trait=group["trait"].to_numpy().mean().item(),
            coherence=group["coherence"].to_numpy().mean().item(),
            n_rows=len(group),
        )
        for cell, group in rows_by_cell(rows, scenarios).items()
    ]


def rows_by_cell(rows: pa.Table, scenarios: Iterable[Scenario]) -> dict[Cell, pd.DataFrame]:
    """Rows on `scenarios` of each cell: columns scenario, trait, coherence and the cell's own."""
    ids = [scenario.id for scenario in scenarios]
    frame = rows.select(["scenario", *CELL_COLUMNS, "trait", "coherence"]).to_pandas()
    frame = frame[frame["scenario"].isin(ids)]
    return {
        Cell.from_row(dict(zip(CELL_COLUMNS, key, strict=True))): group
        for key, group in frame.groupby(list(CELL_COLUMNS), dropna=False, sort=True)
    }


def ranked(scores: Sequence[CellScore], *, min_coherence: float) -> list[CellScore]:
    """Cells that keep at least `min_coherence`, the best first.

    Best is the highest trait (method.md, "Operating point"). Few scenarios leave many ties, broken
    by coherence, then by the mean trait of the neighbours (same layer with other coefficients, same
    coefficient in the next layers: a plateau is safer than a peak), then by the smaller alpha.
    """
    keep = [score for score in scores if score.coherence >= min_coherence]
    return sorted(
        keep,
        key=lambda s: (-s.trait, -s.coherence, -_plateau(s, scores), s.cell.alpha, s.cell.layer),
    )


def choose(
    rows: pa.Table,
    scenarios: Sequence[Scenario],
    *,
    per_group: int = 1,
    coherence_share: float = 0.9,
) -> list[Choice]:
    """Choose the operating point of each method and scope on the selection scenarios.

    The highest trait subject to coherence >= `coherence_share` x the aligned baseline's on the same
    scenarios. Only cells that answered every selection scenario compete.

    Args:
        rows: sweep rows, the aligned baseline among them.
        scenarios: the selection scenarios.
        per_group: at most so many finalists per method and scope.
        coherence_share: share of the aligned baseline's coherence that a cell must keep.

    Raises:
        SelectionError: no baseline, or no steered cell that answered every scenario.
    """
    scores = cell_scores(rows, scenarios)
    aligned = baseline(scores, ALIGNED)
    groups: dict[tuple[str, str], list[CellScore]] = {}
    for score in scores:
        if score.cell.is_trait_steering and score.n_rows == aligned.n_rows:
            groups.setdefault((score.cell.method, score.cell.scope), []).append(score)
    if not groups:
        raise SelectionError(
            "no steered cell has rows on every selection scenario; run `interp-steer sweep` again, "
            "it adds what is missing"
        )
    floor = coherence_share * aligned.coherence
    return [
        _choice(group, members, floor=floor, per_group=per_group)
        for group, members in sorted(groups.items(), key=lambda entry: _group_order(entry[0]))
    ]


def _choice(
    group: tuple[str, str], members: Sequence[CellScore], *, floor: float, per_group: int
) -> Choice:
    best = ranked(members, min_coherence=floor)[:per_group]
    fallback = max(members, key=lambda score: (score.coherence, score.trait))
    return Choice(
        method=group[0],
        scope=group[1],
        best=tuple(best) if best else (fallback,),
        keeps_coherence=bool(best),
    )


def _group_order(group: tuple[str, str]) -> tuple[object, ...]:
    return (METHODS.index(group[0]), group[1])


def baseline(scores: Sequence[CellScore], cell: Cell) -> CellScore:
    """The score of a baseline cell.

    Raises:
        SelectionError: the sweep has no rows of it on these scenarios.
    """
    for score in scores:
        if score.cell == cell:
            return score
    raise SelectionError(
        f"the sweep has no rows of the {cell.side} baseline on these scenarios; run "
        "`interp-steer sweep` on this run first"
    )


def in_sample_recovered(score: CellScore, scores: Sequence[CellScore]) -> float:
    """Recovered share of a choice on the very scenarios that chose it (flattering)."""
    return recovered(
        steered=score.trait,
        malicious=baseline(scores, MALICIOUS).trait,
        aligned=baseline(scores, ALIGNED).trait,
    )


def _plateau(score: CellScore, scores: Sequence[CellScore]) -> float:
    cell = score.cell
    near = [
        other.trait
        for other in scores
        if (other.cell.method, other.cell.scope) == (cell.method, cell.scope)
        and _adjacent(cell, other.cell)
    ]
    return sum(near) / len(near) if near else score.trait


def _adjacent(cell: Cell, other: Cell) -> bool:
    if cell.layer is None or other.layer is None or cell == other:
        return False
    return cell.layer == other.layer or (
        cell.alpha == other.alpha and abs(cell.layer - other.layer) == 1
    )


def _rank(seed: int, scenario_id: str) -> bytes:
    return hashlib.blake2b(f"{seed}\x1f{scenario_id}".encode(), digest_size=8).digest()
