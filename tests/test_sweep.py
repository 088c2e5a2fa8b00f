"""Packed rows are the rows that a loop would make, each once, whatever was there before."""

import contextlib
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from interp_steer.cells import (
    ALIGNED,
    BASELINES,
    KEY_COLUMNS,
    MALICIOUS,
    Cell,
    GridError,
    control_cells,
    steered_cell,
    steered_grid,
)
from interp_steer.controls import ControlDirections, random_direction
from interp_steer.errors import JudgeError, RunError
from interp_steer.fit_stage import load_probes, read_responses
from interp_steer.judges import JudgeScore
from interp_steer.model import HookedLM
from interp_steer.residuals import load_residuals
from interp_steer.runs import Run
from interp_steer.specs import SteeringSpec
from interp_steer.steering import steer
from interp_steer.study import Study
from interp_steer.sweep import (
    SWEEP_SCHEMA,
    Block,
    SweepSetting,
    finished_keys,
    read_rows,
    run_cells,
    sample_key,
)
from interp_steer.sweep_stage import sweep
from study_cases import SWEEP, WordJudge, tiny_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_lm: HookedLM, tiny_dir: Path) -> Study:
    return tiny_study(tmp_path_factory.mktemp("study"), tiny_lm, tiny_dir)


@pytest.fixture
def setting(study: Study) -> SweepSetting:
    responses = read_responses(study.run)
    ids = [
        [r["scenario"] for r in responses.to_pylist() if r["side"] == side]
        for side in ("aligned", "malicious")
    ]
    return SweepSetting(
        lm=study.lm,
        probes=load_probes(study.run),
        judge=WordJudge(),
        generation=study.settings,
        directions=ControlDirections(
            load_residuals(study.run.residuals_file), scenario_ids=(ids[0], ids[1])
        ),
        batch_size=8,
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run")


GRID = steered_grid(
    layers=[0, 2], alphas={"swfc": [2.0], "sttp": [6.0], "stmp": [2.0]}, scopes=["all", "response"]
)


def block(study: Study, *cells: Cell, n: int = 3) -> Block:
    return Block(cells=cells, scenarios=study.split("test")[:n])


def keys(table: pa.Table) -> list[tuple]:
    return list(zip(*table.select(KEY_COLUMNS).to_pydict().values(), strict=True))


class TestRows:
    def test_every_cell_answers_every_scenario_once(
        self, run: Run, study: Study, setting: SweepSetting
    ) -> None:
        added = run_cells(
            run,
            [block(study, *BASELINES, *GRID)],
            setting=replace(setting, responses_per_scenario=2),
        )
        table = read_rows(run)
        assert added == table.num_rows == len(set(keys(table))) == (2 + len(GRID)) * 3 * 2
        assert table.schema.equals(SWEEP_SCHEMA)
        assert {r["judge"] for r in table.to_pylist()} == {"words"}

    def test_packed_rows_are_those_of_a_plain_loop(
        self, run: Run, study: Study, setting: SweepSetting
    ) -> None:
        """Against one row at a time through `steer`; float32, so one flipped token is allowed."""
        run_cells(run, [block(study, MALICIOUS, *GRID, n=2)], setting=setting)
        plain: dict[str, tuple[int, ...]] = {}
        differing = steered_differently = 0
        rows = sorted(read_rows(run).to_pylist(), key=lambda row: row["method"] != "none")
        prompts = {s.id: study.lm.tokenize(s.prompt("malicious")) for s in study.split("test")}
        for row in rows:
            cell, scenario = Cell.from_row(row), row["scenario"]
            call = ([prompts[scenario]], study.settings)
            attached = contextlib.nullcontext()
            if cell.is_steered:
                spec = SteeringSpec(
                    method=cell.method, layer=cell.layer, alpha=cell.alpha, scope=cell.scope
                )
                attached = steer(study.lm, spec, setting.probes)
            with attached:
                alone = study.lm.generate(*call, sample_keys=[sample_key(scenario, 0)])[0].token_ids
            plain.setdefault(scenario, alone)
            differing += list(alone) != row["token_ids"]
            steered_differently += alone != plain[scenario]
        assert differing <= 1
        assert steered_differently >= 6  # steering does something, so equality says something

    def test_batch_size_and_block_layout_change_no_text(
        self, tmp_path: Path, study: Study, setting: SweepSetting
    ) -> None:
        texts = []
        for size, blocks in (
            (3, [block(study, *GRID), block(study, ALIGNED)]),
            (64, [block(study, ALIGNED, *reversed(GRID))]),
        ):
            run = Run.create(tmp_path / str(size))
            run_cells(run, blocks, setting=replace(setting, batch_size=size))
            texts.append({tuple(map(str, k)): r for k, r in _responses(read_rows(run)).items()})
        assert texts[0].keys() == texts[1].keys()
        assert sum(texts[0][k] != texts[1][k] for k in texts[0]) <= 1

    def test_scenarios_meet_every_cell_with_the_same_random_numbers(
        self, run: Run, study: Study, setting: SweepSetting
    ) -> None:
        """A cell whose edit is nil must repeat its baseline; one that edits must not."""
        nil = steered_cell(method="swfc", layer=1, alpha=0.0, scope="all")
        strong = steered_cell(method="swfc", layer=1, alpha=4.0, scope="all")
        run_cells(run, [block(study, MALICIOUS, nil, strong, n=6)], setting=setting)
        by_cell: dict[Cell, dict[str, str]] = {}
        for row in read_rows(run).to_pylist():
            by_cell.setdefault(Cell.from_row(row), {})[row["scenario"]] = row["response"]
        assert by_cell[nil] == by_cell[MALICIOUS]
        assert by_cell[strong] != by_cell[MALICIOUS]

    def test_responses_of_one_scenario_differ(
        self, run: Run, study: Study, setting: SweepSetting
    ) -> None:
        run_cells(
            run, [block(study, ALIGNED, n=6)], setting=replace(setting, responses_per_scenario=2)
        )
        rows = read_rows(run).to_pylist()
        first = {r["scenario"]: r["response"] for r in rows if r["response_index"] == 0}
        second = {r["scenario"]: r["response"] for r in rows if r["response_index"] == 1}
        assert first.keys() == second.keys()
        assert first != second


class TestResume:
    def test_nothing_is_made_twice(self, run: Run, study: Study, setting: SweepSetting) -> None:
        assert run_cells(run, [block(study, *GRID)], setting=setting) == len(GRID) * 3
        shards = sorted(run.sweep_folder.iterdir())
        assert run_cells(run, [block(study, *GRID)], setting=setting) == 0
        assert sorted(run.sweep_folder.iterdir()) == shards

    def test_a_wider_grid_adds_what_is_missing(
        self, run: Run, study: Study, setting: SweepSetting
    ) -> None:
        run_cells(run, [block(study, *GRID[:2], n=2)], setting=setting)
        assert run_cells(run, [block(study, *GRID[:3], n=3)], setting=setting) == 3 * 3 - 2 * 2
        table = read_rows(run)
        assert len(set(keys(table))) == table.num_rows == 9

    def test_baselines_are_found_again_although_their_layer_is_null(
        self, run: Run, study: Study, setting: SweepSetting
    ) -> None:
        run_cells(run, [block(study, *BASELINES)], setting=setting)
        assert ("test-00", 0, *ALIGNED.as_row().values()) in finished_keys(run)
        assert run_cells(run, [block(study, *BASELINES)], setting=setting) == 0

    def test_rows_before_a_failing_judge_stay(
        self, run: Run, study: Study, setting: SweepSetting
    ) -> None:
        class Tired(WordJudge):
            calls = 0

            def score(self, scenario, response, *, stopped) -> JudgeScore:
                Tired.calls += 1
                if Tired.calls > 10:
                    raise JudgeError("the judge is tired")
                return super().score(scenario, response, stopped=stopped)

        with pytest.raises(JudgeError, match="tired"):
            run_cells(run, [block(study, *GRID)], setting=replace(setting, judge=Tired()))
        assert read_rows(run).num_rows == 8
        assert run_cells(run, [block(study, *GRID)], setting=setting) == len(GRID) * 3 - 8


class TestControls:
    def test_a_control_keeps_the_gate_and_moves_along_another_unit_vector(
        self, run: Run, study: Study, setting: SweepSetting
    ) -> None:
        cell = steered_cell(method="swfc", layer=1, alpha=4.0, scope="all")
        controls = control_cells([cell], n_draws=2)
        run_cells(run, [block(study, cell, *controls, n=6)], setting=setting)
        texts: dict[str, dict[str, str]] = {}
        for row in read_rows(run).to_pylist():
            texts.setdefault(row["control"], {})[row["scenario"]] = row["response"]
        assert set(texts) == {
            "none",
            *(f"{k}:{i}" for k in ("random_direction", "shuffled_labels") for i in (0, 1)),
        }
        assert texts["random_direction:0"] != texts["none"]
        assert texts["random_direction:0"] != texts["random_direction:1"]

    def test_directions_are_unit_vectors_fixed_by_draw_and_layer(
        self, setting: SweepSetting
    ) -> None:
        directions = setting.directions
        assert directions is not None
        one = directions.direction("shuffled_labels:0", 1)
        assert one.norm().item() == pytest.approx(1, abs=1e-5)
        assert abs(one @ setting.probes.probe(1).v_hat) < 0.9
        assert torch.equal(one, directions.direction("shuffled_labels:0", 1))
        assert not torch.equal(one, directions.direction("shuffled_labels:1", 1))

    def test_random_directions_are_spread_over_the_sphere(self) -> None:
        """1000 draws in 32 dimensions: mean near 0, pairwise cosines of std 1 / sqrt(32)."""
        draws = torch.stack([random_direction(32, draw=i, layer=3) for i in range(1000)])
        assert draws.norm(dim=1).allclose(torch.ones(1000))
        assert draws.mean(dim=0).norm() < 0.06
        cosines = (draws @ draws.T)[~torch.eye(1000, dtype=torch.bool)]
        assert cosines.std().item() == pytest.approx(32**-0.5, rel=0.05)
        assert not torch.equal(draws[0], random_direction(32, draw=0, layer=4))

    def test_unknown_layer_is_refused(self, setting: SweepSetting) -> None:
        assert setting.directions is not None
        with pytest.raises(GridError, match=r"no residuals of layer 9.*layers 0, 1, 2"):
            setting.directions.direction("random_direction:0", 9)


class TestRefusals:
    def test_empty_grid_and_no_scenarios(
        self, run: Run, study: Study, setting: SweepSetting
    ) -> None:
        with pytest.raises(GridError, match="the grid is empty: no cells"):
            run_cells(run, [block(study)], setting=setting)
        with pytest.raises(GridError, match="at least one scenario"):
            run_cells(run, [block(study, ALIGNED, n=0)], setting=setting)

    def test_a_layer_without_probe(self, run: Run, study: Study, setting: SweepSetting) -> None:
        far = steered_cell(method="swfc", layer=17, alpha=1.0, scope="all")
        with pytest.raises(GridError, match="no probe for layer 17; .* layers 0, 1, 2"):
            run_cells(run, [block(study, far)], setting=setting)

    def test_controls_without_directions(
        self, run: Run, study: Study, setting: SweepSetting
    ) -> None:
        cell = GRID[0].with_control("random_direction:0")
        with pytest.raises(GridError, match=r"need SweepSetting\.directions"):
            run_cells(run, [block(study, cell)], setting=replace(setting, directions=None))

    @pytest.mark.parametrize("name", ["batch_size", "responses_per_scenario"])
    def test_counts_below_one(
        self, run: Run, study: Study, setting: SweepSetting, name: str
    ) -> None:
        with pytest.raises(GridError, match=f"{name} must be at least 1, got 0"):
            run_cells(run, [block(study, ALIGNED)], setting=replace(setting, **{name: 0}))

    def test_a_judge_that_returns_nothing(
        self, run: Run, study: Study, setting: SweepSetting
    ) -> None:
        class Silent:
            name = "silent"

            def score(self, scenario, response, *, stopped):  # noqa: ARG002
                return None

        with pytest.raises(JudgeError, match="judge 'silent' returned None for scenario 'test-0"):
            run_cells(run, [block(study, ALIGNED)], setting=replace(setting, judge=Silent()))

    @pytest.mark.parametrize("bad", [float("nan"), -1.0, 101.0])
    def test_scores_outside_0_to_100(self, bad: float) -> None:
        with pytest.raises(JudgeError, match="trait must be a number from 0 to 100"):
            JudgeScore(trait=bad, coherence=50.0)
        with pytest.raises(JudgeError, match="coherence must be a number from 0 to 100"):
            JudgeScore(trait=50.0, coherence=bad)


class TestSweepStage:
    def test_screen_then_finalists_and_controls_on_other_scenarios(
        self, tmp_path: Path, tiny_lm: HookedLM, tiny_dir: Path
    ) -> None:
        study = tiny_study(tmp_path, tiny_lm, tiny_dir)
        split = sweep(study, SWEEP, judge=WordJudge())
        rows = read_rows(study.run).to_pandas()
        selection = {s.id for s in split.selection}
        reporting = {s.id for s in split.reporting}
        assert (len(selection), len(reporting)) == (3, 5)
        steered = rows[(rows.method != "none") & (rows.control == "none")]
        screened = steered[steered.scenario.isin(selection)]
        assert len(screened) == 2 * (2 + 1 + 1) * 2 * 3
        reported = steered[steered.scenario.isin(reporting)]
        assert len(reported) == 3 * 2 * 5  # one finalist for each method and scope
        controls = rows[rows.control != "none"]
        assert set(controls.scenario) == {s.id for s in split.reporting[:2]}
        assert len(controls) == 2 * 2 * 3 * 2 * 2
        assert len(rows[rows.method == "none"]) == 2 * 8
        assert sweep(study, SWEEP, judge=WordJudge()) == split
        assert read_rows(study.run).num_rows == len(rows)

    def test_another_judge_in_the_same_run_is_refused_by_name(
        self, tmp_path: Path, tiny_lm: HookedLM, tiny_dir: Path
    ) -> None:
        class Other(WordJudge):
            name = "other"

        study = tiny_study(tmp_path, tiny_lm, tiny_dir)
        small = replace(SWEEP, methods=("swfc",), scopes=("all",), control_draws=0)
        sweep(study, small, judge=WordJudge())
        with pytest.raises(RunError, match="judge is 'words' in the run, got 'other'"):
            sweep(study, small, judge=Other())


def _responses(table: pa.Table) -> dict[tuple, str]:
    return dict(zip(keys(table), table["response"].to_pylist(), strict=True))
