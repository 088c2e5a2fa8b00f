"""Control vectors as GGUF: repeng and llama.cpp. Additive alone.

`direction.N` is added to what leaves the zero-based block N, by both: repeng's `ControlModel` wraps
layer N, and llama.cpp adds it after the feed-forward residual of block N. Two offsets in llama.cpp
cancel (its loader stores N at N - 1, its adapter reads block il at il - 1), so N is *not*
one-based; what is left of them is that llama.cpp refuses a whole file with `direction.0` in it. The
vector is the whole edit (shift times v_hat): use strength or coefficient 1.

llama.cpp steers every token but applies one strength to all layers; quantised weights change the
residual streams that the vector was fitted on.
"""

import json
import re
import tempfile
from pathlib import Path

from interp_steer.errors import SteeringError
from interp_steer.exchange.carried import (
    Incoming,
    Outgoing,
    added,
    layer_of,
    shown,
    vector_of,
)
from interp_steer.exchange.gguf_reader import read_gguf
from interp_steer.files import atomic_write_bytes

_ARCHITECTURE = "controlvector"
_DIRECTION = re.compile(r"direction\.(\d{1,4})")


def write_gguf(path: Path, outgoing: Outgoing) -> tuple[Path, ...]:
    """Write the vectors of swfc as a control vector.

    Raises:
        SteeringError: layer 0, which llama.cpp cannot take, or the package gguf is missing.
        RunError: the file cannot be written.
    """
    try:
        import gguf
    except ImportError as error:
        raise SteeringError(
            "writing GGUF needs the package gguf; pip install 'interp-steer[exchange]'"
        ) from error
    steps = outgoing.steps
    if steps[0].layer == 0:
        raise SteeringError(
            "expected layers from 1 on, got layer 0: llama.cpp refuses a file with direction.0; "
            "leave that layer out, or use lm-eval, svec or vllm"
        )
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "vector.gguf"
        writer = gguf.GGUFWriter(draft, _ARCHITECTURE)
        writer.add_string(f"{_ARCHITECTURE}.model_hint", outgoing.model.model_type or "unknown")
        writer.add_uint32(f"{_ARCHITECTURE}.layer_count", len(steps))
        writer.add_string("interp_steer.operation", "h' = h + direction, every token")
        writer.add_string("interp_steer.site", "resid_post of the zero-based block N")
        writer.add_string("interp_steer.provenance", json.dumps(outgoing.provenance))
        for step in steps:
            writer.add_tensor(f"direction.{step.layer}", step.shift.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        atomic_write_bytes(path, draft.read_bytes())
    return (path,)


def read_control_vector(path: Path) -> Incoming:
    """Read a control vector; a direction of zeros steers nothing and is left out.

    Raises:
        SteeringError: no such file, no GGUF file, another architecture, or tensors that are no
            directions.
    """
    content = read_gguf(path)
    if (found := content.fields.get("general.architecture")) != _ARCHITECTURE:
        raise SteeringError(f"expected a GGUF of architecture {_ARCHITECTURE}, got {shown(found)}")
    parts, zeros = [], []
    for name, tensor in content.tensors.items():
        matched = _DIRECTION.fullmatch(name)
        if matched is None:
            raise SteeringError(f"expected tensors direction.N, got {name[:60]!r}")
        layer = layer_of(matched.group(1), name)
        part = added(layer, vector_of(tensor, name), name)
        (zeros if part is None else parts).append(part or layer)
    hint = content.fields.get(f"{_ARCHITECTURE}.model_hint")
    return Incoming(
        parts=tuple(parts),
        model_type=hint if isinstance(hint, str) and hint != "unknown" else None,
        notes=(f"layers without a direction left out: {sorted(zeros)}",) if zeros else (),
    )
