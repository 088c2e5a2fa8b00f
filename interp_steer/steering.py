"""Attach the interventions to a model: one spec for every sequence, or one per batch row.

    with steer(lm, SteeringSpec(method="sttp", layer=4, alpha=12), probes):
        lm.generate(...)

The edit is on resid_post, inside the forward pass, so it acts on the prompt, on every decoding
step and on whatever the KV cache keeps of both. On any exit the model is as it was. A steered text
shows that the edit changes behaviour, not that the direction is how the model itself represents
the trait: that needs the controls (`edit_direction`).

Source: arXiv 2604.08169v2, equations 3-5.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from interp_steer.errors import SteeringError
from interp_steer.hook_records import CompiledLayer, HookRecord, Recorder
from interp_steer.interventions import edit, project, stmp, sttp, swfc
from interp_steer.layer_hooks import LayerHook
from interp_steer.model import HookedLM
from interp_steer.model_identity import processing_difference
from interp_steer.probes import ProbeSet
from interp_steer.scopes import Scope
from interp_steer.specs import (
    Direction,
    LayerSteering,
    Method,
    SteeringSpec,
    Threshold,
    quantile_threshold,
    resolve,
)

__all__ = [
    "Direction",
    "HookRecord",
    "LayerSteering",
    "Method",
    "Recorder",
    "Scope",
    "SteeringPlan",
    "SteeringSpec",
    "Threshold",
    "edit",
    "project",
    "quantile_threshold",
    "resolve",
    "steer",
    "stmp",
    "sttp",
    "swfc",
]


class SteeringPlan:
    """What to do to every sequence of one call, compiled to stacked tensors per layer.

    Args:
        specs: one spec per sequence of the call, None for a sequence left alone.
        probes: must have a probe at every layer named.

    Raises:
        SteeringError: without specs, for a layer without probe, or where a spec contradicts its
            probe (`specs.resolve`).
    """

    def __init__(self, specs: Sequence[SteeringSpec | None], probes: ProbeSet) -> None:
        if not specs:
            raise SteeringError(
                "expected one spec (or None) per sequence of the call, got an empty list"
            )
        self.probes = probes
        self.n_rows: int | None = len(specs)
        layers = sorted({layer for spec in specs if spec is not None for layer in spec.layers})
        self.compiled = {layer: _compile(layer, specs, probes) for layer in layers}

    @classmethod
    def uniform(cls, spec: SteeringSpec, probes: ProbeSet) -> "SteeringPlan":
        """Return the plan that does the same to every sequence, however many a call has."""
        plan = cls([spec], probes)
        plan.n_rows = None
        plan.compiled = {
            layer: CompiledLayer(layer=layer, v_hat=one.v_hat, slots=one.slots, slot_of_row=None)
            for layer, one in plan.compiled.items()
        }
        return plan

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers at which at least one sequence is steered, ascending."""
        return tuple(self.compiled)

    def hooks(self, *, recorder: Recorder | None = None) -> Mapping[int, LayerHook]:
        """Return fresh hooks by layer, for `HookedLM.hooks`.

        Each expects the calls of one context: the first with all rows of the plan, later ones
        (decoding steps) with those that are left.
        """
        return {layer: LayerHook(one, recorder) for layer, one in self.compiled.items()}

    def check_fits(self, lm: HookedLM) -> None:
        """Refuse a model that the probes cannot be from.

        Raises:
            SteeringError: for a layer that the model lacks, another d_model, or weights processed
                otherwise than those that the probes' provenance names.
        """
        named = self.probes.provenance
        if named and (difference := processing_difference(named, lm.weight_processing)):
            raise SteeringError(f"expected the probes' {difference}")
        for layer, one in self.compiled.items():
            if layer >= lm.n_layers:
                raise SteeringError(
                    f"expected layers 0 to {lm.n_layers - 1} of this model, got layer {layer}; "
                    "fit the probes on the model that is steered"
                )
            if one.v_hat.shape[0] != lm.d_model:
                raise SteeringError(
                    f"expected probes with d_model {lm.d_model} like the model, got "
                    f"{one.v_hat.shape[0]}; fit the probes on the model that is steered"
                )


@contextmanager
def steer(
    lm: HookedLM,
    plan: SteeringPlan | SteeringSpec,
    probes: ProbeSet | None = None,
    *,
    recorder: Recorder | None = None,
) -> Iterator[SteeringPlan]:
    """Steer every forward pass of `lm` inside the context; on any exit the hooks are gone.

    Args:
        lm: the model.
        plan: one spec per sequence of the call; or a single spec, for every sequence.
        probes: with a single spec, the probes it is resolved against.
        recorder: gets what every hook saw and did, for instance a `traces.TraceRecorder`.

    Yields:
        The plan in force.

    Raises:
        SteeringError: for a spec without probes, probes beside a plan (it has its own), or a plan
            that does not fit the model; inside, for a call with another number of sequences.
    """
    if isinstance(plan, SteeringSpec):
        if probes is None:
            raise SteeringError("a SteeringSpec needs the probes it refers to; pass probes=")
        plan = SteeringPlan.uniform(plan, probes)
    elif probes is not None:
        raise SteeringError("a SteeringPlan has its probes already; leave probes out")
    plan.check_fits(lm)
    with lm.hooks(plan.hooks(recorder=recorder)):
        yield plan


def _compile(layer: int, specs: Sequence[SteeringSpec | None], probes: ProbeSet) -> CompiledLayer:
    """Resolve the specs at one layer; rows that share a spec object share a slot."""
    if layer not in probes.layers:
        raise SteeringError(
            f"expected a layer with a probe ({', '.join(map(str, probes.layers))}), got layer "
            f"{layer}; fit a probe there first"
        )
    probe = probes.probe(layer)
    slot_of_spec: dict[int, int] = {}
    slots: list[LayerSteering] = []
    slot_of_row: list[int] = []
    for spec in specs:
        if spec is None or layer not in spec.layers:
            slot_of_row.append(-1)
            continue
        if id(spec) not in slot_of_spec:
            slot_of_spec[id(spec)] = len(slots)
            slots.append(resolve(spec, probe))
        slot_of_row.append(slot_of_spec[id(spec)])
    v_hat = probe.v_hat.detach().to(torch.float32).cpu()
    return CompiledLayer(
        layer=layer, v_hat=v_hat, slots=tuple(slots), slot_of_row=torch.tensor(slot_of_row)
    )
