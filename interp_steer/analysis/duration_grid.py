"""The sweep that a run lacks for "how long must one steer?": one configuration, by K and by P.

The question needs scopes `first:K` and threats `prefill:P`, which the usual grid does not have. One
layer, method and coefficient suffice; controls and guards are left out. The command changes what
the run's report is of, so it is best given to a copy of the run.
"""

import shlex
from typing import Any

from interp_steer.analysis.run_rows import chosen_cells
from interp_steer.cells import Cell
from interp_steer.config import SweepConfig
from interp_steer.runs import Run

SCOPES = ("all", "response", *(f"first:{k}" for k in (1, 2, 4, 8, 16, 32)))
THREATS = ("malicious_prompt", *(f"prefill:{k}" for k in (2, 4, 8, 16)))
KEPT = (
    *("protocol", "test_scenarios", "selection_scenarios"),
    *("judge", "judge_config", "trait_description", "judge_free", "embedder"),
)
"""Settings of the run's sweep without which the new rows would not stand beside the old ones."""


def duration_command(run: Run) -> str:
    """The sweep, at an operating point of the run where it has one."""
    words = ["interp-steer", "sweep", str(run.path)]
    chosen = sorted(chosen_cells(run), key=_preference)
    if chosen:
        cell = chosen[0]
        words += ["--layers", str(cell.layer), "--methods", cell.method]
        words += ["--alphas", f"{cell.alpha:g}"]
    words += ["--scopes", *SCOPES, "--threats", *THREATS]
    config = run.manifest.get("sweep", {}).get("config", {})
    words += _kept_settings(config)
    if config.get("protocol") == "split":
        words += ["--reporting-scenarios", str(config.get("selection_scenarios", 24))]
    return shlex.join([*words, "--control-draws", "0", "--extras"])


def _preference(cell: Cell) -> tuple[bool, bool, str]:
    """Scope `response`, of which first:K is the beginning, and StTP, where it has a choice."""
    return cell.scope != "response", cell.method != "sttp", cell.label


def _kept_settings(config: dict[str, Any]) -> list[str]:
    usual, words = SweepConfig(), []
    for name in KEPT:
        value = config.get(name, getattr(usual, name))
        if value == getattr(usual, name):
            continue
        flag = name.replace("_", "-")
        words += [f"--no-{flag}"] if value is False else [f"--{flag}", str(value)]
    return words
