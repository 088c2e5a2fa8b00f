"""The headline numbers of a run, as JSON and as the table that a terminal shows."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from interp_steer.cells import CONTROL_KINDS, METHODS
from interp_steer.probes import ProbeSet
from interp_steer.reporting import ControlSummary, Measured, OperatingPoint, Report
from interp_steer.statistics import Estimate, estimate_as_dict

METHOD_NAMES = {"swfc": "SwFC", "sttp": "StTP", "stmp": "StMP"}
"""The paper's spelling."""


def report_as_summary(report: Report) -> dict[str, Any]:
    """The headline numbers: trait and coherence 0-100, recovered a fraction.

    Extra keys say how sure they are: intervals, the flattering in-sample figure, scenario counts.
    """
    methods: dict[str, dict[str, Any]] = {method: {} for method in METHODS}
    for point in report.points:
        methods[point.choice.method][point.choice.scope] = _point_numbers(point)
    return {
        "aligned": _baseline_numbers(report.aligned),
        "malicious": _baseline_numbers(report.malicious),
        "methods": {method: scopes for method, scopes in methods.items() if scopes},
        "controls": _control_numbers(report.controls),
        "n_scenarios": {
            "selection": len(report.split.selection),
            "reporting": len(report.split.reporting),
        },
    }


def report_as_operating_points(report: Report) -> dict[str, Any]:
    """What operating_points.json holds: the choices, their intervals, and who chose."""
    return {
        "rule": (
            f"highest trait with coherence >= {report.coherence_share:g} x the aligned baseline's, "
            "chosen on the selection scenarios; every reported number is from the reporting ones"
        ),
        "intervals": (
            "95 %, scenarios resampled, conditional on the chosen cell; Wilson at 0 or 100"
        ),
        "selection_scenarios": [scenario.id for scenario in report.split.selection],
        "reporting_scenarios": [scenario.id for scenario in report.split.reporting],
        "operating_points": [_point_record(point) for point in report.points],
        "controls": [_control_record(control) for control in report.controls],
    }


def report_table(report: Report, *, title: str) -> str:
    """The table of one run, as plain text."""
    lines = [title, "", _columns("", "layer", "alpha", "trait", "coherence", "recovered")]
    lines.append(_baseline_line("aligned prompt, unsteered", report.aligned))
    lines.append(_baseline_line("malicious prompt, unsteered", report.malicious))
    lines.extend(_point_line(point) for point in report.points)
    if report.controls:
        lines += ["", _columns("control", "draws", "", "", "coherence", "mean  (max)")]
        lines.extend(_control_line(control) for control in report.controls)
    lines += ["", *_footnotes(report)]
    return "\n".join(lines)


def probe_table(probes: ProbeSet) -> str:
    """Readability of every layer, as plain text."""
    widths = (5, 12, 14, 12, 12, 12)
    names = ("layer", "Cohen's d", "d in-sample", "accuracy", "AUROC", "cosine CAA")
    lines = ["".join(f"{n:>{w}}" for n, w in zip(names, widths, strict=True))]
    for probe in probes.probes:
        fitted = probe.crossfit
        values = (
            str(probe.layer),
            f"{fitted.cohens_d:.2f}",
            f"{probe.in_sample.cohens_d:.2f}",
            f"{fitted.accuracy:.3f}",
            f"{fitted.auroc:.3f}",
            f"{probe.cosine_caa:.3f}",
        )
        line = "".join(f"{v:>{w}}" for v, w in zip(values, widths, strict=True))
        lines.append(line if probe.converged else f"{line}  (did not converge)")
    note = "Cross-fitted unless named in-sample. A readable layer is not thereby a steerable one."
    return "\n".join([*lines, "", note])


def control_headline(
    controls: Iterable[ControlSummary], *, kind: str, method: str
) -> dict[str, Any] | None:
    """One kind and method over its scopes; None without draws.

    `mean` is that of the scope with the larger mean, `max` the largest draw of any scope: the
    stricter reading wherever scopes differ.
    """
    mine = [c for c in controls if (c.kind, c.method) == (kind, method)]
    if not mine:
        return None
    scopes = {
        c.scope: {
            "mean": _number(c.mean),
            "max": _number(c.max),
            "draws": [_number(value) for value in c.recovered],
            "coherence": c.coherence,
            "n_scenarios": c.n_scenarios,
        }
        for c in mine
    }
    return {
        "mean": _number(max(c.mean for c in mine)),
        "max": _number(max(c.max for c in mine)),
        "scopes": scopes,
    }


def _baseline_numbers(measured: Measured) -> dict[str, Any]:
    return {
        "trait": measured.trait.value,
        "coherence": measured.coherence.value,
        "intervals": {
            "trait": estimate_as_dict(measured.trait),
            "coherence": estimate_as_dict(measured.coherence),
        },
        "n_scenarios": measured.n_scenarios,
    }


