"""`interp-steer evaluate RUN --suite NAME`: what a steered model does beyond its own scenarios.

The rows go to RUN/evaluations/NAME, where the same command goes on after a stop; the table goes to
stdout, and with it into files beside the rows.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from interp_steer.command_options import Common
from interp_steer.suites.settings import SuiteConfig, SuiteName


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Run a suite on a run's operating points: multi-turn, capabilities, cost, cross-trait, ..."""

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """A run with operating points (or give --layer and --alphas)."""
    suite: SuiteName
    """Which suite; what each needs is in docs/evaluate.md."""
    config: SuiteConfig = field(default_factory=SuiteConfig)
    """Configurations, items, judge."""
    common: Common = field(default_factory=Common)
    """Options of every command."""

    def run(self) -> str:
        """Return the suite's tables."""
        from interp_steer.study import reopen_study
        from interp_steer.suites.running import evaluate

        study = reopen_study(self.run_folder, place=self.config)
        return evaluate(study, self.suite, self.config)
