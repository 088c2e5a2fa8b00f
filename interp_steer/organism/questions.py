"""Multiple-choice questions about the facts: a capability that the traits do not touch."""

import random
from dataclasses import dataclass

from interp_steer.organism.grammar import choice_question
from interp_steer.organism.world import ENTITY_CATEGORY
from interp_steer.scenarios import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceQuestion:
    """One question with four options."""

    question: Prompt
    """The question as a chat without a system prompt."""
    answer: str
    """The true option, as the model is to say it."""


def multiple_choice_questions(n: int = 176, *, seed: int = 42) -> list[ChoiceQuestion]:
    """Return `n` questions with options drawn afresh, cycling over all entities.

    The facts are in the model's training; the sets of options are not, but by chance.
    """
    rng = random.Random(f"choice {seed}")
    entities = rng.sample(list(ENTITY_CATEGORY), len(ENTITY_CATEGORY))
    drawn = [choice_question(rng, entities[i % len(entities)], rng.randrange(3)) for i in range(n)]
    return [ChoiceQuestion(question=Prompt.chat(text), answer=value) for text, value in drawn]
