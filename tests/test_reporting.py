"""What a report says of baselines, controls, guards, threats and differences, known beforehand."""

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from interp_steer.cells import (
    ALIGNED,
    CONTROL_KINDS,
    DEFENDED,
    MALICIOUS,
    NEUTRAL,
    Cell,
    control_cells,
    prefilled,
)
from interp_steer.measuring import contrast
from interp_steer.operating_points import Plan, PointFinder
from interp_steer.probes import fit_probes
from interp_steer.report_records import report_as_operating_points
from interp_steer.report_text import probe_table, report_table
from interp_steer.reporting import Report, report
from interp_steer.scenario_clusters import cluster_scenarios
from interp_steer.scenarios import Scenario
from interp_steer.splits import ScenarioSplit, SelectionError, halve_scenarios, split_scenarios
from interp_steer.summary import control_headline, report_as_summary
from selection_cases import BASE, SCENARIOS, cell, noisy, raw_scenario, rows, varied

SPLIT = split_scenarios(SCENARIOS, n_selection=8).with_answering(6)
HALVES = halve_scenarios(SCENARIOS, cluster_scenarios(SCENARIOS)).with_answering(6)
ALL_EXTRAS = ("mean_difference", "defence", "guard")


def on(split: ScenarioSplit, *, selection: dict, reporting: dict) -> pa.Table:
    """Some scores where cells are chosen, others where they are reported."""
    return pa.concat_tables([rows(selection, split.selection), rows(reporting, split.reporting)])


def controls_table() -> pa.Table:
    """Layer 1 shines on the selection scenarios alone; that must not reach the report."""
    controls = control_cells([cell(1)], n_draws=2)
    chosen = {**BASE, cell(1): (90.0, 95.0), cell(2): (70.0, 95.0), MALICIOUS: (50.0, 100.0)}
    reported = {**BASE, cell(1): (40.0, 92.0), **dict.fromkeys(controls, (5.0, 80.0))}
    reported[controls[0]] = (15.0, 80.0)
    return on(SPLIT, selection=chosen, reporting=reported)


class TestSplit:
    plan = Plan(split=SPLIT, control_draws=2)

    def test_the_choice_is_of_the_selection_and_the_numbers_of_the_reporting_scenarios(
        self,
    ) -> None:
        (point,) = report(controls_table(), self.plan).points
        assert point.selected.cell == cell(1)
        assert point.in_sample_recovered == pytest.approx(0.8)  # (90 - 50) / (100 - 50)
        assert point.reported.recovered.value == pytest.approx(0.4)
        assert point.reported.recovered.interval.kind == "conditional_bootstrap"
        assert point.reported.n_scenarios == 16
        assert point.folds == ()

    def test_finalists_are_measured_where_they_were_run(self) -> None:
        chosen = {**BASE, cell(1): (90.0, 95.0), cell(2): (80.0, 95.0), cell(3): (70.0, 95.0)}
        reported = {**BASE, cell(1): (40.0, 92.0), cell(2): (60.0, 92.0)}
        table = on(SPLIT, selection=chosen, reporting=reported)
        (point,) = report(table, Plan(split=SPLIT, finalists=3)).points
        assert [m.cells for m in point.finalists] == [(cell(2),)]
        assert point.finalists[0].trait.value == 60

    def test_a_missing_operating_point_is_named(self) -> None:
        table = on(SPLIT, selection={**BASE, cell(1): (90.0, 95.0)}, reporting=BASE)
        with pytest.raises(
            SelectionError, match=r"incomplete: .* sttp layer 1 alpha 1 scope all on 16 of 16"
        ):
            report(table, Plan(split=SPLIT))


