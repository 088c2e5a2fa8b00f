"""The appending cache holds, bit by bit, what Hugging Face's dynamic cache does; it copies less."""

import random
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache, MistralConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from conftest import Pair
from interp_steer.forwarding import ChunkRunner
from interp_steer.kv_cache import SPARE, AppendingLayer, AppendingWindowLayer, appending_cache
from interp_steer.sampling import GenerationSettings
from reference import random_sequences

LAYERS = {
    "full": (AppendingLayer, DynamicLayer, {}),
    "window 2": (AppendingWindowLayer, DynamicSlidingWindowLayer, {"sliding_window": 2}),
    "window 9": (AppendingWindowLayer, DynamicSlidingWindowLayer, {"sliding_window": 9}),
}
LOGPROB_NOISE = 2e-4
"""Float32 noise of a log-probability, measured below 1e-5; a wrong position: above 0.1."""


def states(batch: int, n: int, d_head: int) -> Tensor:
    return torch.randn(batch, 2, n, d_head)


def same(ours: Any, theirs: Any) -> None:
    """Both layers hold the same, and say the same to whoever makes a mask."""
    assert torch.equal(ours.keys, theirs.keys)
    assert torch.equal(ours.values, theirs.values)
    assert ours.get_seq_length() == theirs.get_seq_length()
    assert ours.get_mask_sizes(3) == theirs.get_mask_sizes(3)


@pytest.mark.parametrize("kind", LAYERS)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_order_of_steps_and_selections_gives_the_same_to_the_bit(kind: str, seed: int) -> None:
    """Steps of one position and of many, rows that leave, and operations that are inherited."""
    rng, (mine, reference, options) = random.Random(seed), LAYERS[kind]
    ours, theirs, batch = mine(**options), reference(**options), 5
    for _ in range(2 * SPARE):
        action = rng.choice(["step", "step", "step", "many", "select", "reorder", "repeat", "add"])
        if action in ("step", "many") or theirs.keys is None:
            n = 1 if action == "step" else rng.randint(2, SPARE + 2)
            new = states(batch, n, 4), states(batch, n, 3)
            for one, other in zip(ours.update(*new), theirs.update(*new), strict=True):
                assert torch.equal(one, other)
        elif action == "add":
            index = torch.tensor([rng.randrange(batch) for _ in range(rng.randint(1, 3))])
            ours.append_rows(index)
            theirs.batch_select_indices(torch.cat([torch.arange(batch), index]))
            batch = theirs.keys.shape[0]
        else:
            index = torch.tensor([rng.randrange(batch) for _ in range(rng.randint(1, 6))])
            for layer in (ours, theirs):
                if action == "select":
                    layer.batch_select_indices(index)
                elif action == "reorder":
                    layer.reorder_cache(torch.arange(batch).flip(0))
                elif batch < 20:
                    layer.batch_repeat_interleave(2)
            batch = theirs.keys.shape[0]
        same(ours, theirs)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_step_copies_nothing_while_there_is_room(kind: str) -> None:
    """The storage of the keys stays where it is; Hugging Face's, the control, moves."""
    mine, reference, options = LAYERS[kind]
    places = {}
    for layer in (mine(**options), reference(**options)):
        layer.update(states(3, 7, 4), states(3, 7, 4))
        where = []
        for _ in range(SPARE):
            layer.update(states(3, 1, 4), states(3, 1, 4))
            where.append(layer.keys.untyped_storage().data_ptr())
        places[type(layer)] = sum(a != b for a, b in pairwise(where))
    assert places == {mine: 0, reference: SPARE - 1}


def test_rows_are_added_without_copying_the_others_while_there_is_room() -> None:
    layer, where = AppendingLayer(), []
    layer.update(states(30, 7, 4), states(30, 7, 4))
    for _ in range(8):
        layer.append_rows(torch.tensor([3]))
        where.append(layer.keys.untyped_storage().data_ptr())
    assert len(layer.keys) == 38
    assert len(set(where)) == 1


def test_what_was_handed_out_is_not_written_to_later() -> None:
    """A caller's hook may keep the keys of a step."""
    layer = AppendingWindowLayer(sliding_window=4)
    kept, copies = [], []
    for step in range(3 * SPARE):
        if step % 5 == 4:
            layer.append_rows(torch.tensor([1]))
            layer.batch_select_indices(torch.tensor([0, 2]))
        keys, _ = layer.update(states(2, 1, 4), states(2, 1, 4))
        kept.append(keys)
        copies.append(keys.clone())
    assert all(torch.equal(one, copy) for one, copy in zip(kept, copies, strict=True))


def test_other_kinds_of_layers_are_left_alone() -> None:
    config = MistralConfig(num_hidden_layers=3, sliding_window=8)
    cache = appending_cache(config)
    assert [type(layer) for layer in cache.layers] == [AppendingWindowLayer] * 3
    hybrid = MistralConfig(
        num_hidden_layers=3,
        sliding_window=8,
        layer_types=["full_attention", "sliding_attention", "linear_attention"],
    )
    kinds = [type(layer) for layer in appending_cache(hybrid).layers]
    assert kinds[:2] == [AppendingLayer, AppendingWindowLayer]
    assert kinds[2] is type(DynamicCache(config=hybrid).layers[2])


def test_texts_and_log_probabilities_are_those_on_hugging_faces_cache(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the sliding window, with shared prompts, and rows that leave the batch on the way."""
    lm = pair.lm
    prompts = random_sequences(lm.d_vocab, (24, 2, 17, 9, 5) * 6)
    keys = [str(row) for row in range(len(prompts))]
    settings = GenerationSettings(max_new_tokens=25, temperature=0.9, top_p=0.95)
    ours = lm.generate(prompts, settings, sample_keys=keys, share_prefixes=True)

    def dynamic(runner: ChunkRunner) -> DynamicCache:
        return DynamicCache(config=runner.model.config)

    monkeypatch.setattr(ChunkRunner, "new_cache", dynamic)
    theirs = lm.generate(prompts, settings, sample_keys=keys, share_prefixes=True)
    assert [row.token_ids for row in ours] == [row.token_ids for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=LOGPROB_NOISE)
