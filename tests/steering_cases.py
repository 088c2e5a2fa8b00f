"""Probes, token chunks and residuals for steering tests, made up without a model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp_steer.probes import LayerProbe, ProbeSet, Readability
from interp_steer.tokens import Segment, TokenChunk

D_MODEL = 12


def normals(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_probe(seed: int, *, layer: int = 0, d_model: int = D_MODEL, **changes: Any) -> LayerProbe:
    """A probe with a random direction and plausible, unequal statistics."""
    v_hat = normals(seed, d_model)
    readability = Readability(cohens_d=3.0, accuracy=0.9, auroc=0.95)
    values: dict[str, Any] = {
        "layer": layer,
        "v_hat": v_hat / v_hat.norm(),
        "boundary": 0.1,
        "mu_pos": 1.2,
        "sigma_pos": 0.3,
        "mu_neg": -0.9,
        "sigma_neg": 0.45,
        "delta_mu": 2.1,
        "cosine_caa": 0.97,
        "converged": True,
        "crossfit": readability,
        "in_sample": readability,
    }
    return LayerProbe(**(values | changes))


def probe_set(probes: tuple[LayerProbe, ...]) -> ProbeSet:
    return ProbeSet(probes=probes, conventions={}, provenance={})


def make_probes(
    seed: int, *, layers: Sequence[int], d_model: int = D_MODEL, **changes: Any
) -> ProbeSet:
    return probe_set(
        tuple(
            make_probe(seed + 100 * layer, layer=layer, d_model=d_model, **changes)
            for layer in layers
        )
    )


def chunk_of(
    n_rows: int,
    width: int,
    *,
    prompt: int = 0,
    padding: Sequence[int] | None = None,
    rows: Sequence[int] | None = None,
    piece: tuple[int, int] | None = None,
) -> TokenChunk:
    """Columns `piece` of a right-aligned batch: padding, USER up to column `prompt`, RESPONSE."""
    pad = torch.tensor(padding or [0] * n_rows)[:, None]
    column = torch.arange(width)[None].expand(n_rows, -1)
    is_pad, in_response = column < pad, column >= prompt
    segments = torch.where(in_response, int(Segment.RESPONSE), int(Segment.USER))
    columns = slice(*(piece or (0, width)))
    return TokenChunk(
        rows=torch.tensor(list(range(n_rows)) if rows is None else list(rows)),
        token_ids=torch.zeros(n_rows, width, dtype=torch.long)[:, columns],
        segments=segments.masked_fill(is_pad, int(Segment.PAD))[:, columns],
        positions=(column - pad).masked_fill(is_pad, -1)[:, columns],
        response_index=torch.where(in_response, column - prompt, -1)[:, columns],
        is_last_prompt=(column == prompt - 1)[:, columns],
    )
