"""Response-averaged residual streams, summed inside the hooks.

Running float32 sums, so that memory holds [response, layer, d_model] whatever the length of the
responses. At a decoding step of few rows an operation costs what it costs to launch: there a layer
only sets its token's residual stream aside, and the last layer of the pass adds all of them up.
What is set aside is copied into a place that is used again: whoever gets the tensor next may write
to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_steer.errors import ModelError
from interp_steer.tokens import ResidHook, Segment, TokenChunk

SMALL_STEP = 2**20
"""Values of a step's residual streams, all layers together, that may be set aside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledResiduals:
    """Mean of resid_post over the response tokens of each response, at some layers."""

    values: Float[Tensor, "response layer d_model"]
    """float32 on the CPU; NaN where a response has no tokens."""
    layers: tuple[int, ...]
    """Zero-based layers, in the order of the second axis."""
    n_tokens: Int[Tensor, "response"]
    """Response tokens averaged, PREFILL, end-of-turn and padding left out."""

    def __post_init__(self) -> None:
        if self.values.shape[:2] != (len(self.n_tokens), len(self.layers)):
            raise ModelError(
                f"pooled residuals of {len(self.n_tokens)} responses at {len(self.layers)} layers "
                f"cannot have shape {tuple(self.values.shape)}"
            )


def captured_layers(layers: Sequence[int]) -> tuple[int, ...]:
    """Return `layers` as they were given.

    Raises:
        ModelError: no layers, or a layer twice.
    """
    if not layers or len(set(layers)) != len(layers):
        raise ModelError(
            f"expected at least one layer and none twice, got {list(layers)}; name each layer to "
            "capture once"
        )
    return tuple(layers)


