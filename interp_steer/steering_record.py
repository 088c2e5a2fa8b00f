"""One intervention in values of JSON: what is done, with every number that is in force.

The record can be read and reimplemented without this library: the operation is a formula, and
threshold, target and cap stand in it as numbers, beside what was asked for. Reading it resolves the
spec again and refuses numbers that do not follow from each other: somebody changed one and not the
others. A record that is consistent need not be for the model at hand (`steering_files`).

What came from another format has a direction and numbers in force, but no statistics: its probes
are stand-ins (`stand_ins`), and the record says so instead of passing them off as measured. The
format is specified in docs/steering-format.md; every version that was ever written is read.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp_steer.errors import SteeringError
from interp_steer.layer_probe import LayerProbe, probe_as_record, probe_from_record
from interp_steer.names import resid_post
from interp_steer.probes import ProbeSet
from interp_steer.specs import SteeringSpec, resolve
from interp_steer.stand_ins import are_stand_ins

FORMAT = "interp-steer steering"
FORMAT_VERSION = 2
"""1: measured probes alone. 2: says whether statistics are measured or stand-ins."""

MEASURED, STAND_IN = "measured", "stand_in"

_OPERATIONS = {
    ("swfc", "aligned"): "h' = h + shift * v_hat, every token in scope",
    ("swfc", "reversed"): "h' = h + shift * v_hat, every token in scope",
    ("sttp", "aligned"): "h' = h + (target - rho) * v_hat, tokens in scope with rho < threshold",
    ("sttp", "reversed"): "h' = h + (target - rho) * v_hat, tokens in scope with rho > threshold",
    ("stmp", "aligned"): "h' = h + (min(rho + 2 * alpha * (threshold - rho), cap) - rho) * v_hat, "
    "tokens in scope with rho < threshold",
    ("stmp", "reversed"): "h' = h + (max(rho + 2 * alpha * (threshold - rho), cap) - rho) * v_hat, "
    "tokens in scope with rho > threshold",
}
_CONVENTIONS = {
    "rho": "<h, v_hat>, float32, activation units",
    "layer": "zero-based; resid_post of a layer is what leaves that block",
    "in_force": "in the coordinates of v_hat, for the reversed direction too; null: there is none",
    "edit": "formed in float32 (float64 for float64), rounded once to the model's dtype",
}
_UNIT_TOLERANCE = 1e-3  # as for vectors that a caller normalised


def steering_record(
    spec: SteeringSpec, probes: ProbeSet, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all of `spec` at its layers but the vectors, whose hash it has.

    Args:
        spec: no control.
        probes: those of the layers of `spec`, in its order.
        provenance: at least `model` and `weights`.

    Raises:
        SteeringError: see `steering_files.save_steering`.
    """
    if spec.edit_direction is not None:
        raise SteeringError(
            "a spec with edit_direction is a control: its gate and the size of its edit come from "
            "the trait's direction, but the edit goes along another vector, to show what that "
            "does not do; save the spec without edit_direction"
        )
    statistics = STAND_IN if are_stand_ins(probes) else MEASURED
    _check_provenance(provenance, statistics)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **_head(spec),
        "statistics": statistics,
        "layers": [_layer_record(spec, probe, statistics) for probe in probes.probes],
        "conventions": {**_CONVENTIONS, "probe": probes.conventions},
        "provenance": dict(provenance),
        "v_hat_sha256": _digest(probes.v_hat),
    }


def _head(spec: SteeringSpec) -> dict[str, Any]:
    """What is done, and the fields of the spec as asked for."""
    asked = spec.threshold
    return {
        "operation": _OPERATIONS[spec.method, spec.direction],
        "site": "resid_post",
        "method": spec.method,
        "layer": list(spec.layer) if isinstance(spec.layer, tuple) else spec.layer,
        "alpha": spec.alpha,
        "scope": str(spec.token_scope),
        "direction": spec.direction,
        "threshold": asked if isinstance(asked, str) else list(asked),
        "cap_sigmas": spec.cap_sigmas,
    }


def _layer_record(spec: SteeringSpec, probe: LayerProbe, statistics: str) -> dict[str, Any]:
    """The numbers in force at one layer, and the statistics they come from.

    Of stand-ins an unknown number is null; a measured NaN stays one, which writing refuses.
    """
    steering = resolve(spec, probe)
    is_fixed = spec.method == "swfc"
    return {
        "hook_point": resid_post(probe.layer),
        "in_force": {
            "shift": steering.sign * steering.law.offset if is_fixed else None,
            "threshold": steering.threshold,
            "target": steering.target,
            "cap": steering.cap,
        },
        **(_known(probe_as_record(probe)) if statistics == STAND_IN else probe_as_record(probe)),
    }


def _known(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in entry.items()
    }


