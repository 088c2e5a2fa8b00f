"""Directions and boundaries: per layer, one unit vector and the statistics of projections on it.

A probe is what steering needs to know of a layer: the direction v_hat, the boundary m where the
gate opens, and mean and spread of both sides along v_hat. Everything downstream reads these numbers
and none of it knows how they were fitted (`planes` lists the methods). A probe that reads a trait
well does not thereby steer it: *decodable* is not *used*.

Fitting is in float64 on the CPU. v_hat is then rounded to float32, and boundary and statistics are
those of the rounded vector, the one that is applied.
"""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from interp_steer.errors import ProbeError, RunError
from interp_steer.files import atomic_write_json, atomic_write_tensors, read_json, read_tensors
from interp_steer.html_tables import fixed, html_table
from interp_steer.labelled import LabelledResiduals
from interp_steer.layer_fit import fit_direction, fit_layer
from interp_steer.layer_probe import LayerProbe, probe_as_record, probe_from_record
from interp_steer.logistic import TOLERANCE
from interp_steer.model_identity import IMPLIED
from interp_steer.planes import FitMethod, span_for
from interp_steer.readability import Folds, Readability, SidePair, make_folds

__all__ = [
    "FitMethod",
    "LayerProbe",
    "ProbeSet",
    "Readability",
    "fit_probes",
    "shuffled_label_direction",
]

_REMEDY = "fit the probes again"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProbeSet:
    """Probes of several layers, with the conventions they follow and where they come from."""

    probes: tuple[LayerProbe, ...]
    """One per layer, in the order of `layers`."""
    conventions: dict[str, Any] = field(default_factory=dict)
    """How they were fitted: method, folds, definitions; values of JSON."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Model, scenarios, versions, ...; values of JSON."""

    def __post_init__(self) -> None:
        if not self.probes:
            raise ProbeError("a ProbeSet needs at least one probe, got none")
        if len(set(self.layers)) < len(self.probes):
            raise ProbeError(f"a ProbeSet has one probe a layer, got layers {self.layers}")
        if len({probe.v_hat.shape for probe in self.probes}) > 1:
            raise ProbeError("all probes of a ProbeSet must have the same d_model")

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that have a probe, zero-based."""
        return tuple(probe.layer for probe in self.probes)

    @property
    def v_hat(self) -> Float[Tensor, "layer d_model"]:
        """Unit directions, stacked in the order of `layers`."""
        return torch.stack([probe.v_hat for probe in self.probes])

    def probe(self, layer: int) -> LayerProbe:
        """Return the probe of `layer`.

        Raises:
            ProbeError: there is none.
        """
        if layer not in self.layers:
            raise ProbeError(
                f"no probe for layer {layer}; there are probes for layers "
                f"{', '.join(map(str, self.layers))}"
            )
        return self.probes[self.layers.index(layer)]

    def _repr_html_(self) -> str:
        method, model = self.conventions.get("method"), self.provenance.get("model")
        about = ", ".join(str(value) for value in (model, method) if value is not None)
        return html_table(
            f"probes of {len(self.probes)} layers" + (f" ({about})" if about else ""),
            columns=(
                *("layer", "Cohen's d", "d in-sample", "accuracy", "AUROC"),
                *("m", "delta_mu", "cosine CAA", "converged"),
            ),
            rows=[_shown(probe) for probe in self.probes],
            note="Cross-fitted unless named in-sample; m and delta_mu in activation units. "
            "A readable layer is not thereby a steerable one.",
            n_text=0,
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `probes.safetensors` and `probes.json` into `folder`, each atomically.

        The JSON carries the hash of the tensors: a writer killed between the two leaves a pair that
        `load` refuses, not one that does not belong together.
        """
        tensors = {"v_hat": self.v_hat, "layers": torch.tensor(self.layers)}
        atomic_write_tensors(Path(folder) / "probes.safetensors", tensors)
        record = {
            "layers": [probe_as_record(probe) for probe in self.probes],
            "conventions": self.conventions,
            "provenance": self.provenance,
            "v_hat_sha256": _digest(self.v_hat),
        }
        atomic_write_json(Path(folder) / "probes.json", record)

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], *, provenance: Mapping[str, Any] | None = None
    ) -> "ProbeSet":
        """Read what `save` wrote.

        Args:
            folder: the run directory, or wherever they were saved.
            provenance: entries that the stored provenance must have, e.g. the model's weight hash.

        Raises:
            ProbeError: a missing or damaged file, files that do not belong together, or a
                provenance that differs, by name.
        """
        folder = Path(folder)
        try:
            tensors, _ = read_tensors(folder / "probes.safetensors", remedy=_REMEDY)
            record = read_json(folder / "probes.json", remedy=_REMEDY)
        except RunError as error:
            raise ProbeError(str(error)) from error
        probes = _parse(record, tensors, folder)
        for name, expected in (provenance or {}).items():
            if (stored := record["provenance"].get(name, IMPLIED.get(name))) != expected:
                raise ProbeError(
                    f"the probes in {folder} were fitted with {name} = {stored!r}, expected "
                    f"{expected!r}; use what they were fitted with, or {_REMEDY}"
                )
        return cls(
            probes=probes, conventions=record["conventions"], provenance=record["provenance"]
        )


