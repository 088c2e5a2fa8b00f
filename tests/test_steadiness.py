"""A thousand steered generations leave nothing behind, and numbers come out alike."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from interp_steer.files import read_tensors

ROOT = Path(__file__).resolve().parents[1]
N_CALLS = 250
"""Of four generations each."""
N_LEAKY = 60
MEMORY = 8 << 20
"""Bytes that the process may grow by after its warm-up, for the allocator's sake: measured under
4 MiB, all of it in the first 450 calls. A loss of 256 KiB a call over 45 calls is beyond it."""
NOISE = 1e-5
"""Relative difference of residuals between one thread and two: sums in another order. Measured
2.5e-7; another token is off by 1."""


def told(script: str, *arguments: str) -> str:
    """What a script prints."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        # Threads that wait do not spin: cores may be shared.
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_WAIT_POLICY": "PASSIVE"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def grown(early: dict[str, int], late: dict[str, int]) -> list[str]:
    """What there is more of than there may be."""
    return [name for name in early if late[name] - early[name] > (name == "memory") * MEMORY]


@pytest.mark.slow
def test_a_thousand_steered_generations_leave_nothing_behind() -> None:
    early, late = map(json.loads, told("steady_resources.py", str(N_CALLS)).splitlines())
    assert grown(early, late) == [], (early, late)


@pytest.mark.slow
def test_what_a_leaky_process_loses_is_seen() -> None:
    """The control."""
    early, late = map(json.loads, told("steady_resources.py", str(N_LEAKY), "leaky").splitlines())
    assert grown(early, late) == ["files", "hooks", "tensors", "arrow", "memory"], (early, late)


@pytest.mark.slow
def test_steered_numbers_are_the_same_thrice_and_with_two_threads(tmp_path: Path) -> None:
    found = {}
    for threads in (1, 2):
        told("steered_numbers.py", str(threads), str(tmp_path / f"{threads}.safetensors"))
        found[threads], _ = read_tensors(tmp_path / f"{threads}.safetensors")
        for repetition in (1, 2):  # on one machine with one thread count: bit for bit
            for name in ("ids", "resid"):
                again = found[threads][f"{name}.{repetition}"]
                assert torch.equal(again, found[threads][f"{name}.0"]), (name, threads)
    one, two = (found[threads] for threads in (1, 2))
    assert torch.equal(one["ids.0"], two["ids.0"])
    assert len(one["ids.0"].unique()) > 10  # the control: something was said
    off = (one["resid.0"] - two["resid.0"]).abs().max() / one["resid.0"].abs().max()
    assert float(off) < NOISE
    # The control: another token's residual is nowhere near.
    moved = (one["resid.0"] - one["resid.0"].roll(1, 0)).abs().max() / one["resid.0"].abs().max()
    assert float(moved) > 1e3 * NOISE
