"""The `steered` model of lm-evaluation-harness: a torch file of one entry a module.

`add` adds coefficient * vector to the output of the module that the hookpoint names, at every
token, in the model's dtype: swfc. `clamp` sets the component along the vector to the coefficient,
at every token, whatever it was: sttp whose gate is always open, and with a bias b (h is projected
as h - b) the target is the coefficient plus <b, v>. Neither has a gate. Hookpoints are names below
`model.base_model`: `layers.N` for Llama-like models, `h.N` for GPT-2-like ones; N is the zero-based
block, output side.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from interp_steer.errors import SteeringError
from interp_steer.exchange.carried import (
    ALWAYS,
    Incoming,
    Outgoing,
    Part,
    added,
    layer_of,
    number_of,
    shown,
    unit_of,
    vector_of,
)
from interp_steer.exchange.torch_files import read_torch, write_torch
from interp_steer.stand_ins import LayerNumbers

_BLOCK = re.compile(r"(?:.*\.)?(?:layers|h)\.(\d{1,4})")
_GPT2_LIKE = ("gpt2", "gpt_neo", "gptj", "bloom", "falcon", "codegen")


def hookpoint_template(model_type: str | None) -> str:
    """Name of a block below the base model, with {layer}, by Hugging Face's model type."""
    if model_type in _GPT2_LIKE:
        return "h.{layer}"
    return "decoder.layers.{layer}" if model_type == "opt" else "layers.{layer}"


def write_lm_eval(
    path: Path, outgoing: Outgoing, *, hookpoint: str | None = None
) -> tuple[Path, ...]:
    """Write swfc as `add`, or sttp with a gate that is always open as `clamp`.

    Args:
        path: ends with .pt or .pth; lm-eval reads no other.
        outgoing: what to write.
        hookpoint: name of a block with {layer}, where the model type's usual one is wrong.

    Raises:
        SteeringError: another suffix, or a hookpoint without {layer}.
        RunError: the file cannot be written.
    """
    template = hookpoint or hookpoint_template(outgoing.model.model_type)
    if path.suffix not in (".pt", ".pth") or template.count("{layer}") != 1:
        raise SteeringError(
            f"expected a file ending with .pt and a hookpoint like layers.{{layer}}, got {path} "
            f"and {template!r}"
        )
    content: dict[str, Any] = {}
    for step in outgoing.steps:
        is_added = step.steering.spec.method == "swfc"
        value = step.law.offset if is_added else step.law.pivot
        content[template.replace("{layer}", str(step.layer))] = {
            "action": "add" if is_added else "clamp",
            "steering_vector": step.upward.clone(),
            "steering_coefficient": float(value),
            "bias": None,
            "head_index": None,
        }
    write_torch(path, content)
    return (path,)


def read_lm_eval(path: Path) -> Incoming:
    """Read a steering file of lm-evaluation-harness.

    Raises:
        SteeringError: no torch file, or an entry that is no edit of a block's whole output.
    """
    parts, zeros = [], []
    for hookpoint, entry in read_torch(path).items():
        matched = _BLOCK.fullmatch(hookpoint) if isinstance(hookpoint, str) else None
        if matched is None or not isinstance(entry, Mapping):
            raise SteeringError(
                f"expected blocks (layers.N or h.N), got {shown(hookpoint)}; only the "
                "residual stream that leaves a block can be steered here"
            )
        layer = layer_of(matched.group(1), "a hookpoint")
        part = _part(layer, entry, shown(hookpoint))
        (zeros if part is None else parts).append(part or layer)
    notes = (f"layers where nothing is added left out: {sorted(zeros)}",) if zeros else ()
    return Incoming(parts=tuple(parts), notes=notes)


def _part(layer: int, entry: Mapping[Any, Any], where: str) -> Part | None:
    if entry.get("head_index") is not None:
        raise SteeringError(f"expected a whole residual stream at {where}, got a head_index")
    vector = vector_of(entry.get("steering_vector"), f"{where}.steering_vector")
    scale = number_of(entry.get("steering_coefficient", 1.0), f"{where}.steering_coefficient")
    action, bias = entry.get("action"), entry.get("bias")
    if action == "add" and bias is None:
        return added(layer, vector, where, scale=scale)
    if action != "clamp":
        raise SteeringError(
            f"expected action add (without bias) or clamp at {where}, got {shown(action)}"
        )
    v_hat = unit_of(vector, where)
    if bias is not None:
        offset = vector_of(bias, f"{where}.bias")
        if offset.shape != v_hat.shape:
            raise SteeringError(f"expected a bias as long as the vector at {where}")
        scale += float(offset.to(torch.float64) @ v_hat.to(torch.float64))
    numbers = LayerNumbers(layer=layer, v_hat=v_hat, threshold=ALWAYS, target=scale)
    return Part(method="sttp", numbers=numbers)