def fit_probes(
    aligned: Float[Tensor, "n_aligned layer d_model"],
    malicious: Float[Tensor, "n_malicious _layer _d_model"],
    *,
    layers: Sequence[int],
    scenario_ids: SidePair,
    system_ids: SidePair | None = None,
    n_tokens: tuple[Int[Tensor, "_n_aligned"], Int[Tensor, "_n_malicious"]] | None = None,
    method: FitMethod = "logistic",
    c: float = 1.0,
    n_folds: int = 5,
    seed: int = 42,
    provenance: Mapping[str, Any] | None = None,
) -> ProbeSet:
    """Fit one probe a layer on response-averaged residuals (eq. 1, alg. A.1; aligned = 1).

    v_hat = w / |w|, m = -b / |w|, rho = <h, v_hat>; means and stds (ddof 0) of rho over the
    responses of each side. Raw coordinates, no standardisation; the intercept is not penalised.

    Args:
        aligned: residuals of the aligned responses, any float dtype.
        malicious: residuals of the malicious responses, same layers.
        layers: zero-based layer of each place along the second axis.
        scenario_ids: scenario of each aligned and of each malicious response; both sides of a
            scenario share a fold.
        system_ids: system prompt (or its name) of each, where one serves several scenarios; see
            `readability.make_folds`.
        n_tokens: response tokens behind each row (`PooledResiduals.n_tokens`), to refuse empty
            responses by name.
        method: see `planes`.
        c: weight of the summed log-loss (scikit-learn's C); no part of mean_difference.
        n_folds: folds of the cross-fitted figures, fewer where there are fewer groups.
        seed: decides the folds.
        provenance: kept with the probes; values of JSON.

    Raises:
        ProbeError: shapes that disagree, an empty side, an empty response, activations that are not
            finite, fewer than two scenarios, or a layer where both sides have the same mean.

    Two sides that differ along the first of three dimensions, at one layer:

    Examples:
        >>> noise = torch.randn(20, 1, 3, generator=torch.Generator().manual_seed(0))
        >>> apart = torch.tensor([4.0, 0.0, 0.0])
        >>> ids = [str(i) for i in range(10)]
        >>> probes = fit_probes(noise[:10] + apart, noise[10:], layers=[4], scenario_ids=(ids, ids))
        >>> bool(probes.probe(4).v_hat[0] > 0.9), probes.probe(4).crossfit.auroc
        (True, 1.0)
    """
    if method not in get_args(FitMethod):
        raise ProbeError(f"method must be one of {get_args(FitMethod)}, got {method!r}")
    if not (math.isfinite(c) and c > 0):
        raise ProbeError(f"c must be a positive number, got {c}")
    data = LabelledResiduals(
        aligned=aligned,
        malicious=malicious,
        layers=tuple(layers),
        scenario_ids=scenario_ids,
        n_tokens=n_tokens,
    )
    if system_ids is not None and list(map(len, system_ids)) != list(map(len, scenario_ids)):
        raise ProbeError("system_ids must name one system prompt a response, like scenario_ids")
    folds = make_folds(scenario_ids, system_ids, n_folds=n_folds, seed=seed)
    progress = tqdm(data.layers, desc="probes", unit="layer", delay=2.0)
    return ProbeSet(
        probes=tuple(
            fit_layer(data.rows(place), data.is_aligned, layer, folds=folds, method=method, c=c)
            for place, layer in enumerate(progress)
        ),
        conventions=_conventions(method, c, folds, seed),
        provenance=dict(provenance or {}),
    )


def shuffled_label_direction(
    aligned: Float[Tensor, "n_aligned layer d_model"],
    malicious: Float[Tensor, "n_malicious _layer _d_model"],
    *,
    scenario_ids: SidePair,
    draw: int,
    seed: int = 42,
    method: FitMethod = "logistic",
    c: float = 1.0,
) -> Float[Tensor, "layer d_model"]:
    """Unit directions of probes whose labels are swapped in exactly half of the scenarios.

    The control of method.md: same data, same method, a contrast that is balanced in the trait.
    The draw chooses the scenarios (half of them, rounded down), the same at every layer, and
    depends on (seed, draw, scenario ids) alone.

    Raises:
        ProbeError: data that `fit_probes` would refuse, fewer than two scenarios, or a negative
            draw or seed.
    """
    data = LabelledResiduals(
        aligned=aligned,
        malicious=malicious,
        layers=tuple(range(aligned.shape[1])),
        scenario_ids=scenario_ids,
    )
    labels = shuffled_labels(scenario_ids, draw=draw, seed=seed)
    return torch.stack(
        [
            fit_direction(span_for(data.rows(place), method), labels, place, method=method, c=c)
            for place in data.layers
        ]
    )