class PooledCapture:
    """Running sums of resid_post over RESPONSE tokens; a set of hooks for one forward or generate.

    Use `lm.hooks(capture.hooks())` around a single call, then `result()`.
    """

    def __init__(self, n_responses: int, *, layers: Sequence[int]) -> None:
        self.layers = captured_layers(layers)
        self._n_responses = n_responses
        self._sums: dict[int, Tensor] = {}
        self._devices: list[_Device] = []
        self._device_of: dict[int, _Device] = {}
        self._step: _Step | None = None
        self._n_tokens: Tensor | None = None

    def hooks(self) -> dict[int, ResidHook]:
        """Hooks by layer; they read and never edit."""
        return {layer: self._hook(layer) for layer in self.layers}

    def _hook(self, layer: int) -> ResidHook:
        def add(resid: Float[Tensor, "batch pos d_model"], chunk: TokenChunk) -> None:
            step = self._step_of(chunk)
            if layer == self.layers[0]:
                self._count(step)
            is_small = resid.shape[1] == 1 and resid.numel() * len(self.layers) <= SMALL_STEP
            if self._devices and is_small:
                self._device_of[layer].set_aside(layer, resid)
                step.aside.add(layer)
                if len(step.aside) == len(self.layers):
                    self._add_up(step)
                return
            summed = resid.float().masked_fill(step.tokens.others[..., None], 0.0).sum(dim=1)
            self._sum_of(layer, resid).index_add_(0, chunk.rows, summed)

        return add

    def _step_of(self, chunk: TokenChunk) -> "_Step":
        """Return what is known of the forward pass that runs `chunk`."""
        if self._step is None or self._step.chunk is not chunk:
            if self._step is not None:
                self._add_up(self._step)
            self._group()
            known = None if self._step is None else self._step.tokens
            if known is None or known.segments is not chunk.segments:
                known = _Tokens.of(chunk.segments)
            self._step = _Step(chunk=chunk, tokens=known)
        return self._step

    def _sum_of(self, layer: int, resid: Tensor) -> Float[Tensor, "response d_model"]:
        if layer not in self._sums:
            shape = (self._n_responses, resid.shape[-1])
            self._sums[layer] = torch.zeros(shape, dtype=torch.float32, device=resid.device)
        return self._sums[layer]

    def _group(self) -> None:
        """Lay the sums of layers on one device side by side, once a pass has met them all."""
        if self._devices or len(self._sums) < len(self.layers):
            return
        for device in {one.device for one in self._sums.values()}:
            layers = [layer for layer in self.layers if self._sums[layer].device == device]
            sums = torch.stack([self._sums[layer] for layer in layers])
            self._sums.update(zip(layers, sums.unbind(), strict=True))
            one = _Device(layers=layers, sums=sums)
            self._devices.append(one)
            self._device_of.update(dict.fromkeys(layers, one))

    def _add_up(self, step: "_Step") -> None:
        """Add what a step has set aside."""
        rows = step.chunk.rows
        for device in self._devices:
            seen = [layer in step.aside for layer in device.layers]
            if not any(seen):
                continue
            found = device.taken(step.tokens)
            if all(seen):
                device.sums.index_add_(1, rows, found)
                continue
            for sums, summed, is_seen in zip(device.sums, found, seen, strict=True):
                if is_seen:  # the pass did not reach all layers
                    sums.index_add_(0, rows, summed)
        step.aside.clear()

    def _count(self, step: "_Step") -> None:
        rows = step.chunk.rows
        if self._n_tokens is None:
            self._n_tokens = torch.zeros(self._n_responses, dtype=torch.long, device=rows.device)
        self._n_tokens.index_add_(0, rows, step.tokens.n_of_row)

    def result(self) -> PooledResiduals:
        """Return the means so far.

        Raises:
            ModelError: no call was made under these hooks.
        """
        if self._step is not None:
            self._add_up(self._step)
        if self._n_tokens is None or len(self._sums) < len(self.layers):
            raise ModelError(
                "nothing was captured; run HookedLM.forward or generate inside "
                "`with lm.hooks(capture.hooks())` first"
            )
        sums = torch.stack([self._sums[layer].cpu() for layer in self.layers], dim=1)
        n_tokens = self._n_tokens.cpu()
        return PooledResiduals(
            values=sums / n_tokens[:, None, None], layers=self.layers, n_tokens=n_tokens.clone()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tokens:
    """Which tokens of a pass count; the passes of decoding share theirs until a row ends."""

    segments: Int[Tensor, "batch pos"]
    others: Bool[Tensor, "batch pos"]
    """Tokens that do not."""
    n_of_row: Int[Tensor, "batch"]
    """How many do."""
    may_be_others: bool
    """False only where it is known that all do."""

    @classmethod
    def of(cls, segments: Int[Tensor, "batch pos"]) -> "_Tokens":
        others = segments != Segment.RESPONSE
        return cls(
            segments=segments,
            others=others,
            n_of_row=(~others).sum(dim=1),
            may_be_others=not others.is_cpu or bool(others.any()),
        )


@dataclass(slots=True, kw_only=True)
class _Device:
    """The layers of one device: their sums, and the residual streams of a decoding step."""

    layers: list[int]
    sums: Float[Tensor, "layer response d_model"]
    _aside: Tensor | None = None
    _places: dict[int, Tensor] = field(default_factory=dict)

    def set_aside(self, layer: int, resid: Float[Tensor, "batch 1 d_model"]) -> None:
        """Copy a layer's residual stream of one position."""
        place = self._places.get(layer)
        if place is None or place.shape != resid.shape:  # the first step, or after rows have left
            self._aside = resid.new_empty((len(self.layers), *resid.shape))
            self._places = dict(zip(self.layers, self._aside.unbind(), strict=True))
            place = self._places[layer]
        place.copy_(resid)

    def taken(self, tokens: _Tokens) -> Float[Tensor, "layer batch d_model"]:
        """Return what lies in the places of all layers, 0 for tokens that do not count."""
        if self._aside is None:
            raise RuntimeError("residual streams are added up before any was set aside")
        found = self._aside[:, :, 0].float()
        # Masked, not multiplied: what stands at padding may be anything, infinity included.
        return found.masked_fill(tokens.others, 0.0) if tokens.may_be_others else found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One forward pass, as the layers of one device see it."""

    chunk: TokenChunk
    tokens: _Tokens
    aside: set[int] = field(default_factory=set)
    """Layers whose residual streams are set aside."""
