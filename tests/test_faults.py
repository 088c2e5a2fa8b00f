"""A full disk at any write, a kill at any touch of a file, readers beside a writer.

Whatever happens: a reader finds the old artifact or the new one, whole; the error says which file
and that the disk is full; with room again the same call writes what it was to write.
"""

import errno
import io
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fault_cases import WRITTEN, Written
from interp_steer.cells import KEY_COLUMNS
from interp_steer.errors import InterpSteerError, JudgeError, RunError
from interp_steer.judge_cache import AnswerCache, StoredAnswer
from interp_steer.model import HookedLM
from interp_steer.runs import Run
from interp_steer.sweep import read_rows
from interp_steer.sweep_stage import sweep
from interp_steer.token_files import TokenWriter, read_token_blocks
from steering_cases import chunk_of, normals
from study_cases import SWEEP, WordJudge, tiny_study

ROOT = Path(__file__).resolve().parents[1]


class _Full(io.BufferedWriter):
    """A file whose writes may find no room."""

    def __init__(self, path: Path, touch: Callable[[], None]) -> None:
        super().__init__(io.FileIO(path, "xb"))
        self._touch = touch

    def write(self, data: Any, /) -> int:
        self._touch()
        return super().write(data)


@contextmanager
def no_room(at: int) -> Iterator[dict[str, int]]:
    """Let the `at`-th touch of a temporary file (open, write, sync, rename) fail with ENOSPC."""
    count = {"touches": 0}
    real_open, real_sync, real_replace = Path.open, os.fsync, Path.replace

    def touch() -> None:
        count["touches"] += 1
        if count["touches"] == at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def opened(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if mode != "xb":
            return real_open(self, mode, *args, **options)
        touch()
        return _Full(self, touch)

    def synced(descriptor: int) -> None:
        touch()
        real_sync(descriptor)

    def replaced(self: Path, target: Path) -> Path:
        touch()
        return real_replace(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", opened)
        patch.setattr(os, "fsync", synced)
        patch.setattr(Path, "replace", replaced)
        yield count


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def found(artifact: Written, folder: Path) -> int | None:
    """The version that a reader finds; None where it refuses."""
    try:
        return artifact.read(folder)
    except InterpSteerError:
        return None


@settings(max_examples=3)
@given(data=st.data())
@pytest.mark.parametrize("name", WRITTEN)
def test_a_full_disk_at_any_write(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    artifact, folder = WRITTEN[name], tmp_path_factory.mktemp("full")
    artifact.write(folder, 0)
    with no_room(0) as usual:
        artifact.write(folder, 0)
    assert usual["touches"] >= 4  # the control: it does write
    at = data.draw(st.integers(1, usual["touches"]))
    with no_room(at), pytest.raises(RunError, match=r"cannot write .*: the disk is full") as error:
        artifact.write(folder, 1)
    assert "run the same command again" in str(error.value)
    assert temporaries(folder) == []
    version = found(artifact, folder)
    # The folder's own entry is synced last: the new file is then there, and may not survive a cut.
    assert version in (0, 1) or (artifact.is_pair and version is None)
    artifact.write(folder, 1)
    assert found(artifact, folder) == 1


def test_a_full_disk_at_the_first_write_leaves_the_old_file(tmp_path: Path) -> None:
    for name, artifact in WRITTEN.items():
        folder = tmp_path / name
        folder.mkdir()
        artifact.write(folder, 0)
        for at in (1, 2):
            with no_room(at), pytest.raises(RunError):
                artifact.write(folder, 1)
            assert found(artifact, folder) == 0, name


def test_token_residuals_on_a_full_disk_are_unfinished_and_begun_again(tmp_path: Path) -> None:
    def capture() -> None:
        with TokenWriter(tmp_path / "t", layers=(1,)) as writer:
            writer.hooks()[1](normals(1, 2, 5, 4), chunk_of(2, 5, prompt=2))

    for at in (1, 2, 3, 4, 6, 7, 8, 9):
        with no_room(at), pytest.raises(RunError, match="the disk is full"):
            capture()
        with pytest.raises(RunError, match="the capture was not finished"):
            list(read_token_blocks(tmp_path / "t"))
    capture()
    assert len(list(read_token_blocks(tmp_path / "t"))) == 1


def test_a_shard_that_found_no_room_is_made_again(tmp_path: Path) -> None:
    run = Run.create(tmp_path)
    rows = [pa.table({"n": [i] * 3}) for i in range(5)]
    made = []
    for number, table in enumerate(rows):
        for at in (number + 1, 1):
            with no_room(at):
                try:
                    run.append_shard(table)
                except RunError:
                    continue
                break
        else:
            run.append_shard(table)
        made.append(table)
        assert run.read_shards() == pa.concat_tables(made)


def test_answers_that_were_paid_for_survive_a_full_disk(tmp_path: Path) -> None:
    """A really full one: no file may grow beyond some lines, the last of which is cut."""
    numbers = {"finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 1}
    cache, kept = AnswerCache(tmp_path / "c"), []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(JudgeError, match="cannot keep the judge's answers in .*make room"):
            for number in range(100):
                cache.add(str(number), StoredAnswer(attempt=0, text=f"{number}", **numbers))
                kept.append(str(number))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 3 < len(kept) < 20
    cache.add("later", StoredAnswer(attempt=0, text="later", **numbers))
    cache.close()
    again = AnswerCache(tmp_path / "c")
    assert [again.answers(key)[0].text for key in (*kept, "later")] == [*kept, "later"]


@pytest.mark.slow
def test_a_sweep_that_found_no_room_goes_on_and_loses_nothing(
    tmp_path: Path, tiny_lm: HookedLM, tiny_dir: Path
) -> None:
    grid = replace(SWEEP, layers=(0,), batch_size=6, control_draws=0)
    whole = tiny_study(tmp_path / "whole", tiny_lm, tiny_dir)
    with no_room(0) as usual:
        sweep(whole, grid, judge=WordJudge())
    study, counts = tiny_study(tmp_path / "full", tiny_lm, tiny_dir), [0]
    for at in (3, usual["touches"] // 5, usual["touches"] // 3, usual["touches"] // 4):
        with no_room(at), pytest.raises(RunError, match="the disk is full"):
            sweep(study, grid, judge=WordJudge())
        counts.append(read_rows(study.run).num_rows)
    assert counts == sorted(counts) and counts[-1] > 0
    sweep(study, grid, judge=WordJudge())
    expected, found = (
        {tuple(row[c] for c in KEY_COLUMNS): row for row in read_rows(one.run).to_pylist()}
        for one in (whole, study)
    )
    assert found.keys() == expected.keys()
    assert read_rows(study.run).num_rows == len(found)  # none is there twice
    assert sum(found[key]["response"] != expected[key]["response"] for key in found) <= 1


# ---------------------------------------------------------------- readers beside a writer


def beside(write: Callable[[int], object], read: Callable[[], object], n: int) -> list[object]:
    """What a reader finds, again and again, while a writer puts `n` versions in turn."""
    failed: list[BaseException] = []

    def versions() -> None:
        try:
            for number in range(n):
                write(number % 2)
        except BaseException as error:  # noqa: BLE001 - raised below
            failed.append(error)

    writer = threading.Thread(target=versions)
    writer.start()
    seen = []
    while writer.is_alive():
        seen.append(read())
    writer.join()
    assert failed == []
    return seen


@pytest.mark.parametrize("name", WRITTEN)
def test_a_reader_finds_one_version_or_the_other(tmp_path: Path, name: str) -> None:
    artifact = WRITTEN[name]
    artifact.write(tmp_path, 0)
    seen = beside(
        lambda version: artifact.write(tmp_path, version), lambda: found(artifact, tmp_path), 6
    )
    allowed = {0, 1, None} if artifact.is_pair else {0, 1}
    assert set(seen) <= allowed
    assert found(artifact, tmp_path) == 1


def test_a_writer_that_writes_in_place_is_caught(tmp_path: Path) -> None:
    """The control."""
    path = tmp_path / "o.json"

    def write(version: int) -> None:
        with path.open("w") as file:
            file.write(f"[{version}")
            file.flush()
            time.sleep(0.001)
            file.write(f", {version}]")

    def read() -> int | None:
        try:
            return found(_IN_PLACE, tmp_path)
        except ValueError:  # a mixture of both
            return None

    write(0)
    assert None in beside(write, read, 100)


_IN_PLACE = Written(write=lambda _folder, _version: None, read=WRITTEN["operating points"].read)


# ---------------------------------------------------------------- kills


@pytest.mark.slow
def test_a_kill_at_any_touch_of_a_file_leaves_one_version_or_the_other(tmp_path: Path) -> None:
    """SIGKILL at the first touch of a temporary file, then at the second, until one survives."""
    script = ROOT / "tests" / "crash_writers.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told.keys() == WRITTEN.keys()
    for name, story in told.items():
        assert story["kills"] >= 2, name
        allowed = {0, 1, None} if WRITTEN[name].is_pair else {0, 1}
        assert set(story["found"]) <= allowed, name
        assert story["found"][0] == 0, name
        assert story["last"] == 1, name
        assert story["left"] <= story["kills"], name
