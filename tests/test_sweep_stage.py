"""Sweep and select on the tiny study: what is run for each protocol, resumed, refused, written."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from interp_steer.assignments import by_cell
from interp_steer.cells import DEFENDED, NEUTRAL, Cell, GridError, prefilled
from interp_steer.config import FitConfig, SweepConfig
from interp_steer.errors import RunError, SteeringError
from interp_steer.fit_stage import fit
from interp_steer.model import HookedLM
from interp_steer.runs import atomic_write_json
from interp_steer.scenarios import Scenario, save_scenarios
from interp_steer.splits import SelectionError
from interp_steer.study import Sources, Study, start_study
from interp_steer.sweep import read_rows
from interp_steer.sweep_plan import grid_cells, grid_record, planned_split
from interp_steer.sweep_stage import run_report, select, sweep
from selection_cases import scenario
from study_cases import SAMPLING, WordJudge, new_study, scenarios, tiny_study

TWO_FOLD = SweepConfig(
    layers=(0, 1),
    methods=("sttp",),
    sttp_alphas=(6.0, 12.0),
    scopes=("all",),
    control_draws=1,
    control_scenarios=4,
    batch_size=32,
)
RAW_SEED = 3
"""With this seed no training response to the raw prompts is empty."""
SPLIT = replace(TWO_FOLD, protocol="split", selection_scenarios=3, finalists=1)


@pytest.fixture
def study(tmp_path: Path, tiny_lm: HookedLM, tiny_dir: Path) -> Study:
    return tiny_study(tmp_path, tiny_lm, tiny_dir)


def answered(study: Study) -> dict[Cell, set[str]]:
    rows = read_rows(study.run).to_pylist()
    found: dict[Cell, set[str]] = {}
    for row in rows:
        found.setdefault(Cell.from_row(row), set()).add(row["scenario"])
    return found


class TestTwoFold:
    def test_grid_everywhere_and_extras_where_the_other_half_chose(self, study: Study) -> None:
        split = sweep(study, TWO_FOLD, judge=WordJudge())
        everyone = {s.id for s in study.split("test")}
        there = answered(study)
        grid = grid_cells(grid_record(TWO_FOLD, (0, 1, 2)))
        assert len(grid) == 4
        assert all(there[cell] == everyone for cell in grid)
        assert there[DEFENDED] == everyone
        answering = {s.id for s in split.answering}
        assert len(answering) == 4
        assert there[NEUTRAL] == answering
        found = select(study.run)
        (point,) = found.points
        chooser = (point.folds[1].cell, point.folds[0].cell)  # who chose for which half
        for half, cell in zip(split.halves, chooser, strict=True):
            mine = {s.id for s in half} & answering
            for change in (
                cell.with_control("random_direction:0"),
                cell.with_control("shuffled_labels:0"),
                cell.with_control("mean_difference"),
                cell.as_guard("aligned"),
                cell.as_guard("neutral"),
            ):
                assert mine <= there[change]
        extras = [c for c in there if c.control != "none" or c.is_guard]
        assert sum(len(there[cell]) for cell in extras) == 5 * 4
        assert {b.name for b in found.baselines} == {"defence", "mean_difference"}
        assert len(found.controls) == 2
        assert {g.side for g in found.guards} == {"aligned", "neutral"}
        assert found.left_out == ()

    def test_it_resumes_and_writes_what_a_reader_needs(self, study: Study) -> None:
        sweep(study, TWO_FOLD, judge=WordJudge())
        n = read_rows(study.run).num_rows
        sweep(study, TWO_FOLD, judge=WordJudge())
        assert read_rows(study.run).num_rows == n
        select(study.run)
        record = json.loads(study.run.operating_points_file.read_text())
        assert record["protocol"] == "two_fold"
        assert record["operating_points"][0]["folds"][0]["layer"] in (0, 1)
        assert (study.run.tables_folder / "operating_points.tex").is_file()
        assert json.loads(study.run.summary_file.read_text())["protocol"] == "two_fold"

    def test_test_scenarios_bound_the_grid(self, study: Study) -> None:
        small = replace(TWO_FOLD, test_scenarios=4, control_draws=0, extras=())
        split = sweep(study, small, judge=WordJudge())
        assert len(split.reporting) == 4
        assert set(map(len, answered(study).values())) == {4}

    def test_prefill_stands_beside_the_malicious_prompt(self, study: Study) -> None:
        both = replace(TWO_FOLD, threats=("malicious_prompt", "prefill:2"), sttp_alphas=(6.0,))
        sweep(study, both, judge=WordJudge())
        there = answered(study)
        assert there[prefilled(2)] == {s.id for s in study.split("test")}
        found = select(study.run)
        assert [p.choice.threat for p in found.points] == ["malicious_prompt", "prefill:2"]
        assert {c.group.threat for c in found.controls} == {"malicious_prompt", "prefill:2"}
        assert "prefill:2" in json.loads(study.run.summary_file.read_text())["threats"]


class TestSplit:
    def test_the_grid_is_for_the_selection_scenarios_alone(self, study: Study) -> None:
        split = sweep(study, SPLIT, judge=WordJudge())
        there = answered(study)
        grid = grid_cells(grid_record(SPLIT, (0, 1, 2)))
        selection = {s.id for s in split.selection}
        assert (len(split.selection), len(split.reporting)) == (3, 5)
        chosen = select(study.run).points[0].selected.cell
        assert {c for c in grid if there[c] - selection} == {chosen}
        assert there[DEFENDED] == {s.id for s in split.reporting}
        assert there[chosen.as_guard("neutral")] == {s.id for s in split.answering}

    def test_a_two_fold_sweep_after_it_does_not_let_the_finalists_compete(
        self, study: Study
    ) -> None:
        """They were chosen on scenarios that would then report them."""
        sweep(study, replace(SPLIT, finalists=4), judge=WordJudge())
        other = replace(TWO_FOLD, layers=(2,), control_draws=0, extras=())
        sweep(study, other, judge=WordJudge())
        (point,) = run_report(study.run).points
        assert point.selected.cell.layer == 2

    def test_a_second_grid_adds_candidates(self, study: Study) -> None:
        bare = replace(TWO_FOLD, control_draws=0, extras=())
        sweep(study, bare, judge=WordJudge())
        sweep(study, replace(bare, layers=(2,)), judge=WordJudge())
        assert run_report(study.run).fronts[0].n_candidates == 6


class TestOldAndCutShort:
    def test_a_manifest_of_an_earlier_version_is_read(self, study: Study) -> None:
        sweep(study, replace(SPLIT, extras=()), judge=WordJudge())
        manifest = study.run.manifest
        for key in ("grids", "halves", "answering"):
            del manifest["sweep"][key]
        for key in ("protocol", "extras", "threats", "test_scenarios"):
            del manifest["sweep"]["config"][key]
        atomic_write_json(study.run.manifest_file, manifest)
        found = run_report(study.run)
        assert found.split.protocol == "split"
        assert len(found.controls) == 2

    @pytest.mark.parametrize("config", [TWO_FOLD, SPLIT], ids=["two_fold", "split"])
    def test_a_sweep_without_its_last_shards_is_refused(
        self, study: Study, config: SweepConfig
    ) -> None:
        sweep(study, config, judge=WordJudge())
        shards = sorted(study.run.sweep_folder.glob("part-*.parquet"))
        assert len(shards) > 3
        for cut in range(len(shards) - 1, len(shards) - 4, -1):
            shards[cut].unlink()
            with pytest.raises(SelectionError, match=r"the sweep is incomplete: it lacks"):
                select(study.run)
        assert not study.run.operating_points_file.exists()

    def test_another_threshold_leaves_out_extras_of_other_cells_and_says_so(
        self, study: Study
    ) -> None:
        sweep(study, replace(TWO_FOLD, coherence_share=0.5), judge=WordJudge())
        before, after = run_report(study.run), run_report(study.run, coherence_share=1.0)
        cells = [{fold.cell for fold in found.points[0].folds} for found in (before, after)]
        assert len(before.controls) == 2
        if cells[0] != cells[1]:  # depends on the random model; both branches are claims
            assert any("random_direction controls" in line for line in after.left_out)
        else:
            assert after.left_out == ()


class TestRefusals:
    def refused(self, study: Study, match: str, **change) -> None:
        before = study.run.manifest
        with pytest.raises((GridError, SteeringError, SelectionError), match=match):
            sweep(study, replace(TWO_FOLD, **change), judge=WordJudge())
        assert study.run.manifest == before  # a sweep that never began leaves no trace
        assert not study.run.sweep_folder.exists()

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"layers": ()}, "the grid is empty: no layers were given"),
            ({"alphas": ()}, "the grid is empty: no alphas were given for sttp"),
            ({"methods": ()}, "the grid is empty: no methods were given"),
            ({"scopes": ()}, "the grid is empty: no scopes were given"),
            ({"threats": ()}, "the grid is empty: no threats were given"),
            ({"sttp_alphas": ()}, "the grid is empty: no alphas were given for sttp"),
            ({"alphas": (float("nan"),)}, "alpha must be a finite number, got nan"),
            ({"alphas": (1.0, float("inf"))}, "alpha must be a finite number, got inf"),
            ({"layers": (0, 17)}, "no probe for layer 17; .* probes for layers 0, 1, 2"),
            ({"layers": (-1,)}, "no probe for layer -1"),
            ({"scopes": ("first:0",)}, "first:K"),
            ({"threats": ("none",)}, "threats must be malicious_prompt or prefill:K, got none"),
            ({"threats": ("prefill:0",)}, "prefill:K with K from 1"),
            ({"coherence_share": 90.0}, r"a number from 0 to 1 .*, got 90"),
            ({"coherence_share": float("nan")}, "a number from 0 to 1"),
            ({"control_draws": -1}, "control_draws must be at least 0, got -1"),
            ({"test_scenarios": 1}, "test_scenarios must be at least 2, got 1"),
            ({"control_scenarios": 0}, "control_scenarios must be at least 1, got 0"),
        ],
    )
    def test_by_name_and_without_a_trace(self, study: Study, change: dict, match: str) -> None:
        self.refused(study, match, **change)

    def test_a_run_without_probes(self, tmp_path: Path, tiny_lm: HookedLM, tiny_dir: Path) -> None:
        bare = new_study(tmp_path, tiny_lm, tiny_dir)
        with pytest.raises(RunError, match="has no probes; run `interp-steer fit"):
            sweep(bare, TWO_FOLD, judge=WordJudge())

    def test_a_run_of_another_trait(
        self, tmp_path: Path, tiny_lm: HookedLM, tiny_dir: Path
    ) -> None:
        new_study(tmp_path, tiny_lm, tiny_dir)
        file = tmp_path / "others.jsonl"
        save_scenarios(file, [replace(one, trait="compassion") for one in scenarios()])
        sources = Sources(model=str(tiny_dir), scenarios=file)
        before = (tmp_path / "run" / "manifest.json").read_bytes()
        with pytest.raises(RunError, match="is about 'honesty', and the scenarios of .*'compassio"):
            start_study(tmp_path / "run", tiny_lm, sources, sampling=SAMPLING)
        assert (tmp_path / "run" / "manifest.json").read_bytes() == before

    def test_a_run_without_a_sweep(self, study: Study) -> None:
        with pytest.raises(RunError, match="has no sweep; run `interp-steer sweep"):
            select(study.run)

    def test_another_share_of_coherence_is_checked_too(self, study: Study) -> None:
        sweep(study, replace(TWO_FOLD, control_draws=0, extras=()), judge=WordJudge())
        with pytest.raises(SelectionError, match="a number from 0 to 1"):
            select(study.run, coherence_share=-0.1)

    def test_too_few_test_scenarios(self) -> None:
        with pytest.raises(SelectionError, match="at least 2 independent test scenarios, got 1"):
            planned_split([scenario(1)], TWO_FOLD, seed=0)
        with pytest.raises(SelectionError, match="0 selection scenarios out of 1"):
            planned_split([scenario(1)], SPLIT, seed=0)


class TestRawPairs:
    def test_they_are_swept_without_a_neutral_or_defended_side(
        self, tmp_path: Path, tiny_lm: HookedLM, tiny_dir: Path
    ) -> None:
        file = tmp_path / "raw.jsonl"
        prompts = ("who are you", "what is the capital", "tell me of the lion")
        raw = [
            Scenario(
                id=f"{split}-{i}",
                trait="honesty",
                split=split,
                category="c",
                prompt_aligned=f"honest {prompts[i % 3]}" + " yes" * (i // 3),
                prompt_malicious=f"liar {prompts[i % 3]}" + " no" * (i // 3),
            )
            for split in ("train", "test")
            for i in range(6)
        ]
        save_scenarios(file, raw)
        sources = Sources(model=str(tiny_dir), scenarios=file)
        sampling = replace(SAMPLING, seed=RAW_SEED)
        study = start_study(tmp_path / "run", tiny_lm, sources, sampling=sampling)
        fit(study, FitConfig(sampling=sampling))
        sweep(study, replace(TWO_FOLD, sttp_alphas=(6.0,)), judge=WordJudge())
        there = answered(study)
        assert {c.side for c in there} == {"aligned", "malicious"}
        found = select(study.run)
        assert [g.side for g in found.guards] == ["aligned"]
        assert found.left_out[0].startswith("the prompt-only defence on 6 of 6 scenarios")
        text = (study.run.operating_points_file).read_text()
        assert "pairs of raw prompts" in text


def test_plan_and_sweep_agree_on_what_a_cell_answers() -> None:
    one, other = Cell(side="aligned"), Cell(side="neutral")
    assert by_cell([{"a": one, "b": other}, {"c": one, "a": one}]) == {
        one: ("a", "c"),
        other: ("b",),
    }
