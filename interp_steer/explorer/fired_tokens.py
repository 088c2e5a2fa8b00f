"""Which tokens fire most: counts by token string, each with a place where it can be seen.

Counted over the traces of the selected method, layer and scope; before there are any, over the
training responses, where the count says which tokens the gate would let through.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from interp_steer.analysis.frames import numbers, rows_where, texts
from interp_steer.explorer.boundary_numbers import BoundaryChoice, TokenProjections
from interp_steer.explorer.library import RunView
from interp_steer.explorer.stored import KEY_MARK
from interp_steer.interventions import move

N_LISTED = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class FiredToken:
    """One token string."""

    token: str
    """As the tokenizer has it (untrusted)."""
    n_fired: int
    """How often it fired."""
    n: int
    """How often it was in scope."""
    mean_move: float
    """Mean |rho' - rho| where it fired, activation units."""
    sample: str
    """Key of a stored response in which it fired."""
    pos: int
    """Where in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FiredTokens:
    """The tokens that fire most often."""

    tokens: tuple[FiredToken, ...]
    """Most often fired first."""
    counted_on: str
    """What was counted, in words."""


def most_fired(view: RunView, choice: BoundaryChoice) -> FiredTokens:
    """Count over traces of the choice's method, layer and scope, or else over training tokens.

    Raises:
        MissingStageError: neither traces there nor token projections.
    """
    frame = _traced(view, choice)
    if frame is not None:
        words = f"{frame['sample'].nunique()} traced generations of this method, layer and scope"
        return FiredTokens(tokens=tuple(_counted(frame)), counted_on=words)
    frame = _would_fire(view, choice)
    words = "training responses (unsteered): what the gate would let through"
    return FiredTokens(tokens=tuple(_counted(frame)), counted_on=words)


def _traced(view: RunView, choice: BoundaryChoice) -> pd.DataFrame | None:
    edit = (choice.method, choice.layer, choice.scope)
    parts = []
    for one in view.stored.traces:
        if one.edit != edit:
            continue
        frame = view.stored.tokens_of(one, choice).to_pandas()
        moves = (frame["projection_after"] - frame["projection_before"]).abs()
        parts.append(frame.assign(move=moves, key=one.key))
    return pd.concat(parts, ignore_index=True) if parts else None


def _would_fire(view: RunView, choice: BoundaryChoice) -> pd.DataFrame:
    names = ["scenario", "side", "response_index", "pos", "token", "segment", "projection"]
    frame = view.source.projections(names, [("layer", "==", choice.layer)])
    in_scope = TokenProjections(frame, layer=choice.layer).in_scope(choice.scope)

    law = choice.at(view.source.probe_layer(choice.layer)).law
    moved = move(torch.from_numpy(numbers(frame, "projection")), law)
    sequence = zip(frame["scenario"], frame["side"], frame["response_index"], strict=True)
    return frame.assign(
        in_scope=in_scope,
        fired=moved.fired.numpy() & in_scope,
        move=np.abs(moved.shift.numpy()),
        key=[KEY_MARK.join(("training", *map(str, one))) for one in sequence],
    )


def _counted(frame: pd.DataFrame) -> Iterator[FiredToken]:
    inside = rows_where(frame, frame["in_scope"])
    fired = rows_where(inside, inside["fired"])
    n_of, counts = Counter(texts(inside, "token")), Counter(texts(fired, "token"))
    moved: dict[str, float] = {}
    first: dict[str, tuple[str, int]] = {}
    columns = (texts(fired, "token"), texts(fired, "key"), numbers(fired, "pos"))
    for token, key, pos, move_ in zip(*columns, numbers(fired, "move"), strict=True):
        moved[token] = moved.get(token, 0.0) + float(move_)
        first.setdefault(token, (key, int(pos)))
    for token, n_fired in counts.most_common(N_LISTED):
        sample, pos = first[token]
        yield FiredToken(
            token=token,
            n_fired=n_fired,
            n=n_of[token],
            mean_move=moved[token] / n_fired,
            sample=sample,
            pos=pos,
        )
