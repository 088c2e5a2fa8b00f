"""Packed rows are the rows that a loop would make, each once, whatever was there before."""

import contextlib
import os
import resource
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from interp_steer import controls, planes
from interp_steer.cells import (
    ALIGNED,
    BASELINES,
    KEY_COLUMNS,
    MALICIOUS,
    Cell,
    GridError,
    control_cells,
    prefilled,
    steered_cell,
    steered_grid,
)
from interp_steer.controls import ControlDirections, random_direction
from interp_steer.errors import JudgeError, ModelError, RunError
from interp_steer.fit_stage import load_probes, read_responses, training_scenario_ids
from interp_steer.judges import Answer, JudgeScore
from interp_steer.logistic import Span
from interp_steer.model import HookedLM
from interp_steer.probes import shuffled_label_direction
from interp_steer.progress import SweepProgress
from interp_steer.residuals import load_residuals
from interp_steer.runs import Run
from interp_steer.specs import SteeringSpec
from interp_steer.steering import steer
from interp_steer.study import Study
from interp_steer.sweep import SweepSetting, finished_keys, read_rows, run_cells
from interp_steer.sweep_rows import SWEEP_SCHEMA, Block, sample_key, steering_spec
from interp_steer.sweep_stage import control_directions, sweep
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

            def score(self, answer: Answer) -> JudgeScore:
                Tired.calls += 1
                if Tired.calls > 10:
                    raise JudgeError("the judge is tired")
                return super().score(answer)

        with pytest.raises(JudgeError, match="tired"):
            run_cells(run, [block(study, *GRID)], setting=replace(setting, judge=Tired()))
        assert read_rows(run).num_rows == 8
        assert run_cells(run, [block(study, *GRID)], setting=setting) == len(GRID) * 3 - 8


class TestThreats:
    def test_a_prefilled_row_goes_on_from_the_malicious_baselines_tokens(
        self, run: Run, study: Study, setting: SweepSetting
    ) -> None:
        """Against one prompt with those tokens put in by hand."""
        threat = prefilled(3)
        steered = steered_cell(method="swfc", layer=1, alpha=2.0, scope="all", threat="prefill:3")
        run_cells(run, [block(study, *BASELINES, threat, steered)], setting=setting)
        rows = {(Cell.from_row(r), r["scenario"]): r for r in read_rows(run).to_pylist()}
        for scenario in study.split("test")[:3]:
            prefix = rows[MALICIOUS, scenario.id]["token_ids"][:3]
            prompt = study.lm.tokenize(scenario.prompt("aligned")).with_prefill(prefix)
            keys = [sample_key(scenario.id, 0)]
            alone = study.lm.generate([prompt], study.settings, sample_keys=keys)
            assert list(alone[0].token_ids) == rows[threat, scenario.id]["token_ids"]
            with steer(study.lm, steering_spec(steered), setting.probes):
                alone = study.lm.generate([prompt], study.settings, sample_keys=keys)
            assert list(alone[0].token_ids) == rows[steered, scenario.id]["token_ids"]

    def test_the_judge_gets_prefix_and_text_apart_and_they_join(
        self, run: Run, study: Study, setting: SweepSetting
    ) -> None:
        heard: list[Answer] = []

        class Listening(WordJudge):
            def score(self, answer: Answer) -> JudgeScore:
                heard.append(answer)
                return super().score(answer)

        cells = (*BASELINES, prefilled(3))
        run_cells(run, [block(study, *cells)], setting=replace(setting, judge=Listening()))
        rows = {(Cell.from_row(r), r["scenario"]): r for r in read_rows(run).to_pylist()}
        assert not any(answer.prefix for answer in heard[:6])
        assert sum(bool(answer.prefix) for answer in heard[6:]) >= 2  # one baseline may be empty
        for answer in heard[6:]:
            ids = rows[MALICIOUS, answer.scenario.id]["token_ids"][:3]
            ids += rows[prefilled(3), answer.scenario.id]["token_ids"]
            assert answer.prefix + answer.text == study.lm.decode(ids)

    def test_without_the_malicious_baseline_it_is_refused(
        self, run: Run, study: Study, setting: SweepSetting
    ) -> None:
        with pytest.raises(GridError, match="starts with the malicious baseline's response to"):
            run_cells(run, [block(study, prefilled(3))], setting=setting)


