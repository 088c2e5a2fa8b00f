"""What a user may choose on the way out and in; no heavy import, so that --help is quick."""

from dataclasses import dataclass
from typing import Literal

SvecSite = Literal["block_input", "block_output"]
"""Where a tool adds the direction of a block: before it, or after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecChoice:
    """The intervention of a run that is exported."""

    method: Literal["swfc", "sttp", "stmp"] = "swfc"
    """The intervention."""
    layers: tuple[int, ...] = ()
    """Steered layers; none takes the layer of the method's operating point in the scope."""
    alpha: float | None = None
    """Coefficient; None takes that of the method's operating point in the scope."""
    scope: str = "all"
    """Which tokens: all, response, prompt, first:K. Most formats know all alone."""
    direction: Literal["aligned", "reversed"] = "aligned"
    """Towards the trait, or towards its opposite."""
    threshold_sigmas: float | None = None
    """Gate at mu+ + k sigma+; None puts it on the boundary. With sttp and the same alpha: a cap."""
    cap_sigmas: float = 40.0
    """Of stmp: the cap lies at mu+ + k sigma+."""
    no_cap: bool = False
    """Of stmp: no cap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """What a format leaves open."""

    hookpoint: str | None = None
    """lm-eval: name of a block below the base model, like layers.{layer}; by model type."""
    svec_site: SvecSite = "block_input"
    """svec: block_input for activation-steering, block_output for AISteer360."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """What a file may leave open."""

    layers: tuple[int, ...] = ()
    """Only these; all by default. Of a bare payload: its layer."""
    experiment: str | None = None
    """Of a capping config: which experiment."""
    svec_site: SvecSite | None = None
    """Of .svec: where its tool adds a direction; by default told from the file."""
    alpha: float = 1.0
    """Of a probe, which says nothing of strength: stmp's alpha."""
