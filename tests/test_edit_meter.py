"""The meter against traces of the same call, closed forms, and what it must not do."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp_steer.edit_meter import EditMeter
from interp_steer.hook_records import HookRecord
from interp_steer.measures import EDIT_COLUMNS, MeasureArrays, MeasureError
from interp_steer.model import GenerationSettings, HookedLM
from interp_steer.specs import SteeringSpec
from interp_steer.steering import SteeringPlan, steer
from interp_steer.tokens import Segment, TokenizedPrompt
from interp_steer.traces import TraceRecorder
from steering_cases import D_MODEL, chunk_of, make_probe, make_probes, normals, probe_set

N_ROWS = 8
SETTINGS = GenerationSettings(max_new_tokens=12, temperature=1.0, top_p=1.0, seed=1)


class Both:
    """Hands every record to a meter and to a trace recorder."""

    def __init__(self) -> None:
        self.meter, self.traces, self.batches = EditMeter(), TraceRecorder(), set()

    def record(self, record: HookRecord) -> None:
        self.meter.record(record)
        self.traces.record(record)
        self.batches.add(record.rows.numel())


def prompts_of(lm: HookedLM) -> list[TokenizedPrompt]:
    found = []
    for row in range(N_ROWS):
        ids = torch.randint(7, lm.d_vocab, (5 + row,), generator=torch.Generator().manual_seed(row))
        segments = [Segment.TEMPLATE] + [Segment.SYSTEM] * 2 + [Segment.USER] * (row + 2)
        prompt = TokenizedPrompt(
            token_ids=tuple(ids.tolist()), segments=tuple(int(s) for s in segments)
        )
        found.append(prompt.with_prefill([8, 9]) if row % 2 else prompt)
    return found


def probes_in_the_middle(lm: HookedLM) -> Any:
    """Boundaries through the middle of the tokens, so that gates open for some of them."""
    seen: dict[int, Tensor] = {}

    def reader(layer: int) -> Any:
        def read(resid: Tensor, chunk: Any) -> None:
            seen[layer] = resid[chunk.is_real].clone()

        return read

    with lm.hooks({layer: reader(layer) for layer in range(lm.n_layers)}):
        lm.forward(prompts_of(lm), return_logits=False)
    made = []
    for layer in range(lm.n_layers):
        probe = make_probe(layer, layer=layer, d_model=lm.d_model)
        rho = seen[layer].float() @ probe.v_hat
        m, spread = rho.median().item(), rho.std().item()
        numbers = {"boundary": m, "mu_pos": m + spread, "mu_neg": m - spread}
        numbers |= {"sigma_pos": spread / 3, "sigma_neg": spread / 4, "delta_mu": 2 * spread}
        made.append(make_probe(layer, layer=layer, d_model=lm.d_model, **numbers))
    return probe_set(tuple(made))


def expected_from(table: Any) -> dict[str, np.ndarray]:
    """The measures' definitions, spelled out on the trace with pandas."""
    frame = table.to_pandas()
    found = {name: np.full(N_ROWS, np.nan) for name in EDIT_COLUMNS}
    for sample, rows in frame[frame["in_scope"]].groupby("sample"):
        row, fired = int(sample), rows[rows["fired"]]
        moved = rows["delta_norm"].where(rows["fired"], 0.0)
        found["target_distance"][row] = moved.mean()
        found["target_distance_fired"][row] = fired["delta_norm"].mean()
        found["relative_l2"][row] = rows["relative_norm"].mean()
        found["relative_l2_fired"][row] = fired["relative_norm"].mean()
        found["fired_share"][row] = rows["fired"].mean()
        for segment, part in rows.groupby("segment"):
            found[f"fired_share_{segment}"][row] = part["fired"].mean()
    return found


