"""What `summary.json` of a demo must hold, read with nothing but the standard library.

    python3 tests/summary_schema.py runs/demo/summary.json

prints every departure and exits 1, or prints one line and exits 0. It says that the numbers are
there and in range, not that they are good.
"""

import json
import math
import sys
from pathlib import Path

TRAITS = ("honesty", "compassion")
METHODS = ("swfc", "sttp", "stmp")
SCOPES = ("all", "response")
CONTROLS = ("random_direction", "shuffled_labels")
PERCENT = (0.0, 100.0)
ANY = (-math.inf, math.inf)


class Reader:
    """Walks one summary and collects what is missing or out of range."""

    def __init__(self, summary: object):
        self.summary = summary
        self.problems: list[str] = []

    def find(self, *path: str) -> object:
        """The value at `path`, or None and a problem."""
        here = self.summary
        for depth, key in enumerate(path):
            if not isinstance(here, dict) or key not in here:
                self.problems.append(f"{'.'.join(path[: depth + 1])}: missing")
                return None
            here = here[key]
        return here

    def number(self, *path: str, within: tuple[float, float] = ANY) -> None:
        """`path` must be a finite number in the closed range `within`."""
        before = len(self.problems)
        value = self.find(*path)
        if len(self.problems) > before:
            return
        name = ".".join(path)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            self.problems.append(f"{name}: expected a finite number, got {value!r}")
        elif not within[0] <= value <= within[1]:
            self.problems.append(f"{name}: expected {within[0]:g} to {within[1]:g}, got {value!r}")

    def mapping(self, *path: str) -> dict:
        """`path` must be an object with something in it."""
        before = len(self.problems)
        value = self.find(*path)
        if isinstance(value, dict) and value:
            return value
        if len(self.problems) == before:
            self.problems.append(f"{'.'.join(path)}: expected an object that is not empty")
        return {}


def problems(summary: object) -> list[str]:
    """Every departure of `summary` from the schema, one line each; empty when it holds."""
    reader = Reader(summary)
    for trait in TRAITS:
        _check_trait(reader, trait)
    reader.number("multiple_choice", within=PERCENT)
    for stage in reader.mapping("seconds"):
        reader.number("seconds", stage, within=(0.0, math.inf))
    reader.mapping("versions")
    reader.mapping("model")
    return reader.problems


def _check_trait(reader: Reader, trait: str) -> None:
    root = ("traits", trait)
    for side in ("aligned", "malicious"):
        for measure in ("trait", "coherence"):
            reader.number(*root, side, measure, within=PERCENT)
    for method in METHODS:
        for scope in SCOPES:
            cell = (*root, "methods", method, scope)
            reader.number(*cell, "layer", within=(0, math.inf))
            reader.number(*cell, "alpha")
            for measure in ("trait", "coherence"):
                reader.number(*cell, measure, within=PERCENT)
            reader.number(*cell, "recovered")
        for control in CONTROLS:
            for statistic in ("mean", "max"):
                reader.number(*root, "controls", control, method, statistic)


def main(argv: list[str]) -> int:
    """Exit code: 0 the schema holds, 1 it does not, 2 usage."""
    if len(argv) != 1:
        print("usage: summary_schema.py SUMMARY.json", file=sys.stderr)
        return 2
    found = problems(json.loads(Path(argv[0]).read_text(encoding="utf-8")))
    for line in found:
        print(f"{argv[0]}: {line}", file=sys.stderr)
    if not found:
        print(f"{argv[0]}: every field of the schema is there")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
