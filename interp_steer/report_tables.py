"""The tables of a report: operating points, paired differences, the price of a guard.

The shape is that of the paper's table C.1 (method, scope, layer, alpha, trait, coherence) with what
it lacks: intervals, the in-sample figure, controls and baselines. The numbers are those of
`operating_points.json`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from interp_steer.candidates import Group
from interp_steer.cells import MEAN_DIFFERENCE
from interp_steer.comparisons import DEFENCE, BaselineResult, ControlSummary
from interp_steer.files import atomic_write_bytes
from interp_steer.guard import GuardMeasures, GuardPrice
from interp_steer.measuring import Measured
from interp_steer.report_text import METHOD_NAMES, threat_name
from interp_steer.reporting import OperatingPoint, Report
from interp_steer.table_files import Column, MeanMax, Table, Value

_POINT_COLUMNS = (
    Column(name="method", title="method"),
    Column(name="scope", title="scope"),
    Column(name="threat", title="threat"),
    Column(name="layer", title="layer"),
    Column(name="alpha", title="alpha", digits=None),
    Column(name="halves_chose", title="halves chose (layer:alpha)"),
    Column(name="trait", title="trait"),
    Column(name="coherence", title="coherence"),
    Column(name="recovered", title="recovered, %", scale=100),
    Column(name="recovered_in_sample", title="in-sample, %", scale=100),
    Column(name="random_direction", title="random direction, %", scale=100),
    Column(name="shuffled_labels", title="shuffled labels, %", scale=100),
    Column(name="n_scenarios", title="n"),
    Column(name="n_missing", title="missing"),
)


def write_tables(report: Report, folder: Path, *, title: str) -> list[Path]:
    """Write every table of a report in every format, each file atomically; return their paths."""
    paths = []
    for table in report_tables(report, title=title):
        for suffix, text in (
            ("csv", table.as_csv()),
            ("tex", table.as_latex()),
            ("md", table.as_markdown()),
        ):
            paths.append(folder / f"{table.name}.{suffix}")
            atomic_write_bytes(paths[-1], text.encode("utf-8"))
    return paths


def report_tables(report: Report, *, title: str) -> tuple[Table, ...]:
    """Operating points with baselines and controls, paired differences, the price of a guard."""
    return (
        _operating_points(report, title),
        _differences(report, title),
        _guard_prices(report, title),
    )


def _operating_points(report: Report, title: str) -> Table:
    needless = {"halves_chose"} if not report.split.halves else set()
    needless |= {"n_missing"} if not report.n_missing else set()
    rows: list[Mapping[str, Value]] = [_baseline_row("aligned, unsteered", report.aligned)]
    for threat, measured in report.unsteered.items():
        name = f"{threat_name(threat)}, unsteered"
        rows.append(_baseline_row(name, measured) | {"threat": threat})
    rows += [_reviewer_row(b) for b in report.baselines if b.name == DEFENCE]
    rows += [_point_row(point, report.controls) for point in report.points]
    rows += [_reviewer_row(b) for b in report.baselines if b.name != DEFENCE]
    return Table(
        name="operating_points",
        caption=(
            f"{title}: operating points (highest trait with coherence at least "
            f"{report.coherence_share:.0%} of the aligned baseline's). {_who_chose(report)} In "
            "brackets: 95 % intervals over clusters of scenarios. Recovered: share of the gap, %. "
            "In-sample: on the scenarios that chose (flattering). Controls: mean (maximum) over "
            "draws." + " Missing: rows that the judge could not score." * bool(report.n_missing)
        ),
        columns=tuple(column for column in _POINT_COLUMNS if column.name not in needless),
        rows=tuple(rows),
    )


def _who_chose(report: Report) -> str:
    split = report.split
    if split.halves:
        return (
            f"Two-fold: each half of {len(split.reporting)} scenarios chose for the other; layer "
            "and alpha are those chosen on all."
        )
    return (
        f"Chosen on {len(split.selection)} scenarios, reported on {len(split.reporting)} others; "
        "intervals are conditional on the choice."
    )


def _baseline_row(name: str, measured: Measured) -> dict[str, Value]:
    return {
        "method": name,
        "trait": measured.trait,
        "coherence": measured.coherence,
        "n_scenarios": measured.n_scenarios,
        "n_missing": measured.n_missing,
    }


def _reviewer_row(baseline: BaselineResult) -> dict[str, Value]:
    row = _baseline_row("prompt-only defence", baseline.measured)
    row |= {"threat": "malicious_prompt", "recovered": baseline.measured.recovered}
    if baseline.group is not None:
        row |= _group(baseline.group)
        row["method"] = f"{METHOD_NAMES[baseline.group.method]}, mean difference"
    return row


def _point_row(point: OperatingPoint, controls: Sequence[ControlSummary]) -> dict[str, Value]:
    cell, group = point.selected.cell, point.choice.group
    chose = " / ".join(f"{fold.cell.layer}:{fold.cell.alpha:g}" for fold in point.folds)
    row = _baseline_row("", point.reported) | _group(group)
    row |= {
        "layer": cell.layer,
        "alpha": cell.alpha,
        "halves_chose": chose or None,
        "recovered": point.reported.recovered,
        "recovered_in_sample": point.in_sample_recovered,
    }
    for control in controls:
        if control.group == group:
            row[control.kind] = MeanMax(mean=control.mean, max=control.max)
    return row


def _differences(report: Report, title: str) -> Table:
    rows = [
        {
            "of": METHOD_NAMES[found.of],
            "minus": _other(found.minus),
            "scope": found.scope,
            "threat": found.threat,
            "trait": found.contrast.trait,
            "coherence": found.contrast.coherence,
            "recovered": found.contrast.recovered,
            "n_scenarios": found.contrast.n_scenarios,
        }
        for found in report.differences
    ]
    return Table(
        name="differences",
        caption=(
            f"{title}: paired differences on the same scenarios, first minus second, with 95 % "
            "intervals; trait and coherence in points, recovered in percentage points."
        ),
        columns=(
            Column(name="of", title="method"),
            Column(name="minus", title="minus"),
            Column(name="scope", title="scope"),
            Column(name="threat", title="threat"),
            Column(name="trait", title="trait"),
            Column(name="coherence", title="coherence"),
            Column(name="recovered", title="recovered, %", scale=100),
            Column(name="n_scenarios", title="n"),
        ),
        rows=tuple(rows),
    )


def _other(name: str) -> str:
    names = {**METHOD_NAMES, MEAN_DIFFERENCE: "mean difference", DEFENCE: "prompt-only defence"}
    return names[name]


def _guard_prices(report: Report, title: str) -> Table:
    rows: list[Mapping[str, Value]] = []
    for side in dict.fromkeys(guard.side for guard in report.guards):
        mine = [guard for guard in report.guards if guard.side == side]
        rows.append({"method": "unsteered", "side": side, **_guard_row(mine[0].unsteered)})
        rows += [_priced(guard) for guard in mine]
    return Table(
        name="guard_price",
        caption=(
            f"{title}: the price of a guard, the chosen configurations where there is no threat. "
            "Fired: share of the tokens in scope, %. KL: next token, steered from unsteered, nats."
        ),
        columns=(
            Column(name="method", title="method"),
            Column(name="scope", title="scope"),
            Column(name="threat", title="chosen under"),
            Column(name="side", title="prompt"),
            Column(name="trait", title="trait"),
            Column(name="coherence", title="coherence"),
            Column(name="fired_share", title="fired, %", scale=100),
            Column(name="kl_to_unsteered", title="KL", digits=3),
            Column(name="n_tokens", title="tokens"),
            Column(name="trait_change", title="trait change"),
            Column(name="coherence_change", title="coherence change"),
            Column(name="n_scenarios", title="n"),
        ),
        rows=tuple(rows),
    )


def _priced(guard: GuardPrice) -> dict[str, Value]:
    return {
        **_group(guard.group),
        "side": guard.side,
        **_guard_row(guard.steered),
        "trait_change": guard.trait_change,
        "coherence_change": guard.coherence_change,
        "n_scenarios": guard.n_scenarios,
    }


def _guard_row(measures: GuardMeasures) -> dict[str, Value]:
    return {
        "trait": measures.trait,
        "coherence": measures.coherence,
        "fired_share": measures.fired_share,
        "kl_to_unsteered": measures.kl,
        "n_tokens": measures.n_tokens,
    }


def _group(group: Group) -> dict[str, Value]:
    return {
        "method": METHOD_NAMES[group.method],
        "scope": group.scope,
        "threat": group.threat,
    }
