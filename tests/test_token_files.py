"""Residuals of single tokens on disk: those that a plain hook sees, whole or refused."""

from pathlib import Path

import pytest
import torch

from interp_steer.errors import ModelError, RunError
from interp_steer.files import atomic_write_json, read_json
from interp_steer.model import GenerationSettings, HookedLM
from interp_steer.residuals import PooledCapture, TokenResiduals
from interp_steer.token_files import INDEX, TokenWriter, read_token_blocks
from interp_steer.tokens import Segment
from reference import plain_forward, random_sequences

SAMPLED = GenerationSettings(max_new_tokens=9, temperature=1.2, top_p=1.0)
NOISE = 2e-5
"""Relative; measured 2e-6 between a cache and one forward. A neighbour's residual is off by 1."""


def joined(parts: list[TokenResiduals]) -> TokenResiduals:
    """Blocks of one layer as one."""
    fields = ("values", "sequences", "positions", "segments", "token_ids")
    whole = {name: torch.cat([getattr(part, name) for part in parts]) for name in fields}
    return TokenResiduals(layer=parts[0].layer, **whole)


def test_what_is_written_while_generating_is_what_one_plain_forward_sees(
    tiny_lm: HookedLM, tmp_path: Path
) -> None:
    """Padded prompts, rows that end early, many small blocks; the mean is the pooled one."""
    prompts = random_sequences(tiny_lm.d_vocab, (12, 3, 20))
    pooled = PooledCapture(3, layers=(2,))
    with (
        TokenWriter(tmp_path, layers=(2, 0), provenance={"seed": 42}, block_bytes=700) as writer,
        tiny_lm.hooks(writer.hooks()),
        tiny_lm.hooks(pooled.hooks()),
    ):
        made = tiny_lm.generate(prompts, SAMPLED, sample_keys=list("abc"))
    assert len(list(tmp_path.glob("tokens-*.safetensors"))) > 3
    assert read_json(tmp_path / INDEX)["provenance"] == {"seed": 42}
    assert writer.n_tokens == sum(len(one.sequence) for one in made)
    for layer in (0, 2):
        whole = joined(list(read_token_blocks(tmp_path, layers=(layer,))))
        for row, one in enumerate(made):
            here = whole.sequences == row
            order = whole.positions[here].argsort()
            assert whole.positions[here][order].tolist() == list(range(len(one.sequence)))
            assert tuple(whole.token_ids[here][order].tolist()) == one.sequence.token_ids
            assert tuple(whole.segments[here][order].tolist()) == one.sequence.segments
            plain = plain_forward(tiny_lm.bridge.original_model, one.sequence.token_ids)[1][layer]
            off = (whole.values[here][order] - plain).abs().max() / plain.abs().max()
            assert float(off) < NOISE
    is_answer = (whole.sequences == 1) & (whole.segments == Segment.RESPONSE)
    mean = whole.values[is_answer].mean(dim=0)
    assert torch.allclose(mean, pooled.result().values[1, 0], atol=1e-4)


def test_an_interrupted_capture_is_refused_and_begun_again(
    tiny_lm: HookedLM, tmp_path: Path
) -> None:
    (prompt,) = random_sequences(tiny_lm.d_vocab, (12,))

    def capture(*, fail: bool) -> None:
        writer = TokenWriter(tmp_path, layers=(1,), block_bytes=1)
        with writer, tiny_lm.hooks(writer.hooks()):
            tiny_lm.generate([prompt], SAMPLED, sample_keys="a")
            if fail:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture(fail=True)
    assert list(tmp_path.glob("tokens-*.safetensors"))
    with pytest.raises(RunError, match="not finished or lies elsewhere"):
        list(read_token_blocks(tmp_path))
    (tmp_path / "tokens-000999.safetensors").write_bytes(b"of before")
    capture(fail=False)
    assert not (tmp_path / "tokens-000999.safetensors").exists()
    assert len(joined(list(read_token_blocks(tmp_path))).values) >= 12
    with pytest.raises(RunError, match="holds a finished capture already"):
        capture(fail=False)


def test_what_cannot_be_read_is_refused_by_name(tiny_lm: HookedLM, tmp_path: Path) -> None:
    writer = TokenWriter(tmp_path, layers=(1,))
    with writer, tiny_lm.hooks(writer.hooks()):
        tiny_lm.forward(random_sequences(tiny_lm.d_vocab, (12,)))
    with pytest.raises(RunError, match="has no layer 0; it has 1"):
        list(read_token_blocks(tmp_path, layers=(0,)))
    block = tmp_path / "tokens-000000.safetensors"
    block.write_bytes(block.read_bytes()[:-9])
    with pytest.raises(RunError, match="tokens-000000.safetensors is damaged or cut short"):
        list(read_token_blocks(tmp_path))
    index = read_json(tmp_path / INDEX)
    atomic_write_json(tmp_path / INDEX, index | {"format_version": 9})
    with pytest.raises(RunError, match="has version 9, this library reads 1"):
        list(read_token_blocks(tmp_path))
    atomic_write_json(tmp_path / INDEX, [1])
    with pytest.raises(RunError, match="is no index of token residuals"):
        list(read_token_blocks(tmp_path))


@pytest.mark.parametrize("layers", [(), (1, 1)])
def test_layers_are_named_once(tmp_path: Path, layers: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="at least one layer and none twice"):
        TokenWriter(tmp_path, layers=layers)
