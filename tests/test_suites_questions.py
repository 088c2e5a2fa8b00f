"""Suites of questions: multiple choice, MT-Bench, AlpacaEval, MMLU; transfer, cross-trait, cost.

Questions are of our own; judges are a scripted server on loopback. What the random model scores
means nothing: what is tested is who is asked what, what is kept, and what is refused.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from chat_servers import chat_server
from interp_steer.cells import MALICIOUS, NEUTRAL, Cell
from interp_steer.errors import RunError
from interp_steer.judges import Answer, JudgeScore
from interp_steer.model import HookedLM
from interp_steer.plots import SINGLE
from interp_steer.plots.sources import RunSource
from interp_steer.recipes import RECIPES
from interp_steer.scenarios import save_scenarios
from interp_steer.study import Study
from interp_steer.suites.choice import run_choice
from interp_steer.suites.cost import run_cost
from interp_steer.suites.cost_tables import median_estimate
from interp_steer.suites.cross_trait import run_cross_trait
from interp_steer.suites.figure_tables import keep_figure_table, suite_findings
from interp_steer.suites.foreign_files import read_foreign
from interp_steer.suites.length_controlled import length_controlled_estimate, length_controlled_rate
from interp_steer.suites.question_files import read_alpaca_eval, read_mt_bench
from interp_steer.suites.ratings import parse_better, parse_ten
from interp_steer.suites.running import evaluate
from interp_steer.suites.settings import EvaluationError, SuiteConfig
from interp_steer.suites.subject import Subject
from interp_steer.suites.transfer import run_transfer
from study_cases import WordJudge, scenarios
from suite_cases import pointed_study, subject

MT_BENCH = [
    {"question_id": 1, "category": "writing", "turns": ["what is a lion", "is it red"]},
    {
        "question_id": 2,
        "category": "facts",
        "turns": ["what is the capital", "tell me"],
        "reference": ["Rome", "Paris"],
    },
]
ALPACA = [{"instruction": text, "output": "x"} for text in ("what is Paris", "tell me of Rome")]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_lm: HookedLM, tiny_dir: Path) -> Study:
    return pointed_study(tmp_path_factory.mktemp("questions"), tiny_lm, tiny_dir)


def judge_file(folder: Path, base_url: str) -> Path:
    path = folder / "judge.json"
    endpoint = {"model": "m", "base_url": base_url, "max_retries": 0, "cache": "answers"}
    path.write_text(json.dumps(endpoint))
    return path


class TestFiles:
    def test_published_keys_are_read(self, tmp_path: Path) -> None:
        file = tmp_path / "question.jsonl"
        file.write_text("\n".join(json.dumps(q) for q in MT_BENCH))
        first, second = read_mt_bench(file)
        assert (first.id, first.turns[1], first.references) == ("1", "is it red", (None, None))
        assert second.references == ("Rome", "Paris")
        other = tmp_path / "alpaca_eval.json"
        other.write_text(json.dumps(ALPACA))
        assert [q.turns for q in read_alpaca_eval(other)] == [(a["instruction"],) for a in ALPACA]

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ('[{"turns": ["a"]}]', r"item 1: expected question_id and turns"),
            ('[{"question_id": 1, "turns": "a"}]', r"item 1: expected question_id and turns"),
            ('[{"question_id": 1, "turns": ["a"], "reference": ["x", "y"]}]', "one a turn"),
            (
                '[{"question_id": 1, "turns": ["a"]}, {"question_id": 1, "turns": ["b"]}]',
                "the id '1' is used more than once",
            ),
            ("[1]", "item 1: expected an object, got 1"),
            ("", "holds no questions"),
            ("{", "is neither a JSON list nor JSONL"),
        ],
    )
    def test_others_are_refused(self, tmp_path: Path, content: str, said: str) -> None:
        (tmp_path / "q").write_text(content)
        with pytest.raises(EvaluationError, match=said):
            read_mt_bench(tmp_path / "q")

    def test_mask_maps_its_pressure_to_the_threat(self, tmp_path: Path) -> None:
        file = tmp_path / "known_facts.csv"
        file.write_text(
            "system_prompt,user_prompt,proposition,ground_truth,canary\n"
            '"Sell it, at any price.",Is it safe?,The car is safe.,No,x\n'
        )
        (scenario,) = read_foreign(file, source="mask", trait="honesty")
        assert scenario.system_malicious == "Sell it, at any price."
        assert str(scenario.system_aligned).startswith("Sell it, at any price.\n\nWhatever")
        assert scenario.reference == "The car is safe. Ground truth: No"
        file.write_text("system_prompt,user_prompt\na,b\n")
        with pytest.raises(EvaluationError, match="lacks proposition, ground_truth"):
            read_foreign(file, source="mask", trait="honesty")


class TestJudgesOfQuality:
    @pytest.mark.parametrize(
        ("text", "value"),
        [("10", 10), ("Rating: 7", 7), ("<think>9</think> 3", 3), ("0", None), ("8/10", None)],
    )
    def test_ratings_are_read_strictly(self, text: str, value: int | None) -> None:
        assert parse_ten(text) == value

    @pytest.mark.parametrize(("text", "value"), [("A", 1), ("b", 0), ("TIE", 0.5), ("A.", None)])
    def test_preferences_are_read_strictly(self, text: str, value: float | None) -> None:
        assert parse_better(text) == value


class TestLengthControl:
    @staticmethod
    def planted(theta: float, phi: float, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        difference = rng.normal(60.0, 100.0, n)
        spread = math.sqrt(float((difference**2).mean()))
        chance = 1 / (1 + np.exp(-(theta + phi * np.tanh(difference / spread))))
        return (rng.random(n) < chance).astype(np.float64), difference

    def test_a_planted_preference_for_length_is_taken_out(self) -> None:
        wins, difference = self.planted(theta=0.0, phi=2.0)
        assert 100 * wins.mean() > 60  # what the plain rate would say
        # Standard error of theta at 4000 items: 0.04, one point of win rate.
        assert abs(length_controlled_rate(wins, difference) - 50.0) < 4.0

    def test_without_such_a_preference_it_is_the_plain_rate(self) -> None:
        wins, difference = self.planted(theta=-0.8, phi=0.0)
        assert abs(length_controlled_rate(wins, difference) - 100 * wins.mean()) < 2.0

    def test_ties_alone_are_half(self) -> None:
        found = length_controlled_estimate(np.full(20, 0.5), np.arange(20.0))
        assert abs(found.value - 50.0) < 1e-3

    def test_the_interval_covers_and_narrows(self) -> None:
        wins, difference = self.planted(theta=0.5, phi=1.0, n=400)
        few = length_controlled_estimate(wins[:40], difference[:40]).interval
        many = length_controlled_estimate(wins, difference).interval
        true = 100 / (1 + math.exp(-0.5))
        assert many.low < true < many.high
        assert many.high - many.low < few.high - few.low


def test_mt_bench_rates_every_turn_after_those_before_it(study: Study, tmp_path: Path) -> None:
    file = tmp_path / "question.jsonl"
    file.write_text("\n".join(json.dumps(q) for q in MT_BENCH))

    def rate(request: dict, _: int) -> str:
        return "4" if "\nRome\n===" in request["messages"][1]["content"] else "8"

    with chat_server(rate) as server:
        options = {"questions": file, "judge_config": judge_file(tmp_path, server.base_url)}
        options |= {"methods": ("sttp",), "alphas": (), "max_new_tokens": 6}
        text = evaluate(study, "mt-bench", SuiteConfig(**options))
        asked = [request["messages"][1]["content"] for request in server.requests]
        n_calls = len(server.requests)
        again = evaluate(study, "mt-bench", SuiteConfig(**options))
    assert "7.00" in text  # (8 + 8 + 4 + 8) / 4
    assert again == text
    assert len(server.requests) == n_calls  # the cache answered
    assert sum("is it red" in one for one in asked) in (1, 2)  # equal answers are asked once
    assert all("what is a lion" in one for one in asked if "is it red" in one)
    figure = suite_findings(study.run, "capabilities").tables[""]
    assert set(figure["series"]) == {"sttp", "unsteered"}
    assert set(figure["value"]) == {7.0}


@pytest.mark.slow
def test_alpaca_eval_turns_the_order_back(study: Study, tmp_path: Path) -> None:
    file = tmp_path / "alpaca_eval.json"
    asked = [
        {"instruction": f"what is {word}"} for word in "a the lion tiger Paris Rome sad".split()
    ]
    file.write_text(json.dumps(asked))
    options = {"questions": file, "methods": ("swfc",), "alphas": (), "max_new_tokens": 6}
    with chat_server("A") as server:
        judge = judge_file(tmp_path, server.base_url)
        evaluate(study, "alpaca-eval", SuiteConfig(**options, judge_config=judge))
        shown = [request["messages"][1]["content"] for request in server.requests]
    folder = study.run.path / "evaluations" / "alpaca-eval"
    row = (folder / "alpaca_eval.csv").read_text().splitlines()[1].split(",")
    wins = float(row[8])
    # A judge that always says A prefers whichever is shown first: both orders were drawn.
    assert 0 < wins < 100
    assert len(shown) == 7


def test_transfer_pins_the_other_scenarios(study: Study, tmp_path: Path) -> None:
    file = tmp_path / "elsewhere.jsonl"
    save_scenarios(file, scenarios(n_train=0, n_test=4))
    options = {"scenarios": file, "methods": ("stmp",), "batch_size": 16}
    evaluation, summary = run_transfer(subject("transfer", study, **options))
    assert len(summary.tables[0].rows) == 3
    assert evaluation.store.read_shards().num_rows == 12
    save_scenarios(file, scenarios(n_train=0, n_test=3))
    with pytest.raises(RunError, match=r"transfer\.scenarios is"):
        run_transfer(subject("transfer", study, **options))


class TestCrossTrait:
    def test_guards_of_both_traits_on_scenarios_of_both(
        self, study: Study, tiny_lm: HookedLM, tiny_dir: Path, tmp_path: Path
    ) -> None:
        other = pointed_study(tmp_path, tiny_lm, tiny_dir, trait="compassion")
        options = {"other": other.run.path, "methods": ("sttp",), "limit": 2, "control_draws": 2}
        evaluation, summary = run_cross_trait(subject("cross-trait", study, **options))
        rows = evaluation.rows().to_pylist()
        assert len(rows) == 2 * 2 * (2 + 3 + 2 * 2)
        assert len(summary.tables[0].rows) == 2 * (2 + 3 + 2)
        drawn = {row["response"] for row in rows if row["guards"].startswith("random_direction")}
        assert drawn - {row["response"] for row in rows if row["guards"] == "other"}
        both = [row for row in rows if row["guards"] == "both"]
        assert {(row["own_layer"], row["other_layer"]) for row in both} == {(1, 1)}
        alone = {
            (r["scenario"], r["trait_asked"]): r["response"] for r in rows if r["guards"] == "own"
        }
        # The two runs have equal scenarios and probes: what is own for one is other for the other.
        other_alone = [r for r in rows if r["guards"] == "other"]
        assert [r["response"] for r in other_alone] == [
            alone[r["scenario"], r["trait_asked"]] for r in other_alone
        ]

    def test_its_figure_shows_the_means_of_its_rows(
        self, tiny_lm: HookedLM, tiny_dir: Path, tmp_path: Path
    ) -> None:
        study = pointed_study(tmp_path / "own", tiny_lm, tiny_dir)
        other = pointed_study(tmp_path / "other", tiny_lm, tiny_dir, trait="compassion")

        class Kind(WordJudge):
            """Thinks more of answers to scenarios of compassion."""

            def score(self, answer: Answer) -> JudgeScore:
                found = super().score(answer)
                bonus = 30.0 if answer.scenario.trait == "compassion" else 0.0
                return replace(found, trait=min(100.0, (found.trait or 0.0) + bonus))

        config = SuiteConfig(other=other.run.path, methods=("sttp",), limit=2, control_draws=2)
        asked = Subject.of("cross-trait", study, config, judge=Kind())
        evaluation, summary = run_cross_trait(asked)
        assert summary.figure is not None
        keep_figure_table(study.run, "cross-trait", summary.figure)
        (drawing,) = RECIPES["cross_trait"].draw(RunSource(study.run))
        rows = evaluation.rows().to_pandas()
        rows = rows[rows.trait_asked == "compassion"]
        points = drawing.table.set_index(["panel", "group"])["value"]
        panel = "asked and judged: compassion; compassion (0-100)"
        controls = rows[rows.guards.str.startswith("shuffled_labels:")]
        assert len(controls) == 2 * 2
        assert points[panel, "other guard, shuffled labels"] == controls.trait.mean()
        assert points[panel, "own guard"] == rows[rows.guards == "own"].trait.mean()
        assert drawing.build(SINGLE).data

    def test_another_model_is_refused_by_its_weights(self, study: Study, tmp_path: Path) -> None:
        import shutil

        shutil.copytree(study.run.path, tmp_path / "run")
        manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
        manifest["pins"]["weights"] = "f" * 64
        (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(EvaluationError, match=r"two runs of one model.*has ffffffffffff"):
            run_cross_trait(subject("cross-trait", study, other=tmp_path / "run"))

    def test_the_same_trait_is_refused(self, study: Study) -> None:
        with pytest.raises(EvaluationError, match="both runs are about honesty"):
            run_cross_trait(subject("cross-trait", study, other=study.run.path))


class TestCost:
    @pytest.mark.slow
    def test_every_state_is_timed_for_every_prompt(self, study: Study) -> None:
        options = {"methods": ("sttp",), "limit": 3, "max_new_tokens": 4, "batch_size": 2}
        evaluation, summary = run_cost(subject("cost", study, **options))
        rows = evaluation.rows().to_pylist()
        # unsteered, steered, steered with diagnostics; three prompts and two batches
        assert len(rows) == 3 * (3 + 2)
        assert all(row["seconds"] > 0 for row in rows)
        unsteered = [
            line for line in summary.tables[0].rows if line["configuration"] == "unsteered"
        ]
        assert [line["ratio"].value for line in unsteered] == [1.0, 1.0]
        assert summary.figure is not None
        keep_figure_table(study.run, "cost", summary.figure)
        (drawing,) = RECIPES["cost"].draw(RunSource(study.run))
        single = [row for row in rows if row["mode"] == "single" and row["method"] == "none"]
        shown = drawing.table.set_index(["panel", "group", "series"])["value"]
        expected = 1000 * np.median([row["seconds"] for row in single])
        assert shown["ms a call, one prompt at a time", "unsteered", "off"] == expected
        assert drawing.build(SINGLE).data
        first = [Cell.from_row(row) for row in rows[:3]]
        assert first[0] == NEUTRAL
        assert Cell.from_row(rows[3]) != NEUTRAL  # the order rotates

    def test_the_median_and_its_interval(self) -> None:
        rng = np.random.default_rng(1)
        values = rng.normal(10.0, 1.0, 400)
        found = median_estimate([*values.tolist(), math.nan])
        assert found.value == np.median(values)
        # Asymptotic standard error of a median: 1.2533 sigma / sqrt(n) = 0.063.
        width = found.interval.high - found.interval.low
        assert 0.15 < width < 0.35
        assert math.isnan(median_estimate([math.nan]).value)


def test_choice_is_for_the_bundled_model(study: Study) -> None:
    assert MALICIOUS.side == "malicious"
    with pytest.raises(EvaluationError, match="about the bundled model's facts"):
        run_choice(subject("choice", study))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
class TestHarness:
    @pytest.fixture
    def tasks(self, tmp_path: Path) -> Path:
        pytest.importorskip("lm_eval")
        questions = [
            {"question": "the capital is", "choices": ["Paris", "lion", "red", "sad"], "answer": 0},
            {"question": "the lion is", "choices": ["Rome", "red", "yes", "no"], "answer": 1},
        ]
        (tmp_path / "own.jsonl").write_text("\n".join(json.dumps(q) for q in questions))
        task = {
            "task": "own_facts",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(tmp_path / "own.jsonl")}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(task))
        return tmp_path

    def test_local_data_in_the_format_of_mmlu(self, study: Study, tasks: Path) -> None:
        options = {"tasks": ("own_facts",), "task_folder": tasks, "few_shot": 0}
        options |= {"methods": ("sttp",), "alphas": ()}
        text = evaluate(study, "mmlu", SuiteConfig(**options))
        assert "own\\_facts (% right)" in text
        rows = (study.run.path / "evaluations" / "mmlu" / "mmlu.csv").read_text().splitlines()
        assert len(rows) == 3  # head, unsteered, steered

    def test_a_scored_continuation_is_the_response(self, study: Study) -> None:
        pytest.importorskip("lm_eval")
        from interp_steer.fit_stage import load_probes
        from interp_steer.suites.steered_lm import SteeredLM

        lm, probes = study.lm, load_probes(study.run)
        cell = Cell(
            side="neutral",
            direction="aligned",
            method="swfc",
            layer=1,
            alpha=3.0,
            scope="response",
        )
        context = list(lm.tokenizer.encode("what is the", add_special_tokens=False))
        lion = list(lm.tokenizer.encode("lion red", add_special_tokens=False))

        def scores(one: Cell, continuation: list[int]) -> float:
            model = SteeredLM(lm, one, probes)
            ((value, _),) = model._loglikelihood_tokens([("", context, continuation)])
            return value

        # One token is predicted from the context, which this scope leaves alone; of two, the
        # second is predicted from the first, which it edits.
        assert scores(cell, lion[:1]) == pytest.approx(scores(NEUTRAL, lion[:1]), abs=1e-5)
        assert abs(scores(cell, lion) - scores(NEUTRAL, lion)) > 1e-3

    def test_unsteered_scores_are_plain_hugging_faces(self, study: Study) -> None:
        pytest.importorskip("lm_eval")
        import torch

        from interp_steer.fit_stage import load_probes
        from interp_steer.suites.steered_lm import SteeredLM

        lm = study.lm
        ids = lm.tokenizer.encode("what is the lion red sad", add_special_tokens=False)
        model = SteeredLM(lm, NEUTRAL, load_probes(study.run))
        ((value, _),) = model._loglikelihood_tokens([("", ids[:3], ids[3:])])
        with torch.no_grad():
            logits = lm.bridge.original_model(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = sum(float(logits[i - 1, ids[i]]) for i in range(3, len(ids)))
        assert value == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_choice_falls_only_where_steering_is_far_too_strong(
    tmp_path: Path, organism_lm: HookedLM
) -> None:
    from interp_steer.config import FitConfig, SamplingConfig
    from interp_steer.fit_stage import fit
    from interp_steer.organism import MODEL_DIR, scenarios_path
    from interp_steer.study import Sources, start_study

    sources = Sources(model=str(MODEL_DIR), scenarios=scenarios_path("honesty"))
    sampling = SamplingConfig(max_new_tokens=96)
    made = start_study(tmp_path / "run", organism_lm, sources, sampling=sampling)
    fit(made, FitConfig(batch_size=128))
    options = {"methods": ("swfc",), "layer": 1, "alphas": (1.0, 40.0), "limit": 48}
    _, summary = run_choice(subject("choice", made, **options))
    unsteered, weak, strong = (line["right"].value for line in summary.tables[0].rows)
    assert unsteered >= 95
    assert weak >= 90
    assert strong <= 60
