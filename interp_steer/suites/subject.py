"""What every suite works on: the run's model, probes and configurations, and the judge's choice.

Read once, with the checks that a sweep makes, so that a suite cannot evaluate another model than
the one that the operating points were chosen on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from interp_steer.config import SweepConfig
from interp_steer.fit_stage import load_probes
from interp_steer.judges import Judge
from interp_steer.model import GenerationSettings
from interp_steer.named_judges import judge_of
from interp_steer.probes import ProbeSet
from interp_steer.runs import Run
from interp_steer.scenario_clusters import cluster_scenarios
from interp_steer.scenarios import Scenario
from interp_steer.splits import balanced_order
from interp_steer.study import Study
from interp_steer.suites.configurations import Configurations
from interp_steer.suites.settings import CAPABILITIES, SuiteConfig, SuiteName, check_options


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A run that is evaluated."""

    suite: SuiteName
    """Which suite."""
    study: Study
    """Run, model, scenarios, sampling."""
    probes: ProbeSet
    """The run's probes."""
    config: SuiteConfig
    """What the suite was told."""
    configurations: Configurations
    """Cells of the run."""
    given_judge: Judge | None = None
    """Who scores, where the caller brings one; else the one that the config names."""

    @classmethod
    def of(
        cls, suite: SuiteName, study: Study, config: SuiteConfig, *, judge: Judge | None = None
    ) -> "Subject":
        """Read the run's probes and operating points.

        Raises:
            EvaluationError: an option that does not belong to the suite, or a missing probe.
            RunError: no probes, or no operating points where they are needed.
        """
        check_options(suite, config)
        probes = load_probes(study.run)
        chosen = Configurations(study.run, config, with_grid=suite in CAPABILITIES)
        chosen.check_probes(probes)
        return cls(
            suite=suite,
            study=study,
            probes=probes,
            config=config,
            configurations=chosen,
            given_judge=judge,
        )

    def scenarios(self) -> tuple[Scenario, ...]:
        """Test scenarios, at most `limit`, balanced by category."""
        test = self.study.split("test")
        ordered = balanced_order(test, seed=self.study.sampling.seed)
        return tuple(ordered[: self.config.limit])

    def judge(self) -> Judge:
        """The judge that was given, or see `suite_judge`."""
        return self.given_judge or suite_judge(self.study, self.config)

    def settings(self, max_new_tokens: int | None = None) -> GenerationSettings:
        """The run's sampling, with the suite's own limit where it has one."""
        limit = self.config.max_new_tokens or max_new_tokens
        settings = self.study.settings
        return settings if limit is None else replace(settings, max_new_tokens=limit)


def suite_judge(study: Study, config: SuiteConfig) -> Judge:
    """The judge that the suite was told to use; see `run_judge`."""
    return run_judge(study.run, study.trait, config)


def run_judge(run: Run, trait: str, config: SuiteConfig) -> Judge:
    """The judge that the config names; what it leaves open is that of the run's sweep.

    Raises:
        JudgeError: the judge does not know the trait, or its settings cannot be read.
    """
    swept: dict[str, Any] = run.manifest.get("sweep", {}).get("config", {})
    own = config.judge is not None or config.judge_config is not None
    path = config.judge_config if own else swept.get("judge_config")
    settings = SweepConfig(
        judge=config.judge or ("llm" if own else swept.get("judge", "exact")),
        judge_config=None if path is None else Path(path),
        trait_description=config.trait_description or swept.get("trait_description"),
    )
    return judge_of(settings, trait)


def clusters_of(scenarios: Sequence[Scenario]) -> dict[str, str]:
    """By scenario id, what the bootstrap resamples as a whole."""
    return dict(cluster_scenarios(scenarios).of)
