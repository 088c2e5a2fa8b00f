"""Which configuration was chosen for each method and scope, and how well does it do?

    python -m analyses.operating_points RUN

operating_points: one row an estimate-bearing entry of operating_points.json (Table C.1, tidy).
  role (operating_point, finalist, baseline, control); name (of a baseline or kind of control);
  method, scope, threat, layer, alpha; keeps_coherence; trait, coherence (0-100), recovered (share
  of the gap), each with _low and _high (95 %) as reported; recovered_in_sample (on the scenarios
  that chose it: flattering); recovered_max (controls: the largest of n_draws); n_scenarios.

A moment.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from interp_steer.analysis.command import Analysis, RunOption
from interp_steer.analysis.tidy_tables import Findings, require
from interp_steer.runs import Run, read_json

Record = dict[str, Any]

COLUMNS = [
    *("role", "name", "method", "scope", "threat", "layer", "alpha", "keeps_coherence"),
    *(f"{m}{end}" for m in ("trait", "coherence", "recovered") for end in ("", "_low", "_high")),
    *("recovered_in_sample", "recovered_max", "n_draws", "n_scenarios"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(RunOption):
    """Which configuration was chosen for each method and scope, and how well does it do?"""


def find(run: Run, options: Options) -> Findings:  # noqa: ARG001 - every analysis has options
    """The entries of operating_points.json, one a row."""
    select = f"interp-steer select {run.path}"
    file = require(run.operating_points_file, "operating points", command=select)
    said = read_json(file, remedy=f"run `{select}` again")
    table = pd.DataFrame(list(_rows(said)), columns=COLUMNS)
    for name in COLUMNS[6:]:
        if name != "keeps_coherence":
            table[name] = pd.to_numeric(table[name])
    kinds = {"layer": "Int64", "n_draws": "Int64", "n_scenarios": "Int64"}
    return Findings(
        tables={"": table.astype({**kinds, "keeps_coherence": "boolean"})},
        inputs=(file,),
        config={name: said[name] for name in ("protocol", "rule") if name in said},
    )


def _rows(said: Record) -> Iterator[Record]:
    for point in said["operating_points"]:
        group = _group(point)
        yield {
            "role": "operating_point",
            **group,
            "layer": point["layer"],
            "alpha": point["alpha"],
            "keeps_coherence": point["keeps_coherence"],
            **_measured(point["reporting"]),
            "recovered_in_sample": point["selection"]["recovered"],
        }
        for other in point["finalists"]:
            cell = {"layer": other["layer"], "alpha": other["alpha"]}
            yield {"role": "finalist", **group, **cell, **_measured(other)}
    for baseline in _baselines(said):
        yield {"role": "baseline", **baseline}
    for control in said["controls"]:
        yield {
            "role": "control",
            "name": control.get("control", control.get("kind")),
            **_group(control),
            "recovered": control["mean"],
            "recovered_max": control["max"],
            "coherence": control["coherence"],
            "n_draws": len(control["recovered"]),
            "n_scenarios": control["n_scenarios"],
        }


def _baselines(said: Record) -> Iterator[Record]:
    if "aligned" in said:
        yield {"name": "aligned", **_measured(said["aligned"])}
    for threat, measured in said.get("unsteered", {}).items():
        yield {"name": "unsteered", "threat": threat, **_measured(measured)}
    for baseline in said.get("baselines", []):
        group = _group(baseline) if "method" in baseline else {}
        yield {"name": baseline["baseline"], **group, **_measured(baseline)}


def _group(entry: Record) -> Record:
    threat = entry.get("threat", "malicious_prompt")
    return {"method": entry["method"], "scope": entry["scope"], "threat": threat}


def _measured(entry: Record) -> Record:
    ends = {"": "value", "_low": "low", "_high": "high"}
    return {
        f"{measure}{end}": entry[measure][key]
        for measure in ("trait", "coherence", "recovered")
        for end, key in ends.items()
    } | {"n_scenarios": entry["n_scenarios"]}


ANALYSIS = Analysis(name="operating_points", about=__doc__ or "", options=Options, find=find)
main = ANALYSIS.main
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
