"""Residual streams of responses: response-averaged for probes, per token for distributions.

Pooling happens inside the hooks (`pooled_capture`), so memory holds [response, layer, d_model] and
never [layer, token, d_model], while generating as well as teacher-forced. What is captured is
the stream as it leaves a block *after* the hooks attached before: inside a steering context it is
the steered one. That a trait is linearly decodable from these residuals does not establish that the
model uses it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from interp_steer.errors import ModelError, RunError
from interp_steer.files import atomic_write_tensors, open_tensors, read_tensors
from interp_steer.model import HookedLM
from interp_steer.model_identity import IMPLIED
from interp_steer.pooled_capture import PooledCapture, PooledResiduals, captured_layers
from interp_steer.sampling import Generation, GenerationSettings
from interp_steer.tokens import ResidHook, TokenChunk, TokenizedPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedGenerations:
    """Sampled responses with their pooled residuals, in one order."""

    generations: tuple[Generation, ...]
    """One response per prompt."""
    residuals: PooledResiduals
    """Pooled while sampling, the last sampled token included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenResiduals:
    """Residuals of the single tokens of one batch of sequences, at one layer."""

    layer: int
    """Zero-based layer."""
    values: Float[Tensor, "token d_model"]
    """resid_post of every real token, float32 on the CPU; row after row, by position."""
    sequences: Int[Tensor, "token"]
    """Index of the token's sequence in the caller's list."""
    positions: Int[Tensor, "token"]
    """Position in the sequence, from 0."""
    segments: Int[Tensor, "token"]
    """`Segment` values."""
    token_ids: Int[Tensor, "token"]
    """Token ids."""


def capture_generated(
    lm: HookedLM,
    prompts: Sequence[TokenizedPrompt],
    settings: GenerationSettings,
    *,
    sample_keys: Sequence[str],
    layers: Sequence[int] | None = None,
    batch_size: int = 256,
) -> CapturedGenerations:
    """Sample one response per prompt and pool its residuals on the way.

    Args:
        lm: the model.
        prompts: tokenized prompts.
        settings: sampling settings.
        sample_keys: one per prompt, see `HookedLM.generate`.
        layers: zero-based; all by default.
        batch_size: rows per batch; changes nothing but memory and speed.

    Raises:
        ModelError: see `HookedLM.generate` and `HookedLM.hooks`.
    """
    if len(prompts) != len(sample_keys):
        raise ModelError(
            f"one sample key per prompt is needed, got {len(prompts)} prompts and "
            f"{len(sample_keys)} keys"
        )
    generations: list[Generation] = []
    pooled: list[PooledResiduals] = []
    for start in _batch_starts(len(prompts), batch_size, "generating"):
        batch = prompts[start : start + batch_size]
        keys = sample_keys[start : start + batch_size]
        capture = PooledCapture(len(batch), layers=_layers_of(lm, layers))
        with lm.hooks(capture.hooks()):
            generations += lm.generate(batch, settings, sample_keys=keys)
        pooled.append(capture.result())
    return CapturedGenerations(
        generations=tuple(generations), residuals=concatenate_residuals(pooled)
    )


def capture_teacher_forced(
    lm: HookedLM,
    sequences: Sequence[TokenizedPrompt],
    *,
    layers: Sequence[int] | None = None,
    batch_size: int = 32,
) -> PooledResiduals:
    """Pool the residuals of given responses (`Generation.sequence`) in one pass each.

    Equals what `capture_generated` pools for the same tokens up to float noise: sums are float32
    in another order, and the keys and values come from one call instead of a cache.

    Raises:
        ModelError: see `HookedLM.forward` and `HookedLM.hooks`.
    """
    pooled: list[PooledResiduals] = []
    for start in _batch_starts(len(sequences), batch_size, "reading residuals"):
        batch = sequences[start : start + batch_size]
        capture = PooledCapture(len(batch), layers=_layers_of(lm, layers))
        with lm.hooks(capture.hooks()):
            lm.forward(batch, return_logits=False)
        pooled.append(capture.result())
    return concatenate_residuals(pooled)


def stream_token_residuals(
    lm: HookedLM,
    sequences: Sequence[TokenizedPrompt],
    *,
    layers: Sequence[int] | None = None,
    batch_size: int = 8,
) -> Iterator[TokenResiduals]:
    """Yield the residuals of every real token, one batch and layer after another.

    Memory holds one batch: batch_size x longest sequence x layers x d_model floats.

    Raises:
        ModelError: see `HookedLM.forward` and `HookedLM.hooks`.
    """
    wanted = _layers_of(lm, layers)
    for start in _batch_starts(len(sequences), batch_size, "reading token residuals"):
        read: dict[int, TokenResiduals] = {}
        hooks = {layer: _token_reader(read, layer, start) for layer in wanted}
        with lm.hooks(hooks):
            lm.forward(sequences[start : start + batch_size], return_logits=False)
        yield from (read.pop(layer) for layer in wanted)


def _token_reader(read: dict[int, TokenResiduals], layer: int, first: int) -> ResidHook:
    def keep(resid: Float[Tensor, "batch pos d_model"], chunk: TokenChunk) -> None:
        is_real = chunk.is_real
        rows = (chunk.rows + first)[:, None].expand_as(is_real)
        read[layer] = TokenResiduals(
            layer=layer,
            values=resid[is_real].float().cpu(),
            sequences=rows[is_real].cpu(),
            positions=chunk.positions[is_real].cpu(),
            segments=chunk.segments[is_real].cpu(),
            token_ids=chunk.token_ids[is_real].cpu(),
        )

    return keep


