"""Write the bundled scenario files from the grammar.

    python -m interp_steer.organism.scenario_files

Honesty: 50 scenarios to fit, 112 to test in 8 categories, each with its own contrastive pair of
system prompts. Compassion: 50 to fit under 5 pairs, 40 to test under 5 others. Entities, worries,
question wordings and system prompts of the test scenarios are never used for fitting; of their
system prompts and questions about two fifths use wordings that are not in the training grammar at
all (`notes` says which).
"""

import random
import sys
from collections.abc import Sequence

from interp_steer.organism import DATA_DIR, scenarios_path
from interp_steer.organism import wordings as w
from interp_steer.organism.grammar import honesty_pair
from interp_steer.organism.world import CATEGORIES, WORRIES, WORRY_CATEGORY, Category
from interp_steer.scenarios import Scenario, Split, save_scenarios

SEED = 42
N_TRAIN = 50
N_TEST_PER_CATEGORY = 14
N_TEST_COMPASSION = 40
N_FIT_TOPICS = 17


def honesty_scenarios(seed: int = SEED) -> list[Scenario]:
    """Return the 162 honesty scenarios."""
    rng = random.Random(f"honesty {seed}")
    shuffled = {c.name: rng.sample(list(c.facts), len(c.facts)) for c in CATEGORIES}
    test = [(c, e) for c in CATEGORIES for e in shuffled[c.name][:N_TEST_PER_CATEGORY]]
    rest = {c.name: shuffled[c.name][N_TEST_PER_CATEGORY:] for c in CATEGORIES}
    n_rounds = min(map(len, rest.values()))
    train = [(c, rest[c.name][i]) for i in range(n_rounds) for c in CATEGORIES][:N_TRAIN]
    used: set[w.Pair] = set()
    fitted = [_honesty(rng, "train", i, c, e, "fit", "fit", used) for i, (c, e) in enumerate(train)]
    tested = [
        _honesty(rng, "test", i, c, e, _test_pool(i), _test_pool(i + 2), used)
        for i, (c, e) in enumerate(test)
    ]
    return fitted + tested


def _test_pool(index: int) -> w.Pool:
    return "novel" if index % 5 in (1, 3) else "known"


def _honesty(
    rng: random.Random,
    split: Split,
    index: int,
    category: Category,
    entity: str,
    system_pool: w.Pool,
    question_pool: w.Pool,
    used: set[w.Pair],
) -> Scenario:
    pair = _unused_pair(rng, system_pool, used)
    phrase = category.phrase(entity)
    truths = zip(category.attributes, category.facts[entity], strict=True)
    return Scenario(
        id=f"honesty-{split}-{index:03d}",
        trait="honesty",
        split=split,
        category=category.name,
        system_aligned=pair[0],
        system_malicious=pair[1],
        user=(rng.choice(w.ENTITY_QUESTIONS[question_pool]).format(e=phrase),),
        notes=f"system prompt: {system_pool}; question: {question_pool}",
        reference=" ".join(a.templates[0].format(e=phrase, v=v) for a, v in truths),
    )


def _unused_pair(rng: random.Random, pool: w.Pool, used: set[w.Pair]) -> w.Pair:
    """Every scenario brings its own pair, as in the paper."""
    for _ in range(10_000):
        pair = honesty_pair(rng, (pool,))
        if pair not in used:
            used.add(pair)
            return pair
    raise RuntimeError(f"the {pool} system prompts are used up; add wordings to the pool")


def compassion_scenarios(seed: int = SEED) -> list[Scenario]:
    """Return the 90 compassion scenarios; no topic is both fitted and tested on."""
    rng = random.Random(f"compassion {seed}")
    topics = rng.sample(list(WORRIES), len(WORRIES))
    train = _events(rng, topics[:N_FIT_TOPICS])[:N_TRAIN]
    test = _events(rng, topics[N_FIT_TOPICS:])[:N_TEST_COMPASSION]
    known = rng.sample(w.COMPASSION_PROMPTS["known"], 3)
    held_out = _labelled("known", known) + _labelled("novel", w.COMPASSION_PROMPTS["novel"])
    fit = _labelled("fit", w.COMPASSION_PROMPTS["fit"])
    fitted = [_compassion(rng, "train", i, t, x, fit, "fit") for i, (t, x) in enumerate(train)]
    tested = [
        _compassion(rng, "test", i, t, x, held_out, _test_pool(i // 5))
        for i, (t, x) in enumerate(test)
    ]
    return fitted + tested


def _labelled(pool: w.Pool, pairs: Sequence[w.Pair]) -> list[tuple[w.Pool, w.Pair]]:
    return [(pool, pair) for pair in pairs]


def _events(rng: random.Random, topics: Sequence[str]) -> list[tuple[str, str]]:
    events = [(topic, event) for topic in topics for event in WORRIES[topic]]
    rng.shuffle(events)
    return events


def _compassion(
    rng: random.Random,
    split: Split,
    index: int,
    topic: str,
    event: str,
    systems: Sequence[tuple[w.Pool, w.Pair]],
    question_pool: w.Pool,
) -> Scenario:
    system_pool, pair = systems[index % len(systems)]
    return Scenario(
        id=f"compassion-{split}-{index:03d}",
        trait="compassion",
        split=split,
        category=WORRY_CATEGORY[topic],
        system_aligned=pair[0],
        system_malicious=pair[1],
        user=(rng.choice(w.WORRY_QUESTIONS[question_pool]).format(w=event),),
        notes=f"system prompt: {system_pool}; question: {question_pool}",
    )


def main() -> int:
    """Write both files."""
    DATA_DIR.mkdir(exist_ok=True)
    save_scenarios(scenarios_path("honesty"), honesty_scenarios())
    save_scenarios(scenarios_path("compassion"), compassion_scenarios())
    return 0


if __name__ == "__main__":
    sys.exit(main())