def check_format(record: Any) -> None:
    """Refuse what is no steering record of a version that this library reads.

    Raises:
        SteeringError: it is something else, or of a later version.
    """
    found = record.get("format") if isinstance(record, dict) else None
    if found != FORMAT:
        raise SteeringError(
            f"expected a steering record with format {FORMAT!r}, got {found!r}; give the folder "
            "that save_steering wrote"
        )
    version = record.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise SteeringError(
            f"expected format version 1 to {FORMAT_VERSION}, got {version!r}; read it with the "
            "interp-steer that wrote it, or save it again with this one"
        )


def read_steering(
    record: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[SteeringSpec, ProbeSet]:
    """Return the spec and the probes of a record, of any version, and its vectors.

    Raises:
        SteeringError: numbers that are not finite or do not follow from each other, or vectors that
            are not the record's.
        LookupError, TypeError, ValueError, ArithmeticError, AttributeError: something is missing or
            of another type.
    """
    broken = list(_not_finite(record, ""))
    if broken:
        raise SteeringError(f"expected finite numbers, got others at {', '.join(broken)}")
    statistics = _statistics(record)
    entries, v_hat = record["layers"], tensors["v_hat"]
    written = [entry["layer"] for entry in entries]
    if record["v_hat_sha256"] != _digest(v_hat) or tensors["layers"].tolist() != written:
        raise SteeringError(
            "the vectors and the record do not belong together: the numbers were computed for "
            "others; copy both files of one save"
        )
    _check_unit(v_hat)
    spec = _spec_of(record)
    if list(spec.layers) != written:
        raise SteeringError(f"expected numbers for the layers {list(spec.layers)}, got {written}")
    probes = tuple(
        probe_from_record(_filled(entry) if statistics == STAND_IN else entry, v)
        for entry, v in zip(entries, v_hat, strict=True)
    )
    _check_follows(record, _head(spec), "")
    for entry, probe in zip(entries, probes, strict=True):
        _check_follows(entry, _layer_record(spec, probe, statistics), f" at layer {probe.layer}")
    _check_provenance(record["provenance"], statistics)
    conventions = dict(record["conventions"]["probe"])
    return spec, ProbeSet(
        probes=probes, conventions=conventions, provenance=dict(record["provenance"])
    )


def _statistics(record: Mapping[str, Any]) -> str:
    """What the numbers of its probes are; version 1 knew measured ones alone."""
    statistics = MEASURED if record["format_version"] == 1 else record["statistics"]
    if statistics not in (MEASURED, STAND_IN):
        raise SteeringError(f"expected statistics measured or stand_in, got {statistics!r}")
    if (statistics == STAND_IN) != (record["conventions"]["probe"].get("statistics") == STAND_IN):
        raise SteeringError("its statistics and its conventions contradict each other")
    return statistics


def _filled(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in entry.items()}


def _spec_of(record: Mapping[str, Any]) -> SteeringSpec:
    layer, threshold = record["layer"], record["threshold"]
    return SteeringSpec(
        method=record["method"],
        layer=tuple(layer) if isinstance(layer, list) else layer,
        alpha=record["alpha"],
        scope=record["scope"],
        direction=record["direction"],
        threshold=threshold if isinstance(threshold, str) else tuple(threshold),
        cap_sigmas=record["cap_sigmas"],
    )


def _not_finite(value: Any, path: str) -> Iterator[str]:
    """Yield where `value`, anything that JSON holds, has NaN or an infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path
    parts = value.items() if isinstance(value, Mapping) else ()
    for key, part in enumerate(value) if isinstance(value, list) else parts:
        yield from _not_finite(part, f"{path}.{key}".lstrip("."))


def _check_follows(stored: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> None:
    """Refuse entries that the spec and the statistics do not give."""
    for name, value in expected.items():
        if stored[name] != value:
            raise SteeringError(
                f"expected {name} {value}{where}, which is what the spec and the statistics give, "
                f"got {stored[name]}; to change a number, load the file as it was saved and make "
                "another SteeringSpec with its probes"
            )


def _check_provenance(provenance: Mapping[str, Any], statistics: str) -> None:
    """Of an import the model may be unknown (null), but not unmentioned."""
    allowed = (str, type(None)) if statistics == STAND_IN else str
    missing = [
        name
        for name in ("model", "weights")
        if name not in provenance or not isinstance(provenance[name], allowed)
    ]
    if missing:
        raise SteeringError(
            f"expected a provenance that names the model, missing: {', '.join(missing)}; give "
            "run_provenance(run.manifest) or HookedLM.identity()"
        )


def _check_unit(v_hat: Float[Tensor, "layer d_model"]) -> None:
    norms = v_hat.norm(dim=-1)
    if v_hat.dtype != torch.float32 or not bool(((norms - 1).abs() < _UNIT_TOLERANCE).all()):
        raise SteeringError(  # NaN compares False, so it ends here too
            f"expected float32 unit vectors, got {v_hat.dtype} with norms {norms.tolist()}"
        )


def _digest(v_hat: Tensor) -> str:
    return hashlib.sha256(v_hat.contiguous().numpy().tobytes()).hexdigest()
