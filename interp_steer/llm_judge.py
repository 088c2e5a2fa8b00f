"""A language model as a judge of trait and coherence, and of pairs.

What it says is an opinion, on a scale of 1 to 100 that it makes up anew for every response; two
models differ, and one model differs from itself at temperature 1. `judge_quality` measures how far.
The response is all it knows of how the text was made.

Source: arXiv 2604.08169v2, table B.1.
"""

import logging
from collections.abc import Sequence

from interp_steer.judge_calls import JudgeCalls, Question, Tally
from interp_steer.judge_prompts import (
    PROMPT_VERSION,
    coherence_messages,
    pair_messages,
    parse_preference,
    parse_rating,
    trait_description,
    trait_messages,
)
from interp_steer.judge_settings import JudgeSettings
from interp_steer.judges import Answer, JudgeScore
from interp_steer.pairs import AnswerPair

_log = logging.getLogger(__name__)


class LlmJudge:
    """Scores responses 1-100 and compares pairs, many at a time."""

    def __init__(self, trait: str, settings: JudgeSettings, *, first_delay_s: float = 1.0) -> None:
        """Open the cache; nothing is asked.

        Args:
            trait: name of the trait that scenarios are about.
            settings: endpoint, description, cache, prices.
            first_delay_s: see `ChatClient`.

        Raises:
            JudgeError: the trait has no description, or the cache cannot be read.
            EndpointError: the `openai` package is not installed.
        """
        self.settings = settings
        self._description = trait_description(trait, settings.trait_description)
        self._calls = JudgeCalls(settings, identity=self.identity(), first_delay_s=first_delay_s)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.settings.endpoint.model

    @property
    def tally(self) -> Tally:
        """What it has come to so far."""
        return self._calls.tally

    def identity(self) -> dict[str, object]:
        """Model, sampling, wording and the trait's description."""
        return {
            "judge": "llm",
            **self.settings.endpoint.identity(),
            "prompt_version": PROMPT_VERSION,
            "trait_description": self._description,
        }

    def score(self, answer: Answer) -> JudgeScore:
        """Score one response; see `score_all`."""
        return self.score_all([answer])[0]

    def score_all(self, answers: Sequence[Answer], *, repeat: int = 0) -> list[JudgeScore]:
        """Score responses: a call for the trait and one for the coherence of each.

        Args:
            answers: what is judged.
            repeat: from 1, ask anew instead of taking the answer of an earlier time.

        Raises:
            JudgeError: every call failed.
            EndpointError: no call can succeed.
        """
        chats = [trait_messages(answer, self._description) for answer in answers]
        chats += [coherence_messages(answer) for answer in answers]
        questions = [Question(messages=messages, repeat=repeat) for messages in chats]
        ratings = self._calls.ask(questions, parse_rating)
        _log.info("%s", self.tally.text(self.settings))
        traits, coherences = ratings[: len(answers)], ratings[len(answers) :]
        return [
            JudgeScore(trait=trait, coherence=coherence)
            for trait, coherence in zip(traits, coherences, strict=True)
        ]

    def prefer_all(self, pairs: Sequence[AnswerPair], *, repeat: int = 0) -> list[float | None]:
        """Which of each pair shows more of the trait: 1 the first, 0 the second, 0.5 a tie.

        Args:
            pairs: in the order in which they are shown.
            repeat: see `score_all`.

        Raises:
            JudgeError: every call failed.
            EndpointError: no call can succeed.
        """
        questions = [
            Question(
                messages=pair_messages(pair.first, pair.second, self._description), repeat=repeat
            )
            for pair in pairs
        ]
        found = self._calls.ask(questions, parse_preference)
        _log.info("%s", self.tally.text(self.settings))
        return found
