"""Rows that share blocks: who stands for whom, and that nothing of it shows in the text."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor

from interp_steer.edit_meter import EditMeter
from interp_steer.model import GenerationSettings, HookedLM
from interp_steer.prefix_sharing import PrefixSharing, RowMove
from interp_steer.specs import SteeringSpec
from interp_steer.steering import SteeringPlan, steer
from interp_steer.tokens import Segment, TokenChunk
from reference import random_sequences
from steering_cases import make_probes

N_LAYERS = 4
GREEDY = GenerationSettings(max_new_tokens=8, temperature=0.0)


class SimulatedCache:
    """What the cache rows of every block would be computed from: tokens, and the row if edited."""

    def __init__(self, sharing: PrefixSharing, first: np.ndarray, prompts: np.ndarray) -> None:
        self.sharing, self.first = sharing, first
        self.rows = np.arange(len(prompts))
        self.states: dict[int, list[tuple[Any, ...]]] = {}
        for block in range(N_LAYERS):
            stage = sharing.stages[sharing.before(block)]
            self.states[block] = [self.seen(block, row, int(prompts[row])) for row in stage.rows]

    def seen(self, block: int, row: int, token: int) -> tuple[Any, ...]:
        """One entry: the token, and whose it is above the first edit."""
        return (token, int(self.rows[row]) if self.first[self.rows[row]] < block else None)

    def move(self, moves: Iterator[RowMove]) -> None:
        for move in moves:
            for block in move.blocks:
                states = self.states[block]
                assert move.n_kept in (0, len(states))
                self.states[block] = states[: move.n_kept] + [states[s] for s in move.sources]

    def step(self, tokens: np.ndarray) -> None:
        for block in range(N_LAYERS):
            stage = self.sharing.stages[self.sharing.before(block)]
            assert len(self.states[block]) == len(stage.rows)
            entries = [self.seen(block, row, int(tokens[row])) for row in stage.rows]
            self.states[block] = [
                (*s, *e) for s, e in zip(self.states[block], entries, strict=True)
            ]

    def keep(self, kept: np.ndarray) -> None:
        self.move(self.sharing.keep(kept))
        self.rows = self.rows[kept]


@given(seed=st.integers(0, 10_000), n_rows=st.integers(1, 12))
@examples(max_examples=80)
def test_every_row_finds_its_own_past_wherever_rows_part_or_leave(seed: int, n_rows: int) -> None:
    """Against tuples that name each row's tokens and, above its first edit, the row."""
    rng = np.random.default_rng(seed)
    prompts = rng.integers(3, size=n_rows)
    in_prompt = rng.integers(N_LAYERS + 1, size=n_rows)
    after = rng.integers(N_LAYERS + 1, size=n_rows)
    shares_blocks = bool(rng.random() < 0.8)
    sharing = PrefixSharing(
        prompts,
        first_in_prompt=in_prompt,
        first_after=after,
        n_layers=N_LAYERS,
        shares_blocks=shares_blocks,
    )
    if not shares_blocks:  # then a row that is looked at keeps to its own from the first block
        in_prompt, after = (np.where(one < N_LAYERS, -1, one) for one in (in_prompt, after))
    cache = SimulatedCache(sharing, in_prompt, prompts)
    cache.move(sharing.end_prompt())
    cache.first = np.minimum(in_prompt, after)
    history = {row: [int(prompts[row])] for row in range(n_rows)}
    is_open = np.ones(n_rows, dtype=bool)
    for _ in range(6):
        tokens = rng.integers(2, size=len(cache.rows))
        cache.move(sharing.split(tokens, is_open))
        cache.step(tokens)
        for row, token in zip(cache.rows, tokens, strict=True):
            history[row].append(int(token))
        _check_places(sharing, cache, history, is_open)
        is_open &= rng.random(len(is_open)) > 0.2
        if rng.random() < 0.5 and is_open.any():
            kept = np.flatnonzero(is_open)
            cache.keep(kept)
            is_open = is_open[kept]


def _check_places(
    sharing: PrefixSharing,
    cache: SimulatedCache,
    history: dict[int, list[int]],
    is_open: np.ndarray,
) -> None:
    for block in range(N_LAYERS):
        index = sharing.before(block)
        stage = sharing.stages[index]
        for live in np.flatnonzero(is_open):
            row = cache.rows[live]
            found = cache.states[block][stage.place[live]]
            assert list(found[::2]) == history[row]
            assert found[-1] == (row if cache.first[row] < block else None)
            if index:  # the residual stream comes from the row's own place in the stage before
                before = sharing.stages[index - 1]
                assert sharing.widening(index)[stage.place[live]] == before.place[live]
                assert (
                    sharing.from_outside(index)[stage.place[live]]
                    == (sharing.stages[0].place[live])
                )
        together = np.flatnonzero(is_open & (cache.first[cache.rows] >= block))
        pasts = {tuple(history[cache.rows[live]]) for live in together}
        assert len(set(stage.place[together].tolist())) == len(pasts)


@contextmanager
def batches_of_blocks(lm: HookedLM) -> Iterator[list[list[int]]]:
    """Rows that went through each block, call by call."""
    met: list[list[int]] = [[] for _ in range(lm.n_layers)]
    handles = [
        block.register_forward_pre_hook(
            lambda _module, args, kwargs, seen=seen: seen.append(
                len(args[0] if args else kwargs["hidden_states"])
            ),
            with_kwargs=True,
        )
        for block, seen in zip(lm.bridge.blocks, met, strict=True)
    ]
    try:
        yield met
    finally:
        for handle in handles:
            handle.remove()


