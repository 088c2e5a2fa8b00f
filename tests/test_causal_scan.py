"""The causal scan: positions, log-odds, patches and effects, against plain PyTorch and by law."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import Tensor

from conftest import Pair
from interp_steer.analysis.bootstrap import ClusterBootstrap
from interp_steer.analysis.causal_scan import (
    Patch,
    ScanError,
    batched,
    has_absolute_positions,
    scan_layer,
    scan_patches,
)
from interp_steer.analysis.contrasts import Contrast, ContrastBatch, LogOdds
from interp_steer.analysis.scan_effects import (
    UNITS,
    EffectScale,
    joined,
    rank_correlation,
    rank_correlation_estimate,
)
from interp_steer.errors import ModelError
from interp_steer.layer_probe import LayerProbe
from interp_steer.model import HookedLM
from interp_steer.organism import DATA_DIR
from interp_steer.probes import fit_probes
from interp_steer.residuals import capture_generated
from interp_steer.sampling import GenerationSettings
from interp_steer.scenarios import Prompt, load_scenarios
from interp_steer.tokens import Segment, TokenizedPrompt
from steering_cases import make_probe

SEGMENTS = ("system", "user", "template", "response", "after_system", "all")
KINDS = ("v_hat", "full", "random_direction", "random_shift")
NOISE = 1e-4
"""Float noise of a log-likelihood of the random models (nats); the smallest real effect planted
below is 0.01."""


def contrast(
    lm: HookedLM, aligned: str, malicious: str, *, user: str = "what is a lion"
) -> Contrast:
    return Contrast(
        scenario=f"{aligned} against {malicious}",
        aligned=lm.tokenize(Prompt.chat(user, aligned)),
        malicious=lm.tokenize(Prompt.chat(user, malicious)),
        aligned_response=tuple(lm.tokenizer.encode("it is true yes", add_special_tokens=False)),
        malicious_response=tuple(lm.tokenizer.encode("no never", add_special_tokens=False)),
    )


@pytest.fixture(scope="module")
def two(tiny_lm: HookedLM) -> ContrastBatch:
    """A longer and a shorter malicious prompt."""
    return ContrastBatch.of(
        [
            contrast(tiny_lm, "you are honest", "you are a liar always always"),
            contrast(tiny_lm, "tell me it was always true", "you lives in red", user="who is you"),
        ]
    )


def probe_at(lm: HookedLM, layer: int) -> LayerProbe:
    return make_probe(layer, layer=layer, d_model=lm.d_model)


def patched(lm: HookedLM, batch: ContrastBatch, layer: int, *patches: Patch) -> list[LogOdds]:
    return [odds for _, odds in scan_layer(lm, batch, probe_at(lm, layer), patches)]


class TestPositions:
    def sequence(self) -> TokenizedPrompt:
        ids = tuple(range(7, 27))
        return TokenizedPrompt(token_ids=ids, segments=(int(Segment.USER),) * len(ids))

    def test_only_learned_positions_notice_a_shift(self, pair: Pair) -> None:
        sequence = self.sequence()
        here, there = (pair.lm.forward([sequence], first_positions=[n]) for n in (0, 8))
        assert here is not None and there is not None
        is_learned = pair.plain.config.model_type == "gpt2"
        assert ((here - there).abs().max() > 1e-2) == is_learned
        assert has_absolute_positions(pair.lm, sequence) is is_learned

    def test_ids_reach_the_model_row_by_row(self, pair: Pair) -> None:
        long, short = self.sequence(), TokenizedPrompt(token_ids=(9,), segments=(2,))
        got = pair.lm.forward([long, short], first_positions=[3, 22])
        assert got is not None
        for row, (sequence, start) in enumerate(((long, 3), (short, 22))):
            ids = torch.tensor([sequence.token_ids])
            with torch.no_grad():
                positions = start + torch.arange(len(sequence))[None]
                wanted = pair.plain(input_ids=ids, position_ids=positions).logits[0]
            assert (got[row, -len(sequence) :] - wanted).abs().max() < 1e-3

    def test_chunked_and_whole_agree(self, pair: Pair) -> None:
        sequence = self.sequence()
        whole, pieces = (
            pair.lm.forward([sequence], first_positions=[5], chunk=size) for size in (None, 7)
        )
        assert whole is not None and pieces is not None
        assert (whole - pieces).abs().max() < 1e-3

    @pytest.mark.parametrize("starts", [[1, 2], [-1], []])
    def test_bad_starts_are_refused(self, tiny_lm: HookedLM, starts: list[int]) -> None:
        with pytest.raises(ModelError, match="one number from 0 for each of the 1 sequences"):
            tiny_lm.forward([self.sequence()], first_positions=starts)

    def test_a_start_beyond_the_context_is_refused(self, tiny_lm: HookedLM) -> None:
        with pytest.raises(ModelError, match="20 tokens from position 80, longer than the model's"):
            tiny_lm.forward([self.sequence()], first_positions=[80])


class TestContrast:
    def test_shared_tokens_are_those_after_the_system_prompt(self, two: ContrastBatch) -> None:
        first = two.contrasts[0]
        tail = first.aligned.segments[-first.n_shared :]
        assert Segment.SYSTEM not in tail
        assert first.aligned.segments[-first.n_shared - 1] == Segment.SYSTEM
        assert (
            first.aligned.token_ids[-first.n_shared :]
            == (first.malicious.token_ids[-first.n_shared :])
        )

    def test_a_system_prompt_that_ends_alike_is_not_shared(self, tiny_lm: HookedLM) -> None:
        alike = contrast(tiny_lm, "you are honest always", "you are a liar always")
        assert Segment.SYSTEM not in alike.aligned.segments[-alike.n_shared :]

    def test_raw_prompts_share_what_they_end_with(self) -> None:
        def raw(*ids: int) -> TokenizedPrompt:
            return TokenizedPrompt(token_ids=ids, segments=(2,) * len(ids))

        one = Contrast(
            scenario="s",
            aligned=raw(7, 8, 9, 10),
            malicious=raw(11, 9, 10),
            aligned_response=(12,),
            malicious_response=(13,),
        )
        assert one.n_shared == 2

    def test_equal_ids_for_what_is_shared(self, two: ContrastBatch) -> None:
        for aligned, malicious, start, other in zip(
            two.under_aligned,
            two.under_malicious,
            two.aligned_positions,
            two.malicious_positions,
            strict=True,
        ):
            assert start + len(aligned) == other + len(malicious)
            assert min(start, other) == 0

    def test_an_empty_response_is_refused_by_scenario(self, tiny_lm: HookedLM) -> None:
        prompt = tiny_lm.tokenize(Prompt.chat("what is a lion", "you are honest"))
        with pytest.raises(ModelError, match="scenario 'x' has an empty response"):
            Contrast(
                scenario="x",
                aligned=prompt,
                malicious=prompt,
                aligned_response=(),
                malicious_response=(9,),
            )

    @pytest.mark.parametrize("prompt", ["aligned", "malicious"])
    def test_log_odds_are_those_of_plain_single_sequences(
        self, two: ContrastBatch, tiny_lm: HookedLM, tiny_dir: Any, prompt: str
    ) -> None:
        from transformers import AutoModelForCausalLM

        plain = AutoModelForCausalLM.from_pretrained(tiny_dir).eval()
        got = two.log_odds(tiny_lm, prompt=prompt)
        for i, one in enumerate(two.contrasts):
            ends = (one.aligned_response, one.malicious_response)
            parts = [_response_logprobs(plain, getattr(one, prompt), end) for end in ends]
            assert got.summed[i].item() == pytest.approx(
                (parts[0].sum() - parts[1].sum()).item(), abs=NOISE
            )
            assert got.per_token[i].item() == pytest.approx(
                (parts[0].mean() - parts[1].mean()).item(), abs=NOISE
            )


def _response_logprobs(plain: Any, prompt: TokenizedPrompt, response: tuple[int, ...]) -> Tensor:
    ids = torch.tensor([[*prompt.token_ids, *response]])
    with torch.no_grad():
        logprobs = plain(input_ids=ids).logits[0].log_softmax(dim=-1)
    places = range(len(prompt) - 1, ids.shape[1] - 1)
    return torch.stack([logprobs[p, t] for p, t in zip(places, response, strict=True)])


class TestLaws:
    @pytest.mark.parametrize(
        ("kind", "segment"),
        [*((kind, "all") for kind in KINDS), *(("v_hat", segment) for segment in SEGMENTS[:-1])],
    )
    def test_its_own_value_changes_nothing(
        self, tiny_lm: HookedLM, kind: Any, segment: Any
    ) -> None:
        same = ContrastBatch.of([contrast(tiny_lm, "you are honest", "you are honest")])
        unpatched = same.log_odds(tiny_lm, prompt="malicious")
        (odds,) = patched(tiny_lm, same, 1, Patch(kind=kind, segment=segment))
        assert torch.equal(odds.summed, unpatched.summed)

    def test_overwriting_what_follows_at_the_last_layer_is_the_aligned_run(
        self, pair: Pair
    ) -> None:
        if not pair.lm.tokenizer.chat_template:
            pytest.skip("no chat template, hence no system prompt")
        batch = ContrastBatch.of([contrast(pair.lm, "you are honest", "a liar always always")])
        last = pair.lm.n_layers - 1
        patches = [Patch(kind="full", segment=s) for s in ("after_system", "all", "system")]
        after, everything, system = patched(pair.lm, batch, last, *patches)
        aligned = batch.log_odds(pair.lm, prompt="aligned")
        malicious = batch.log_odds(pair.lm, prompt="malicious")
        assert (aligned.summed - malicious.summed).abs().min() > 10 * NOISE
        assert after.summed == pytest.approx(aligned.summed.numpy(), abs=NOISE)
        assert everything.summed == pytest.approx(aligned.summed.numpy(), abs=NOISE)
        # The control: nothing after the last block reads the system prompt's residuals.
        assert system.summed == pytest.approx(malicious.summed.numpy(), abs=NOISE)

    @pytest.mark.parametrize(
        ("kind", "segment"),
        [
            *(("v_hat", segment) for segment in SEGMENTS),
            *(("full", segment) for segment in ("system", "template", "after_system")),
            *((kind, "all") for kind in ("random_direction", "random_shift")),
        ],
    )
    def test_a_patch_is_that_of_a_plain_forward_hook(
        self, two: ContrastBatch, tiny_lm: HookedLM, tiny_dir: Any, kind: Any, segment: Any
    ) -> None:
        from transformers import AutoModelForCausalLM

        from interp_steer.controls import random_direction

        plain = AutoModelForCausalLM.from_pretrained(tiny_dir).eval()
        v = probe_at(tiny_lm, 1).v_hat
        u = random_direction(tiny_lm.d_model, draw=3, layer=1, seed=42)
        draw = 3 if kind.startswith("random") else 0
        (got,) = patched(tiny_lm, two, 1, Patch(kind=kind, segment=segment, draw=draw))
        for i, one in enumerate(two.contrasts):
            sums = [
                _patched_by_hand(plain, one, end, kind=kind, segment=segment, v=v, u=u).sum()
                for end in (one.aligned_response, one.malicious_response)
            ]
            assert got.summed[i].item() == pytest.approx((sums[0] - sums[1]).item(), abs=NOISE)

    def test_batching_and_padding_change_nothing(
        self, two: ContrastBatch, tiny_lm: HookedLM
    ) -> None:
        patch = Patch(kind="v_hat", segment="after_system")
        (together,) = patched(tiny_lm, two, 1, patch)
        alone = joined(
            [patched(tiny_lm, ContrastBatch.of([c]), 1, patch)[0] for c in two.contrasts]
        )
        assert together.summed == pytest.approx(alone.summed.numpy(), abs=NOISE)

    def test_a_hook_is_gone_after_the_scan(self, two: ContrastBatch, tiny_lm: HookedLM) -> None:
        before = two.log_odds(tiny_lm, prompt="malicious")
        patched(tiny_lm, two, 0, Patch(kind="full", segment="all"))
        assert torch.equal(two.log_odds(tiny_lm, prompt="malicious").summed, before.summed)


def _patched_by_hand(
    plain: Any,
    one: Contrast,
    response: tuple[int, ...],
    *,
    kind: str,
    segment: str,
    v: Tensor,
    u: Tensor,
) -> Tensor:
    """Log-probabilities of the response with block 1's output patched token by token."""
    block, donors = plain.model.layers[1], []
    ids = torch.tensor([[*one.aligned.token_ids, *response]])
    handle = block.register_forward_hook(lambda _m, _i, out: donors.append(_tensor(out)[0]))
    with torch.no_grad():
        plain(input_ids=ids)
    handle.remove()
    donor_segments = [*one.aligned.segments, *[int(Segment.RESPONSE)] * len(response)]
    segments = [*one.malicious.segments, *[int(Segment.RESPONSE)] * len(response)]
    n_after = one.n_shared + len(response)
    system = [p for p, s in enumerate(donor_segments) if s == Segment.SYSTEM]
    mean = donors[0][system].mean(dim=0)

    def wanted(pos: int, h: Tensor) -> Tensor:
        from_end = len(segments) - pos
        is_after, is_system = from_end <= n_after, segments[pos] == Segment.SYSTEM
        chosen = {
            "system": is_system,
            "user": is_after and segments[pos] == Segment.USER,
            "template": is_after and segments[pos] == Segment.TEMPLATE,
            "response": segments[pos] == Segment.RESPONSE,
            "after_system": is_after,
            "all": is_after or is_system,
        }[segment]
        if not chosen:
            return h
        facing = len(donor_segments) - from_end
        unmet = is_system and (facing < 0 or donor_segments[facing] != Segment.SYSTEM)
        donor = mean if unmet else donors[0][facing]
        read, write = {
            "v_hat": (v, v),
            "full": (v, v),
            "random_direction": (u, u),
            "random_shift": (v, u),
        }[kind]
        return donor if kind == "full" else h + ((donor - h) @ read) * write

    def replace(_module: Any, _inputs: Any, out: Any) -> Any:
        h = _tensor(out)
        new = torch.stack([wanted(pos, h[0, pos]) for pos in range(h.shape[1])])[None]
        return new if isinstance(out, Tensor) else (new, *out[1:])

    handle = block.register_forward_hook(replace)
    logprobs = _response_logprobs(plain, one.malicious, response)
    handle.remove()
    return logprobs


