"""What `interp-steer evaluate` can be told; imports nothing heavy, for `--help` is made from it.

An option belongs to some suites only. One that is given to a suite that would not read it is
refused, because it would change nothing and look as if it had.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from interp_steer.config import JudgeName, MethodName, ModelPlace
from interp_steer.errors import InterpSteerError

SuiteName = Literal[
    "multi-turn",
    "choice",
    "cross-trait",
    "transfer",
    "cost",
    "mmlu",
    "mt-bench",
    "alpaca-eval",
]


class EvaluationError(InterpSteerError):
    """A suite that cannot be run as asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteConfig(ModelPlace):
    """Which configurations of a run answer which items of a suite."""

    methods: tuple[MethodName, ...] = ("swfc", "sttp", "stmp")
    """Interventions, each at its operating point."""
    alphas: tuple[float, ...] | None = None
    """Coefficients beside the operating point's; by default those of the sweep's grid for suites of
    capabilities (choice, mmlu, mt-bench, alpaca-eval), none for the others."""
    layer: int | None = None
    """Steered layer of every method; that of the operating point by default."""
    scope: str = "all"
    """Which tokens: all, response, prompt, first:K. The operating points of this scope are used."""
    limit: int | None = None
    """At most so many scenarios (balanced by category) or questions; all by default."""
    batch_size: int = 64
    """Rows generated together; halved by itself where memory does not suffice."""
    max_new_tokens: int | None = None
    """Limit on a response; by default the run's own, 2048 for cost, 1024 for mt-bench and
    alpaca-eval, as far as the context goes."""
    judge: JudgeName | None = None
    """Who scores: exact, llm; that of the run's sweep by default."""
    judge_config: Path | None = None
    """llm: TOML or JSON file of the judge, see docs/judges.md; that of the sweep by default."""
    trait_description: str | None = None
    """llm: what the trait is, in a sentence or two."""
    embedder: Path | None = None
    """multi-turn: local sentence-transformers directory, for sentence reuse; missing without."""
    turns: int = 10
    """multi-turn: user turns of a conversation."""
    follow_ups: Path | None = None
    """multi-turn: JSON list, or JSONL, of what the user says after the first turn."""
    simulator: Path | None = None
    """multi-turn: TOML or JSON file of a chat endpoint that plays the user."""
    other: Path | None = None
    """cross-trait: the run of the same model with the other trait."""
    control_draws: int = 2
    """cross-trait: draws of each kind of control of the other guard; 0 leaves controls out."""
    scenarios: Path | None = None
    """transfer: scenario file, or the published file of a known benchmark, see --source."""
    source: str = "scenarios"
    """transfer: what the file is: scenarios, or the name of an adapter (docs/evaluate.md)."""
    questions: Path | None = None
    """mt-bench, alpaca-eval, cost: file of questions, formats in docs/evaluate.md."""
    tasks: tuple[str, ...] = ("mmlu",)
    """mmlu: tasks of lm-evaluation-harness."""
    task_folder: Path | None = None
    """mmlu: folder of task files (YAML) that name local data, for work without a network; the
    harness's own tasks are then left out."""
    few_shot: int | None = None
    """mmlu: examples before each question; the task's own number by default."""


OPTIONS: dict[SuiteName, frozenset[str]] = {
    "multi-turn": frozenset(
        "judge judge_config trait_description embedder turns follow_ups simulator".split()
    ),
    "choice": frozenset(),
    "cross-trait": frozenset("judge judge_config trait_description other control_draws".split()),
    "transfer": frozenset(
        ["judge", "judge_config", "trait_description", "scenarios", "source", "embedder"]
    ),
    "cost": frozenset(["questions"]),
    "mmlu": frozenset(["tasks", "task_folder", "few_shot"]),
    "mt-bench": frozenset(["judge_config", "questions"]),
    "alpaca-eval": frozenset(["judge_config", "questions"]),
}
"""Options of each suite beside those that all have."""

CAPABILITIES: tuple[SuiteName, ...] = ("choice", "mmlu", "mt-bench", "alpaca-eval")
"""Suites that show a score by coefficient."""


def check_options(suite: SuiteName, config: SuiteConfig) -> None:
    """Refuse what the suite does not read, and numbers that make no sense.

    Raises:
        EvaluationError: by the name of the option.
    """
    defaults = SuiteConfig()
    owned = frozenset.union(*OPTIONS.values())
    for field in fields(SuiteConfig):
        is_given = getattr(config, field.name) != getattr(defaults, field.name)
        if is_given and field.name in owned - OPTIONS[suite]:
            readers = [name for name, own in OPTIONS.items() if field.name in own]
            raise EvaluationError(
                f"--{field.name.replace('_', '-')} belongs to the suites {', '.join(readers)}, got "
                f"it for {suite}; leave it out"
            )
    if not config.methods:
        raise EvaluationError("--methods needs at least one of swfc, sttp, stmp, got none")
    for name in ("limit", "batch_size", "max_new_tokens", "turns"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise EvaluationError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if config.control_draws < 0:
        raise EvaluationError(f"--control-draws must be at least 0, got {config.control_draws}")


def required(value: Path | None, *, option: str, suite: SuiteName, what: str) -> Path:
    """The value of an option that a suite cannot do without.

    Raises:
        EvaluationError: it was not given.
    """
    if value is None:
        raise EvaluationError(f"the suite {suite} needs --{option}: {what}")
    return value
