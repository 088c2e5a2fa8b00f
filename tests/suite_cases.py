"""Runs with operating points for the tests of suites: the random model, one study for each trait.

The operating points are written, not chosen: a suite reads what is there, whoever chose it.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from interp_steer.config import FitConfig
from interp_steer.fit_stage import fit
from interp_steer.model import HookedLM
from interp_steer.scenarios import save_scenarios
from interp_steer.study import Sources, Study, start_study
from interp_steer.suites.settings import SuiteConfig, SuiteName
from interp_steer.suites.subject import Subject
from study_cases import SAMPLING, WordJudge, scenarios

POINTS = {"swfc": (1, 2.0), "sttp": (1, 6.0), "stmp": (0, 1.0)}
"""Method to layer and coefficient."""


def write_points(study: Study, points: Mapping[str, tuple[int, float]] = POINTS) -> Study:
    """Give the run operating points in scope all."""
    entries = [
        {
            "method": method,
            "scope": "all",
            "threat": "malicious_prompt",
            "layer": layer,
            "alpha": alpha,
        }
        for method, (layer, alpha) in points.items()
    ]
    study.run.operating_points_file.write_text(json.dumps({"operating_points": entries}))
    return study


def pointed_study(folder: Path, lm: HookedLM, model_dir: Path, *, trait: str = "honesty") -> Study:
    """A fitted study of the random model with operating points, in `folder`/run."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "scenarios.jsonl"
    save_scenarios(file, [replace(s, trait=trait) for s in scenarios()])
    sources = Sources(model=str(model_dir), scenarios=file)
    study = start_study(folder / "run", lm, sources, sampling=SAMPLING)
    fit(study, FitConfig(sampling=SAMPLING, responses_per_scenario=2))
    return write_points(study)


def subject(suite: SuiteName, study: Study, **config: object) -> Subject:
    """The study for one suite, judged by words."""
    return Subject.of(suite, study, SuiteConfig(**config), judge=WordJudge())
