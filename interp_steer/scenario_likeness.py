"""How alike texts are, so that train and test scenarios that say the same are found.

Two measures, never mixed and always named beside the number: the cosine of sentence embeddings
(meaning, as far as the embedding model sees it), and the cosine of TF-IDF weights of character
n-grams (wording alone: a paraphrase in other words goes unseen, a shared stock phrase does not).
Neither says that two scenarios test the same thing; they say which pairs to read side by side.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from interp_steer.embedders import Embedder, unit_vectors
from interp_steer.scenarios import Scenario

Kind = Literal["request", "aligned prompt", "malicious prompt"]
"""The texts of a scenario: what the user says (a pair of raw prompts has none), and what stands
before it on each side, a system prompt or the whole raw prompt."""

SIDES: tuple[Kind, Kind] = ("aligned prompt", "malicious prompt")
KINDS: tuple[Kind, ...] = ("request", *SIDES)

EMBEDDED_THRESHOLD = 0.65
"""Default limit for sentence embeddings. all-MiniLM-L6-v2 puts ten paraphrases of bundled requests
at 0.65 to 0.86, and no two texts of the bundled sets above 0.57 (docs/scenarios.md)."""

LEXICAL_THRESHOLD = 0.5
"""Default limit for character n-grams: a text with a few words exchanged stands above it, no two
texts of the bundled sets reach 0.3. Nine of the ten paraphrases stay below: it cannot see them."""

_NGRAMS = (3, 5)


@runtime_checkable
class TextLikeness(Protocol):
    """A measure of how alike two texts are."""

    @property
    def name(self) -> str:
        """What is measured, in words that stand beside its numbers."""
        ...

    @property
    def threshold(self) -> float:
        """From which value on a pair counts as a near-duplicate, unless the user says otherwise."""
        ...

    def cosines(self, texts: Sequence[str]) -> Float[np.ndarray, "text text"]:
        """Return the likeness of every pair; 1 for equal texts."""
        ...


class EmbeddedLikeness:
    """Cosine of sentence embeddings."""

    threshold = EMBEDDED_THRESHOLD

    def __init__(self, embedder: Embedder) -> None:
        """Take any embedder; it is asked once per text of a call."""
        self._embedder = embedder

    @property
    def name(self) -> str:
        """Names the embedding model, since values of different ones do not compare."""
        return f"cosine of sentence embeddings ({self._embedder.name})"

    def cosines(self, texts: Sequence[str]) -> Float[np.ndarray, "text text"]:
        """Return the cosine of every pair of embeddings.

        Raises:
            MeasureError: an embedder that does not return one vector of norm 1 per text.
        """
        if not texts:
            return np.zeros((0, 0))
        vectors = unit_vectors(self._embedder, texts)
        return vectors @ vectors.T


class LexicalLikeness:
    """Cosine of TF-IDF weights of character n-grams within words; needs no model."""

    threshold = LEXICAL_THRESHOLD
    name = f"wording only: cosine of TF-IDF of character {_NGRAMS[0]}- to {_NGRAMS[1]}-grams"

    def cosines(self, texts: Sequence[str]) -> Float[np.ndarray, "text text"]:
        """Return the cosine of every pair; the weights depend on all the texts of the call."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        if not texts:
            return np.zeros((0, 0))
        vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=_NGRAMS)
        weights = vectorizer.fit_transform(texts)
        return (weights @ weights.T).toarray()


@dataclass(frozen=True, slots=True, kw_only=True)
class AlikePair:
    """Two different texts of one kind and how alike they are."""

    kind: Kind
    """What is compared."""
    first: str
    """Id of a scenario with the one text."""
    second: str
    """Id of a scenario with the other text."""
    is_across: bool
    """Whether one stands in train and the other in test."""
    cosine: float
    """Likeness by the measure in use, at most 1."""


def text_of(scenario: Scenario, kind: Kind) -> str | None:
    """One text of a scenario; the turns of a request stand on lines of their own."""
    return _TEXT[kind](scenario)


def normal_form(text: str) -> str:
    """The words of a text in lower case: what remains when spacing and punctuation do not count."""
    return " ".join(re.findall(r"\w+", text.casefold())) or text


def scenarios_by_text(scenarios: Sequence[Scenario], kind: Kind) -> dict[str, list[Scenario]]:
    """Group scenarios by the normal form of one of their texts; those without it are left out."""
    found: dict[str, list[Scenario]] = {}
    for scenario in scenarios:
        if (text := text_of(scenario, kind)) is not None:
            found.setdefault(normal_form(text), []).append(scenario)
    return found


def alike_pairs(
    scenarios: Sequence[Scenario], likeness: TextLikeness, *, limit: float, n_closest: int
) -> tuple[AlikePair, ...]:
    """Return pairs of different texts, closest first.

    Args:
        scenarios: the set.
        likeness: how alike two texts are.
        limit: all pairs that are as close as this are returned;
        n_closest: and of each kind, across and within splits, so many of the closest in any case.
    """
    pairs: list[AlikePair] = []
    for kind in KINDS:
        some = [group[0] for group in scenarios_by_text(scenarios, kind).values()]
        cosines = likeness.cosines([text_of(scenario, kind) or "" for scenario in some])
        is_test = np.array([scenario.split == "test" for scenario in some], dtype=bool)
        is_across = is_test[:, None] != is_test[None, :]
        for where in (is_across, ~is_across):
            chosen = _closest(cosines, where, limit=limit, n_closest=n_closest)
            pairs += [
                AlikePair(
                    kind=kind,
                    first=some[i].id,
                    second=some[j].id,
                    is_across=bool(is_across[i, j]),
                    cosine=float(cosines[i, j]),
                )
                for i, j in chosen
            ]
    return tuple(sorted(pairs, key=lambda pair: -pair.cosine))


def _closest(
    cosines: Float[np.ndarray, "text text"],
    where: Bool[np.ndarray, "text text"],
    *,
    limit: float,
    n_closest: int,
) -> Iterator[tuple[int, int]]:
    """Places of the closest pairs i < j among those of `where`, closest first."""
    rows, columns = np.nonzero(np.triu(where, k=1))
    values = cosines[rows, columns]
    order = np.argsort(-values, kind="stable")
    n = max(n_closest, int((values >= limit).sum()))
    for k in order[:n]:
        yield int(rows[k]), int(columns[k])


_TEXT: Mapping[Kind, Callable[[Scenario], str | None]] = {
    "request": lambda s: "\n".join(s.user) or None,
    "aligned prompt": lambda s: s.prompt_aligned if s.is_raw else s.system_aligned,
    "malicious prompt": lambda s: s.prompt_malicious if s.is_raw else s.system_malicious,
}
