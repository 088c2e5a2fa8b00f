"""A sweep that a language model judges, its tournament and the judge's quality, end to end.

The judge is a server on loopback that counts praised words, forgets its manners now and then, and
likes what comes first.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from chat_servers import ChatServer, chat_server
from interp_steer.cli import main
from interp_steer.config import SweepConfig, TournamentConfig
from interp_steer.contestants import contestants, matches
from interp_steer.errors import RunError
from interp_steer.files import read_json
from interp_steer.model import HookedLM
from interp_steer.named_judges import judge_of, pair_judge
from interp_steer.plots.ratings import TournamentRatings, tournament_ratings
from interp_steer.run_figures import draw_figures
from interp_steer.splits import SelectionError
from interp_steer.study import Study
from interp_steer.sweep import read_rows
from interp_steer.sweep_stage import select, sweep
from interp_steer.tournament_stage import run_tournament
from study_cases import PRAISED, SWEEP, tiny_study

pytestmark = pytest.mark.slow

KEY = "planted-key-of-the-stages-3c"


def praise(text: str) -> int:
    words = text.split()
    return 1 + 99 * sum(word in PRAISED for word in words) // max(1, len(words))


def replies(request: dict[str, Any]) -> list[str]:
    """What stands between the marks, without the situation."""
    user = request["messages"][1]["content"]
    found = re.search(r"=== (\w{16}) ===", user)
    assert found is not None
    parts = [p.strip("\n") for p in user.split(f"=== {found[1]} ===")[1::2]]
    return parts[1:] if "The situation" in user else parts


def manners(request: dict[str, Any], _: int) -> str:
    """A rating, or a verdict; of one text in eight no usable answer."""
    said = replies(request)
    if "compare two replies" in request["messages"][0]["content"]:
        first, second = (praise(text) for text in said)
        return "TIE" if first == second else "A" if first > second else "B"
    is_moody = hashlib.sha256(said[-1].encode()).digest()[0] < 32
    return "Hard to say." if is_moody else str(praise(said[-1]))


class Judged:
    """A swept study, the server that judged it, and how."""

    def __init__(self, study: Study, config: SweepConfig, server: ChatServer) -> None:
        self.study, self.config, self.server = study, config, server
        self.run = study.run


@pytest.fixture(scope="module")
def judged(
    tmp_path_factory: pytest.TempPathFactory, tiny_lm: HookedLM, tiny_dir: Path
) -> Iterator[Judged]:
    folder = tmp_path_factory.mktemp("judged")
    study = tiny_study(folder, tiny_lm, tiny_dir)
    with pytest.MonkeyPatch.context() as patched, chat_server(manners) as server:
        patched.setenv("OPENAI_API_KEY", KEY)
        file = folder / "judge.toml"
        file.write_text(f'model = "polite"\nbase_url = "{server.base_url}"\ncache = "answers"\n')
        config = replace(
            SWEEP, layers=(1,), scopes=("all",), control_draws=0, judge="llm", judge_config=file
        )
        sweep(study, config, judge=judge_of(config, study.trait))
        yield Judged(study, config, server)


class TestSweep:
    def test_gaps_are_gaps_in_the_rows_and_in_the_report(self, judged: Judged) -> None:
        rows = read_rows(judged.run).to_pandas()
        expected = [
            np.nan if hashlib.sha256(text.encode()).digest()[0] < 32 else float(praise(text))
            for text in rows["response"]
        ]
        for name in ("trait", "coherence"):
            assert rows[name].to_numpy() == pytest.approx(np.array(expected), nan_ok=True)
        n_missing = int(np.isnan(expected).sum())
        assert 0 < n_missing < len(rows) and set(rows["judge"]) == {"polite"}
        found = select(judged.run)
        assert (found.n_rows, found.n_missing) == (len(rows), n_missing)

    def test_the_same_sweep_asks_nothing_and_another_judge_is_refused(self, judged: Judged) -> None:
        n_before, config = len(judged.server.requests), judged.config
        sweep(judged.study, config, judge=judge_of(config, "honesty"))
        assert len(judged.server.requests) == n_before
        other = judged.config.judge_config
        assert other is not None
        changed = other.with_name("other.toml")
        changed.write_text(other.read_text().replace("polite", "rude"))
        for options, said in (
            (
                replace(config, judge_config=changed),
                "judge.model is 'polite' in the run, got 'rude'",
            ),
            (replace(config, trait_description="Praise."), "judge.trait_description is"),
            (replace(config, judge="exact", judge_config=None), "judge is .*polite.*got 'exact'"),
        ):
            with pytest.raises(RunError, match=said):
                sweep(judged.study, options, judge=judge_of(options, "honesty"))

    def test_scores_are_those_of_one_by_one(self, judged: Judged) -> None:
        row = read_rows(judged.run).to_pylist()[0]
        (scenario,) = [s for s in judged.study.scenarios if s.id == row["scenario"]]
        from interp_steer.judges import Answer

        answer = Answer(
            scenario=scenario, text=row["response"], stopped=row["stop_reason"] == "stop_token"
        )
        score = judge_of(judged.config, "honesty").score(answer)
        assert score.trait == row["trait"] or (score.trait is None and np.isnan(row["trait"]))


class TestTournament:
    def test_is_played_from_the_command_line_and_drawn(
        self, judged: Judged, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = str(judged.run.path)
        left = draw_figures(judged.run, only=["elo"], static=False).left_out
        assert "make it with `interp-steer judge-tournament" in left[0].why
        assert main(["judge-tournament", path, "--both-orders", "--resamples", "50"]) == 0
        said = capsys.readouterr().out
        assert "aligned prompt, unsteered" in said and "questions to polite" in said
        ratings = pd.read_parquet(judged.run.analyses_folder / "pairwise_elo.parquet")
        assert ratings["rating"].mean() == pytest.approx(1500) and ratings["n_missing"].sum() == 0
        assert ratings["rating"].is_monotonic_decreasing and len(ratings) == 5
        order = pd.read_csv(judged.run.analyses_folder / "pairwise_elo_order.csv")
        assert order["first_share"][0] == 0.5 and order["same_share"][0] == 1.0
        made = draw_figures(judged.run, only=["elo"], static=False)
        assert [page.stem for page in made.pages] == ["elo"] and not made.left_out

    def test_wins_are_those_of_the_praise(self, judged: Judged) -> None:
        players = contestants(judged.run, ("all",))
        pairs = pd.read_parquet(judged.run.analyses_folder / "pairwise_elo_pairs.parquet")
        for row in pairs.to_dict("records"):
            one, other = (
                next(p for p in players if p.name == row[name]) for name in ("player", "other")
            )
            shares = [
                0.5 + 0.5 * np.sign(praise(text.text) - praise(other.answers[key].text))
                for key, text in one.answers.items()
            ]
            assert row["win_share"] == pytest.approx(np.mean(shares))

    def test_the_order_shown_depends_on_the_pair_alone(self, judged: Judged) -> None:
        players = contestants(judged.run, ("all",))
        every = matches(players, both_orders=False, seed=1)
        few = matches(contestants(judged.run, ("all",), n_scenarios=2), both_orders=False, seed=1)
        assert set(few) < set(every)
        turned = [match.first > match.second for match in every]
        assert 0 < sum(turned) < len(turned)
        assert matches(players, both_orders=False, seed=2) != every

    def test_the_exact_kind_of_judge_plays_too(self, judged: Judged) -> None:
        from study_cases import WordJudge

        config = TournamentConfig(resamples=20)
        played = run_tournament(judged.run, config, judge=pair_judge(WordJudge()))
        assert set(played.ratings["judge"]) == {"words"} and played.order.n_both == 0

    def test_an_unknown_scope_is_refused(self, judged: Judged) -> None:
        with pytest.raises(SelectionError, match="no operating point in scope response"):
            contestants(judged.run, ("response",))


class TestQuality:
    def test_is_measured_from_the_command_line(
        self, judged: Judged, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command = ["judge-quality", str(judged.run.path), "--responses", "12", "--pairs", "4"]
        assert main([*command, "--judge-config", str(judged.config.judge_config)]) == 0
        assert "retest_spearman" in capsys.readouterr().out
        found = pd.read_parquet(judged.run.analyses_folder / "judge_quality.parquet")
        by_name = found.set_index(["about", "measure"])["value"]
        assert by_name["trait", "mean_abs_difference"] == 0.0
        assert by_name["trait", "retest_mean_abs_difference"] == 0.0
        said = read_json(judged.run.analyses_folder / "judge_quality.json")["config"]
        assert said["judge"]["model"] == said["reference"]["model"] == "polite"


def test_the_key_is_in_no_file_of_the_study(judged: Judged) -> None:
    assert f"Bearer {KEY}" in judged.server.keys
    files = [path for path in judged.run.path.parent.rglob("*") if path.is_file()]
    assert any(path.suffix == ".jsonl" and "answers" in path.parts for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_names_of_players_are_drawn_as_text() -> None:
    hostile = "<script>alert(1)</script>"
    row = {"player": hostile, "side": "aligned", "method": "none", "judge": "j", "rating": 1500.0}
    row |= {"rating_low": 1490.0, "rating_high": 1510.0, "n_games": 3, "ties": 0}
    frame = pd.DataFrame([row | {"n_missing": 2, "n_scenarios": 1}])
    result = TournamentRatings(ratings=frame, judge="j", first_share=0.75)
    figure = tournament_ratings(result)
    assert "<script" not in str(figure.to_json()).replace("\\u003c", "<")
    assert "shown first won 75%" in figure.layout.title.text.replace("<br>", " ")
