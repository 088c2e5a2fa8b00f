"""The judge-free measures of a row: their names, those of the text alone, and the table's shape.

A judge's score is as good as its judge; these numbers need none. Each says one narrow thing about a
response: low repetition and many distinct words are not quality, and a degenerate text can look
fine on any one of them. Measures that need the hooks are in `edit_meter`, those that need a model
in `reference_measures` and `embedders`.

A word, throughout: the text lower-cased and split at white space, punctuation and symbols (Unicode
categories P and S) stripped from both ends of each piece, empty pieces dropped. "Don't stop!" has
the words "don't" and "stop". Languages that do not put spaces between words have few of them.

What does not apply or was not measured is NaN in arrays and null in tables, never 0.
"""

import math
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from interp_steer.errors import InterpSteerError

REFERENCE_COLUMNS = ("cross_entropy", "cross_entropy_reference", "embedding_cosine")
"""Compared with the aligned baseline's response."""
FIRED_COLUMNS = (
    "fired_share",
    "fired_share_system",
    "fired_share_user",
    "fired_share_template",
    "fired_share_prefill",
    "fired_share_response",
)
"""Fired tokens as a share of the tokens in scope: of all, and of each segment's."""
EDIT_COLUMNS = (
    "target_distance",
    "target_distance_fired",
    "relative_l2",
    "relative_l2_fired",
    *FIRED_COLUMNS,
)
"""What the hooks did; see `edit_meter`."""
TEXT_COLUMNS = ("repeated_4grams", "distinct_1", "distinct_2")
"""Of the response's text alone."""
GUARD_COLUMNS = ("kl_to_unsteered",)
"""Measured for guard cells only."""
MEASURE_COLUMNS = (*REFERENCE_COLUMNS, *EDIT_COLUMNS, *TEXT_COLUMNS, *GUARD_COLUMNS)
"""Columns of a sweep row that no judge made; all nullable float64."""

MeasureArrays = dict[str, Float[np.ndarray, "row"]]
"""Values by column, one per row; NaN where a measure does not apply."""


class MeasureError(InterpSteerError):
    """Something that cannot be measured as asked."""


def words(text: str) -> list[str]:
    """Return the words of `text`, by the module's convention.

    Examples:
        >>> words("Don't stop! (please)")
        ["don't", 'stop', 'please']
    """
    return [word for piece in text.lower().split() if (word := _without_marks(piece))]


def repeated_4grams(text: str) -> float:
    """Share of the word 4-grams that occurred before in `text`: 1 - distinct / all, in [0, 1).

    NaN for fewer than 4 words, which have no 4-gram.

    Source: sequence repetition (seq-rep-4) of Welleck et al., arXiv 1908.04319, section 6.1.

    Examples:
        >>> repeated_4grams("one two three four five"), repeated_4grams("no no no no no no")
        (0.0, 0.6666666666666667)
    """
    return 1.0 - _distinct_share(words(text), 4)


def distinct_n(text: str, n: int) -> float:
    """Share of the word n-grams that are different ones: distinct / all, in (0, 1].

    Falls with length, so compare responses of like length. NaN for fewer than `n` words.

    Source: distinct-n of Li et al., arXiv 1510.03055, section 5.2, which divides by all words
    instead of by all n-grams.

    Raises:
        MeasureError: n below 1.
    """
    if n < 1:
        raise MeasureError(f"expected n-grams of n >= 1 words, got n={n}; use 1 or 2")
    return _distinct_share(words(text), n)


def measure_texts(texts: Sequence[str]) -> MeasureArrays:
    """Return `TEXT_COLUMNS` of every response."""
    values = {
        "repeated_4grams": [repeated_4grams(text) for text in texts],
        "distinct_1": [distinct_n(text, 1) for text in texts],
        "distinct_2": [distinct_n(text, 2) for text in texts],
    }
    return {name: np.array(column, dtype=np.float64) for name, column in values.items()}


def measure_records(
    *parts: Mapping[str, Float[np.ndarray, "row"]], n_rows: int
) -> list[dict[str, float | None]]:
    """Return one mapping per row with all of `MEASURE_COLUMNS`; None for NaN and what is absent.

    Args:
        parts: arrays by column, from any of the measures.
        n_rows: rows of every array.

    Raises:
        MeasureError: an unknown column, one given twice, or another number of rows.
    """
    columns: dict[str, list[float]] = {}
    for part in parts:
        for name, values in part.items():
            if name in columns or name not in MEASURE_COLUMNS:
                what = "is given twice" if name in columns else "is unknown"
                raise MeasureError(
                    f"measure {name!r} {what}; expected each of {', '.join(MEASURE_COLUMNS)} at "
                    "most once"
                )
            columns[name] = _checked(name, values, n_rows)
    empty = [math.nan] * n_rows
    spread = {name: columns.get(name, empty) for name in MEASURE_COLUMNS}
    return [
        {name: None if math.isnan(values[row]) else values[row] for name, values in spread.items()}
        for row in range(n_rows)
    ]


def _checked(name: str, values: Float[np.ndarray, "row"], n_rows: int) -> list[float]:
    if values.shape != (n_rows,):
        raise MeasureError(
            f"expected {n_rows} values of {name}, one per row, got shape {values.shape}; NaN "
            "stands for what does not apply"
        )
    return [float(value) for value in values]


def _distinct_share(found: Sequence[str], n: int) -> float:
    grams = list(zip(*(found[start:] for start in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else math.nan


def _without_marks(piece: str) -> str:
    """Strip punctuation and symbols from both ends."""
    kept = [
        i for i, character in enumerate(piece) if unicodedata.category(character)[0] not in "PS"
    ]
    return piece[kept[0] : kept[-1] + 1] if kept else ""
