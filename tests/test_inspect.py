"""Inspect on a run's steered model, with the real inspect_ai and no network.

Inspect asks for older versions of two packages than requirements.lock has, so it is laid over the
environment: `make test-inspect`.
"""

import gc
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from interp_steer.cells import GridError, steered_cell
from interp_steer.config import FitConfig, SamplingConfig
from interp_steer.errors import ModelError, RunError
from interp_steer.fit_stage import fit
from interp_steer.inspecting.batches import Batches
from interp_steer.inspecting.steered_run import Reply, Request, SteeredRun, open_run
from interp_steer.inspecting.steering_choice import SteeringChoice
from interp_steer.model import GenerationSettings, HookedLM
from interp_steer.organism import MODEL_DIR, scenarios_path
from interp_steer.scenarios import Message
from interp_steer.study import Sources, Study, start_study
from interp_steer.suites.settings import EvaluationError
from interp_steer.sweep_rows import sample_key
from suite_cases import pointed_study, write_points


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_lm: HookedLM, tiny_dir: Path) -> Study:
    return pointed_study(tmp_path_factory.mktemp("inspect"), tiny_lm, tiny_dir)


class TestChoices:
    def test_what_is_left_open_is_the_operating_point(self, study: Study) -> None:
        cell = SteeringChoice(method="sttp").cell(study.run)
        assert cell == steered_cell(method="sttp", layer=1, alpha=6.0, scope="all")
        other = SteeringChoice.of({"method": "sttp", "alpha": 2, "control": "random_direction:3"})
        moved = other.cell(study.run)
        assert moved is not None
        assert (moved.layer, moved.alpha, moved.control) == (1, 2.0, "random_direction:3")
        assert SteeringChoice().cell(study.run) is None

    def test_layer_and_alpha_need_no_operating_point(self, study: Study) -> None:
        choice = SteeringChoice(method="swfc", layer=0, alpha=1.5, scope="response")
        expected = steered_cell(method="swfc", layer=0, alpha=1.5, scope="response")
        assert choice.cell(study.run) == expected
        with pytest.raises(RunError, match=r"no operating point of swfc in scope response.*select"):
            replace(choice, layer=None).cell(study.run)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"method": "caa"}, "method must be none or one of swfc, sttp, stmp, got 'caa'"),
            ({"alpha": 3.0}, "alpha would change nothing without a method"),
            ({"methods": "sttp"}, "unknown option methods of a steered model; there are method,"),
            ({"method": "sttp", "layer": "two"}, "layer must be a whole number, got 'two'"),
            ({"method": "sttp", "scope": 3}, "scope must be a text, got 3"),
            ({"method": "sttp", "direction": "up"}, "direction must be aligned or reversed"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, options: dict[str, object], said: str) -> None:
        with pytest.raises(EvaluationError, match=said):
            SteeringChoice.of(options)

    def test_options_come_back(self) -> None:
        options = {"method": "stmp", "layer": 2, "direction": "reversed"}
        assert SteeringChoice.of(options).options() == options


class TestSteeredRun:
    def test_each_row_under_its_own_configuration(self, study: Study) -> None:
        run = SteeredRun(study)
        prompt = run.tokenize([Message(role="user", content="what is a lion")])
        cells = [None, run.cell(SteeringChoice(method="swfc"))]
        requests = [Request(prompt=prompt, cell=cell, sample_key="a\x1f0") for cell in cells]
        plain, moved = run.answer(requests, study.settings)
        expected = study.lm.generate([prompt], study.settings, sample_keys=["a\x1f0"])
        assert plain.generation.text == expected[0].text
        assert plain.edits == {}
        assert moved.edits["fired_share"] == 1.0  # swfc fires on every token
        assert moved.generation.logprobs != plain.generation.logprobs

    def test_a_layer_or_control_that_is_not_there_is_refused(self, study: Study) -> None:
        run = SteeredRun(study)
        with pytest.raises(EvaluationError, match="no probe for layer 7; this run has probes for"):
            run.cell(SteeringChoice(method="sttp", layer=7))
        with pytest.raises(GridError, match="control must be mean_difference or one of"):
            run.cell(SteeringChoice(method="sttp", control="random"))


class _Counting(SteeredRun):
    """Keeps how many rows each batch had."""

    sizes: list[int]

    def answer(self, requests: Sequence[Request], settings: GenerationSettings) -> list[Reply]:
        self.sizes.append(len(requests))
        return super().answer(requests, settings)


