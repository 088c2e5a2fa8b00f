"""Who plays in a run's tournament, and their stored answers.

Both baselines and the operating point of each method, each with the rows that report it: in the
two-fold protocol, on every scenario the configuration that was chosen without it. Nothing is
generated; a tournament judges what a sweep has stored.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pyarrow.compute as pc

from interp_steer.assignments import Assignment, everywhere
from interp_steer.candidates import unsteered
from interp_steer.cells import ALIGNED, KEY_COLUMNS, MALICIOUS, NONE, Cell, parse_threat
from interp_steer.judges import Answer
from interp_steer.operating_points import PointFinder
from interp_steer.pairs import AnswerPair, PairJudge
from interp_steer.report_text import METHOD_NAMES
from interp_steer.runs import Run
from interp_steer.scenarios import Scenario
from interp_steer.splits import SelectionError, balanced_order
from interp_steer.stored_answers import STORED, StoredAnswers
from interp_steer.study import Study, reopen_study
from interp_steer.sweep import read_rows
from interp_steer.sweep_stage import run_plan
from interp_steer.tournament import Games

USUAL_THREAT = MALICIOUS.threat


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
    run: Run,
    scopes: Sequence[str],
    *,
    threat: str = USUAL_THREAT,
    n_scenarios: int | None = None,
    open_study: Callable[[], Study] | None = None,
) -> tuple[Contestant, ...]:
    """Both baselines and the operating points in some scopes, under one threat.

    Under a threat prefill:K the answers are continuations of the malicious baseline's start, that
    of the aligned baseline alone is whole.

    Args:
        run: a run with a finished sweep.
        scopes: scopes of the operating points that play.
        threat: what they are steered against.
        n_scenarios: at most so many reporting scenarios, balanced by category; None takes all.
        open_study: loads the run's model, to decode prefilled starts; that of the run by default.

    Raises:
        RunError: the run has no sweep.
        SelectionError: the sweep is incomplete, or has no operating point under the threat or in
            one of the scopes.
        GridError: a threat that there is not.
    """
    parse_threat(threat)
    plan = run_plan(run)
    played = balanced_order(plan.split.reporting, seed=plan.seed)[:n_scenarios]
    by_id = {scenario.id: scenario for scenario in played}
    points = PointFinder(read_rows(run), replace(plan, n_resamples=1)).points()
    usual = [p for p in points if p.choice.threat == threat]
    if not usual:
        raise SelectionError(
            f"the sweep has no operating point under the threat {threat}; its threats are "
            f"{', '.join(sorted({p.choice.threat for p in points}))}"
        )
    known = {point.choice.scope for point in usual}
    if unknown := [scope for scope in scopes if scope not in known]:
        raise SelectionError(
            f"the sweep has no operating point in scope {unknown[0]}; its scopes are "
            f"{', '.join(sorted(known))}"
        )
    chosen = [point for point in usual if point.choice.scope in scopes]
    who: list[tuple[str, Cell, Assignment]] = [
        ("aligned prompt, unsteered", ALIGNED, everywhere(ALIGNED, by_id)),
        (_unsteered_name(threat), unsteered(threat), everywhere(unsteered(threat), by_id)),
    ]
    who += [
        (_name(p.choice.cell, several=len(scopes) > 1), p.choice.cell, p.assignment) for p in chosen
    ]
    cells = {c for _, _, a in who for c in a.values()}
    stored = stored_answers(run, cells, by_id, open_study=open_study)
    return tuple(
        Contestant(
            name=name,
            cell=cell,
            answers={k: a for k, a in _answers(stored, assignment) if k[0] in by_id},
        )
        for name, cell, assignment in who
    )


def stored_answers(
    run: Run,
    cells: set[Cell],
    scenarios: Mapping[str, Scenario],
    *,
    open_study: Callable[[], Study] | None = None,
) -> dict[tuple[Cell, str, int], Answer]:
    """What the sweep has stored of some cells, for a judge to read."""
    rows = read_rows(run).filter(pc.field("scenario").isin(list(scenarios)))
    methods = list({cell.method for cell in cells} | {NONE})
    rows = rows.filter(pc.field("method").isin(methods)).select([*KEY_COLUMNS, *STORED])
    stored = StoredAnswers(
        run, list(scenarios.values()), open_study or (lambda: reopen_study(run.path))
    )
    found = {}
    for row in rows.to_pylist():
        cell = Cell.from_row(row)
        if cell in cells:
            found[cell, row["scenario"], row["response_index"]] = stored.of(row)
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
    asked = np.array([_said(pair.first) != _said(pair.second) for pair in pairs], dtype=bool)
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


def _said(answer: Answer) -> tuple[str, str]:
    return answer.prefix, answer.text


def _unsteered_name(threat: str) -> str:
    k = parse_threat(threat)
    return "malicious prompt, unsteered" if k is None else f"start of {k} tokens, unsteered"


def _name(cell: Cell, *, several: bool) -> str:
    method = METHOD_NAMES[cell.method]
    return f"{method}, scope {cell.scope}" if several else method


def _is_turned(seed: int, key: tuple[str, int], one: str, other: str) -> bool:
    text = "\x1f".join([str(seed), key[0], str(key[1]), one, other])
    return hashlib.sha256(text.encode("utf-8")).digest()[0] % 2 == 1
