"""Judges by name, as the command line and a run's manifest spell them."""

from dataclasses import replace
from typing import cast, get_args

from interp_steer.config import JUDGE_NAMES, SweepConfig
from interp_steer.errors import JudgeError
from interp_steer.judge_settings import JudgeSettings, read_judge_settings
from interp_steer.judges import Judge
from interp_steer.llm_judge import LlmJudge
from interp_steer.organism import ExactJudge, Trait
from interp_steer.pairs import PairJudge, ScoredPairs

__all__ = ["JUDGE_NAMES", "judge_of", "load_judge", "pair_judge", "spent"]


def load_judge(name: str, trait: str, *, settings: JudgeSettings | None = None) -> Judge:
    """The judge of that name for a trait.

    Args:
        name: one of `JUDGE_NAMES`.
        trait: the trait of the scenarios.
        settings: of the judge llm; those of the paper by default.

    Raises:
        JudgeError: no judge has that name, or it does not know the trait.
        EndpointError: the judge llm without the `openai` package.
    """
    if name not in JUDGE_NAMES:
        raise JudgeError(f"there is no judge {name!r}; available: {', '.join(JUDGE_NAMES)}")
    if name == "llm":
        return LlmJudge(trait, settings or JudgeSettings())
    if settings is not None:
        raise JudgeError(
            "--judge-config and --trait-description belong to --judge llm, which was not chosen; "
            "add it"
        )
    if trait not in get_args(Trait):
        raise JudgeError(
            f"the exact judge knows the bundled model's traits ({', '.join(get_args(Trait))}), got "
            f"{trait!r}; take a language model: --judge llm (docs/judges.md)"
        )
    return cast(Judge, ExactJudge())


def judge_of(config: SweepConfig, trait: str) -> Judge:
    """The judge that a sweep's options ask for.

    Raises:
        JudgeError: the settings cannot be read, or the judge does not know the trait.
        EndpointError: its endpoint cannot be, or the `openai` package is not installed.
    """
    given = config.judge_config is not None or config.trait_description is not None
    if not given:
        return load_judge(config.judge, trait)
    settings = JudgeSettings()
    if config.judge_config is not None:
        settings = read_judge_settings(config.judge_config)
    if config.trait_description is not None:
        settings = replace(settings, trait_description=config.trait_description)
    return load_judge(config.judge, trait, settings=settings)


def pair_judge(judge: Judge) -> PairJudge:
    """The judge as one of pairs: by itself where it compares, else by its scores."""
    return judge if isinstance(judge, PairJudge) else ScoredPairs(judge)


def spent(judge: Judge | PairJudge) -> str:
    """A last paragraph about the calls, tokens and cost of a judge that has any; else nothing."""
    if not isinstance(judge, LlmJudge) or not judge.tally.n_questions:
        return ""
    return f"\n\njudge: {judge.tally.text(judge.settings)}"
