"""Live generations: the sweep's texts, watched, stopped, failing, and one after another."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from interp_steer.cells import ALIGNED, MALICIOUS, Cell, steered_cell
from interp_steer.config import FitConfig, SamplingConfig
from interp_steer.errors import RunError
from interp_steer.explorer.live import LiveError, LiveRow, LiveSession, LiveSessions, LiveSnapshot
from interp_steer.explorer.live_turns import Turns
from interp_steer.fit_stage import fit, load_probes
from interp_steer.model import HookedLM
from interp_steer.organism import MODEL_DIR, scenarios_path
from interp_steer.packs import SweepSetting
from interp_steer.probes import ProbeSet
from interp_steer.projections import PROJECTION_SCHEMA
from interp_steer.runs import Run
from interp_steer.sampling import Generation
from interp_steer.scenarios import Prompt, Scenario, load_scenarios, save_scenarios
from interp_steer.specs import SteeringSpec
from interp_steer.steering import SteeringPlan, steer
from interp_steer.study import Sources, Study, start_study
from interp_steer.sweep import read_rows, run_cells
from interp_steer.sweep_rows import Block, sample_key, steering_spec
from interp_steer.tokens import TokenChunk
from interp_steer.traces import TRACE_SCHEMA, TraceRecorder
from study_cases import WordJudge, tiny_study

LONG = 120.0
"""Seconds after which something hangs."""
CELLS = {
    "tiny": (
        steered_cell(method="sttp", layer=1, alpha=2.0, scope="all"),
        steered_cell(method="swfc", layer=0, alpha=2.0, scope="response"),
    ),
    "organism": (
        steered_cell(method="sttp", layer=5, alpha=24.0, scope="all"),
        steered_cell(method="stmp", layer=4, alpha=2.0, scope="response"),
    ),
}


@dataclass(frozen=True)
class Stored:
    """A fitted study and the sweep rows of a few cells and scenarios."""

    study: Study
    probes: ProbeSet
    cells: tuple[Cell, ...]
    scenarios: tuple[Scenario, ...]
    rows: dict[tuple[Cell, str], dict[str, Any]]

    def load(self) -> tuple[Study, ProbeSet]:
        return self.study, self.probes


def organism_study(folder: Path, lm: HookedLM) -> Study:
    """A few of the bundled scenarios, fitted."""
    known = load_scenarios(scenarios_path("honesty"))
    some = [s for split in ("train", "test") for s in [k for k in known if k.split == split][:12]]
    save_scenarios(folder / "some.jsonl", some)
    sources = Sources(model=str(MODEL_DIR), scenarios=folder / "some.jsonl")
    sampling = SamplingConfig(max_new_tokens=96)
    study = start_study(folder / "run", lm, sources, sampling=sampling)
    fit(study, FitConfig(sampling=sampling))
    return study


@pytest.fixture(scope="module", params=["tiny", pytest.param("organism", marks=pytest.mark.slow)])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    folder = tmp_path_factory.mktemp("live")
    if request.param == "tiny":
        lm, where = (request.getfixturevalue(name) for name in ("tiny_lm", "tiny_dir"))
        study = tiny_study(folder, lm, where)
    else:
        study = organism_study(folder, request.getfixturevalue("organism_lm"))
    return with_sweep(study, CELLS[request.param], folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, tiny_lm: HookedLM, tiny_dir: Path) -> Stored:
    folder = tmp_path_factory.mktemp("live-tiny")
    return with_sweep(tiny_study(folder, tiny_lm, tiny_dir), (), folder)


def with_sweep(study: Study, cells: tuple[Cell, ...], folder: Path) -> Stored:
    probes, asked = load_probes(study.run), study.split("test")[:4]
    rows: dict[tuple[Cell, str], dict[str, Any]] = {}
    if cells:
        run = Run.create(folder / "sweep")
        setting = SweepSetting(
            lm=study.lm, probes=probes, judge=WordJudge(), generation=study.settings
        )
        run_cells(
            run, [Block(cells=(ALIGNED, MALICIOUS, *cells), scenarios=asked)], setting=setting
        )
        rows = {(Cell.from_row(r), r["scenario"]): r for r in read_rows(run).to_pylist()}
    return Stored(study=study, probes=probes, cells=cells, scenarios=asked, rows=rows)


def live_row(scenario: Scenario, spec: SteeringSpec | None, **changes: Any) -> LiveRow:
    values: dict[str, Any] = {
        "label": "unsteered" if spec is None else f"{spec.method} at {spec.layer}",
        "prompt": scenario.prompt("malicious"),
        "spec": spec,
        "read_layer": 1,
        "scenario": scenario.id,
        "side": "malicious",
        "sample_key": sample_key(scenario.id, 0),
    }
    return LiveRow(**(values | changes))


def rows_of(stored: Stored, place: int = 0) -> list[LiveRow]:
    """One scenario unsteered and under every cell."""
    scenario = stored.scenarios[place]
    return [live_row(scenario, None)] + [
        live_row(scenario, steering_spec(cell)) for cell in stored.cells
    ]


def finished(session: LiveSession) -> LiveSnapshot:
    session.start()
    assert session.wait(LONG), session.snapshot()
    return session.snapshot()


def plainly(
    study: Study,
    rows: Sequence[LiveRow],
    plan: SteeringPlan | None,
    recorder: TraceRecorder | None = None,
) -> list[Generation]:
    """The same batch through `generate`, nobody watching."""
    prompts = [study.lm.tokenize(row.prompt) for row in rows]
    keys = [row.sample_key for row in rows]
    if plan is None:
        return study.lm.generate(prompts, study.settings, sample_keys=keys)
    with steer(study.lm, plan, recorder=recorder):
        return study.lm.generate(prompts, study.settings, sample_keys=keys)


class Brake:
    """A hook that lets no forward pass of a decoding step through until it is told to."""

    def __init__(self) -> None:
        self.steps = threading.Semaphore(0)
        self.held = 0

    def __call__(self, _resid: torch.Tensor, chunk: TokenChunk) -> None:
        if int(chunk.response_index.max()) >= 0:
            self.held += 1
            assert self.steps.acquire(timeout=LONG)

    def release(self, steps: int = 10_000) -> None:
        self.steps.release(steps)

    def wait(self, steps: int = 1) -> None:
        """Wait until the step after `steps` sampled tokens is held."""
        until(lambda: self.held >= steps)


@pytest.fixture
def brake(tiny_lm: HookedLM) -> Iterator[Brake]:
    """At the last layer: hooks of the others have recorded the step that it holds."""
    found = Brake()
    with tiny_lm.hooks({tiny_lm.n_layers - 1: found}):
        yield found
        found.release()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.002)


def check_table(table: pa.Table, row: LiveRow) -> None:
    """It has the columns of a trace, no null where there may be none, and its row's labels."""
    assert table.schema.equals(TRACE_SCHEMA)
    table.validate(full=True)
    assert [f.name for f in TRACE_SCHEMA if not f.nullable and table[f.name].null_count] == []
    for name, value in (
        ("sample", row.label),
        ("scenario", row.scenario),
        ("side", row.side),
        ("turn", 0),
    ):
        assert set(table[name].to_pylist()) == {value}


