"""HookedLM against plain Hugging Face forwards and PyTorch hooks; hooks come and go cleanly."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers.models.mistral.modeling_mistral import MistralMLP

from conftest import Pair, attached_hooks, save_tiny
from interp_steer.attached_hooks import LayerHooks
from interp_steer.errors import ModelError
from interp_steer.model import GenerationSettings, HookedLM
from interp_steer.resid_taps import ResidTap
from interp_steer.tokens import ResidHook, Segment, TokenChunk, TokenizedPrompt
from reference import plain_forward, random_sequences

LENGTHS = (40, 3, 23, 1, 39)
# Float32 noise of logits and residuals, relative to their largest size: measured 4e-7 to 3e-6 on
# these models. A position off by one, a window off by one or an unmasked padding token moves them
# by more than 1e-2.
NOISE = 2e-5
# bfloat16 keeps 8 bits (2^-8 = 0.4 % a rounding); three blocks of a dozen roundings each. Measured
# 0.062 in plain Hugging Face with eager attention, 0.040 with fused, 0.059 here.
NOISE_BF16 = 0.08


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference over the largest expected size."""
    return float((found.float() - expected.float()).abs().max() / expected.float().abs().max())


def reading(into: dict[int, list[tuple[Tensor, TokenChunk]]], layer: int) -> ResidHook:
    """A hook that keeps what it sees and changes nothing."""

    def hook(resid: Tensor, chunk: TokenChunk) -> None:
        into.setdefault(layer, []).append((resid.clone(), chunk))

    return hook


def logits_of(lm: HookedLM, sequences: list[TokenizedPrompt], chunk: int | None = None) -> Tensor:
    """Logits of a forward."""
    logits = lm.forward(sequences, chunk=chunk)
    assert logits is not None
    return logits


@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_batched_padded_chunked_logits_equal_single_unpadded_ones(
    pair: Pair, chunk: int | None
) -> None:
    sequences = random_sequences(pair.lm.d_vocab, LENGTHS)
    logits = logits_of(pair.lm, sequences, chunk)
    assert logits.shape == (len(LENGTHS), max(LENGTHS), pair.lm.d_vocab)
    for row, sequence in enumerate(sequences):
        expected, _ = plain_forward(pair.plain, sequence.token_ids)
        assert relative_error(logits[row, -len(sequence) :], expected) < NOISE


def test_one_wrong_token_is_seen(pair: Pair) -> None:
    """Control for the law above: its tolerance is far below the effect of one token."""
    sequences = random_sequences(pair.lm.d_vocab, (3,))
    ids = sequences[0].token_ids
    changed = TokenizedPrompt(
        token_ids=(ids[0], ids[1] - 1, ids[2]), segments=sequences[0].segments
    )
    found = logits_of(pair.lm, [changed])[0, -1]
    assert relative_error(found, logits_of(pair.lm, sequences)[0, -1]) > 100 * NOISE


@pytest.mark.parametrize("chunk", [None, 7])
def test_hooks_see_what_plain_pytorch_hooks_see(pair: Pair, chunk: int | None) -> None:
    sequences = random_sequences(pair.lm.d_vocab, LENGTHS)
    seen: dict[int, list[tuple[Tensor, TokenChunk]]] = {}
    layers = range(pair.lm.n_layers)
    with pair.lm.hooks({layer: reading(seen, layer) for layer in layers}):
        assert pair.lm.forward(sequences, return_logits=False, chunk=chunk) is None
    for row, sequence in enumerate(sequences):
        _, expected = plain_forward(pair.plain, sequence.token_ids)
        for layer in layers:
            parts = [resid[row][piece.is_real[row]] for resid, piece in seen[layer]]
            assert relative_error(torch.cat(parts), expected[layer]) < NOISE
            ids = torch.cat([piece.token_ids[row][piece.is_real[row]] for _, piece in seen[layer]])
            assert tuple(ids.tolist()) == sequence.token_ids


