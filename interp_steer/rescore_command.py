"""`interp-steer rescore RUN`: ask the judge again for the scores that it could not give.

Only what is missing is asked for and filled; what the run then has to say anew (operating points)
is said anew, and what only its own command can (tables of evaluations) is named.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from interp_steer.command_options import Common
from interp_steer.config import JudgeChoice, ModelPlace
from interp_steer.errors import InterpSteerError

if TYPE_CHECKING:
    from interp_steer.judges import Judge
    from interp_steer.rescoring import Filling, Rescored
    from interp_steer.runs import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescore:
    """Fill the scores that a judge could not give, in a run's sweep and evaluations; resumes."""

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """A run with a sweep or evaluations; scores that are there are never touched."""
    judge: JudgeChoice = field(default_factory=JudgeChoice)
    """Who judges; by default whoever judged the sweep."""
    only: tuple[str, ...] = ()
    """Parts: sweep, multi-turn, cross-trait, transfer-NAME; by default all that lack scores."""
    any_judge: bool = False
    """Let another judge fill the gaps than gave the other scores; its rows name both."""
    again: int = 0
    """llm: from 1, ask anew what was answered in a form that cannot be read (a new draw for each
    number); without, such a gap stays."""
    other: Path | None = None
    """cross-trait: the run of the other trait, where the rows do not say which it was."""
    scenarios: Path | None = None
    """transfer: the file that the evaluation was made with."""
    source: str = "scenarios"
    """transfer: what the file is, as in `evaluate`."""
    place: ModelPlace = field(default_factory=ModelPlace)
    """Where the model runs; it is loaded only to read prefilled starts."""
    common: Common = field(default_factory=Common)
    """Options of every command."""

    def run(self) -> str:
        """Return a line a part, and what has to be made anew."""
        from interp_steer.named_judges import judge_of, spent
        from interp_steer.rescoring import Filling
        from interp_steer.runs import Run

        run = Run.open(self.run_folder)
        judge = judge_of(self.judge.as_sweep(run.manifest), str(run.manifest["trait"]))
        filling = Filling(judge=judge, any_judge=self.any_judge, repeat=self.again)
        filled: list[Rescored] = []
        try:
            for one in self._filled(run, filling):
                filled.append(one)
        except InterpSteerError:  # what was filled before stays, and is reported on anew
            list(_made_anew(run, filled))
            raise
        lines = [one.text() for one in filled] or ["no score is missing"]
        lines += _made_anew(run, filled)
        return "\n".join(lines) + spent(judge)

    def _filled(self, run: "Run", filling: "Filling") -> "Iterator[Rescored]":
        """Every part that lacks scores, or those that were asked for."""
        from interp_steer.rescoring import rescore_sweep
        from interp_steer.study import reopen_study
        from interp_steer.suites.rescored import (
            gappy_evaluations,
            rescore_cross_trait,
            rescore_multi_turn,
            rescore_transfer,
        )

        parts = self.only or ("sweep", *gappy_evaluations(run))
        for part in parts:
            if part == "sweep":
                yield rescore_sweep(
                    run,
                    filling,
                    open_study=lambda: reopen_study(self.run_folder, place=self.place),
                )
            elif part == "multi-turn":
                yield rescore_multi_turn(run, filling)
            elif part == "cross-trait":
                other, judge = self._other(run)
                yield from rescore_cross_trait(run, filling, other=other, other_judge=judge)
            else:
                yield rescore_transfer(run, part, filling, file=self.scenarios, source=self.source)

    def _other(self, run: "Run") -> "tuple[Run | None, Judge | None]":
        from interp_steer.named_judges import judge_of
        from interp_steer.suites.rescored import other_run

        other = other_run(run, self.other)
        if other is None:
            return None, None
        chosen = self.judge.as_sweep(other.manifest)
        return other, judge_of(chosen, str(other.manifest["trait"]))


def _made_anew(run: "Run", filled: "list[Rescored]") -> "Iterator[str]":
    """Choose operating points anew where they are of other rows; name what else is outdated."""
    from interp_steer.point_files import read_operating_points
    from interp_steer.sweep_stage import is_outdated, select

    has_changed = any(one.part == "sweep" and one.n_filled for one in filled)
    if run.operating_points_file.exists() and (has_changed or is_outdated(run)):
        remedy = f"run `interp-steer select {run.path}` again"
        found = read_operating_points(run.operating_points_file, remedy=remedy)
        share = found.get("coherence_share")
        try:
            select(run, coherence_share=share)
        except InterpSteerError as error:  # another cell was chosen, which the sweep has yet to try
            yield f"operating points are of the scores before, {run.operating_points_file}: {error}"
        else:
            yield f"operating points chosen anew: {run.operating_points_file}"
    for part in dict.fromkeys(o.part.split(",")[0] for o in filled if o.n_filled):
        if part != "sweep":
            yield (
                f"{part}: its tables are of the rows before; run the same `interp-steer evaluate "
                f"{run.path} --suite {part.split('-')[0] if part.startswith('transfer-') else part}"
                "` again"
            )
