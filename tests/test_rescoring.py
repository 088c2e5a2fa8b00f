"""Gaps in scores, filled: what was there stays to the bit, and another judge is refused.

Gaps are planted in rows that were scored, so that what a filled gap should hold is known.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chat_servers import Status, chat_server
from interp_steer.analysis.tidy_tables import AnalysisError
from interp_steer.cells import MALICIOUS, Cell
from interp_steer.cli import main
from interp_steer.config import TournamentConfig
from interp_steer.contestants import contestants
from interp_steer.errors import JudgeError, RunError
from interp_steer.judges import Answer, JudgeScore
from interp_steer.model import HookedLM
from interp_steer.pairs import ScoredPairs
from interp_steer.rescoring import Filling, rescore_sweep
from interp_steer.run_figures import draw_figures
from interp_steer.runs import Run
from interp_steer.splits import SelectionError
from interp_steer.study import Study, reopen_study
from interp_steer.suites.conversations import NO_ROOM
from interp_steer.suites.cross_trait import run_cross_trait
from interp_steer.suites.figure_tables import keep_figure_table, suite_findings
from interp_steer.suites.multi_turn import run_multi_turn
from interp_steer.suites.rescored import (
    gappy_evaluations,
    other_run,
    rescore_cross_trait,
    rescore_multi_turn,
)
from interp_steer.sweep import read_rows
from interp_steer.sweep_stage import is_outdated, select, sweep
from interp_steer.tournament_stage import run_tournament
from study_cases import SWEEP, WordJudge, tiny_study
from suite_cases import pointed_study, subject

SCORES = ("trait", "coherence")


def plant(folder: Path, change: Callable[[int, str], bool]) -> int:
    """Make gaps in a folder's shards where `change` says so, by row and column; how many."""
    n, row = 0, 0
    for path in sorted(folder.glob("part-*.parquet")):
        table = pq.read_table(path)
        for name in SCORES:
            values = np.array(table[name].to_pylist(), dtype=np.float64)
            gap = np.array([change(row + i, name) for i in range(len(values))])
            n += int((gap & ~np.isnan(values)).sum())
            values[gap] = np.nan
            field = table.schema.field(name)
            # A sweep's gaps are NaN, those of a suite are null.
            column = pa.array(values, field.type, from_pandas=field.nullable)
            table = table.set_column(table.schema.get_field_index(name), field, column)
        row += table.num_rows
        pq.write_table(table, path)
    return n


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, tiny_lm: HookedLM, tiny_dir: Path) -> Study:
    study = tiny_study(tmp_path_factory.mktemp("rescoring"), tiny_lm, tiny_dir)
    config = replace(
        SWEEP,
        layers=(1,),
        methods=("swfc",),
        scopes=("all",),
        threats=("malicious_prompt", "prefill:2"),
        test_scenarios=4,
        selection_scenarios=2,
        control_draws=0,
        judge_free=False,
    )
    sweep(study, config, judge=WordJudge())
    select(study.run)
    return study


@pytest.fixture
def run(swept: Study, tmp_path: Path) -> Run:
    """A copy, to be damaged."""
    return Run(Path(shutil.copytree(swept.run.path, tmp_path / "run")))


def filled(run: Run, lm: HookedLM, filling: Filling | None = None):
    filling = filling or Filling(judge=WordJudge())
    return rescore_sweep(run, filling, open_study=lambda: reopen_study(run.path, lm=lm))


class Moody(WordJudge):
    """Counts words, but has no coherence to give, or gives up after some answers."""

    def __init__(self, *, patience: int = 10**9, is_mute: bool = False) -> None:
        self.patience, self.is_mute = patience, is_mute

    def score(self, answer: Answer) -> JudgeScore:
        self.patience -= 1
        if self.patience < 0:
            raise JudgeError("no more")
        found = super().score(answer)
        return replace(found, coherence=None) if self.is_mute else found


class Stranger(WordJudge):
    name = "stranger"

    def score(self, answer: Answer) -> JudgeScore:  # noqa: ARG002 - whatever it is
        return JudgeScore(trait=1.0, coherence=2.0)


