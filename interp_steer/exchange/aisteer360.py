"""Probe directories of AISteer360: a direction and a boundary, and nothing that is done with them.

A probe scores sum_l <h_l, w_l> + b, positive at or above zero, on pooled features: v_hat = w / |w|
and m = -b / |w| as here (`polarity` positives_high). `layer_output` of block L is resid_post of L,
`layer_input` that of L - 1. A probe has no statistics, so only stmp, whose one number is the
boundary, follows from it: it is read as stmp without a cap. Its boundary was calibrated on features
pooled its way, which for `last` is one token and no mean.
"""

from pathlib import Path
from typing import Any

from interp_steer.errors import RunError, SteeringError
from interp_steer.exchange.carried import (
    Incoming,
    Part,
    layer_of,
    number_of,
    shown,
    unit_of,
    vector_of,
)
from interp_steer.files import read_json, read_tensors
from interp_steer.stand_ins import LayerNumbers

JSON_NAME, TENSORS_NAME = "probe.json", "probe.safetensors"

_REMEDY = "save the probe again with AISteer360"
_VERSION, _POLARITY = 1, "positives_high"
_OFFSETS = {"layer_output": 0, "layer_input": -1}


def read_probe(folder: Path, *, alpha: float = 1.0) -> Incoming:
    """Read a probe as stmp about its boundary.

    Args:
        folder: what `Probe.save` wrote.
        alpha: strength of stmp; 1 is the mirror image.

    Raises:
        SteeringError: a missing or damaged file, another version or polarity, a probe that adds up
            several layers, or one of the embedding.
    """
    try:
        record = read_json(folder / JSON_NAME, remedy=_REMEDY)
        tensors, _ = read_tensors(folder / TENSORS_NAME, remedy=_REMEDY)
    except RunError as error:
        raise SteeringError(str(error)) from error
    layer = _layer(record)
    where = f"weights.{layer}"
    if where not in tensors:
        raise SteeringError(f"expected the tensor {where}, got {', '.join(sorted(tensors)[:8])}")
    weights = vector_of(tensors[where], where)
    v_hat = unit_of(weights, where)
    length = 1.0 if v_hat is weights else float(weights.double().norm())
    block = layer + _OFFSETS[record["location"]]
    if block < 0:
        raise SteeringError(
            "expected a probe of what leaves a block, got one of the input of block 0 (the "
            "embedding); fit it at layer_output, or at a later layer"
        )
    boundary = -number_of(record.get("bias"), "bias") / length
    numbers = LayerNumbers(layer=block, v_hat=v_hat, threshold=boundary)
    hint, pooling = record.get("model_type"), record.get("pooling")
    return Incoming(
        parts=(Part(method="stmp", alpha=alpha, numbers=numbers),),
        model_type=hint if isinstance(hint, str) else None,
        notes=(
            f"a probe says nothing of strength: read as stmp with alpha {alpha:g} and no cap",
            f"its boundary was calibrated on {shown(pooling)}-pooled features",
        ),
    )


def _layer(record: Any) -> int:
    """The one layer of the probe, as the file counts it."""
    found = record if isinstance(record, dict) else {}
    version, polarity = found.get("format_version"), found.get("polarity")
    if version != _VERSION or polarity != _POLARITY:
        raise SteeringError(
            f"expected a probe of format version {_VERSION} and polarity {_POLARITY}, got "
            f"{shown(version)} and {shown(polarity)}; {_REMEDY}"
        )
    location = found.get("location")
    if not isinstance(location, str) or location not in _OFFSETS:
        raise SteeringError(f"expected location layer_input or layer_output, got {shown(location)}")
    layers = found.get("layer_ids")
    if not isinstance(layers, list) or len(layers) != 1:
        raise SteeringError(
            f"expected a probe of one layer, got layers {shown(layers)}: a sum over layers has no "
            "boundary at any one of them"
        )
    return layer_of(layers[0], "layer_ids")
