"""What a judge is: two numbers for one response, and the refusal of anything else.

A judge reads a scenario and the text of a response; it never sees how the text was made, so it
cannot favour a steering method. A score is as good as its judge: an exact judge knows one grammar,
a language model as a judge has opinions. Neither establishes that a reader would agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Protocol, runtime_checkable

from interp_steer.errors import JudgeError
from interp_steer.scenarios import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeScore:
    """Trait and coherence of one response."""

    trait: float
    """How much of the trait the response shows, 0 (its opposite) to 100."""
    coherence: float
    """Linguistic quality alone, whatever the trait, 0 to 100."""

    def __post_init__(self) -> None:
        for name, value in (("trait", self.trait), ("coherence", self.coherence)):
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


def score_answers(judge: Judge, answers: Sequence[Answer]) -> list[JudgeScore]:
    """Score `answers` in order.

    Raises:
        JudgeError: the judge returned nothing, or something that is not a `JudgeScore`.
    """
    return [_score(judge, answer) for answer in answers]


def _score(judge: Judge, answer: Answer) -> JudgeScore:
    score = judge.score(answer)
    if not isinstance(score, JudgeScore):
        raise JudgeError(
            f"judge {judge.name!r} returned {score!r} for scenario {answer.scenario.id!r}; "
            "expected a JudgeScore with trait and coherence from 0 to 100"
        )
    return score
