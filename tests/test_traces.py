"""Traces: every row against numbers computed without the recorder, and what is refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from interp_steer import traces
from interp_steer.errors import RunError, SteeringError
from interp_steer.model import GenerationSettings, HookedLM
from interp_steer.specs import SteeringSpec
from interp_steer.steering import HookRecord, SteeringPlan, steer
from interp_steer.tokens import Segment, TokenChunk, TokenizedPrompt
from interp_steer.trace_reduction import RecordedCall, reduced
from interp_steer.traces import TRACE_SCHEMA, TraceRecorder, read_traces, write_traces
from steering_cases import chunk_of, make_probe, make_probes, probe_set

DESIGN = """sample scenario side turn pos token_id token segment layer method direction scope alpha
in_scope projection_before projection_after boundary threshold target cap fired capped delta_norm
relative_norm logprob"""
SETTINGS = GenerationSettings(max_new_tokens=5, temperature=0.7)
LABELS: dict[str, Any] = {
    "samples": ["s0", "s1", "s2"],
    "scenarios": ["a", "a", "b"],
    "sides": ["malicious", "aligned", "malicious"],
}


def prompts_of(lm: HookedLM) -> list[TokenizedPrompt]:
    """Three prompts of different lengths; the second starts its response with two fixed tokens."""
    generator = torch.Generator().manual_seed(5)
    found = []
    for length in (5, 9, 7):
        ids = torch.randint(7, lm.d_vocab, (length,), generator=generator).tolist()
        segments = [Segment.TEMPLATE] + [Segment.SYSTEM] * 2 + [Segment.USER] * (length - 3)
        found.append(TokenizedPrompt(token_ids=tuple(ids), segments=tuple(map(int, segments))))
    found[1] = found[1].with_prefill([8, 9])
    return found


def resid_before(lm: HookedLM, sequence: TokenizedPrompt, layer: int) -> np.ndarray:
    """Unsteered resid_post [pos, d_model] of one sequence by itself, teacher-forced."""
    seen: list[torch.Tensor] = []

    def read(resid: torch.Tensor, chunk: TokenChunk) -> None:
        seen.append(resid[0].clone())

    with lm.hooks({layer: read}):
        lm.forward([sequence], return_logits=False)
    return seen[0].double().numpy()


def trace(lm: HookedLM, specs: list[SteeringSpec | None], probes: Any) -> tuple[Any, list[Any]]:
    recorder = TraceRecorder()
    with steer(lm, SteeringPlan(specs, probes), recorder=recorder):
        made = lm.generate(prompts_of(lm), SETTINGS, sample_keys=LABELS["samples"])
    return recorder.table(lm, made, **LABELS), made


@pytest.fixture
def probes(tiny_lm: HookedLM) -> Any:
    """Boundaries through the middle of the tokens; a spread small enough for caps to bite."""
    made = []
    for layer in range(tiny_lm.n_layers):
        probe = make_probe(layer, layer=layer, d_model=tiny_lm.d_model)
        resid = np.concatenate([resid_before(tiny_lm, p, layer) for p in prompts_of(tiny_lm)])
        rho = resid @ probe.v_hat.double().numpy()
        m, spread = float(np.sort(rho)[len(rho) // 2 :][:2].mean()), float(rho.std())
        numbers: dict[str, Any] = {"boundary": m, "mu_pos": m + spread, "mu_neg": m - spread}
        numbers |= {"sigma_pos": spread / 50, "sigma_neg": spread / 40, "delta_mu": 2 * spread}
        made.append(make_probe(layer, layer=layer, d_model=tiny_lm.d_model, **numbers))
    return probe_set(tuple(made))


def test_columns_are_those_of_the_design(tiny_lm: HookedLM, probes: Any) -> None:
    assert " ".join(TRACE_SCHEMA.names) == " ".join(DESIGN.split())
    table, _ = trace(tiny_lm, [SteeringSpec(method="sttp", layer=1, alpha=2)] * 3, probes)
    assert table.schema == TRACE_SCHEMA
    table.validate(full=True)


@pytest.mark.parametrize("direction", ["aligned", "reversed"])
@pytest.mark.parametrize(("method", "alpha"), [("swfc", 0.5), ("sttp", 2.0), ("stmp", 1.5)])
def test_every_number_of_a_row(
    tiny_lm: HookedLM, probes: Any, method: str, alpha: float, direction: str
) -> None:
    spec = SteeringSpec(
        method=method, layer=1, alpha=alpha, scope="response+last_prompt", direction=direction
    )
    table, made = trace(tiny_lm, [spec, None, spec], probes)
    probe, up = probes.probe(1), direction == "aligned"
    frame = table.to_pandas()
    assert set(frame["sample"]) == {"s0", "s2"}  # the row without a spec leaves no trace
    for row in (0, 2):
        sequence, mine = made[row].sequence, frame[frame["sample"] == f"s{row}"]
        n, n_prompt = len(sequence), len(made[row].prompt)
        assert mine["pos"].tolist() == list(range(n))  # the last sampled token included
        assert mine["token_id"].tolist() == list(sequence.token_ids)
        assert mine["token"].tolist() == tiny_lm.token_strings(sequence.token_ids)
        names = [Segment(s).name.lower() for s in sequence.segments]
        assert mine["segment"].tolist() == names
        h = resid_before(tiny_lm, sequence, 1)
        rho = h @ probe.v_hat.double().numpy()
        in_scope = np.arange(n) >= n_prompt - 1
        np.testing.assert_allclose(mine["projection_before"], rho, atol=1e-4)
        assert mine["in_scope"].tolist() == in_scope.tolist()
        # Numbers of the probe, worked out here from method.md
        mu = probe.mu_pos if up else probe.mu_neg
        sigma = probe.sigma_pos if up else -probe.sigma_neg
        gate = (rho < probe.boundary) if up else (rho > probe.boundary)
        cap = mu + 40 * sigma
        mirrored = rho + 2 * alpha * (probe.boundary - rho)
        limited = np.minimum(mirrored, cap) if up else np.maximum(mirrored, cap)
        after = {
            "swfc": rho + (alpha if up else -alpha) * probe.delta_mu,
            "sttp": np.full(n, mu + alpha * sigma),
            "stmp": limited,
        }[method]
        fired = in_scope & (gate | (method == "swfc"))
        after = np.where(fired, after, rho)
        assert mine["fired"].tolist() == fired.tolist()
        hit_cap = fired & (limited != mirrored) & (method == "stmp")
        assert mine["capped"].tolist() == hit_cap.tolist()
        np.testing.assert_allclose(mine["projection_after"], after, atol=1e-4)
        np.testing.assert_allclose(mine["delta_norm"], abs(after - rho), atol=1e-4)
        relative = abs(after - rho) / np.linalg.norm(h, axis=1)
        np.testing.assert_allclose(mine["relative_norm"], relative, atol=1e-5)
        expected = {
            "boundary": probe.boundary,
            "threshold": None if method == "swfc" else probe.boundary,
            "target": mu + alpha * sigma if method == "sttp" else None,
            "cap": cap if method == "stmp" else None,
        }
        for name, value in expected.items():
            assert set(table[name].to_pylist()) == {value}, name
        logprobs = mine["logprob"].tolist()
        assert np.isnan(logprobs[:n_prompt]).all()
        np.testing.assert_allclose(logprobs[n_prompt:], made[row].logprobs, atol=1e-6)
    same = {
        "method": method,
        "direction": direction,
        "alpha": alpha,
        "layer": 1,
        "scope": "response+last_prompt",
        "turn": 0,
    }
    for name, value in same.items():
        assert set(frame[name]) == {value}
    assert list(frame.groupby("sample", sort=False)["scenario"].first()) == ["a", "b"]
    assert list(frame.groupby("sample", sort=False)["side"].first()) == ["malicious"] * 2


def test_the_trace_is_not_empty_of_cases(tiny_lm: HookedLM, probes: Any) -> None:
    """The cases above enter every branch: fired, not fired, capped, out of scope."""
    spec = SteeringSpec(method="stmp", layer=1, alpha=1.5, scope="all")
    table, _ = trace(tiny_lm, [spec] * 3, probes)
    for name in ("fired", "capped"):
        assert set(table[name].to_pylist()) == {True, False}
    assert set(table["segment"].to_pylist()) == {
        "template",
        "system",
        "user",
        "prefill",
        "response",
    }


def test_rows_are_ordered_by_sequence_layer_and_position(tiny_lm: HookedLM, probes: Any) -> None:
    spec = SteeringSpec(method="swfc", layer=(0, 2), alpha=1)
    table, made = trace(
        tiny_lm, [spec, SteeringSpec(method="sttp", layer=1, alpha=0), spec], probes
    )
    expected = [
        (f"s{row}", layer, pos)
        for row, layers in enumerate([(0, 2), (1,), (0, 2)])
        for layer in layers
        for pos in range(len(made[row].sequence))
    ]
    columns = (table[name].to_pylist() for name in ("sample", "layer", "pos"))
    assert list(zip(*columns, strict=True)) == expected


def test_teacher_forced_sequences_are_traced_without_logprobs(
    tiny_lm: HookedLM, probes: Any
) -> None:
    recorder = TraceRecorder()
    sequences = [p.with_response([10, 11]) for p in prompts_of(tiny_lm)]
    with steer(tiny_lm, SteeringSpec(method="swfc", layer=0, alpha=1), probes, recorder=recorder):
        tiny_lm.forward(sequences, return_logits=False, chunk=4)
    table = recorder.table(tiny_lm, sequences, **LABELS, turns=[0, 1, 2])
    assert table.num_rows == sum(map(len, sequences))
    assert table["logprob"].null_count == table.num_rows
    assert set(zip(table["sample"].to_pylist(), table["turn"].to_pylist(), strict=True)) == {
        ("s0", 0),
        ("s1", 1),
        ("s2", 2),
    }


def test_a_control_is_traced_along_v_hat(tiny_lm: HookedLM, probes: Any) -> None:
    """The edit has the size of the real one, but hardly moves the projection."""
    probe = probes.probe(1)
    u = make_probe(77, d_model=tiny_lm.d_model).v_hat
    u = u - (u @ probe.v_hat) * probe.v_hat
    spec = SteeringSpec(method="sttp", layer=1, alpha=2, edit_direction=u / u.norm())
    frame = trace(tiny_lm, [spec] * 3, probes)[0].to_pandas()
    fired = frame[frame["fired"]]
    size = probe.mu_pos + 2 * probe.sigma_pos - fired["projection_before"]
    np.testing.assert_allclose(fired["delta_norm"], size, atol=1e-4)
    np.testing.assert_allclose(fired["projection_after"], fired["projection_before"], atol=1e-4)
    assert len(fired) > 3


def test_steering_is_the_same_with_and_without_a_recorder(tiny_lm: HookedLM, probes: Any) -> None:
    spec = SteeringSpec(method="stmp", layer=1, alpha=2)
    _, recorded = trace(tiny_lm, [spec] * 3, probes)
    with steer(tiny_lm, spec, probes):
        plain = tiny_lm.generate(prompts_of(tiny_lm), SETTINGS, sample_keys=LABELS["samples"])
    assert [g.token_ids for g in plain] == [g.token_ids for g in recorded]
    assert [g.logprobs for g in plain] == [g.logprobs for g in recorded]


def test_recording_reads_no_value_from_the_device() -> None:
    """Tensors on the meta device have no values: whatever looked at one would raise."""
    recorder = TraceRecorder()
    probes = make_probes(0, layers=(0,))
    specs: list[SteeringSpec | None] = [
        SteeringSpec(method="sttp", layer=0, alpha=1),
        SteeringSpec(method="stmp", layer=0, alpha=1, scope="response", direction="reversed"),
    ]
    hook = SteeringPlan(specs, probes).hooks(recorder=recorder)[0]
    on_meta = chunk_of(2, 5, prompt=3, padding=[0, 2]).to(torch.device("meta"))
    resid = torch.empty(2, 5, 12, device="meta")
    for _ in range(3):
        out = hook(resid, on_meta)
        assert out is not None and out.shape == resid.shape
    assert len(recorder) == 3  # one object a call, none a token
    with pytest.raises(RuntimeError):  # control: a look at a value does raise
        bool(on_meta.is_real.any())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_residuals_of_every_dtype_are_measured(dtype: torch.dtype) -> None:
    spec = SteeringSpec(method="swfc", layer=0, alpha=1.0)
    seen: list[HookRecord] = []
    keeper: Any = SimpleNamespace(record=seen.append)
    hook = SteeringPlan([spec], make_probes(0, layers=(0,))).hooks(recorder=keeper)[0]
    hook(torch.full((1, 2, 12), 200.0, dtype=dtype), chunk_of(1, 2))
    norm = torch.full((2,), 200 * 12**0.5)  # whose square is past float16
    values = reduced([RecordedCall.of(seen[0], copied=False)]).values
    assert values["norm"].dtype == torch.float32
    torch.testing.assert_close(values["norm"], norm)
    torch.testing.assert_close(seen[0].norm[0], norm)


@pytest.mark.parametrize("block", [1, 200, 2**20])
def test_a_trace_does_not_depend_on_how_calls_are_reduced(
    tiny_lm: HookedLM, probes: Any, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    specs = [SteeringSpec(method="stmp", layer=layer, alpha=2) for layer in (0, 1, 1)]
    monkeypatch.setattr(traces, "SMALL_CALL", 0)  # every call by itself, nothing copied
    expected, _ = trace(tiny_lm, specs, probes)
    monkeypatch.setattr(traces, "SMALL_CALL", 2**16)
    monkeypatch.setattr(traces, "BLOCK", block)
    assert trace(tiny_lm, specs, probes)[0].equals(expected)


def test_a_call_that_waits_is_not_changed_by_who_got_its_residual_stream(
    tiny_lm: HookedLM, probes: Any
) -> None:
    spec = SteeringSpec(method="swfc", layer=1, alpha=1)
    expected, _ = trace(tiny_lm, [spec] * 3, probes)
    recorder = TraceRecorder()

    def write_over(resid: torch.Tensor, _chunk: Any) -> None:
        resid.mul_(1.5)

    with steer(tiny_lm, spec, probes, recorder=recorder), tiny_lm.hooks([(1, write_over)]):
        made = tiny_lm.generate(prompts_of(tiny_lm), SETTINGS, sample_keys=LABELS["samples"])
    found = recorder.table(tiny_lm, made, **LABELS)
    # What follows the prompts is of another text.
    prompt = [one.filter(pc.not_equal(one["segment"], "response")) for one in (expected, found)]
    assert prompt[0].num_rows > 0 and prompt[0].equals(prompt[1])


def test_a_copy_keeps_what_was_recorded_until_then(tiny_lm: HookedLM, probes: Any) -> None:
    recorder, copies = TraceRecorder(), list[TraceRecorder]()
    spec = SteeringSpec(method="sttp", layer=1, alpha=1)
    with steer(tiny_lm, spec, probes, recorder=recorder):
        made = tiny_lm.generate(
            prompts_of(tiny_lm),
            SETTINGS,
            sample_keys=LABELS["samples"],
            on_step=lambda _: copies.append(recorder.copy()),
        )
    whole = recorder.table(tiny_lm, made, **LABELS)
    merged, n_merged = TraceRecorder(), 0
    for copy in (*copies, recorder):
        merged = merged.merged(copy.copy(start=n_merged))
        n_merged = len(copy)
        assert len(merged) == 1
    assert merged.table(tiny_lm, made, **LABELS).equals(whole)
    recorder.clear()
    n_prompts = sum(len(g.prompt) for g in made)
    for step, copy in enumerate(copies):  # a step's tokens are run after it
        table = copy.table(tiny_lm, made, **LABELS)
        assert table.num_rows == n_prompts + sum(min(step, len(g.token_ids)) for g in made)
    rows = copies[2].table(tiny_lm, made, **LABELS).to_pylist()
    assert all(row in whole.to_pylist() for row in rows)


def test_an_unsteered_call_has_an_empty_trace(tiny_lm: HookedLM, probes: Any) -> None:
    table, _ = trace(tiny_lm, [None, None, None], probes)
    assert table.schema == TRACE_SCHEMA
    assert table.num_rows == 0


def test_misuse_is_refused(tiny_lm: HookedLM, probes: Any) -> None:
    recorder, prompts = TraceRecorder(), prompts_of(tiny_lm)
    with steer(tiny_lm, SteeringSpec(method="swfc", layer=0, alpha=1), probes, recorder=recorder):
        tiny_lm.forward(prompts, return_logits=False)
        with pytest.raises(SteeringError, match=r"expected 3 sides, one per sequence, got 2"):
            recorder.table(tiny_lm, prompts, **(LABELS | {"sides": ["aligned"] * 2}))
        two = {name: values[:2] for name, values in LABELS.items()}
        with pytest.raises(SteeringError, match=r"all sequences .* at least 3, got 2; pass every"):
            recorder.table(tiny_lm, prompts[:2], **two)
        tiny_lm.forward(prompts, return_logits=False)
        with pytest.raises(SteeringError, match=r"same token twice: it served two calls; use one"):
            recorder.table(tiny_lm, prompts, **LABELS)
        recorder.clear()
        tiny_lm.forward(prompts, return_logits=False)
        assert recorder.table(tiny_lm, prompts, **LABELS).num_rows == sum(map(len, prompts))


def test_files_return_what_was_written(tiny_lm: HookedLM, probes: Any, tmp_path: Path) -> None:
    table, _ = trace(tiny_lm, [SteeringSpec(method="stmp", layer=1, alpha=2)] * 3, probes)
    path = tmp_path / "traces" / "stmp.parquet"
    write_traces(table, path)
    assert read_traces(path).equals(table)
    assert [p.name for p in path.parent.iterdir()] == ["stmp.parquet"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    empty = TRACE_SCHEMA.empty_table()
    path = tmp_path / "x.parquet"
    with pytest.raises(RunError, match="record the trace again"):
        read_traces(path)
    with pytest.raises(SteeringError, match=r"missing or of another type: fired; unknown: none"):
        write_traces(empty.drop_columns(["fired"]), path)
    with pytest.raises(SteeringError, match=r"type: none; unknown: colour; make it with"):
        write_traces(empty.append_column("colour", pa.array([], pa.string())), path)
    assert not path.exists()
    write_traces(empty, path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunError, match=r"x\.parquet"):
        read_traces(path)
