"""The arithmetic and the files of the benchmarks; never how long anything takes."""

import json
import re
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as command
from benchmarks import (
    capture,
    capture_memory,
    explorer,
    fitting,
    generation,
    hook_time,
    hooks,
    pages,
    peer_packages,
)
from benchmarks import sweep as sweep_benchmark
from benchmarks.generation import batches
from benchmarks.peers import PlainModel
from benchmarks.ratios import (
    KEYS,
    BenchmarkError,
    Options,
    Ratio,
    at_least,
    at_most,
    interleaved,
    measured,
    paired_ratio,
    problems,
    slug,
)
from benchmarks.synthetic_run import TINY, write_run
from benchmarks.workloads import Workload, bundled, in_turn
from interp_steer.cells import steered_cell
from interp_steer.errors import RunError
from interp_steer.explorer import boundary_view
from interp_steer.fit_stage import read_responses
from interp_steer.layer_hooks import LayerHook
from interp_steer.logistic import fit_logistic
from interp_steer.run_figures import draw_figures
from interp_steer.runs import Run
from interp_steer.sweep import finished_keys, read_rows
from interp_steer.sweep_rows import SWEEP_SCHEMA
from interp_steer.trace_files import list_samples, read_traces

RATES = st.lists(st.floats(0.1, 1000.0), min_size=1, max_size=12)


def ratio(claim: str = "sweep_vs_loop", value: float = 3.0, **changes: object) -> Ratio:
    paired = paired_ratio([value, value], [1.0, 1.0])
    found = measured(claim, "a case", paired, device="cpu", goal=at_least(2.5))
    return replace(found, **changes)