def specs_of_every_kind() -> list[SteeringSpec | None]:
    return [
        SteeringSpec(method="swfc", layer=0, alpha=0.5),
        SteeringSpec(method="sttp", layer=1, alpha=2),
        SteeringSpec(method="stmp", layer=2, alpha=1.5, scope="response"),
        None,
        SteeringSpec(method="sttp", layer=(0, 2), alpha=1, direction="reversed"),
        SteeringSpec(method="stmp", layer=1, alpha=1, scope="prompt"),
        SteeringSpec(method="sttp", layer=1, alpha=1, scope="first:3+last_prompt"),
        SteeringSpec(method="sttp", layer=2, alpha=1, threshold=("value", -1e6)),
    ]


@pytest.mark.parametrize("prefill_chunk", [None, 3])
def test_every_measure_is_that_of_the_trace(tiny_lm: HookedLM, prefill_chunk: int | None) -> None:
    """Packed generation: rows of every method and scope, prefilled or not, leaving the batch
    one by one (longer prompts reach the end of the context first)."""
    plan, both = SteeringPlan(specs_of_every_kind(), probes_in_the_middle(tiny_lm)), Both()
    keys = [str(row) for row in range(N_ROWS)]
    settings = GenerationSettings(
        max_new_tokens=200, temperature=1.0, top_p=1.0, seed=1, prefill_chunk=prefill_chunk
    )
    with steer(tiny_lm, plan, recorder=both):
        made = tiny_lm.generate(prompts_of(tiny_lm), settings, sample_keys=keys)
    assert len({len(g.token_ids) for g in made}) > 3 and 1 in both.batches
    names = {"samples": keys, "scenarios": keys, "sides": ["malicious"] * N_ROWS}
    expected = expected_from(both.traces.table(tiny_lm, made, **names))
    found = both.meter.results(N_ROWS)
    assert tuple(found) == EDIT_COLUMNS
    for name in EDIT_COLUMNS:
        # Noise: the trace reads |h' - h| off rounded float32 residuals; a token more or less in a
        # sum moves a mean by 1e-2 of it.
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, err_msg=name)
    # The cases: nothing steered, nothing fired, fired in part, all fired, no token of a segment.
    assert all(np.isnan(found[name][3]) for name in EDIT_COLUMNS)
    assert found["fired_share"][7] == 0 and found["target_distance"][7] == 0
    assert np.isnan(found["target_distance_fired"][7])
    assert found["fired_share"][0] == 1 and 0 < found["fired_share"][1] < 1
    assert np.isnan(found["fired_share_system"][2]) and np.isnan(found["fired_share_prefill"][0])


def metered(
    specs: list[SteeringSpec | None], calls: list[tuple[Tensor, Any]], probes: Any
) -> MeasureArrays:
    meter = EditMeter()
    plan = SteeringPlan(specs, probes)
    hooks = plan.hooks(recorder=meter)
    for resid, chunk in calls:
        for hook in hooks.values():
            hook(resid, chunk)
    return meter.results(len(specs))


def test_sttp_in_closed_form() -> None:
    """|shift| = s - rho below m; h of known norm; padding holds NaN and is not looked at."""
    probes = make_probes(0, layers=(0,))
    probe = probes.probe(0)
    other = normals(9, D_MODEL)
    other -= (other @ probe.v_hat) * probe.v_hat
    rho = torch.tensor([[0.0, -1.0, 0.5, -2.0], [9.0, 0.0, 0.0, 3.0]])
    h = rho[..., None] * probe.v_hat + 2 * other / other.norm()
    h[1, 0] = torch.nan
    chunk = chunk_of(2, 4, prompt=3, padding=[0, 1])  # USER USER USER RESPONSE, and one less
    spec = SteeringSpec(method="sttp", layer=0, alpha=2)
    found = metered([spec, spec], [(h, chunk)], probes)
    s = probe.mu_pos + 2 * probe.sigma_pos  # 1.8; m = 0.1: fired are 0, -1, -2 and 0, 0
    moved, norm = np.array([s, s + 1, s + 2]), np.sqrt(4 + np.array([0, 1, 4]))
    np.testing.assert_allclose(found["target_distance"], [moved.sum() / 4, 2 * s / 3], rtol=1e-6)
    np.testing.assert_allclose(found["target_distance_fired"], [moved.mean(), s], rtol=1e-6)
    relative = moved / norm
    np.testing.assert_allclose(found["relative_l2"], [relative.sum() / 4, s / 3], rtol=1e-6)
    np.testing.assert_allclose(found["relative_l2_fired"], [relative.mean(), s / 2], rtol=1e-6)
    np.testing.assert_allclose(found["fired_share"], [3 / 4, 2 / 3])
    np.testing.assert_allclose(found["fired_share_user"], [2 / 3, 1])
    np.testing.assert_allclose(found["fired_share_response"], [1, 0])