class TestMemory:
    """A device that holds a few rows at a time."""

    def limited(self, monkeypatch: pytest.MonkeyPatch, room: int) -> list:
        tried: list[int] = []
        generate = HookedLM.generate

        def full(lm: HookedLM, prompts, *args, **options):
            tried.append(len(prompts))
            if len(prompts) > room:
                raise torch.OutOfMemoryError("out of memory (planted)")
            return generate(lm, prompts, *args, **options)

        monkeypatch.setattr(HookedLM, "generate", full)
        return tried

    def test_packs_are_halved_until_they_fit_and_it_is_remembered(
        self,
        tmp_path: Path,
        study: Study,
        setting: SweepSetting,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        roomy, tight = Run.create(tmp_path / "roomy"), Run.create(tmp_path / "tight")
        setting = replace(setting, batch_size=16)
        blocks = [block(study, *GRID)]
        run_cells(roomy, blocks, setting=setting)
        tried = self.limited(monkeypatch, 5)
        with caplog.at_level("WARNING", logger="interp_steer"):
            run_cells(tight, blocks, setting=setting)
        assert tried[:3] == [16, 8, 4]
        assert max(tried[3:]) <= 4  # later packs are not tried whole again
        assert [r.getMessage() for r in caplog.records] == [
            "out of memory with 16 rows in a batch; going on with 8",
            "out of memory with 8 rows in a batch; going on with 4",
        ]
        found, expected = _responses(read_rows(tight)), _responses(read_rows(roomy))
        assert found.keys() == expected.keys()
        assert sum(found[k] != expected[k] for k in found) <= 1

    def test_a_row_that_does_not_fit_alone_is_an_error_that_says_what_to_do(
        self, run: Run, study: Study, setting: SweepSetting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.limited(monkeypatch, 0)
        with pytest.raises(ModelError, match="use a smaller max_new_tokens, a smaller dtype"):
            run_cells(run, [block(study, *GRID)], setting=setting)

    def test_other_errors_of_the_device_are_not_taken_for_it(
        self, run: Run, study: Study, setting: SweepSetting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_args, **_options):
            raise RuntimeError("device-side assert")

        monkeypatch.setattr(HookedLM, "generate", broken)
        with pytest.raises(RuntimeError, match="device-side assert"):
            run_cells(run, [block(study, *GRID)], setting=setting)


class TestWriters:
    def test_a_second_sweep_at_once_is_refused_and_says_who_is_at_work(
        self, run: Run, study: Study, setting: SweepSetting
    ) -> None:
        with (
            Run(run.path).lock(),
            pytest.raises(RunError, match=f"another writer is at work .*process {os.getpid()}"),
        ):
            run_cells(run, [block(study, *GRID)], setting=setting)
        assert read_rows(run).num_rows == 0

    def test_a_full_disk_keeps_what_is_written_and_the_sweep_goes_on_later(
        self, run: Run, study: Study, setting: SweepSetting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The file system itself refuses: a limit on file sizes, below that of a shard."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        append, shards = Run.append_shard, []

        def second_does_not_fit(self: Run, table: pa.Table, folder: str = "sweep") -> Path:
            if len(shards) == 1:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
            shards.append(append(self, table, folder))
            return shards[-1]

        monkeypatch.setattr(Run, "append_shard", second_does_not_fit)
        try:
            with pytest.raises(RunError, match="cannot write .*part-00001.*Make room"):
                run_cells(run, [block(study, *GRID)], setting=setting)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
        monkeypatch.undo()
        assert read_rows(run).num_rows == setting.batch_size
        assert [p.name for p in run.sweep_folder.iterdir()] == ["part-00000.parquet"]
        added = run_cells(run, [block(study, *GRID)], setting=setting)
        assert added == len(GRID) * 3 - setting.batch_size


class TestProgress:
    def test_off_a_terminal_it_says_a_line_a_minute(self, caplog: pytest.LogCaptureFixture) -> None:
        now = [0.0]
        wanted = Counter({"a": 4, "b": 2})
        with (
            caplog.at_level("INFO", logger="interp_steer"),
            SweepProgress("sweep x", wanted, on_terminal=False, clock=lambda: now[0]) as progress,
        ):
            for seconds in (30, 59, 61, 90, 119, 121):
                now[0] = seconds
                progress.add(Counter({"a" if seconds < 100 else "b": 1}))
        assert [r.getMessage() for r in caplog.records] == [
            "sweep x: 3 of 6 rows, 0 of 2 cells, 0.0492 rows/s, time left 01:01",
            "sweep x: 6 of 6 rows, 2 of 2 cells, 0.0496 rows/s, time left 00:00",
        ]

    def test_on_a_terminal_it_draws_a_bar(self, capsys: pytest.CaptureFixture[str]) -> None:
        with SweepProgress("sweep x", Counter({"a": 2}), on_terminal=True) as progress:
            progress.add(Counter({"a": 2}))
        assert "1 of 1 cells" in capsys.readouterr().err


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

    def test_draws_share_a_span_and_are_those_made_one_by_one(
        self, study: Study, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directions, pair = control_directions(study), load_residuals(study.run.residuals_file)
        spans: list[int] = []

        def counted(rows: np.ndarray, method: planes.FitMethod) -> Span:
            spans.append(len(rows))
            return planes.span_for(rows, method)

        monkeypatch.setattr(controls, "span_for", counted)
        asked = [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2), (0, 2)]
        found = {(i, j): directions.direction(f"shuffled_labels:{j}", i) for i, j in asked}
        assert len(spans) == 3  # the last layer's is kept
        ids = training_scenario_ids(read_responses(study.run))
        sides = (pair.aligned.values, pair.malicious.values)
        for layer, draw in asked:
            alone = shuffled_label_direction(
                *sides, scenario_ids=ids, draw=draw, seed=study.sampling.seed
            )
            assert torch.equal(found[layer, draw], alone[pair.aligned.layers.index(layer)])

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

            def score(self, answer):  # noqa: ARG002
                return None

        with pytest.raises(JudgeError, match="judge 'silent' returned None for scenario 'test-0"):
            run_cells(run, [block(study, ALIGNED)], setting=replace(setting, judge=Silent()))

    @pytest.mark.parametrize("bad", [float("nan"), -1.0, 101.0])
    def test_scores_outside_0_to_100(self, bad: float) -> None:
        with pytest.raises(JudgeError, match="trait must be a number from 0 to 100"):
            JudgeScore(trait=bad, coherence=50.0)
        with pytest.raises(JudgeError, match="coherence must be a number from 0 to 100"):
            JudgeScore(trait=50.0, coherence=bad)

    @pytest.mark.parametrize("bad", ["70", [70.0]])
    def test_scores_that_are_no_numbers(self, bad: Any) -> None:
        """Without the type checks of these tests nothing else stands before it."""
        with pytest.raises(JudgeError, match="coherence must be a number .*, got .*70"):
            JudgeScore.__post_init__(SimpleNamespace(trait=50.0, coherence=bad))


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