class TestPairedRatio:
    @given(RATES)
    def test_is_the_median_of_the_ratios_within_its_interval(self, ours: list[float]) -> None:
        theirs = [2.0 + place for place in range(len(ours))]
        found = paired_ratio(ours, theirs)
        pairs = [a / b for a, b in zip(ours, theirs, strict=True)]
        assert found.median == pytest.approx(statistics.median(pairs))
        low, high = found.interval
        assert min(pairs) <= low <= found.median * (1 + 1e-12)
        assert found.median * (1 - 1e-12) <= high <= max(pairs) * (1 + 1e-12)
        assert found.runs == len(ours)

    @given(RATES, st.floats(0.5, 20.0))
    def test_what_slows_both_of_a_pair_changes_nothing(
        self, ours: list[float], slowdown: float
    ) -> None:
        theirs = [3.0] * len(ours)
        slowed = [a / slowdown if place % 2 else a for place, a in enumerate(ours)]
        beside = [b / slowdown if place % 2 else b for place, b in enumerate(theirs)]
        alone, together = paired_ratio(ours, theirs), paired_ratio(slowed, beside)
        assert together.median == pytest.approx(alone.median)
        assert together.interval == pytest.approx(alone.interval)

    def test_is_not_the_ratio_of_medians(self) -> None:
        """Machine load rises in the runs: pairs agree on 2, the medians taken apart say 20."""
        assert paired_ratio([200.0, 20.0, 2.0], [100.0, 10.0, 1.0]).median == 2.0
        assert paired_ratio([200.0, 200.0, 2.0], [100.0, 10.0, 1.0]).median == 2.0

    def test_runs_that_agree_have_a_narrow_interval_and_others_a_wide_one(self) -> None:
        assert paired_ratio([2.0] * 5, [1.0] * 5).interval == (2.0, 2.0)
        low, high = paired_ratio([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5).interval
        assert low == 1.0
        assert high == 5.0

    @pytest.mark.parametrize(
        ("ours", "theirs", "said"),
        [
            ([], [], "at least one, got 0 and 0"),
            ([1.0], [1.0, 2.0], "got 1 and 2"),
            ([1.0], [0.0], "positive number, got 0.0"),
            ([float("nan")], [1.0], "positive number, got nan"),
        ],
    )
    def test_what_is_no_pair_is_refused(
        self, ours: list[float], theirs: list[float], said: str
    ) -> None:
        with pytest.raises(BenchmarkError, match=said):
            paired_ratio(ours, theirs)


def test_contestants_take_turns_and_rates_are_units_a_second() -> None:
    now, order = [0.0], []

    def contestant(name: str, seconds: float, units: float) -> float:
        order.append(name)
        now[0] += seconds
        return units

    rates = interleaved(
        {"a": lambda: contestant("a", 2.0, 10.0), "b": lambda: contestant("b", 4.0, 10.0)},
        runs=3,
        clock=lambda: now[0],
    )
    assert "".join(order) == "abbaab"
    assert rates == {"a": [5.0] * 3, "b": [2.5] * 3}


def test_short_turns_are_repeated_until_the_time_is_spent() -> None:
    now = [0.0]

    def contestant() -> float:
        now[0] += 2.0
        return 10.0

    def of(runs: int, seconds: float) -> int:
        both = {"a": contestant, "b": contestant}
        rates = interleaved(both, runs=runs, seconds=seconds, clock=lambda: now[0])
        assert rates["a"] == rates["b"] == [5.0] * len(rates["a"])
        return len(rates["a"])

    assert [of(2, 0.0), of(2, 8.0), of(2, 9.0), of(2, 41.0)] == [2, 2, 3, 11]


class TestRecords:
    def test_a_record_has_the_documented_keys_and_fits(self) -> None:
        record = json.loads(json.dumps(ratio().as_record()))
        assert tuple(record) == KEYS
        assert set(KEYS) == {
            "claim", "case", "ratio", "interval", "goal", "holds", "runs", "device", "versions",
        }  # fmt: skip
        assert record["goal"] == ">= 2.5x"
        assert record["holds"] is True
        assert {"python", "torch"} <= set(record["versions"])
        assert list(problems([record])) == []

    def test_a_goal_is_missed_by_the_median_and_absent_without_one(self) -> None:
        assert ratio(value=2.4).holds is False
        no_goal = measured("x", "y", paired_ratio([9.0], [1.0]), device="cpu")
        assert (no_goal.goal, no_goal.holds) == (None, None)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"ratio": float("nan")}, "must be positive numbers"),
            ({"ratio": None}, "must be positive numbers"),
            ({"interval": [1.0]}, r"interval must be \[low, high\]"),
            ({"holds": None}, "holds must be null exactly where goal is"),
            ({"goal": None}, "holds must be null exactly where goal is"),
            ({"runs": 0}, "runs must be a number from 1"),
            ({"more": 1}, "expected the keys"),
        ],
    )
    def test_a_broken_record_is_named(self, change: dict, said: str) -> None:
        wrong = list(problems([ratio().as_record(), ratio().as_record() | change]))
        assert len(wrong) == 1
        assert re.match(f"record 1: .*{said}", wrong[0])

    def test_a_file_that_is_no_list_is_named(self) -> None:
        assert list(problems({"claim": "x"})) == ["expected a list of records, got dict"]

    def test_every_result_in_the_repository_fits(self) -> None:
        for path in command.RESULTS.glob("*.json"):
            assert list(problems(json.loads(path.read_text(encoding="utf-8")))) == [], path.name


