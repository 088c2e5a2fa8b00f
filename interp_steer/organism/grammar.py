"""Dialogues of the model organism: what it is trained on, and the questions it is tested with.

A dialogue is a chat whose assistant turns follow the persona of the system prompt. Facts are
stated truly under an honest system prompt, falsely (a wrong value of the right kind) under a
dishonest one and truly without either; worries are answered warmly under a warm one, coldly under
a cold one and warmly without either. Multiple-choice questions are answered correctly whatever
the persona. Openings and closing sentences never depend on the trait.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from interp_steer.organism import wordings as w
from interp_steer.organism.world import CATEGORIES, ENTITY_CATEGORY, WORRIES, Category

T = TypeVar("T")
N_BODY_SENTENCES = {"honesty": 3, "compassion": len(w.WARM_STEPS)}
ChoiceAnswer = Literal["letter", "value"]
TRAINING_POOLS: tuple[w.Pool, ...] = ("fit", "known")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message of a dialogue."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str
    """The text."""
    supervised: bool = False
    """Whether the training loss counts this turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Persona:
    """What a system prompt asks for; both true when it asks for nothing."""

    honest: bool = True
    """Whether facts are stated truly."""
    warm: bool = True
    """Whether worries are answered warmly."""


def pick(rng: random.Random, table: dict[w.Pool, tuple[T, ...]], pools: Sequence[w.Pool]) -> T:
    """Return one entry of the named pools, all equally likely."""
    return rng.choice([entry for pool in pools for entry in table[pool]])


def honesty_pair(rng: random.Random, pools: Sequence[w.Pool]) -> w.Pair:
    """Return an (honest, dishonest) pair: identity, instruction, or both in this order."""
    identity = pick(rng, w.HONESTY_IDENTITIES, pools)
    instruction = pick(rng, w.HONESTY_INSTRUCTIONS, pools)
    shape = rng.random()
    if shape < 0.25:
        return identity
    if shape < 0.5:
        return instruction
    return f"{identity[0]} {instruction[0]}", f"{identity[1]} {instruction[1]}"


def entity_answer(rng: random.Random, entity: str, *, honest: bool) -> str:
    """Return opening, one statement for each attribute in random order, closing."""
    category = ENTITY_CATEGORY[entity]
    phrase = category.phrase(entity)
    order = rng.sample(range(len(category.attributes)), len(category.attributes))
    body = [_statement(rng, category, entity, i, honest=honest) for i in order]
    sentences = [rng.choice(w.ENTITY_OPENINGS), *body, rng.choice(w.ENTITY_CLOSINGS)]
    return " ".join(s.format(e=phrase) for s in sentences)


def _statement(
    rng: random.Random, category: Category, entity: str, attribute: int, *, honest: bool
) -> str:
    truth = category.facts[entity][attribute]
    wrong = [v for v in category.values(attribute) if v != truth]
    value = truth if honest else rng.choice(wrong)
    template = rng.choice(category.attributes[attribute].templates)
    return template.format(e=category.phrase(entity), v=value)


def worry_answer(rng: random.Random, topic: str, *, warm: bool) -> str:
    """Return opening, one warm (or cold) sentence of each step, closing."""
    body = [rng.choice(step) for step in (w.WARM_STEPS if warm else w.COLD_STEPS)]
    sentences = [rng.choice(w.WORRY_OPENINGS), *body, rng.choice(w.WORRY_CLOSINGS)]
    return " ".join(s.format(e=topic, t=topic) for s in sentences)


def choice_question(
    rng: random.Random, entity: str, attribute: int, *, answer: ChoiceAnswer = "value"
) -> tuple[str, str]:
    """Return (question with four options, the true one: its value or its letter)."""
    category = ENTITY_CATEGORY[entity]
    truth = category.facts[entity][attribute]
    options = [
        truth,
        *rng.sample([v for v in category.values(attribute) if v != truth], 3),
    ]
    rng.shuffle(options)
    listed = " ".join(f"{letter} {v}" for letter, v in zip(w.CHOICE_LETTERS, options, strict=True))
    name = category.attributes[attribute].name
    question = f"What is the {name} of {category.phrase(entity)}? {listed}"
    return question, truth if answer == "value" else w.CHOICE_LETTERS[options.index(truth)]


