"""What does steering cost in capabilities?

    python -m analyses.capabilities RUN

Needs at least one suite: `interp-steer evaluate RUN --suite choice` (or mmlu, mt-bench,
alpaca-eval). Nothing is computed here; the suites' numbers stand one after the other. Takes
seconds.

Writes RUN/analyses/capabilities: one row a score and method (`panel`, with its unit),
configuration (`series`: the method, or unsteered as a level) and coefficient (`x`): `value` with
`low`, `high` (95 % over questions), `n` questions.
"""

import sys
from dataclasses import dataclass

from interp_steer.analysis.command import Analysis, RunOption
from interp_steer.analysis.tidy_tables import Findings
from interp_steer.runs import Run
from interp_steer.suites.figure_tables import suite_findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(RunOption):
    """What does steering cost in capabilities?"""


def find(run: Run, options: Options) -> Findings:  # noqa: ARG001 - every analysis has options
    """The suites' numbers."""
    return suite_findings(run, "capabilities")


ANALYSIS = Analysis(name="capabilities", about=__doc__ or "", options=Options, find=find)
main = ANALYSIS.main
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