def shuffled_labels(
    scenario_ids: SidePair, *, draw: int, seed: int
) -> Bool[np.ndarray, "response"]:
    """Labels of the responses, aligned first, as `shuffled_label_direction` swaps them.

    Raises:
        ProbeError: fewer than two scenarios, one side left empty, or a negative draw or seed.
    """
    scenarios = [*scenario_ids[0], *scenario_ids[1]]
    names = sorted(set(scenarios))
    if len(names) < 2:
        raise ProbeError(f"swapping half of the scenarios needs at least 2, got {len(names)}")
    if draw < 0 or seed < 0:
        raise ProbeError(f"draw and seed must be 0 or more, got draw {draw} and seed {seed}")
    order = np.random.default_rng([seed, draw]).permutation(len(names))
    swapped = {names[place] for place in order[: len(names) // 2]}
    is_aligned = np.arange(len(scenarios)) < len(scenario_ids[0])
    labels = is_aligned ^ np.array([scenario in swapped for scenario in scenarios])
    if np.unique(labels).size < 2:
        raise ProbeError("swapping left one side empty; give scenarios responses of both sides")
    return labels


def _shown(probe: LayerProbe) -> tuple[str, ...]:
    """One layer's cells in a notebook."""
    return (
        str(probe.layer),
        fixed(probe.crossfit.cohens_d, 2),
        fixed(probe.in_sample.cohens_d, 2),
        fixed(probe.crossfit.accuracy, 3),
        fixed(probe.crossfit.auroc, 3),
        fixed(probe.boundary, 2),
        fixed(probe.delta_mu, 2),
        fixed(probe.cosine_caa, 3),
        "yes" if probe.converged else "no",
    )


def _conventions(method: FitMethod, c: float, folds: Folds, seed: int) -> dict[str, Any]:
    is_logistic = method != "mean_difference"
    return {
        "method": method,
        "c": c if is_logistic else None,
        "solver_relative_gradient": TOLERANCE if method == "logistic" else None,
        "positive_class": "aligned",
        "site": "resid_post",
        "pooling": "mean over response tokens",
        "coordinates": "raw, not standardised",
        "intercept": "fitted, not penalised" if is_logistic else None,
        "boundary": "-b / |w|" if is_logistic else "midpoint of the projected class means",
        "std_ddof": 0,
        "cohens_d": "difference of mean margins / pooled std (ddof 0)",
        "accuracy": "rho >= boundary is aligned",
        "crossfit": {
            "n_folds": folds.n_folds,
            "n_groups": folds.n_groups,
            "grouped_by": folds.grouped_by,
            "seed": seed,
            "pooled": "margins rho - m, each by its fold's own direction and boundary",
        },
        "fit_dtype": "float64",
        "v_hat_dtype": "float32",
    }


def _parse(record: Any, tensors: Mapping[str, Tensor], folder: Path) -> tuple[LayerProbe, ...]:
    try:
        v_hat, layers = tensors["v_hat"], tensors["layers"].tolist()
        entries = record["layers"]
        written = [entry["layer"] for entry in entries]
        if record["v_hat_sha256"] != _digest(v_hat) or layers != written:
            raise ProbeError(
                f"probes.safetensors (layers {layers}) and probes.json (layers {written}) in "
                f"{folder} do not belong together: the vectors are not those that the numbers were "
                f"computed for; {_REMEDY}"
            )
        if v_hat.dtype != torch.float32 or v_hat.ndim != 2:
            raise ProbeError(
                f"v_hat in {folder} must be float32 [layer, d_model], got {v_hat.dtype} "
                f"{tuple(v_hat.shape)}; {_REMEDY}"
            )
        for name in ("conventions", "provenance"):
            if not isinstance(record[name], dict):
                raise TypeError(f"{name} is no object")
        return tuple(probe_from_record(e, v) for e, v in zip(entries, v_hat, strict=True))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProbeError(
            f"the probe files in {folder} do not fit this version ({repr(error)[:300]}); {_REMEDY}"
        ) from error


def _digest(v_hat: Float[Tensor, "layer d_model"]) -> str:
    return hashlib.sha256(v_hat.contiguous().numpy().tobytes()).hexdigest()
