"""`.svec` of IBM's activation-steering: JSON of one direction a layer. Additive alone.

That library adds `directions[L]` to the *input* of block L (its layer wrapper edits the hidden
state before it calls the block), although it extracts from what leaves block L. What is steered
here after block N is therefore written under N + 1, and the last block cannot be written at all.
AISteer360 writes files of the same suffix with one more axis ([1, d_model]); such files are read
too. Where a file's numbers are meant as block outputs, `block_output` says so.

activation-steering edits row 0 of a batch alone, and by default rescales edited states whose norm
grew (use_ooi_preventive_normalization): turn that off, and give behavior_vector_strength 1.
"""

from pathlib import Path
from typing import Any

from interp_steer.errors import RunError, SteeringError
from interp_steer.exchange.carried import Incoming, Outgoing, added, layer_of, vector_of
from interp_steer.exchange.choices import SvecSite
from interp_steer.files import atomic_write_json, read_json


def write_svec(path: Path, outgoing: Outgoing) -> tuple[Path, ...]:
    """Write the vectors of swfc under the number of the block whose input they change.

    Raises:
        SteeringError: the last layer, after which there is no block.
        RunError: the file cannot be written.
    """
    steps = outgoing.steps
    n_layers = outgoing.model.n_layers
    if n_layers is not None and steps[-1].layer >= n_layers - 1:
        raise SteeringError(
            f"expected layers before the last one ({n_layers - 1}), got layer {steps[-1].layer}: "
            ".svec vectors are added to the input of the next block; use gguf, lm-eval or vllm"
        )
    record = {
        "model_type": outgoing.model.model_type or "unknown",
        "directions": {str(step.layer + 1): step.shift.tolist() for step in steps},
        "explained_variances": {str(step.layer + 1): 1.0 for step in steps},
        "interp_steer": {
            "operation": "h' = h + direction, every token",
            "site": "input of the zero-based block L, which is resid_post of block L - 1",
            "provenance": outgoing.provenance,
        },
    }
    atomic_write_json(path, record)
    return (path,)


def read_svec(path: Path, *, site: SvecSite = "block_input") -> Incoming:
    """Read a `.svec` file.

    Args:
        path: the file.
        site: where its tool adds `directions[L]`: before block L, or after it.

    Raises:
        SteeringError: no such file, no JSON, no directions, or block 0's input, where no block's
            residual stream ends.
    """
    try:
        record = read_json(path, remedy="save it again with the tool that wrote it")
    except RunError as error:
        raise SteeringError(str(error)) from error
    directions = record.get("directions") if isinstance(record, dict) else None
    if not isinstance(directions, dict):
        raise SteeringError("expected a JSON object with directions by layer, got none")
    offset = 1 if site == "block_input" else 0
    parts, zeros = [], []
    for key, values in directions.items():
        where = f"directions[{key[:20]!r}]"
        layer = layer_of(key, where) - offset
        if layer < 0:
            raise SteeringError(
                "expected block inputs from block 1 on, got block 0, whose input is the embedding; "
                "give --svec-site block_output if the numbers mean what leaves a block"
            )
        part = added(layer, vector_of(_flat(values), where), where)
        (zeros if part is None else parts).append(part or layer)
    hint = record.get("model_type")
    return Incoming(
        parts=tuple(parts),
        model_type=hint if isinstance(hint, str) and hint != "unknown" else None,
        notes=(
            f"directions read as added at the {site.replace('_', ' ')} of their block",
            *((f"layers without a direction left out: {sorted(zeros)}",) if zeros else ()),
        ),
    )


def _flat(values: Any) -> Any:
    """One direction of AISteer360 has an axis of its own."""
    is_nested = isinstance(values, list) and len(values) == 1 and isinstance(values[0], list)
    return values[0] if is_nested else values
