"""Whether the length of a prompt gives away which side it belongs to.

Where malicious prompts are the longer ones, a probe that separates the two sides may have found
length. A classifier that knows nothing but the length is held against them: its AUROC is 0.5 where
length says nothing. Balanced lengths do not make the sides alike in anything else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp_steer.readability import readability
from interp_steer.scenario_likeness import SIDES, text_of
from interp_steer.scenarios import Scenario, Split

LENGTH_TOLERANCE = 0.15
"""An AUROC of lengths may be so far from 0.5, or two standard deviations of chance where these are
more (0.39 with 5 pairs, 0.12 with 50). The bundled sets stay within 0.08."""

MIN_PAIRS = 4
"""With fewer pairs chance alone covers every AUROC, and lengths are not judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideLengths:
    """How long the prompts of the two sides of a split are; each pair of prompts counts once."""

    split: Split
    """Whose prompts."""
    n_pairs: int
    """Different pairs of prompts."""
    mean_aligned: float
    """Mean length of aligned prompts, in characters."""
    mean_malicious: float
    """Mean length of malicious prompts, in characters."""
    auroc_characters: float
    """Probability that an aligned prompt has more characters than a malicious one, ties half."""
    auroc_words: float
    """The same of words."""
    share_longer: float
    """Share of pairs whose aligned prompt has more characters, ties half."""

    @property
    def is_judged(self) -> bool:
        """Whether there are pairs enough to judge by."""
        return self.n_pairs >= MIN_PAIRS

    def margin(self, tolerance: float = LENGTH_TOLERANCE) -> float:
        """How far from 0.5 an AUROC may be: the tolerance, or two standard deviations of chance.

        Of n against n lengths from one distribution without ties, the variance of the AUROC is
        (2n + 1) / (12 n^2) (that of the Mann-Whitney U divided by n^4).
        """
        n = self.n_pairs
        return max(tolerance, 2 * math.sqrt((2 * n + 1) / (12 * n**2)))

    def is_balanced(self, tolerance: float = LENGTH_TOLERANCE) -> bool:
        """Whether neither AUROC is farther from 0.5 than the margin."""
        measured = (self.auroc_characters, self.auroc_words)
        return all(abs(x - 0.5) <= self.margin(tolerance) for x in measured)


def side_lengths(scenarios: Sequence[Scenario], split: Split) -> SideLengths | None:
    """Measure one split; None where it has no scenarios."""
    some = [scenario for scenario in scenarios if scenario.split == split]
    if not some:
        return None
    pairs = sorted({tuple(text_of(s, side) or "" for side in SIDES) for s in some})
    characters = np.array([[len(text) for text in pair] for pair in pairs], dtype=np.float64)
    words = np.array([[len(text.split()) for text in pair] for pair in pairs], dtype=np.float64)
    mean_aligned, mean_malicious = characters.mean(axis=0)
    return SideLengths(
        split=split,
        n_pairs=len(pairs),
        mean_aligned=float(mean_aligned),
        mean_malicious=float(mean_malicious),
        auroc_characters=_auroc(characters),
        auroc_words=_auroc(words),
        share_longer=float((np.sign(characters[:, 0] - characters[:, 1]) + 1).mean() / 2),
    )


def _auroc(lengths: Float[np.ndarray, "pair side"]) -> float:
    is_aligned = np.tile(np.array([True, False]), len(lengths))
    return readability(lengths.reshape(-1), is_aligned).auroc
