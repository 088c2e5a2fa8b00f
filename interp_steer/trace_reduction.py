"""From what a hook did to a few numbers a token, many small calls at a time.

A decoding step of few rows is a small call, and reducing it by itself costs as many launches as a
large one. Small calls are copied and wait; a block of them is reduced at once, on their device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import torch

from interp_steer.hook_records import CompiledLayer, HookRecord
from interp_steer.interventions import Move, token_norms
from interp_steer.tokens import TokenChunk

SMALL_CALL, BLOCK = 2**16, 2**20
"""Values of the residual stream in a call that may wait, and in all that wait together."""

PER_TOKEN = (
    "in_scope",
    "fired",
    "capped",
    "projection_before",
    "projection_after",
    "delta_norm",
)
"""Columns of the trace that are numbers of every token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCall:
    """One hook call that is not reduced yet."""

    steering: CompiledLayer
    """The layer and its specs."""
    chunk: TokenChunk
    """The tokens."""
    among: torch.Tensor | None
    """`HookRecord.among`."""
    moved: Move
    """`HookRecord.moved`."""
    rho: torch.Tensor
    """`HookRecord.rho`."""
    before: torch.Tensor
    """h, [batch, pos, d_model]."""
    after: torch.Tensor
    """h', likewise."""
    v_hat: torch.Tensor
    """Unit direction of the probe, on their device."""

    @classmethod
    def of(cls, record: HookRecord, *, copied: bool) -> "RecordedCall":
        """Take one call; copied if it has to wait, as whoever gets h' may write to it."""
        before, after = record.resid_before, record.resid_after
        return cls(
            steering=record.steering,
            chunk=record.chunk,
            among=record.among,
            moved=record.moved,
            rho=record.rho,
            before=before.clone() if copied else before,
            after=after.clone() if copied else after,
            v_hat=record.v_hat,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTokens:
    """What is kept of hook calls of one layer."""

    steering: CompiledLayer
    """The layer and its specs."""
    values: dict[str, torch.Tensor]
    """Numbers by name, each [token], padding included: `PER_TOKEN`, norm, pos, row."""
    n_calls: int
    """Hook calls behind it."""


Recorded = TypeVar("Recorded", RecordedCall, RecordedTokens)


def by_layer(found: Sequence[Recorded]) -> list[list[Recorded]]:
    """Return what was found, one list per compiled layer (two contexts may share a layer)."""
    groups: dict[int, list[Recorded]] = {}
    for one in found:
        groups.setdefault(id(one.steering), []).append(one)
    return list(groups.values())


def reduced(calls: Sequence[RecordedCall]) -> RecordedTokens:
    """Reduce calls of one layer; nothing waits for the device."""
    before = _joined([call.before for call in calls])
    after = _joined([call.after for call in calls])
    fired = _joined([one.moved.fired for one in calls])[:, 0]
    rho = _joined([one.rho for one in calls])[:, 0]
    # A sum of each token by itself, whereas a matrix product's rounding depends on how many tokens
    # it has; and a token that did not fire is where it was, to the bit.
    projection = (after.float() * calls[0].v_hat).sum(dim=-1)
    values = {
        "row": torch.cat([_per_token(one.chunk) for one in calls]),
        "pos": _joined([one.chunk.positions for one in calls]),
        "in_scope": _in_scope(calls, fired),
        "fired": fired,
        "capped": _capped(calls, fired),
        "projection_before": rho,
        "projection_after": torch.where(fired, projection, rho),
        "delta_norm": (after.float() - before.float()).norm(dim=-1),
        "norm": token_norms(before),
    }
    return RecordedTokens(steering=calls[0].steering, values=values, n_calls=len(calls))


def _per_token(chunk: TokenChunk) -> torch.Tensor:
    n_pos = chunk.positions.shape[1]
    return chunk.rows if n_pos == 1 else chunk.rows.repeat_interleave(n_pos)


def _in_scope(calls: Sequence[RecordedCall], fired: torch.Tensor) -> torch.Tensor:
    if all(one.among is None and not one.chunk.has_padding for one in calls):
        return torch.ones_like(fired)
    masks = [one.chunk.is_real[..., None] if one.among is None else one.among for one in calls]
    return _joined(masks)[:, 0]


def _capped(calls: Sequence[RecordedCall], fired: torch.Tensor) -> torch.Tensor:
    rooms = [one.moved.room for one in calls if one.moved.room is not None]
    if not rooms:  # no law of the layer has a cap
        return torch.zeros_like(fired)
    wanted = _joined([one.moved.wanted for one in calls])
    return fired & (wanted > _joined(rooms))[:, 0]


def gathered(parts: Sequence[RecordedTokens]) -> dict[str, torch.Tensor]:
    """Return the real tokens of one layer as flat columns; only this waits for the device."""
    columns: dict[str, list[torch.Tensor]] = {}
    for seen in parts:
        is_real = seen.values["pos"] >= 0
        for name, value in seen.values.items():
            columns.setdefault(name, []).append(value[is_real])
    return {name: torch.cat(parts).cpu() for name, parts in columns.items()}


def _joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return [batch, pos, ...] tensors as one, [token, ...]; many of one width cost no more."""
    by_width = [list(group) for _, group in groupby(tensors, key=lambda one: one.shape[1])]
    flat = [(torch.cat(group) if len(group) > 1 else group[0]).flatten(0, 1) for group in by_width]
    return flat[0] if len(flat) == 1 else torch.cat(flat)
