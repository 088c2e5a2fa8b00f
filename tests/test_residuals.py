"""Pooled and per-token residuals: generated = teacher-forced = plain PyTorch hooks."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from conftest import Pair
from interp_steer import pooled_capture
from interp_steer.errors import ModelError, RunError
from interp_steer.model import HookedLM
from interp_steer.residuals import (
    CapturedGenerations,
    PooledCapture,
    PooledResiduals,
    ResidualPair,
    capture_generated,
    capture_teacher_forced,
    concatenate_residuals,
    load_residuals,
    save_residuals,
    stream_token_residuals,
)
from interp_steer.sampling import GenerationSettings
from interp_steer.tokens import PaddedBatch, ResidHook, Segment, TokenChunk
from reference import plain_forward, random_sequences
from steering_cases import chunk_of

LENGTHS = (24, 2, 17, 9, 30)
KEYS = ("a", "b", "c", "d", "e")
SETTINGS = GenerationSettings(max_new_tokens=20, temperature=0.9, top_p=0.95)
# Relative to the largest value. Float32: measured below 3e-6; one token too many or too few in a
# mean of twenty moves it by more than 1e-2. bfloat16: residuals round at 2^-8, and the cached and
# the uncached pass round differently; measured up to 0.02.
NOISE, NOISE_BF16 = 2e-5, 0.06


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference over the largest expected size."""
    return float((found - expected).abs().max() / expected.abs().max())


def capture(
    lm: HookedLM, *, layers: Sequence[int] | None = None, batch_size: int = 256
) -> CapturedGenerations:
    """Responses to random prompts, one of them prefilled, with residuals."""
    prompts = random_sequences(lm.d_vocab, LENGTHS)
    prompts[3] = prompts[3].with_prefill([9, 10])
    return capture_generated(
        lm, prompts, SETTINGS, sample_keys=KEYS, layers=layers, batch_size=batch_size
    )


def test_generated_equals_teacher_forced_equals_plain_hooks(pair: Pair) -> None:
    captured = capture(pair.lm)
    sequences = [generation.sequence for generation in captured.generations]
    forced = capture_teacher_forced(pair.lm, sequences, batch_size=2)
    assert forced.layers == captured.residuals.layers == tuple(range(pair.lm.n_layers))
    assert torch.equal(forced.n_tokens, captured.residuals.n_tokens)
    lengths = [len(generation.token_ids) for generation in captured.generations]
    assert captured.residuals.n_tokens.tolist() == lengths
    assert 20 in lengths  # the last token before the limit is among those averaged
    for row, sequence in enumerate(sequences):
        _, resid = plain_forward(pair.plain, sequence.token_ids)
        expected = torch.stack([r[sequence.n_prompt :].mean(0) for r in resid])
        if lengths[row]:
            assert relative_error(captured.residuals.values[row], expected) < NOISE
            assert relative_error(forced.values[row], expected) < NOISE
    row = lengths.index(20)
    _, resid = plain_forward(pair.plain, sequences[row].token_ids)
    short = torch.stack([r[sequences[row].n_prompt : -1].mean(0) for r in resid])
    assert relative_error(forced.values[row], short) > 100 * NOISE  # the control


