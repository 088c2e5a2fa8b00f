"""Projections of responses and single tokens by layer, side and scope, for re-thresholding.

Tokens are those of the training responses, unsteered, teacher-forced: what a moved boundary would
fire on in them. A steered response has other tokens.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from interp_steer.analysis.frames import numbers
from interp_steer.plots.figure_files import MissingStageError
from interp_steer.plots.from_probes import pooled_sample
from interp_steer.plots.sources import RunSource
from interp_steer.plots.token_scopes import scope_mask
from interp_steer.report.parts import packed

SIDES = ("aligned", "malicious")
WHOLE = {"all": ("prompt", "response"), "prompt": ("prompt",), "response": ("response",)}
"""Scope to the disjoint sets of tokens that it is the union of; another scope is a set itself."""


def pooled_part(source: RunSource) -> dict[str, Any]:
    """Response-averaged projections of both sides at every layer."""
    found = {}
    for probe in source.probes.probes:
        sample = pooled_sample(source, probe)
        found[str(probe.layer)] = {
            side: packed(getattr(sample, side), f"{side} projections of responses")
            for side in SIDES
        }
    return {"layers": found}


def tokens_part(source: RunSource, scopes: Sequence[str]) -> dict[str, Any]:
    """Projections of single tokens at every layer, as sets of which each scope is the union.

    Raises:
        MissingStageError: the run has no token projections, or none of one side.
    """
    sets = {scope: WHOLE.get(scope, (scope,)) for scope in scopes}
    needed = list(dict.fromkeys(name for names in sets.values() for name in names))
    layers = {}
    for layer in source.probes.layers:
        frame = _tokens(source, layer)
        masks = {name: scope_mask(frame, name) for name in needed}
        layers[str(layer)] = {
            name: dict(_both_sides(frame, mask, name)) for name, mask in masks.items()
        }
    heads = source.projections(["segment"], [("layer", "==", source.probes.layers[0])])
    return {"sets": {k: list(v) for k, v in sets.items()}, "layers": layers} | {
        "segments": sorted(set(heads["segment"]))
    }


def _tokens(source: RunSource, layer: int) -> pd.DataFrame:
    names = ["scenario", "side", "response_index", "pos", "segment", "projection"]
    frame = source.projections(names, [("layer", "==", layer)])
    if missing := [side for side in SIDES if side not in set(frame["side"])]:
        raise MissingStageError(
            f"there are no projections of {missing[0]} tokens at layer {layer}",
            command=f"interp-steer fit --model MODEL --scenarios FILE --out {source.run.path}",
        )
    return frame


def _both_sides(
    frame: pd.DataFrame, mask: Bool[np.ndarray, "token"], name: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    values = numbers(frame, "projection")
    for side in SIDES:
        mine = mask & (frame["side"] == side).to_numpy()
        yield side, packed(values[mine], f"{side} projections of tokens in {name}")
