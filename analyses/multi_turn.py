"""Do trait, coherence and repetition hold over ten turns?

    python -m analyses.multi_turn RUN

This version has no multi-turn suite, so there is nothing to tabulate yet: the command says so and
exits with 1. It will hold one row a turn: trait, coherence, sentence reuse, 4-gram repetition.
"""

import sys
from dataclasses import dataclass

from interp_steer.analysis.command import Analysis, RunOption
from interp_steer.analysis.tidy_tables import AnalysisError, Findings
from interp_steer.runs import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(RunOption):
    """Do trait, coherence and repetition hold over ten turns?"""


def find(run: Run, options: Options) -> Findings:  # noqa: ARG001 - every analysis has options
    """Refuse: there is no such suite."""
    raise AnalysisError(
        f"the run {run.path} has no multi-turn dialogues, and this version has no suite that makes "
        "them; every row of its sweep is a single turn"
    )


ANALYSIS = Analysis(name="multi_turn", about=__doc__ or "", options=Options, find=find)
main = ANALYSIS.main
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