# --- what is generated ----------------------------------------------------------------------------


def test_a_live_text_is_that_of_the_sweep_and_of_generate(stored: Stored) -> None:
    texts = set()
    for place, scenario in enumerate(stored.scenarios):
        rows = rows_of(stored, place)
        found = finished(LiveSession(stored.load, rows))
        assert (found.state, found.error) == ("done", None)
        swept = [stored.rows[cell, scenario.id] for cell in (MALICIOUS, *stored.cells)]
        assert list(found.texts) == [row["response"] for row in swept]
        assert list(found.n_tokens) == [row["n_tokens"] for row in swept]
        plan = SteeringPlan([row.spec for row in rows], stored.probes)
        assert list(found.texts) == [g.text for g in plainly(stored.study, rows, plan)]
        for table, row, swept_row in zip(found.tables, rows, swept, strict=True):
            said = table.filter(pa.compute.equal(table["segment"], "response"))
            assert said["token_id"].to_pylist() == swept_row["token_ids"]
            check_table(table, row)
        texts |= set(found.texts)
    assert len(texts) > 2 * len(stored.scenarios)  # the cells do say different things


def test_the_table_is_that_of_a_recorder(stored: Stored) -> None:
    """Of a plain steered generation of the same batch, bit for bit where rows are steered."""
    rows = rows_of(stored)
    recorder = TraceRecorder()
    plan = SteeringPlan([row.spec for row in rows], stored.probes)
    made = plainly(stored.study, rows, plan, recorder)
    labels = [row.label for row in rows]
    expected = recorder.table(
        stored.study.lm,
        made,
        samples=labels,
        scenarios=[row.scenario for row in rows],
        sides=[row.side for row in rows],
    )
    found = finished(LiveSession(stored.load, rows))
    for row, table in zip(rows[1:], found.tables[1:], strict=True):
        mine = expected.filter(pa.compute.equal(expected["sample"], row.label))
        assert table.num_rows == mine.num_rows > 20
        assert table.equals(mine)