def test_edits_equal_edits_by_plain_pytorch_hooks(pair: Pair) -> None:
    """An edit of response tokens only, at two layers, in a padded, chunked batch."""
    lm, sequences = pair.lm, random_sequences(pair.lm.d_vocab, (30, 21, 35), n_response=9)
    vector = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(1))

    def edit(resid: Tensor, chunk: TokenChunk) -> Tensor:
        return torch.where((chunk.segments == Segment.RESPONSE)[..., None], resid + vector, resid)

    with lm.hooks({0: edit, 2: edit}):
        edited = {chunk: logits_of(lm, sequences, chunk) for chunk in (None, 5)}
    for row, sequence in enumerate(sequences):

        def plain_edit(resid: Tensor, n_prompt: int = sequence.n_prompt) -> Tensor:
            return torch.cat([resid[:n_prompt], resid[n_prompt:] + vector])

        edits = {0: plain_edit, 2: plain_edit}
        expected, _ = plain_forward(pair.plain, sequence.token_ids, edits)
        unedited, _ = plain_forward(pair.plain, sequence.token_ids)
        assert relative_error(expected, unedited) > 100 * NOISE
        for logits in edited.values():
            assert relative_error(logits[row, -len(sequence) :], expected) < NOISE


def test_bfloat16_stays_within_its_rounding(tiny_lm: HookedLM, tiny_lm_bf16: HookedLM) -> None:
    sequences = random_sequences(tiny_lm.d_vocab, LENGTHS)
    seen: dict[str, dict[int, list[tuple[Tensor, TokenChunk]]]] = {"exact": {}, "rounded": {}}
    for name, lm in (("exact", tiny_lm), ("rounded", tiny_lm_bf16)):
        with lm.hooks({layer: reading(seen[name], layer) for layer in range(lm.n_layers)}):
            lm.forward(sequences, chunk=7)
    assert seen["rounded"][0][0][0].dtype == torch.bfloat16
    for layer in range(tiny_lm.n_layers):
        for (exact, chunk), (rounded, _) in zip(
            seen["exact"][layer], seen["rounded"][layer], strict=True
        ):
            if chunk.is_real.any():
                is_real = chunk.is_real
                assert relative_error(rounded[is_real], exact[is_real]) < NOISE_BF16


def test_a_chunk_says_where_its_tokens_stand(tiny_lm: HookedLM) -> None:
    sequences = random_sequences(tiny_lm.d_vocab, (9, 4), n_response=3)
    seen: dict[int, list[tuple[Tensor, TokenChunk]]] = {}
    with tiny_lm.hooks({1: reading(seen, 1)}):
        tiny_lm.forward(sequences, chunk=4)
    chunks = [chunk for _, chunk in seen[1]]
    rows = {
        name: torch.cat([getattr(c, name) for c in chunks], dim=1)[1].tolist()
        for name in ("segments", "positions", "response_index", "is_last_prompt")
    }
    assert [c.token_ids.shape[1] for c in chunks] == [4, 4, 1]
    assert rows["segments"] == [-1] * 5 + [Segment.USER] + [Segment.RESPONSE] * 3
    assert rows["positions"] == [-1] * 5 + [0, 1, 2, 3]
    assert rows["response_index"] == [-1] * 6 + [0, 1, 2]
    assert rows["is_last_prompt"] == [False] * 5 + [True] + [False] * 3


def test_hooks_run_outer_before_inner_and_in_the_order_given(tiny_lm: HookedLM) -> None:
    calls: list[str] = []

    def noting(name: str) -> ResidHook:
        return lambda _resid, _chunk: calls.append(name)

    sequences = random_sequences(tiny_lm.d_vocab, (4,))
    with tiny_lm.hooks([(1, noting("a")), (1, noting("b"))]), tiny_lm.hooks({1: noting("c")}):
        tiny_lm.forward(sequences)
    tiny_lm.forward(sequences)
    assert calls == ["a", "b", "c"]


def test_the_callers_own_bridge_hooks_stay_and_fire(tiny_lm: HookedLM) -> None:
    """On resid_post, inside components that are otherwise bypassed, and plain PyTorch ones."""
    bridge, fired = tiny_lm.bridge, []

    def own(tensor: Tensor, *, hook: object) -> None:
        fired.append(hook.name)

    attention, plain = bridge.blocks[1].attn, bridge.blocks[2].mlp
    bridge.blocks[0].hook_out.add_hook(own)
    attention.hook_pattern.add_hook(own)
    handle = plain.register_forward_hook(lambda *_: fired.append("plain"))
    try:
        with tiny_lm.hooks({0: lambda resid, _chunk: resid + 1}):
            tiny_lm.forward(random_sequences(tiny_lm.d_vocab, (5,)))
        assert fired == ["blocks.0.hook_out", "blocks.1.attn.hook_pattern", "plain"]
        assert len(bridge.blocks[0].hook_out.fwd_hooks) == 1
    finally:
        handle.remove()
        bridge.blocks[0].hook_out.remove_hooks()
        attention.hook_pattern.remove_hooks()