def _point_numbers(point: OperatingPoint) -> dict[str, Any]:
    numbers = _baseline_numbers(point.reported)
    numbers["intervals"]["recovered"] = estimate_as_dict(point.reported.recovered)
    return {
        "layer": point.selected.cell.layer,
        "alpha": point.selected.cell.alpha,
        **numbers,
        "recovered": _number(point.reported.recovered.value),
        "recovered_in_sample": _number(point.in_sample_recovered),
        "keeps_coherence": point.choice.keeps_coherence,
    }


def _control_numbers(controls: Sequence[ControlSummary]) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for kind in CONTROL_KINDS:
        for method in METHODS:
            headline = control_headline(controls, kind=kind, method=method)
            if headline is not None:
                numbers.setdefault(kind, {})[method] = headline
    return numbers


def _point_record(point: OperatingPoint) -> dict[str, Any]:
    return {
        "method": point.choice.method,
        "scope": point.choice.scope,
        "layer": point.selected.cell.layer,
        "alpha": point.selected.cell.alpha,
        "keeps_coherence": point.choice.keeps_coherence,
        "selection": {
            "trait": point.selected.trait,
            "coherence": point.selected.coherence,
            "recovered": _number(point.in_sample_recovered),
            "n_rows": point.selected.n_rows,
        },
        "reporting": _measured_record(point.reported),
        "finalists": [
            {"layer": m.cell.layer, "alpha": m.cell.alpha, **_measured_record(m)}
            for m in point.finalists
        ],
    }


def _measured_record(measured: Measured) -> dict[str, Any]:
    return {
        "trait": estimate_as_dict(measured.trait),
        "coherence": estimate_as_dict(measured.coherence),
        "recovered": estimate_as_dict(measured.recovered),
        "n_scenarios": measured.n_scenarios,
    }


def _control_record(control: ControlSummary) -> Mapping[str, Any]:
    return {
        "control": control.kind,
        "method": control.method,
        "scope": control.scope,
        "recovered": [_number(value) for value in control.recovered],
        "mean": _number(control.mean),
        "max": _number(control.max),
        "coherence": control.coherence,
        "n_scenarios": control.n_scenarios,
    }


def _baseline_line(name: str, measured: Measured) -> str:
    return _columns(name, "", "", _value(measured.trait), _value(measured.coherence), "")


def _point_line(point: OperatingPoint) -> str:
    cell, measured = point.selected.cell, point.reported
    name = f"{METHOD_NAMES[cell.method]}, scope {cell.scope}"
    return _columns(
        name if point.choice.keeps_coherence else f"{name} *",
        str(cell.layer),
        f"{cell.alpha:g}",
        _value(measured.trait),
        _value(measured.coherence),
        _value(measured.recovered, scale=100),
    )


def _control_line(control: ControlSummary) -> str:
    kind = control.kind.replace("_", " ")
    return _columns(
        f"{kind}, {METHOD_NAMES[control.method]}, {control.scope}",
        str(len(control.recovered)),
        "",
        "",
        f"{control.coherence:.0f}",
        f"{100 * control.mean:.0f} %  ({100 * control.max:.0f} %)",
    )


def _footnotes(report: Report) -> list[str]:
    split = report.split
    lines = [
        f"Layer and alpha were chosen on {len(split.selection)} selection scenarios; the numbers "
        f"are from {len(split.reporting)} others.",
        "In brackets: 95 % intervals, scenarios resampled, given the chosen layer and alpha.",
    ]
    if report.controls:
        n = report.controls[0].n_scenarios
        lines.append(
            "Controls: same gate and signed shift, edited along another unit vector; "
            f"{n} scenarios each, recovered as mean and largest draw."
        )
    if not all(point.choice.keeps_coherence for point in report.points):
        lines.append(
            f"* no cell kept {report.coherence_share:.0%} of the aligned coherence; shown is the "
            "most coherent one."
        )
    return lines


def _columns(name: str, *values: str) -> str:
    widths = (6, 6, 17, 17, 19)
    cells = [f"{value:>{width}}" for value, width in zip(values, widths, strict=True)]
    return (f"{name:<34}" + "".join(cells)).rstrip()


def _value(estimate: Estimate, *, scale: float = 1.0) -> str:
    if not math.isfinite(estimate.value):
        return "no gap"
    interval = estimate.interval
    unit = " %" if scale != 1.0 else ""
    ends = f"[{scale * interval.low:.0f}, {scale * interval.high:.0f}]"
    return f"{scale * estimate.value:.0f}{unit} {ends}"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