def test_an_unsteered_row_is_read_and_nothing_else(stored: Stored) -> None:
    rows = [replace(row, read_layer=2) for row in rows_of(stored)]
    found = finished(LiveSession(stored.load, rows))
    plan = SteeringPlan([row.spec for row in rows], stored.probes)
    made = plainly(stored.study, rows, plan)[0]
    assert made.token_ids == plainly(stored.study, rows[:1], None)[0].token_ids
    table = found.tables[0]
    frame = table.to_pandas()
    n_prompt = len(made.prompt)
    assert frame["token_id"].tolist() == list(made.sequence.token_ids)
    assert frame["pos"].tolist() == list(range(len(frame)))
    # Bit for bit what a hook-free row of the same batch has.
    assert frame["logprob"][n_prompt:].tolist() == list(made.logprobs)
    assert frame["logprob"][:n_prompt].isna().all()
    assert frame["projection_after"].equals(frame["projection_before"])
    same = {
        "method": "none",
        "direction": "none",
        "scope": "none",
        "alpha": 0.0,
        "layer": 2,
        "in_scope": False,
        "fired": False,
        "capped": False,
        "delta_norm": 0.0,
        "relative_norm": 0.0,
        "boundary": stored.probes.probe(2).boundary,
    }
    assert {name: set(frame[name]) for name in same} == {n: {v} for n, v in same.items()}
    assert all(table[name].null_count == len(frame) for name in ("threshold", "target", "cap"))
    seen: list[torch.Tensor] = []
    with stored.study.lm.hooks({2: lambda resid, _: seen.append(resid[0])}):
        stored.study.lm.forward([made.sequence], return_logits=False)
    rho = seen[0].double() @ stored.probes.probe(2).v_hat.double()
    np.testing.assert_allclose(frame["projection_before"], rho, atol=1e-4, rtol=1e-5)


def test_several_layers_and_prompts_run_in_pieces(tiny: Stored) -> None:
    spec = SteeringSpec(method="sttp", layer=(0, 2), alpha=1.0)
    rows = [live_row(tiny.scenarios[0], spec), live_row(tiny.scenarios[1], None)]
    study = tiny.study
    found = finished(LiveSession(tiny.load, rows))
    check_table(found.tables[0], rows[0])
    n = len(study.lm.tokenize(rows[0].prompt)) + found.n_tokens[0]
    assert found.tables[0]["pos"].to_pylist() == [*range(n), *range(n)]
    assert found.tables[0]["layer"].to_pylist() == [0] * n + [2] * n
    assert set(found.tables[1]["layer"].to_pylist()) == {1}


def test_a_smaller_limit_cuts_the_same_text(tiny: Stored) -> None:
    rows = [live_row(tiny.scenarios[0], None)]
    whole, cut = (
        finished(LiveSession(tiny.load, rows, max_new_tokens=limit)) for limit in (None, 4)
    )
    assert whole.n_tokens[0] > 4 == cut.n_tokens[0]
    assert whole.texts[0].startswith(cut.texts[0])
    assert cut.state == "done"


# --- watching and stopping ------------------------------------------------------------------------


