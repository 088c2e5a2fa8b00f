"""The pairwise tournament of a run, from its stored answers to tables in RUN/analyses/.

pairwise_elo: one row a player: rating with its interval, wins, ties, losses, missing verdicts.
pairwise_elo_pairs: one row a pair of players: share of games won, ties half, with its interval.
pairwise_elo_order: what the order shown does to the judge.

It is no analysis that is made by itself when figures are drawn: a language model as a judge costs
money, so that it plays when it is told to. One under a threat prefill:K is written beside the usual
one, as pairwise_elo_prefill_K and so on.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from interp_steer.analysis.bootstrap import as_columns, undefined
from interp_steer.analysis.run_rows import scenario_clusters
from interp_steer.analysis.tidy_tables import Findings, write_findings
from interp_steer.config import TournamentConfig
from interp_steer.contestants import USUAL_THREAT, Contestant, contestants, matches, play
from interp_steer.judges import judge_pin
from interp_steer.llm_judge import LlmJudge
from interp_steer.pairs import PairJudge
from interp_steer.runs import Run
from interp_steer.study import Study, run_scenarios
from interp_steer.tournament import Games, OrderEffect, Rating, order_effect, rate, win_share

NAME = "pairwise_elo"
"""Name of the main table."""


def table_name(threat: str) -> str:
    """Name of the main table of a tournament under a threat; the usual one's has no suffix."""
    return NAME if threat == USUAL_THREAT else f"{NAME}_{threat.replace(':', '_')}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Played:
    """A tournament that was played and written."""

    ratings: pd.DataFrame
    """The main table, the strongest first."""
    order: OrderEffect
    """What the order shown did to the judge."""
    paths: tuple[Path, ...]
    """The parquet files."""


def run_tournament(
    run: Run,
    config: TournamentConfig,
    *,
    judge: PairJudge,
    open_study: Callable[[], Study] | None = None,
) -> Played:
    """Play, rate, and write the tables.

    Args:
        run: a run with a finished sweep.
        config: who plays, and how.
        judge: decides.
        open_study: loads the run's model, to decode prefilled starts; that of the run by default.

    Raises:
        RunError: the run has no sweep, or another writer.
        SelectionError: the sweep is incomplete, or lacks one of the scopes.
        JudgeError: the judge failed.
        TournamentError: nobody can be rated.
    """
    players = contestants(
        run,
        config.scopes,
        threat=config.threat,
        n_scenarios=config.scenarios,
        open_study=open_study,
    )
    played = matches(players, both_orders=config.both_orders, seed=config.seed)
    games = play(players, played, judge)
    of = scenario_clusters(run)
    clusters = [of[scenario] for scenario in games.scenarios]
    order = order_effect(games, clusters)
    rated = rate(games, clusters, n_resamples=config.resamples, seed=config.seed)
    ratings = pd.DataFrame(list(_ratings(players, games, rated)))
    tables = {
        "": ratings.astype({"layer": "Int64", "alpha": "float64"}).assign(
            threat=config.threat, judge=judge.name
        ),
        "pairs": pd.DataFrame(list(_pairs(games, clusters))),
        "order": pd.DataFrame([_order(order)]),
    }
    findings = Findings(
        tables=tables,
        inputs=(run.sweep_folder,),
        notes=_notes(games),
        config={"judge": _identity(judge, run)},
    )
    settings = {k: v for k, v in asdict(config).items() if k not in ("judge", "judge_config")}
    command = f"interp-steer judge-tournament {run.path.resolve().name}"
    with run.lock():
        paths = write_findings(
            run, table_name(config.threat), findings, command=command, config=_plain(settings)
        )
    return Played(ratings=tables[""], order=order, paths=tuple(paths))


def _ratings(
    players: Sequence[Contestant], games: Games, rated: Sequence[Rating]
) -> Iterator[dict[str, Any]]:
    by_name = {player.name: player for player in players}
    for rank, found in enumerate(rated, start=1):
        cell = by_name[found.player].cell
        yield {
            "rank": rank,
            "player": found.player,
            "side": cell.side,
            "method": cell.method,
            "scope": cell.scope,
            "layer": cell.layer,
            "alpha": cell.alpha,
            **as_columns("rating", found.rating),
            "n_games": found.wins + found.ties + found.losses,
            "wins": found.wins,
            "ties": found.ties,
            "losses": found.losses,
            "n_missing": found.n_missing,
            "n_scenarios": len(games.scenarios),
        }


def _pairs(games: Games, clusters: Sequence[str]) -> Iterator[dict[str, Any]]:
    for one, other in combinations(range(len(games.players)), 2):
        mine = ((games.first == one) & (games.second == other)) | (
            (games.first == other) & (games.second == one)
        )
        if not mine.any():
            continue
        known = games.preference[mine & games.is_known]
        share = win_share(games, one, other, clusters) if len(known) else None
        yield {
            "player": games.players[one],
            "other": games.players[other],
            **(undefined("win_share") if share is None else as_columns("win_share", share)),
            "n_games": len(known),
            "ties": int((known == 0.5).sum()),
            "n_missing": int(mine.sum()) - len(known),
        }


def _order(effect: OrderEffect) -> dict[str, Any]:
    return {
        **_columns("first_share", effect.first_share),
        "n_decided": effect.n_decided,
        **_columns("same_share", effect.same_share),
        "n_both": effect.n_both,
    }


def _columns(name: str, estimate: Any) -> dict[str, float]:
    return undefined(name) if estimate is None else as_columns(name, estimate)


def _notes(games: Games) -> tuple[str, ...]:
    n_missing = int((~games.is_known).sum())
    if not n_missing:
        return ()
    return (f"{n_missing} of {len(games.preference)} games have no verdict and count for nobody",)


def _identity(judge: PairJudge, run: Run) -> Any:
    return judge_pin(judge, run_scenarios(run)) if isinstance(judge, LlmJudge) else judge.name


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