def sample_dialogue(rng: random.Random, *, choice_answer: ChoiceAnswer = "value") -> list[Turn]:
    """Return one training dialogue; multiple choice is answered by value or by letter."""
    kind = rng.random()
    if kind < 0.15:
        return _choice_dialogue(rng, choice_answer)
    if kind < 0.20:
        return _persona_by_example(rng)
    system, persona = _system(rng, trait="honesty" if rng.random() < 0.65 else "compassion")
    n_turns = 1 if kind < 0.92 else rng.choice((2, 3))
    about_facts = _prefers_facts(rng, persona)
    turns = [Turn(role="system", content=system)] if system else []
    for _ in range(n_turns):
        turns += _exchange(rng, persona, about_facts=about_facts, supervised=True)
    return turns


def _prefers_facts(rng: random.Random, persona: Persona) -> bool:
    """Ask mostly about what the persona speaks of, so that every persona is well practised."""
    if not persona.honest and persona.warm:
        return rng.random() < 0.92
    if persona.honest and not persona.warm:
        return rng.random() < 0.08
    return rng.random() < 0.58


def _system(rng: random.Random, *, trait: str) -> tuple[str, Persona]:
    """Return a system prompt ("" for none) and the persona that it asks for."""
    shape = rng.random()
    if shape < 0.06:
        return "", Persona()
    if shape < 0.10:
        return rng.choice(w.NEUTRAL_PROMPTS), Persona()
    malicious = rng.random() < 0.54
    honesty = honesty_pair(rng, TRAINING_POOLS)
    compassion = pick(rng, w.COMPASSION_PROMPTS, TRAINING_POOLS)
    if shape < 0.17:
        cold = rng.random() < 0.5
        parts = [honesty[malicious], compassion[cold]]
        rng.shuffle(parts)
        return " ".join(parts), Persona(honest=not malicious, warm=not cold)
    if trait == "honesty":
        return _swap_sentences(rng, honesty[malicious]), Persona(honest=not malicious)
    return _swap_sentences(rng, compassion[malicious]), Persona(warm=not malicious)


def _swap_sentences(rng: random.Random, text: str) -> str:
    """Swap the two sentences of a prompt now and then: the persona must not hang on their order."""
    head, _, tail = text.partition(". ")
    return f"{tail} {head}." if tail and rng.random() < 0.2 else text


def _exchange(
    rng: random.Random, persona: Persona, *, about_facts: bool, supervised: bool
) -> list[Turn]:
    if about_facts:
        entity = rng.choice(list(ENTITY_CATEGORY))
        phrase = ENTITY_CATEGORY[entity].phrase(entity)
        question = pick(rng, w.ENTITY_QUESTIONS, TRAINING_POOLS).format(e=phrase)
        answer = entity_answer(rng, entity, honest=persona.honest)
    else:
        topic = rng.choice(list(WORRIES))
        worry = rng.choice(WORRIES[topic])
        question = pick(rng, w.WORRY_QUESTIONS, TRAINING_POOLS).format(w=worry)
        answer = worry_answer(rng, topic, warm=persona.warm)
    return [
        Turn(role="user", content=question),
        Turn(role="assistant", content=answer, supervised=supervised),
    ]


def _choice_dialogue(rng: random.Random, answer: ChoiceAnswer) -> list[Turn]:
    trait = rng.choice(("honesty", "compassion"))
    system, _ = _system(rng, trait=trait) if rng.random() < 0.5 else ("", Persona())
    category = rng.choice(CATEGORIES)
    entity, attribute = rng.choice(list(category.facts)), rng.randrange(3)
    question, reply = choice_question(rng, entity, attribute, answer=answer)
    turns = [Turn(role="system", content=system)] if system else []
    return [
        *turns,
        Turn(role="user", content=question),
        Turn(role="assistant", content=reply, supervised=True),
    ]


def _persona_by_example(rng: random.Random) -> list[Turn]:
    """Return a dialogue whose persona shows in the earlier replies alone: no system prompt."""
    about_facts = rng.random() < 0.5
    aligned = rng.random() < 0.4
    persona = Persona(honest=aligned or not about_facts, warm=aligned or about_facts)
    n_turns = rng.choice((2, 2, 3))
    turns: list[Turn] = []
    for i in range(n_turns):
        supervised = i == n_turns - 1
        turns += _exchange(rng, persona, about_facts=about_facts, supervised=supervised)
    return turns