def test_snapshots_only_grow(tiny: Stored, brake: Brake) -> None:
    spec = SteeringSpec(method="swfc", layer=1, alpha=2.0)
    rows = [live_row(tiny.scenarios[0], None), live_row(tiny.scenarios[0], spec)]
    session = LiveSession(tiny.load, rows)
    first = session.snapshot()
    assert (first.state, first.n_tokens, first.texts, first.seconds) == (
        "waiting",
        (0, 0),
        ("", ""),
        0,
    )
    assert [table.schema for table in first.tables] == [TRACE_SCHEMA] * 2
    seen = [first]
    session.start()
    n_prompt = len(tiny.study.lm.tokenize(rows[0].prompt))
    for step in range(1, 8):
        brake.wait(step)
        now = session.snapshot()
        assert (now.state, max(now.n_tokens)) == ("running", step)
        # The token sampled last has not been run: the brake holds it.
        for n, table in zip(now.n_tokens, now.tables, strict=True):
            assert table.num_rows == n_prompt + min(n, step - 1)
        seen.append(now)
        brake.release(1)
    brake.release()
    assert session.wait(LONG)
    seen.append(session.snapshot())
    assert seen[-1].state == "done"
    for n, table, row in zip(seen[-1].n_tokens, seen[-1].tables, rows, strict=True):
        assert table.num_rows == n_prompt + n
        check_table(table, row)
    for before, after in pairwise(seen):
        assert before.seconds <= after.seconds
        for row in range(2):
            assert before.n_tokens[row] <= after.n_tokens[row]
            assert after.texts[row].startswith(before.texts[row])
            known = before.tables[row]
            assert after.tables[row].slice(0, known.num_rows).equals(known)
    assert session.snapshot().seconds == seen[-1].seconds
    assert session.snapshot().tables[0] is seen[-1].tables[0]  # nothing is made again


