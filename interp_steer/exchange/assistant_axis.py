"""Capping configs of assistant-axis: a torch file of vectors and experiments. Caps alone.

An intervention caps the projection onto v at tau, at every token of the output of block `layer`
(zero-based): h' = h - max(<h, v> - tau, 0) v. That is exactly what two methods do here:

- sttp whose target is its threshold: rho beyond t is set to t. With the threshold ("sigma", k) and
  alpha = k both are mu+ + k sigma+.
- stmp with alpha 0.5: onto the threshold (its cap lies above and never acts).

Aligned methods lift what is too low, which is a cap of -v_hat at -t; they are written so. Every
other sttp or stmp jumps past the threshold, which no cap does. An experiment is read as sttp in the
direction `reversed` of the file's own vector: what lies above the cap is set to it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp_steer.errors import SteeringError
from interp_steer.exchange.carried import (
    Incoming,
    Outgoing,
    Part,
    layer_of,
    number_of,
    shown,
    unit_of,
    vector_of,
)
from interp_steer.exchange.torch_files import read_torch, write_torch
from interp_steer.stand_ins import LayerNumbers


def write_caps(path: Path, outgoing: Outgoing) -> tuple[Path, ...]:
    """Write one experiment, named after the method and its layers.

    Raises:
        RunError: the file cannot be written.
    """
    vectors: dict[str, Any] = {}
    interventions = []
    for step in outgoing.steps:
        name = f"layer_{step.layer}"
        vectors[name] = {"layer": step.layer, "vector": -step.upward}
        interventions.append({"vector": name, "cap": -float(step.law.gate)})
    layers = "_".join(str(step.layer) for step in outgoing.steps)
    experiment = {"id": f"{outgoing.spec.method}-layers_{layers}", "interventions": interventions}
    write_torch(path, {"vectors": vectors, "experiments": [experiment]})
    return (path,)


def read_caps(path: Path, *, experiment: str | None = None) -> Incoming:
    """Read one experiment of a capping config.

    Args:
        path: the file.
        experiment: its id; may be left out where there is one alone.

    Raises:
        SteeringError: no torch file, no such experiment, or one without caps.
    """
    content = read_torch(path)
    vectors, experiments = content.get("vectors"), content.get("experiments")
    if not isinstance(vectors, Mapping) or not isinstance(experiments, list):
        raise SteeringError("expected a dict with vectors and experiments, got other keys")
    chosen = _choose(experiments, experiment)
    interventions = chosen.get("interventions")
    if not isinstance(interventions, list):
        raise SteeringError("expected a list of interventions in the experiment, got none")
    parts, skipped = [], 0
    for intervention in interventions:
        if not isinstance(intervention, Mapping) or "cap" not in intervention:
            skipped += 1  # the tool's own reader skips them too
            continue
        parts.append(_part(intervention, vectors))
    notes = (f"{skipped} interventions without a cap left out",) if skipped else ()
    return Incoming(parts=tuple(parts), notes=notes)


def _choose(experiments: list[Any], wanted: str | None) -> Mapping[Any, Any]:
    by_id = {
        e["id"] if isinstance(e.get("id"), str) else shown(e.get("id")): e
        for e in experiments
        if isinstance(e, Mapping)
    }
    if wanted is None and len(by_id) == 1:
        return next(iter(by_id.values()))
    if wanted is None or wanted not in by_id:
        some = ", ".join(repr(name[:40]) for name in sorted(by_id)[:8]) or "none"
        raise SteeringError(
            f"expected the id of an experiment ({some}), got {wanted!r}; give --experiment"
        )
    return by_id[wanted]


def _part(intervention: Mapping[Any, Any], vectors: Mapping[Any, Any]) -> Part:
    name = intervention.get("vector")
    entry = vectors.get(name) if isinstance(name, str) else None
    if not isinstance(name, str) or not isinstance(entry, Mapping):
        raise SteeringError(f"expected a vector of the file, got {shown(name)}")
    where = f"the vector {name[:60]!r}"
    layer = layer_of(entry.get("layer"), f"the layer of {where}")
    v_hat = unit_of(vector_of(entry.get("vector"), where), where)
    cap = number_of(intervention["cap"], f"the cap of {where}")
    numbers = LayerNumbers(layer=layer, v_hat=v_hat, threshold=cap, target=cap)
    return Part(method="sttp", direction="reversed", numbers=numbers)
