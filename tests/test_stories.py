"""The whole pipeline on weights that this project did not make: a base model of children's stories.

Contrast: happy against sad beginnings. Measure: happy words less sad words in what follows.
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
LAYER = 3
N_SAMPLES = 24


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


def happiness(texts: list[str]) -> int:
    words = [word for text in texts for word in re.findall(r"[a-z]+", text.lower())]
    return sum(word in HAPPY for word in words) - sum(word in SAD for word in words)


@pytest.fixture(scope="module")
def captured(stories_lm: HookedLM) -> dict[str, CapturedGenerations]:
    scenarios = [scenario(i) for i in range(len(SUBJECTS))]
    return {
        side: capture_generated(
            stories_lm,
            [stories_lm.tokenize(s.prompt(side)) for s in scenarios],
            SETTINGS,
            sample_keys=[s.id for s in scenarios],
        )
        for side in ("aligned", "malicious")
    }


@pytest.fixture(scope="module")
def probes(captured: dict[str, CapturedGenerations]) -> ProbeSet:
    ids = [f"story-{i:02d}" for i in range(len(SUBJECTS))]
    return fit_probes(
        captured["aligned"].residuals.values,
        captured["malicious"].residuals.values,
        layers=captured["aligned"].residuals.layers,
        scenario_ids=(ids, ids),
    )


def test_on_policy_stories_differ_in_the_trait(captured):
    tone = {side: happiness([g.text for g in c.generations]) for side, c in captured.items()}
    assert tone["aligned"] > tone["malicious"]


def test_a_probe_reads_the_trait_across_stories(probes: ProbeSet):
    probe = probes.probe(LAYER)
    assert probe.converged
    assert probe.crossfit.auroc > 0.75
    assert probe.cosine_caa > 0.5


def test_steering_moves_the_tone_both_ways_and_random_directions_do_not(
    stories_lm: HookedLM, probes: ProbeSet
):
    def tone(spec: SteeringSpec) -> int:
        prompts = [stories_lm.tokenize(Prompt(text="Once upon a time, there was"))] * N_SAMPLES
        keys = [str(i) for i in range(N_SAMPLES)]
        with steer(stories_lm, spec, probes):
            made = stories_lm.generate(prompts, SETTINGS, sample_keys=keys)
        return happiness([g.text for g in made])

    def spread(u: torch.Tensor | None) -> int:
        specs = [
            SteeringSpec(
                method="swfc", layer=LAYER, alpha=3.0, direction=direction, edit_direction=u
            )
            for direction in ("aligned", "reversed")
        ]
        return tone(specs[0]) - tone(specs[1])

    draws = torch.randn(6, stories_lm.d_model, generator=torch.Generator().manual_seed(0))
    random = [spread(u / u.norm()) for u in draws]
    assert spread(None) > 2 * max(map(abs, random))
