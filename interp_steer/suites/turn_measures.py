"""How much of a turn repeats earlier ones: sentences of the same meaning, and the same four words.

Both say that something was said before, not that it should not have been: an assistant that is
asked the same thing twice repeats itself for a reason. Compare with the unsteered conversations
beside them.

Source: arXiv 2604.08169v2, section 4.4 (sentence reuse at cosine > 0.8, 4-gram repetition).
"""

import math
import re
from collections.abc import Sequence

import numpy as np

from interp_steer.embedders import Embedder, unit_vectors
from interp_steer.measures import repeated_4grams, words

REUSE_COSINE = 0.8
"""Two sentences whose embeddings have a larger cosine count as the same."""


def sentences(text: str) -> list[str]:
    """The sentences of a text, cut behind ., !, ? and at line breaks; only those with a word."""
    pieces = re.split(r"(?<=[.!?])\s+|\n+", text)
    return [piece.strip() for piece in pieces if words(piece)]


def repeated_within(turns: Sequence[str]) -> list[float]:
    """Share of each turn's word 4-grams that occurred before in the same turn; NaN without any."""
    return [repeated_4grams(turn) for turn in turns]


def repeated_across(turns: Sequence[str]) -> list[float]:
    """Share of each turn's word 4-grams that occurred in an earlier turn.

    NaN for the first turn, which has no earlier one, and for turns of fewer than four words.
    """
    seen: set[tuple[str, ...]] = set()
    shares: list[float] = []
    for place, turn in enumerate(turns):
        grams = _four_grams(turn)
        known = sum(gram in seen for gram in grams)
        shares.append(known / len(grams) if grams and place else math.nan)
        seen.update(grams)
    return shares


def reused_sentences(
    embedder: Embedder, conversations: Sequence[Sequence[str]]
) -> list[list[float]]:
    """Share of each turn's sentences that are like a sentence of an earlier turn, by conversation.

    NaN for the first turn and for turns without a sentence. Every different sentence is embedded
    once, however many conversations it stands in.

    Raises:
        MeasureError: the embedder cannot be used.
    """
    split = [[sentences(turn) for turn in turns] for turns in conversations]
    every = dict.fromkeys(s for turns in split for turn in turns for s in turn)
    if not every:
        return [[math.nan] * len(turns) for turns in split]
    vectors = unit_vectors(embedder, list(every))
    place = {sentence: i for i, sentence in enumerate(every)}
    return [_reuse([[place[s] for s in turn] for turn in turns], vectors) for turns in split]


def _reuse(turns: Sequence[Sequence[int]], vectors: np.ndarray) -> list[float]:
    earlier: list[int] = []
    shares: list[float] = []
    for turn in turns:
        share = math.nan
        if earlier and turn:
            cosines = vectors[list(turn)] @ vectors[earlier].T
            share = float((cosines.max(axis=1) > REUSE_COSINE).mean())
        shares.append(share)
        earlier += turn
    return shares


def _four_grams(text: str) -> list[tuple[str, ...]]:
    found = words(text)
    return list(zip(*(found[start:] for start in range(4)), strict=False))
