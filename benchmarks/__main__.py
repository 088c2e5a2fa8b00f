"""`python -m benchmarks`: run the benchmarks, print one table, write one result file.

Every module beside this one that has a function `measure(options)` is a benchmark. Results of a
device and a day stand in one file; a script that runs again replaces the lines of its claims, or
with `--model` and `--batch` those of the cases that it measured.
"""

import argparse
import importlib
import json
import logging
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import benchmarks
from benchmarks.generation import BATCHES
from benchmarks.ratios import BenchmarkError, Options, Ratio, device_name, problems, slug
from benchmarks.workloads import MODELS
from interp_steer.errors import InterpSteerError
from interp_steer.files import atomic_write_json, read_json

RESULTS = Path(__file__).parent / "results"
WITH_CASES = ("generation", "hook_time", "hooks", "capture")
"""Scripts that try several models and batches."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks that are named, or all; return the exit code."""
    given = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("interp_steer").setLevel(logging.WARNING)
    runs = given.runs or (1 if given.quick else 5)
    options = Options(
        device=given.device,
        runs=runs,
        seconds=0.0 if given.quick else given.seconds,
        quick=given.quick,
        models=tuple(given.model or ()),
        batches=tuple(given.batch or ()),
    )
    try:
        scripts = chosen(given.names, is_partial=options.is_partial)
        found = [ratio for script in scripts for ratio in script.measure(options)]
        out = given.out or (None if given.quick else RESULTS)
        where = None
        if out is not None:
            where = write_results(out, found, options.device, is_partial=options.is_partial)
    except InterpSteerError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(table(found) + "\n")
    sys.stderr.write(f"wrote {where}\n" if where else "quick: sizes are tiny, nothing written\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument("names", nargs="*", help="scripts to run, e.g. sweep; all by default")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument(
        "--runs", type=int, help="paired runs behind each ratio, at least (5; quick: 1)"
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="more runs where turns are short (60)"
    )
    parser.add_argument("--quick", action="store_true", help="smoke test: tiny, nothing written")
    parser.add_argument(
        "--model", action="append", choices=list(MODELS), help="of several; may be repeated (all)"
    )
    parser.add_argument(
        "--batch", action="append", type=int, choices=BATCHES, help="likewise, of several (all)"
    )
    parser.add_argument("--out", type=Path, help="folder of the result file; benchmarks/results")
    return parser


def scripts() -> Iterator[tuple[str, ModuleType]]:
    """Every benchmark script by name."""
    for found in pkgutil.iter_modules(benchmarks.__path__):
        if not found.name.startswith("_"):
            module = importlib.import_module(f"benchmarks.{found.name}")
            if callable(getattr(module, "measure", None)):
                yield found.name, module


def chosen(names: Sequence[str], *, is_partial: bool = False) -> list[ModuleType]:
    """The scripts of these names, all without any.

    Args:
        names: of scripts.
        is_partial: only some of their cases are wanted.

    Raises:
        BenchmarkError: there is no such script, or one that knows no cases to choose from.
    """
    known = dict(scripts())
    if is_partial and not (names and set(names) <= set(WITH_CASES)):
        raise BenchmarkError(
            f"--model and --batch choose among the cases of {', '.join(WITH_CASES)}; name these"
        )
    if unknown := [name for name in names if name not in known]:
        raise BenchmarkError(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names or known]


def write_results(
    folder: Path, found: Sequence[Ratio], device: str, day: str = "", *, is_partial: bool = False
) -> Path:
    """Write the results of `day` (today) and `device`; claims measured again are replaced.

    Args:
        folder: where the file lies.
        found: what was measured.
        device: on what.
        day: ISO date.
        is_partial: not in all cases; those of the same claims that were left out are kept.

    Raises:
        BenchmarkError: a record that does not fit the schema.
        RunError: the file cannot be written, or the one that is there cannot be read.
    """
    path = folder / f"{day or date.today().isoformat()}-{slug(device_name(device))}.json"
    records: list[dict[str, Any]] = [ratio.as_record() for ratio in found]
    cases = {(record["claim"], record["case"]) for record in records}
    claims = {claim for claim, _ in cases}
    before = read_json(path) if path.exists() else []
    kept = [
        record
        for record in before
        if record["claim"] not in claims
        or (is_partial and (record["claim"], record["case"]) not in cases)
    ]
    records = kept + records
    records = json.loads(json.dumps(records))
    if wrong := list(problems(records)):
        raise BenchmarkError(f"results for {path} do not fit: {'; '.join(wrong)}")
    atomic_write_json(path, records)
    return path


def table(found: Sequence[Ratio]) -> str:
    """One line a ratio, under the device they share."""
    lines = [
        (
            ratio.claim,
            f"{ratio.ratio:.2f}",
            f"[{ratio.interval[0]:.2f}, {ratio.interval[1]:.2f}]",
            ratio.goal or "-",
            {True: "yes", False: "no", None: "-"}[ratio.holds],
            str(ratio.runs),
            ratio.case,
        )
        for ratio in found
    ]
    head = ("claim", "ratio", "95 % interval", "goal", "holds", "runs", "case")
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    rows = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in (head, *lines)]
    devices = ", ".join(sorted({ratio.device for ratio in found}))
    return "\n".join([f"device: {devices}", *rows])


if __name__ == "__main__":
    sys.exit(main())