def test_a_tournament_after_a_prefilled_start_compares_continuations(
    run: Run, tiny_lm: HookedLM
) -> None:
    players = contestants(
        run, ("all",), threat="prefill:2", open_study=lambda: reopen_study(run.path, lm=tiny_lm)
    )
    assert [p.name for p in players] == [
        "aligned prompt, unsteered",
        "start of 2 tokens, unsteered",
        "SwFC",
    ]
    rows = {(Cell.from_row(r), r["scenario"]): r for r in read_rows(run).to_pylist()}
    for player in players[1:]:
        for (scenario, _), answer in player.answers.items():
            start = rows[MALICIOUS, scenario]["token_ids"][:2]
            assert answer.prefix == tiny_lm.decode(start) and answer.prefix
    assert not any(answer.prefix for answer in players[0].answers.values())
    config = TournamentConfig(threat="prefill:2", resamples=20)
    played = run_tournament(run, config, judge=ScoredPairs(WordJudge()))
    assert {path.stem for path in played.paths} >= {"pairwise_elo_prefill_2"}
    usual = run_tournament(run, TournamentConfig(resamples=20), judge=ScoredPairs(WordJudge()))
    assert set(usual.ratings["threat"]) == {"malicious_prompt"}
    made = draw_figures(run, only=["elo"], static=False)
    assert [page.stem for page in made.pages] == ["elo", "elo-prefill-2"]
    with pytest.raises(SelectionError, match="no operating point under the threat prefill:3"):
        contestants(run, ("all",), threat="prefill:3")


class TestSweep:
    def test_gaps_get_what_they_had_and_nothing_else_moves(
        self, run: Run, tiny_lm: HookedLM
    ) -> None:
        before = read_rows(run)
        prefilled = [row for row in before.to_pylist() if Cell.from_row(row).prefill]
        assert prefilled
        n = plant(run.sweep_folder, lambda row, name: (row + (name == "trait")) % 3 == 0)
        assert n > 10 and is_outdated(run)
        found = filled(run, tiny_lm)
        assert (found.n_filled, found.n_left) == (n, 0)
        assert read_rows(run).equals(before)
        assert filled(run, tiny_lm).n_filled == 0

    def test_a_score_that_is_there_is_not_asked_for_again(
        self, run: Run, tiny_lm: HookedLM
    ) -> None:
        plant(run.sweep_folder, lambda row, name: row == 1 and name == "trait")
        before = read_rows(run).to_pandas()
        stranger = Filling(judge=Stranger(), any_judge=True)
        assert filled(run, tiny_lm, stranger).n_filled == 1
        after = read_rows(run).to_pandas()
        assert (after.trait[1], after.coherence[1]) == (1.0, before.coherence[1])
        assert after.judge[1] == "words, stranger"
        others = after.index != 1
        assert after[others].equals(before[others])

    def test_another_judge_is_refused_by_name(self, run: Run, tiny_lm: HookedLM) -> None:
        plant(run.sweep_folder, lambda row, _: row == 1)
        with pytest.raises(RunError, match=r"judge is 'words' in the run, got 'stranger'.*--any-j"):
            filled(run, tiny_lm, Filling(judge=Stranger()))

    def test_what_the_judge_cannot_say_stays_missing(self, run: Run, tiny_lm: HookedLM) -> None:
        plant(run.sweep_folder, lambda row, _: row in (1, 2))
        found = filled(run, tiny_lm, Filling(judge=Moody(is_mute=True)))
        assert (found.n_filled, found.n_left) == (2, 2)
        rows = read_rows(run).to_pandas()
        assert rows.trait.notna().all() and rows.coherence.isna().sum() == 2

    def test_a_judge_that_gives_up_keeps_the_shards_before(
        self, run: Run, tiny_lm: HookedLM
    ) -> None:
        before = read_rows(run)
        n = plant(run.sweep_folder, lambda *_: True)
        first = pq.read_metadata(run.shards()[0]).num_rows
        assert len(run.shards()) > 1
        with pytest.raises(JudgeError, match="no more"):
            filled(run, tiny_lm, Filling(judge=Moody(patience=first)))
        known = int(read_rows(run).to_pandas()["trait"].notna().sum())
        assert known == first
        assert filled(run, tiny_lm).n_filled == n - 2 * first
        assert read_rows(run).equals(before)

    def test_figures_say_that_operating_points_are_of_other_rows(self, run: Run) -> None:
        assert not draw_figures(run, only=["transfer"], static=False).notes
        plant(run.sweep_folder, lambda row, _: row == 1)
        (note,) = draw_figures(run, only=["transfer"], static=False).notes
        assert "interp-steer select" in note
        select(run)
        assert not draw_figures(run, only=["transfer"], static=False).notes


