"""Who plays in a run's tournament, and their stored answers.

Both baselines and the operating point of each method, each with the rows that report it: in the
two-fold protocol, on every scenario the configuration that was chosen without it. Nothing is
generated; a tournament judges what a sweep has stored.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pyarrow.compute as pc

from interp_steer.assignments import Assignment, everywhere
from interp_steer.cells import ALIGNED, CELL_COLUMNS, MALICIOUS, NONE, Cell
from interp_steer.judges import Answer
from interp_steer.operating_points import PointFinder
from interp_steer.pairs import AnswerPair, PairJudge
from interp_steer.report_text import METHOD_NAMES
from interp_steer.runs import Run
from interp_steer.scenarios import Scenario
from interp_steer.splits import SelectionError, balanced_order
from interp_steer.sweep import read_rows
from interp_steer.sweep_stage import run_plan
from interp_steer.tournament import Games


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One player."""

    name: str
    """As tables and figures call it."""
    cell: Cell
    """The configuration; two-fold, the one chosen on all scenarios."""
    answers: Mapping[tuple[str, int], Answer]
    """What it said, by scenario and response index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Two players on one scenario, in the order in which they are shown."""

    key: tuple[str, int]
    """Scenario and response index."""
    first: int
    """Place of the player shown first."""
    second: int
    """Place of the other."""


def contestants(
    run: Run, scopes: Sequence[str], *, n_scenarios: int | None = None
) -> tuple[Contestant, ...]:
    """Both baselines and the operating points in some scopes, under the malicious prompt.

    Args:
        run: a run with a finished sweep.
        scopes: scopes of the operating points that play.
        n_scenarios: at most so many reporting scenarios, balanced by category; None takes all.

    Raises:
        RunError: the run has no sweep.
        SelectionError: the sweep is incomplete, or has no operating point in one of the scopes.
    """
    plan = run_plan(run)
    played = balanced_order(plan.split.reporting, seed=plan.seed)[:n_scenarios]
    by_id = {scenario.id: scenario for scenario in played}
    points = PointFinder(read_rows(run), replace(plan, n_resamples=1)).points()
    usual = [p for p in points if p.choice.threat == MALICIOUS.threat]
    known = {point.choice.scope for point in usual}
    if unknown := [scope for scope in scopes if scope not in known]:
        raise SelectionError(
            f"the sweep has no operating point in scope {unknown[0]}; its scopes are "
            f"{', '.join(sorted(known))}"
        )
    chosen = [point for point in usual if point.choice.scope in scopes]
    who: list[tuple[str, Cell, Assignment]] = [
        ("aligned prompt, unsteered", ALIGNED, everywhere(ALIGNED, by_id)),
        ("malicious prompt, unsteered", MALICIOUS, everywhere(MALICIOUS, by_id)),
    ]
    who += [
        (_name(p.choice.cell, several=len(scopes) > 1), p.choice.cell, p.assignment) for p in chosen
    ]
    stored = stored_answers(run, {c for _, _, a in who for c in a.values()}, by_id)
    return tuple(
        Contestant(
            name=name,
            cell=cell,
            answers={k: a for k, a in _answers(stored, assignment) if k[0] in by_id},
        )
        for name, cell, assignment in who
    )


def stored_answers(
    run: Run, cells: set[Cell], scenarios: Mapping[str, Scenario]
) -> dict[tuple[Cell, str, int], Answer]:
    """What the sweep has stored of some cells without a prefilled threat, for a judge to read."""
    columns = ["scenario", "response_index", *CELL_COLUMNS, "response", "stop_reason"]
    rows = read_rows(run).filter(pc.field("scenario").isin(list(scenarios)))
    methods = list({cell.method for cell in cells} | {NONE})
    rows = rows.filter(pc.field("method").isin(methods)).select(columns)
    found = {}
    for row in rows.to_pylist():
        cell = Cell.from_row(row)
        if cell in cells:
            found[cell, row["scenario"], row["response_index"]] = Answer(
                scenario=scenarios[row["scenario"]],
                text=row["response"],
                stopped=row["stop_reason"] == "stop_token",
            )
    return found


def matches(players: Sequence[Contestant], *, both_orders: bool, seed: int) -> list[Match]:
    """Every two players on every scenario that both have answered.

    The order shown is that of a hash of seed, scenario and players, so that it depends on nothing
    else that is played.
    """
    found = []
    for (i, one), (j, other) in combinations(enumerate(players), 2):
        for key in one.answers:
            if key not in other.answers:
                continue
            turned = _is_turned(seed, key, one.name, other.name)
            first, second = (j, i) if turned else (i, j)
            found.append(Match(key=key, first=first, second=second))
            if both_orders:
                found.append(Match(key=key, first=second, second=first))
    return found


def play(players: Sequence[Contestant], played: Sequence[Match], judge: PairJudge) -> Games:
    """Let the judge decide every match; equal texts tie unseen.

    Raises:
        JudgeError: the judge failed.
        TournamentError: fewer than two players, or no verdict at all.
    """
    pairs = [
        AnswerPair(
            first=players[match.first].answers[match.key],
            second=players[match.second].answers[match.key],
        )
        for match in played
    ]
    asked = np.array([pair.first.text != pair.second.text for pair in pairs], dtype=bool)
    verdicts = iter(
        judge.prefer_all([p for p, is_asked in zip(pairs, asked, strict=True) if is_asked])
    )
    preference = [next(verdicts) if is_asked else 0.5 for is_asked in asked]
    scenarios = tuple(dict.fromkeys(match.key[0] for match in played))
    place = {scenario: number for number, scenario in enumerate(scenarios)}
    return Games(
        players=tuple(player.name for player in players),
        scenarios=scenarios,
        scenario=np.array([place[match.key[0]] for match in played], dtype=np.int64),
        first=np.array([match.first for match in played], dtype=np.int64),
        second=np.array([match.second for match in played], dtype=np.int64),
        preference=np.array([np.nan if v is None else v for v in preference], dtype=np.float64),
        is_asked=asked,
    )


def _answers(
    stored: Mapping[tuple[Cell, str, int], Answer], assignment: Assignment
) -> Iterator[tuple[tuple[str, int], Answer]]:
    for (cell, scenario, index), answer in stored.items():
        if assignment.get(scenario) == cell:
            yield (scenario, index), answer


def _name(cell: Cell, *, several: bool) -> str:
    method = METHOD_NAMES[cell.method]
    return f"{method}, scope {cell.scope}" if several else method


def _is_turned(seed: int, key: tuple[str, int], one: str, other: str) -> bool:
    text = "\x1f".join([str(seed), key[0], str(key[1]), one, other])
    return hashlib.sha256(text.encode("utf-8")).digest()[0] % 2 == 1
