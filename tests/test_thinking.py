"""Thinking tokens: told apart one by one, in scope as response, left out of pooling and text."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from torch import Tensor
from transformers import LlamaForCausalLM

from architectures import CONFIGS
from conftest import tiny_tokenizer
from interp_steer.model import GenerationSettings, HookedLM, Segment
from interp_steer.residuals import capture_generated
from interp_steer.sampling import answer_ids
from interp_steer.scopes import Scope
from interp_steer.thinking import ThinkingMarks, ThinkingPhase
from interp_steer.tokens import TokenChunk, TokenizedPrompt

OPEN, CLOSE, BLANK, WORD = 1, 2, 3, 4
MARKS = ThinkingMarks(opens=OPEN, closes=CLOSE, blanks=(BLANK,))
T, R = int(Segment.THINKING), int(Segment.RESPONSE)


def prompt_of(*segments_and_ids: tuple[Segment, int]) -> TokenizedPrompt:
    return TokenizedPrompt(
        token_ids=tuple(token for _, token in segments_and_ids),
        segments=tuple(int(segment) for segment, _ in segments_and_ids),
        thinking=MARKS,
    )


HEADER = prompt_of((Segment.USER, WORD), (Segment.TEMPLATE, 9))
OPENED = prompt_of((Segment.USER, WORD), (Segment.TEMPLATE, 9), (Segment.TEMPLATE, OPEN))
CLOSED = prompt_of((Segment.TEMPLATE, OPEN), (Segment.TEMPLATE, CLOSE), (Segment.TEMPLATE, BLANK))


@pytest.mark.parametrize(
    ("prompt", "token_ids", "expected"),
    [
        (HEADER, (OPEN, WORD, CLOSE, BLANK, BLANK, WORD, BLANK), (T, T, T, T, T, R, R)),
        (HEADER, (WORD, CLOSE, WORD), (R, R, R)),
        (HEADER, (OPEN, WORD), (T, T)),
        (OPENED, (WORD, CLOSE, WORD), (T, T, R)),
        (CLOSED, (BLANK, WORD), (R, R)),
        (prompt_of((Segment.USER, OPEN), (Segment.TEMPLATE, 9)), (WORD,), (R,)),
        (HEADER.with_prefill((OPEN, WORD)), (WORD, CLOSE, BLANK, WORD), (T, T, T, R)),
    ],
)
def test_segments_follow_the_marks(
    prompt: TokenizedPrompt, token_ids: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    sequence = prompt.with_response(token_ids)
    assert sequence.segments[len(prompt) :] == expected
    assert sequence.n_prompt == len(prompt)
    kept = tuple(t for t, s in zip(token_ids, expected, strict=True) if s == R)
    assert answer_ids(prompt, token_ids) == kept


@given(tokens=st.lists(st.integers(OPEN, WORD), max_size=12), cut=st.integers(0, 12))
def test_continuing_a_response_says_the_same_as_giving_it_whole(
    tokens: list[int], cut: int
) -> None:
    parts = HEADER.with_response(tokens[:cut]).with_response(tokens[cut:])
    assert parts == HEADER.with_response(tokens)


@given(
    rows=st.lists(
        st.tuples(st.sampled_from(list(ThinkingPhase)), st.integers(OPEN, WORD)), min_size=1
    )
)
def test_a_batch_advances_as_single_tokens_do(rows: list[tuple[ThinkingPhase, int]]) -> None:
    phases, tokens = (torch.tensor([int(row[i]) for row in rows]) for i in (0, 1))
    after, is_thinking = MARKS.advance(phases, tokens)
    expected = [MARKS.step(phase, token) for phase, token in rows]
    assert after.tolist() == [int(phase) for phase, _ in expected]
    assert is_thinking.tolist() == [thinks for _, thinks in expected]


@pytest.fixture(scope="module")
def thinking_lm(tmp_path_factory: pytest.TempPathFactory) -> HookedLM:
    """A random model whose tokenizer has the marks, likely to be sampled."""
    directory: Path = tmp_path_factory.mktemp("thinking") / "thinker"
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(mark, special=False) for mark in ("<think>", "</think>")])
    config = CONFIGS["llama"]()
    config.vocab_size = len(tokenizer)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return HookedLM.load(directory)


def test_hooks_pooling_and_text_tell_thinking_from_answer(thinking_lm: HookedLM) -> None:
    """Generated on the cache with rows leaving, against teacher forcing of what came out."""
    lm = thinking_lm
    marks = ThinkingMarks.of(lm.tokenizer)
    assert marks is not None
    plain = TokenizedPrompt(token_ids=(1, 9, 12), segments=(0, 2, 0), thinking=marks)
    opened = TokenizedPrompt(
        token_ids=(1, 9, 14, marks.opens), segments=(0, 2, 0, 0), thinking=marks
    )
    prompts = [plain, opened] * 12
    keys = [str(row) for row in range(len(prompts))]
    settings = GenerationSettings(max_new_tokens=30, temperature=2.0, top_p=1.0, seed=1)
    seen: dict[tuple[int, int], int] = {}

    def note(_resid: Tensor, chunk: TokenChunk) -> None:
        assert Scope.parse("response").mask(chunk)[chunk.segments == T].all()
        for row, index, segment in zip(
            chunk.rows.tolist(),
            chunk.response_index.T[-1].tolist(),
            chunk.segments.T[-1].tolist(),
            strict=True,
        ):
            if index >= 0:
                seen[row, index] = segment

    with lm.hooks({0: note}):
        captured = capture_generated(lm, prompts, settings, sample_keys=keys, layers=(1,))
    made = captured.generations
    for row, one in enumerate(made):
        segments = one.sequence.segments[len(one.prompt) :]
        assert [seen[row, i] for i in range(len(segments))] == list(segments)
        assert one.text == lm.decode(one.answer_ids)
        assert int(captured.residuals.n_tokens[row]) == len(one.answer_ids)
    kinds = {s for one in made for s in one.sequence.segments[len(one.prompt) :]}
    assert kinds == {T, R}
    assert any("think" in lm.decode(one.token_ids) for one in made)
    assert not any("<think>" in one.text for one in made)


def test_models_without_the_marks_do_not_think(tiny_lm: HookedLM) -> None:
    assert ThinkingMarks.of(tiny_lm.tokenizer) is None
