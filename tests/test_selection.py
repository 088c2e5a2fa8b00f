"""Splits, halves and the choice, on sweeps whose answer is known beforehand."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp_steer.candidates import best_cells, candidates, unsteered
from interp_steer.cells import (
    ALIGNED,
    BASELINES,
    MALICIOUS,
    NEUTRAL,
    Cell,
    GridError,
    prefilled,
    steered_grid,
)
from interp_steer.scenario_clusters import cluster_scenarios
from interp_steer.scenarios import Scenario
from interp_steer.scoreboard import Scoreboard
from interp_steer.selection import Choice, cell_scores, choose, in_sample_recovered
from interp_steer.splits import (
    SelectionError,
    balanced_order,
    halve_scenarios,
    split_scenarios,
)
from selection_cases import BASE, SCENARIOS, cell, rows, scenario, varied


def board(table: pa.Table, scenarios=SCENARIOS) -> Scoreboard:
    return Scoreboard(table, [s.id for s in scenarios])


def chosen(table: pa.Table, **options) -> list[Choice]:
    return choose(board(table), **options)


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


class TestHalves:
    def halves(self, scenarios) -> tuple[list[Scenario], list[Scenario]]:
        first, second = halve_scenarios(scenarios, cluster_scenarios(scenarios)).halves
        return list(first), list(second)

    def test_they_part_the_scenarios_balanced_by_category(self) -> None:
        first, second = self.halves(SCENARIOS)
        assert {s.id for s in (*first, *second)} == {s.id for s in SCENARIOS}
        assert len(first) == len(second) == 12
        for half in (first, second):
            assert set(Counter(s.category for s in half).values()) == {3}

    def test_they_depend_on_the_ids_alone(self) -> None:
        assert self.halves(SCENARIOS) == self.halves(SCENARIOS[::-1])

    @given(
        sizes=st.lists(st.integers(1, 9), min_size=5, max_size=12), n_categories=st.integers(1, 4)
    )
    def test_no_cluster_is_torn_and_sizes_are_as_even_as_its_size_allows(
        self, sizes: list[int], n_categories: int
    ) -> None:
        prompts = [f"lie {c}" for c, size in enumerate(sizes) for _ in range(size)]
        scenarios = [
            scenario(i, category=f"c{i % n_categories}", system_malicious=prompt)
            for i, prompt in enumerate(prompts)
        ]
        first, second = self.halves(scenarios)
        assert not {s.system_malicious for s in first} & {s.system_malicious for s in second}
        assert len(first) + len(second) == len(scenarios)
        assert min(len(first), len(second)) > 0
        assert abs(len(first) - len(second)) <= max(sizes) + n_categories

    def test_one_cluster_cannot_be_halved(self) -> None:
        with pytest.raises(SelectionError, match=r"at least 2 independent .* --protocol split"):
            self.halves([scenario(1)])

    def test_those_who_answer_the_extras_come_from_both_halves(self) -> None:
        split = halve_scenarios(SCENARIOS, cluster_scenarios(SCENARIOS)).with_answering(7)
        first = {s.id for s in split.halves[0]}
        assert len(split.answering) == 7
        assert sum(s.id in first for s in split.answering) == 4
        assert split.with_answering(None).answering == split.reporting
        plain = split_scenarios(SCENARIOS, n_selection=8).with_answering(5)
        assert plain.answering == plain.reporting[:5]


class TestChoice:
    def test_highest_trait_among_the_coherent_wins(self) -> None:
        table = rows({**BASE, cell(1): (90.0, 89.0), cell(2): (80.0, 90.0), cell(3): (70.0, 100.0)})
        (choice,) = chosen(table)
        assert choice.keeps_coherence
        assert choice.best[0].cell == cell(2)
        (lax,) = chosen(table, coherence_share=0.8)
        assert lax.best[0].cell == cell(1)

    def test_finalists_come_in_order(self) -> None:
        table = rows({**BASE, cell(1): (50.0, 99.0), cell(2): (80.0, 95.0), cell(3): (70.0, 95.0)})
        (choice,) = chosen(table, per_group=2)
        assert [score.cell.layer for score in choice.best] == [2, 3]

    def test_ties_go_to_coherence_then_to_the_plateau_then_to_the_smaller_alpha(self) -> None:
        tied = {cell(1): (90.0, 95.0), cell(3): (90.0, 96.0)}
        assert chosen(rows({**BASE, **tied}))[0].best[0].cell == cell(3)
        peak = {cell(1, 2.0): (90.0, 95.0), cell(1, 3.0): (10.0, 95.0)}
        plateau = {cell(5, 2.0): (90.0, 95.0), cell(5, 3.0): (85.0, 95.0)}
        table = rows({**BASE, **peak, **plateau})
        assert chosen(table)[0].best[0].cell == cell(5, 2.0)
        flat = {cell(4, 2.0): (90.0, 95.0), cell(4, 1.0): (90.0, 95.0)}
        assert chosen(rows({**BASE, **flat}))[0].best[0].cell == cell(4, 1.0)

    def test_without_a_coherent_cell_the_most_coherent_one_is_taken_and_marked(self) -> None:
        table = rows({**BASE, cell(1): (99.0, 20.0), cell(2): (10.0, 60.0)})
        (choice,) = chosen(table)
        assert not choice.keeps_coherence
        assert choice.best[0].cell == cell(2)

    def test_controls_and_half_finished_cells_do_not_compete(self) -> None:
        control = cell(2).with_control("random_direction:0")
        table = rows({**BASE, cell(1): (50.0, 100.0), control: (100.0, 100.0)})
        half = rows({cell(3): (100.0, 100.0)}, SCENARIOS[:12])
        (choice,) = chosen(pa.concat_tables([table, half]), per_group=9)
        assert [score.cell for score in choice.best] == [cell(1)]

    def test_missing_baseline_is_refused_by_name(self) -> None:
        table = rows({MALICIOUS: (0.0, 100.0), cell(1): (50.0, 100.0)})
        with pytest.raises(
            SelectionError, match="lacks rows of aligned baseline on 24 of 24 scenarios"
        ):
            chosen(table)

    def test_a_baseline_that_is_half_there_is_refused(self) -> None:
        table = rows({MALICIOUS: (0.0, 100.0), cell(1): (50.0, 100.0)})
        half = rows({ALIGNED: (100.0, 100.0)}, SCENARIOS[:20])
        with pytest.raises(SelectionError, match="aligned baseline on 4 of 24 scenarios"):
            chosen(pa.concat_tables([table, half]))

    def test_without_a_steered_cell_it_says_what_to_do(self) -> None:
        with pytest.raises(SelectionError, match=r"no steered cell .* `interp-steer sweep` again"):
            chosen(rows(BASE))

    def test_scopes_and_threats_are_chosen_for_one_by_one(self) -> None:
        scores = {
            cell(1, scope="first:8"): (50.0, 99.0),
            cell(2, scope="first:8"): (60.0, 99.0),
            cell(1, scope="prompt"): (70.0, 99.0),
            cell(1, threat="prefill:8"): (20.0, 99.0),
            cell(2, threat="prefill:8"): (10.0, 99.0),
            cell(3, threat="prefill:16"): (10.0, 99.0),
            cell(2): (40.0, 99.0),
            cell(9).as_guard("aligned"): (99.0, 99.0),
        }
        found = chosen(rows({**BASE, prefilled(8): (5.0, 99.0), **scores}))
        assert [(c.threat, c.scope, c.cell.layer) for c in found] == [
            ("malicious_prompt", "all", 2),
            ("malicious_prompt", "first:8", 2),
            ("malicious_prompt", "prompt", 1),
            ("prefill:8", "all", 1),
            ("prefill:16", "all", 3),
        ]

    def test_a_prefilled_cell_is_measured_against_its_own_baseline(self) -> None:
        """(60 - 20) / (100 - 20); against the malicious baseline it would be 0.6."""
        one = cell(1, threat="prefill:8")
        here = board(rows({**BASE, prefilled(8): (20.0, 99.0), one: (60.0, 99.0)}))
        (choice,) = choose(here)
        assert in_sample_recovered(choice.best[0], here) == pytest.approx(0.5)
        assert unsteered("malicious_prompt") == MALICIOUS

    @given(
        trait=st.lists(st.sampled_from([0.0, 50.0, 100.0]), min_size=2, max_size=8),
        coherence=st.lists(st.sampled_from([80.0, 90.0, 95.0]), min_size=8, max_size=8),
    )
    def test_no_cell_that_keeps_coherence_has_more_trait(
        self, trait: list[float], coherence: list[float]
    ) -> None:
        n = len(trait)
        scores = np.array([trait]), np.array([coherence[:n]])
        place, keeps = best_cells(*scores, floor=np.array([90.0]), neighbours=np.eye(n))
        keeping = [t for t, c in zip(trait, coherence, strict=False) if c >= 90]
        assert bool(keeps[0]) == bool(keeping)
        if keeping:
            assert coherence[place[0]] >= 90
            assert trait[place[0]] == max(keeping)
        else:
            assert coherence[place[0]] == max(coherence[:n])


class TestScoreboard:
    def test_rows_are_summed_by_cell_and_scenario(self) -> None:
        table = varied([ALIGNED, cell(1)], lambda _, s: (float(s.id[1:]), 50.0))
        twice = pa.concat_tables([table, table.slice(24, 1)])  # one more row of cell(1) on s000
        here = board(twice)
        sums, counts = here.sums("trait", [cell(1)])
        assert counts[0].tolist() == [2.0] + [1.0] * 23
        assert sums[0].tolist() == [0.0, *map(float, range(1, 24))]
        assert here.complete() == [ALIGNED]  # cell(1) answered one scenario more often

    def test_a_measure_that_is_absent_or_null_is_none(self) -> None:
        ids = [s.id for s in SCENARIOS]
        some = pa.concat_tables(
            [
                rows({cell(1): (1.0, 1.0)}, SCENARIOS[:3], {"kl": 0.5}),
                rows({cell(1): (1.0, 1.0)}, SCENARIOS[3:], {"kl": None}),
            ]
        )
        here = board(some)
        assert here.scores("fired_share", [cell(1)] * 24, ids) is None
        assert here.scores("kl", [cell(1)] * 24, ids) is None
        known = here.scores("kl", [cell(1)] * 3, ids[:3])
        assert known is not None
        assert known.mean == 0.5

    def test_scores_of_every_cell(self) -> None:
        found = {s.cell: s for s in cell_scores(rows(BASE), SCENARIOS[:5])}
        assert (found[ALIGNED].trait, found[ALIGNED].n_rows) == (100.0, 5)

    def test_neighbours_by_hand(self) -> None:
        """Layer 1, alpha 1 borders layer 1 alpha 2 and layer 2 alpha 1, not layer 3 or 2 at 2."""
        grid = [cell(1, 1.0), cell(2, 1.0), cell(3, 1.0), cell(1, 2.0), cell(2, 2.0), NEUTRAL]
        (group,) = candidates(grid)
        assert [(c.layer, c.alpha) for c in group.cells] == [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2)]
        assert group.neighbours[0].tolist() == [0, 0.5, 0, 0.5, 0]
        assert group.neighbours[1] == pytest.approx([1 / 3, 0, 1 / 3, 0, 1 / 3])
        assert candidates([cell(7)])[0].neighbours.tolist() == [[1.0]]


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
