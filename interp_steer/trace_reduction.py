"""From what a hook did to a few numbers a token, many small calls at a time.

A decoding step of few rows is a small call, and reducing it by itself costs as many launches as a
large one. Small calls are copied and wait; a block of them is reduced at once, on their device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from interp_steer.interventions import token_norms
from interp_steer.layer_hooks import CompiledLayer, HookRecord

SMALL_CALL, BLOCK = 2**16, 2**20
"""Values of the residual stream in a call that may wait, and in all that wait together."""

_FROM_HOOK = ("in_scope", "fired", "capped", "projection_before")
PER_TOKEN = (*_FROM_HOOK, "projection_after", "delta_norm")
"""Columns of the trace that are numbers of every token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCall:
    """One hook call that is not reduced yet."""

    steering: CompiledLayer
    """The layer and its specs."""
    columns: dict[str, torch.Tensor]
    """Numbers by name, each [batch, pos]."""
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
        is_capped = record.moved.room is not None
        columns = {n: getattr(record, n) for n in _FROM_HOOK if is_capped or n != "capped"}
        columns["pos"] = record.positions
        columns["row"] = record.rows[:, None].expand_as(record.positions)
        return cls(
            steering=record.steering,
            columns=columns,
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
    values = {name: _joined([call.columns[name] for call in calls]) for name in calls[0].columns}
    values.setdefault("capped", torch.zeros_like(values["fired"]))
    # A sum of each token by itself, whereas a matrix product's rounding depends on how many tokens
    # it has; and a token that did not fire is where it was, to the bit.
    projection = (after.float() * calls[0].v_hat).sum(dim=-1)
    values["projection_after"] = torch.where(
        values["fired"], projection, values["projection_before"]
    )
    values["delta_norm"] = (after.float() - before.float()).norm(dim=-1)
    values["norm"] = token_norms(before)
    return RecordedTokens(steering=calls[0].steering, values=values, n_calls=len(calls))


def gathered(parts: Sequence[RecordedTokens]) -> dict[str, torch.Tensor]:
    """Return the real tokens of one layer as flat columns; only this waits for the device."""
    columns: dict[str, list[torch.Tensor]] = {}
    for seen in parts:
        is_real = seen.values["pos"] >= 0
        for name, value in seen.values.items():
            columns.setdefault(name, []).append(value[is_real])
    return {name: torch.cat(parts).cpu() for name, parts in columns.items()}


def _joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    flat = [tensor.flatten(0, 1) for tensor in tensors]
    return flat[0] if len(flat) == 1 else torch.cat(flat)
