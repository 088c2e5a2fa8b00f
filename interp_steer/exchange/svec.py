"""`.svec`: JSON of one direction a layer, of two tools that add it at different places.

Additive alone. IBM's activation-steering adds `directions[L]` to the *input* of block L (its layer
wrapper edits the hidden state before it calls the block), although it extracts from what leaves
block L. What is steered here after block N is therefore written under N + 1 (`block_input`), and
the last block cannot be. AISteer360 (its CAA) adds to the *output* of block L and stores a
direction with one more axis, [1, d_model]: `block_output`, number N. The extra axis tells the files
apart.

activation-steering edits row 0 of a batch alone, and by default rescales edited states whose norm
grew (use_ooi_preventive_normalization): turn that off, and give behavior_vector_strength 1.
AISteer360's CAA steers the tokens after the prompt by default: give it its scope all.
"""

from pathlib import Path
from typing import Any

from interp_steer.errors import RunError, SteeringError
from interp_steer.exchange.carried import Incoming, Outgoing, added, layer_of, vector_of
from interp_steer.exchange.choices import SvecSite
from interp_steer.files import atomic_write_json, read_json

_MEANS = {
    "block_input": "input of the zero-based block L, which is resid_post of block L - 1",
    "block_output": "resid_post of the zero-based block L",
}


def write_svec(
    path: Path, outgoing: Outgoing, *, site: SvecSite = "block_input"
) -> tuple[Path, ...]:
    """Write the vectors of swfc.

    Args:
        path: the file.
        outgoing: what to write.
        site: block_input for activation-steering, block_output for AISteer360.

    Raises:
        SteeringError: block_input and the last layer, after which there is no block.
        RunError: the file cannot be written.
    """
    steps, n_layers = outgoing.steps, outgoing.model.n_layers
    is_input = site == "block_input"
    if is_input and n_layers is not None and steps[-1].layer >= n_layers - 1:
        raise SteeringError(
            f"expected layers before the last one ({n_layers - 1}), got layer {steps[-1].layer}: "
            "activation-steering adds to the input of the next block; use gguf, lm-eval or vllm"
        )
    vectors = {str(step.layer + is_input): step.shift.tolist() for step in steps}
    record = {
        "model_type": outgoing.model.model_type or "unknown",
        "directions": vectors if is_input else {key: [v] for key, v in vectors.items()},
        "explained_variances": dict.fromkeys(vectors, 1.0),
        "interp_steer": {
            "operation": "h' = h + direction, every token",
            "site": _MEANS[site],
            "provenance": outgoing.provenance,
        },
    }
    atomic_write_json(path, record)
    return (path,)


def read_svec(path: Path, *, site: SvecSite | None = None) -> Incoming:
    """Read a `.svec` file.

    Args:
        path: the file.
        site: where its tool adds `directions[L]`: before block L, or after it. By default after it
            where directions have the axis that AISteer360 gives them, before it otherwise.

    Raises:
        SteeringError: no such file, no JSON, no directions, or block 0's input, where no block's
            residual stream ends.
    """
    directions, hint = _content(path)
    nested = all(_is_nested(values) for values in directions.values())
    site = site or ("block_output" if nested else "block_input")
    parts, zeros = [], []
    for key, values in directions.items():
        where = f"directions[{key[:20]!r}]"
        layer = layer_of(key, where) - (site == "block_input")
        if layer < 0:
            raise SteeringError(
                "expected block inputs from block 1 on, got block 0, whose input is the embedding; "
                "give --svec-site block_output if the numbers mean what leaves a block"
            )
        vector = vector_of(values[0] if _is_nested(values) else values, where)
        part = added(layer, vector, where)
        (zeros if part is None else parts).append(part or layer)
    return Incoming(
        parts=tuple(parts),
        model_type=hint,
        notes=(
            f"directions read as added at the {site.replace('_', ' ')} of their block",
            *((f"layers without a direction left out: {sorted(zeros)}",) if zeros else ()),
        ),
    )


def _content(path: Path) -> tuple[dict[str, Any], str | None]:
    """Directions by key, and the model type that the file names."""
    try:
        record = read_json(path, remedy="save it again with the tool that wrote it")
    except RunError as error:
        raise SteeringError(str(error)) from error
    directions = record.get("directions") if isinstance(record, dict) else None
    if not isinstance(directions, dict) or not directions:
        raise SteeringError("expected a JSON object with directions by layer, got none")
    hint = record.get("model_type")
    return directions, hint if isinstance(hint, str) and hint != "unknown" else None


def _is_nested(values: Any) -> bool:
    return isinstance(values, list) and len(values) == 1 and isinstance(values[0], list)
