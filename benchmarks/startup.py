"""How long the command line takes to answer.

- `startup_help`: the limit over the seconds of `interp-steer --help`, and over those of importing
  the library's main modules, `import torch` left out (both start a process of their own). Above 1
  the limit is kept.

Command: python -m benchmarks startup [--quick]. Takes half a minute.
"""

import subprocess
import sys
import time
from statistics import median

from benchmarks.ratios import BenchmarkError, Options, Ratio, at_least, measured, paired_ratio

HELP_LIMIT, IMPORT_LIMIT = 0.5, 1.5
"""Seconds."""
_HELP = "import sys; from interp_steer.cli import main; sys.exit(main(['--help']))"
_LIBRARY = "import interp_steer.model, interp_steer.probes, interp_steer.steering"


def measure(options: Options) -> list[Ratio]:
    """Both lines.

    Raises:
        BenchmarkError: a process failed.
    """
    for code in (_HELP, _LIBRARY, "import torch"):
        _seconds(code)  # reads the files once
    helped, library = [], []
    for _ in range(options.runs):
        helped.append(_seconds(_HELP))
        # At least a millisecond: torch alone may happen to take as long.
        library.append(max(1e-3, _seconds(_LIBRARY) - _seconds("import torch")))
    return [
        _line("interp-steer --help", HELP_LIMIT, helped, options),
        _line("import of model, probes, steering, without torch", IMPORT_LIMIT, library, options),
    ]


def _line(what: str, limit: float, seconds: list[float], options: Options) -> Ratio:
    case = f"{what}: {median(seconds):.2f} s, limit {limit} s"
    paired = paired_ratio([limit] * len(seconds), seconds)
    goal = None if options.quick else at_least(1)
    return measured("startup_help", case, paired, device="cpu", goal=goal)


def _seconds(code: str) -> float:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{code!r} failed: {done.stderr.strip()[-300:]}")
    return time.perf_counter() - started
