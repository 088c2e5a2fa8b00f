"""Residuals with their labels, checked once: what probes can be fitted from.

A NaN, an empty response or a row without its scenario would give a probe that looks like any
other. Everything a caller can get wrong is therefore refused here, by name, before anything is
fitted. (Axes spelled with an underscore are compared here and not by the type checker, so that the
caller gets the sentence.) That rows are well formed does not make their labels right.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_steer.errors import ProbeError
from interp_steer.readability import SidePair

SIDES = ("aligned", "malicious")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledResiduals:
    """Pooled residuals of both sides, one row a response."""

    aligned: Float[Tensor, "n_aligned layer d_model"]
    """Aligned responses; any float dtype, any device."""
    malicious: Float[Tensor, "n_malicious _layer _d_model"]
    """Malicious responses; same layers and width."""
    layers: tuple[int, ...]
    """Zero-based layer of each place along the second axis."""
    scenario_ids: SidePair
    """Scenario of each response."""
    n_tokens: tuple[Int[Tensor, "_n_aligned"], Int[Tensor, "_n_malicious"]] | None = None
    """Response tokens that each row is a mean of, where known."""

    def __post_init__(self) -> None:
        self._check_shapes()
        for side, values in zip(SIDES, (self.aligned, self.malicious), strict=True):
            self._check_tokens(side)
            self._check_finite(side, values)

    @property
    def is_aligned(self) -> Bool[np.ndarray, "response"]:
        """Label of each row of `rows`."""
        return np.arange(len(self.aligned) + len(self.malicious)) < len(self.aligned)

    def rows(self, place: int) -> Float[np.ndarray, "response d_model"]:
        """Rows of one layer in float64, aligned first; one layer at a time keeps memory small."""
        sides = [values[:, place].detach().cpu().double() for values in self._sides()]
        return torch.cat(sides).numpy()

    def _sides(self) -> tuple[Tensor, Tensor]:
        return (self.aligned, self.malicious)

    def _check_shapes(self) -> None:
        for side, values, ids in zip(SIDES, self._sides(), self.scenario_ids, strict=True):
            if values.ndim != 3:
                raise ProbeError(
                    f"{side} residuals must have shape [response, layer, d_model], got "
                    f"{tuple(values.shape)}"
                )
            if not len(values):
                raise ProbeError(f"a probe needs responses of both sides, got none that is {side}")
            if len(ids) != len(values):
                raise ProbeError(
                    f"scenario_ids must name the scenario of each of the {len(values)} {side} "
                    f"responses, got {len(ids)} ids"
                )
        if self.aligned.shape[1:] != self.malicious.shape[1:]:
            raise ProbeError(
                "aligned and malicious residuals must agree in layers and d_model, got "
                f"{tuple(self.aligned.shape[1:])} and {tuple(self.malicious.shape[1:])}"
            )
        if sorted(set(self.layers)) != sorted(self.layers) or (
            len(self.layers) != self.aligned.shape[1]
        ):
            raise ProbeError(
                f"layers must name each of the {self.aligned.shape[1]} layers once, got "
                f"{self.layers}"
            )
        if not math.prod(self.aligned.shape):
            raise ProbeError(
                f"residuals need at least one layer and dimension, got {tuple(self.aligned.shape)}"
            )

    def _check_tokens(self, side: str) -> None:
        if self.n_tokens is None:
            return
        place = SIDES.index(side)
        counts, values = self.n_tokens[place], self._sides()[place]
        if counts.shape != (len(values),):
            raise ProbeError(
                f"n_tokens must have one count for each of the {len(values)} {side} responses, got "
                f"shape {tuple(counts.shape)}"
            )
        if empty := torch.nonzero(counts <= 0).flatten().tolist():
            raise ProbeError(
                f"{len(empty)} {side} response(s) have no tokens, so no mean exists: "
                f"{_named(empty, self.scenario_ids[place])}; leave them out or generate again"
            )

    def _check_finite(self, side: str, values: Tensor) -> None:
        bad = ~torch.isfinite(values).all(dim=2)
        if not bad.any():
            return
        response, layer = (int(index) for index in torch.nonzero(bad)[0])
        name = _named([response], self.scenario_ids[SIDES.index(side)])
        raise ProbeError(
            f"activations must be finite, got NaN or infinity at layer {self.layers[layer]} in "
            f"{side} {name} ({int(bad.sum())} such response(s) and layers on this side); an empty "
            "response or an overflowing dtype does that, so leave it out or use bfloat16 or float32"
        )


def _named(responses: list[int], ids: Sequence[str]) -> str:
    shown = ", ".join(f"response {i} (scenario {ids[i]!r})" for i in responses[:3])
    return shown + (", ..." if len(responses) > 3 else "")
