"""The hook of one layer: every row of a batch with its own law, gate, scope and direction.

Why apart: a sweep packs many cells into one batch, so a hook may not loop over rows, may not touch
rows that ask for nothing at its layer, and may not wait for the device. All constants are stacked
once; a forward pass gathers them again only when rows have left the batch. Nothing here decides
what to steer (`specs`) or how the hook is attached (`steering`).
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_steer.errors import SteeringError
from interp_steer.hook_records import CompiledLayer, HookRecord, Recorder
from interp_steer.interventions import NEUTRAL, Law, move, project_column, pushed
from interp_steer.scopes import ScopeBounds
from interp_steer.specs import LayerSteering
from interp_steer.tokens import TokenChunk

LAW = tuple(field.name for field in fields(Law))
"""Names of a law's constants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowConstants:
    """The constants of one layer, stacked over slots or gathered for the rows of a batch."""

    sign: Float[Tensor, "row 1"]
    """+1 aligned, -1 reversed."""
    gate: Float[Tensor, "row 1"]
    """`Law.gate`, like all constants of the law in the coordinates sign * rho."""
    gain: Float[Tensor, "row 1"]
    """`Law.gain`."""
    pivot: Float[Tensor, "row 1"]
    """`Law.pivot`."""
    offset: Float[Tensor, "row 1"]
    """`Law.offset`."""
    cap: Float[Tensor, "row 1"]
    """`Law.cap`."""
    has_prompt: Bool[Tensor, "row 1"]
    """`ScopeBounds.has_prompt`."""
    response_limit: Int[Tensor, "row 1"]
    """`ScopeBounds.response_limit`."""
    has_last_prompt: Bool[Tensor, "row 1"]
    """`ScopeBounds.has_last_prompt`."""
    direction: Float[Tensor, "row 1 d_model"] | Float[Tensor, "d_model"]
    """Unit vector to edit along; a single one where no row has a control direction."""

    @classmethod
    def stack(
        cls, slots: Sequence[LayerSteering], v_hat: Float[Tensor, "d_model"]
    ) -> "RowConstants":
        """Stack resolved specs, one slot each."""
        bounds = [slot.spec.token_scope.bounds() for slot in slots]
        if any(slot.direction is not None for slot in slots):
            own = [v_hat if slot.direction is None else slot.direction for slot in slots]
            direction = torch.stack(own)[:, None]
        else:
            direction = v_hat
        return cls(
            sign=torch.tensor([[float(slot.sign)] for slot in slots]),
            **{
                name: torch.tensor([[float(getattr(slot.law, name))] for slot in slots])
                for name in LAW
            },
            has_prompt=torch.cat([b.has_prompt for b in bounds]),
            response_limit=torch.cat([b.response_limit for b in bounds]),
            has_last_prompt=torch.cat([b.has_last_prompt for b in bounds]),
            direction=direction,
        )

    def take(self, slots: Int[Tensor, "chosen"]) -> "RowConstants":
        """Return the constants of the given slots, one row each."""
        stacked = {field.name: getattr(self, field.name) for field in fields(self)}
        return RowConstants(
            **{
                name: value if value.ndim == 1 else value.index_select(0, slots)
                for name, value in stacked.items()
            }
        )

    def to(self, device: torch.device) -> "RowConstants":
        """Return the constants on `device`."""
        return RowConstants(
            **{field.name: getattr(self, field.name).to(device) for field in fields(self)}
        )

    @property
    def scope(self) -> ScopeBounds:
        """The scopes of all rows as one."""
        return ScopeBounds(
            has_prompt=self.has_prompt,
            response_limit=self.response_limit,
            has_last_prompt=self.has_last_prompt,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """The rows of the present batch that this layer steers; what none of them needs is None."""

    index: Int[Tensor, "chosen"] | None
    """Where they stand in the batch; None for all of it."""
    sign: Float[Tensor, "row 1 1"] | None
    """`RowConstants.sign`; None where no slot of the layer is reversed."""
    law: Law
    """The laws of all rows as one, constants [row, 1, 1]; one that changes nothing in any slot is a
    number."""
    scope: ScopeBounds | None
    """The scopes of all rows as one; None where every slot takes all tokens."""
    direction: Float[Tensor, "row 1 d_model"] | Float[Tensor, "d_model"]
    """`RowConstants.direction`."""
    push: Float[Tensor, "row 1 d_model"] | None
    """What every token in scope is moved by, where that is all there is to know."""


class LayerHook:
    """Callable for `HookedLM.hooks`. Holds the gathered constants of the batch it saw last."""

    def __init__(self, compiled: CompiledLayer, recorder: Recorder | None = None) -> None:
        self.compiled = compiled
        self._recorder = recorder
        self._rows: Tensor | None = None
        self._chosen: _Chosen | None = None
        self._is_first_call = True
        self._slot_of_row = compiled.slot_of_row
        self._stacked = RowConstants.stack(compiled.slots, compiled.v_hat)
        self._v_hat = compiled.v_hat
        self._v_row = compiled.v_hat[None]
        # At small batches an operation costs what it costs to launch: what no slot needs is left
        # out. Other constants stay tensors, even where all share one: to wrap a number costs more
        # than the operation.
        self._is_reversed = any(slot.sign < 0 for slot in compiled.slots)
        self._takes_all = all(slot.spec.token_scope.kind == "all" for slot in compiled.slots)
        stacked = self._stacked
        self._may_move_by_zero = bool(((stacked.gain == 0) & (stacked.offset == 0)).any())
        self._left_out = {name: _left_out(name, getattr(stacked, name)) for name in LAW}
        self._is_push = (
            recorder is None  # who records wants projections
            and not self._may_move_by_zero
            and (self._left_out["gate"], self._left_out["gain"]) == (math.inf, 0.0)
            and self._left_out["cap"] == math.inf
        )

    @property
    def edits_only(self) -> bool:
        """Whether a token whose logits nobody needs may be left out (`AttachedHooks`)."""
        return self._recorder is None

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"], chunk: TokenChunk
    ) -> Float[Tensor, "batch pos d_model"] | None:
        """Return the steered residual stream, or None where no row of the batch is steered."""
        if resid.device != self._v_hat.device:
            self._v_hat = self._v_hat.to(resid.device)
            self._v_row = self._v_hat[None]
            self._stacked = self._stacked.to(resid.device)
            self._rows = None
        if self._rows is not chunk.rows:  # the same object as long as no row leaves the batch
            self._chosen = self._choose(chunk.rows)
            self._rows = chunk.rows
            self._is_first_call = False
        if self._chosen is None:
            return None
        index = self._chosen.index
        if index is None:
            return self._steer(resid, chunk, self._chosen)
        steered = self._steer(resid.index_select(0, index), chunk.take(index), self._chosen)
        return resid.index_copy(0, index, steered)

    def _choose(self, rows: Int[Tensor, "batch"]) -> _Chosen | None:
        """Gather the constants of the rows in the batch."""
        slot_of_row = self._slot_of_row
        if slot_of_row is None:
            return self._needed(None, self._stacked)
        self._check_row_count(rows.numel(), slot_of_row.numel())
        slots = slot_of_row.to(rows.device).index_select(0, rows)
        if bool((slot_of_row >= 0).all()):
            return self._needed(None, self._stacked.take(slots))
        index = (slots >= 0).nonzero().squeeze(1)  # waits for the device: only when rows change
        if not index.numel():
            return None
        return self._needed(index, self._stacked.take(slots.index_select(0, index)))

    def _needed(self, index: Int[Tensor, "chosen"] | None, constants: RowConstants) -> _Chosen:
        sign = constants.sign[..., None]
        law = {
            name: getattr(constants, name)[..., None] if value is None else value
            for name, value in self._left_out.items()
        }
        push = sign * constants.offset[..., None] * constants.direction if self._is_push else None
        return _Chosen(
            index=index,
            sign=sign if self._is_reversed else None,
            law=Law(**law),
            scope=None if self._takes_all else constants.scope,
            direction=constants.direction,
            push=push,
        )

    @contextmanager
    def sharing_prompts(self, n_rows: int) -> Iterator[Bool[Tensor, "row"]]:
        """Context for prompts that rows share: only rows with prompt tokens in scope are touched.

        The others are left alone and not recorded; outside the block they are steered as ever.

        Args:
            n_rows: sequences of the call.

        Yields:
            Which rows have prompt tokens in scope here, and so need their own prompt. With a
            recorder, a uniform plan lets no rows share: it learns their number from the first call.

        Raises:
            SteeringError: a recorder that needs tokens out of scope too, or another number of
                sequences than the plan's.
        """
        if self._recorder is not None and not getattr(self._recorder, "only_in_scope", False):
            raise SteeringError(
                f"expected a recorder of tokens in scope only, got {type(self._recorder).__name__}:"
                " where rows share the run of a prompt it would miss the prompt's tokens; generate "
                "without share_prefixes, or set only_in_scope = True on it if it needs no others"
            )
        slots = self._prompt_slots(n_rows)
        self._slot_of_row, self._rows, self._is_first_call = slots, None, False
        try:
            yield slots >= 0
        finally:
            self._slot_of_row, self._rows = self.compiled.slot_of_row, None

    def rows_looked_at(self, n_rows: int) -> Bool[Tensor, "row"]:
        """Return the rows that are steered here, whatever their scope.

        Args:
            n_rows: sequences of the call.

        Raises:
            SteeringError: another number of sequences than the plan's.
        """
        slots = self.compiled.slot_of_row
        if slots is None:
            return torch.ones(n_rows, dtype=torch.bool)
        self._check_row_count(n_rows, slots.numel())
        return slots >= 0

    def _prompt_slots(self, n_rows: int) -> Int[Tensor, "row"]:
        """Return the slot of every row that has prompt tokens in scope, -1 for the others."""
        scope = self._stacked.scope
        looks = (scope.has_prompt | scope.has_last_prompt)[:, 0].cpu()
        slots = self.compiled.slot_of_row
        if slots is None:
            may_share = self._recorder is None and not bool(looks[0])
            return torch.full((n_rows,), -1 if may_share else 0)
        self._check_row_count(n_rows, slots.numel())
        return torch.where(looks[slots.clamp(min=0)], slots, -1)

    def _check_row_count(self, n_rows: int, n_specs: int) -> None:
        """Refuse a call with another number of rows than the plan; rows may leave later on."""
        if n_rows > n_specs or (self._is_first_call and n_rows != n_specs):
            raise SteeringError(
                f"expected a call with {n_specs} sequences, one per spec of the plan, got "
                f"{n_rows}; give SteeringPlan one spec (or None) per sequence of the call"
            )

    def _steer(
        self, h: Float[Tensor, "batch pos d_model"], chunk: TokenChunk, chosen: _Chosen
    ) -> Float[Tensor, "batch pos d_model"]:
        """Apply every row's law to its tokens in scope."""
        if chosen.scope is not None:
            among = chosen.scope.mask(chunk)[..., None]
        else:
            among = chunk.is_real[..., None] if chunk.has_padding else None
        if chosen.push is not None:
            return pushed(h, chosen.push, among=among)
        rho, sign = project_column(h, self._v_row), chosen.sign
        moved = move(rho if sign is None else sign * rho, chosen.law, among=among)
        shift = moved.shift if self._may_move_by_zero else moved.allowed
        steered = _moved(
            h,
            (shift if sign is None else sign * shift) * chosen.direction,
            among=shift != 0 if self._may_move_by_zero else moved.fired,
        )
        if self._recorder is not None:
            self._recorder.record(
                HookRecord(
                    steering=self.compiled,
                    chunk=chunk,
                    among=among,
                    moved=moved,
                    sign=sign,
                    rho=rho,
                    resid_before=h,
                    resid_after=steered,
                    v_hat=self._v_hat,
                )
            )
        return steered


def _moved(
    h: Float[Tensor, "batch pos d_model"],
    push: Float[Tensor, "batch pos d_model"],
    *,
    among: Bool[Tensor, "batch pos 1"],
) -> Float[Tensor, "batch pos d_model"]:
    """Return `pushed`; `h` itself where a single token stays where it is."""
    if among.is_cpu and among.numel() == 1:  # to look costs less than to select
        return pushed(h, push) if bool(among) else h
    return pushed(h, push, among=among)


def _left_out(name: str, values: Float[Tensor, "slot 1"]) -> float | None:
    """Return the value that all slots have, if `move` does nothing for it."""
    first = float(values[0, 0])
    return first if first in NEUTRAL.get(name, ()) and bool((values == first).all()) else None
