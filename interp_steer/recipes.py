"""What every figure of the paper is made of: its number, its drawing, the analyses it shows.

A recipe reads a run and returns drawings; writing and rendering them is `run_figures`, making the
analyses they show is `analysis.upkeep`. Loading this module loads plotly.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from interp_steer.plots.figure_files import Drawing
from interp_steer.plots.from_analyses import draw_firing, draw_scan
from interp_steer.plots.from_duration import draw_duration
from interp_steer.plots.from_probes import (
    draw_agreement,
    draw_layers,
    draw_plane,
    draw_projections,
    draw_readability,
    draw_transfer,
)
from interp_steer.plots.from_suites import draw_cost, draw_cross_trait, draw_curves
from interp_steer.plots.from_sweep import (
    draw_frontiers,
    draw_maps,
    draw_measures,
    draw_trait_coherence,
)
from interp_steer.plots.from_tokens import draw_strips, draw_token_map
from interp_steer.plots.ratings import draw_ratings
from interp_steer.plots.sources import RunSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one figure of a run is made."""

    number: str
    """Of the list in docs/gallery.md."""
    about: str
    """What it shows, in one line."""
    draw: Callable[[RunSource], list[Drawing]]
    """Reads the run and returns one drawing or several; raises `MissingStageError`."""
    analyses: tuple[str, ...] = ()
    """Analyses whose tables it draws, where they are there."""


RECIPES: Mapping[str, Recipe] = {
    "projections": Recipe(
        number="1",
        about="projection distributions: responses above, single tokens below",
        draw=draw_projections,
    ),
    "transfer": Recipe(
        number="2", about="what each method does to a projection", draw=draw_transfer
    ),
    "steering_plane": Recipe(
        number="2",
        about="the boundary in a plane, arrows to the steered places",
        draw=draw_plane,
        analyses=("baseline_projections",),
    ),
    "trait_coherence": Recipe(
        number="3", about="trait and coherence by layer", draw=draw_trait_coherence
    ),
    "projections_by_layer": Recipe(
        number="4", about="distributions at four layers with m and Cohen's d", draw=draw_layers
    ),
    "readability": Recipe(
        number="5",
        about="Cohen's d, accuracy, AUROC by layer",
        draw=draw_readability,
        analyses=("layer_readability",),
    ),
    "direction_agreement": Recipe(
        number="5",
        about="cosine with the mean difference, split halves",
        draw=draw_agreement,
        analyses=("layer_readability", "direction_stability"),
    ),
    "layer_alpha": Recipe(number="6", about="layer x alpha maps", draw=draw_maps),
    "frontiers": Recipe(number="6", about="trait against coherence", draw=draw_frontiers),
    "judge_free": Recipe(number="7", about="judge-free measures by layer", draw=draw_measures),
    "token_strips": Recipe(
        number="8",
        about="responses token by token, with what fired",
        draw=draw_strips,
        analyses=("baseline_projections",),
    ),
    "token_layer_map": Recipe(
        number="8", about="projections of one response by layer and token", draw=draw_token_map
    ),
    "firing_rates": Recipe(
        number="9", about="firing rate by position and segment", draw=draw_firing
    ),
    "causal_scan": Recipe(
        number="9",
        about="where the trait lives, beside recovery",
        draw=draw_scan,
        analyses=("causal_scan",),
    ),
    "steering_duration": Recipe(
        number="10", about="the first K tokens against throughout", draw=draw_duration
    ),
    "capabilities": Recipe(
        number="11",
        about="capabilities by coefficient",
        draw=partial(draw_curves, name="capabilities"),
        analyses=("capabilities",),
    ),
    "multi_turn": Recipe(
        number="11",
        about="multi-turn curves",
        draw=partial(draw_curves, name="multi_turn"),
        analyses=("multi_turn",),
    ),
    "cross_trait": Recipe(
        number="11",
        about="each trait under the other's guard",
        draw=draw_cross_trait,
        analyses=("cross_trait",),
    ),
    "cost": Recipe(number="11", about="latency and throughput", draw=draw_cost, analyses=("cost",)),
    "elo": Recipe(number="11", about="tournament ratings", draw=draw_ratings),
}
"""Every figure by name, in the order of the paper's list."""


def shown_analyses(only: Sequence[str] = ()) -> tuple[str, ...]:
    """The analyses that figures draw: those named in `only`, or all."""
    shown = [name for figure in only or RECIPES for name in RECIPES[figure].analyses]
    return tuple(dict.fromkeys(shown))
