"""The other directions of the controls: same gate, same signed shift, another unit vector.

Recovery along the trait's direction means little unless an edit of the same size, at the same
tokens, along another direction recovers nothing. Two kinds: a random unit vector, and the direction
that the probe finds when labels are swapped in exactly half of the scenarios. A control that does
recover something does not say why; in few dimensions a random direction is not orthogonal to the
trait's.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from interp_steer.cells import MEAN_DIFFERENCE, GridError, parse_control
from interp_steer.labelled import LabelledResiduals
from interp_steer.layer_fit import fit_direction
from interp_steer.logistic import Span
from interp_steer.planes import FitMethod, span_for
from interp_steer.probes import shuffled_labels
from interp_steer.readability import SidePair
from interp_steer.residuals import ResidualPair


class ControlDirections:
    """Unit vectors for the controls, by draw and layer; made when first asked for, then kept."""

    def __init__(
        self,
        pair: ResidualPair,
        *,
        scenario_ids: SidePair,
        method: FitMethod = "logistic",
        seed: int = 42,
    ) -> None:
        """Keep what the draws are made from.

        Args:
            pair: training residuals of both sides.
            scenario_ids: scenario of each response, both sides.
            method: how the trait's own probe was fitted; shuffled labels are fitted alike.
            seed: with the draw's number it fixes the vector.
        """
        self._pair, self._ids = pair, scenario_ids
        self._method: FitMethod = method
        self._seed = seed
        self._last: tuple[int, Span] | None = None
        self._known: dict[tuple[str, int], Float[Tensor, d_model]] = {}

    def direction(self, control: str, layer: int) -> Float[Tensor, "d_model"]:
        """The unit vector u of one control at one layer, float32.

        Args:
            control: random_direction:I, shuffled_labels:I or mean_difference.
            layer: zero-based.

        Raises:
            GridError: an unknown control, or a layer without residuals.
        """
        if (control, layer) not in self._known:
            self._known[control, layer] = self._draw(control, layer)
        return self._known[control, layer]

    def _draw(self, control: str, layer: int) -> Float[Tensor, "d_model"]:
        kind, draw = parse_control(control)
        aligned, malicious = self._pair.aligned, self._pair.malicious
        if layer not in aligned.layers:
            raise GridError(
                f"no residuals of layer {layer}, so no control there; the run has layers "
                f"{', '.join(map(str, aligned.layers))}"
            )
        if kind == "random_direction":
            d_model = aligned.values.shape[-1]
            return random_direction(d_model, draw=draw, layer=layer, seed=self._seed)
        place = aligned.layers.index(layer)
        if kind == MEAN_DIFFERENCE:
            return mean_difference(aligned.values[:, place], malicious.values[:, place])
        labels = shuffled_labels(self._ids, draw=draw, seed=self._seed)
        return fit_direction(self._span(layer), labels, layer, method=self._method, c=1.0)

    def _span(self, layer: int) -> Span:
        """The coordinates of one layer's fits, kept while no other layer is asked for.

        A grid names all draws of a layer one after the other, and finding the span of many
        dimensions costs more than a fit in it.
        """
        if self._last is None or self._last[0] != layer:
            self._last = None  # not two at a time
            pair, place = self._pair, self._pair.aligned.layers.index(layer)
            data = LabelledResiduals(
                aligned=pair.aligned.values[:, place : place + 1],
                malicious=pair.malicious.values[:, place : place + 1],
                layers=(layer,),
                scenario_ids=self._ids,
            )
            self._last = (layer, span_for(data.rows(0), self._method))
        return self._last[1]


def mean_difference(
    aligned: Float[Tensor, "response d_model"], malicious: Float[Tensor, "response d_model"]
) -> Float[Tensor, "d_model"]:
    """Unit difference of the class means ("CAA"), computed in float64."""
    difference = aligned.double().mean(dim=0) - malicious.double().mean(dim=0)
    return (difference / difference.norm()).float()


def random_direction(
    d_model: int, *, draw: int, layer: int, seed: int = 42
) -> Float[Tensor, "d_model"]:
    """A unit vector, uniform on the sphere, that depends on (seed, draw, layer) alone."""
    mixed = (seed * 1_000_003 + draw) * 1_000_003 + layer
    generator = torch.Generator().manual_seed(mixed % (2**63))
    vector = torch.randn(d_model, generator=generator, dtype=torch.float64)
    return (vector / vector.norm()).float()
