"""Payloads for vLLM: a unit vector and the numbers in force for each layer. Exact StTP and StMP.

The names are those of the paper's authors: sttp {v_hat, threshold, target, direction}, stmp {v_hat,
threshold, coefficient, cap, direction}; swfc {v_hat, shift, direction} is this project's. The file
around them is this project's too (JSON, payloads by zero-based layer), since theirs is not
published; a bare payload, JSON or torch, is read when the layer is given.

The authors' cap is always an upper limit, and a reversed stmp needs a lower one. A reversed method
is by definition the aligned one of -v_hat, so everything is written as `aligned`, its vector turned
round: exact, since negating is. No cap is written as the largest float32, which none reaches. How
the authors' fork spells `direction` is not known here: UNTESTED against it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interp_steer.errors import RunError, SteeringError
from interp_steer.exchange.carried import (
    ALWAYS,
    Incoming,
    Outgoing,
    Part,
    Step,
    layer_of,
    number_of,
    shown,
    unit_of,
    vector_of,
)
from interp_steer.exchange.torch_files import read_torch
from interp_steer.exchange.vllm_hook import Payload
from interp_steer.files import atomic_write_json, read_json
from interp_steer.specs import Direction, Method
from interp_steer.stand_ins import LayerNumbers

_FORMAT, _VERSION = "interp-steer vllm payloads", 1
_DIRECTIONS: dict[Any, Direction] = {
    "aligned": "aligned",
    "reversed": "reversed",
    1: "aligned",
    -1: "reversed",
}


def payloads_of(outgoing: Outgoing) -> dict[int, Payload]:
    """Return the payloads of an intervention by layer, for `vllm_hook`."""
    return {step.layer: _payload(step) for step in outgoing.steps}


def write_payloads(path: Path, outgoing: Outgoing) -> tuple[Path, ...]:
    """Write the payloads of all layers into one JSON file.

    Raises:
        RunError: the file cannot be written.
    """
    record = {
        "format": _FORMAT,
        "format_version": _VERSION,
        "method": outgoing.spec.method,
        "site": "resid_post of the zero-based block, every token",
        "payloads": {
            str(layer): _as_record(payload) for layer, payload in payloads_of(outgoing).items()
        },
        "provenance": outgoing.provenance,
    }
    atomic_write_json(path, record)
    return (path,)


def read_payloads(path: Path, *, layers: Sequence[int] = ()) -> dict[int, Payload]:
    """Read payloads by layer, for `vllm_hook.PayloadHook`.

    Args:
        path: what `write_payloads` wrote; or one bare payload, as JSON or as a torch file.
        layers: of a bare payload, which does not say it: exactly one.

    Raises:
        SteeringError: no such file, or numbers that are missing or not finite.
    """
    record = _content(path)
    if "v_hat" in record:
        if len(layers) != 1:
            raise SteeringError(
                f"expected the layer of a bare payload, which does not say it, got "
                f"{list(layers)}; give --layers L"
            )
        return {layers[0]: _read(record, "the payload")}
    found = record.get("payloads")
    if record.get("format") != _FORMAT or record.get("format_version") != _VERSION:
        raise SteeringError(
            f"expected {_FORMAT!r} of version {_VERSION} or a payload with v_hat, got format "
            f"{shown(record.get('format'))}, version {shown(record.get('format_version'))}"
        )
    if not isinstance(found, Mapping) or not found:
        raise SteeringError("expected payloads by layer, got none")
    return {
        layer_of(key, "payloads"): _read(entry, f"payloads[{shown(key)}]")
        for key, entry in found.items()
    }


def read_vllm(path: Path, *, layers: Sequence[int] = ()) -> Incoming:
    """Read payloads as parts of a steering.

    Raises:
        SteeringError: see `read_payloads`.
    """
    payloads = read_payloads(path, layers=layers)
    return Incoming(parts=tuple(_part(layer, payload) for layer, payload in payloads.items()))


def _payload(step: Step) -> Payload:
    """Aligned, whatever the direction was: `step.law` is in the coordinates of `step.upward`."""
    law, method = step.law, step.steering.spec.method
    if method == "swfc":
        return Payload(method="swfc", v_hat=step.upward, shift=float(law.offset))
    if method == "sttp":
        return Payload(
            method="sttp",
            v_hat=step.upward,
            threshold=float(law.gate),
            target=float(law.pivot),
        )
    return Payload(
        method="stmp",
        v_hat=step.upward,
        threshold=float(law.gate),
        coefficient=float(step.steering.spec.alpha),
        cap=min(float(law.cap), ALWAYS),
    )


def _as_record(payload: Payload) -> dict[str, Any]:
    names = {
        "swfc": ("shift",),
        "sttp": ("threshold", "target"),
        "stmp": ("threshold", "coefficient", "cap"),
    }[payload.method]
    numbers = {name: getattr(payload, name) for name in names}
    return {"v_hat": payload.v_hat.tolist(), **numbers, "direction": payload.direction}


def _content(path: Path) -> dict[str, Any]:
    if path.suffix in (".pt", ".pth"):
        return read_torch(path)
    try:
        record = read_json(path, remedy="export it again")
    except RunError as error:
        raise SteeringError(str(error)) from error
    if not isinstance(record, dict):
        raise SteeringError(f"expected a JSON object in {path}, got {type(record).__name__}")
    return record


def _read(entry: Any, where: str) -> Payload:
    if not isinstance(entry, Mapping):
        raise SteeringError(f"expected an object at {where}, got {type(entry).__name__}")
    spelled = entry.get("direction", "aligned")
    direction = _DIRECTIONS.get(spelled) if isinstance(spelled, str | int) else None
    if direction is None or isinstance(spelled, bool):
        raise SteeringError(
            f"expected direction aligned or reversed at {where}, got {shown(spelled)}"
        )
    method: Method = "swfc" if "shift" in entry else "sttp" if "target" in entry else "stmp"
    names = {
        "swfc": ("shift",),
        "sttp": ("threshold", "target"),
        "stmp": ("threshold", "coefficient", "cap"),
    }[method]
    numbers = {name: number_of(entry.get(name), f"{where}.{name}") for name in names}
    if method == "stmp":
        numbers["coefficient"] = _not_negative(numbers["coefficient"], where)
        if numbers["cap"] >= ALWAYS:
            del numbers["cap"]
    v_hat = vector_of(entry.get("v_hat"), f"{where}.v_hat")
    payload = Payload(method=method, direction=direction, v_hat=_unit(v_hat, where), **numbers)
    payload.law()  # refuses a cap below the threshold
    return payload


def _not_negative(coefficient: float, where: str) -> float:
    if coefficient < 0:
        raise SteeringError(
            f"expected a coefficient that is not negative at {where}, got {coefficient}: it would "
            "push tokens that fire further from the threshold"
        )
    return coefficient


def _unit(v_hat: Any, where: str) -> Any:
    """A payload's vector is a unit vector: its numbers are in units of the projection onto it."""
    found = unit_of(v_hat, where)
    if float((found - v_hat).abs().max()) > 1e-3:
        raise SteeringError(
            f"expected a unit vector at {where}, got norm {float(v_hat.norm()):.4g}"
        )
    return found


def _part(layer: int, payload: Payload) -> Part:
    shift, v_hat, direction = payload.shift, payload.v_hat, payload.direction
    if shift is not None and shift < 0:
        shift, v_hat = -shift, -v_hat
    if payload.method == "swfc":  # an addition has no side
        direction = "aligned"
    numbers = LayerNumbers(
        layer=layer,
        v_hat=v_hat,
        shift=shift,
        threshold=payload.threshold,
        target=payload.target,
        cap=payload.cap,
    )
    alpha = 1.0 if payload.coefficient is None else payload.coefficient
    return Part(method=payload.method, direction=direction, alpha=alpha, numbers=numbers)
