"""Scenario sets for real language models that come with the library, found by name.

`honesty` and `compassion` are written by hand, in plain English, for models that hold a
conversation; the sets of `interp_steer.organism` speak the bundled model's small grammar and are
other files. What they are, how they were written and what they cannot show: docs/scenarios.md. A
result on them is a result about these prompts; for a claim about your own use, bring your own file.
"""

import os
from pathlib import Path

from interp_steer.errors import ScenarioError
from interp_steer.scenarios import Scenario, load_scenarios

_FOLDER = Path(__file__).parent

SET_NAMES = tuple(sorted(path.stem for path in _FOLDER.glob("*.jsonl")))
"""Names of the bundled sets."""


def scenario_set_path(name: str) -> Path:
    """Return the JSONL file of a bundled set.

    Raises:
        ScenarioError: no set has this name.
    """
    if name not in SET_NAMES:
        raise ScenarioError(f"no bundled scenario set is called {name!r}; there are {_listed()}")
    return _FOLDER / f"{name}.jsonl"


def load_scenario_set(name: str) -> tuple[Scenario, ...]:
    """Return the scenarios of a bundled set, both splits.

    Raises:
        ScenarioError: no set has this name.
    """
    return load_scenarios(scenario_set_path(name))


def find_scenarios(source: str | os.PathLike[str]) -> Path:
    """Return the scenario file that `source` means: a file's path, or a bundled set's name.

    A file that is there comes first, so that a file of one's own may be called `honesty`.

    Raises:
        ScenarioError: neither such a file nor such a set.
    """
    path = Path(source)
    if path.is_file():
        return path
    if str(source) in SET_NAMES:
        return scenario_set_path(str(source))
    state = "is a directory" if path.is_dir() else "is not there"
    raise ScenarioError(
        f"expected a scenario file (JSONL) or the name of a bundled set ({_listed()}), and "
        f"{str(source)!r} {state}"
    )


def _listed() -> str:
    return ", ".join(SET_NAMES)