class TestEvaluations:
    def test_turns_are_read_after_those_before_them(
        self, tiny_lm: HookedLM, tiny_dir: Path, tmp_path: Path
    ) -> None:
        study = pointed_study(tmp_path, tiny_lm, tiny_dir)
        options = {"turns": 2, "limit": 3, "methods": ("swfc",)}
        evaluation, summary = run_multi_turn(subject("multi-turn", study, **options))
        assert summary.figure is not None
        keep_figure_table(study.run, "multi-turn", summary.figure)
        before = evaluation.rows()
        assert NO_ROOM not in before["stop_reason"].to_pylist()
        assert gappy_evaluations(study.run) == ()
        n = plant(evaluation.store.path, lambda row, _: row % 2 == 1)
        assert gappy_evaluations(study.run) == ("multi-turn",)
        asked: list[Answer] = []

        class Noting(WordJudge):
            def score(self, answer: Answer) -> JudgeScore:
                asked.append(answer)
                return super().score(answer)

        with pytest.raises(AnalysisError, match="have changed since its tables were made"):
            suite_findings(study.run, "multi_turn")
        assert rescore_multi_turn(study.run, Filling(judge=Noting())).n_filled == n
        assert evaluation.rows().equals(before)
        keep_figure_table(study.run, "multi-turn", summary.figure)
        assert len(suite_findings(study.run, "multi_turn").tables[""])
        rows = before.to_pylist()
        expected = f"Earlier in the conversation:\nUser: {rows[0]['user']}\nAssistant: "
        assert asked[0].scenario.notes == expected + rows[0]["response"]
        assert asked[0].scenario.user == (rows[1]["user"],)

    def test_each_trait_is_judged_by_its_own_judge(
        self, tiny_lm: HookedLM, tiny_dir: Path, tmp_path: Path
    ) -> None:
        study = pointed_study(tmp_path / "own", tiny_lm, tiny_dir)
        other = pointed_study(tmp_path / "other", tiny_lm, tiny_dir, trait="compassion")
        options = {"other": other.run.path, "methods": ("swfc",), "limit": 2, "control_draws": 0}
        evaluation, _ = run_cross_trait(subject("cross-trait", study, **options))
        before = evaluation.rows()
        n = plant(evaluation.store.path, lambda row, _: row % 3 == 0)
        found = rescore_cross_trait(
            study.run,
            Filling(judge=WordJudge()),
            other=other_run(study.run, None),
            other_judge=WordJudge(),
        )
        assert sum(one.n_filled for one in found) == n and all(one.n_filled for one in found)
        assert evaluation.rows().equals(before)
        with pytest.raises(RunError, match="is not the one that"):
            other_run(study.run, self.elsewhere(tmp_path, tiny_lm, tiny_dir))

    @staticmethod
    def elsewhere(folder: Path, lm: HookedLM, model_dir: Path) -> Path:
        return pointed_study(folder / "third", lm, model_dir, trait="honesty").run.path


@pytest.mark.slow
def test_the_command_fills_what_timed_out_and_chooses_anew(
    tiny_lm: HookedLM, tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from interp_steer.named_judges import judge_of

    study = tiny_study(tmp_path, tiny_lm, tiny_dir)
    is_well = False

    def answer(request: dict, number: int) -> str | Status:
        length = len(request["messages"][1]["content"])
        lost = not is_well and length % 5 == 0
        return Status(500, "gone") if lost else str(1 + length % 100)

    with chat_server(answer) as server:
        file = tmp_path / "judge.toml"
        file.write_text(
            f'model = "m"\nbase_url = "{server.base_url}"\ncache = "answers"\nmax_retries = 0\n'
        )
        # One cell a method: whatever the filled scores are, they choose one that was tried.
        config = replace(
            SWEEP,
            layers=(1,),
            swfc_alphas=(2.0,),
            scopes=("all",),
            control_draws=0,
            judge="llm",
            judge_config=file,
        )
        sweep(study, config, judge=judge_of(config, study.trait))
        select(study.run)
        gaps = int(read_rows(study.run).to_pandas()[list(SCORES)].isna().sum().sum())
        points = study.run.operating_points_file.read_text()
        assert gaps > 0
        n_before, is_well = len(server.requests), True
        assert main(["rescore", str(study.run.path)]) == 0
        said = capsys.readouterr().out
        assert f"sweep: {gaps} scores filled, 0 still missing" in said
        assert "operating points chosen anew" in said
        # The scores that were there came out of the cache.
        assert len(server.requests) - n_before <= gaps
        assert study.run.operating_points_file.read_text() != points
        assert main(["rescore", str(study.run.path)]) == 0
        assert "sweep: 0 scores filled, 0 still missing" in capsys.readouterr().out
        file.write_text(file.read_text().replace('"m"', '"other"'))
        plant(study.run.sweep_folder, lambda row, _: row == 0)
        assert main(["rescore", str(study.run.path)]) == 1
        assert "judge.model is 'm' in the run, got 'other'" in capsys.readouterr().err
