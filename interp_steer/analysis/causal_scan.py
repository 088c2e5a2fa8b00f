"""Where the trait lives: patch one layer and segment, see how far the malicious prompt is undone.

Readable is not steerable: a probe may read the trait at tokens that nothing later looks at. Here
every response is teacher-forced under both prompts, and at one layer and one segment the component
of resid_post along v_hat under the malicious prompt is replaced by its value under the aligned one:

    effect = (LO_patched - LO_malicious) / (LO_aligned - LO_malicious)

with LO of `contrasts`. A full overwrite is the upper bound; over response positions it tends to 1
by construction and ranks nothing. Two controls: the same replacement along a random unit vector,
and v_hat's own shift applied along one (norm and sign matched). What it does not establish: that a
*constant* edit, which is what steering makes, does what the matched values do.

Source: this project's (method.md, "Where the trait lives").
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_steer.analysis.contrasts import (
    Contrast,
    ContrastBatch,
    LogOdds,
    after_system,
    system_tokens,
)
from interp_steer.controls import random_direction
from interp_steer.errors import InterpSteerError
from interp_steer.interventions import edit, project
from interp_steer.model import HookedLM
from interp_steer.probes import LayerProbe
from interp_steer.tokens import ResidHook, Segment, TokenChunk, TokenizedPrompt

PatchKind = Literal["v_hat", "full", "random_direction", "random_shift"]
"""v_hat: the component along it. full: the whole residual. random_direction: the component along a
random unit vector. random_shift: v_hat's shift, along a random unit vector."""

ScanSegment = Literal["system", "user", "template", "response", "after_system", "all"]
"""system: the system prompt's text. user: the user's message. template: the chat template's tokens
after the system prompt. response: the response's tokens. after_system: whatever follows the system
prompt, these three. all: both prompts' ends, system and after_system."""

SHIFT_SEEN = 0.02
"""Mean total variation of next-token distributions above which shifted positions changed them:
rounding stays well below, learned positions well above."""