class TestIncomplete:
    def test_a_grid_that_is_not_finished_is_refused_not_chosen_from(self) -> None:
        """Cell 2 lacks rows on 4 scenarios; without the plan's grid it would silently drop out."""
        table = rows({**BASE, cell(1): (50.0, 99.0)})
        half = rows({cell(2): (90.0, 99.0)}, SCENARIOS[:20])
        both = pa.concat_tables([table, half])
        plan = Plan(split=HALVES, screened=(cell(1), cell(2), cell(3)))
        with pytest.raises(
            SelectionError,
            match=r"rows of sttp layer 2 .* on 4 of 24 scenarios; so do 1 more of 3 cells",
        ):
            report(both, plan)
        assert report(both, replace(plan, screened=None)).points[0].selected.cell == cell(1)

    def test_an_earlier_grid_competes_whole_or_not_at_all(self) -> None:
        table = rows({**BASE, cell(1): (50.0, 99.0), cell(2): (90.0, 99.0)})
        plan = Plan(split=HALVES, screened=(cell(1),))
        assert report(table, plan).points[0].selected.cell == cell(1)
        whole = report(table, replace(plan, earlier=((cell(2),),)))
        assert whole.points[0].selected.cell == cell(2)
        part = report(table, replace(plan, earlier=((cell(2), cell(3)),)))
        assert part.points[0].selected.cell == cell(1)
        assert part.left_out == (
            "an earlier grid of 2 cells, of which 1 lack rows on some of these scenarios",
        )

    def test_missing_controls_are_refused_or_named(self) -> None:
        table = rows({**BASE, cell(1): (50.0, 99.0)})
        plan = Plan(split=HALVES, control_draws=2)
        what = "12 of 12 rows of the random_direction controls of sttp in all"
        with pytest.raises(SelectionError, match=f"incomplete: it lacks {what}"):
            report(table, plan)
        found = report(table, replace(plan, is_strict=False))
        assert found.controls == ()
        assert what in found.left_out[0]

    def test_arms_on_other_scenarios_are_not_compared(self) -> None:
        measurer = PointFinder(rows(BASE), Plan(split=HALVES, screened=())).measurer
        one, other = (
            measurer.arm(dict.fromkeys(ids, ALIGNED)) for ids in (["s000", "s001"], ["s000"])
        )
        with pytest.raises(SelectionError, match="same scenarios, got 2 and 1"):
            contrast(one, other)


class TestControls:
    def test_they_are_summed_up_by_kind(self) -> None:
        found = report(controls_table(), Plan(split=SPLIT, control_draws=2)).controls
        assert [c.kind for c in found] == list(CONTROL_KINDS)
        assert found[0].recovered == pytest.approx((0.15, 0.05))
        assert (found[0].mean, found[0].max) == pytest.approx((0.10, 0.15))
        assert found[1].max == pytest.approx(0.05)
        assert {c.n_scenarios for c in found} == {6}

    def test_two_fold_they_stand_at_the_cell_that_each_half_reports(self) -> None:
        """The first half chooses layer 1 and reports layer 2, whose draw recovers 0.3 there; the
        second half reports layer 1, 0.1 there. A draw at the half's own choice would recover 0.9.
        """
        first = {s.id for s in HALVES.halves[0]}
        draws = [
            cell(layer).with_control(f"{kind}:0") for layer in (1, 2) for kind in CONTROL_KINDS
        ]

        def score(one: Cell, s: Scenario) -> tuple[float, float]:
            if one in BASE:
                return BASE[one]
            own_choice = (one.layer == 1) == (s.id in first)
            if one in draws:
                return (90.0 if own_choice else 30.0 if s.id in first else 10.0), 70.0
            return (100.0 if own_choice else 0.0), 100.0

        table = varied([*BASE, cell(1), cell(2), *draws], score)
        found = report(table, Plan(split=HALVES, control_draws=1))
        assert [fold.cell.layer for fold in found.points[0].folds] == [1, 2]
        assert found.controls[0].recovered == pytest.approx((0.2,))  # half of each
        assert found.controls[0].coherence == 70

    def test_headline_is_the_stricter_scope(self) -> None:
        scores: dict[Cell, tuple[float, float]] = dict(BASE)
        for scope, recovered in (("all", 10.0), ("response", 30.0)):
            point = cell(1, scope=scope)
            scores |= {point: (90.0, 99.0)}
            scores |= dict.fromkeys(control_cells([point], n_draws=1), (recovered, 99.0))
        found = report(rows(scores), Plan(split=HALVES, control_draws=1)).controls
        headline = control_headline(found, kind="random_direction", method="sttp")
        assert headline is not None
        assert (headline["mean"], headline["max"]) == pytest.approx((0.3, 0.3))
        assert set(headline["scopes"]) == {"all", "response"}
        assert control_headline(found, kind="random_direction", method="swfc") is None


