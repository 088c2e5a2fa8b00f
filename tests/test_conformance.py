"""The conformance suite: it holds for a bridge, and every planted fault breaks the law it should.

`test_hooked_transformer` holds a HookedTransformer to it, in a venv of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import Pair
from interp_steer.conformance import LAWS, ConformanceError, Law, ReferencePass, Subject
from interp_steer.errors import ModelError
from interp_steer.forwarding import ChunkRunner
from interp_steer.model import HookedLM
from interp_steer.tokens import ResidHook, TokenChunk
from reference import plain_forward

LAW = {law.name: law for law in LAWS}


@pytest.fixture(scope="module")
def subject(tiny_lm: HookedLM) -> Subject:
    return Subject(lm=tiny_lm)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_a_bridge_conforms(law: Law, subject: Subject) -> None:
    assert law.inapplicable(subject) is None
    assert law.statement.endswith(".")
    law.check(subject)


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS, ids=str)
def test_bridges_conform_to_hugging_faces_modules(law: Law, pair: Pair) -> None:
    """Against plain Hugging Face instead of the bridge's own cache; learned positions too."""

    def plain(token_ids: Sequence[int]) -> ReferencePass:
        logits, residuals = plain_forward(pair.plain, token_ids)
        return ReferencePass(logits=logits, residuals=tuple(residuals))

    law.check(Subject(lm=pair.lm, reference=plain))


class CountsInEachCall(ChunkRunner):
    """Positions start anew in every call."""

    def call(self, chunk: TokenChunk, attention_mask: Tensor, **options: Any) -> Tensor:
        columns = torch.arange(chunk.token_ids.shape[1]).expand_as(chunk.positions)
        return super().call(replace(chunk, positions=columns), attention_mask, **options)


class SeesPadding(ChunkRunner):
    """Padding is text."""

    def call(self, chunk: TokenChunk, attention_mask: Tensor, **options: Any) -> Tensor:
        return super().call(chunk, torch.ones_like(attention_mask), **options)


class Forgetful(ChunkRunner):
    """Every call starts anew."""

    def call(self, chunk: TokenChunk, attention_mask: Tensor, **options: Any) -> Tensor:
        mask = attention_mask[:, -chunk.token_ids.shape[1] :]
        return super().call(chunk, mask, **(options | {"cache": None}))


class OneTokenLate(ChunkRunner):
    """Logits belong to the token before."""

    def call(self, chunk: TokenChunk, attention_mask: Tensor, **options: Any) -> Tensor:
        return super().call(chunk, attention_mask, **(options | {"n_logits": 0})).roll(1, dims=1)


class KeepsTheWrongRows(ChunkRunner):
    """The cache keeps the first rows, whichever go on."""

    def select_rows(self, cache: Any, rows: Tensor, blocks: range | None = None) -> None:
        super().select_rows(cache, torch.arange(len(rows)), blocks)


class SharesWrongly(ChunkRunner):
    """Rows that part from a shared prefix take another row's cache."""

    def append_rows(self, cache: Any, rows: Tensor, blocks: range, *, n_rows: int) -> None:
        super().append_rows(cache, torch.zeros_like(rows), blocks, n_rows=n_rows)


class OneLayerOff(ChunkRunner):
    """Hooks sit behind the block below."""

    def __init__(self, bridge: Any) -> None:
        super().__init__(bridge)
        self.hooks.points = [self.hooks.points[0], *self.hooks.points[:-1]]

    def _prepare(self, stack: ExitStack) -> None:
        """Through the bridge's own components, so that its hook points fire."""


class Altered(ChunkRunner):
    """Hooks are called by `around(hook, resid, chunk)`."""

    @staticmethod
    def around(hook: ResidHook, resid: Tensor, chunk: TokenChunk) -> Tensor | None:
        raise NotImplementedError

    def _hook_call(self, layer: int, resid_hook: ResidHook) -> Callable[..., Tensor | None]:
        return super()._hook_call(
            layer, lambda resid, chunk: type(self).around(resid_hook, resid, chunk)
        )


class SteersThePromptAlone(Altered):
    @staticmethod
    def around(hook: ResidHook, resid: Tensor, chunk: TokenChunk) -> Tensor | None:
        edited = hook(resid, chunk)
        return None if resid.shape[1] == 1 else edited


class CallsTwice(Altered):
    @staticmethod
    def around(hook: ResidHook, resid: Tensor, chunk: TokenChunk) -> Tensor | None:
        edited = hook(resid, chunk)
        return hook(resid if edited is None else edited, chunk)


class MixesRowsUp(Altered):
    @staticmethod
    def around(hook: ResidHook, resid: Tensor, chunk: TokenChunk) -> Tensor | None:
        return hook(resid, replace(chunk, rows=chunk.rows.flip(0)))


