"""A suite by name: run what is missing, write the summary, hand the figure its numbers."""

from collections.abc import Callable, Mapping

from interp_steer.judges import Judge
from interp_steer.study import Study
from interp_steer.suites.alpaca_eval import run_alpaca_eval
from interp_steer.suites.choice import run_choice
from interp_steer.suites.cost import run_cost
from interp_steer.suites.cross_trait import run_cross_trait
from interp_steer.suites.evaluation import Evaluation
from interp_steer.suites.figure_tables import keep_figure_table
from interp_steer.suites.mmlu import run_mmlu
from interp_steer.suites.mt_bench import run_mt_bench
from interp_steer.suites.multi_turn import run_multi_turn
from interp_steer.suites.settings import SuiteConfig, SuiteName
from interp_steer.suites.subject import Subject
from interp_steer.suites.summaries import Summary, write_summary
from interp_steer.suites.transfer import run_transfer

RUNNERS: Mapping[SuiteName, Callable[[Subject], tuple[Evaluation, Summary]]] = {
    "multi-turn": run_multi_turn,
    "choice": run_choice,
    "cost": run_cost,
    "cross-trait": run_cross_trait,
    "transfer": run_transfer,
    "mmlu": run_mmlu,
    "mt-bench": run_mt_bench,
    "alpaca-eval": run_alpaca_eval,
}


def evaluate(
    study: Study, suite: SuiteName, config: SuiteConfig, *, judge: Judge | None = None
) -> str:
    """Run a suite on a study; return its tables as text.

    Args:
        study: run, model, scenarios.
        suite: which suite.
        config: configurations and items.
        judge: who scores; by default the one that the config, or the run's sweep, names.

    Raises:
        InterpSteerError: the suite cannot be run as asked, by the name of what is wrong.
    """
    evaluation, summary = RUNNERS[suite](Subject.of(suite, study, config, judge=judge))
    text = write_summary(evaluation, summary)
    if summary.figure is not None and not summary.figure.empty:
        keep_figure_table(study.run, suite, summary.figure)
    return text
