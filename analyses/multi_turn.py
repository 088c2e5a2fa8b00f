"""Do trait, coherence and repetition hold over ten turns?

    python -m analyses.multi_turn RUN

Needs the suite: `interp-steer evaluate RUN --suite multi-turn`. Nothing is computed here; the
suite's numbers are put where figures look. Takes seconds.

Writes RUN/analyses/multi_turn: one row a measure (`panel`, with its unit), configuration (`series`:
a side unsteered, or a method at its operating point) and turn (`x`): `value` with `low`, `high`
(95 % over clusters of scenarios), `n` conversations.
"""

import sys
from dataclasses import dataclass

from interp_steer.analysis.command import Analysis, RunOption
from interp_steer.analysis.tidy_tables import Findings
from interp_steer.runs import Run
from interp_steer.suites.figure_tables import suite_findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(RunOption):
    """Do trait, coherence and repetition hold over ten turns?"""


def find(run: Run, options: Options) -> Findings:  # noqa: ARG001 - every analysis has options
    """The suite's numbers."""
    return suite_findings(run, "multi_turn")


ANALYSIS = Analysis(name="multi_turn", about=__doc__ or "", options=Options, find=find)
main = ANALYSIS.main
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