@pytest.mark.parametrize("seed", range(3))
def test_tokens_set_aside_are_summed_as_at_once(
    tiny_lm: HookedLM, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    settings = replace(SETTINGS, seed=seed)
    prompts = random_sequences(tiny_lm.d_vocab, LENGTHS)

    def pooled() -> PooledResiduals:
        return capture_generated(tiny_lm, prompts, settings, sample_keys=KEYS).residuals

    aside = pooled()
    monkeypatch.setattr(pooled_capture, "SMALL_STEP", 0)
    assert torch.equal(aside.values, pooled().values)


def test_a_token_set_aside_is_not_changed_by_who_got_its_residual_stream() -> None:
    whole = PaddedBatch(chunk=chunk_of(2, 3, prompt=1), lengths=torch.tensor([3, 3]))
    pieces = [whole.piece(at, at + 1) for at in range(3)]
    resid = torch.randn(3, 2, 2, 1, 8)  # piece, layer, row
    capture = PooledCapture(2, layers=(0, 1))
    hooks = capture.hooks()
    for piece, streams in zip(pieces, resid.clone(), strict=True):
        for layer in (0, 1):
            hooks[layer](streams[layer], piece)
            streams[layer].zero_()  # what a hook after this one may do
    expected = resid[1:, :, :, 0].mean(dim=0).transpose(0, 1)
    torch.testing.assert_close(capture.result().values, expected)


def test_layers_that_see_chunks_of_their_own_are_summed_alike(tiny_lm: HookedLM) -> None:
    """As on a model spread over devices, where every layer gets its own copy of the chunk."""
    prompts = random_sequences(tiny_lm.d_vocab, LENGTHS)
    layers = range(tiny_lm.n_layers)
    plain, copied = (PooledCapture(len(prompts), layers=layers) for _ in range(2))

    def of_a_copy(hook: ResidHook) -> ResidHook:
        return lambda resid, chunk: hook(resid, replace(chunk, rows=chunk.rows.clone()))

    hooks = [*plain.hooks().items()]
    hooks += [(layer, of_a_copy(hook)) for layer, hook in copied.hooks().items()]
    with tiny_lm.hooks(hooks):
        tiny_lm.generate(prompts, SETTINGS, sample_keys=KEYS)
    assert torch.equal(plain.result().values, copied.result().values)
    assert torch.equal(plain.result().n_tokens, copied.result().n_tokens)


def test_bfloat16_agrees_within_its_rounding(tiny_lm_bf16: HookedLM) -> None:
    captured = capture(tiny_lm_bf16)
    sequences = [generation.sequence for generation in captured.generations]
    forced = capture_teacher_forced(tiny_lm_bf16, sequences)
    assert captured.residuals.values.dtype == forced.values.dtype == torch.float32
    assert relative_error(captured.residuals.values, forced.values) < NOISE_BF16


def test_capturing_neither_edits_nor_depends_on_batches(tiny_lm: HookedLM) -> None:
    whole, split = capture(tiny_lm), capture(tiny_lm, layers=(2, 0), batch_size=2)
    assert [g.token_ids for g in whole.generations] == [g.token_ids for g in split.generations]
    assert split.residuals.layers == (2, 0)
    assert relative_error(split.residuals.values, whole.residuals.values[:, [2, 0]]) < NOISE
    prompts = [generation.prompt for generation in whole.generations]
    plain = tiny_lm.generate(prompts, SETTINGS, sample_keys=KEYS)
    assert [g.token_ids for g in plain] == [g.token_ids for g in whole.generations]


def test_capture_inside_a_steering_context_sees_the_steered_stream(tiny_lm: HookedLM) -> None:
    sequences = random_sequences(tiny_lm.d_vocab, (12, 9), n_response=4)

    def shift(resid: Tensor, _chunk: TokenChunk) -> Tensor:
        return resid + 1.5

    before = capture_teacher_forced(tiny_lm, sequences)
    with tiny_lm.hooks({2: shift}):
        after = capture_teacher_forced(tiny_lm, sequences)
    assert torch.equal(after.values[:, :2], before.values[:, :2])
    assert relative_error(after.values[:, 2], before.values[:, 2] + 1.5) < NOISE


def test_what_stands_at_padding_is_not_counted(tiny_lm: HookedLM) -> None:
    """Not even an infinity, which a mask that multiplies would turn into NaN."""
    sequences = random_sequences(tiny_lm.d_vocab, (12, 9), n_response=4)

    def poison(resid: Tensor, chunk: TokenChunk) -> Tensor:
        return resid.masked_fill(~chunk.is_real[..., None], torch.inf)

    with tiny_lm.hooks({2: poison}):
        poisoned = capture_teacher_forced(tiny_lm, sequences, layers=[2])
    clean = capture_teacher_forced(tiny_lm, sequences, layers=[2])
    assert torch.equal(poisoned.values, clean.values)


def test_a_response_without_tokens_is_nan_and_counted_zero(tiny_lm: HookedLM) -> None:
    empty, full = random_sequences(tiny_lm.d_vocab, (5,)) + random_sequences(
        tiny_lm.d_vocab, (9,), n_response=2
    )
    pooled = capture_teacher_forced(tiny_lm, [empty, full])
    assert pooled.n_tokens.tolist() == [0, 2]
    assert pooled.values[0].isnan().all()
    assert pooled.values[1].isfinite().all()


def test_token_residuals_equal_plain_hooks(pair: Pair) -> None:
    sequences = random_sequences(pair.lm.d_vocab, LENGTHS, n_response=6)
    layers = (2, 0)
    parts = list(stream_token_residuals(pair.lm, sequences, layers=layers, batch_size=2))
    assert [part.layer for part in parts] == [2, 0] * 3
    plain = [plain_forward(pair.plain, sequence.token_ids)[1] for sequence in sequences]
    for layer in layers:
        own = [part for part in parts if part.layer == layer]
        index = torch.cat([part.sequences for part in own])
        for row, sequence in enumerate(sequences):
            here = index == row
            values = torch.cat([part.values for part in own])[here]
            assert relative_error(values, plain[row][layer]) < NOISE
            columns = {
                name: torch.cat([getattr(part, name) for part in own])[here].tolist()
                for name in ("positions", "segments", "token_ids")
            }
            assert columns["positions"] == list(range(len(sequence)))
            assert tuple(columns["segments"]) == sequence.segments
            assert tuple(columns["token_ids"]) == sequence.token_ids


def test_token_residuals_average_to_the_pooled_ones(tiny_lm: HookedLM) -> None:
    sequences = random_sequences(tiny_lm.d_vocab, LENGTHS, n_response=6)
    pooled = capture_teacher_forced(tiny_lm, sequences, layers=[1])
    (part,) = stream_token_residuals(tiny_lm, sequences, layers=[1])
    for row in (0, 2, 3, 4):
        chosen = (part.sequences == row) & (part.segments == Segment.RESPONSE)
        assert relative_error(part.values[chosen].mean(0), pooled.values[row, 0]) < NOISE


def pooled_example(layers: tuple[int, ...] = (0, 2), n: int = 3) -> PooledResiduals:
    """Made-up residuals."""
    return PooledResiduals(
        values=torch.arange(n * len(layers) * 4).float().reshape(n, len(layers), 4) / 7,
        layers=layers,
        n_tokens=torch.arange(n) + 1,
    )


def test_residuals_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run" / "residuals.safetensors"
    provenance = {"model": "tiny", "seed": 42, "weights": "ab"}
    written = ResidualPair(
        aligned=pooled_example(n=3), malicious=pooled_example(n=2), provenance=provenance
    )
    save_residuals(path, written)
    read = load_residuals(path, expected={"seed": 42, "weight_processing": "none"})
    for side in ("aligned", "malicious"):
        ours, theirs = getattr(written, side), getattr(read, side)
        assert torch.equal(ours.values, theirs.values)
        assert torch.equal(ours.n_tokens, theirs.n_tokens)
        assert ours.layers == theirs.layers
    assert read.provenance == provenance
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with pytest.raises(RunError, match="captured with seed = 42, expected 43"):
        load_residuals(path, expected={"seed": 43})


def test_damaged_or_missing_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "residuals.safetensors"
    with pytest.raises(RunError, match=r"residuals\.safetensors.*capture again"):
        load_residuals(path)
    save_residuals(
        path, ResidualPair(aligned=pooled_example(), malicious=pooled_example(), provenance={})
    )
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(RunError, match=r"residuals\.safetensors"):
        load_residuals(path)


def test_residuals_refuse_what_does_not_fit(tiny_lm: HookedLM, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="both sides need the same layers"):
        save_residuals(
            tmp_path / "r.safetensors",
            ResidualPair(
                aligned=pooled_example((0, 1)), malicious=pooled_example((0, 2)), provenance={}
            ),
        )
    with pytest.raises(ModelError, match="same layers"):
        concatenate_residuals([pooled_example((0, 1)), pooled_example((0, 2))])
    with pytest.raises(ModelError, match="cannot have shape"):
        PooledResiduals(values=torch.zeros(2, 2, 4), layers=(0,), n_tokens=torch.tensor([1, 1]))
    with pytest.raises(ModelError, match="at least one layer"):
        PooledCapture(2, layers=())
    sequences = random_sequences(tiny_lm.d_vocab, (3,))
    for capture in (capture_teacher_forced, stream_token_residuals):
        with pytest.raises(ModelError, match=r"none twice, got \[1, 0, 1\]; name each layer"):
            list(capture(tiny_lm, sequences, layers=(1, 0, 1)))
    with pytest.raises(ModelError, match="nothing was captured"):
        PooledCapture(2, layers=(0,)).result()
    with pytest.raises(ModelError, match="at least one sequence, got none"):
        capture_teacher_forced(tiny_lm, [])
    with pytest.raises(ModelError, match="batch_size must be at least 1"):
        capture_teacher_forced(tiny_lm, random_sequences(40, (5,)), batch_size=0)
    with pytest.raises(ModelError, match="got 1 prompts and 2 keys"):
        capture_generated(tiny_lm, random_sequences(40, (5,)), SETTINGS, sample_keys=["a", "b"])
    with pytest.raises(ModelError, match=r"layer must be 0\.\.2"):
        capture_teacher_forced(tiny_lm, random_sequences(40, (5,)), layers=[5])
