"""What travels: an intervention with its numbers on the way out, what a file says on the way in.

Why apart: the formats agree on nothing but the arithmetic. On the way out a spec is resolved here
once, and named by the operations that would carry it exactly; on the way in every format is read to
the same parts, which become one spec with probes that stand in (`stand_ins`).
"""

import math
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp_steer.errors import SteeringError
from interp_steer.interventions import Law
from interp_steer.probes import ProbeSet
from interp_steer.specs import Direction, LayerSteering, Method, SteeringSpec, resolve
from interp_steer.stand_ins import LayerNumbers, stand_in_steering

Operation = Literal["add", "cap", "clamp", "target", "mirror"]
OPERATIONS: dict[Operation, str] = {
    "add": "a vector added to every token (swfc)",
    "cap": "what lies beyond a value is set to it (sttp with its target on its threshold, stmp "
    "with alpha 0.5)",
    "clamp": "every token is set to one value (sttp whose gate is always open)",
    "target": "a gate and a target (sttp)",
    "mirror": "a gate, a mirror image and a limit (stmp)",
}
"""What a format may be able to do, in words."""

ALWAYS = torch.finfo(torch.float32).max
"""A threshold that every projection lies below, or a cap that none reaches."""
_LONGEST = 1 << 24
"""Numbers of a vector; the widest residual streams have some 2**15."""
_NEAR_UNIT = 1e-6  # a vector this close to norm 1 is one that was normalised in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a format wants to know of the model; None where nobody said."""

    model_type: str | None = None
    """Hugging Face's, for example mistral."""
    n_layers: int | None = None
    """Blocks."""
    d_model: int | None = None
    """Width of the residual stream."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """One layer on the way out."""

    v_hat: Float[Tensor, "d_model"]
    """Unit direction of the probe, float32."""
    steering: LayerSteering
    """Every number of it."""

    @property
    def layer(self) -> int:
        """Zero-based."""
        return self.steering.layer

    @property
    def law(self) -> Law:
        """In the coordinates of `upward`."""
        return self.steering.law

    @property
    def upward(self) -> Float[Tensor, "d_model"]:
        """v_hat turned so that the method is the aligned one: negating is exact."""
        return self.v_hat * self.steering.sign

    @property
    def shift(self) -> Float[Tensor, "d_model"]:
        """swfc: the vector that is added, float32, rounded as the hook rounds it."""
        shift = torch.tensor(self.law.offset, dtype=torch.float32)
        return self.upward * shift


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outgoing:
    """An intervention to write."""

    spec: SteeringSpec
    """As asked for; no control."""
    probes: ProbeSet
    """Have a probe at each of its layers."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Values of JSON; at least model and weights for the format of this library."""
    model: ModelFacts = field(default_factory=ModelFacts)
    """What is known of the model."""

    def __post_init__(self) -> None:
        if self.spec.edit_direction is not None:
            raise SteeringError(
                "expected a method to hand on, got a control (edit_direction): it shows what the "
                "trait's direction does; export the spec without edit_direction"
            )

    @property
    def steps(self) -> tuple[Step, ...]:
        """One per layer, ascending.

        Raises:
            SteeringError: the spec contradicts its probes.
            ProbeError: a layer without probe.
        """
        return tuple(
            Step(v_hat=self.probes.probe(layer).v_hat, steering=resolve(self.spec, probe))
            for layer in sorted(self.spec.layers)
            for probe in (self.probes.probe(layer),)
        )

    def operations(self) -> set[Operation]:
        """Every operation that does exactly this at all layers."""
        found = [_operations(step.steering) for step in self.steps]
        return set.intersection(*found)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """What a file says of one layer."""

    method: Method
    """The law."""
    numbers: LayerNumbers
    """In the coordinates of its v_hat."""
    direction: Direction = "aligned"
    """reversed: fires above its threshold."""
    alpha: float = 1.0
    """Of stmp."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Incoming:
    """What a file says."""

    parts: tuple[Part, ...]
    """One per layer, in the order of the file."""
    model_type: str | None = None
    """Whose model it claims to be for, if it does."""
    notes: tuple[str, ...] = ()
    """What was left out or had to be assumed."""

    def only(self, layers: Sequence[int]) -> "Incoming":
        """Return the parts of some layers; all where `layers` is empty.

        Raises:
            SteeringError: a layer that the file does not have.
        """
        if not layers:
            return self
        there = [part.numbers.layer for part in self.parts]
        if missing := [layer for layer in layers if layer not in there]:
            raise SteeringError(
                f"expected layers of the file ({', '.join(map(str, there))}), got "
                f"{', '.join(map(str, missing))}; layers are zero-based, counted by the block that "
                "the edit follows"
            )
        return replace(self, parts=tuple(p for p in self.parts if p.numbers.layer in layers))

    def steering(self) -> tuple[SteeringSpec, ProbeSet]:
        """Return the one spec that does all parts, and its probes.

        Raises:
            SteeringError: parts of several methods, directions or strengths, or several at a layer.
        """
        parts = sorted(self.parts, key=lambda part: part.numbers.layer)
        if not parts:
            raise SteeringError("expected at least one layer, got none: the file steers nothing")
        kinds = {(part.method, part.direction, part.alpha) for part in parts}
        if len(kinds) > 1:
            raise SteeringError(
                f"expected one method, direction and strength, got {sorted(kinds)}; import some "
                "layers at a time (--layers)"
            )
        layers = [part.numbers.layer for part in parts]
        if len(set(layers)) < len(layers):
            raise SteeringError(
                f"expected one intervention a layer, got layers {layers}; a layer has one gate and "
                "one edit here"
            )
        if len({part.numbers.v_hat.shape for part in parts}) > 1:
            raise SteeringError("expected vectors of one length, got several in one file")
        one, numbers = parts[0], [part.numbers for part in parts]
        return stand_in_steering(one.method, numbers, direction=one.direction, alpha=one.alpha)


def shown(value: object) -> str:
    """A value of a file in a message: cut short, since lists in a torch file may share parts."""
    try:
        return reprlib.repr(value)[:120]
    except ValueError:  # a whole number of thousands of digits
        return f"a very long {type(value).__name__}"


def vector_of(values: object, where: str) -> Float[Tensor, "d_model"]:
    """Return a vector of a file as float32.

    Raises:
        SteeringError: it is no list or tensor of finite numbers along one axis.
    """
    try:
        found = torch.as_tensor(values)
        if found.layout != torch.strided or found.device.type != "cpu":
            raise TypeError(f"a tensor without plain numbers ({found.layout}, {found.device})")
        if not (found.is_floating_point() or found.dtype in (torch.int32, torch.int64)):
            raise TypeError(f"numbers of type {found.dtype}")
        if found.numel() > _LONGEST:  # an expanded tensor takes no room in its file
            raise TypeError(f"{found.numel()} numbers")
        vector = found.detach().to(device="cpu", dtype=torch.float32).clone()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise SteeringError(
            f"expected a vector of numbers at {where}, got {str(error)[:200]}"
        ) from error
    if vector.ndim != 1 or not vector.numel() or not bool(vector.isfinite().all()):
        raise SteeringError(
            f"expected one vector of finite numbers at {where}, got shape {list(vector.shape)}"
            f"{'' if bool(vector.isfinite().all()) else ' with NaN or infinity'}"
        )
    return vector


def number_of(value: object, where: str) -> float:
    """Return a number of a file.

    Raises:
        SteeringError: it is no finite number.
    """
    if isinstance(value, Tensor) and value.numel() == 1 and value.device.type == "cpu":
        value = value.item()
    try:
        found = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        found = math.inf
    if isinstance(value, bool) or not math.isfinite(found):
        raise SteeringError(f"expected a finite number at {where}, got {shown(value)}")
    return found


def layer_of(value: object, where: str) -> int:
    """Return a layer's number in a file.

    Raises:
        SteeringError: it is no whole number from 0 to 9999.
    """
    text = value if isinstance(value, str) else shown(value) if isinstance(value, int) else ""
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 5):
        raise SteeringError(f"expected the number of a block at {where}, got {shown(value)}")
    return int(text)


def unit_of(vector: Float[Tensor, "d_model"], where: str) -> Float[Tensor, "d_model"]:
    """Return the direction of `vector`; the vector itself where its norm is 1 but for rounding.

    Raises:
        SteeringError: it is zero, or too long for float32.
    """
    length = float(vector.to(torch.float64).norm())
    if not 0 < length < ALWAYS:
        raise SteeringError(f"expected a vector with a direction at {where}, got norm {length}")
    if abs(length - 1) <= _NEAR_UNIT:
        return vector
    return (vector.to(torch.float64) / length).to(torch.float32)


def added(
    layer: int, vector: Float[Tensor, "d_model"], where: str, *, scale: float = 1.0
) -> Part | None:
    """Return the part that adds `scale * vector`; None where that is nothing.

    A unit vector is kept as it is with `scale` its shift, so that the product is formed by the
    hook; any other is divided by its norm in float64, which moves an entry of the product by at
    most two units in the last place.
    """
    length = float(vector.to(torch.float64).norm())
    if not (length and scale):
        return None
    v_hat = unit_of(vector, where)
    shift = scale if v_hat is vector else scale * length
    turned = v_hat if shift > 0 else -v_hat
    return Part(method="swfc", numbers=LayerNumbers(layer=layer, v_hat=turned, shift=abs(shift)))


def _operations(steering: LayerSteering) -> set[Operation]:
    law = steering.law
    if steering.spec.method == "swfc":
        return {"add"}
    if steering.spec.method == "stmp":
        return {"mirror", "cap"} if law.gain == 1 else {"mirror"}
    found: set[Operation] = {"target"}
    if law.pivot == law.gate:
        found.add("cap")
    if float(law.gate) >= ALWAYS:
        found.add("clamp")
    return found