def test_rows_keep_their_numbers_when_others_leave() -> None:
    probes = make_probes(0, layers=(0,))
    specs: list[SteeringSpec | None] = [
        SteeringSpec(method="swfc", layer=0, alpha=alpha) for alpha in (1, 2, 3)
    ]
    h = normals(3, 3, 4, D_MODEL)
    calls = [
        (h, chunk_of(3, 4, prompt=4)),
        (h[[0, 2], :1], chunk_of(2, 5, prompt=4, rows=[0, 2], piece=(4, 5))),
        (h[[2], :1], chunk_of(1, 6, prompt=4, rows=[2], piece=(5, 6))),
    ]
    found = metered(specs, calls, probes)
    alphas = np.array([1, 2, 3])
    np.testing.assert_allclose(found["target_distance"], alphas * 2.1, rtol=1e-6)
    norms = h.norm(dim=-1).double().numpy()
    lengths = [[*norms[0], norms[0, 0]], norms[1], [*norms[2], norms[2, 0], norms[2, 0]]]
    expected = [(a * 2.1 / np.array(n)).mean() for a, n in zip(alphas, lengths, strict=True)]
    np.testing.assert_allclose(found["relative_l2"], expected, rtol=1e-5)
    assert found["fired_share_response"][0] == 1 and np.isnan(found["fired_share_response"][1])


def test_a_control_has_the_distance_of_the_edit_it_matches() -> None:
    probes = make_probes(0, layers=(0,))
    u = normals(5, D_MODEL)
    own = SteeringSpec(method="stmp", layer=0, alpha=2)
    control = SteeringSpec(method="stmp", layer=0, alpha=2, edit_direction=u / u.norm())
    h = normals(4, 1, 7, D_MODEL).expand(2, -1, -1).contiguous()
    found = metered([own, control], [(h, chunk_of(2, 7, prompt=4))], probes)
    for name in EDIT_COLUMNS:
        assert found[name][0] == pytest.approx(found[name][1], nan_ok=True)
    assert found["target_distance"][0] > 0


def test_in_bfloat16_the_distance_is_the_laws_and_a_zero_residual_has_no_relative_size() -> None:
    probes = make_probes(0, layers=(0,))
    h = (normals(4, 1, 3, D_MODEL) * 50).to(torch.bfloat16)  # rounds an edit of 2.1 visibly
    h[0, 0] = 0
    spec = SteeringSpec(method="swfc", layer=0, alpha=1)
    found = metered([spec], [(h, chunk_of(1, 3, prompt=3))], probes)
    assert found["target_distance"][0] == pytest.approx(2.1, rel=1e-6)
    norms = h[0, 1:].float().norm(dim=-1).numpy()
    assert found["relative_l2"][0] == pytest.approx((2.1 / norms).sum() / 3, rel=1e-5)


