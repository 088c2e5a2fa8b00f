"""Run directories: whole files or refusals, one writer, pins; real kills and a really full disk."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from interp_steer.errors import RunError
from interp_steer.files import (
    atomic_file,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_table,
    atomic_write_tensors,
    read_json,
    read_table,
    read_tensors,
    remove_leftovers,
)
from interp_steer.runs import Run

ROWS = pa.table({"scenario": ["a", "b"], "trait": [1.0, 2.0]})

# Both write until they are killed; what they print says how far they are.
WRITES_HALF_A_SHARD = """
import sys, time
from interp_steer.runs import Run, atomic_file
run = Run(sys.argv[1])
with run.lock():
    with atomic_file(run.sweep_folder / "part-00001.parquet") as file:
        file.write(b"PAR1" + bytes(100_000))
        file.flush()
        print("half", flush=True)
        time.sleep(600)
"""
WRITES_SHARDS = """
import sys
import pyarrow as pa
from interp_steer.runs import Run
run = Run(sys.argv[1])
for number in range(100_000):
    run.append_shard(pa.table({"number": [number] * 1000}))
    print(number, flush=True)
"""


@contextmanager
def writer(script: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file may grow beyond `room` bytes (EFBIG, an OSError like ENOSPC)."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def files_below(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {".lock"}


# ---------------------------------------------------------------- crashes


def test_a_writer_killed_in_mid_file_leaves_the_run_readable_and_unlocked(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    run.append_shard(ROWS)
    with writer(WRITES_HALF_A_SHARD, run.path) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "half\n"
        # While it is alive: no second writer, its file is let alone, reading goes on.
        with pytest.raises(RunError, match=f"another writer is at work .*process {child.pid} on"):
            run.append_shard(ROWS)
        assert remove_leftovers(run.path) == []
        assert run.read_shards() == ROWS
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    leftovers = [name for name in files_below(run.path) if name.endswith(".tmp")]
    assert len(leftovers) == 1  # the control: the kill did come in mid-file
    assert run.read_shards() == ROWS
    assert run.append_shard(ROWS).name == "part-00001.parquet"
    assert files_below(run.path) == {"sweep/part-00000.parquet", "sweep/part-00001.parquet"}


def test_a_writer_killed_at_any_moment_leaves_whole_shards_only(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    with writer(WRITES_SHARDS, run.path) as child:
        assert child.stdout is not None
        for _ in range(3):
            reported = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    table = run.read_shards()
    assert table is not None
    numbers = table["number"].to_pylist()
    assert max(numbers) >= reported
    assert numbers == [n for n in range(max(numbers) + 1) for _ in range(1000)]


def test_a_full_disk_is_refused_and_leaves_what_was_there(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    run.pin({"seed": 1})
    run.append_shard(ROWS)
    before = files_below(run.path)
    large = pa.table({"noise": torch.rand(20_000).numpy()})
    with full_disk(4096):
        with pytest.raises(RunError, match=r"cannot write .*part-00001.parquet: File too large"):
            run.append_shard(large)
        with pytest.raises(RunError, match=r"what was there before is untouched. Make room"):
            atomic_write_json(run.manifest_file, {"long": "x" * 10_000})
        with pytest.raises(RunError, match="File too large"):
            atomic_write_tensors(run.residuals_file, {"a": torch.zeros(10_000)})
    assert files_below(run.path) == before
    assert run.read_shards() == ROWS
    assert Run.open(run.path).manifest["pins"] == {"seed": 1}
    run.append_shard(ROWS)  # with room again, on it goes
    assert run.read_shards() == pa.concat_tables([ROWS, ROWS])


def test_a_failing_block_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert files_below(tmp_path) == set()
    atomic_write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert files_below(tmp_path) == {"deep/file"}


# ---------------------------------------------------------------- damage


def test_every_way_of_cutting_a_shard_short_is_refused_by_name(tmp_path: Path) -> None:
    run = Run.create(tmp_path)
    run.append_shard(ROWS)
    path = run.append_shard(ROWS)
    whole = path.read_bytes()
    for length in (0, 1, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(RunError) as refusal:
            run.read_shards()
        assert f"{path} is damaged or cut short" in str(refusal.value)
        assert "delete part-00001.parquet and run the same command again" in str(refusal.value)


def test_a_flipped_bit_in_a_table_is_refused_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table({"x": torch.arange(500, dtype=torch.float64).numpy()})
    atomic_write_table(path, table)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 37):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(bytes(damaged))
        try:
            assert read_table(path)["x"].to_pylist() == table["x"].to_pylist()
        except RunError as error:
            assert "t.parquet is damaged or cut short" in str(error)
            refused += 1
        except KeyError:
            pass  # the column's name was hit, and nobody can mistake it for x
    assert refused > 20


def test_damaged_json_and_tensors_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content in (b"", b'{"a": 1', b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"x.json is damaged or cut short .*; do this"):
            read_json(path, remedy="do this")
    path = tmp_path / "x.safetensors"
    atomic_write_tensors(path, {"a": torch.arange(3)}, {"who": "me"})
    tensors, metadata = read_tensors(path)
    assert torch.equal(tensors["a"], torch.arange(3))
    assert metadata == {"who": "me"}
    for content in (b"", path.read_bytes()[:20], path.read_bytes()[:-1]):
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"x.safetensors is damaged or cut short"):
            read_tensors(path)
    with pytest.raises(RunError, match="there is no file .*none.json; make it again"):
        read_json(tmp_path / "none.json")


def test_nan_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="standard JSON has no NaN"):
        atomic_write_json(tmp_path / "x.json", {"a": float("nan")})
    assert files_below(tmp_path) == set()


# ---------------------------------------------------------------- shards


def test_shards_come_back_in_the_order_they_were_written(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    assert run.read_shards() is None
    for number in range(12):
        run.append_shard(pa.table({"number": [number]}))
    table = run.read_shards()
    assert table is not None
    assert table["number"].to_pylist() == list(range(12))
    (run.sweep_folder / "part-00004.parquet").unlink()
    assert run.append_shard(pa.table({"number": [12]})).name == "part-00012.parquet"
    assert run.read_shards("traces") is None


def test_a_shard_with_other_columns_is_refused_by_name(tmp_path: Path) -> None:
    run = Run.create(tmp_path)
    run.append_shard(ROWS)
    run.append_shard(pa.table({"other": [1]}))
    with pytest.raises(RunError, match=r"part-00001.parquet has other columns .*\['other'\]"):
        run.read_shards()


# ---------------------------------------------------------------- lock


def test_one_run_object_may_nest_its_lock_and_another_is_refused(tmp_path: Path) -> None:
    run, other = Run.create(tmp_path), Run(tmp_path)
    with run.lock(), run.lock():
        run.append_shard(ROWS)
        with pytest.raises(RunError, match=f"process {os.getpid()} on .*; wait for it or stop it"):
            other.append_shard(ROWS)
        assert other.read_shards() == ROWS
    with pytest.raises(ZeroDivisionError), run.lock():
        raise ZeroDivisionError
    other.append_shard(ROWS)


# ---------------------------------------------------------------- manifest


PINS = {"weights": "abc", "generation": {"temperature": 0.6, "seed": 42}}


def test_pins_are_kept_added_to_and_checked(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    run.pin(PINS, config={"layers": (2, 4)})
    run.pin({"probes": "xyz"}, versions={"torch": "2"})
    manifest = Run.open(run.path).manifest
    assert manifest["pins"] == {**PINS, "probes": "xyz"}
    assert manifest["config"] == {"layers": [2, 4]}
    assert manifest["versions"] == {"torch": "2"}
    run.check_pins({**PINS, "probes": "xyz"})
    run.check_pins({"weights": "abc"})
    run.pin(PINS, config={"layers": (2, 4, 6)})  # what is only recorded may change
    assert run.manifest["config"] == {"layers": [2, 4, 6]}


def test_a_changed_pin_is_refused_by_name_and_nothing_is_written(tmp_path: Path) -> None:
    run = Run.create(tmp_path)
    run.pin(PINS)
    before = run.manifest_file.read_bytes()
    changed = {**PINS, "generation": {"temperature": 0.7, "seed": 42}}
    for refuse in (run.check_pins, run.pin):
        with pytest.raises(RunError, match=r"generation.temperature is 0.6 in the run, got 0.7"):
            refuse(changed)
        with pytest.raises(RunError, match=r"weights is 'abc' in the run, got 'abd'"):
            refuse({"weights": "abd", "new": 1})
        with pytest.raises(RunError, match=r"generation.seed is 42 in the run, got '\(absent\)'"):
            refuse({"generation": {"temperature": 0.6}})
    assert run.manifest_file.read_bytes() == before
    with pytest.raises(RunError, match="does not pin judge"):
        run.check_pins({**PINS, "judge": "exact"})
    with pytest.raises(RunError, match="values of JSON only"):
        run.pin({"object": object()})


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no run directory .*none; make one with"):
        Run.open(tmp_path / "none")
    with pytest.raises(RunError, match=r"there is no file .*manifest.json"):
        Run.open(tmp_path)
    for name in ("warmth", "honesty"):
        Run.create(tmp_path / "runs" / name).pin(PINS)
    with pytest.raises(RunError, match=r"folder of runs \(honesty, warmth\); give .*runs/honesty"):
        Run.open(tmp_path / "runs")
    for manifest, message in (([], "not a manifest"), ({"pins": {}}, "format None")):
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(RunError, match=message):
            Run.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot make the run directory"):
        Run.create(tmp_path / "file")


def test_the_layout_is_that_of_the_design() -> None:
    run = Run("r")
    assert [p.name for p in (run.manifest_file, run.responses_file, run.residuals_file)] == [
        "manifest.json",
        "responses.parquet",
        "residuals.safetensors",
    ]
    assert [p.name for p in (run.projections_file, run.probes_file, run.sweep_folder)] == [
        "projections.parquet",
        "probes.json",
        "sweep",
    ]
    assert [p.name for p in (run.operating_points_file, run.traces_folder, run.summary_file)] == [
        "operating_points.json",
        "traces",
        "summary.json",
    ]
    assert [p.name for p in (run.analyses_folder, run.figures_folder)] == ["analyses", "figures"]
