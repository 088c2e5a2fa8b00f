"""Two-fold selection against a slow loop, on noise that a choice flatters, and for its coverage."""

import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from interp_steer.candidates import candidates
from interp_steer.cells import ALIGNED, Cell, steered_grid
from interp_steer.operating_points import Plan, PointFinder
from interp_steer.reporting import report
from interp_steer.scenario_clusters import cluster_scenarios
from interp_steer.scenarios import Scenario
from interp_steer.scoreboard import Scoreboard
from interp_steer.selection import choose
from interp_steer.splits import ScenarioSplit, halve_scenarios
from interp_steer.two_fold import TwoFold, two_fold
from selection_cases import BASE, cell, noisy, rows, scenario, varied

SCENARIOS = tuple(scenario(i, category=f"c{i % 4}") for i in range(40))
GRID = [cell(layer, alpha) for layer in range(8) for alpha in (1.0, 2.0, 3.0, 4.0, 5.0)]


def halved(scenarios=SCENARIOS) -> ScenarioSplit:
    return halve_scenarios(scenarios, cluster_scenarios(scenarios))


def slow_two_fold(rows_of: dict[str, pa.Table], halves) -> tuple[list[Cell], float, float]:
    """Choose on one half's rows, look the other half's up, pool: no arrays, no weights."""
    choices, traits, coherences = [], [], []
    for choosing, reporting in ((0, 1), (1, 0)):
        table = pa.concat_tables(rows_of[s] for s in halves[choosing])
        (choice,) = choose(Scoreboard(table, sorted(set(halves[choosing]))))
        choices.append(choice.cell)
        for scenario_id in halves[reporting]:
            found = rows_of[scenario_id].to_pylist()
            (row,) = [r for r in found if Cell.from_row(r) == choice.cell]
            traits.append(row["trait"])
            coherences.append(row["coherence"])
    return choices, float(np.mean(traits)), float(np.mean(coherences))


