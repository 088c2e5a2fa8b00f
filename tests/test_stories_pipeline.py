"""Every stage of a study on weights that this project did not make, with its controls beside it.

A base model of children's stories, happy against sad beginnings; the judge counts happy and sad
words of what follows. It has 260 thousand parameters and 64 dimensions, where a random direction is
no clean null: the bound is on the mean of its draws.
"""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from conftest import STORIES_DIR
from interp_steer.cli import main
from interp_steer.config import FitConfig, ProjectConfig, SamplingConfig, SweepConfig, TraceConfig
from interp_steer.fit_stage import fit, project
from interp_steer.judges import Answer, JudgeScore
from interp_steer.model import HookedLM
from interp_steer.scenarios import Scenario, save_scenarios
from interp_steer.study import Sources, Study, reopen_study, start_study
from interp_steer.sweep_stage import select, sweep
from interp_steer.trace_stage import Traced, cell_to_trace, trace
from test_stories import HAPPY, SAD, SUBJECTS

pytestmark = pytest.mark.slow
SAMPLING = SamplingConfig(max_new_tokens=40, temperature=0.6, top_p=0.9, seed=42)
OTHERS = (
    *("a girl named Sue", "a boy named Max", "a little cat", "a big dog", "a small fish"),
    *("an old woman", "a duck", "a boy named Sam", "a pig", "a girl named Anna", "a bunny"),
    *("a cow", "a boy named Jack", "a little bug", "a fox", "a girl named Lucy", "a horse"),
    *("a king", "a sheep", "a little boy", "a monkey", "a boy named Bob", "a hen", "a wolf"),
)
CONFIG = SweepConfig(
    layers=(2,),
    scopes=("all",),
    swfc_alphas=(2.0, 4.0),
    sttp_alphas=(6.0, 12.0),
    stmp_alphas=(1.5, 3.0),
    control_draws=8,
    control_scenarios=None,
    extras=("mean_difference", "guard"),
    batch_size=256,
)


class ToneJudge:
    """Trait: share of happy words among happy and sad ones. Coherence: words not repeated."""

    name = "tone"

    def score(self, answer: Answer) -> JudgeScore:
        words = re.findall(r"[a-z]+", answer.text.lower())
        happy, sad = (sum(word in kind for word in words) + 0.5 for kind in (HAPPY, SAD))
        pairs = list(pairwise(words))
        coherence = 100 * len(set(pairs)) / len(pairs) if pairs else 0.0
        return JudgeScore(trait=100 * happy / (happy + sad), coherence=coherence)


def story(split: str, index: int, subject: str) -> Scenario:
    start = f"Once upon a time there was {subject} who was very"
    return Scenario(
        id=f"{split}-{index:02d}",
        trait="happiness",
        split=split,
        category=f"stories {index % 2}",
        prompt_aligned=f"{start} happy. They laughed and",
        prompt_malicious=f"{start} sad. They cried and",
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, stories_lm: HookedLM) -> Study:
    """Fitted, projected, swept and selected."""
    folder: Path = tmp_path_factory.mktemp("stories")
    made = [story("train", i, subject) for i, subject in enumerate(SUBJECTS)]
    made += [story("test", i, subject) for i, subject in enumerate(OTHERS)]
    save_scenarios(folder / "stories.jsonl", made)
    sources = Sources(model=str(STORIES_DIR), scenarios=folder / "stories.jsonl")
    study = start_study(folder / "run", stories_lm, sources, sampling=SAMPLING)
    fit(study, FitConfig(sampling=SAMPLING, responses_per_scenario=4))
    project(study, ProjectConfig())
    sweep(study, CONFIG, judge=ToneJudge())
    return study


def test_steering_recovers_the_tone_and_random_directions_do_less(study: Study) -> None:
    found = select(study.run)
    random = {c.method: c for c in found.controls if c.kind == "random_direction"}
    assert {p.choice.method for p in found.points} == set(random) == {"swfc", "sttp", "stmp"}
    for point in found.points:
        method, recovered = point.choice.method, point.reported.recovered.value
        draws = random[method].recovered
        assert len(draws) == 8
        assert recovered > 0.4, method
        assert recovered > 2 * sum(draws) / len(draws), method


def test_a_trace_shows_where_the_gate_opened(study: Study) -> None:
    cell = cell_to_trace(study.run, TraceConfig(method="sttp"))
    scenario = study.split("test")[0]
    one = Traced(
        cell=cell, prompt=scenario.prompt("malicious"), scenario=scenario.id, side="malicious"
    )
    rows = trace(study, [one]).to_pandas()
    fired = rows[rows["fired"]]
    assert len(fired) and set(rows["segment"]) == {"template", "user", "response"}
    assert (fired["projection_before"] < fired["threshold"]).all()
    assert (fired["projection_after"] > fired["projection_before"]).all()


def test_figures_and_reopening(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert reopen_study(study.run.path).pins == study.pins
    code = main(["figures", str(study.run.path), "--no-static", "--no-analyses"])
    said = capsys.readouterr().out
    assert code == 0, said
    drawn = {path.stem for path in (study.run.path / "figures").glob("*.html")}
    assert {"trait-coherence-all", "readability", "projections"} <= drawn
