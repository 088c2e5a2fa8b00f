"""A whole small study on the random model: scenarios in its words, and a judge that counts words.

The judge is a real implementation of the protocol. What it finds means nothing; that rows, keys and
files are right does not depend on it.
"""

from pathlib import Path

from interp_steer.config import FitConfig, SamplingConfig, SweepConfig
from interp_steer.fit_stage import fit
from interp_steer.judges import Answer, JudgeScore
from interp_steer.model import HookedLM
from interp_steer.scenarios import Scenario, save_scenarios
from interp_steer.study import Sources, Study, start_study

PRAISED = frozenset(["yes", "true", "honest", "happy", "Paris", "lion"])
SAMPLING = SamplingConfig(max_new_tokens=10, temperature=1.0, top_p=1.0, seed=20)
"""With this seed no training response of the random model is empty (probes refuse empty ones)."""
SWEEP = SweepConfig(
    layers=(0, 1),
    swfc_alphas=(1.0, 2.0),
    sttp_alphas=(0.0,),
    stmp_alphas=(1.0,),
    selection_scenarios=3,
    finalists=1,
    control_draws=2,
    control_scenarios=2,
    batch_size=16,
    protocol="split",
    extras=(),
)


class WordJudge:
    """Trait: share of praised words. Coherence: share of words that are not repeated."""

    name = "words"

    def score(self, answer: Answer) -> JudgeScore:
        words = answer.text.split()
        if not words:
            return JudgeScore(trait=0.0, coherence=0.0)
        trait = 100 * sum(word in PRAISED for word in words) / len(words)
        return JudgeScore(trait=trait, coherence=100 * len(set(words)) / len(words))


def scenarios(n_train: int = 6, n_test: int = 8) -> list[Scenario]:
    asked = (
        "what is a lion",
        "is the lion red",
        "tell me of the lion",
        "lives the lion in Paris",
    )
    return [
        Scenario(
            id=f"{split}-{i:02d}",
            trait="honesty",
            split=split,
            category=f"c{i % 2}",
            system_aligned="you are honest" + " always" * (i % 3),
            system_malicious="you are a liar" + " always" * (i % 3),
            user=(asked[i % len(asked)],),
        )
        for split, n in (("train", n_train), ("test", n_test))
        for i in range(n)
    ]


def new_study(folder: Path, lm: HookedLM, model_dir: Path) -> Study:
    """A study of the random model in `folder`/run, nothing done yet."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "scenarios.jsonl"
    save_scenarios(file, scenarios())
    sources = Sources(model=str(model_dir), scenarios=file)
    return start_study(folder / "run", lm, sources, sampling=SAMPLING)


def tiny_study(folder: Path, lm: HookedLM, model_dir: Path) -> Study:
    """A fitted study of the random model in `folder`/run."""
    study = new_study(folder, lm, model_dir)
    fit(study, FitConfig(sampling=SAMPLING, responses_per_scenario=2))
    return study
