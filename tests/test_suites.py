"""The frame of the suites and the suite multi-turn, on the random model, judged by words."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from chat_servers import chat_server
from interp_steer.cells import ALIGNED, CELL_COLUMNS, NEUTRAL, Cell
from interp_steer.cli import main
from interp_steer.errors import RunError
from interp_steer.hook_records import HookRecord
from interp_steer.interventions import edit, project
from interp_steer.judges import Answer, JudgeScore
from interp_steer.model import HookedLM, Prompt
from interp_steer.probes import ProbeSet
from interp_steer.runs import Run
from interp_steer.specs import SteeringSpec, resolve
from interp_steer.study import Study
from interp_steer.suites.configurations import Configurations, in_order
from interp_steer.suites.conversations import NO_ROOM, SCHEMA
from interp_steer.suites.evaluation import Evaluation
from interp_steer.suites.follow_ups import (
    OtherScenarios,
    ScriptedTurns,
    SimulatedUser,
    read_follow_ups,
)
from interp_steer.suites.multi_turn import run_multi_turn
from interp_steer.suites.settings import EvaluationError, SuiteConfig, check_options
from interp_steer.suites.speaking import Guard, guarded
from interp_steer.suites.subject import Subject
from interp_steer.suites.turn_measures import repeated_across, reused_sentences, sentences
from interp_steer.sweep import read_rows
from interp_steer.sweep_rows import CELL_FIELDS
from interp_steer.sweep_stage import sweep
from interp_steer.traces import read_traces
from judge_cases import settings
from steering_cases import make_probes
from study_cases import SWEEP, WordJudge, scenarios
from suite_cases import pointed_study, subject
from test_resume import killed

KEY = ["scenario", *CELL_COLUMNS, "turn"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_lm: HookedLM, tiny_dir: Path) -> Study:
    return pointed_study(tmp_path_factory.mktemp("suites"), tiny_lm, tiny_dir)


class TestTurnMeasures:
    def test_four_grams_of_earlier_turns(self) -> None:
        turns = ["a b c d e", "x a b c d", "p q r s", "a b c"]
        # "a b c d" is one of two in the second turn; the third has none; the fourth no 4-gram.
        assert repeated_across(turns)[1:3] == [0.5, 0.0]
        assert math.isnan(repeated_across(turns)[0])
        assert math.isnan(repeated_across(turns)[3])

    def test_sentences_are_cut_at_marks_and_lines(self) -> None:
        assert sentences("One two. Three?\nFour - five!  ...") == [
            "One two.",
            "Three?",
            "Four - five!",
        ]

    def test_reuse_counts_sentences_like_an_earlier_turns(self) -> None:
        class ByLetter:
            """Vectors at known angles: cosine 0.81 between a and b, 0 between a and c."""

            name = "letters"

            def identity(self) -> dict[str, str]:
                return {}

            def encode(self, texts: Sequence[str]) -> np.ndarray:
                known = {"a": (1.0, 0.0), "b": (0.81, math.sqrt(1 - 0.81**2)), "c": (0.0, 1.0)}
                return np.array([known[text[0]] for text in texts])

        (shares,) = reused_sentences(ByLetter(), [["a.", "b. c.", "c."]])
        assert math.isnan(shares[0])
        # c and b are at cosine 0.586: only sentences of earlier turns count, not of the same.
        assert shares[1:] == [0.5, 1.0]


class TestFollowUps:
    def test_a_script_goes_round(self) -> None:
        scenario = scenarios()[0]
        said = ScriptedTurns(follow_ups=("why", "how")).turns(scenario, 4)
        assert [turn.text for turn in said] == [scenario.user[0], "why", "how", "why"]

    def test_other_scenarios_ask_in_an_order_of_the_scenario(self) -> None:
        every = scenarios()
        script = OtherScenarios(every, seed=1)
        one, again = (script.turns(every[0], 5) for _ in range(2))
        assert one == again
        assert {turn.text for turn in one} <= {s.user[0] for s in every}
        assert OtherScenarios(every, seed=2).turns(every[0], 5) != one

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("f.json", "{}", "must hold a list of texts"),
            ("f.json", '["a", 1]', "follow-up 2 must be a text, got 1"),
            ("f.jsonl", '"a"\nb', "is no jsonl"),
        ],
    )
    def test_files_that_do_not_fit_are_refused(
        self, tmp_path: Path, name: str, content: str, said: str
    ) -> None:
        (tmp_path / name).write_text(content)
        with pytest.raises(EvaluationError, match=said):
            read_follow_ups(tmp_path / name)

    def test_files_of_both_kinds(self, tmp_path: Path) -> None:
        (tmp_path / "f.json").write_text('["a", "b"]')
        (tmp_path / "f.jsonl").write_text('"a"\n\n"b"\n')
        assert read_follow_ups(tmp_path / "f.json") == read_follow_ups(tmp_path / "f.jsonl")

    @pytest.mark.slow
    def test_a_simulated_user_sees_itself_as_the_speaker(self) -> None:
        with chat_server(lambda request, _: f"reply {len(request['messages'])}") as server:
            user = SimulatedUser(settings(server.base_url).endpoint, first_delay_s=0.01)
            (said,) = user.next_turns([[("hello", "go away")]])
        asked = server.requests[0]["messages"]
        assert said.text == "reply 4"
        assert [m["role"] for m in asked] == ["system", "user", "assistant", "user"]
        assert asked[2]["content"] == "hello"
        assert asked[3]["content"] == "go away"

    def test_an_empty_answer_is_no_turn(self) -> None:
        with chat_server(" ") as server:
            user = SimulatedUser(settings(server.base_url).endpoint, first_delay_s=0.01)
            with pytest.raises(EvaluationError, match="gave no next turn"):
                user.next_turns([[("hello", "go away")]])


class TestConfigurations:
    def test_the_operating_point_is_among_its_coefficients(self, study: Study) -> None:
        config = SuiteConfig(methods=("sttp",), alphas=(0.0, 12.0))
        chosen = Configurations(study.run, config, with_grid=False)
        assert [(c.layer, c.alpha) for c in chosen.steered("malicious")] == [
            (1, 0.0),
            (1, 6.0),
            (1, 12.0),
        ]
        assert [chosen.is_point(c) for c in chosen.steered("neutral")] == [False, True, False]

    def test_guards_stand_beside_the_neutral_prompt(self, study: Study) -> None:
        chosen = Configurations(study.run, SuiteConfig(methods=("swfc",)), with_grid=False)
        unsteered, steered = chosen.cells("neutral")
        assert unsteered == NEUTRAL
        assert (steered.side, steered.threat, steered.is_guard) == ("neutral", "none", True)

    def test_no_operating_point_is_refused_with_what_to_do(self, study: Study) -> None:
        with pytest.raises(RunError, match=r"no operating point of swfc in scope response.*select"):
            Configurations(study.run, SuiteConfig(scope="response"), with_grid=False).cells(
                "malicious"
            )

    def test_baselines_come_first(self, study: Study) -> None:
        chosen = Configurations(study.run, SuiteConfig(), with_grid=False)
        names = [c.method for c in in_order(reversed(chosen.cells("malicious")))]
        assert names == ["none", "none", "swfc", "sttp", "stmp"]

    @pytest.mark.parametrize(
        ("suite", "config", "said"),
        [
            ("choice", {"turns": 3}, "--turns belongs to the suites multi-turn, got it for choice"),
            ("cost", {"limit": 0}, "--limit must be at least 1, got 0"),
            ("cost", {"methods": ()}, "--methods needs at least one"),
        ],
    )
    def test_options_that_would_change_nothing(self, suite, config, said: str) -> None:
        with pytest.raises(EvaluationError, match=said):
            check_options(suite, SuiteConfig(**config))


class _Keeper:
    """Keeps what the hooks saw, in their order."""

    def __init__(self) -> None:
        self.seen: list[HookRecord] = []

    def record(self, record: HookRecord) -> None:
        self.seen.append(record)


class TestTwoGuards:
    """Two specs a row: the second reads what the first left, at one layer and across layers."""

    @staticmethod
    def both(lm: HookedLM, layers: tuple[int, int]) -> tuple[list, ProbeSet, ProbeSet]:
        sets = [make_probes(seed, layers=(0, 1, 2), d_model=lm.d_model) for seed in (1, 2)]
        specs = [
            SteeringSpec(method="sttp", layer=layers[0], alpha=3.0),
            SteeringSpec(method="swfc", layer=layers[1], alpha=2.0),
        ]
        return specs, *sets

    def run(self, lm: HookedLM, guards: list[Guard]) -> list[HookRecord]:
        keeper = _Keeper()
        with guarded(lm, guards, recorder=keeper):
            lm.forward([lm.tokenize(Prompt.chat("what is a lion", "you are a liar"))])
        return keeper.seen

    def test_at_one_layer_the_laws_follow_one_another(self, tiny_lm: HookedLM) -> None:
        specs, first, second = self.both(tiny_lm, (1, 1))
        guards = [Guard(specs=(s,), probes=p) for s, p in zip(specs, (first, second), strict=True)]
        one, two = self.run(tiny_lm, guards)
        probe = first.probe(1)
        resolved = resolve(specs[0], probe)
        v, u = probe.v_hat.float(), second.probe(1).v_hat.float()
        rho = project(one.resid_before, v)
        shift = torch.where(rho < resolved.threshold, resolved.target - rho, 0.0)
        between = edit(one.resid_before, v, shift)
        torch.testing.assert_close(two.resid_before, between)
        expected = between + 2.0 * second.probe(1).delta_mu * u
        torch.testing.assert_close(two.resid_after, expected)
        # The control: alone, the second guard reads another projection.
        (alone,) = self.run(tiny_lm, guards[1:])
        assert not torch.allclose(alone.projection_before, two.projection_before)

    def test_across_layers_the_later_reads_the_changed_stream(self, tiny_lm: HookedLM) -> None:
        specs, first, second = self.both(tiny_lm, (0, 2))
        guards = [Guard(specs=(s,), probes=p) for s, p in zip(specs, (first, second), strict=True)]
        early, late = self.run(tiny_lm, guards)
        (alone,), (late_alone,) = self.run(tiny_lm, guards[:1]), self.run(tiny_lm, guards[1:])
        assert (early.steering.layer, late.steering.layer) == (0, 2)
        torch.testing.assert_close(early.resid_after, alone.resid_after)
        assert not torch.allclose(late.resid_before, late_alone.resid_before)
        shift = 2.0 * second.probe(2).delta_mu
        expected = late.resid_before + shift * second.probe(2).v_hat.float()
        torch.testing.assert_close(late.resid_after, expected)

    def test_rows_without_a_guard_stay_as_they_are(self, tiny_lm: HookedLM) -> None:
        specs, first, _ = self.both(tiny_lm, (1, 1))
        prompt = tiny_lm.tokenize(Prompt.chat("what is a lion"))
        with guarded(tiny_lm, [Guard(specs=(None, specs[0]), probes=first)]):
            both = tiny_lm.forward([prompt, prompt])
        plain = tiny_lm.forward([prompt, prompt])
        assert both is not None and plain is not None
        torch.testing.assert_close(both[0], plain[0])
        assert not torch.allclose(both[1], plain[1])


class _Failing(WordJudge):
    """Fails in its second batch, as a judge whose server dies."""

    def __init__(self) -> None:
        self.calls = 0

    def score(self, answer: Answer) -> JudgeScore:
        self.calls += 1
        if self.calls > 12:
            raise RuntimeError("the server died")
        return super().score(answer)


OPTIONS = {"turns": 3, "limit": 3, "methods": ("sttp",), "batch_size": 4}


@pytest.fixture(scope="module")
def rows(study: Study) -> list[dict]:
    """Rows of a suite that failed in its second batch and was run again."""
    config = SuiteConfig(**OPTIONS)
    with pytest.raises(RuntimeError, match="the server died"):
        run_multi_turn(Subject.of("multi-turn", study, config, judge=_Failing()))
    kept = Evaluation(study.run, "multi-turn", schema=SCHEMA, key=("scenario", *CELL_COLUMNS))
    before = kept.rows().to_pylist()
    assert len(before) == 4 * 3  # the batch that was whole
    evaluation, summary = run_multi_turn(subject("multi-turn", study, **OPTIONS))
    after = evaluation.rows().to_pylist()
    assert after[: len(before)] == before
    assert "sentence reuse is missing" in summary.notes[0]
    return after


@pytest.mark.slow
class TestMultiTurn:
    def test_no_row_is_lost_or_there_twice(self, rows: list[dict]) -> None:
        keys = Counter(tuple(row[name] for name in KEY) for row in rows)
        assert set(keys.values()) == {1}
        assert len(keys) == 3 * 3 * 3  # scenarios, turns, configurations

    def test_every_turn_is_read_after_all_before_it(self, rows: list[dict]) -> None:
        lengths: dict[tuple, list[int]] = {}
        for row in sorted(rows, key=lambda row: row["turn"]):
            key = tuple(row[name] for name in KEY[:-1])
            lengths.setdefault(key, []).append(row["n_prompt_tokens"])
        for first, *later in lengths.values():
            assert first < later[0] < later[1]

    def test_the_first_turn_is_the_sweeps_row(self, study: Study, rows: list[dict]) -> None:
        config = SuiteConfig(methods=("sttp",))
        point = Configurations(study.run, config, with_grid=False).point("sttp")
        assert point is not None
        swept = {"layers": (1,), "methods": ("sttp",), "sttp_alphas": (6.0,)}
        sweep(study, replace(SWEEP, **swept, scopes=("all",), control_draws=0), judge=WordJudge())
        expected = {
            (row["scenario"], Cell.from_row(row)): row["response"]
            for row in read_rows(study.run).to_pylist()
        }
        found = [row for row in rows if row["turn"] == 1]
        same = [
            expected[row["scenario"], Cell.from_row(row)] == row["response"]
            for row in found
            if (row["scenario"], Cell.from_row(row)) in expected
        ]
        assert len(same) >= 8
        assert all(same)
        # The control: steering does change texts here.
        texts = {(r["scenario"], r["method"], r["side"]): r["response"] for r in found}
        ids = {row["scenario"] for row in found}
        assert any(texts[i, "sttp", "malicious"] != texts[i, "none", "malicious"] for i in ids)

    @pytest.mark.usefixtures("rows")
    def test_other_turns_are_refused_by_name(self, study: Study) -> None:
        with pytest.raises(RunError, match=r"turns is 3 in the run, got 2.*move the folder away"):
            run_multi_turn(subject("multi-turn", study, **{**OPTIONS, "turns": 2}))

    @pytest.mark.usefixtures("rows")
    def test_one_conversation_is_traced_turn_by_turn(self, study: Study) -> None:
        table = read_traces(study.run.path / "evaluations" / "multi-turn" / "trace.parquet")
        assert sorted(set(table["turn"].to_pylist())) == [1, 2, 3]
        assert set(table["method"].to_pylist()) == {"sttp"}
        assert "assistant" in set(table["segment"].to_pylist())  # earlier answers are steered too

    def test_a_full_context_ends_a_conversation(self, study: Study, tmp_path: Path) -> None:
        wordy = tmp_path / "f.json"
        wordy.write_text('["is the lion red is the lion red is the lion red is the lion red"]')
        options = {**OPTIONS, "turns": 6, "follow_ups": wordy, "limit": 2}
        other = pointed_study(tmp_path, study.lm, Path(study.run.manifest["sources"]["model"]))
        evaluation, summary = run_multi_turn(subject("multi-turn", other, **options))
        rows = evaluation.rows().to_pylist()
        full = [row for row in rows if row["stop_reason"] == NO_ROOM]
        assert full and all(row["trait"] is None and row["n_tokens"] == 0 for row in full)
        assert any("filled the context" in note for note in summary.notes)


@pytest.mark.slow
def test_a_killed_suite_ends_with_every_turn_once(tmp_path: Path, tiny_dir: Path) -> None:
    run, story = killed("suite", tmp_path, tiny_dir, seed=3)
    assert story["kills"] >= 3, "the test must kill something"
    assert story["after_each"] == sorted(story["after_each"]), "rows were lost"
    folder = run.path / "evaluations" / "multi-turn"
    made = Run(folder).read_shards("")
    assert made is not None
    keys = Counter(tuple(row[name] for name in KEY) for row in made.to_pylist())
    assert set(keys.values()) == {1}
    assert len(keys) == 6 * 4 * 2  # scenarios, configurations, turns
    assert [p.name for p in folder.iterdir() if p.name.endswith(".tmp")] == []


class TestEvaluation:
    def test_batches_halve_where_memory_runs_out(self, study: Study) -> None:
        class One:
            def __init__(self, name: str) -> None:
                self.key, self.cell = (name, *ALIGNED.as_row().values()), ALIGNED

        schema = pa.schema([pa.field("name", pa.string()), *CELL_FIELDS])
        evaluation = Evaluation(study.run, "memory", schema=schema, key=("name", *CELL_COLUMNS))
        sizes: list[int] = []

        def make(units: Sequence[One]) -> pa.Table:
            sizes.append(len(units))
            if len(units) > 2:
                raise MemoryError("no room")
            rows = [{"name": one.key[0], **one.cell.as_row()} for one in units]
            return pa.Table.from_pylist(rows, schema=schema)

        made = evaluation.complete([One(str(i)) for i in range(5)], make, batch_size=4)
        assert (made, sizes) == (5, [4, 2, 2, 1])
        assert evaluation.rows()["name"].to_pylist() == list("01234")
        assert evaluation.complete([One("3")], make, batch_size=4) == 0


def test_a_command_without_what_its_suite_needs_is_refused(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(study.run.path), "--suite", "cross-trait"]) == 1
    assert "needs --other" in capsys.readouterr().err