def _layers_of(lm: HookedLM, layers: Sequence[int] | None) -> tuple[int, ...]:
    return tuple(range(lm.n_layers)) if layers is None else captured_layers(layers)


def _batch_starts(n: int, batch_size: int, what: str) -> Iterator[int]:
    if n == 0:
        raise ModelError(f"{what} needs at least one sequence, got none")
    if batch_size < 1:
        raise ModelError(f"batch_size must be at least 1, got {batch_size}")
    starts = range(0, n, batch_size)
    yield from tqdm(starts, desc=what, unit="batch", disable=len(starts) < 2, leave=False)


def concatenate_residuals(parts: Sequence[PooledResiduals]) -> PooledResiduals:
    """Return the responses of all parts, one after another.

    Raises:
        ModelError: no parts, or parts that differ in their layers.
    """
    if not parts or any(part.layers != parts[0].layers for part in parts):
        raise ModelError(
            "residuals can be joined when there is at least one part and all have the same "
            f"layers, got layers {[part.layers for part in parts]}"
        )
    return PooledResiduals(
        values=torch.cat([part.values for part in parts]),
        layers=parts[0].layers,
        n_tokens=torch.cat([part.n_tokens for part in parts]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualPair:
    """The pooled residuals that probes are fitted on."""

    aligned: PooledResiduals
    """Responses under the aligned prompts."""
    malicious: PooledResiduals
    """Responses under the malicious prompts."""
    provenance: dict[str, Any]
    """What they come from: model, scenarios, seed, versions; JSON values."""


def save_residuals(path: Path, pair: ResidualPair) -> None:
    """Write `residuals.safetensors`: `aligned`, `malicious`, `layers` and the token counts.

    Raises:
        ModelError: the two sides have different layers.
        RunError: the file cannot be written.
    """
    if pair.aligned.layers != pair.malicious.layers:
        raise ModelError(
            f"both sides need the same layers, got {pair.aligned.layers} (aligned) and "
            f"{pair.malicious.layers} (malicious)"
        )
    tensors = {
        "aligned": pair.aligned.values,
        "malicious": pair.malicious.values,
        "layers": torch.tensor(pair.aligned.layers),
        "n_tokens_aligned": pair.aligned.n_tokens,
        "n_tokens_malicious": pair.malicious.n_tokens,
    }
    provenance = json.dumps(pair.provenance, sort_keys=True)
    atomic_write_tensors(path, tensors, {"provenance": provenance})


def load_residuals(path: Path, *, expected: Mapping[str, Any] | None = None) -> ResidualPair:
    """Read what `save_residuals` wrote.

    Args:
        path: the file.
        expected: provenance entries that must be recorded there with these values.

    Raises:
        RunError: a missing or damaged file, or provenance that differs, by name.
    """
    tensors, metadata = read_tensors(path, remedy=CAPTURE_AGAIN)
    try:
        provenance = json.loads(metadata["provenance"])
        pair = ResidualPair(
            aligned=_side(tensors, "aligned"),
            malicious=_side(tensors, "malicious"),
            provenance=provenance,
        )
        if not isinstance(provenance, dict):
            raise TypeError("its provenance is no object")
    except (LookupError, TypeError, ValueError, RecursionError, ModelError) as error:
        raise RunError(
            f"{path} is not a residuals file of this library ({str(error)[:300]}); {CAPTURE_AGAIN}"
        ) from error
    for name, value in (expected or {}).items():
        if (stored := provenance.get(name, IMPLIED.get(name))) != value:
            raise RunError(
                f"{path} was captured with {name} = {stored!r}, expected {value!r}; "
                f"{CAPTURE_AGAIN}, or use the run that it belongs to"
            )
    return pair


def load_pooled(path: Path, side: str, *, layer: int) -> Float[Tensor, "response d_model"]:
    """Read one side's residuals at one layer of what `save_residuals` wrote, and nothing else.

    Raises:
        RunError: a missing or damaged file, or one without that layer.
    """
    with open_tensors(path, remedy=CAPTURE_AGAIN) as file:
        layers = _layers(file.get_tensor("layers"))
        if layer not in layers:
            raise RunError(
                f"{path} has no layer {layer}; it has {', '.join(map(str, layers))}; "
                f"{CAPTURE_AGAIN}, or use the run that it belongs to"
            )
        values = file.get_slice(side)
        if len(values.get_shape()) != 3 or values.get_shape()[1] != len(layers):
            raise ValueError(f"the residuals have shape {values.get_shape()}")
        return file.get_slice(side)[:, layers.index(layer)].float()


CAPTURE_AGAIN = "remove it and capture again"


def _side(tensors: Mapping[str, Tensor], side: str) -> PooledResiduals:
    return PooledResiduals(
        values=_floats(tensors[side]),
        layers=_layers(tensors["layers"]),
        n_tokens=tensors[f"n_tokens_{side}"],
    )


def _floats(values: Tensor) -> Tensor:
    if values.ndim != 3 or not values.is_floating_point():
        raise ValueError(f"the residuals are {values.dtype} of shape {list(values.shape)}")
    return values


def _layers(stored: Tensor) -> tuple[int, ...]:
    if stored.ndim != 1 or stored.is_floating_point() or stored.dtype == torch.bool:
        raise ValueError(f"the layers are {stored.dtype} of shape {list(stored.shape)}")
    return tuple(stored.tolist())
