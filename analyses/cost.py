"""What does steering cost in time?

    python -m analyses.cost RUN

Needs the suite: `interp-steer evaluate RUN --suite cost`. Nothing is computed here; the suite's
numbers are put where figures look. Takes seconds.

Writes RUN/analyses/cost: one row a number (`panel`, with its unit and the mode), configuration
(`group`: unsteered, or a method at its operating point) and state of the diagnostics (`series`: on,
off): `value`, a median, with `low`, `high` (95 % bootstrap), `n` prompts or batches.
"""

import sys
from dataclasses import dataclass

from interp_steer.analysis.command import Analysis, RunOption
from interp_steer.analysis.tidy_tables import Findings
from interp_steer.runs import Run
from interp_steer.suites.figure_tables import suite_findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(RunOption):
    """What does steering cost in time?"""


def find(run: Run, options: Options) -> Findings:  # noqa: ARG001 - every analysis has options
    """The suite's numbers."""
    return suite_findings(run, "cost")


ANALYSIS = Analysis(name="cost", about=__doc__ or "", options=Options, find=find)
main = ANALYSIS.main
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