class TestResultFiles:
    def test_measuring_a_claim_again_replaces_its_lines_and_keeps_others(
        self, tmp_path: Path
    ) -> None:
        day = "2026-01-31"
        path = command.write_results(tmp_path, [ratio("a"), ratio("b")], "cpu", day)
        assert path.name.startswith(f"{day}-")
        command.write_results(tmp_path, [ratio("b", 5.0), ratio("b", 6.0)], "cpu", day)
        written = json.loads(path.read_text(encoding="utf-8"))
        assert [(r["claim"], r["ratio"]) for r in written] == [("a", 3.0), ("b", 5.0), ("b", 6.0)]
        assert [p.name for p in tmp_path.iterdir()] == [path.name]

    def test_measuring_some_cases_again_keeps_the_others(self, tmp_path: Path) -> None:
        day = "2026-01-31"
        one, other = ratio("a"), replace(ratio("a"), case="another case")
        path = command.write_results(tmp_path, [one, other], "cpu", day)
        again = replace(one, ratio=5.0)
        command.write_results(tmp_path, [again], "cpu", day, is_partial=True)
        written = json.loads(path.read_text(encoding="utf-8"))
        assert [(r["case"], r["ratio"]) for r in written] == [("another case", 3.0), (one.case, 5)]

    def test_a_damaged_file_is_not_overwritten(self, tmp_path: Path) -> None:
        path = command.write_results(tmp_path, [ratio()], "cpu", "2026-01-31")
        path.write_text("[{", encoding="utf-8")
        with pytest.raises(RunError, match="damaged"):
            command.write_results(tmp_path, [ratio()], "cpu", "2026-01-31")
        assert path.read_text(encoding="utf-8") == "[{"

    def test_what_does_not_fit_is_not_written(self, tmp_path: Path) -> None:
        with pytest.raises(BenchmarkError, match="runs must be"):
            command.write_results(tmp_path, [ratio(runs=0)], "cpu")
        assert list(tmp_path.iterdir()) == []

    def test_a_device_becomes_part_of_a_file_name(self) -> None:
        assert slug("AMD EPYC (TM), 2 cores") == "amd-epyc-tm-2-cores"


class TestCommand:
    def test_some_models_and_batches_are_chosen(self) -> None:
        options = Options(quick=True, models=("random",), batches=(16,))
        assert batches(options) == (16,)
        assert batches(Options()) == (1, 16, 128)
        names = [work.name for work, _ in in_turn(options)]
        assert len(names) == 1 and names[0].startswith("random weights")

    @pytest.mark.parametrize("names", [[], ["sweep"], ["generation", "sweep"]])
    def test_cases_of_a_script_without_any_are_refused(self, names: list[str]) -> None:
        with pytest.raises(BenchmarkError, match="choose among the cases of generation, "):
            command.chosen(names, is_partial=True)
        assert [one.__name__ for one in command.chosen(["hooks"], is_partial=True)]

    def test_the_table_has_one_line_a_ratio(self) -> None:
        lines = command.table([ratio(), ratio("sweep_vs_single", 2.0)]).splitlines()
        assert lines[0].startswith("device: ")
        assert lines[1].split()[:2] == ["claim", "ratio"]
        assert [lines[2].split()[i] for i in (1, 6)] == ["3.00", "yes"]
        assert [lines[3].split()[i] for i in (1, 6)] == ["2.00", "no"]

    def test_scripts_are_found_by_their_function(self) -> None:
        found = dict(command.scripts())
        assert "sweep" in found
        assert "ratios" not in found

    def test_an_unknown_script_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert command.main(["sweeep"]) == 1
        assert "no benchmark sweeep; there are" in capsys.readouterr().err


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    return bundled(tmp_path_factory.mktemp("bench"), Options(quick=True))