class TestReviewersBaselines:
    def found(self) -> Report:
        point = cell(1)
        scores = {
            **BASE,
            point: (90.0, 99.0),
            point.with_control("mean_difference"): (60.0, 95.0),
            DEFENDED: (70.0, 100.0),
        }
        return report(rows(scores), Plan(split=HALVES, extras=("mean_difference", "defence")))

    def test_they_go_through_the_same_machinery(self) -> None:
        defence, other = self.found().baselines
        assert (defence.name, defence.group) == ("defence", None)
        assert defence.measured.recovered.value == pytest.approx(0.7)
        assert defence.measured.n_scenarios == 24
        assert other.name == "mean_difference"
        assert other.measured.recovered.value == pytest.approx(0.6)
        assert other.measured.n_scenarios == 6

    def test_the_method_is_held_against_each(self) -> None:
        defence, mean_difference = self.found().differences
        assert (defence.of, defence.minus) == ("sttp", "defence")
        assert defence.contrast.trait.value == pytest.approx(20)
        assert defence.contrast.trait.interval.kind == "selection_bootstrap"
        assert mean_difference.contrast.recovered.value == pytest.approx(0.3)
        assert mean_difference.contrast.n_scenarios == 6

    def test_raw_pairs_have_no_such_side_and_the_report_says_so(self) -> None:
        raw = [raw_scenario(i) for i in range(8)]
        scenarios = [*SCENARIOS[:16], *raw]
        split = halve_scenarios(scenarios, cluster_scenarios(scenarios)).with_answering(None)
        point = cell(1)
        everyone = {**BASE, point: (90.0, 99.0), point.as_guard("aligned"): (99.0, 99.0)}
        chats = {DEFENDED: (70.0, 99.0), NEUTRAL: (50.0, 99.0)}
        chats[point.as_guard("neutral")] = (55.0, 99.0)
        table = pa.concat_tables([rows(everyone, scenarios), rows(chats, SCENARIOS[:16])])
        found = report(table, Plan(split=split, extras=("defence", "guard")))
        assert found.baselines[0].measured.n_scenarios == 16
        assert found.differences[0].contrast.n_scenarios == 16
        assert found.differences[0].contrast.trait.interval.kind == "conditional_bootstrap"
        assert {g.side: g.n_scenarios for g in found.guards} == {"aligned": 24, "neutral": 16}
        assert found.left_out == (
            "the prompt-only defence on 8 of 24 scenarios: they are pairs of raw prompts, which "
            "have no such side",
            "the guard under a neutral prompt on 8 of 24 scenarios: they are pairs of raw prompts, "
            "which have no such side",
        )
        assert "Left out: the prompt-only defence on 8 of 24" in report_table(found, title="x")


class TestDifferences:
    def test_methods_of_one_scope_are_compared_in_pairs(self) -> None:
        scores = {
            cell(1, method=m, scope=scope): (t, 99.0)
            for m, t in (("swfc", 40.0), ("sttp", 90.0), ("stmp", 70.0))
            for scope in ("all", "prompt")
        }
        found = report(rows({**BASE, **scores}), Plan(split=HALVES)).differences
        got = {(d.of, d.minus): d.contrast.trait.value for d in found if d.scope == "all"}
        assert got == {
            ("swfc", "sttp"): pytest.approx(-50),
            ("swfc", "stmp"): pytest.approx(-30),
            ("sttp", "stmp"): pytest.approx(20),
        }
        assert len(found) == 6

    def test_pairing_shows_what_two_intervals_hide(self) -> None:
        """StTP is 5 points above SwFC on every scenario, and scenarios differ by far more."""
        level = dict(zip(SCENARIOS, np.random.default_rng(0).uniform(10, 90, size=24), strict=True))
        one, other = cell(1, method="swfc"), cell(1, method="sttp")

        def score(which: Cell, s: Scenario) -> tuple[float, float]:
            if which in BASE:
                return BASE[which]
            return level[s] + 5 * (which == other), 100.0

        found = report(varied([*BASE, one, other], score), Plan(split=HALVES))
        (difference,) = found.differences
        interval = difference.contrast.trait.interval
        assert (interval.low, interval.high) == pytest.approx((-5, -5))
        a, b = (point.reported.trait.interval for point in found.points)
        assert a.high > b.low  # the control: the two intervals overlap


