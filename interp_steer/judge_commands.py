"""Two commands about judges: a tournament of what a sweep has stored, and how good a judge is."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from interp_steer.command_options import Common
from interp_steer.config import ModelPlace, QualityConfig, SweepConfig, TournamentConfig

if TYPE_CHECKING:
    from interp_steer.judge_quality import QualityMeasure
    from interp_steer.tournament import OrderEffect


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeTournament:
    """Rate both baselines and the operating points by pairwise comparison of stored responses."""

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """A run with a finished sweep; nothing is generated."""
    config: TournamentConfig = field(default_factory=TournamentConfig)
    """Who plays and who judges."""
    place: ModelPlace = field(default_factory=ModelPlace)
    """Where the model runs, which decodes prefilled starts."""
    common: Common = field(default_factory=Common)
    """Options of every command."""

    def run(self) -> str:
        """Return the ratings, strongest first, and what the judge cost."""
        from interp_steer.named_judges import judge_of, pair_judge, spent
        from interp_steer.runs import Run
        from interp_steer.study import reopen_study
        from interp_steer.tournament_stage import run_tournament

        run = Run.open(self.run_folder)
        judge = judge_of(self.config.judge.as_sweep(run.manifest), str(run.manifest["trait"]))
        played = run_tournament(
            run,
            self.config,
            judge=pair_judge(judge),
            open_study=lambda: reopen_study(run.path, place=self.place),
        )
        found = played.ratings
        lines = [f"{'':<34}{'rating':>22}{'won':>7}{'tied':>7}{'lost':>7}{'missing':>9}"]
        for row in found.to_dict("records"):
            rating = f"{row['rating']:.0f} [{row['rating_low']:.0f}, {row['rating_high']:.0f}]"
            counts = f"{row['wins']:>7}{row['ties']:>7}{row['losses']:>7}{row['n_missing']:>9}"
            lines.append(f"{row['player']:<34}{rating:>22}{counts}")
        note = (
            f"\nBradley-Terry on the scale of ELO, mean 1500; in brackets 95 % intervals over "
            f"clusters of {found['n_scenarios'].iloc[0]} scenarios. Judge: {judge.name}.\n"
            f"{_order_line(played.order)}"
        )
        written = "\n".join(f"written: {path}" for path in played.paths)
        return "\n".join([*lines, note, written]) + spent(judge)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeQuality:
    """Measure a language model as a judge: agreement with the sweep's judge, retest, order."""

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """A run with a sweep; on the bundled model its judge is exact."""
    config: QualityConfig = field(default_factory=QualityConfig)
    """The judge, and how many responses it is tried on."""
    common: Common = field(default_factory=Common)
    """Options of every command."""

    def run(self) -> str:
        """Return one line a measure, and what the judge cost."""
        from interp_steer.llm_judge import LlmJudge
        from interp_steer.named_judges import judge_of, spent
        from interp_steer.quality_stage import measure_judge
        from interp_steer.runs import Run

        run = Run.open(self.run_folder)
        options = SweepConfig(
            judge="llm",
            judge_config=self.config.judge_config,
            trait_description=self.config.trait_description,
        )
        judge = judge_of(options, str(run.manifest["trait"]))
        if not isinstance(judge, LlmJudge):
            raise TypeError(f"expected an LlmJudge, got {type(judge).__name__}")
        found, paths = measure_judge(run, self.config, judge=judge)
        lines = [f"{'':<10}{'measure':<30}{'value':>24}{'n':>7}{'missing':>9}"]
        lines += [_measure_line(measure) for measure in found]
        lines += [f"written: {path}" for path in paths]
        return "\n".join(lines) + spent(judge)


def _order_line(order: "OrderEffect") -> str:
    from interp_steer.measured_tables import with_interval

    shown = with_interval(order.first_share, scale=100)
    line = f"Position: the answer shown first won {shown} % of {order.n_decided} decided games"
    if order.n_both:
        same = with_interval(order.same_share, scale=100)
        line += f"; {same} % of {order.n_both} pairs got the same verdict in both orders"
    return f"{line}."


def _measure_line(measure: "QualityMeasure") -> str:
    from interp_steer.measured_tables import with_interval

    digits = 1 if measure.measure.endswith("difference") else 2
    value = with_interval(measure.estimate, digits=digits)
    return (
        f"{measure.about:<10}{measure.measure:<30}{value:>24}{measure.n:>7}{measure.n_missing:>9}"
    )