def test_everything_is_restored_when_a_forward_fails(tiny_lm: HookedLM) -> None:
    before = attached_hooks(tiny_lm)

    def failing(_resid: Tensor, _chunk: TokenChunk) -> None:
        assert attached_hooks(tiny_lm) != before  # the check above can tell
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), tiny_lm.hooks({0: failing, 2: failing}):
        tiny_lm.forward(random_sequences(tiny_lm.d_vocab, (5,)))
    assert attached_hooks(tiny_lm) == before


def test_everything_is_restored_when_attaching_fails_half_way(
    tiny_lm: HookedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = attached_hooks(tiny_lm)

    def refuse(*_args: object, **_options: object) -> None:
        raise RuntimeError("planted")

    point = tiny_lm.bridge.blocks[2].hook_out
    monkeypatch.setattr(point, "add_hook", refuse)
    hooks = dict.fromkeys((0, 2), lambda _resid, _chunk: None)
    with pytest.raises(RuntimeError, match="planted"), tiny_lm.hooks(hooks):
        pytest.fail("must not be entered")
    assert attached_hooks(tiny_lm) == before


def test_hooks_refuse_an_unknown_layer_before_attaching_any(tiny_lm: HookedLM) -> None:
    hooks = dict.fromkeys((0, 3), lambda _resid, _chunk: None)
    before = attached_hooks(tiny_lm)
    with (
        pytest.raises(ModelError, match=r"layer must be 0\.\.2 \(zero-based\).*got 3"),
        tiny_lm.hooks(hooks),
    ):
        pytest.fail("must not be entered")
    assert attached_hooks(tiny_lm) == before


def test_hooks_refuse_to_run_without_knowing_their_tokens(tiny_lm: HookedLM) -> None:
    with (
        pytest.raises(ModelError, match="outside HookedLM.forward"),
        tiny_lm.hooks({0: lambda _resid, _chunk: None}),
    ):
        tiny_lm.bridge(torch.tensor([[1, 8, 9]]))


@pytest.mark.parametrize("wrong", [lambda r: r[:, :1], lambda r: r.double()])
def test_hooks_must_return_the_shape_and_dtype_they_got(
    tiny_lm: HookedLM, wrong: Callable[[Tensor], Tensor]
) -> None:
    hooks = {0: lambda resid, _chunk: wrong(resid)}
    with pytest.raises(ModelError, match="shape and dtype"), tiny_lm.hooks(hooks):
        tiny_lm.forward(random_sequences(tiny_lm.d_vocab, (5,)))


def modules_in_use(lm: HookedLM) -> set[str]:
    """Classes of the modules that a forward pass calls, and the attention that it uses."""
    seen: set[str] = set()

    def look(_resid: Tensor, _chunk: TokenChunk) -> None:
        model = lm.bridge.original_model
        seen.update(type(module).__name__ for module in model.modules())
        seen.add(model.config._attn_implementation)

    with lm.hooks({0: look}):
        lm.forward(random_sequences(lm.d_vocab, (5,)))
    return seen


def test_what_nobody_listens_to_is_hugging_faces_own_and_fused(tiny_lm: HookedLM) -> None:
    """Also after Hugging Face has put hooks of its own on its modules, at the first call."""
    tiny_lm.bridge(torch.tensor([[1, 8, 9]]))
    for _ in range(2):
        used = modules_in_use(tiny_lm)
        assert used >= {"MistralDecoderLayer", "MistralAttention", "sdpa"}
        assert not {name for name in used if "Bridge" in name}
    assert tiny_lm.bridge.original_model.config._attn_implementation == "eager"
    pattern = tiny_lm.bridge.blocks[1].attn.hook_pattern
    pattern.add_hook(lambda *_args, **_options: None)
    try:
        observed = modules_in_use(tiny_lm)
    finally:
        pattern.remove_hooks()
    assert {"BlockBridge", "eager"} <= observed
    reference = HookedLM(tiny_lm.bridge, reference=True)
    assert "MistralAttention" in (used := modules_in_use(reference))
    assert {"BlockBridge", "PositionEmbeddingsAttentionBridge", "eager"} <= used


def test_what_hugging_face_does_besides_is_off_during_a_call_and_back_after_it(
    tiny_lm: HookedLM,
) -> None:
    """Its norms run as one operation, and no hooks of its own collect what nobody reads.

    It installs these when outputs are first asked for: the bridge's components do.
    """
    model = tiny_lm.bridge.original_model
    HookedLM(tiny_lm.bridge, reference=True).forward(random_sequences(tiny_lm.d_vocab, (4,)))

    def found() -> tuple[int, int, bool]:
        modules = list(model.modules())
        n_hooks = sum(len(module._forward_hooks) for module in modules)
        n_replaced = sum("forward" in vars(module) for module in modules)
        return n_hooks, n_replaced, model.config.output_attentions

    def during() -> tuple[int, int, bool]:
        seen: list[tuple[int, int, bool]] = []
        with tiny_lm.hooks({1: lambda _resid, _chunk: seen.append(found())}):
            tiny_lm.forward(random_sequences(tiny_lm.d_vocab, (5,)))
        return seen[0]

    before = found()
    hooks = [list(module._forward_hooks.items()) for module in model.modules()]
    assert before == (n_hooks := before[0], 0, True)
    assert n_hooks >= 2 * tiny_lm.n_layers
    n_replaced = 2 * tiny_lm.n_layers + 1 + 1  # the norms, and the block that is listened to
    assert during() == (0, n_replaced, False)
    assert found() == before
    assert [list(module._forward_hooks.items()) for module in model.modules()] == hooks
    model.config.output_hidden_states = True  # a caller asks: the hooks stay
    try:
        assert during() == (n_hooks, n_replaced, False)
    finally:
        model.config.output_hidden_states = False
    assert found() == before


@pytest.mark.parametrize(
    ("lengths", "is_reference", "has_mask"),
    [((5, 5), False, False), ((5,), False, False), ((5, 3), False, True), ((5, 5), True, True)],
)
def test_a_mask_is_given_where_something_is_padded(
    tiny_lm: HookedLM, lengths: tuple[int, ...], is_reference: bool, has_mask: bool
) -> None:
    """Hugging Face would put a mask of ones into those of all layers, at every step."""
    lm = HookedLM(tiny_lm.bridge, reference=is_reference)
    prompts = random_sequences(lm.d_vocab, lengths)
    given: list[Tensor | None] = []

    def note(_model: object, _args: object, options: dict[str, Tensor | None]) -> None:
        given.append(options["attention_mask"])

    handle = lm.bridge.original_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        lm.generate(
            prompts,
            GenerationSettings(max_new_tokens=3, temperature=0.0),
            sample_keys=[str(length) for length in lengths],
        )
        n_calls = len(given)
        lm.forward(prompts)
    finally:
        handle.remove()
    assert n_calls >= 2
    assert [mask is not None for mask in given[:n_calls]] == [has_mask] * n_calls
    assert given[n_calls] is not None  # without a cache


class Doubling(torch.nn.Module):
    """Gives twice what it gets, as a tuple like some blocks or as it is."""

    def __init__(self, *, as_tuple: bool) -> None:
        super().__init__()
        self.as_tuple = as_tuple

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, str]:
        return (2 * x, "more") if self.as_tuple else 2 * x


