"""Text measures against hand-counted values, and the shape of a row's measures."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp_steer.measures import (
    MEASURE_COLUMNS,
    TEXT_COLUMNS,
    MeasureError,
    distinct_n,
    measure_records,
    measure_texts,
    repeated_4grams,
    words,
)

VOCABULARY = """cross_entropy cross_entropy_reference embedding_cosine target_distance
target_distance_fired relative_l2 relative_l2_fired fired_share fired_share_system fired_share_user
fired_share_template fired_share_prefill fired_share_response repeated_4grams distinct_1 distinct_2
kl_to_unsteered"""

sentences = st.lists(st.sampled_from("a b c d".split()), min_size=4, max_size=30)


def test_columns_are_those_of_the_vocabulary() -> None:
    assert " ".join(MEASURE_COLUMNS) == " ".join(VOCABULARY.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop!  Don't\nSTOP.", ["don't", "stop", "don't", "stop"]),
        ("well-known (yes) … — $5 +", ["well-known", "yes", "5"]),
        ("«Élan» हिन्दी, 你好。", ["élan", "हिन्दी", "你好"]),
        (" ?! \t", []),
        ("", []),
    ],
)
def test_what_a_word_is(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b c d a b c d", 1 / 5),  # abcd bcda cdab dabc abcd: the last occurred before
        ("A b, c d. a B c d!", 1 / 5),
        ("go go go go go go", 2 / 3),
        ("one two three four five", 0.0),
        ("a b c a b c", 0.0),  # trigrams repeat, 4-grams do not
        ("one two three four", 0.0),
    ],
)
def test_repeated_4grams_by_hand(text: str, expected: float) -> None:
    assert repeated_4grams(text) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [
        ("the cat and the dog", 1, 4 / 5),
        ("the cat and the dog", 2, 1.0),
        ("the cat the cat", 2, 2 / 3),
        ("yes Yes YES", 1, 1 / 3),
        ("yes", 1, 1.0),
    ],
)
def test_distinct_n_by_hand(text: str, n: int, expected: float) -> None:
    assert distinct_n(text, n) == pytest.approx(expected, abs=1e-12)


def test_short_texts_have_no_value() -> None:
    assert math.isnan(repeated_4grams("one two three"))
    assert math.isnan(distinct_n("one", 2))
    assert math.isnan(distinct_n(" ... ", 1))
    assert not math.isnan(distinct_n("one", 1))
    with pytest.raises(MeasureError, match=r"n >= 1 words, got n=0; use 1 or 2"):
        distinct_n("one", 0)


@given(sentences)
def test_repeated_4grams_counts_the_later_occurrences(tokens: list[str]) -> None:
    counts = Counter(" ".join(tokens[i : i + 4]) for i in range(len(tokens) - 3))
    later = sum(count - 1 for count in counts.values())
    assert repeated_4grams(" ".join(tokens)) == pytest.approx(later / (len(tokens) - 3))


@given(sentences)
def test_saying_it_all_again_repeats_more_and_varies_less(tokens: list[str]) -> None:
    once, twice = " ".join(tokens), " ".join(tokens * 2)
    assert repeated_4grams(twice) > repeated_4grams(once)
    assert distinct_n(twice, 1) == pytest.approx(distinct_n(once, 1) / 2)


def test_texts_become_columns() -> None:
    found = measure_texts(["a b c d a b c d", "two words", ""])
    assert tuple(found) == TEXT_COLUMNS
    np.testing.assert_array_equal(found["repeated_4grams"], [1 - 4 / 5, np.nan, np.nan])
    np.testing.assert_array_equal(found["distinct_1"], [1 / 2, 1, np.nan])
    np.testing.assert_array_equal(found["distinct_2"], [4 / 7, 1, np.nan])


def test_a_record_has_every_column_and_null_where_nothing_was_measured() -> None:
    parts = {"fired_share": np.array([0.0, np.nan])}, {"distinct_1": np.array([1.0, 0.5])}
    first, second = measure_records(*parts, n_rows=2)
    assert tuple(first) == tuple(second) == MEASURE_COLUMNS
    assert {k: v for k, v in first.items() if v is not None} == {"fired_share": 0, "distinct_1": 1}
    assert {k: v for k, v in second.items() if v is not None} == {"distinct_1": 0.5}
    assert measure_records(n_rows=0) == []


def test_records_refuse_what_does_not_fit() -> None:
    column = {"fired_share": np.zeros(2)}
    with pytest.raises(MeasureError, match="'fired_share' is given twice"):
        measure_records(column, column, n_rows=2)
    with pytest.raises(MeasureError, match="'colour' is unknown; expected each of cross_entropy"):
        measure_records({"colour": np.zeros(2)}, n_rows=2)
    with pytest.raises(MeasureError, match=r"3 values of fired_share, one per row, got shape \(2,"):
        measure_records(column, n_rows=3)