class TestAgainstALoop:
    def found(self, table: pa.Table, seed: int) -> tuple[TwoFold, np.ndarray, ScenarioSplit]:
        split = halved()
        finder = PointFinder(table, Plan(split=split, n_resamples=4, seed=seed))
        first = {s.id for s in split.halves[0]}
        ids = finder.board.scenarios
        resamples = finder.measurer.resamples(ids)
        half = np.array([int(s not in first) for s in ids])
        return (
            two_fold(finder.board, finder.groups[0], resamples, half=half),
            (resamples.weights),
            split,
        )

    @pytest.mark.parametrize("seed", [0, 1])
    def test_choices_and_pooled_score_in_the_sample_and_in_every_resample(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        table = noisy(GRID, SCENARIOS, generator, coherence=(89.0, 10.0))
        found, weights, split = self.found(table, seed)
        rows_of = {s.id: table.filter(pc.field("scenario") == s.id) for s in SCENARIOS}
        halves = [[s.id for s in half] for half in split.halves]
        choices, trait, coherence = slow_two_fold(rows_of, halves)
        assert [fold.cell for fold in found.folds] == choices
        assert (found.trait.value, found.coherence.value) == pytest.approx((trait, coherence))
        order = [s.id for s in split.reporting]
        draws = zip(found.trait.draws, found.coherence.draws, strict=True)
        for drawn, values in zip(weights, draws, strict=True):
            times = dict(zip(order, drawn.astype(int), strict=True))
            again = [_repeated(half, times) for half in halves]
            copies = {
                name: rows_of[name.split("+")[0]].set_column(
                    0, "scenario", pa.array([name] * rows_of[name.split("+")[0]].num_rows)
                )
                for half in again
                for name in half
            }
            assert values == pytest.approx(slow_two_fold(copies, again)[1:])


def _repeated(half: list[str], times: dict[str, int]) -> list[str]:
    """Every scenario as often as it was drawn, under names of its own."""
    return [f"{s}+{i}" for s in half for i in range(times[s])]


class TestTheChoiceIsHonest:
    def test_a_half_never_reports_what_it_chose(self) -> None:
        """Cell 1 shines on the first half alone, cell 2 on the second: two-fold sees neither."""
        split = halved()
        first = {s.id for s in split.halves[0]}

        def score(one: Cell, s: Scenario) -> tuple[float, float]:
            if one in BASE:
                return BASE[one]
            return (100.0 if (one.layer == 1) == (s.id in first) else 0.0), 100.0

        (point,) = report(
            varied([*BASE, cell(1), cell(2)], score, SCENARIOS), Plan(split=split)
        ).points
        assert [fold.cell.layer for fold in point.folds] == [1, 2]
        assert point.reported.recovered.value == 0
        assert point.in_sample_recovered == pytest.approx(0.5)

    @pytest.mark.slow
    def test_choosing_among_noise_is_optimistic_in_sample_and_not_two_fold(self) -> None:
        """40 cells that all score 50 +- 30 on 40 scenarios, 40 studies. The best of 40 means lies
        2.2 standard errors (4.7) up, at 60; two-fold stays at 50 within 3 x 4.7 / sqrt(40)."""
        generator = np.random.default_rng(5)
        in_sample, honest, covered, naive = [], [], 0, 0
        for seed in range(40):
            table = noisy(GRID, SCENARIOS, generator)
            plan = Plan(split=halved(), n_resamples=200, seed=seed)
            (shown,) = report(table, plan).points
            in_sample.append(shown.selected.trait)
            honest.append(shown.reported.trait.value)
            interval = shown.reported.trait.interval
            assert interval.kind == "selection_bootstrap"
            covered += interval.low <= 50 <= interval.high
            naive += abs(in_sample[-1] - 50) <= 1.96 * 30 / len(SCENARIOS) ** 0.5
        assert np.mean(in_sample) > 57
        assert abs(np.mean(honest) - 50) < 2.2
        assert covered / 40 >= 0.88
        assert naive / 40 < 0.7  # the control: an interval that forgets the choice

    @pytest.mark.slow
    def test_coverage_where_cells_differ(self) -> None:
        """Cells from 30 to 70: what the procedure scores on average, over 50 studies."""
        generator = np.random.default_rng(6)
        grid, means = GRID[:15], list(np.linspace(30, 70, 15))
        values, intervals = [], []
        for seed in range(50):
            table = noisy(grid, SCENARIOS, generator, means=means)
            plan = Plan(split=halved(), n_resamples=200, seed=seed)
            (point,) = report(table, plan).points
            values.append(point.reported.trait.value)
            intervals.append(point.reported.trait.interval)
        truth = float(np.mean(values))
        assert 60 < truth < 70
        assert np.mean([i.low <= truth <= i.high for i in intervals]) >= 0.88

    def test_at_the_ceiling_the_interval_has_width(self) -> None:
        table = rows({**BASE, cell(1): (100.0, 100.0), cell(2): (0.0, 100.0)}, SCENARIOS)
        (point,) = report(table, Plan(split=halved())).points
        trait = point.reported.trait
        assert (trait.value, trait.interval.kind) == (100.0, "wilson")
        assert trait.interval.low == pytest.approx(91.2, abs=0.1)  # Wilson, 40 of 40

    def test_stability_says_how_often_a_half_would_choose_again(self) -> None:
        clear = noisy([cell(1), cell(2)], SCENARIOS, np.random.default_rng(0), means=[20, 80])
        level = noisy(GRID, SCENARIOS, np.random.default_rng(0))
        for table, low, high in ((clear, 0.999, 1.0), (level, 0.0, 0.8)):
            (point,) = report(table, Plan(split=halved())).points
            assert all(low <= fold.same_in_resamples <= high for fold in point.folds)


@pytest.mark.slow
def test_a_thousand_resamples_of_a_large_grid_take_seconds() -> None:
    """500 cells of one group on 112 scenarios, ties everywhere: the slowest case of the rule."""
    scenarios = [scenario(i, category=f"c{i % 8}") for i in range(112)]
    grid = steered_grid(
        layers=list(range(50)), alphas={"sttp": [float(a) for a in range(10)]}, scopes=["all"]
    )
    table = noisy(grid, scenarios, np.random.default_rng(0), sd=0.0)
    split = halved(scenarios)
    board = Scoreboard(table, [s.id for s in split.reporting])
    finder = PointFinder(table, Plan(split=split, n_resamples=1000))
    resamples = finder.measurer.resamples(board.scenarios)
    half = np.array([i % 2 for i in range(112)])
    (group,) = candidates(board.complete())
    assert len(group.cells) == 500 and ALIGNED in board.cells
    start = time.process_time()
    two_fold(board, group, resamples, half=half)
    assert time.process_time() - start < 2.5
