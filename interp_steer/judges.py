"""What a judge is: two numbers for one response, or an explicit gap, and nothing else.

A judge reads a scenario and the text of a response; it never sees how the text was made, so it
cannot favour a steering method. A score is as good as its judge: an exact judge knows one grammar,
a language model as a judge has opinions. Neither establishes that a reader would agree.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Protocol, runtime_checkable

from interp_steer.errors import JudgeError
from interp_steer.scenarios import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeScore:
    """Trait and coherence of one response; None where the judge gave no usable number.

    A missing score is NaN in tables: counted, shown, left out of means, and never a zero.
    """

    trait: float | None
    """How much of the trait the response shows, 0 (its opposite) to 100."""
    coherence: float | None
    """Linguistic quality alone, whatever the trait, 0 to 100."""

    def __post_init__(self) -> None:
        for name, value in (("trait", self.trait), ("coherence", self.coherence)):
            if value is None:
                continue
            if not isinstance(value, Real) or not 0 <= value <= 100:
                raise JudgeError(
                    f"a judge's {name} must be a number from 0 to 100, got {value}; "
                    "map the judge's own scale to 0-100 before building a JudgeScore"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response as a judge gets it."""

    scenario: Scenario
    """What was asked."""
    text: str
    """The decoded response."""
    stopped: bool
    """Whether the model ended the response itself (false: cut off by the length)."""
    prefix: str = ""
    """Start of the response that was put into the model's mouth (threat prefill:K); `text` goes on
    from there, often in mid-sentence."""


@runtime_checkable
class Judge(Protocol):
    """Anything that scores a response to a scenario."""

    @property
    def name(self) -> str:
        """Name that tables and manifests record."""
        ...

    def score(self, answer: Answer) -> JudgeScore:
        """Score one response; what stands in `answer.prefix` is context, not to be scored."""
        ...


@runtime_checkable
class BatchJudge(Judge, Protocol):
    """A judge that is faster with many responses at a time, or slow enough to want it."""

    def score_all(self, answers: Sequence[Answer]) -> Sequence[JudgeScore]:
        """Score responses, in order; the same scores as one by one."""
        ...


@runtime_checkable
class IdentifiedJudge(Judge, Protocol):
    """A judge whose scores depend on more than its name."""

    def identity(self) -> Mapping[str, object]:
        """Everything that changes a score, as values of JSON."""
        ...


def judge_pin(judge: Judge, scenarios: Sequence[Scenario]) -> str | dict[str, object]:
    """What a run pins of its judge: the name, or the identity with what it reads beside responses.

    Notes of scenarios are no part of their hash, but a judge that has an identity may read them.
    """
    if not isinstance(judge, IdentifiedJudge):
        return judge.name
    notes = {scenario.id: scenario.notes for scenario in scenarios if scenario.notes}
    text = json.dumps(notes, sort_keys=True, ensure_ascii=True)
    return {**judge.identity(), "notes": hashlib.sha256(text.encode("ascii")).hexdigest()}


def score_answers(judge: Judge, answers: Sequence[Answer]) -> list[JudgeScore]:
    """Score `answers` in order, all at once where the judge can.

    Raises:
        JudgeError: the judge returned nothing, or something that is not a `JudgeScore`.
    """
    if isinstance(judge, BatchJudge):
        scores = list(judge.score_all(answers))
        if len(scores) != len(answers):
            raise JudgeError(
                f"judge {judge.name!r} returned {len(scores)} scores for {len(answers)} responses; "
                "score_all returns one for each, in order"
            )
    else:
        scores = [judge.score(answer) for answer in answers]
    return [_checked(judge, *pair) for pair in zip(answers, scores, strict=True)]


def _checked(judge: Judge, answer: Answer, score: object) -> JudgeScore:
    if not isinstance(score, JudgeScore):
        raise JudgeError(
            f"judge {judge.name!r} returned {score!r} for scenario {answer.scenario.id!r}; "
            "expected a JudgeScore with trait and coherence from 0 to 100"
        )
    return score
