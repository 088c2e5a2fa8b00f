"""A task over a run's own test scenarios, its scorer, and a solver that steers.

    inspect eval interp_steer/scenarios -T run=RUN --model interp-steer/RUN -M method=sttp
    inspect eval TASK --model interp-steer/RUN --solver interp_steer/steered -S method=sttp

The task's model may be any that Inspect has; its judge is the run's. Loading this module needs the
extra `inspect`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio.to_thread
from inspect_ai import Task, task  # pyright: ignore[reportMissingImports]
from inspect_ai.dataset import (  # pyright: ignore[reportMissingImports]
    MemoryDataset,
    Sample,
)
from inspect_ai.model import (  # pyright: ignore[reportMissingImports]
    ChatMessageSystem,
    ChatMessageUser,
    get_model,
)
from inspect_ai.scorer import (  # pyright: ignore[reportMissingImports]
    Score,
    mean,
    scorer,
    stderr,
)
from inspect_ai.solver import generate as plain  # pyright: ignore[reportMissingImports]
from inspect_ai.solver import solver  # pyright: ignore[reportMissingImports]

from interp_steer.inspecting.steering_choice import SteeringChoice
from interp_steer.judges import Answer, Judge, score_answers
from interp_steer.runs import Run
from interp_steer.scenarios import Scenario, Side
from interp_steer.splits import balanced_order
from interp_steer.study import run_scenarios
from interp_steer.suites.settings import EvaluationError, SuiteConfig
from interp_steer.suites.subject import clusters_of, run_judge


@task
def scenarios(
    run: str,
    side: Side = "malicious",
    judge: str | None = None,
    judge_config: str | None = None,
    trait_description: str | None = None,
) -> Any:
    """The test scenarios of a run, balanced by category, scored by its judge.

    Args:
        run: the run directory.
        side: whose system prompt: malicious, aligned, defended or neutral (none).
        judge: exact or llm; that of the run's sweep by default.
        judge_config: llm: its file; that of the sweep by default.
        trait_description: llm: what the trait is.
    """
    opened = Run.open(Path(run).resolve())
    test = [s for s in run_scenarios(opened) if s.split == "test"]
    seed = opened.manifest["pins"]["generation"]["seed"]
    options = {
        "judge": judge,
        "judge_config": judge_config,
        "trait_description": trait_description,
    }
    return Task(
        dataset=MemoryDataset(
            samples(balanced_order(test, seed=seed), side), name=f"{opened.path.name}-{side}"
        ),
        solver=plain(),
        scorer=trait_judge(run=str(opened.path), **options),
    )


def samples(items: Sequence[Scenario], side: Side) -> list[Any]:
    """Scenarios as samples; id and epoch give the random numbers that a sweep's row has."""
    cluster = clusters_of(items)
    return [
        Sample(
            id=scenario.id,
            input=_input(scenario, side),
            target=scenario.reference or "",
            metadata={
                "scenario": asdict(scenario),
                "category": scenario.category,
                "cluster": cluster[scenario.id],
            },
        )
        for scenario in items
    ]


def _input(scenario: Scenario, side: Side) -> str | list[Any]:
    prompt = scenario.prompt(side)
    if prompt.text is not None:
        return prompt.text
    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser}
    return [kinds[message.role](content=message.content) for message in prompt.messages]


@scorer(
    metrics={
        "trait": [mean(), stderr(cluster="cluster")],
        "coherence": [mean(), stderr(cluster="cluster")],
    }
)
def trait_judge(
    run: str,
    judge: str | None = None,
    judge_config: str | None = None,
    trait_description: str | None = None,
) -> Any:
    """Trait and coherence, 0 to 100, by the run's judge or another one.

    A score that the judge does not give is NaN, which Inspect counts as unscored.

    Args:
        run: the run directory.
        judge: exact or llm; that of the run's sweep by default.
        judge_config: llm: its file; that of the sweep by default.
        trait_description: llm: what the trait is.
    """
    path = Path(run).resolve()
    config = SuiteConfig(
        judge=judge,  # pyright: ignore[reportArgumentType]
        judge_config=None if judge_config is None else Path(judge_config),
        trait_description=trait_description,
    )
    opened = Run.open(path)
    trait = run_scenarios(opened)[0].trait
    found: Judge = run_judge(opened, trait, config)

    async def score(state: Any, target: Any) -> Any:
        del target
        answer = Answer(
            scenario=_scenario(state),
            text=state.output.completion,
            stopped=state.output.stop_reason == "stop",
        )
        (given,) = await anyio.to_thread.run_sync(score_answers, found, [answer])
        values = {"trait": given.trait, "coherence": given.coherence}
        return Score(
            value={name: math.nan if value is None else value for name, value in values.items()},
            answer=answer.text,
            metadata={"judge": found.name},
        )

    return score


def _scenario(state: Any) -> Scenario:
    record = state.metadata.get("scenario")
    if record is None:
        raise EvaluationError(
            f"sample {state.sample_id} carries no scenario; trait_judge scores the task "
            "interp_steer/scenarios"
        )
    return Scenario(**{**record, "user": tuple(record["user"])})


@solver
def steered(
    method: str = "sttp",
    layer: int | None = None,
    alpha: float | None = None,
    scope: str = "all",
    direction: str = "aligned",
    control: str = "none",
) -> Any:
    """Generate under a configuration of this request alone, whatever the model's own is.

    Args:
        method: see `SteeringChoice`.
        layer: see `SteeringChoice`.
        alpha: see `SteeringChoice`.
        scope: see `SteeringChoice`.
        direction: see `SteeringChoice`.
        control: see `SteeringChoice`.
    """
    choice = SteeringChoice(
        method=method, layer=layer, alpha=alpha, scope=scope, direction=direction, control=control
    )

    async def solve(state: Any, generate: Any) -> Any:
        from interp_steer.inspecting.provider import OPTION, SteeredRunAPI

        model = get_model()
        if not isinstance(model.api, SteeredRunAPI):
            raise EvaluationError(
                f"the solver interp_steer/steered needs a model interp-steer/RUN, got {model}"
            )
        return await generate(state, extra_body={OPTION: {"method": method, **choice.options()}})

    return solve
