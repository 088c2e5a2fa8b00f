"""The split, the choice and what is reported, on sweeps whose answer is known beforehand."""

import pyarrow as pa
import pytest

from interp_steer.cells import (
    ALIGNED,
    BASELINES,
    CELL_COLUMNS,
    CONTROL_KINDS,
    MALICIOUS,
    Cell,
    GridError,
    control_cells,
    steered_cell,
    steered_grid,
)
from interp_steer.reporting import Reporter, report
from interp_steer.scenarios import Scenario
from interp_steer.selection import (
    SelectionError,
    balanced_order,
    choose,
    split_scenarios,
)
from interp_steer.summary import report_as_operating_points, report_as_summary, report_table


def scenario(number: int, category: str = "facts") -> Scenario:
    return Scenario(
        id=f"s{number:03d}",
        trait="honesty",
        split="test",
        category=category,
        system_aligned="be honest",
        system_malicious="lie",
        user=("what is it?",),
    )


SCENARIOS = tuple(scenario(i, category=f"c{i % 4}") for i in range(24))


def rows(scores: dict[Cell, tuple[float, float]], scenarios=SCENARIOS) -> pa.Table:
    """A sweep in which every row of a cell has that cell's trait and coherence."""
    records = [
        {"scenario": s.id, "response_index": 0, **cell.as_row(), "trait": t, "coherence": c}
        for cell, (t, c) in scores.items()
        for s in scenarios
    ]
    types = {"layer": pa.int32(), "alpha": pa.float64()}
    fields = [
        ("scenario", pa.string()),
        ("response_index", pa.int32()),
        *[(name, types.get(name, pa.string())) for name in CELL_COLUMNS],
        ("trait", pa.float64()),
        ("coherence", pa.float64()),
    ]
    return pa.Table.from_pylist(records, schema=pa.schema(fields))


def cell(layer: int, alpha: float = 1.0, method: str = "sttp", scope: str = "all") -> Cell:
    return steered_cell(method=method, layer=layer, alpha=alpha, scope=scope)


BASE = {ALIGNED: (100.0, 100.0), MALICIOUS: (0.0, 100.0)}


class TestSplit:
    def test_every_prefix_is_balanced_by_category(self) -> None:
        order = balanced_order(SCENARIOS)
        for n in range(1, len(order) + 1):
            counts = [sum(s.category == f"c{c}" for s in order[:n]) for c in range(4)]
            assert max(counts) - min(counts) <= 1

    def test_it_parts_the_scenarios_and_does_not_depend_on_their_order(self) -> None:
        split = split_scenarios(SCENARIOS, n_selection=8)
        again = split_scenarios(SCENARIOS[::-1], n_selection=8)
        assert split == again
        assert len(split.selection) == 8
        assert {s.id for s in (*split.selection, *split.reporting)} == {s.id for s in SCENARIOS}
        assert not {s.id for s in split.selection} & {s.id for s in split.reporting}

    def test_another_seed_gives_another_split(self) -> None:
        assert split_scenarios(SCENARIOS, n_selection=8, seed=1) != split_scenarios(
            SCENARIOS, n_selection=8, seed=2
        )

    @pytest.mark.parametrize("n", [0, 24, 30])
    def test_an_empty_side_is_refused(self, n: int) -> None:
        with pytest.raises(SelectionError, match=f"{n} selection scenarios out of 24"):
            split_scenarios(SCENARIOS, n_selection=n)


