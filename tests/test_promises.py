"""The page of promises names tests that exist, and says which of them are slow."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PAGE = (TESTS.parent / "docs" / "promises.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(test_\w+\.py(?:::\w+)+)`( \*slow\*)?")


def is_slow(node: ast.ClassDef | ast.FunctionDef) -> bool:
    return any("mark.slow" in ast.unparse(one) for one in node.decorator_list)


@cache
def names_in(path: Path) -> dict[str, bool]:
    """Tests of a file, as pytest names them after the file; whether each is slow."""
    if not path.exists():
        return {}
    found, body = {}, ast.parse(path.read_text(encoding="utf-8")).body
    whole = any(isinstance(n, ast.Assign) and "mark.slow" in ast.unparse(n) for n in body)
    for node in body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = whole or is_slow(node)
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    found[f"{node.name}::{inner.name}"] = whole or is_slow(node) or is_slow(inner)
    return found


def broken(page: str) -> list[str]:
    """Promises without a test, tests that do not exist, and those whose speed is told wrong."""
    wrong = []
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    for row in rows:
        promise, _, held = row.strip("| ").partition(" | ")
        if promise == "promise":
            continue
        named = NAMED.findall(held)
        if not named or len(named) != held.count("`") // 2:
            wrong.append(f"{promise}: no test, or one that cannot be read")
        for name, slow in named:
            file, _, test = name.partition("::")
            there = names_in(TESTS / file)
            if test not in there:
                wrong.append(f"{name} does not exist")
            elif there[test] != bool(slow):
                wrong.append(f"{name} is {'' if there[test] else 'not '}slow")
    return wrong


def test_every_promise_is_held_by_tests_that_exist() -> None:
    assert broken(PAGE) == []
    assert len(re.findall(r"(?m)^\| [A-Z`]", PAGE)) > 30


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("| A. | `test_runs.py::test_unheard_of` |", "does not exist"),
        ("| A. | `test_nowhere.py::test_x` |", "does not exist"),
        ("| A. | nothing |", "no test"),
        ("| A. | `make test` |", "cannot be read"),
        (
            "| A. | `test_promises.py::test_every_promise_is_held_by_tests_that_exist` *slow* |",
            "not",
        ),
    ],
)
def test_a_broken_promise_is_seen(row: str, said: str) -> None:
    (wrong,) = broken(row)
    assert said in wrong
