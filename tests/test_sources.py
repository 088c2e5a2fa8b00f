"""What figures and the explorer read of a run: little, late, once, and again when it has changed.

The run is a synthetic one of three layers: shards, layouts and files are those of a real run.
"""

import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.synthetic_run import TINY, write_run
from interp_steer.analysis.bootstrap import mean_columns, named_groups
from interp_steer.analysis.run_rows import steered_rows, sweep_frame
from interp_steer.errors import RunError, SteeringError
from interp_steer.measures import MEASURE_COLUMNS
from interp_steer.plots import freshness, swept, traced
from interp_steer.plots.figure_files import FigureError, MissingStageError
from interp_steer.plots.freshness import Kept, fingerprint
from interp_steer.plots.from_sweep import layer_measures, layer_sweep
from interp_steer.plots.sources import RunSource
from interp_steer.plots.swept import TEXT_COLUMNS
from interp_steer.projection_files import PROJECTION_SCHEMA, write_projections
from interp_steer.residuals import load_pooled
from interp_steer.runs import Run
from interp_steer.trace_files import SAMPLE_KEY, TRACE_SCHEMA, read_traces, write_traces


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run; not to be written into."""
    shape = replace(TINY, trace_rows=500)  # several samples a file
    return write_run(tmp_path_factory.mktemp("sources") / "run", shape)


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Run:
    """A copy of it."""
    return Run(shutil.copytree(made.path, tmp_path / "run"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, tuple[str, ...]]]]:
    """Shards and trace files that are opened from here on: name and columns."""
    seen: list[tuple[str, tuple[str, ...]]] = []

    def noting(function):
        def noted(path, *arguments, **options):
            seen.append((path.name, tuple(arguments[0]) if arguments else ()))
            return function(path, *arguments, **options)

        return noted

    monkeypatch.setattr(swept, "read_shard", noting(swept.read_shard))
    for name in ("read_traces", "list_samples", "list_tokens"):
        monkeypatch.setattr(traced, name, noting(getattr(traced, name)))
    return seen


class TestFingerprint:
    def test_whatever_appears_goes_or_is_written_anew_changes_it(self, run: Run) -> None:
        found = [fingerprint(run)]
        assert fingerprint(run) == found[0]
        for change in (
            lambda: run.append_shard(pq.read_table(run.shards()[0]).slice(0, 1)),
            lambda: shutil.copy(run.responses_file, run.analyses_folder / "x.parquet"),
            lambda: next(run.traces_folder.glob("*.parquet")).unlink(),
            lambda: run.operating_points_file.write_bytes(b"{}"),
            lambda: run.pin({}, note="the same size, or another"),
        ):
            run.analyses_folder.mkdir(exist_ok=True)
            change()
            found.append(fingerprint(run))
        assert len(set(found)) == len(found)

    def test_a_file_of_the_same_size_written_at_once_changes_it(self, run: Run) -> None:
        before, content = fingerprint(run), run.operating_points_file.read_bytes()
        copy = run.path / "copy.json"
        copy.write_bytes(content[::-1])
        copy.replace(run.operating_points_file)
        assert fingerprint(run) != before

    def test_figures_and_files_that_are_being_written_are_no_part_of_it(self, run: Run) -> None:
        before = fingerprint(run)
        run.figures_folder.mkdir(exist_ok=True)
        (run.figures_folder / "a.json").write_text("{}", encoding="utf-8")
        (run.sweep_folder / ".part-00009.parquet.ab.tmp").write_bytes(b"half")
        (run.sweep_folder / ".part-00009.parquet").write_bytes(b"hidden")
        assert fingerprint(run) == before

    def test_a_run_without_a_folder_has_one_too(self, tmp_path: Path) -> None:
        assert fingerprint(Run(tmp_path / "nowhere")) == fingerprint(Run(tmp_path / "else"))


class TestKept:
    def test_a_value_is_made_once_for_each_stamp(self) -> None:
        kept, made = Kept(), []

        def get(stamp: int) -> list[int]:
            return kept.get("name", stamp, lambda: made.append(stamp) or [stamp])

        assert get(1) is get(1)
        assert get(2) == [2]
        assert made == [1, 2]

    def test_the_least_used_one_goes_first(self) -> None:
        kept = Kept(most=2)
        for name in ("a", "b", "a", "c"):
            kept.get(name, 0, lambda: object())
        assert len(kept) == 2
        assert kept.get("a", 0, lambda: None) is not None
        assert kept.get("b", 0, lambda: None) is None

    def test_what_fails_is_not_kept(self) -> None:
        kept = Kept()
        with pytest.raises(ZeroDivisionError):
            kept.get("a", 0, lambda: 1 // 0)
        assert kept.get("a", 0, lambda: 7) == 7

    def test_threads_wait_for_the_one_that_makes_it(self) -> None:
        kept, made = Kept(), []

        def slowly() -> int:
            made.append(1)
            time.sleep(0.05)
            return 3

        found: list[int] = []
        asking = [
            threading.Thread(target=lambda: found.append(kept.get("a", 0, slowly)))
            for _ in range(4)
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert (made, found) == ([1], [3] * 4)

    def test_a_value_may_be_made_of_others(self) -> None:
        kept = Kept()
        assert kept.get("a", 0, lambda: kept.get("b", 0, lambda: 2) + 1) == 3


class TestSweep:
    def test_scores_are_the_sweeps_and_no_text_is_read(self, made: Run, reads: list) -> None:
        whole, scores = sweep_frame(made), RunSource(made).scores
        pd.testing.assert_frame_equal(scores, whole[scores.columns])
        assert {"scenarios", "cluster", "trait", "scope"} <= set(scores.columns)
        assert len(reads) == len(made.shards()) > 2
        assert not any({*TEXT_COLUMNS, *MEASURE_COLUMNS} & set(columns) for _, columns in reads)

    def test_measures_are_the_sweeps_and_absent_ones_are_nan(self, run: Run) -> None:
        measures = RunSource(run).measures
        pd.testing.assert_frame_equal(measures, sweep_frame(run)[measures.columns])
        assert set(MEASURE_COLUMNS) < set(measures.columns)
        for shard in run.shards():
            pq.write_table(pq.read_table(shard).drop_columns(["distinct_1", "distinct_2"]), shard)
        source = RunSource(run)
        assert source.measures["distinct_1"].isna().all()
        assert "distinct_1" not in set(layer_measures(source, "all").values["measure"])

    def test_a_layer_sweep_holds_the_means_of_each_cell_alone(self, made: Run) -> None:
        rows = steered_rows(sweep_frame(made))
        rows = rows[rows["scope"] == "response"]
        by, values = ["method", "layer", "alpha"], ["trait", "coherence"]
        alone = [key | mean_columns(part, values) for key, part in named_groups(rows, by)]
        found = layer_sweep(RunSource(made), "response")
        expected = pd.DataFrame(alone).astype({"layer": int})
        pd.testing.assert_frame_equal(found.scores, expected, rtol=1e-12)
        aligned = sweep_frame(made).query("method == 'none' and side == 'aligned'")
        assert found.aligned.trait == pytest.approx(aligned["trait"].mean())
        assert set(found.operating_points) == {"swfc", "sttp", "stmp"}

    def test_text_is_read_of_the_shards_of_the_rows_alone(self, made: Run, reads: list) -> None:
        source, whole = RunSource(made), sweep_frame(made)
        last = len(whole) - 1
        rows = source.scores.loc[[last, 3, 1]]
        reads.clear()
        found = source.with_text(rows)
        expected = whole.loc[[last, 3, 1], [*rows.columns, *TEXT_COLUMNS]]
        pd.testing.assert_frame_equal(
            found.drop(columns="token_ids"), expected.drop(columns="token_ids")
        )
        assert list(map(list, found["token_ids"])) == list(map(list, expected["token_ids"]))
        assert found["response"].nunique() == 3
        assert [name for name, _ in reads] == [made.shards()[0].name, made.shards()[-1].name]
        assert list(source.with_text(rows[:0]).columns) == list(found.columns)

    def test_a_growing_sweep_is_readable_at_every_shard(self, run: Run, reads: list) -> None:
        """Baselines first, then cell by cell; only what is new is read, and nothing gets stuck."""
        shards = [(path.name, path.read_bytes()) for path in run.shards()]
        for path in (*run.shards(), run.operating_points_file):
            path.unlink()
        source = RunSource(run)
        with pytest.raises(MissingStageError, match="interp-steer sweep"):
            _ = source.scores
        with pytest.raises(MissingStageError, match="interp-steer select"):
            _ = source.points
        drawn = []
        for number, (name, content) in enumerate(shards):
            (run.sweep_folder / name).write_bytes(content)
            reads.clear()
            assert source.fresh() is not source
            source = source.fresh()
            assert len(source.scores) == sum(len(pq.read_table(p)) for p in run.shards())
            assert [name for name, _ in reads] == [shards[number][0]]
            assert source.shown_points("all") == {}
            try:
                drawn.append(len(layer_sweep(source, "all").scores))
            except MissingStageError as missing:
                assert "no steered cell" in str(missing)
                drawn.append(0)
        assert drawn[0] == 0 < drawn[-1]
        assert source.fresh() is source
        assert layer_sweep(source, "all") is layer_sweep(source, "all")

    def test_a_result_outlives_a_change_elsewhere_and_no_other(self, run: Run) -> None:
        source = RunSource(run)
        first = layer_sweep(source, "all")
        next(run.traces_folder.glob("*.parquet")).unlink()
        source = source.fresh()
        assert layer_sweep(source, "all") is first
        run.operating_points_file.write_bytes(b'{"operating_points": []}')
        source = source.fresh()
        assert first.operating_points and not layer_sweep(source, "all").operating_points

    def test_what_is_written_while_it_is_read_is_read_again(self, run: Run) -> None:
        source = RunSource(run)
        run.append_shard(pq.read_table(run.shards()[-1]).slice(0, 1))
        n = len(source.scores)  # may hold the new row, but is of the old stamps
        assert len(source.fresh().scores) == len(sweep_frame(run)) >= n
        assert source.fresh().fingerprint == fingerprint(run) != source.fingerprint

    def test_a_damaged_shard_and_other_columns_are_refused_by_name(self, run: Run) -> None:
        second = run.shards()[1]
        whole = second.read_bytes()
        second.write_bytes(whole[:-20])
        with pytest.raises(RunError, match=f"{second.name} is damaged"):
            _ = RunSource(run).scores
        pq.write_table(pq.read_table(pa.BufferReader(whole)).drop_columns(["trait"]), second)
        with pytest.raises(RunError, match=f"{second.name}.*no column trait"):
            _ = RunSource(run).scores


def _rows(n_sequences: int, layers: tuple[int, ...], n: int = 5) -> Iterator[pa.RecordBatch]:
    """Sequences in turn, each with all layers, as the model gives them."""
    for sequence in range(n_sequences):
        for layer in layers:
            columns = {
                "scenario": [f"s{sequence}"] * n,
                "side": ["aligned"] * n,
                "pos": range(n),
                "token": [f"t{i}" for i in range(n)],
                "segment": ["response"] * n,
                "layer": [layer] * n,
                "projection": [float(100 * sequence + 10 * layer + i) for i in range(n)],
                "response_index": [0] * n,
            }
            yield pa.RecordBatch.from_pydict(columns, schema=PROJECTION_SCHEMA)


class TestProjectionFiles:
    @pytest.mark.parametrize(("stretch", "n_stretches"), [(10**6, 1), (30, 4), (1, 21)])
    def test_every_row_group_is_of_one_layer(
        self, tmp_path: Path, stretch: int, n_stretches: int
    ) -> None:
        path = tmp_path / "projections.parquet"
        assert write_projections(path, _rows(7, (2, 0, 1)), stretch=stretch) == 7 * 3 * 5
        metadata = pq.ParquetFile(path).metadata
        column = PROJECTION_SCHEMA.get_field_index("layer")
        n_groups = metadata.num_row_groups
        groups = [metadata.row_group(i).column(column).statistics for i in range(n_groups)]
        assert all(statistics.min == statistics.max for statistics in groups)
        assert len(groups) == (n_stretches if stretch == 1 else 3 * n_stretches)
        whole = pa.Table.from_batches(list(_rows(7, (2, 0, 1)))).to_pandas()
        for layer in (0, 1, 2):
            mine = pq.read_table(path, filters=[("layer", "==", layer)]).to_pandas()
            expected = whole[whole["layer"] == layer].reset_index(drop=True)
            pd.testing.assert_frame_equal(mine, expected)

    def test_no_rows_are_a_whole_file(self, tmp_path: Path) -> None:
        path = tmp_path / "projections.parquet"
        empty = pa.RecordBatch.from_pylist([], schema=PROJECTION_SCHEMA)
        assert write_projections(path, [empty]) == 0
        assert pq.read_table(path).schema == PROJECTION_SCHEMA

    def test_an_older_file_gives_the_same_rows(self, run: Run) -> None:
        columns = ["scenario", "pos", "projection", "token"]
        filters = [("layer", "==", 1), ("side", "==", "malicious")]
        new = RunSource(run).projections(columns, filters)
        rows = pq.read_table(run.projections_file).sort_by([("scenario", "ascending")])
        pq.write_table(rows, run.projections_file)
        old = RunSource(run).projections(columns, filters)
        by = ["scenario", "pos"]
        assert len(new) > 100
        pd.testing.assert_frame_equal(
            new.sort_values(by, ignore_index=True), old.sort_values(by, ignore_index=True)
        )

    def test_a_callers_column_is_the_callers_own(self, made: Run) -> None:
        source = RunSource(made)
        frame = source.projections(["projection"], [("layer", "==", 2)])
        frame["hit"] = True
        frame.loc[0, "projection"] = -1e9
        again = source.projections(["projection"], [("layer", "==", 2)])
        assert list(again.columns) == ["projection"]
        assert again["projection"].min() > -1e6

    def test_a_damaged_file_is_refused_by_name(self, run: Run) -> None:
        run.projections_file.write_bytes(run.projections_file.read_bytes()[:-9])
        with pytest.raises(RunError, match=r"projections\.parquet is damaged"):
            RunSource(run).projections(["projection"], [("layer", "==", 2)])


class TestResiduals:
    def test_one_layer_is_that_layer_of_all(self, made: Run) -> None:
        source = RunSource(made)
        for layer in source.probes.layers:
            for side in ("aligned", "malicious"):
                whole = getattr(source.residuals, side).values[:, layer].numpy()
                assert np.array_equal(source.pooled(layer, side), whole)
        assert not np.array_equal(source.pooled(0, "aligned"), source.pooled(1, "aligned"))

    def test_a_layer_that_is_not_there_is_refused(self, made: Run) -> None:
        with pytest.raises(RunError, match="has no layer 9; it has 0, 1, 2"):
            load_pooled(made.residuals_file, "aligned", layer=9)


class TestTraces:
    def test_the_index_counts_what_the_rows_hold(self, made: Run) -> None:
        source = RunSource(made)
        index, rows = source.trace_index(), source.traces
        counted = rows.groupby(list(SAMPLE_KEY), sort=False).agg(
            n_tokens=("pos", "size"),
            n_in_scope=("in_scope", "sum"),
            n_fired=("fired", "sum"),
            n_capped=("capped", "sum"),
        )
        names = ["n_tokens", "n_in_scope", "n_fired", "n_capped"]
        assert list(index.columns) == ["file", *SAMPLE_KEY, *names]
        pd.testing.assert_frame_equal(
            index.set_index(list(SAMPLE_KEY))[names].sort_index(), counted.sort_index()
        )
        assert index["file"].nunique() == 6
        assert 0 < index["n_fired"].sum() < index["n_in_scope"].sum() < index["n_tokens"].sum()

    def test_a_sample_is_read_alone(self, made: Run) -> None:
        source = RunSource(made)
        rows = source.traces
        assert source.trace_index()["file"].value_counts().min() > 2
        for one in source.trace_index().to_dict("records")[::5]:
            found = source.trace(one["sample"], one["layer"])
            assert found.schema.names == TRACE_SCHEMA.names
            expected = rows[rows["sample"] == one["sample"]].reset_index(drop=True)
            pd.testing.assert_frame_equal(found.to_pandas(), expected)
            assert len(found) == one["n_tokens"]

    def test_of_two_files_with_a_sample_the_first_or_the_named_one_is_read(self, run: Run) -> None:
        source = RunSource(run)
        one = source.trace_index().iloc[0]
        table = source.trace(one["sample"])
        turned = table.set_column(
            TRACE_SCHEMA.get_field_index("logprob"), TRACE_SCHEMA.field("logprob"),
            pa.array([-9.0] * len(table), pa.float32()),
        )  # fmt: skip
        write_traces(turned, run.traces_folder / "zz.parquet")
        source = source.fresh()
        assert source.trace(one["sample"]).equals(table)
        assert source.trace(one["sample"], file="zz.parquet").equals(turned)
        assert len(source.trace_index()) == len(RunSource(run).trace_index())

    def test_only_a_new_file_is_read_again(self, run: Run, reads: list) -> None:
        source = RunSource(run)
        path = sorted(run.traces_folder.glob("*.parquet"))[2]
        content = path.read_bytes()
        n = len(source.trace_index())
        path.unlink()
        assert len(source.fresh().trace_index()) < n
        reads.clear()
        path.write_bytes(content)
        assert len(source.fresh().trace_index()) == n
        assert [name for name, _ in reads] == [path.name]

    def test_an_unknown_sample_or_layer_is_refused(self, made: Run) -> None:
        source = RunSource(made)
        one = source.trace_index().iloc[0]
        with pytest.raises(FigureError, match="sample 'nobody'"):
            source.trace("nobody")
        with pytest.raises(FigureError, match="at layer 77"):
            source.trace(one["sample"], 77)

    def test_tokens_are_spelled_as_the_rows_spell_them(self, made: Run) -> None:
        rows = RunSource(made).traces
        expected = dict(zip(rows["token_id"].tolist(), rows["token"].tolist(), strict=True))
        assert RunSource(made).traced_tokens() == expected

    def test_no_traces_name_the_command_and_other_tables_are_refused(self, run: Run) -> None:
        path = next(run.traces_folder.glob("*.parquet"))
        shutil.copy(run.responses_file, path)
        with pytest.raises(SteeringError, match="is no trace table"):
            RunSource(run).trace_index()
        with pytest.raises(SteeringError, match="is no trace table"):
            read_traces(path, columns=["sample"])
        shutil.rmtree(run.traces_folder)
        with pytest.raises(MissingStageError, match=r"interp-steer trace \S+ --scenario ID"):
            RunSource(run).trace_index()
        run.operating_points_file.unlink()
        with pytest.raises(MissingStageError, match=r"trace \S+ --layer LAYER --alpha ALPHA --sc"):
            RunSource(run).trace_index()

    @pytest.mark.slow
    def test_a_file_has_small_row_groups_in_the_order_of_its_samples(self, tmp_path: Path) -> None:
        one = pa.table(
            {
                field.name: pa.array(
                    [{"string": "a", "bool": True}.get(str(field.type), 1)], field.type
                )
                for field in TRACE_SCHEMA
            },
            schema=TRACE_SCHEMA,
        )
        table = pa.concat_tables([one] * 120_000)
        write_traces(table, tmp_path / "x.parquet")
        assert pq.ParquetFile(tmp_path / "x.parquet").metadata.num_row_groups == 3


def test_a_snapshot_asks_for_no_more_than_the_names_of_files(
    made: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a run reads none of its artifacts."""

    def refuse(*arguments, **options):
        raise AssertionError("read too early")

    monkeypatch.setattr(pq, "ParquetFile", refuse)
    monkeypatch.setattr(pq, "read_table", refuse)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    source = RunSource(made)
    assert source.fingerprint == freshness.fingerprint(made)
    with pytest.raises(AssertionError, match="read too early"):
        _ = source.scores
