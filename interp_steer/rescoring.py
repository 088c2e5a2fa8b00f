"""Scores that a judge could not give, asked for again; nothing that is there is touched.

A judge that timed out leaves a gap in a row. Here the gaps of a table are filled shard by shard,
each replaced whole, so that a kill loses at most the answers that the judge's cache does not have,
and the same command goes on. What a judge answered twice in a form that cannot be read stays a gap:
its answers are kept, and asking until one suits would choose among them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from interp_steer.errors import JudgeError, RunError
from interp_steer.files import atomic_write_table
from interp_steer.judges import Answer, Judge, JudgeScore, judge_pin, score_answers
from interp_steer.llm_judge import LlmJudge
from interp_steer.runs import Run
from interp_steer.scenarios import Scenario
from interp_steer.shards import read_shard
from interp_steer.stored_answers import StoredAnswers
from interp_steer.study import Study, run_scenarios

SCORES = ("trait", "coherence")
"""Columns that a judge fills."""

Answers = Callable[[Sequence[dict[str, Any]], Sequence[int]], list[Answer]]
"""From all rows of a shard and the places of some, what the judge reads of those."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescored:
    """What became of the gaps of one table."""

    part: str
    """sweep, or the name of the evaluation."""
    n_filled: int
    """Scores that were filled."""
    n_left: int
    """Scores that are still missing."""

    def text(self) -> str:
        """One line."""
        return f"{self.part}: {self.n_filled} scores filled, {self.n_left} still missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """Who fills, and how."""

    judge: Judge
    """Asked for what is missing."""
    any_judge: bool = False
    """Whether it may be another one than gave the scores that are there."""
    repeat: int = 0
    """From 1, asks anew where the cache has an answer, also one that could not be read."""

    def scores(self, answers: Sequence[Answer]) -> list[JudgeScore]:
        """A score for each.

        Raises:
            JudgeError: every call failed; or `repeat` with a judge that has no cache.
        """
        if not self.repeat:
            return score_answers(self.judge, answers)
        if not isinstance(self.judge, LlmJudge):
            raise JudgeError(
                f"--again asks a language model anew, and the judge is {self.judge.name}; leave it "
                "out"
            )
        return self.judge.score_all(answers, repeat=self.repeat)

    def check(self, store: Run, scenarios: Sequence[Scenario], *, part: str) -> None:
        """Refuse another judge than the one that a table pins, by the name of what differs.

        Raises:
            RunError: it is another, and that was not asked for.
        """
        if self.any_judge:
            return
        try:
            store.check_pins({"judge": judge_pin(self.judge, scenarios)})
        except RunError as error:
            raise RunError(
                f"{error}. The gaps of {part} are filled by the judge that gave its other scores; "
                "--any-judge lets another one (rows then name both)"
            ) from error


def missing_scores(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns of a row that hold no score."""
    return tuple(name for name in SCORES if row[name] is None or math.isnan(row[name]))


def rescore_sweep(run: Run, filling: Filling, *, open_study: Callable[[], Study]) -> Rescored:
    """Fill the gaps of a sweep.

    Args:
        run: with a sweep.
        filling: who fills.
        open_study: loads the run's model; called where a response with a gap was begun for the
            model, since the judge reads that start too.

    Raises:
        RunError: no sweep, another judge, another writer, or a full disk.
        JudgeError: the judge failed; what was filled stays.
    """
    scenarios = run_scenarios(run)
    stored = StoredAnswers(run, scenarios, open_study)

    def answers(rows: Sequence[dict[str, Any]], places: Sequence[int]) -> list[Answer]:
        return [stored.of(rows[place]) for place in places]

    return fill(run, "sweep", filling, scenarios, answers, part="sweep")


def fill(
    store: Run,
    folder: str,
    filling: Filling,
    scenarios: Sequence[Scenario],
    answers: Answers,
    *,
    part: str,
    is_asked: Callable[[Mapping[str, Any]], bool] = lambda row: True,  # noqa: ARG005 - by default all
) -> Rescored:
    """Fill the gaps of a table, shard by shard.

    Args:
        store: the run directory whose shards they are.
        folder: where in it.
        filling: who fills.
        scenarios: what the judge's pin is made of.
        answers: what the judge reads.
        part: its name, for messages.
        is_asked: whether a row is one that a judge scores.

    Raises:
        RunError: another judge, another writer, or a full disk; what was filled stays.
        JudgeError: the judge failed; what was filled stays.
    """
    n_filled = n_left = 0
    with store.lock():
        for path in store.shards(folder):
            table = read_shard(path)
            rows = table.to_pylist()
            places = [i for i, r in enumerate(rows) if missing_scores(r) and is_asked(r)]
            if not places:
                continue
            filling.check(store, scenarios, part=part)
            scores = filling.scores(answers(rows, places))
            filled = sum(
                _put(rows[i], score, filling.judge.name)
                for i, score in zip(places, scores, strict=True)
            )
            if filled:
                _replace(path, rows, table)
            n_filled += filled
            n_left += sum(len(missing_scores(rows[i])) for i in places)
    return Rescored(part=part, n_filled=n_filled, n_left=n_left)


def _put(row: dict[str, Any], score: JudgeScore, judge: str) -> int:
    """Put what is missing into a row (changed in place); how many scores that were."""
    gaps = missing_scores(row)
    found = {name: getattr(score, name) for name in gaps if getattr(score, name) is not None}
    if found and judge != row["judge"]:
        row["judge"] = judge if len(gaps) == len(SCORES) else f"{row['judge']}, {judge}"
    row |= found
    return len(found)


def _replace(path: Path, rows: Sequence[Mapping[str, Any]], table: pa.Table) -> None:
    """Write a shard anew; columns that no judge fills keep their bits."""
    for name in (*SCORES, "judge"):
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        values = pa.array([row[name] for row in rows], field.type)
        table = table.set_column(place, field, values)
    atomic_write_table(path, table)
