"""Made-up text with the lengths of real text: words, tokens, prompts and responses from a seed.

Files of a run are read at a cost that depends on how long texts are, how often tokens repeat and
how well both compress; what they say does not matter here, and nothing can be learned from it.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from interp_steer.scenarios import Scenario

N_WORDS = 6000
N_SENTENCES = 8000
"""Sentences that responses are strung together from."""
N_SYSTEMS = 14
"""Different pairs of system prompts in each split: their scenarios are clusters."""
MARKS = ("<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", ".")
"""Tokens 0 to 5; words follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Responses, row by row."""

    texts: list[str]
    """As text."""
    token_ids: pa.ListArray
    """As tokens."""
    n_tokens: Int[np.ndarray, "row"]
    """Tokens of each."""


class Wording:
    """The language of one seed: word w is token w + 6, written with a space before it."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 1])
        syllables = ["".join(pair) for pair in product("bdfgklmnprstvz", "aeiou")]
        drawn = self._rng.integers(len(syllables), size=(N_WORDS, 4))
        n_used = self._rng.integers(1, 5, size=N_WORDS)
        self.words = [
            "".join(syllables[i] for i in row[:n]) for row, n in zip(drawn, n_used, strict=True)
        ]
        self.strings = np.array([*MARKS, *(f" {word}" for word in self.words)], dtype=object)
        """Readable string of every token."""
        self._sentences = [self.ids(int(n)) for n in self._rng.integers(6, 16, N_SENTENCES)]
        self._as_text = np.array([self.text(ids) for ids in self._sentences], dtype=object)

    def ids(self, n_words: int) -> Int[np.ndarray, "token"]:
        """A sentence of so many words, the frequent ones as frequent as in text, and its stop."""
        # Zipf's law, cut off at the vocabulary.
        ranks = np.floor(N_WORDS ** self._rng.random(n_words)).astype(np.int32)
        return np.concatenate([ranks - 1 + len(MARKS), [len(MARKS) - 1]]).astype(np.int32)

    def text(self, ids: Int[np.ndarray, "token"]) -> str:
        """Tokens as text."""
        return "".join(self.strings[ids]).strip()

    def responses(self, n: int, *, sentences: tuple[int, int], seed: int) -> Texts:
        """`n` responses of between so many sentences, the upper limit left out."""
        rng = np.random.default_rng([seed, 2])
        counts = rng.integers(*sentences, size=n)
        places = [rng.integers(N_SENTENCES, size=count) for count in counts]
        chosen = [self._sentences[place] for row in places for place in row]
        ends = np.cumsum([0, *(sum(len(self._sentences[p]) for p in row) for row in places)])
        flat = np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.int32)
        return Texts(
            texts=[" ".join(self._as_text[row]) for row in places],
            token_ids=pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(flat)),
            n_tokens=np.diff(ends),
        )

    def scenarios(self, *, n_train: int, n_test: int) -> tuple[Scenario, ...]:
        """Scenarios of the trait "candour"; every few share their system prompts."""
        systems = [
            (f"Be candid. {self.text(self.ids(12))}", f"Mislead them. {self.text(self.ids(12))}")
            for _ in range(2 * N_SYSTEMS)
        ]
        return tuple(
            Scenario(
                id=f"candour-{split}-{i:03d}",
                trait="candour",
                split=split,
                category=f"topic {i % 5}",
                system_aligned=systems[first + i % N_SYSTEMS][0],
                system_malicious=systems[first + i % N_SYSTEMS][1],
                user=(f"Question {i} of {split}: {self.text(self.ids(18))}",),
            )
            for split, n, first in (("train", n_train, 0), ("test", n_test, N_SYSTEMS))
            for i in range(n)
        )