class TellsOfTheNextToken(Altered):
    @staticmethod
    def around(hook: ResidHook, resid: Tensor, chunk: TokenChunk) -> Tensor | None:
        positions = chunk.positions.where(~chunk.is_real, chunk.positions + 1)
        return hook(resid, replace(chunk, positions=positions))


class EditsAcross(Altered):
    """A thousandth of every edit goes along another direction."""

    @staticmethod
    def around(hook: ResidHook, resid: Tensor, chunk: TokenChunk) -> Tensor | None:
        edited = hook(resid, chunk)
        return None if edited is None else edited + 1e-3 * (edited - resid).roll(1, dims=-1)


class TouchesEveryToken(Altered):
    """What is not edited is rounded."""

    @staticmethod
    def around(hook: ResidHook, resid: Tensor, chunk: TokenChunk) -> Tensor | None:
        edited = hook(resid, chunk)
        return None if edited is None else edited.bfloat16().float()


class CallsWithinCalls(ChunkRunner):
    """A call within a call goes through."""

    @contextmanager
    def prepared(self) -> Iterator[None]:
        with torch.no_grad():
            yield


class Leaky(ChunkRunner):
    """Hooks stay on when their context is left by an error."""

    left: ExitStack

    @contextmanager
    def attached(self, hooks: Any) -> Iterator[None]:
        context: AbstractContextManager[None] = super().attached(hooks)
        context.__enter__()
        try:
            yield
        except BaseException:
            self.left.push(context)
            raise
        context.__exit__(None, None, None)


QUICK = (
    (CountsInEachCall, "logits_are_the_references"),
    (SeesPadding, "residuals_are_the_references"),
    (Forgetful, "logits_are_the_references"),
    (OneTokenLate, "logits_are_the_references"),
    (OneLayerOff, "residuals_are_the_references"),
    (MixesRowsUp, "residuals_are_the_references"),
    (TellsOfTheNextToken, "residuals_are_the_references"),
    (TouchesEveryToken, "edits_act_on_their_tokens"),
    (TouchesEveryToken, "scopes_are_kept"),
    (CallsTwice, "hooks_come_and_go"),
    (EditsAcross, "edits_are_what_the_formulas_say"),
    (CallsWithinCalls, "what_cannot_be_right_is_refused"),
    (Leaky, "hooks_come_and_go"),
)
WHILE_GENERATING = (
    (CountsInEachCall, "cached_generation_is_uncached"),
    (SeesPadding, "packed_rows_keep_to_their_own"),
    (Forgetful, "cached_generation_is_uncached"),
    (OneTokenLate, "greedy_tokens_are_the_likeliest"),
    (SeesPadding, "batched_generation_is_single"),
    (KeepsTheWrongRows, "rows_that_end_leave_the_others_alone"),
    (KeepsTheWrongRows, "rows_that_share_say_the_same"),
    (SharesWrongly, "rows_that_share_say_the_same"),
    (SharesWrongly, "steered_rows_that_share_say_the_same"),
    (SteersThePromptAlone, "steered_generation_is_steered_forcing"),
    (CallsTwice, "edits_are_what_the_formulas_say"),
    (CallsTwice, "hooks_meet_every_token_once"),
    (MixesRowsUp, "traces_say_what_happened"),
    (TellsOfTheNextToken, "hooks_meet_every_token_once"),
)


@pytest.mark.parametrize(
    ("fault", "law"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in WHILE_GENERATING)],
)
def test_a_planted_fault_breaks_its_law(
    fault: type[ChunkRunner], law: str, tiny_lm: HookedLM
) -> None:
    with ExitStack() as left:
        runner = fault(tiny_lm.bridge)
        runner.fresh = lambda: fault(tiny_lm.bridge)
        runner.left = left
        with pytest.raises(ConformanceError):
            LAW[law].check(Subject(lm=HookedLM(runner)))


def test_what_the_laws_cannot_judge_is_refused(
    tiny_lm: HookedLM, tiny_lm_bf16: HookedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"in float32, got torch\.bfloat16, whose rounding hides"):
        Subject(lm=tiny_lm_bf16)
    with pytest.raises(ConformanceError, match="the laws would see nothing"):
        LAW["one_token_is_more_than_noise"].check(Subject(lm=tiny_lm, noise=1.0))
    monkeypatch.setattr(tiny_lm.bridge.cfg, "n_ctx", 20)
    with pytest.raises(ModelError, match="a context of 64 and two layers, got 20 and 3"):
        Subject(lm=tiny_lm)


def test_a_law_says_where_it_says_nothing(subject: Subject, monkeypatch: Any) -> None:
    monkeypatch.setattr(subject.lm.bridge.cfg, "n_ctx", 4096)
    reason = LAW["generation_ends_at_the_context"].inapplicable(subject)
    assert reason == "the context is longer than 512"
    monkeypatch.setattr(type(subject.lm._runner), "tokenizer", None)
    assert LAW["tokens_have_segments"].inapplicable(subject) == "the model has no tokenizer"