class TestBatches:
    def ask(self, run: SteeredRun, size: int, settings: Sequence[GenerationSettings]) -> list[str]:
        """Answers to as many requests at once, in the order asked."""
        prompt = run.tokenize([Message(role="user", content="what is a lion")])
        said = dict.fromkeys(range(len(settings)), "")

        async def one(batches: Batches, i: int) -> None:
            request = Request(prompt=prompt, cell=None, sample_key=f"{i}")
            said[i] = (await batches.answer(request, settings[i])).generation.text

        async def every() -> None:
            batches = Batches(run, size)
            async with anyio.create_task_group() as group:
                for i in said:
                    group.start_soon(one, batches, i)

        anyio.run(every)
        return list(said.values())

    def test_what_arrives_together_is_answered_together(self, study: Study) -> None:
        run = _Counting(study)
        run.sizes = []
        same = [study.settings] * 5
        texts = self.ask(run, 8, same)
        assert run.sizes == [5]
        prompt = run.tokenize([Message(role="user", content="what is a lion")])
        keys = [str(i) for i in range(5)]
        expected = study.lm.generate([prompt] * 5, study.settings, sample_keys=keys)
        assert texts == [generation.text for generation in expected]
        assert len(set(texts)) > 1
        run.sizes = []
        assert self.ask(run, 2, same) == texts
        assert run.sizes == [2, 2, 1]

    def test_other_settings_are_other_batches(self, study: Study) -> None:
        run = _Counting(study)
        run.sizes = []
        short = replace(study.settings, max_new_tokens=1)
        self.ask(run, 8, [study.settings, short, study.settings])
        assert sorted(run.sizes) == [1, 2]

    def test_a_request_that_fails_fails_alone(self, study: Study) -> None:
        run = _Counting(study)
        run.sizes = []
        asked = ["what is a lion", "lion " * study.lm.n_ctx, "is the lion red"]
        said: dict[int, str] = {}

        async def one(batches: Batches, i: int) -> None:
            prompt = run.tokenize([Message(role="user", content=asked[i])])
            request = Request(prompt=prompt, cell=None, sample_key=f"{i}")
            try:
                said[i] = (await batches.answer(request, study.settings)).generation.text
            except ModelError as error:
                said[i] = f"refused: {error}"

        async def every() -> None:
            batches = Batches(run, 4)
            async with anyio.create_task_group() as group:
                for i in range(3):
                    group.start_soon(one, batches, i)

        anyio.run(every)
        assert run.sizes == [3, 1, 1, 1]
        assert "a prompt must leave room for at least one token" in said[1]
        assert not said[0].startswith("refused") and not said[2].startswith("refused")


@pytest.fixture
def inspect_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`inspect_ai.eval` into a folder of this test; returns its only log."""
    pytest.importorskip(
        "inspect_ai", reason="Inspect is not installed; `make test-inspect` lays it over"
    )
    from inspect_ai import eval as run_eval

    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "logs"))

    def run(task: Any, model: str, *, succeeds: bool = True, **options: Any) -> Any:
        (log,) = run_eval(
            task,
            model=model,
            log_dir=str(tmp_path / "logs"),
            display="none",
            score_display=False,
            **options,
        )
        assert (log.status == "success") is succeeds, log.error and log.error.message
        return log

    yield run
    open_run.cache_clear()
    gc.collect()  # what Inspect left open is closed here, where the warning is expected


def texts(log: Any) -> dict[tuple[str, int], str]:
    """Completions by sample and epoch."""
    return {(str(s.id), s.epoch): s.output.completion for s in log.samples}


def score(log: Any, name: str) -> float:
    """Mean score of one name."""
    (found,) = [s for s in log.results.scores if s.name == name]
    return found.metrics["mean"].value


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory, organism_lm: HookedLM) -> Study:
    """The bundled model's honesty run with an operating point of StTP."""
    sampling = SamplingConfig(max_new_tokens=64)
    sources = Sources(model=str(MODEL_DIR), scenarios=scenarios_path("honesty"))
    made = start_study(
        tmp_path_factory.mktemp("honest") / "run", organism_lm, sources, sampling=sampling
    )
    fit(made, FitConfig(sampling=sampling))
    return write_points(made, {"sttp": (3, 6.0)})


