"""A study on a disk that is really full, again and again: a file system of a few KiB that grows.

`test_faults` lets single writes fail; here the kernel does, at whatever write the room ends.
"""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interp_steer.cells import KEY_COLUMNS
from interp_steer.errors import RunError
from interp_steer.model import HookedLM
from interp_steer.runs import Run
from interp_steer.sweep import read_rows
from interp_steer.sweep_stage import sweep
from study_cases import SWEEP, WordJudge, tiny_study

pytestmark = pytest.mark.slow

FIRST, STEP = 16, 24
"""KiB of the disk, and how much it grows whenever it is full."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Gives a file system of its own the size asked for, in KiB, and returns where it is."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options: str) -> None:
        made = subprocess.run(
            ["mount", *options, str(place)], capture_output=True, text=True, check=False
        )
        if made.returncode:
            pytest.skip(f"no right to mount a file system: {made.stderr.strip()}")

    mount("-t", "tmpfs", "-o", f"size={FIRST}k", "small")
    try:
        yield lambda kib: (mount("-o", f"remount,size={kib}k"), place)[1]
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def rows(run: Run) -> dict[tuple[Any, ...], dict[str, Any]]:
    table = read_rows(run)
    found = {tuple(row[name] for name in KEY_COLUMNS): row for row in table.to_pylist()}
    assert len(found) == table.num_rows  # none is there twice
    return found


def test_a_study_goes_on_whenever_the_disk_has_grown(
    tmp_path: Path, disk: Callable[[int], Path], tiny_lm: HookedLM, tiny_dir: Path
) -> None:
    grid = replace(SWEEP, layers=(0,), batch_size=6, control_draws=0)

    def study(folder: Path) -> Run:
        made = tiny_study(folder, tiny_lm, tiny_dir)
        sweep(made, grid, judge=WordJudge())
        return made.run

    whole = rows(study(tmp_path / "whole"))
    full, kept = [], 0
    for kib in range(FIRST, 4096, STEP):
        place = disk(kib)
        try:
            run = study(place / "study")
            break
        except RunError as error:
            assert "the disk is full" in str(error)
            full.append(kib)
        assert [path for path in place.rglob("*") if path.name.endswith(".tmp")] == []
        if list((place / "study/run/sweep").glob("*.parquet")):
            n = len(rows(Run.open(place / "study/run")))
            assert n >= kept
            kept = n
    assert len(full) >= 5
    assert 0 < kept < len(whole)  # it was full in the middle of the sweep too
    found = rows(run)
    assert found.keys() == whole.keys()
    assert sum(found[key]["response"] != whole[key]["response"] for key in found) <= 1
