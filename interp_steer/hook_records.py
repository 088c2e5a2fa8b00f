"""What one layer's hook does, and what it tells whoever records it.

Why apart: recorders read a record whichever hook made it, and take of it only what they want. What
costs an operation is computed when asked for: at small batches an operation costs what it costs to
launch, and a recorder of few numbers, or one that waits (`trace_reduction`), need not pay it.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_steer.interventions import Move, project, token_norms
from interp_steer.specs import LayerSteering
from interp_steer.tokens import TokenChunk


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompiledLayer:
    """Everything that a plan does at one layer."""

    layer: int
    """Zero-based."""
    v_hat: Float[Tensor, "d_model"]
    """Unit direction of the probe, float32."""
    slots: tuple[LayerSteering, ...]
    """The different specs at this layer."""
    slot_of_row: Int[Tensor, "row"] | None
    """Slot of every row of the call, -1 where it is not steered here; None if all rows have
    slot 0, however many there are."""

    def of_row(self, row: int) -> LayerSteering | None:
        """Return what is done to one row of the call at this layer, if anything."""
        if self.slot_of_row is None:
            return self.slots[0]
        slot = int(self.slot_of_row[row])
        return None if slot < 0 else self.slots[slot]


@dataclass(frozen=True, slots=True, kw_only=True)
class HookRecord:
    """What one layer's hook saw and did in one forward call, for the rows it steers.

    It refers to the residual streams themselves and computes norms and the new projection only
    when asked: a recorder takes what it needs at once and lets go of the record, or every step's
    residual streams stay in memory.
    """

    steering: CompiledLayer
    """The layer and its specs."""
    chunk: TokenChunk
    """The tokens."""
    among: Bool[Tensor, "batch pos 1"] | None
    """The tokens in scope; None where all are."""
    moved: Move
    """What the law did, in the coordinates sign * rho, each [batch, pos, 1]."""
    sign: Float[Tensor, "#batch 1 1"] | None
    """+1 aligned, -1 reversed; None where no row is reversed."""
    rho: Float[Tensor, "batch pos 1"]
    """<h, v_hat> as it arrived, float32, activation units."""
    resid_before: Float[Tensor, "batch pos d_model"]
    """h as it arrived, in the model's dtype."""
    resid_after: Float[Tensor, "batch pos d_model"]
    """h' as it left."""
    v_hat: Float[Tensor, "d_model"]
    """Unit direction of the probe, float32, where the tensors are."""

    @property
    def rows(self) -> Int[Tensor, "batch"]:
        """Index of each row in the call."""
        return self.chunk.rows

    @property
    def positions(self) -> Int[Tensor, "batch pos"]:
        """Position in the sequence; -1 at padding."""
        return self.chunk.positions

    @property
    def segments(self) -> Int[Tensor, "batch pos"]:
        """`Segment` values; -1 at padding."""
        return self.chunk.segments

    @property
    def in_scope(self) -> Bool[Tensor, "batch pos"]:
        """The scope let the method look at the token."""
        return self.chunk.is_real if self.among is None else self.among[..., 0]

    @property
    def projection_before(self) -> Float[Tensor, "batch pos"]:
        """<h, v_hat> as it arrived, float32, activation units."""
        return self.rho[..., 0]

    @property
    def fired(self) -> Bool[Tensor, "batch pos"]:
        """In scope, and the gate let the method act."""
        return self.moved.fired[..., 0]

    @property
    def capped(self) -> Bool[Tensor, "batch pos"]:
        """Fired, and shortened by the cap."""
        return self.moved.capped[..., 0]

    @property
    def shift(self) -> Float[Tensor, "batch pos"]:
        """Signed distance that h was moved along the unit edit direction, float32.

        Before rounding to the model's dtype; exactly 0 where not fired.
        """
        shift = self.moved.shift if self.sign is None else self.sign * self.moved.shift
        return shift[..., 0]

    @property
    def projection_after(self) -> Float[Tensor, "batch pos"]:
        """<h', v_hat> as it left, rounded to the model's dtype."""
        return project(self.resid_after, self.v_hat)

    @property
    def delta_norm(self) -> Float[Tensor, "batch pos"]:
        """|h' - h| as it left, rounded to the model's dtype."""
        return (self.resid_after.to(torch.float32) - self.resid_before.to(torch.float32)).norm(
            dim=-1
        )

    @property
    def norm(self) -> Float[Tensor, "batch pos"]:
        """|h| in float32."""
        return token_norms(self.resid_before)


@runtime_checkable
class Recorder(Protocol):
    """Receives what hooks did, within the forward pass: it must not wait for the device.

    A recorder that needs tokens in scope only may say so by an attribute `only_in_scope = True`.
    Rows then may share the run of a prompt in which they have no token in scope; another recorder
    would miss that prompt's tokens for all of them but one, and is refused there.
    """

    def record(self, record: HookRecord) -> None:
        """Take what is wanted of `record`; its tensors are not written to afterwards."""
        ...