def test_a_uniform_plan_is_metered_and_too_few_rows_are_refused(tiny_lm: HookedLM) -> None:
    probes, meter = probes_in_the_middle(tiny_lm), EditMeter()
    spec = SteeringSpec(method="swfc", layer=(0, 1), alpha=1)
    with steer(tiny_lm, spec, probes, recorder=meter):
        tiny_lm.forward(prompts_of(tiny_lm), return_logits=False)
    found = meter.results(N_ROWS)
    expected = (probes.probe(0).delta_mu + probes.probe(1).delta_mu) / 2  # a token once a layer
    np.testing.assert_allclose(found["target_distance"], expected, rtol=1e-6)
    with pytest.raises(MeasureError, match=r"all sequences of the metered call, 8, got 3; use one"):
        meter.results(3)
    assert all(np.isnan(values).all() for values in EditMeter().results(3).values())


def test_steering_is_the_same_with_and_without_a_meter(tiny_lm: HookedLM) -> None:
    plan = SteeringPlan(specs_of_every_kind(), probes_in_the_middle(tiny_lm))
    made = []
    for recorder in (None, EditMeter()):
        with steer(tiny_lm, plan, recorder=recorder):
            keys = [str(row) for row in range(N_ROWS)]
            made.append(tiny_lm.generate(prompts_of(tiny_lm), SETTINGS, sample_keys=keys))
    assert made[0] == made[1]


def test_metering_reads_no_value_from_the_device() -> None:
    """Tensors on the meta device have no values: whatever looked at one would raise."""
    meter, probes = EditMeter(), make_probes(0, layers=(0,))
    specs: list[SteeringSpec | None] = [
        SteeringSpec(method="sttp", layer=0, alpha=1),
        SteeringSpec(method="stmp", layer=0, alpha=1, scope="response", direction="reversed"),
    ]
    hook = SteeringPlan(specs, probes).hooks(recorder=meter)[0]
    on_meta = chunk_of(2, 5, prompt=3, padding=[0, 2]).to(torch.device("meta"))
    for _ in range(3):
        assert hook(torch.empty(2, 5, D_MODEL, device="meta"), on_meta) is not None
    assert len(meter._totals) == 1
    with pytest.raises((RuntimeError, NotImplementedError)):  # control: a look at a value raises
        meter.results(2)


@pytest.mark.parametrize("recorder", [EditMeter(), TraceRecorder()])
def test_recorders_let_go_of_the_residual_streams(recorder: Any) -> None:
    hook = SteeringPlan.uniform(
        SteeringSpec(method="swfc", layer=0, alpha=1), make_probes(0, layers=(0,))
    ).hooks(recorder=recorder)[0]
    resid = normals(0, 2, 3, D_MODEL)
    streams = [weakref.ref(resid), weakref.ref(hook(resid, chunk_of(2, 3, prompt=3)))]
    del resid
    gc.collect()
    assert [stream() for stream in streams] == [None, None]


def test_a_record_holds_what_a_trace_needs() -> None:
    """The properties, in bfloat16, against the definitions."""
    seen: list[HookRecord] = []

    class Keep:
        def record(self, record: HookRecord) -> None:
            seen.append(record)

    probes = make_probes(0, layers=(0,))
    spec = SteeringSpec(method="swfc", layer=0, alpha=1, scope="response")
    resid = normals(1, 2, 4, D_MODEL).to(torch.bfloat16)
    chunk = chunk_of(2, 4, prompt=3)
    out = SteeringPlan.uniform(spec, probes).hooks(recorder=Keep())[0](resid, chunk)
    [record] = seen
    assert out is not None
    before, after, v_hat = resid.double(), out.double(), probes.probe(0).v_hat.double()
    expected = {
        "projection_before": before @ v_hat,
        "projection_after": after @ v_hat,
        "delta_norm": (after - before).norm(dim=-1),
        "norm": before.norm(dim=-1),
        "shift": torch.tensor([[0, 0, 0, 2.1]] * 2).double(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(record, name).double(), value, atol=1e-5, rtol=0)
    assert torch.equal(record.segments, chunk.segments)
