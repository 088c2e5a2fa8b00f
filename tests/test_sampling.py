"""Top-p sampling by inverting the cumulative distribution, against numpy in float64."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp_steer.errors import ModelError
from interp_steer.sampling import GenerationSettings, row_uniforms
from interp_steer.token_choice import SHORTLISTS, SORTED_WHOLE, choose_tokens


def reference_choice(logits: np.ndarray, u: float, temperature: float, top_p: float) -> set[int]:
    """Tokens that float64 arithmetic allows when u and top_p are known to 1e-5."""
    scaled = logits.astype(np.float64) / temperature
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    order = sorted(range(len(logits)), key=lambda token: (-probabilities[token], token))
    mass = np.cumsum(probabilities[order])
    ranks = []
    for slack_p in (-1e-5, 1e-5):
        last_kept = min(int((mass < top_p + slack_p).sum()), len(order) - 1)
        for slack_u in (-1e-5, 1e-5):
            rank = int((mass <= (u + slack_u) * mass[last_kept]).sum())
            ranks.append(min(rank, last_kept))
    return set(order[min(ranks) : max(ranks) + 1])


@given(
    seed=st.integers(0, 2**32 - 1),
    d_vocab=st.sampled_from([2, *SHORTLISTS, *(n + 1 for n in SHORTLISTS), 200]),
    spread=st.sampled_from([0.01, 1.0, 5.0, 30.0]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
)
def test_choice_equals_numpy(
    seed: int, d_vocab: int, spread: float, top_p: float, temperature: float
) -> None:
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(8, d_vocab)) * spread).astype(np.float32)
    uniforms = rng.random(8).astype(np.float32)
    uniforms[:2] = 0.0, np.nextafter(np.float32(1), np.float32(0))
    settings = GenerationSettings(temperature=temperature, top_p=top_p)
    chosen = choose_tokens(torch.tensor(logits), torch.tensor(uniforms), settings)
    for row in range(8):
        expected = reference_choice(logits[row], float(uniforms[row]), temperature, top_p)
        assert int(chosen[row]) in expected


@given(
    seed=st.integers(0, 2**32 - 1),
    n_values=st.sampled_from([1, 2, 5, 1000]),
    top_p=st.sampled_from([0.3, 0.9, 1.0]),
)
def test_ties_go_by_token_id_whatever_else_is_in_the_batch(
    seed: int, n_values: int, top_p: float
) -> None:
    """Few distinct values tie across each shortlist's end; rows alone must choose as together."""
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.integers(0, n_values, size=(6, 3 * SHORTLISTS[-1])) / 2.0).float()
    logits[0, 5] = 40.0  # one row whose shortlist suffices
    uniforms = torch.tensor(rng.random(6)).float()
    settings = GenerationSettings(temperature=1.0, top_p=top_p)
    together = choose_tokens(logits, uniforms, settings)
    probabilities = logits.softmax(-1)
    for row in range(6):
        alone = choose_tokens(logits[row : row + 1], uniforms[row : row + 1], settings)
        assert int(alone[0]) == int(together[row])
        values, order = probabilities[row].sort(descending=True, stable=True)
        mass = values.cumsum(-1)
        kept = min(int((mass < top_p).sum()), len(mass) - 1)
        rank = min(int((mass <= uniforms[row] * mass[kept]).sum()), kept)
        assert int(together[row]) == int(order[rank])


@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.01, 0.5, 2.0, 8.0, 40.0]),
    n_values=st.sampled_from([1, 3, 50, None]),
    top_p=st.sampled_from([0.5, 0.9, 0.9999, 1.0]),
)
def test_a_large_vocabulary_is_searched_as_if_it_were_sorted(
    seed: int, spread: float, n_values: int | None, top_p: float
) -> None:
    """Against float64 sums of the same probabilities, sorted whole, ties by token id."""
    rng = np.random.default_rng(seed)
    shape = (3, SORTED_WHOLE + 500)
    drawn = rng.normal(size=shape) if n_values is None else rng.integers(0, n_values, size=shape)
    logits = torch.tensor(drawn * spread).float()
    uniforms = torch.tensor([0.0, np.nextafter(np.float32(1), np.float32(0)), rng.random()]).float()
    chosen = choose_tokens(logits, uniforms, GenerationSettings(temperature=1.0, top_p=top_p))
    values, order = logits.softmax(-1).double().sort(descending=True, stable=True)
    mass = values.cumsum(-1)
    for row in range(3):
        ranks = []
        for slack in (-1e-6, 1e-6):  # of a shortlist's float32 sums
            kept = min(int((mass[row] < top_p + slack).sum()), shape[1] - 1)
            target = float(uniforms[row]) * float(mass[row, kept]) + slack
            ranks.append(min(int((mass[row] <= target).sum()), kept))
        assert int(chosen[row]) in order[row, min(ranks) : max(ranks) + 1].tolist()


def test_greedy_takes_the_largest_logit() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    chosen = choose_tokens(logits, torch.tensor([0.99, 0.99]), GenerationSettings(temperature=0.0))
    assert chosen.tolist() == [1, 0]


def test_frequencies_follow_the_kept_distribution() -> None:
    """4 tokens of 0.5, 0.3, 0.15, 0.05: top-p 0.9 keeps three, in proportion 10 : 6 : 3."""
    probabilities = torch.tensor([0.3, 0.05, 0.5, 0.15])
    uniforms = (torch.arange(1900) + 0.5) / 1900
    settings = GenerationSettings(temperature=1.0, top_p=0.9)
    chosen = choose_tokens(probabilities.log().expand(1900, 4), uniforms, settings)
    assert chosen.bincount(minlength=4).tolist() == [600, 0, 1000, 300]


def test_uniforms_depend_on_seed_key_and_step_alone() -> None:
    settings = GenerationSettings(seed=7)
    long = row_uniforms(settings, ["a", "b"], 50)
    assert np.array_equal(row_uniforms(settings, ["b"], 20)[0], long[1, :20])
    assert not np.array_equal(long[0], long[1])
    assert not np.array_equal(row_uniforms(GenerationSettings(seed=8), ["a"], 50)[0], long[0])
    key = int.from_bytes(hashlib.blake2b(b"7\0a", digest_size=16).digest(), "little")
    assert np.array_equal(np.random.Generator(np.random.Philox(key=key)).random(50), long[0])
    many = row_uniforms(settings, [str(i) for i in range(200)], 50)
    assert 0.0 <= many.min() < 0.001
    assert 0.999 < many.max() < 1.0
    assert abs(many.mean() - 0.5) < 4 / np.sqrt(12 * many.size)  # four standard errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"temperature": -0.1}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.01}, r"top_p must be in"),
        ({"prefill_chunk": 0}, "prefill_chunk must be at least 1 or None"),
    ],
)
def test_settings_refuse_what_makes_no_sense(options: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        GenerationSettings(**options)
