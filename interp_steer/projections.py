"""Projections of single tokens on the probes' directions, streamed to a table.

Probes and their statistics come from response-averaged residuals; the gate of a steering method
looks at single tokens, whose projections spread much wider about nearly the same means. This table
is what shows that difference, and what thresholds can be re-drawn on without the model. The
dot product is taken inside the hook, so memory holds [batch, layer, pos] and never d_model times
that. Tokens of one response are not independent observations: count scenarios, not rows.
"""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from interp_steer.errors import ProbeError
from interp_steer.model import HookedLM
from interp_steer.probes import LayerProbe, ProbeSet
from interp_steer.projection_files import PROJECTION_SCHEMA, write_projections
from interp_steer.tokens import ResidHook, Segment, TokenChunk, TokenizedPrompt

__all__ = ["PROJECTION_SCHEMA", "project_tokens", "projection_batches"]


def project_tokens(
    lm: HookedLM,
    sequences: Sequence[TokenizedPrompt],
    probes: ProbeSet,
    *,
    path: str | os.PathLike[str],
    scenario_ids: Sequence[str],
    sides: Sequence[str],
    response_indices: Sequence[int] | None = None,
    batch_size: int = 32,
) -> int:
    """Teacher-force `sequences` and write the projection of every real token at every probed layer.

    Memory is bounded by one batch and one stretch of the file (`projection_files`), in which rows
    stand by layer, sequence and position. The file appears when it is complete.

    Args:
        lm: the model that the probes were fitted on.
        sequences: prompts with their responses.
        probes: one direction a layer.
        path: parquet file to write.
        scenario_ids: scenario of each sequence.
        sides: side of each sequence, "aligned" or "malicious".
        response_indices: which response to its scenario each sequence is; 0 by default.
        batch_size: sequences per forward pass; changes nothing but speed and memory.

    Returns:
        The number of rows written.

    Raises:
        ProbeError: labels that are not one a sequence, or probes that are not of this model.
        ModelError: no sequences, or one that the model cannot take; nothing is written.
        RunError: the file cannot be written.
    """
    batches = projection_batches(
        lm,
        sequences,
        probes,
        scenario_ids=scenario_ids,
        sides=sides,
        response_indices=response_indices,
        batch_size=batch_size,
    )
    return write_projections(path, batches)


def projection_batches(
    lm: HookedLM,
    sequences: Sequence[TokenizedPrompt],
    probes: ProbeSet,
    *,
    scenario_ids: Sequence[str],
    sides: Sequence[str],
    response_indices: Sequence[int] | None = None,
    batch_size: int = 32,
) -> Iterator[pa.RecordBatch]:
    """Yield what `project_tokens` writes, one batch of sequences at a time.

    Rows are ordered by sequence, then layer, then position.
    """
    indices = [0] * len(sequences) if response_indices is None else list(response_indices)
    _check(lm, sequences, probes, (scenario_ids, sides, indices), batch_size)
    starts = range(0, len(sequences), batch_size)
    for start in tqdm(starts, desc="projecting tokens", unit="batch", delay=2.0, leave=False):
        stop = start + batch_size
        batch = sequences[start:stop]
        yield _record_batch(
            lm,
            batch,
            _project(lm, batch, probes),
            layers=probes.layers,
            scenario_ids=scenario_ids[start:stop],
            sides=sides[start:stop],
            indices=indices[start:stop],
        )


def _project(
    lm: HookedLM, batch: Sequence[TokenizedPrompt], probes: ProbeSet
) -> Float[Tensor, "batch layer pos"]:
    """Projections of one batch, right-aligned as in `HookedLM.forward`."""
    found: dict[int, Float[Tensor, "batch pos"]] = {}

    def reader(probe: LayerProbe) -> ResidHook:
        def read(resid: Float[Tensor, "batch pos d_model"], _chunk: TokenChunk) -> None:
            found[probe.layer] = probe.project(resid)

        return read

    with lm.hooks({probe.layer: reader(probe) for probe in probes.probes}):
        lm.forward(batch, return_logits=False)
    return torch.stack([found[layer].cpu() for layer in probes.layers], dim=1)


def _record_batch(
    lm: HookedLM,
    batch: Sequence[TokenizedPrompt],
    projections: Float[Tensor, "batch layer pos"],
    *,
    layers: Sequence[int],
    scenario_ids: Sequence[str],
    sides: Sequence[str],
    indices: Sequence[int],
) -> pa.RecordBatch:
    lengths = np.array([len(sequence) for sequence in batch])
    width = projections.shape[2]
    pos = np.broadcast_to(np.arange(width) - (width - lengths)[:, None, None], projections.shape)
    is_real: Bool[np.ndarray, "batch layer pos"] = pos >= 0
    row, layer_place, _ = np.nonzero(is_real)

    def per_token(values: Sequence[str]) -> pa.Array:
        """Repeat one value per token of the batch for each layer; stored once, referred to."""
        starts = np.cumsum(lengths) - lengths
        dictionary = pa.array(values).dictionary_encode()
        return dictionary.take(pa.array(starts[row] + pos[is_real])).cast(pa.string())

    tokens = lm.token_strings([token for sequence in batch for token in sequence.token_ids])
    names = [Segment(segment).name.lower() for s in batch for segment in s.segments]
    return pa.record_batch(
        [
            pa.array(scenario_ids, pa.string()).take(pa.array(row)),
            pa.array(sides, pa.string()).take(pa.array(row)),
            pa.array(pos[is_real], pa.int32()),
            per_token(tokens),
            per_token(names),
            pa.array(np.asarray(layers)[layer_place], pa.int32()),
            pa.array(projections.numpy()[is_real], pa.float32()),
            pa.array(np.asarray(indices)[row], pa.int32()),
        ],
        schema=PROJECTION_SCHEMA,
    )


def _check(
    lm: HookedLM,
    sequences: Sequence[TokenizedPrompt],
    probes: ProbeSet,
    labels: tuple[Sequence[object], ...],
    batch_size: int,
) -> None:
    if batch_size < 1:
        raise ProbeError(f"batch_size must be at least 1, got {batch_size}")
    for name, values in zip(("scenario_ids", "sides", "response_indices"), labels, strict=True):
        if len(values) != len(sequences):
            raise ProbeError(
                f"{name} must have one entry for each of the {len(sequences)} sequences, got "
                f"{len(values)}"
            )
    if not sequences:
        raise ProbeError("projecting needs at least one sequence, got none")
    width = probes.v_hat.shape[1]
    if width != lm.d_model or max(probes.layers) >= lm.n_layers:
        raise ProbeError(
            f"the probes (d_model {width}, layers up to {max(probes.layers)}) are not of this "
            f"model (d_model {lm.d_model}, {lm.n_layers} layers); fit them on the model they are "
            "used with"
        )