class ScanError(InterpSteerError):
    """A scan that cannot be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """What is replaced, and where."""

    kind: PatchKind | str
    """See `PatchKind`."""
    segment: ScanSegment | str
    """See `ScanSegment`."""
    draw: int = 0
    """Number of the random vector; 0 for the others."""

    def __post_init__(self) -> None:
        for name, choices in (("kind", PatchKind), ("segment", ScanSegment)):
            if (value := getattr(self, name)) not in get_args(choices):
                raise ScanError(f"{name} must be one of {get_args(choices)}, got {value!r}")


def scan_patches(segments: Sequence[ScanSegment], *, n_draws: int) -> tuple[Patch, ...]:
    """The patches of one layer: v_hat, the upper bound, and `n_draws` of both controls."""
    return tuple(
        Patch(kind=kind, segment=segment, draw=draw)
        for segment in segments
        for kind, draws in (
            ("v_hat", 1),
            ("full", 1),
            ("random_direction", n_draws),
            ("random_shift", n_draws),
        )
        for draw in range(draws)
    )


def batched(contrasts: Sequence[Contrast], size: int) -> tuple[ContrastBatch, ...]:
    """Lay out contrasts in batches of `size`, those of similar length together.

    Raises:
        ScanError: no contrasts, or a size below 1.
    """
    if not contrasts or size < 1:
        raise ScanError(
            f"a scan needs contrasts and a batch size from 1, got {len(contrasts)} and {size}"
        )
    ordered = sorted(contrasts, key=_length)
    return tuple(
        ContrastBatch.of(ordered[start : start + size]) for start in range(0, len(ordered), size)
    )


def _length(contrast: Contrast) -> int:
    responses = (contrast.aligned_response, contrast.malicious_response)
    return max(len(contrast.aligned), len(contrast.malicious)) + max(map(len, responses))


def has_absolute_positions(lm: HookedLM, sequence: TokenizedPrompt, *, shift: int = 8) -> bool:
    """Whether moving a whole sequence to later position ids changes what the model says.

    Measured, not read from a config: rotary and other relative positions give the same next-token
    distributions but for rounding. False too for a model that takes no position ids.
    """
    room = lm.n_ctx - len(sequence)
    if not lm.takes_positions or room < 1:
        return False
    here = lm.forward([sequence])
    there = lm.forward([sequence], first_positions=[min(shift, room)])
    if here is None or there is None:
        raise ScanError("the model returned no logits")
    apart = here.float().softmax(dim=2) - there.float().softmax(dim=2)
    return bool(apart.abs().sum(dim=2).mean() / 2 > SHIFT_SEEN)


def scan_layer(
    lm: HookedLM,
    batch: ContrastBatch,
    probe: LayerProbe,
    patches: Sequence[Patch],
    *,
    seed: int = 42,
) -> Iterator[tuple[Patch, LogOdds]]:
    """Yield each patch with LO under the malicious prompt and that patch.

    Costs one forward pass of the batch for the aligned residuals and one a patch.

    Args:
        lm: the model that the probe was fitted on.
        batch: what is teacher-forced.
        probe: layer and v_hat.
        patches: what to replace.
        seed: with layer and draw it fixes the random vectors.

    Raises:
        ModelError: a sequence that the model cannot take.
    """
    donor = _Donor.read(lm, batch, probe.layer)
    equal = lm.takes_positions
    for patch in patches:
        hook = _hook(patch, probe, donor, seed)
        with lm.hooks({probe.layer: hook}):
            yield patch, batch.log_odds(lm, prompt="malicious", equal_positions=equal)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Donor:
    """Residuals of one layer under the aligned prompts, right-aligned like every batch."""

    values: Float[Tensor, "batch pos d_model"]
    is_system: Bool[Tensor, "batch pos"]
    n_shared: Int[Tensor, "batch"]

    @classmethod
    def read(cls, lm: HookedLM, batch: ContrastBatch, layer: int) -> "_Donor":
        found: list[_Donor] = []
        n_shared = torch.tensor(batch.n_shared)

        def keep(resid: Float[Tensor, "batch pos d_model"], chunk: TokenChunk) -> None:
            shared = n_shared.to(resid.device)
            is_system = system_tokens(chunk, shared)
            found.append(cls(values=resid.clone(), is_system=is_system, n_shared=shared))

        sequences, positions = batch.side("aligned")
        with lm.hooks({layer: keep}):
            lm.forward(
                sequences,
                return_logits=False,
                first_positions=positions if lm.takes_positions else None,
            )
        return found[0]

    def facing(self, chunk: TokenChunk) -> "_Donor":
        """What stands in the columns of `chunk`, counted from the end.

        A SYSTEM token of `chunk` that faces none (its prompt is longer) faces the mean of the
        aligned prompt's system tokens; where there are none at all, nothing.
        """
        is_system = system_tokens(chunk, self.n_shared)
        values = _right_aligned(self.values, is_system.shape[1])
        faced = _right_aligned(self.is_system, is_system.shape[1])
        weight = self.is_system[:, :, None].to(values.dtype)
        mean = (self.values * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
        surplus = is_system & ~faced
        values = torch.where(surplus[:, :, None], mean[:, None], values)
        is_system = is_system & self.is_system.any(dim=1, keepdim=True)
        return _Donor(values=values, is_system=is_system, n_shared=self.n_shared)


def _right_aligned(values: Tensor, width: int) -> Tensor:
    """Cut or pad (with zeros) on the left to `width` columns."""
    have = values.shape[1]
    if have >= width:
        return values[:, have - width :]
    padded = values.new_zeros((values.shape[0], width, *values.shape[2:]))
    padded[:, width - have :] = values
    return padded


def _place(patch: Patch, chunk: TokenChunk, donor: _Donor) -> Bool[Tensor, "batch pos"]:
    after = after_system(chunk, donor.n_shared)
    return {
        "system": donor.is_system,
        "user": after & (chunk.segments == Segment.USER),
        "template": after & (chunk.segments == Segment.TEMPLATE),
        "response": chunk.segments == Segment.RESPONSE,
        "after_system": after,
        "all": after | donor.is_system,
    }[patch.segment]


def _hook(patch: Patch, probe: LayerProbe, donor: _Donor, seed: int) -> ResidHook:
    read, write = _vectors(patch, probe, seed)

    def replace(
        resid: Float[Tensor, "batch pos d_model"], chunk: TokenChunk
    ) -> Float[Tensor, "batch pos d_model"]:
        facing = donor.facing(chunk)
        place = _place(patch, chunk, facing)
        if patch.kind == "full":
            return torch.where(place[:, :, None], facing.values, resid)
        wanted = project(facing.values, read.to(resid.device))
        shift = torch.where(place, wanted - project(resid, read.to(resid.device)), 0.0)
        return edit(resid, write.to(resid.device), shift)

    return replace


def _vectors(
    patch: Patch, probe: LayerProbe, seed: int
) -> tuple[Float[Tensor, "d_model"], Float[Tensor, "d_model"]]:
    """The unit vector that is read, and the one that is written along."""
    if patch.kind in ("v_hat", "full"):
        return probe.v_hat, probe.v_hat
    d_model = probe.v_hat.shape[0]
    other = random_direction(d_model, draw=patch.draw, layer=probe.layer, seed=seed)
    return (other if patch.kind == "random_direction" else probe.v_hat), other