class TestSweepBenchmark:
    """The contestants do the same work; a difference is seen before anything is timed."""

    def test_the_plain_hook_makes_the_same_edits(self, work: Workload) -> None:
        assert sweep_benchmark.check_same_edits(work) == 1.0

    @pytest.mark.parametrize("broken", ["no edit", "other scope"])
    def test_another_edit_is_refused(
        self, work: Workload, broken: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steered = PlainModel.steered

        def other(self, cell, probe):
            if broken == "other scope":
                turned = {"all": "response", "response": "all"}[cell.scope]
                return steered(self, replace(cell, scope=turned), probe)
            return steered(self, cell, replace(probe, boundary=-1e9))

        monkeypatch.setattr(PlainModel, "steered", other)
        with pytest.raises(BenchmarkError, match="the two do not do the same"):
            sweep_benchmark.check_same_edits(work)

    @pytest.mark.slow
    def test_equal_lengths_are_equal_and_natural_ones_end(self, work: Workload) -> None:
        contest = sweep_benchmark.Contest(work=work, settings=work.study.settings, stops=False)
        for name in ("packed", "loop", "single"):
            sweep_benchmark.check_lengths(name, getattr(contest, name)(), contest)
        before = work.study.lm.stop_ids
        long = replace(contest, stops=True, settings=replace(contest.settings, max_new_tokens=60))
        for made in (long.packed(), long.loop()):
            lengths = [len(ids) for ids in made.values()]
            assert len(lengths) == work.n_rows
            assert min(lengths) < 60
        with pytest.raises(BenchmarkError, match="was to make 16 rows of 60 tokens"):
            sweep_benchmark.check_lengths("loop", made, long)
        assert work.study.lm.stop_ids == before

    def test_the_single_rows_are_rows_of_the_same_work(self, work: Workload) -> None:
        contest = sweep_benchmark.Contest(work=work, settings=work.study.settings, stops=False)
        made = contest.single()
        assert len(made) == work.size.n_single
        assert set(made) <= set(contest.loop())

    def test_a_plain_hook_is_gone_afterwards(self, work: Workload) -> None:
        probe = work.probes.probe(work.cells[0].layer or 0)
        with pytest.raises(KeyError), work.plain.steered(work.cells[0], probe):
            raise KeyError
        assert not any(module._forward_hooks for module in work.plain.model.model.layers)


class TestHookTime:
    def test_what_a_hook_takes_is_counted_and_nothing_else(
        self, work: Workload, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A hook of ten hours, by a clock that only it moves, in a run of one second besides."""
        now = [0.0]
        monkeypatch.setattr(hook_time.time, "perf_counter", lambda: now[0])
        batch = generation.Batch(work=work, n_rows=2, settings=work.study.settings)
        calls = []
        steered = LayerHook._steer

        def slow(self, *args):
            now[0] += 36_000.0
            calls.append(args)
            return steered(self, *args)

        def run() -> float:
            now[0] += 1.0
            return batch.ours("swfc", 2.0)

        before = LayerHook.__call__
        monkeypatch.setattr(LayerHook, "_steer", slow)
        spent = hook_time.Spent()
        spent.timed(run)
        assert spent.hooks == [36_000.0 * len(calls)]
        assert spent.whole == [36_000.0 * len(calls) + 1.0]
        assert spent.ratio().median == spent.whole[0]
        assert len(calls) == work.study.settings.max_new_tokens
        assert LayerHook.__call__ is before

    def test_an_unsteered_run_is_refused(self, work: Workload) -> None:
        batch = generation.Batch(work=work, n_rows=2, settings=work.study.settings)
        with pytest.raises(BenchmarkError, match="no hook was called"):
            hook_time.Spent().timed(batch.ours)


@pytest.mark.slow
class TestSyntheticRun:
    def test_the_same_seed_writes_the_same_artifacts(self, tmp_path: Path) -> None:
        runs = [write_run(tmp_path / name, replace(TINY, seed=seed)) for name, seed in SEEDS]
        first, again, other = ({p: _content(run, p) for p in _artifacts(run)} for run in runs)
        assert set(first) == set(again)
        assert {"residuals.safetensors", "sweep/part-00002.parquet", "probes.json"} <= set(first)
        assert [place for place in first if first[place] != again[place]] == []
        assert all(other.get(p) != first[p] for p in first if not p.startswith("tables"))

    def test_it_is_a_run_that_every_reader_takes(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", TINY)
        rows = read_rows(run).to_pylist()
        assert read_rows(run).schema == SWEEP_SCHEMA
        assert len(finished_keys(run)) == len(rows) == 10 * (2 + 3 * 14 * 2)
        assert all(len(row["token_ids"]) == row["n_tokens"] > 20 for row in rows)
        responses, tokens = read_responses(run).to_pandas(), pd.read_parquet(run.projections_file)
        spelled = tokens[(tokens["segment"] == "response") & (tokens["layer"] == 0)]
        lengths = spelled.groupby(["scenario", "side"]).size()
        stored = responses.set_index(["scenario", "side"])["token_ids"].map(len)
        assert lengths.sort_index().tolist() == stored.sort_index().tolist()
        assert len(tokens) == pytest.approx(TINY.token_rows, rel=0.2)
        for path in run.traces_folder.glob("*.parquet"):
            trace = read_traces(path).to_pandas()
            moved = trace["projection_after"] != trace["projection_before"]
            assert (moved == trace["fired"]).all()
            assert (trace["fired"] <= trace["in_scope"]).all() and trace["fired"].any()
        missing = {one.name for one in draw_figures(run, static=False).left_out}
        suites = {"capabilities", "multi_turn", "cross_trait", "cost"}
        assert missing <= {*suites, "causal_scan", "elo", "steering_duration"}

    def test_more_trace_rows_are_more_samples(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", replace(TINY, trace_rows=1500))
        for path in run.traces_folder.glob("*.parquet"):
            samples = list_samples(path).to_pandas()
            assert 1500 <= samples["n_tokens"].sum() < 2000
            assert samples["sample"].is_unique and len(samples) > 10


SEEDS = (("a", 0), ("b", 0), ("c", 1))


def _artifacts(run: Run) -> list[str]:
    """All files of a run but the manifest, which names its folder, and the lock."""
    every = [path.relative_to(run.path).as_posix() for path in run.path.rglob("*.*")]
    return [p for p in every if p not in ("manifest.json", ".lock") and (run.path / p).is_file()]


def _content(run: Run, place: str) -> bytes:
    content = (run.path / place).read_bytes()
    if not place.endswith(".safetensors"):
        return content
    # safetensors writes the entries of its header's metadata in any order.
    end = 8 + int.from_bytes(content[:8], "little")
    return json.dumps(json.loads(content[8:end]), sort_keys=True).encode() + content[end:]


STUB = '''
import http.server
PAGE = b"""<div id="view"></div><script>setTimeout(() => {
    document.getElementById("view").innerHTML =
        '<div class="js-plotly-plot"><svg><g class="NAME"></g></svg></div>'
}, 400)</script>"""
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(PAGE)
    def log_message(self, *arguments): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Page)
print(f"stub at http://127.0.0.1:{server.server_port}/", flush=True)
server.serve_forever()
'''


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[str]]:
    """A module that serves a page whose figure of class NAME comes after 0.4 seconds."""

    def written(name: str) -> tuple[str]:
        (tmp_path / f"stub_{name}.py").write_text(STUB.replace("NAME", name), encoding="utf-8")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return (f"stub_{name}",)

    return written


@pytest.mark.slow
class TestExplorerBenchmark:
    def test_a_limit_is_kept_by_the_median_and_named(self) -> None:
        options = Options(runs=3)
        kept = explorer.within("paint", "a run", [1.0, 9.0, 0.5], limit=2.0, options=options)
        assert (kept.ratio, kept.holds, kept.goal) == (2.0, True, "< 2 s")
        assert kept.case == "a run; limit 2 s"
        assert not explorer.within("p", "r", [2.1], limit=2.0, options=options).holds
        free = explorer.within("p", "r", [2.1], limit=2.0, options=options, is_goal=False)
        assert (free.goal, free.holds) == (None, None)

    def test_the_clock_runs_from_navigation_to_the_figure(self, stub: Callable) -> None:
        if (why := pages.missing_browser()) is not None:
            pytest.skip(why)
        with pages.chromium() as browser:
            taken = pages.first_paint(browser, stub("trace"))
        assert 0.4 <= taken < 30

    def test_a_page_without_a_figure_is_refused(
        self, stub: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if (why := pages.missing_browser()) is not None:
            pytest.skip(why)
        monkeypatch.setattr(pages, "PATIENCE_MS", 3000)
        with (
            pages.chromium() as browser,
            pytest.raises(BenchmarkError, match="stub_other shows no figure"),
        ):
            pages.first_paint(browser, stub("other"))

    def test_a_server_that_does_not_start_is_refused_with_its_words(self) -> None:
        with (
            pytest.raises(BenchmarkError, match="no_such_module does not start: .*no_such_module"),
            pages.serving(["no_such_module"]),
        ):
            pass

    def test_without_a_browser_the_paints_are_left_out_and_said_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(pages, "BROWSERS", ("no-such-browser",))
        assert list(explorer._paints(tmp_path, Options(quick=True))) == []
        assert "none of no-such-browser is installed" in caplog.text

    def test_a_drag_asks_for_another_threshold_each_time(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", TINY)
        drag, asked = explorer.opened(run.path), []
        assert drag.seconds(lambda _view, selection: asked.append(selection)) > 0
        assert len({one.threshold for one in asked}) == len(asked) == explorer.N_DRAGS
        shares = [
            boundary_view.answer(drag.view, one).numbers["malicious tokens (training, unsteered)"]
            for one in asked
        ]
        assert shares[0].fired < shares[-1].fired


class TestGenerationAndCapture:
    """That the contestants do the same work, and that another's is noticed."""

    def test_an_overhead_holds_where_it_is_small(self) -> None:
        slower = measured("x", "y", paired_ratio([1.04], [1.0]), device="cpu", goal=at_most(1.05))
        assert slower.holds and slower.goal == "<= 1.05x"
        slowest = measured("x", "y", paired_ratio([1.06], [1.0]), device="cpu", goal=at_most(1.05))
        assert slowest.holds is False

    def test_other_tokens_than_hugging_faces_are_refused(
        self, work: Workload, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batch = generation.Batch(work=work, n_rows=3, settings=work.study.settings)
        assert generation.check_same_tokens(batch) == 1.0
        assert batch.ours("sttp", 12.0, traced=True) == batch.plain() == 3 * 6
        monkeypatch.setattr(work.plain.model.model.layers[0], "forward", lambda h, **_: h)
        with pytest.raises(BenchmarkError, match="agree with plain Hugging Face's in"):
            generation.check_same_tokens(batch)

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", hooks.STEERED)
    def test_hooks_written_by_hand_do_the_same_or_are_refused(
        self, work: Workload, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        method, alpha = hooks.STEERED[kind]
        steered = hooks.Steered(
            work=work,
            cell=steered_cell(method=method, layer=4, alpha=alpha, scope="all"),
            scenarios=hooks.of_one_length(work, 5),
            settings=work.study.settings,
            peers={},
        )
        assert hooks.check_same_tokens(steered) > 0.95
        assert {len(row) for row in steered.transformer_lens()} == {6}
        monkeypatch.setattr(hooks, "plain_edit", lambda *_args, **_options: lambda h: h)
        with pytest.raises(BenchmarkError, match="agree with plain Hugging Face's in"):
            hooks.check_same_tokens(steered)

    @pytest.mark.slow
    @pytest.mark.skipif(not peer_packages.PYTHON.is_file(), reason="needs make peers")
    @pytest.mark.parametrize("kind", hooks.STEERED)
    def test_other_packages_do_the_same_or_are_refused(self, work: Workload, kind: str) -> None:
        method, alpha = hooks.STEERED[kind]
        with peer_packages.peer_processes(work.model) as peers:
            steered = hooks.Steered(
                work=work,
                cell=steered_cell(method=method, layer=4, alpha=alpha, scope="all"),
                scenarios=hooks.of_one_length(work, 5),
                settings=work.study.settings,
                peers=peers,
            )
            assert hooks.check_same_tokens(steered) > 0.95
            for peer in peers.values():
                with pytest.raises(BenchmarkError, match=f"{peer.package} ended at 'unheard'"):
                    peer.ask("unheard")

    def test_packages_that_are_not_installed_are_asked_for(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(peer_packages, "PYTHON", tmp_path / "python")
        with (
            pytest.raises(BenchmarkError, match="make peers"),
            peer_packages.peer_processes(tmp_path),
        ):
            pass

    @pytest.mark.slow
    def test_every_way_of_capturing_finds_means_and_others_are_refused(
        self, work: Workload, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        few = capture.Capture.of(work, 3, work.study.settings)
        assert capture.check_same_means(few) < 1e-4
        lm = work.study.lm
        assert few.returned().shape == few.pooled().shape == (3, lm.n_layers, lm.d_model)
        assert bool(few.returned().isfinite().all())
        found = capture.Capture.cached
        monkeypatch.setattr(capture.Capture, "cached", lambda self: found(self).roll(1, dims=1))
        with pytest.raises(BenchmarkError, match="differ from run_with_cache's by"):
            capture.check_same_means(few)

    @pytest.mark.slow
    def test_peaks_are_of_a_process_of_their_own(self, work: Workload) -> None:
        plain, cached = (capture_memory._peak(work, way, 60, 24) for way in ("plain", "cached"))
        # Residuals of at least 60 x 24 tokens at 8 layers of 128 floats stand in memory.
        assert cached["peak_bytes"] - plain["peak_bytes"] > 60 * 24 * 8 * 128 * 4
        with pytest.raises(BenchmarkError, match="unheard of of bundled model failed"):
            capture_memory._peak(work, "unheard of", 1, 1)


class TestFitting:
    layer = fitting.Layer.made(n_per_class=8, d_model=40, seed=1)
    samples = layer.samples(1)
    exact = layer.ours(samples)

    def loop(self, given: str = "in the span", **changes: Any) -> fitting.Loop:
        loop = fitting.Loop(layer=self.layer, samples=self.samples, exact=self.exact, given=given)
        return replace(loop, **changes)

    def test_fits_are_the_probe_bootstraps_and_shuffles_each_at_its_optimum(self) -> None:
        counts, labels = self.samples.counts, self.samples.is_aligned
        n_boot, n_shuffle = fitting.N_BOOTSTRAPS, fitting.N_SHUFFLES
        assert len(counts) == 1 + n_boot + n_shuffle
        assert (counts.sum(axis=1) == 16).all()
        assert (counts[[0, *range(-n_shuffle, 0)]] == 1).all()
        assert (counts[1 : 1 + n_boot] == 0).any(axis=1).all()
        assert (labels[: 1 + n_boot] == self.layer.is_aligned).all()
        assert (labels[-n_shuffle:].sum(axis=1) == 8).all()
        for place in (0, 7, 250):
            drawn = self.samples.drawn(place)
            one = fit_logistic(self.layer.rows[drawn], self.samples.labels(place))
            assert self.exact.weights[place] == pytest.approx(one.weights, abs=1e-12)
            assert self.exact.intercepts[place] == pytest.approx(one.intercept, abs=1e-10)

    @pytest.mark.parametrize("loop", fitting.LOOPS)
    def test_a_loop_is_as_long_as_its_timed_fits_say(
        self, loop: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert 0 < self.loop(loop).seconds([0, 7, 250]) < 60
        monkeypatch.setattr(fitting.Loop, "_fit", lambda _loop, _span, place: float(place))
        assert self.loop(loop).seconds([1, 3]) == pytest.approx(2 * 251, abs=1)

    def test_another_objective_and_a_bad_optimum_are_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loop = self.loop()
        best = self.exact.weights[0], float(self.exact.intercepts[0])
        assert loop.distance(0, *best) == 0
        assert loop.distance(0, best[0], best[1] + 0.1) > 1e-4
        monkeypatch.setattr(fitting, "TOLERANCES", (0.5,))
        with pytest.raises(BenchmarkError, match="from the optimum, expected at most 1e-08"):
            loop.seconds([0])
        wrong = replace(self.exact, intercepts=self.exact.intercepts + 0.1)
        with pytest.raises(BenchmarkError, match="fit 0 has not reached its optimum"):
            self.loop(exact=wrong).distance(0, *best)


def test_the_interval_does_not_depend_on_torch_state() -> None:
    torch.manual_seed(1)
    one = paired_ratio([1.0, 2.0, 4.0], [1.0, 1.0, 1.0])
    torch.manual_seed(2)
    assert one == paired_ratio([1.0, 2.0, 4.0], [1.0, 1.0, 1.0])