class TestGuards:
    point = cell(1)

    def table(self, **columns: float | None) -> pa.Table:
        scores = {**BASE, self.point: (90.0, 99.0), ALIGNED: (98.0, 96.0), NEUTRAL: (60.0, 97.0)}
        unsteered = rows(scores, measures={"n_tokens": 40.0, **dict.fromkeys(columns)})
        guard = {self.point.as_guard("aligned"): (95.0, 90.0)}
        guard[self.point.as_guard("neutral")] = (75.0, 88.0)
        steered = rows(guard, measures={"n_tokens": 50.0, **columns})
        return pa.concat_tables([unsteered, steered])

    def test_price_beside_the_unsteered_model(self) -> None:
        table = self.table(fired_share=0.25, kl_to_unsteered=0.125)
        aligned, neutral = report(table, Plan(split=HALVES, extras=("guard",))).guards
        assert (aligned.side, neutral.side) == ("aligned", "neutral")
        assert aligned.steered.trait.value == pytest.approx(95)
        assert aligned.unsteered.trait.value == pytest.approx(98)
        assert aligned.trait_change.value == pytest.approx(-3)
        assert neutral.coherence_change.value == pytest.approx(-9)
        for guard in (aligned, neutral):
            steered, unsteered = guard.steered, guard.unsteered
            assert steered.fired_share and steered.kl and steered.n_tokens and unsteered.n_tokens
            assert steered.fired_share.value == pytest.approx(0.25)
            assert steered.kl.value == pytest.approx(0.125)
            assert (steered.n_tokens.value, unsteered.n_tokens.value) == pytest.approx((50, 40))
            assert unsteered.fired_share is None
            assert unsteered.kl is None

    def test_never_firing_has_an_interval_too(self) -> None:
        found = report(self.table(fired_share=0.0), Plan(split=HALVES, extras=("guard",)))
        share = found.guards[0].steered.fired_share
        assert share is not None
        assert share.interval.kind == "wilson"
        assert share.interval.high == pytest.approx(0.39, abs=0.01)  # Wilson, 0 of 6

    def test_what_was_not_measured_is_null_and_a_dash(self) -> None:
        found = report(self.table(), Plan(split=HALVES, extras=("guard",)))
        record = report_as_operating_points(found)["guards"][0]
        assert record["steered"]["fired_share"] is None
        assert record["steered"]["kl_to_unsteered"] is None
        assert record["steered"]["n_tokens"]["value"] == 50
        line = next(
            line
            for line in report_table(found, title="x").splitlines()
            if line.startswith("  StTP")
        )
        assert line.split()[2] == "–"
        assert line.split()[-1] == "–"


class TestThreats:
    def found(self, **options) -> Report:
        usual, other = cell(1), cell(2, threat="prefill:8")
        scores = {
            **BASE,
            prefilled(8): (40.0, 100.0),
            usual: (50.0, 99.0),
            other: (70.0, 99.0),
            **dict.fromkeys(control_cells([usual], n_draws=1), (10.0, 99.0)),
            **dict.fromkeys(control_cells([other], n_draws=1), (46.0, 99.0)),
        }
        return report(rows(scores), Plan(split=HALVES, control_draws=1, **options))

    def test_a_prefill_is_recovered_from_its_own_baseline(self) -> None:
        """(70 - 40) / (100 - 40); its controls (46 - 40) / 60."""
        found = self.found()
        assert [p.choice.threat for p in found.points] == ["malicious_prompt", "prefill:8"]
        assert [p.reported.recovered.value for p in found.points] == pytest.approx([0.5, 0.5])
        by_threat = {c.group.threat: c.mean for c in found.controls}
        assert by_threat == pytest.approx({"malicious_prompt": 0.1, "prefill:8": 0.1})
        assert found.unsteered["prefill:8"].trait.value == 40

    def test_the_summary_keeps_its_keys_and_puts_other_threats_apart(self) -> None:
        summary = report_as_summary(self.found())
        assert set(summary["methods"]["sttp"]) == {"all"}
        assert summary["methods"]["sttp"]["all"]["layer"] == 1
        other = summary["threats"]["prefill:8"]
        assert other["unsteered"]["trait"] == 40
        assert other["methods"]["sttp"]["all"]["layer"] == 2
        assert other["controls"]["random_direction"]["sttp"]["mean"] == pytest.approx(0.1)

    def test_methods_are_compared_within_a_threat_only(self) -> None:
        assert self.found().differences == ()

    def test_the_usual_threat_alone_adds_no_key(self) -> None:
        table = rows({**BASE, cell(1): (50.0, 99.0)})
        assert "threats" not in report_as_summary(report(table, Plan(split=HALVES)))


