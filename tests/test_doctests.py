"""Examples in docstrings say what they print. What they import is tested elsewhere.

Equal to `pytest --doctest-modules` on these modules, without importing the others.
"""

import doctest
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "interp_steer"


def modules_with_examples() -> list[str]:
    """Every module with a prompt in its source, by its dotted name."""
    return [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in sorted(PACKAGE.rglob("*.py"))
        if ">>> " in path.read_text(encoding="utf-8")
    ]


def test_there_are_examples():
    assert {"interp_steer.interventions", "interp_steer.probes"} <= set(modules_with_examples())


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_print_what_they_say(name: str):
    module = importlib.import_module(name)
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(verbose=False)
    for example in finder.find(module, name):
        runner.run(example)
    n_prompts = Path(str(module.__file__)).read_text(encoding="utf-8").count(">>> ")
    assert runner.tries == n_prompts  # none is out of the finder's sight
    assert runner.failures == 0


def test_a_wrong_example_fails():
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert wrong is not None
    assert doctest.DocTestRunner(verbose=False).run(wrong, out=[].append).failed == 1