@pytest.mark.parametrize("as_tuple", [False, True])
@pytest.mark.parametrize("was_replaced", [False, True])
def test_a_bare_block_is_listened_to_in_order_and_left_as_it_was(
    as_tuple: bool, was_replaced: bool
) -> None:
    block, one = Doubling(as_tuple=as_tuple), torch.ones(1)
    if was_replaced:  # as accelerate does
        block.forward = block.forward  # type: ignore[method-assign]
    before = dict(vars(block))
    tap = ResidTap(block=block, point=None, is_bare=True)
    seen: list[float] = []
    ends = [
        tap.add(lambda resid, **_: resid + 1),
        tap.add(lambda resid, **_: seen.append(float(resid))),
        tap.add(lambda resid, **_: resid * 10, first=True),
    ]

    def out() -> float:
        found = block(one)
        assert not as_tuple or found[1:] == ("more",)
        return float(found[0])

    assert (out(), seen) == (21.0, [21.0])
    ends.pop(0)()
    assert (out(), seen) == (20.0, [21.0, 20.0])
    for end in ends:
        end()
    assert (out(), len(seen)) == (2.0, 2)
    assert vars(block) == before


@pytest.fixture
def ran(tiny_lm: HookedLM, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An entry for every block of the model that runs; without a hook, which would be heard."""
    found: list[str] = []
    model = tiny_lm.bridge.original_model

    def watch(kind: type[torch.nn.Module], name: str) -> None:
        forward = kind.forward

        def noted(self: torch.nn.Module, *args: object, **options: object) -> object:
            if any(self is module for module in model.modules()):
                found.append(name)
            return forward(self, *args, **options)

        monkeypatch.setattr(kind, "forward", noted)

    watch(MistralMLP, "block")
    return found


@pytest.mark.parametrize("chunk", [None, 2])
def test_a_pass_for_hooks_ends_behind_the_last_of_them(
    tiny_lm: HookedLM, ran: list[str], chunk: int | None
) -> None:
    sequences = random_sequences(tiny_lm.d_vocab, (4, 2))
    seen: list[Tensor] = []

    def look(resid: Tensor, _chunk: TokenChunk) -> None:
        seen.append(resid.clone())

    def blocks_and_residuals(hooks: LayerHooks, *, logits: bool) -> tuple[int, list[Tensor]]:
        seen.clear()
        ran.clear()
        with tiny_lm.hooks(hooks):
            assert (tiny_lm.forward(sequences, return_logits=logits, chunk=chunk) is None) != logits
        return ran.count("block"), list(seen)

    pieces = 1 if chunk is None else 2
    both = [(1, look), (0, look), (1, look)]
    n_whole, whole = blocks_and_residuals(both, logits=True)
    n_short, short = blocks_and_residuals(both, logits=False)
    assert (n_whole, n_short) == (3 * pieces, 2 * pieces)
    assert len(short) == 3 * pieces
    assert all(map(torch.equal, short, whole))
    assert blocks_and_residuals({}, logits=False)[0] == 3 * pieces
    # A hook of the caller's own behind the last of these still gets what it waits for.
    point = tiny_lm.bridge.blocks[2].hook_out
    point.add_hook(lambda _tensor, *, hook: seen.append(hook.name))
    try:
        assert blocks_and_residuals({0: look}, logits=False)[1].count(point.name) == pieces
    finally:
        point.remove_hooks()
    # So does a PyTorch hook, on modules too that the bridge has no component for.
    outer = tiny_lm.bridge.original_model
    for module in (outer, outer.model):
        handle = module.register_forward_hook(lambda *_: seen.append(torch.zeros(0)))
        try:
            n_blocks, heard = blocks_and_residuals({0: look}, logits=False)
            assert (n_blocks, len(heard)) == (3 * pieces, 2 * pieces)
        finally:
            handle.remove()
    # In the reference everything runs.
    reference = HookedLM(tiny_lm.bridge, reference=True)
    with reference.hooks({0: look}):
        ran.clear()
        reference.forward(sequences, return_logits=False)
    assert ran.count("block") == 3


def test_the_last_token_is_run_as_far_as_a_hook_looks(tiny_lm: HookedLM, ran: list[str]) -> None:
    """Four tokens: the prompt, three steps, and of the fourth token what is read."""
    prompts = random_sequences(tiny_lm.d_vocab, (4, 2))
    settings = GenerationSettings(max_new_tokens=4, temperature=0.0)
    n_seen: list[int] = []

    def look(_resid: Tensor, chunk: TokenChunk) -> None:
        n_seen.append(int(chunk.is_real.sum()))

    before, tiny_lm.stop_ids = tiny_lm.stop_ids, frozenset[int]()
    try:
        plain = tiny_lm.generate(prompts, settings, sample_keys=list("ab"))
        n_bare = ran.count("block")
        ran.clear()
        with tiny_lm.hooks({0: look}):
            assert tiny_lm.generate(prompts, settings, sample_keys=list("ab")) == plain
    finally:
        tiny_lm.stop_ids = before
    assert (n_bare, ran.count("block")) == (4 * 3, 4 * 3 + 1)
    assert n_seen == [6, 2, 2, 2, 2]


def test_a_call_within_a_call_is_refused_and_leaves_the_first_one_whole(
    tiny_lm: HookedLM,
) -> None:
    """Also through another wrapper of the same bridge; afterwards everything is as before."""
    sequences = random_sequences(tiny_lm.d_vocab, (5,))
    other, refused = HookedLM(tiny_lm.bridge), []

    def call_again(_resid: Tensor, _chunk: TokenChunk) -> None:
        for lm in (tiny_lm, other):
            with pytest.raises(ModelError, match="in the middle of a call; make one at a time"):
                lm.forward(sequences)
            refused.append(lm)

    before = logits_of(tiny_lm, sequences)
    with tiny_lm.hooks({1: call_again}):
        assert torch.equal(logits_of(tiny_lm, sequences), before)
    assert refused == [tiny_lm, other]
    assert torch.equal(logits_of(other, sequences), before)


def test_the_reference_says_the_same(tiny_lm: HookedLM) -> None:
    """Steered, sampled, on the cache: equal tokens, and log-probabilities up to rounding."""
    prompts = random_sequences(tiny_lm.d_vocab, (30, 4, 17))
    settings = GenerationSettings(max_new_tokens=20, temperature=0.8)
    made = []
    for lm in (tiny_lm, HookedLM(tiny_lm.bridge, reference=True)):
        with lm.hooks({1: lambda resid, _chunk: resid + 0.3}):
            made.append(lm.generate(prompts, settings, sample_keys=list("abc")))
    assert [one.token_ids for one in made[0]] == [one.token_ids for one in made[1]]
    for one, other in zip(*made, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=2e-4)


def test_bypassing_bridge_components_changes_nothing_but_noise(tiny_lm: HookedLM) -> None:
    sequence = random_sequences(tiny_lm.d_vocab, (30,))
    bridged = tiny_lm.bridge(torch.tensor([sequence[0].token_ids])).detach()
    assert relative_error(logits_of(tiny_lm, sequence), bridged) < NOISE


def test_forward_refuses_what_does_not_fit(tiny_lm: HookedLM) -> None:
    with pytest.raises(ModelError, match="97 tokens, longer than the model's context of 96"):
        tiny_lm.forward(random_sequences(tiny_lm.d_vocab, (5, 97)))
    with pytest.raises(ModelError, match="at least one sequence"):
        tiny_lm.forward([])
    with pytest.raises(ModelError, match="sequence 0 is empty"):
        tiny_lm.forward([TokenizedPrompt(token_ids=(), segments=())])
    with pytest.raises(ModelError, match="chunk must be at least 1"):
        tiny_lm.forward(random_sequences(tiny_lm.d_vocab, (5,)), chunk=0)


def test_load_refuses_what_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="a local directory.*config.json"):
        HookedLM.load(tmp_path)


def test_wrapping_refuses_what_it_cannot_hook(tiny_lm: HookedLM) -> None:
    with pytest.raises(ModelError, match="wraps a TransformerLens TransformerBridge, got Linear"):
        HookedLM(torch.nn.Linear(2, 2))

    class Headless:
        """A bridge whose adapter offers no residual hooks."""

        cfg, original_model, hook_dict = tiny_lm.bridge.cfg, tiny_lm.bridge.original_model, {}

    with pytest.raises(ModelError, match=r"lacks blocks\.0\.hook_resid_post"):
        HookedLM(Headless())


def test_wrapping_refuses_training_mode(tmp_path: Path) -> None:
    bridge = TransformerBridge.boot_transformers(str(save_tiny(tmp_path)), device="cpu")
    bridge.train()
    with pytest.raises(ModelError, match=r"training mode.*bridge\.eval\(\)"):
        HookedLM(bridge)
    assert HookedLM(bridge.eval()).n_layers == 3


def test_identity_follows_weights_and_template(tiny_lm: HookedLM, tmp_path: Path) -> None:
    same = HookedLM.load(save_tiny(tmp_path / "tiny-mistral"))
    assert same.identity() == tiny_lm.identity()
    assert same.identity()["model"] == "tiny-mistral"
    other = HookedLM.load(save_tiny(tmp_path / "other", seed=1)).identity()
    differs = {name for name, value in other.items() if value != same.identity()[name]}
    assert differs == {"model", "weights"}
    same.tokenizer.chat_template += " "
    assert same.identity()["chat_template"] != tiny_lm.identity()["chat_template"]


def test_a_model_without_tokenizer_says_so(tmp_path: Path) -> None:
    bridge = TransformerBridge.boot_transformers(str(save_tiny(tmp_path)), device="cpu")
    bridge.tokenizer = None
    with pytest.raises(ModelError, match="without one"):
        HookedLM(bridge).decode([7])