def plan_of(lm: HookedLM, *specs: SteeringSpec | None) -> SteeringPlan:
    return SteeringPlan(specs, make_probes(3, layers=(0, 1), d_model=lm.d_model))


def test_rows_go_through_the_blocks_below_their_edit_as_one(tiny_lm: HookedLM) -> None:
    """The rows counted at every block: prompt, first step, last step."""
    (prompt,) = random_sequences(tiny_lm.d_vocab, (9,))
    scopes = ("response", "all", "first:2", "prompt", "response+last_prompt")
    specs = [SteeringSpec(method="swfc", layer=1, alpha=0.0, scope=scope) for scope in scopes]
    with steer(tiny_lm, plan_of(tiny_lm, *specs, None)), batches_of_blocks(tiny_lm) as met:
        tiny_lm.generate([prompt] * 6, GREEDY, sample_keys="abcdef", share_prefixes=True)
    # alpha 0 moves nothing, so all six say the same. Above the edit three are looked at in the
    # prompt (the others share it) and five after it.
    assert [seen[0] for seen in met] == [1, 1, 4]
    assert [seen[1] for seen in met] == [1, 1, 6]
    assert [seen[-1] for seen in met] == [1, 1, 6]


def test_rows_part_where_their_tokens_do(tiny_lm: HookedLM) -> None:
    """Equal random numbers keep rows together, others part them; texts are as without sharing."""
    (prompt,) = random_sequences(tiny_lm.d_vocab, (9,))
    sampled = GenerationSettings(max_new_tokens=8, temperature=1.5, top_p=1.0)
    keys = ["a", "a", "b", "c"]
    with batches_of_blocks(tiny_lm) as met:
        shared = tiny_lm.generate([prompt] * 4, sampled, sample_keys=keys, share_prefixes=True)
    apart = tiny_lm.generate([prompt] * 4, sampled, sample_keys=keys)
    assert [one.token_ids for one in shared] == [one.token_ids for one in apart]
    assert len({one.token_ids[:1] for one in apart}) == 3
    assert [seen[0] for seen in met] == [1] * 3
    assert [seen[1] for seen in met] == [3] * 3


def test_hooks_meet_each_row_that_they_look_at_once(tiny_lm: HookedLM) -> None:
    class Noting:
        """Looks at some rows, everywhere or after the prompt, and notes whom it meets."""

        def __init__(self, rows: set[int], in_prompt: bool) -> None:
            self.rows, self.in_prompt, self.met = rows, in_prompt, []

        def __call__(self, resid: Tensor, chunk: TokenChunk) -> None:
            assert len(resid) == len(chunk.rows)
            is_prompt = bool((chunk.segments == Segment.USER).any())
            looked_at = [row for row in chunk.rows.tolist() if row in self.rows]
            if self.in_prompt or not is_prompt:
                self.met.append(sorted(looked_at))

        @contextmanager
        def sharing_prompts(self, n_rows: int) -> Iterator[Tensor]:
            yield self.rows_looked_at(n_rows) & self.in_prompt

        def rows_looked_at(self, n_rows: int) -> Tensor:
            return torch.tensor([row in self.rows for row in range(n_rows)])

    (prompt,) = random_sequences(tiny_lm.d_vocab, (9,))
    below, above = Noting({1, 3}, in_prompt=True), Noting({0, 1, 4}, in_prompt=False)
    with tiny_lm.hooks([(0, below), (2, above)]):
        tiny_lm.generate([prompt] * 6, GREEDY, sample_keys="abcdef", share_prefixes=True)
    assert below.met == [[1, 3]] * 9
    assert above.met == [[0, 1, 4]] * 8


def test_the_last_token_is_run_where_somebody_reads_it(tiny_lm: HookedLM) -> None:
    """Its logits serve nobody: steering alone leaves it out, a recorder gets it."""
    (prompt,) = random_sequences(tiny_lm.d_vocab, (9,))
    spec = SteeringSpec(method="swfc", layer=1, alpha=2.0)
    n_calls = []
    for recorder in (None, EditMeter()):
        with (
            steer(tiny_lm, plan_of(tiny_lm, spec), recorder=recorder),
            batches_of_blocks(tiny_lm) as met,
        ):
            made = tiny_lm.generate([prompt], GREEDY, sample_keys="a")
        assert made[0].stop_reason == "length"
        n_calls.append(len(met[0]))
    assert n_calls == [GREEDY.max_new_tokens, GREEDY.max_new_tokens + 1]


def test_a_model_whose_blocks_cannot_be_shared_shares_the_prompt(
    tiny_lm: HookedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache layer that serves several blocks has one batch; who is steered then keeps apart."""
    (prompt,) = random_sequences(tiny_lm.d_vocab, (9,))
    spec = SteeringSpec(method="swfc", layer=1, alpha=2.0, scope="response")
    plan = plan_of(tiny_lm, spec, spec, None, None)
    expected = _texts(tiny_lm, plan, prompt)
    monkeypatch.setitem(tiny_lm._runner.__dict__, "shares_blocks", False)
    with batches_of_blocks(tiny_lm) as met:
        assert _texts(tiny_lm, plan, prompt) == expected
    assert [seen[0] for seen in met] == [1] * 3
    assert [seen[1] for seen in met] == [3] * 3


def _texts(lm: HookedLM, plan: SteeringPlan, prompt: Any) -> list[tuple[int, ...]]:
    with steer(lm, plan):
        made = lm.generate([prompt] * 4, GREEDY, sample_keys="abcd", share_prefixes=True)
    return [one.token_ids for one in made]
