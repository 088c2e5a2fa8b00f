"""Which tokens does the gate fire on, and how often on runs that need no steering?

    python -m analyses.token_interventions RUN [--top 20]

token_interventions: one row a traced configuration, side and group of tokens.
  method, direction, scope, layer, alpha, side (whose system prompt); by (segment; position: from
  the start of the sequence, in tens; response_position: from the first response token, in fives;
  token_type; token: the `top` fired most often) and group (its value); share, share_low,
  share_high (fired among the group's tokens in scope; 95 %, clusters resampled); n_in_scope;
  n_fired; mean_shift (signed, fired tokens, activation units); mean_relative_norm (fired tokens,
  edit over residual); n_scenarios.
token_interventions_false_fires: one row a layer, kind and segment: how often tokens of *aligned*
  responses lie where the gate fires.
  layer; kind (traced: aligned or neutral runs under steering; unsteered: training responses, by
  their projections; swept: guard rows of the sweep); method, scope, alpha, side; segment; share,
  share_low, share_high; n (tokens; responses for swept), n_scenarios.

Only what was traced is counted (a few scenarios by default), tokens are untrusted text. SwFC has no
gate and fires on every token in scope. A few seconds.
"""

import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd

from interp_steer.analysis.bootstrap import grouped_means
from interp_steer.analysis.command import Analysis, RunOption
from interp_steer.analysis.run_rows import sweep_frame
from interp_steer.analysis.tidy_tables import Findings
from interp_steer.analysis.trace_frames import CELL, trace_frame
from interp_steer.analysis.training_data import token_projections
from interp_steer.fit_stage import load_probes
from interp_steer.runs import Run

KEYS = [*CELL, "side"]
FALSE_KEYS = ["layer", "kind", "method", "scope", "alpha", "side", "segment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(RunOption):
    """Which tokens does the gate fire on, and how often on runs that need no steering?"""

    top: int = 20
    """Tokens listed for each configuration: those fired most often."""


def find(run: Run, options: Options) -> Findings:
    """Firing by group of tokens, and false fires."""
    traces = trace_frame(run)
    scoped = traces[traces["in_scope"]].copy()
    scoped["share"] = scoped["fired"].astype(np.float64)
    groups = {
        "segment": scoped["segment"],
        "position": scoped["pos"].floordiv(10) * 10,
        "response_position": (scoped["response_pos"].floordiv(5) * 5).where(
            scoped["response_pos"] >= 0
        ),
        "token_type": scoped["token_type"],
        "token": scoped["token"].where(_is_among_top(scoped, options.top)),
    }
    parts = [_grouped(scoped.assign(group=values), by) for by, values in groups.items()]
    tables = {"": pd.concat(parts, ignore_index=True)}
    found = [
        part
        for part in (_traced(scoped), _unsteered(run, traces), _swept(run))
        if part is not None and len(part)
    ]
    if found:
        tables["false_fires"] = _false_fires(pd.concat(found, ignore_index=True))
    missing = (
        () if found else ("nothing about false fires: no aligned traces, projections, guards",)
    )
    inputs = (run.traces_folder, run.projections_file, run.sweep_folder, run.probes_file)
    return Findings(tables=tables, inputs=inputs, notes=missing)


def _is_among_top(scoped: pd.DataFrame, top: int) -> pd.Series:
    """Whether a token is one of those that fired most often in its configuration."""
    fires = scoped.groupby([*KEYS, "token"])["fired"].sum().rename("fires").reset_index()
    fires = fires[fires["fires"] > 0].sort_values(
        [*KEYS, "fires", "token"], ascending=[True] * len(KEYS) + [False, True]
    )
    best = fires.groupby(KEYS).head(top).set_index([*KEYS, "token"]).index
    return pd.Series(
        pd.MultiIndex.from_frame(scoped[[*KEYS, "token"]]).isin(best), index=scoped.index
    )


def _grouped(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    frame = frame[frame["group"].notna()]
    if by in ("position", "response_position"):
        frame = frame.assign(group=frame["group"].astype(np.int64))
    keys = [*KEYS, "group"]
    table = grouped_means(frame, keys, ["share"])
    shift = frame["projection_after"] - frame["projection_before"]
    fired = frame.assign(shift=shift)[frame["fired"]].groupby(keys)
    sums = pd.DataFrame(
        {
            "n_fired": fired.size(),
            "mean_shift": fired["shift"].mean().astype(np.float64),
            "mean_relative_norm": fired["relative_norm"].mean().astype(np.float64),
        }
    )
    table = table.merge(sums.reset_index(), how="left", on=keys)
    table["n_fired"] = table["n_fired"].fillna(0).astype(np.int64)
    table["group"] = table["group"].astype(str)
    table.insert(len(KEYS), "by", by)
    return table.rename(columns={"n_rows": "n_in_scope"})


def _traced(scoped: pd.DataFrame) -> pd.DataFrame:
    spared = scoped[scoped["side"].isin(["aligned", "neutral"])].assign(kind="traced")
    return pd.concat([spared, spared.assign(segment="all")])


def _unsteered(run: Run, traces: pd.DataFrame) -> pd.DataFrame | None:
    """Tokens of aligned training responses below m, at the layers that were traced."""
    if not run.projections_file.exists():
        return None
    probes, tokens = load_probes(run), token_projections(run)
    chosen = (tokens["side"] == "aligned") & tokens["layer"].isin(traces["layer"].unique())
    tokens = tokens[chosen].assign(kind="unsteered")
    boundary = tokens["layer"].map({p.layer: p.boundary for p in probes.probes})
    tokens["share"] = (tokens["projection"] < boundary).astype(np.float64)
    return pd.concat([tokens, tokens.assign(segment="all")])


def _swept(run: Run) -> pd.DataFrame | None:
    """Guard rows of the sweep: the share of fired tokens of each response."""
    if not any(run.sweep_folder.glob("*.parquet")):
        return None
    rows = sweep_frame(run)
    rows = rows[(rows["method"] != "none") & (rows["threat"] == "none")]
    rows = rows[rows["control"] == "none"].assign(kind="swept", segment="all")
    return rows.assign(share=rows["fired_share"]).dropna(subset=["share"])


def _false_fires(frame: pd.DataFrame) -> pd.DataFrame:
    for name in FALSE_KEYS:
        frame[name] = frame.get(name, np.nan)
    frame["layer"] = frame["layer"].astype(np.int64)
    return grouped_means(frame, FALSE_KEYS, ["share"]).rename(columns={"n_rows": "n"})


ANALYSIS = Analysis(name="token_interventions", about=__doc__ or "", options=Options, find=find)
main = ANALYSIS.main
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