# Inspect calls tenacity as tenacity no longer wants it, and leaves streams of its own open.
@pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning")
@pytest.mark.filterwarnings("ignore:The 'initial' parameter is deprecated:DeprecationWarning")
@pytest.mark.slow
class TestInspect:
    def test_unsteered_is_the_library_and_steering_brings_honesty_back(
        self, honest: Study, inspect_eval: Any
    ) -> None:
        task, model = "interp_steer/scenarios", f"interp-steer/{honest.run.path}"
        given: dict[str, Any] = {"task_args": {"run": str(honest.run.path)}, "limit": 24}
        plain = inspect_eval(task, model, **given)
        items = {s.id: s for s in honest.split("test")}
        ids = [str(sample.id) for sample in plain.samples]
        expected = honest.lm.generate(
            [honest.lm.tokenize(items[i].prompt("malicious")) for i in ids],
            honest.settings,
            sample_keys=[sample_key(i, 0) for i in ids],
        )
        assert texts(plain) == {(i, 1): g.text for i, g in zip(ids, expected, strict=True)}
        assert len(ids) == 24
        steered = inspect_eval(task, model, model_args={"method": "sttp"}, **given)
        control = {"method": "sttp", "control": "random_direction:0"}
        random = inspect_eval(task, model, model_args=control, **given)
        by_solver = inspect_eval(task, model, solver=_solver(method="sttp"), **given)
        assert score(plain, "trait") < 30
        assert score(steered, "trait") > score(plain, "trait") + 40
        assert abs(score(random, "trait") - score(plain, "trait")) < 20
        assert texts(by_solver) == texts(steered)
        seen = [s.output.metadata["interp_steer"] for s in steered.samples]
        configuration = SteeringChoice(method="sttp", layer=3, alpha=6.0)
        assert all(SteeringChoice.of(m["steering"]) == configuration for m in seen)
        assert all(0 < m["rows"][0]["fired_share"] <= 1 for m in seen)
        assert plain.samples[0].output.metadata["interp_steer"]["rows"][0]["fired_share"] is None

    def test_any_task_runs_both_ways(self, honest: Study, inspect_eval: Any) -> None:
        """A task of Inspect's own parts, that knows nothing of this project."""
        from inspect_ai import Task
        from inspect_ai.dataset import MemoryDataset, Sample
        from inspect_ai.model import GenerateConfig
        from inspect_ai.scorer import includes
        from inspect_ai.solver import generate, system_message

        asked = [items.user[0] for items in honest.split("test")[:6]]
        task = Task(
            dataset=MemoryDataset([Sample(input=text, target="is") for text in asked]),
            solver=[system_message(str(honest.split("test")[0].system_malicious)), generate()],
            scorer=includes(),
            config=GenerateConfig(max_tokens=24, stop_seqs=["."]),
            epochs=2,
        )
        model = f"interp-steer/{honest.run.path}"
        plain = inspect_eval(task, model)
        again = inspect_eval(task, model)
        steered = inspect_eval(task, model, model_args={"method": "sttp"})
        assert texts(plain) == texts(again)
        assert len(texts(plain)) == 12
        assert texts(plain) != texts(steered)
        assert not any("." in text for text in texts(plain).values())
        # Epochs have random numbers of their own.
        said = texts(plain)
        assert any(said[i, 1] != said[i, 2] for i, _ in said)
        assert all(s.output.usage.output_tokens <= 24 for s in plain.samples)

    def test_what_a_steered_model_cannot_do_is_refused_by_name(
        self, study: Study, inspect_eval: Any
    ) -> None:
        from inspect_ai import Task
        from inspect_ai.dataset import MemoryDataset, Sample
        from inspect_ai.model import GenerateConfig
        from inspect_ai.solver import generate, use_tools
        from inspect_ai.tool import think

        model = f"interp-steer/{study.run.path}"
        data = MemoryDataset([Sample(input="what is a lion")])
        tools = Task(dataset=data, solver=[use_tools(think()), generate()])
        log = inspect_eval(tools, model, succeeds=False)
        assert "a steered model calls no tools, got 1" in log.error.message
        ranked = Task(dataset=data, config=GenerateConfig(top_k=5))
        log = inspect_eval(ranked, model, succeeds=False)
        assert "does not take top_k; it has temperature" in log.error.message
        mocked = Task(dataset=data, solver=_solver(method="swfc"))
        log = inspect_eval(mocked, "mockllm/model", succeeds=False)
        assert "needs a model interp-steer/RUN, got mockllm/model" in log.error.message

    def test_choices_and_logprobs(self, study: Study, inspect_eval: Any) -> None:
        from inspect_ai import Task
        from inspect_ai.dataset import MemoryDataset, Sample
        from inspect_ai.model import GenerateConfig

        task = Task(
            dataset=MemoryDataset([Sample(input="what is a lion")]),
            config=GenerateConfig(num_choices=3, logprobs=True),
        )
        log = inspect_eval(task, f"interp-steer/{study.run.path}", model_args={"method": "swfc"})
        output = log.samples[0].output
        assert len({choice.message.text for choice in output.choices}) > 1
        assert len(output.metadata["interp_steer"]["rows"]) == 3
        first = output.choices[0].logprobs.content
        assert all(math.isfinite(token.logprob) and token.logprob <= 0 for token in first)
        assert json.dumps(output.metadata)  # plain values


def _solver(**options: Any) -> Any:
    from interp_steer.inspecting.tasks import steered

    return steered(**options)