class TestChoice:
    def test_highest_trait_among_the_coherent_wins(self) -> None:
        table = rows({**BASE, cell(1): (90.0, 89.0), cell(2): (80.0, 90.0), cell(3): (70.0, 100.0)})
        (choice,) = choose(table, SCENARIOS)
        assert choice.keeps_coherence
        assert choice.best[0].cell == cell(2)
        (lax,) = choose(table, SCENARIOS, coherence_share=0.8)
        assert lax.best[0].cell == cell(1)

    def test_finalists_come_in_order(self) -> None:
        table = rows({**BASE, cell(1): (50.0, 99.0), cell(2): (80.0, 95.0), cell(3): (70.0, 95.0)})
        (choice,) = choose(table, SCENARIOS, per_group=2)
        assert [score.cell.layer for score in choice.best] == [2, 3]

    def test_ties_go_to_coherence_then_to_the_plateau_then_to_the_smaller_alpha(self) -> None:
        tied = {cell(1): (90.0, 95.0), cell(3): (90.0, 96.0)}
        assert choose(rows({**BASE, **tied}), SCENARIOS)[0].best[0].cell == cell(3)
        peak = {cell(1, 2.0): (90.0, 95.0), cell(1, 3.0): (10.0, 95.0)}
        plateau = {cell(5, 2.0): (90.0, 95.0), cell(5, 3.0): (85.0, 95.0)}
        table = rows({**BASE, **peak, **plateau})
        assert choose(table, SCENARIOS)[0].best[0].cell == cell(5, 2.0)
        flat = {cell(4, 2.0): (90.0, 95.0), cell(4, 1.0): (90.0, 95.0)}
        assert choose(rows({**BASE, **flat}), SCENARIOS)[0].best[0].cell == cell(4, 1.0)

    def test_without_a_coherent_cell_the_most_coherent_one_is_taken_and_marked(self) -> None:
        table = rows({**BASE, cell(1): (99.0, 20.0), cell(2): (10.0, 60.0)})
        (choice,) = choose(table, SCENARIOS)
        assert not choice.keeps_coherence
        assert choice.best[0].cell == cell(2)

    def test_controls_and_half_finished_cells_do_not_compete(self) -> None:
        control = cell(2).with_control("random_direction:0")
        table = rows({**BASE, cell(1): (50.0, 100.0), control: (100.0, 100.0)})
        half = rows({cell(3): (100.0, 100.0)}, SCENARIOS[:12])
        (choice,) = choose(pa.concat_tables([table, half]), SCENARIOS, per_group=9)
        assert [score.cell for score in choice.best] == [cell(1)]

    def test_missing_baseline_is_refused_by_name(self) -> None:
        table = rows({MALICIOUS: (0.0, 100.0), cell(1): (50.0, 100.0)})
        with pytest.raises(SelectionError, match="no rows of the aligned baseline"):
            choose(table, SCENARIOS)