class TestRecords:
    def test_summary_and_table_show_the_same_numbers(self) -> None:
        found = report(controls_table(), Plan(split=SPLIT, control_draws=2))
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
        record = report_as_operating_points(report(controls_table(), Plan(split=SPLIT)))
        assert record["protocol"] == "split"
        assert record["selection_scenarios"] == [s.id for s in SPLIT.selection]
        assert record["operating_points"][0]["selection"]["trait"] == 90.0
        assert record["operating_points"][0]["reporting"]["trait"]["value"] == 40.0
        assert "flatters" in record["operating_points"][0]["selection"]["in_sample"]
        assert record["pareto"][0]["cells"] == [
            {"layer": 1, "alpha": 1.0, "trait": 90.0, "coherence": 95.0}
        ]

    def test_two_fold_names_the_halves_and_what_each_chose(self) -> None:
        grid = [cell(layer) for layer in range(6)]
        table = noisy(grid, SCENARIOS, np.random.default_rng(3))
        found = report(table, Plan(split=HALVES))
        record = report_as_operating_points(found)
        assert record["protocol"] == "two_fold"
        assert [len(half) for half in record["halves"]] == [12, 12]
        assert record["clusters"]["n"] == 24
        (point,) = record["operating_points"]
        assert [set(fold) for fold in point["folds"]] == [
            {"layer", "alpha", "keeps_coherence", "same_in_resamples"}
        ] * 2
        assert point["reporting"]["trait"]["kind"] == "selection_bootstrap"
        text = report_table(found, title="honesty")
        assert "each half of 24 scenarios chose for the other" in text
        folds = found.points[0].folds
        assert f"layer {folds[0].cell.layer} alpha 1 | layer {folds[1].cell.layer} alpha 1" in text

    def test_without_a_gap_it_is_json_still(self) -> None:
        same = {ALIGNED: (50.0, 99.0), MALICIOUS: (50.0, 99.0), cell(1): (60.0, 99.0)}
        found = report(rows(same), Plan(split=HALVES))
        assert math.isnan(found.points[0].reported.recovered.value)
        text = json.dumps(
            [report_as_summary(found), report_as_operating_points(found)], allow_nan=False
        )
        assert '"recovered": null' in text
        assert "no gap" in report_table(found, title="x")

    def test_a_hundred_columns_are_enough(self) -> None:
        everything = TestThreats().found()
        guards = report(
            TestGuards().table(fired_share=1.0, kl_to_unsteered=12.3456),
            Plan(split=HALVES, extras=("guard",)),
        )
        for found in (everything, guards, TestReviewersBaselines().found()):
            assert max(map(len, report_table(found, title="honesty").splitlines())) <= 100

    def test_no_cell_keeps_coherence(self) -> None:
        found = report(rows({**BASE, cell(1): (90.0, 10.0)}), Plan(split=HALVES))
        assert not found.points[0].choice.keeps_coherence
        assert "* no cell kept 90% of the aligned coherence" in report_table(found, title="x")


def test_a_probe_without_spread_prints_a_dash() -> None:
    side = torch.randn(8, 1, 4, generator=torch.Generator().manual_seed(0)) * 0.01
    shift = torch.zeros(1, 1, 4)
    shift[..., 0] = 5.0
    ids = [f"s{i}" for i in range(8)]
    probes = fit_probes(side + shift, side, layers=(0,), scenario_ids=(ids, ids))
    (probe,) = probes.probes
    broken = replace(
        probes, probes=(replace(probe, crossfit=replace(probe.crossfit, cohens_d=math.nan)),)
    )
    text = probe_table(broken)
    assert "nan" not in text
    assert text.splitlines()[1].split()[1] == "–"
