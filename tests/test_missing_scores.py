"""Scores that a judge could not give: counted, shown, left out of means, never a zero."""

import json

import numpy as np
import pyarrow as pa
import pytest

from interp_steer.candidates import best_cells
from interp_steer.cells import ALIGNED, MALICIOUS, Cell
from interp_steer.operating_points import Plan, PointFinder
from interp_steer.report_records import report_as_operating_points
from interp_steer.report_tables import report_tables
from interp_steer.report_text import report_table
from interp_steer.reporting import report
from interp_steer.scenario_clusters import cluster_scenarios
from interp_steer.scoreboard import Scoreboard
from interp_steer.selection import cell_score, choose
from interp_steer.splits import SelectionError, halve_scenarios
from selection_cases import BASE, SCENARIOS, cell, varied

IDS = [s.id for s in SCENARIOS]
GOOD, BETTER = cell(1), cell(2)
NAN = float("nan")


def gappy(gaps: set[tuple[Cell, int, str]], spread: float = 0.0) -> pa.Table:
    """Baselines and two cells; `gaps` names cell, place of the scenario, and column."""

    def score(one: Cell, scenario: object) -> tuple[float, float]:
        place = IDS.index(scenario.id)  # pyright: ignore[reportAttributeAccessIssue]
        base = {**BASE, GOOD: (60.0, 96.0), BETTER: (80.0, 95.0)}[one]
        trait, coherence = base[0] + spread * (place % 5 - 2), base[1]
        return (
            NAN if (one, place, "trait") in gaps else trait,
            NAN if (one, place, "coherence") in gaps else coherence,
        )

    return varied([ALIGNED, MALICIOUS, GOOD, BETTER], score)


def all_of(one: Cell, column: str) -> set[tuple[Cell, int, str]]:
    return {(one, place, column) for place in range(len(SCENARIOS))}


class TestMeans:
    def test_are_over_what_is_known_and_say_how_much_is_not(self) -> None:
        gaps = {(GOOD, place, "trait") for place in (0, 7, 9)} | {(GOOD, 0, "coherence")}
        table = gappy(gaps, spread=3.0)
        found = cell_score(Scoreboard(table, IDS), GOOD)
        traits = [r["trait"] for r in table.to_pylist() if Cell.from_row(r) == GOOD]
        assert found.trait == pytest.approx(np.nanmean(traits))
        assert np.nanmean(traits) != pytest.approx(np.nan_to_num(traits).mean())
        assert (found.n_rows, found.n_missing) == (21, 3)

    def test_a_gap_is_no_missing_row(self) -> None:
        board = Scoreboard(gappy({(GOOD, 3, "trait")}), IDS)
        assert board.answered(GOOD) == frozenset(IDS) and GOOD in board.complete()
        board.require(GOOD)

    def test_a_cell_without_any_score_is_refused_by_name(self) -> None:
        for column in ("trait", "coherence"):
            board = Scoreboard(gappy(all_of(GOOD, column)), IDS)
            with pytest.raises(SelectionError, match=f"no usable {column} for any row of .*sttp"):
                choose(board)


class TestChoosing:
    def test_goes_by_the_known_scores(self) -> None:
        gaps = {(BETTER, place, "trait") for place in range(20)}
        (choice,) = choose(Scoreboard(gappy(gaps), IDS))
        assert choice.cell == BETTER and choice.best[0].n_missing == 20

    def test_a_mean_that_does_not_exist_is_never_the_best(self) -> None:
        trait = np.array([[NAN, 50.0, 40.0], [90.0, 50.0, 50.0], [NAN, NAN, NAN]])
        coherence = np.array([[99.0, 95.0, 95.0], [NAN, 95.0, 95.0], [99.0, 99.0, 99.0]])
        near = np.array([[0, 1, 0], [0.5, 0, 0.5], [0, 1, 0]])
        best, keeps = best_cells(trait, coherence, floor=np.full(3, 90.0), neighbours=near)
        assert best.tolist()[0] == 1 and best.tolist()[1] in (1, 2)
        assert keeps.tolist() == [True, True, False]

    def test_two_fold_pools_the_known_scores(self) -> None:
        split = halve_scenarios(SCENARIOS, cluster_scenarios(SCENARIOS))
        gaps = {(BETTER, place, "trait") for place in (2, 5, 11)}
        table = gappy(gaps, spread=3.0)
        (point,) = PointFinder(table, Plan(split=split, n_resamples=50)).points()
        assert point.folds is not None
        known = {r["scenario"]: r["trait"] for r in table.to_pylist() if Cell.from_row(r) == BETTER}
        assert set(point.assignment.values()) == {BETTER}
        expected = np.nanmean(list(known.values()))
        assert point.folds.trait.value == pytest.approx(expected)
        assert np.isfinite(point.folds.trait.draws).all()


class TestReport:
    def found(self, gaps: set[tuple[Cell, int, str]]):
        split = halve_scenarios(SCENARIOS, cluster_scenarios(SCENARIOS))
        return report(gappy(gaps), Plan(split=split, n_resamples=50))

    def test_counts_them_in_text_tables_and_json(self) -> None:
        gaps = {(BETTER, 2, "trait"), (BETTER, 2, "coherence"), (BETTER, 5, "coherence")}
        found = self.found(gaps | {(ALIGNED, 1, "trait")})
        assert (found.n_rows, found.n_missing) == (96, 3)
        assert found.aligned.n_missing == 1 and found.points[0].reported.n_missing == 2
        assert "no usable score for 3 of 96 rows" in report_table(found, title="x")
        table = report_tables(found, title="x")[0]
        header, *_ = table.as_csv().splitlines()
        assert "n_missing" in header and "Missing: rows" in table.caption
        said = report_as_operating_points(found)
        assert said["missing"] == {"rows": 96, "without_score": 3}
        assert said["operating_points"][0]["reporting"]["n_missing"] == 2
        json.dumps(said, allow_nan=False)

    def test_says_nothing_where_there_are_none(self) -> None:
        found = self.found(set())
        assert found.n_missing == 0 and "Missing" not in report_table(found, title="x")
        assert "n_missing" not in report_tables(found, title="x")[0].as_csv()

    def test_refuses_a_baseline_that_was_never_scored(self) -> None:
        with pytest.raises(SelectionError, match="no usable trait for any row of aligned"):
            self.found(all_of(ALIGNED, "trait"))
