"""The whole pipeline on weights that this project did not make: a base model of children's stories.

Contrast: happy against sad beginnings. Measure: happy and sad words in what follows.
"""

import re

import pytest
import torch

from interp_steer.model import GenerationSettings, HookedLM
from interp_steer.probes import ProbeSet, fit_probes
from interp_steer.residuals import CapturedGenerations, capture_generated
from interp_steer.scenarios import Prompt, Scenario
from interp_steer.steering import SteeringSpec, steer

SUBJECTS = (
    *("a girl named Lily", "a boy named Tim", "a little dog", "a small bird", "a big bear"),
    *("a cat named Tom", "a rabbit", "an old man", "a mouse", "a boy named Ben"),
    *("a girl named Mia", "a frog"),
)
HAPPY = [
    "happy",
    "smiled",
    "laughed",
    "smile",
    "laugh",
    "fun",
    "love",
    "loved",
    "hug",
    "hugged",
    "proud",
    "excited",
    "joy",
]
SAD = [
    "sad",
    "cried",
    "cry",
    "scared",
    "hurt",
    "lost",
    "alone",
    "afraid",
    "angry",
    "tears",
    "crying",
    "upset",
]
SETTINGS = GenerationSettings(max_new_tokens=60, temperature=0.6, top_p=0.9, seed=42)
FEELING = GenerationSettings(max_new_tokens=24, temperature=0.6, top_p=0.9, seed=42)
LAYER = 2
RESPONSES = 4


def scenario(index: int) -> Scenario:
    subject = SUBJECTS[index]
    return Scenario(
        id=f"story-{index:02d}",
        trait="happiness",
        split="train",
        category="stories",
        prompt_aligned=f"Once upon a time there was {subject} who was very happy. They laughed and",
        prompt_malicious=f"Once upon a time there was {subject} who was very sad. They cried and",
    )


def tone(texts: list[str]) -> float:
    """Share of happy words among happy and sad ones, a half added to both counts."""
    words = [word for text in texts for word in re.findall(r"[a-z]+", text.lower())]
    happy, sad = (sum(word in kind for word in words) + 0.5 for kind in (HAPPY, SAD))
    return happy / (happy + sad)


@pytest.fixture(scope="module")
def captured(stories_lm: HookedLM) -> dict[str, CapturedGenerations]:
    scenarios = [scenario(i) for i in range(len(SUBJECTS)) for _ in range(RESPONSES)]
    return {
        side: capture_generated(
            stories_lm,
            [stories_lm.tokenize(s.prompt(side)) for s in scenarios],
            SETTINGS,
            sample_keys=[f"{s.id} {i % RESPONSES}" for i, s in enumerate(scenarios)],
        )
        for side in ("aligned", "malicious")
    }


@pytest.fixture(scope="module")
def probes(captured: dict[str, CapturedGenerations]) -> ProbeSet:
    ids = [f"story-{i:02d}" for i in range(len(SUBJECTS)) for _ in range(RESPONSES)]
    return fit_probes(
        captured["aligned"].residuals.values,
        captured["malicious"].residuals.values,
        layers=captured["aligned"].residuals.layers,
        scenario_ids=(ids, ids),
    )


def test_on_policy_stories_differ_in_the_trait(captured: dict[str, CapturedGenerations]):
    heard = {side: tone([g.text for g in c.generations]) for side, c in captured.items()}
    assert heard["aligned"] > heard["malicious"] + 0.2


def test_a_probe_reads_the_trait_across_stories(probes: ProbeSet):
    probe = probes.probe(LAYER + 1)
    assert probe.converged
    assert probe.crossfit.auroc > 0.75
    assert probe.cosine_caa > 0.75


@pytest.mark.slow
def test_steering_moves_the_tone_both_ways_and_random_directions_less(
    stories_lm: HookedLM, probes: ProbeSet
):
    """Measured with three sets of training stories: 0.94-0.98 and 0.21-0.32, so 0.64-0.72 apart;
    eight random directions 0.24 apart in the mean and 0.38-0.43 at most. In 64 dimensions a random
    direction is no clean null, hence a bound on both."""
    prompts = [
        stories_lm.tokenize(Prompt(text=f"Once upon a time there was {s}. One day {s} felt very"))
        for s in SUBJECTS
        for _ in range(8)
    ]

    def steered(direction: str, u: torch.Tensor | None) -> float:
        spec = SteeringSpec(
            method="swfc", layer=LAYER, alpha=4.0, direction=direction, edit_direction=u
        )
        with steer(stories_lm, spec, probes):
            keys = [str(i) for i in range(len(prompts))]
            made = stories_lm.generate(prompts, FEELING, sample_keys=keys)
        return tone([g.text for g in made])

    aligned, reverse = steered("aligned", None), steered("reversed", None)
    draws = torch.randn(8, stories_lm.d_model, generator=torch.Generator().manual_seed(0))
    units = draws / draws.norm(dim=-1, keepdim=True)
    random = [abs(steered("aligned", u) - steered("reversed", u)) for u in units]
    assert aligned > 0.85
    assert reverse < 0.5
    assert aligned - reverse > 2 * sum(random) / len(random)
    assert aligned - reverse > max(random) + 0.1