class TestReport:
    split = split_scenarios(SCENARIOS, n_selection=8)

    def table(self) -> pa.Table:
        """Layer 1 shines on the selection scenarios alone; that must not reach the report."""
        controls = control_cells([cell(1)], n_draws=2)
        chosen = {**BASE, cell(1): (90.0, 95.0), cell(2): (70.0, 95.0), MALICIOUS: (50.0, 100.0)}
        reported = {**BASE, cell(1): (40.0, 92.0), **dict.fromkeys(controls, (5.0, 80.0))}
        reported[controls[0]] = (15.0, 80.0)
        return pa.concat_tables(
            [rows(chosen, self.split.selection), rows(reported, self.split.reporting)]
        )

    def test_the_choice_is_of_the_selection_and_the_numbers_of_the_reporting_scenarios(
        self,
    ) -> None:
        (point,) = report(self.table(), self.split).points
        assert point.selected.cell == cell(1)
        assert point.in_sample_recovered == pytest.approx(0.8)  # (90 - 50) / (100 - 50)
        assert point.reported.recovered.value == pytest.approx(0.4)
        assert point.reported.n_scenarios == 16

    def test_controls_are_summed_up_by_kind(self) -> None:
        found = report(self.table(), self.split).controls
        assert [c.kind for c in found] == list(CONTROL_KINDS)
        assert found[0].recovered == pytest.approx((0.15, 0.05))
        assert (found[0].mean, found[0].max) == pytest.approx((0.10, 0.15))
        assert found[1].max == pytest.approx(0.05)

    def test_baselines_are_taken_on_the_scenarios_that_a_cell_answered(self) -> None:
        first, others = SCENARIOS[:4], SCENARIOS[4:]
        table = pa.concat_tables(
            [
                rows(
                    {ALIGNED: (80.0, 100.0), MALICIOUS: (0.0, 100.0), cell(1): (40.0, 90.0)}, first
                ),
                rows({ALIGNED: (100.0, 100.0), MALICIOUS: (60.0, 100.0)}, others),
            ]
        )
        measured = Reporter(table, SCENARIOS, seed=0).measure(cell(1))
        assert measured.n_scenarios == 4
        assert measured.recovered.value == pytest.approx(0.5)

    def test_a_missing_finalist_is_named(self) -> None:
        table = rows({**BASE, cell(1): (90.0, 95.0)}, self.split.selection)
        baselines = rows(BASE, self.split.reporting)
        with pytest.raises(SelectionError, match="no rows of sttp layer 1 alpha 1 scope all on"):
            report(pa.concat_tables([table, baselines]), self.split)

    def test_summary_and_table_show_the_same_numbers(self) -> None:
        found = report(self.table(), self.split)
        summary = report_as_summary(found)
        assert summary["aligned"]["trait"] == 100
        numbers = summary["methods"]["sttp"]["all"]
        assert {k: numbers[k] for k in ("layer", "alpha", "trait", "coherence", "recovered")} == {
            "layer": 1,
            "alpha": 1.0,
            "trait": 40.0,
            "coherence": 92.0,
            "recovered": pytest.approx(0.4),
        }
        control = summary["controls"]["random_direction"]["sttp"]
        assert (control["mean"], control["max"]) == pytest.approx((0.10, 0.15))
        text = report_table(found, title="honesty")
        assert "40 % [40, 40]" in text
        assert "10 %  (15 %)" in text
        assert "chosen on 8 selection scenarios; the numbers are from 16 others" in text

    def test_operating_points_name_the_scenarios_that_chose(self) -> None:
        record = report_as_operating_points(report(self.table(), self.split))
        assert record["selection_scenarios"] == [s.id for s in self.split.selection]
        assert record["operating_points"][0]["selection"]["trait"] == 90.0
        assert record["operating_points"][0]["reporting"]["trait"]["value"] == 40.0


class TestCells:
    def test_grid_is_the_whole_product_and_every_cell_once(self) -> None:
        grid = steered_grid(
            layers=[0, 2, 2], alphas={"swfc": [1, 2], "stmp": [1]}, scopes=["all", "response"]
        )
        assert len(grid) == len(set(grid)) == 2 * 3 * 2
        assert {c.layer for c in grid} == {0, 2}

    @pytest.mark.parametrize(
        ("change", "what"),
        [
            ({"layers": []}, "no layers"),
            ({"alphas": {}}, "no methods"),
            ({"scopes": []}, "no scopes"),
            ({"alphas": {"sttp": []}}, "no alphas were given for sttp"),
        ],
    )
    def test_an_empty_grid_is_refused_by_what_is_empty(self, change: dict, what: str) -> None:
        full = {"layers": [1], "alphas": {"sttp": [1.0]}, "scopes": ["all"]}
        with pytest.raises(GridError, match=what):
            steered_grid(**{**full, **change})

    @pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
    def test_alpha_must_be_finite(self, alpha: float) -> None:
        with pytest.raises(GridError, match="alpha must be a finite number"):
            cell(1, alpha)

    def test_a_cell_is_steered_or_a_baseline(self) -> None:
        with pytest.raises(GridError, match="a baseline none of them"):
            Cell(side="malicious", method="sttp")
        with pytest.raises(GridError, match="a baseline has no control"):
            ALIGNED.with_control("random_direction:0")
        with pytest.raises(GridError, match=r"random_direction:I, shuffled_labels:I"):
            cell(1).with_control("random:0")

    def test_rows_and_cells_go_both_ways(self) -> None:
        for one in (*BASELINES, cell(3, 1.5), cell(0).with_control("shuffled_labels:7")):
            table = rows({one: (0.0, 0.0)}, SCENARIOS[:1])
            assert Cell.from_row(table.to_pylist()[0]) == one
            assert Cell.from_row(table.to_pandas().iloc[0].to_dict()) == one
