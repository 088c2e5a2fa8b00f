"""What does the guard of one trait do to the other?

    python -m analyses.cross_trait RUN

Needs the suite: `interp-steer evaluate RUN --suite cross-trait --other OTHER_RUN`. Nothing is
computed here; the suite's numbers are put where figures look. Takes seconds.

Writes RUN/analyses/cross_trait: one row a measure (`panel`: whose scenarios, trait or coherence),
configuration (`group`: a baseline, the own guard, the other's, both, or the other's with its
direction replaced) and method (`series`, none for baselines): `value` with `low`, `high` (95 % over
clusters of scenarios), `n` scenarios.
"""

import sys
from dataclasses import dataclass

from interp_steer.analysis.command import Analysis, RunOption
from interp_steer.analysis.tidy_tables import Findings
from interp_steer.runs import Run
from interp_steer.suites.figure_tables import suite_findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(RunOption):
    """What does the guard of one trait do to the other?"""


def find(run: Run, options: Options) -> Findings:  # noqa: ARG001 - every analysis has options
    """The suite's numbers."""
    return suite_findings(run, "cross_trait")


ANALYSIS = Analysis(name="cross_trait", about=__doc__ or "", options=Options, find=find)
main = ANALYSIS.main
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