def test_many_watchers_see_whole_snapshots(tiny: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that ask all the time, even while one is at it: all they see fits the final one."""
    merge = TraceRecorder.merged
    inside: list[int] = []
    most: list[int] = []

    def slowly(self: TraceRecorder, later: TraceRecorder) -> TraceRecorder:
        inside.append(1)
        most.append(len(inside))
        found = merge(self, later)
        time.sleep(0.002)
        inside.pop()
        return found

    monkeypatch.setattr(TraceRecorder, "merged", slowly)
    rows = [live_row(s, None) for s in tiny.scenarios]
    session = LiveSession(tiny.load, rows)
    found: list[LiveSnapshot] = []
    failures: list[BaseException] = []

    def watch() -> None:
        try:
            while not session.is_over:
                found.append(session.snapshot())
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    watchers = [threading.Thread(target=watch) for _ in range(4)]
    for watcher in watchers:
        watcher.start()
    last = finished(session)
    for watcher in watchers:
        watcher.join(LONG)
    assert failures == []
    assert max(most) == 1  # one builds, the others wait and take what it built
    assert len({snapshot.n_tokens for snapshot in found}) > 2
    for snapshot in found:
        for row, table in enumerate(snapshot.tables):
            assert last.tables[row].slice(0, table.num_rows).equals(table)
            assert last.texts[row].startswith(snapshot.texts[row])


def test_stopping_keeps_whole_tables(tiny: Stored, brake: Brake) -> None:
    spec = SteeringSpec(method="sttp", layer=1, alpha=2.0)
    rows = [live_row(s, wanted) for s in tiny.scenarios[:2] for wanted in (None, spec)]
    session = LiveSession(tiny.load, rows)
    session.start()
    brake.release(3)
    brake.wait(4)
    assert max(session.snapshot().n_tokens) == 4
    session.stop()
    brake.release()
    assert session.wait(LONG)
    found = session.snapshot()
    assert found.state == "stopped"
    assert max(found.n_tokens) <= 5  # within a step
    whole = finished(LiveSession(tiny.load, rows))
    assert whole.state == "done"
    assert max(whole.n_tokens) > 5
    for row, table in enumerate(found.tables):
        n = len(tiny.study.lm.tokenize(rows[row].prompt)) + found.n_tokens[row]
        assert table.num_rows == n  # the last sampled token too
        assert table.drop(["logprob"]).equals(whole.tables[row].slice(0, n).drop(["logprob"]))
        assert whole.texts[row].startswith(found.texts[row])
    session.stop()  # once more, after its end
    assert session.snapshot().state == "stopped"


def test_stopped_before_it_began(tiny: Stored) -> None:
    session = LiveSession(tiny.load, [live_row(tiny.scenarios[0], None)])
    session.stop()
    found = finished(session)
    assert (found.state, found.n_tokens, found.seconds) == ("stopped", (0,), 0.0)
    with pytest.raises(LiveError, match="nothing was generated"):
        session.layer_projections()
    with pytest.raises(LiveError, match="started already"):
        session.start()


def test_stopped_while_the_model_loads(tiny: Stored) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> tuple[Study, ProbeSet]:
        begun.set()
        assert go_on.wait(LONG)
        return tiny.load()

    session = LiveSession(slow, [live_row(tiny.scenarios[0], None)])
    session.start()
    assert begun.wait(LONG)
    assert session.snapshot().state == "waiting"
    session.stop()
    go_on.set()
    assert session.wait(LONG)
    assert (session.snapshot().state, session.snapshot().n_tokens) == ("stopped", (0,))


# --- layer x token --------------------------------------------------------------------------------


def test_projections_at_every_layer(tiny: Stored) -> None:
    spec = SteeringSpec(method="sttp", layer=1, alpha=5.0)
    rows = [live_row(tiny.scenarios[0], None), live_row(tiny.scenarios[1], spec)]
    session = LiveSession(tiny.load, rows)
    with pytest.raises(LiveError, match="still going on"):
        session.layer_projections()
    found = finished(session)
    frames = session.layer_projections()
    assert [label for label, _ in frames] == [row.label for row in rows]
    for place, (_, frame) in enumerate(frames):
        assert list(frame.columns) == PROJECTION_SCHEMA.names
        table = found.tables[place].to_pandas()
        for layer in tiny.probes.layers:
            mine = frame[frame["layer"] == layer]
            for name in ("pos", "token", "segment"):
                assert mine[name].tolist() == table[name].tolist()
        # As it leaves the layer: what the trace calls after.
        read = frame[frame["layer"] == 1]["projection"]
        np.testing.assert_allclose(read, table["projection_after"], atol=1e-4, rtol=1e-4)
    frame: pd.DataFrame = frames[1][1]
    plain = LiveSession(tiny.load, [replace(rows[1], spec=None)])
    finished(plain)
    unsteered = plain.layer_projections()[0][1]
    n = len(tiny.study.lm.tokenize(rows[1].prompt))
    for layer, alike in ((0, True), (1, False), (2, False)):
        a, b = (f[f["layer"] == layer]["projection"].to_numpy()[:n] for f in (frame, unsteered))
        assert np.allclose(a, b, atol=1e-4) is alike  # the edit is seen from its layer on


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": Prompt.chat("what is " * 60)}, r"prompt 0 has .* the model's context is 96"),
        ({"read_layer": 7}, r"expected a layer with a probe \(0, 1, 2\), got layer 7"),
        ({"prompt": Prompt.chat("who <|end|>")}, r"special token '<\|end\|>' as text"),
    ],
)
def test_what_cannot_be_generated_is_said(tiny: Stored, changes: dict, said: str) -> None:
    session = LiveSession(tiny.load, [live_row(tiny.scenarios[0], None, **changes)])
    found = finished(session)
    assert found.state == "failed"
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(found.error)
    assert found.n_tokens == (0,)
    assert finished(LiveSession(tiny.load, [live_row(tiny.scenarios[0], None)])).state == "done"


def test_a_tokenizer_without_chat_template(tiny: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny.study.lm.tokenizer, "chat_template", None)
    found = finished(LiveSession(tiny.load, [live_row(tiny.scenarios[0], None)]))
    assert found.state == "failed"
    assert "chat template" in str(found.error)


def test_a_limit_of_nothing_is_refused_and_so_are_no_rows(tiny: Stored) -> None:
    rows = [live_row(tiny.scenarios[0], None)]
    found = finished(LiveSession(tiny.load, rows, max_new_tokens=0))
    assert (found.state, found.error) == ("failed", "max_new_tokens must be at least 1, got 0")
    with pytest.raises(LiveError, match="at least one row"):
        LiveSession(tiny.load, [])


def test_a_failure_half_way_keeps_what_was_there(
    tiny: Stored, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_resid: torch.Tensor, chunk: TokenChunk) -> None:
        if int(chunk.response_index.max()) >= 3:
            raise RuntimeError("the device is gone")

    rows = [live_row(tiny.scenarios[0], None)]
    whole = finished(LiveSession(tiny.load, rows))
    with tiny.study.lm.hooks({2: fail}):
        found = finished(LiveSession(tiny.load, rows))
    assert (found.state, found.error) == ("failed", "RuntimeError: the device is gone")
    assert "a live generation failed" in caplog.text
    n = found.tables[0].num_rows
    assert found.n_tokens == (4,)
    assert n == len(tiny.study.lm.tokenize(rows[0].prompt)) + 3
    assert found.tables[0].equals(whole.tables[0].slice(0, n))


# --- several --------------------------------------------------------------------------------------


def test_sessions_take_turns_and_do_not_mix(tiny: Stored, brake: Brake) -> None:
    loads: list[int] = []

    def load() -> tuple[Study, ProbeSet]:
        loads.append(1)
        return tiny.load()

    sessions = LiveSessions(load)
    assert loads == []  # nothing is loaded before it is needed
    spec = SteeringSpec(method="swfc", layer=1, alpha=3.0)
    asked = [
        [live_row(tiny.scenarios[0], None), live_row(tiny.scenarios[1], spec)],
        [live_row(tiny.scenarios[2], spec)],
        [live_row(tiny.scenarios[3], None)],
    ]
    ids = [sessions.start(rows) for rows in asked]
    assert len(set(ids)) == 3
    brake.wait()
    states = [sessions.get(live_id).snapshot().state for live_id in ids]
    assert states == ["running", "waiting", "waiting"]
    sessions.get(ids[1]).stop()  # gives up its place at once, while the first still runs
    assert sessions.get(ids[1]).wait(LONG)
    assert sessions.get(ids[0]).snapshot().state == "running"
    again = sessions.start(asked[1])
    brake.release()
    for live_id in (*ids, again):
        assert sessions.get(live_id).wait(LONG)
    assert loads == [1]
    found = [sessions.get(live_id).snapshot() for live_id in (ids[0], again, ids[2])]
    for snapshot, rows in zip(found, asked, strict=True):
        alone = finished(LiveSession(tiny.load, rows))
        assert snapshot.state == "done"
        assert snapshot.texts == alone.texts
        assert all(a.equals(b) for a, b in zip(snapshot.tables, alone.tables, strict=True))
    assert len({text for snapshot in found for text in snapshot.texts}) == 4


def test_old_sessions_make_room_and_unknown_ones_are_refused(tiny: Stored, brake: Brake) -> None:
    sessions = LiveSessions(tiny.load, limit=2)
    rows = [live_row(tiny.scenarios[0], None)]
    running = sessions.start(rows)
    brake.wait()
    stopped = sessions.start(rows)
    with pytest.raises(LiveError, match=r"2 generations are waiting or running already.*stop one"):
        sessions.start(rows)
    sessions.get(stopped).stop()
    assert sessions.get(stopped).wait(LONG)
    last = sessions.start(rows)  # the finished one goes, though it is not the oldest
    assert sessions.get(running).snapshot().state == "running"
    with pytest.raises(LiveError, match=rf"no live generation '{stopped}': the last 2 are kept"):
        sessions.get(stopped)
    with pytest.raises(LiveError, match="no live generation 'x'"):
        sessions.get("x")
    brake.release()
    sessions.close(LONG)
    assert {sessions.get(i).snapshot().state for i in (running, last)} <= {"stopped", "done"}
    assert sessions.get(running).is_over and sessions.get(last).is_over


def test_a_model_that_does_not_load_is_said_and_tried_again(tiny: Stored) -> None:
    answers: list[Any] = [RunError("the model has moved"), ZeroDivisionError("oh"), None]

    def load() -> tuple[Study, ProbeSet]:
        error = answers.pop(0)
        if error is not None:
            raise error
        return tiny.load()

    sessions = LiveSessions(load)
    found = []
    for _ in range(4):
        session = sessions.get(sessions.start([live_row(tiny.scenarios[0], None)]))
        assert session.wait(LONG)
        found.append(session.snapshot())
    assert [snapshot.state for snapshot in found] == ["failed", "failed", "done", "done"]
    assert [s.error for s in found[:2]] == ["the model has moved", "ZeroDivisionError: oh"]
    assert answers == []


def test_turns_are_in_the_order_of_asking() -> None:
    turns, order = Turns(), list[int]()
    first = threading.Event()
    turns.join(first)
    assert turns.wait(first)
    tickets = [threading.Event() for _ in range(5)]

    def take(place: int) -> None:
        if turns.wait(tickets[place]):
            order.append(place)
        turns.leave(tickets[place])

    for ticket in tickets:
        turns.join(ticket)
    threads = [threading.Thread(target=take, args=(place,)) for place in (4, 2, 0, 1, 3)]
    for thread in threads:
        thread.start()
    assert not turns.wait(tickets[0], timeout=0.01)  # not as long as the first one has it
    turns.give_up(tickets[3])
    turns.leave(first)
    for thread in threads:
        thread.join(LONG)
    assert order == [0, 1, 2, 4]