def _tensor(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else out[0]


@pytest.fixture(scope="module")
def effects(organism_lm: HookedLM) -> dict[tuple[int, Patch], float]:
    """Probes of ten training scenarios, scanned on six others."""
    train = [s for s in load_scenarios(DATA_DIR / "honesty.jsonl") if s.split == "train"]
    settings = GenerationSettings(max_new_tokens=30, temperature=0.6, top_p=0.9, seed=1)
    layers = (0, 3)
    fitted, scanned = train[:10], train[10:16]
    sides = {
        side: capture_generated(
            organism_lm,
            [organism_lm.tokenize(s.prompt(side)) for s in (*fitted, *scanned)],
            settings,
            sample_keys=[s.id for s in (*fitted, *scanned)],
            layers=layers,
        )
        for side in ("aligned", "malicious")
    }
    ids = [s.id for s in fitted]
    probes = fit_probes(
        *(sides[side].residuals.values[:10] for side in ("aligned", "malicious")),
        layers=layers,
        scenario_ids=(ids, ids),
    )
    texts = {side: [g.token_ids for g in found.generations] for side, found in sides.items()}
    batch = ContrastBatch.of(
        [
            Contrast(
                scenario=s.id,
                aligned=organism_lm.tokenize(s.prompt("aligned")),
                malicious=organism_lm.tokenize(s.prompt("malicious")),
                aligned_response=texts["aligned"][i],
                malicious_response=texts["malicious"][i],
            )
            for i, s in enumerate(scanned, start=10)
        ]
    )
    scale = EffectScale(
        boot=ClusterBootstrap([c.scenario for c in batch.contrasts]),
        aligned=batch.log_odds(organism_lm, prompt="aligned"),
        malicious=batch.log_odds(organism_lm, prompt="malicious"),
    )
    patches = scan_patches(("user", "after_system"), n_draws=1)
    return {
        (probe.layer, patch): scale.effect(odds, "summed").value
        for probe in probes.probes
        for patch, odds in scan_layer(organism_lm, batch, probe, patches)
    }


@pytest.mark.slow
class TestOnTheBundledModel:
    def effect(self, effects: dict[tuple[int, Patch], float], layer: int, *patch: str) -> float:
        kind, segment = patch
        return effects[layer, Patch(kind=kind, segment=segment)]

    def test_the_trait_lives_after_the_system_prompt(self, effects: Any) -> None:
        found = self.effect(effects, 3, "v_hat", "after_system")
        bound = self.effect(effects, 3, "full", "after_system")
        assert found > 0.5
        assert found < bound + 0.05
        assert bound > 0.9

    @pytest.mark.parametrize("segment", ["user", "after_system"])
    def test_not_at_the_first_layer(self, effects: Any, segment: str) -> None:
        assert abs(self.effect(effects, 0, "v_hat", segment)) < 0.05

    def test_a_random_direction_does_nothing(self, effects: Any) -> None:
        random = [v for (_, patch), v in effects.items() if patch.kind == "random_direction"]
        assert len(random) == 2 * 2  # layers, segments
        assert max(map(abs, random)) < 0.05

    def test_a_shift_of_the_same_norm_along_another_does_little(self, effects: Any) -> None:
        shifts = [
            value
            for (layer, patch), value in effects.items()
            if patch.kind == "random_shift" and layer > 0
        ]
        assert max(map(abs, shifts)) < 0.25 < self.effect(effects, 3, "v_hat", "after_system")


class TestEffects:
    def scale(self, seed: int = 0, n: int = 12) -> EffectScale:
        rng = np.random.default_rng(seed)

        def odds(shift: float) -> LogOdds:
            values = torch.tensor(rng.normal(shift, 1, n))
            return LogOdds(summed=values, per_token=values / 5)

        boot = ClusterBootstrap([f"s{i // 2}" for i in range(n)])
        return EffectScale(boot=boot, aligned=odds(8), malicious=odds(-3))

    @pytest.mark.parametrize("unit", UNITS)
    def test_its_ends_and_the_way_between(self, unit: str) -> None:
        scale = self.scale()

        def between(share: float) -> LogOdds:
            parts = {
                name: (1 - share) * getattr(scale.malicious, name)
                + share * getattr(scale.aligned, name)
                for name in UNITS
            }
            return LogOdds(**parts)

        for share in (0.0, 0.25, 1.0, 1.5):
            found = scale.effect(between(share), unit)
            ends = (found.interval.low, found.interval.high)
            assert (found.value, *ends) == pytest.approx((share,) * 3)

    def test_it_is_a_ratio_of_sums(self) -> None:
        scale = self.scale()
        other = self.scale(seed=1).aligned
        low, high, now = (x.summed.numpy() for x in (scale.malicious, scale.aligned, other))
        wanted = (now - low).sum() / (high - low).sum()
        assert scale.effect(other, "summed").value == pytest.approx(wanted)

    def test_without_a_gap_there_is_no_effect(self) -> None:
        scale = self.scale()
        flat = EffectScale(boot=scale.boot, aligned=scale.malicious, malicious=scale.malicious)
        assert np.isnan(flat.effect(scale.aligned, "summed").value)

    def test_patches_of_a_layer(self) -> None:
        patches = scan_patches(("user", "response"), n_draws=3)
        assert len(patches) == len(set(patches)) == 2 * (2 + 2 * 3)

    @pytest.mark.parametrize("change", [{"kind": "half"}, {"segment": "prompt"}])
    def test_unknown_patches_are_refused(self, change: dict[str, Any]) -> None:
        with pytest.raises(ScanError, match="must be one of"):
            Patch(**({"kind": "full", "segment": "user"} | change))

    def test_nothing_to_scan_is_refused(self) -> None:
        with pytest.raises(ScanError, match="got 0 and 4"):
            batched([], 4)


numbers = st.integers(-5, 5).map(float)


class TestRankCorrelation:
    @given(st.lists(st.tuples(numbers, numbers), min_size=3, max_size=12))
    def test_it_is_spearmans(self, pairs: list[tuple[float, float]]) -> None:
        one, other = (np.array(side) for side in zip(*pairs, strict=True))
        found = rank_correlation(one.tolist(), other.tolist())
        if one.std() == 0 or other.std() == 0:
            assert np.isnan(found)
        else:
            assert found == pytest.approx(float(spearmanr(one, other).statistic))

    def test_unknown_pairs_are_left_out(self) -> None:
        assert rank_correlation([1, 2, np.nan, 3], [1, 2, 9, 3]) == pytest.approx(1)
        assert np.isnan(rank_correlation([1, 2], [1, 2]))

    def layers(self) -> Iterator[tuple[int, LogOdds]]:
        for layer in range(5):
            values = torch.full((12,), float(layer)).double()
            yield layer, LogOdds(summed=values, per_token=values)

    @pytest.mark.parametrize(("sign", "wanted"), [(1, 1.0), (-1, -1.0)])
    def test_of_layers_with_the_sweep(self, sign: int, wanted: float) -> None:
        scale = TestEffects().scale()
        recovery = {layer: float(sign * layer) for layer in range(4)} | {4: np.nan, 9: 0.0}
        found = rank_correlation_estimate(scale, dict(self.layers()), recovery, unit="summed")
        # Layers differ by far more than scenarios do, so that every resample has this order.
        ends = (found.interval.low, found.interval.high)
        assert (found.value, *ends) == pytest.approx((wanted,) * 3)

    def test_a_flat_sweep_has_no_order(self) -> None:
        scale, flat = TestEffects().scale(), dict.fromkeys(range(5), 0.5)
        found = rank_correlation_estimate(scale, dict(self.layers()), flat, unit="per_token")
        assert np.isnan(found.value) and np.isnan(found.interval.low)
