"""Judging in pairs: which of two responses to one scenario shows more of the trait.

A comparison needs no scale, which a language model does not have; but it depends on the order in
which the two are shown, so that orders are drawn at random and their effect is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from interp_steer.errors import JudgeError
from interp_steer.judges import Answer, Judge, score_answers


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPair:
    """Two responses to one scenario, in the order in which they are shown."""

    first: Answer
    """Shown first."""
    second: Answer
    """Shown second."""

    def __post_init__(self) -> None:
        if self.first.scenario != self.second.scenario:
            raise JudgeError(
                f"a pair answers one scenario, got {self.first.scenario.id!r} and "
                f"{self.second.scenario.id!r}"
            )


@runtime_checkable
class PairJudge(Protocol):
    """Anything that compares responses."""

    @property
    def name(self) -> str:
        """Name that tables and manifests record."""
        ...

    def prefer_all(self, pairs: Sequence[AnswerPair]) -> Sequence[float | None]:
        """1 where the first shows more, 0 where the second does, 0.5 for a tie, None unknown."""
        ...


class ScoredPairs:
    """Any judge of single responses as a judge of pairs: the higher trait wins, equal ones tie."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    @property
    def name(self) -> str:
        """That of the judge."""
        return self._judge.name

    def prefer_all(self, pairs: Sequence[AnswerPair]) -> list[float | None]:
        """Compare the traits; None where one of them is missing.

        Raises:
            JudgeError: the judge failed.
        """
        both = [answer for pair in pairs for answer in (pair.first, pair.second)]
        traits = [score.trait for score in score_answers(self._judge, both)]
        return [_higher(*two) for two in zip(traits[::2], traits[1::2], strict=True)]


def _higher(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return None
    return 0.5 + 0.5 * ((first > second) - (first < second))
