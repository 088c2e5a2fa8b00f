"""The headline numbers of a run, as summary.json holds them.

Their keys are fixed; what belongs to another threat than the malicious prompt stands under a key of
its own. `report_records` holds everything behind them, `report_text` prints them.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from interp_steer.cells import CONTROL_KINDS, MALICIOUS, METHODS
from interp_steer.comparisons import BaselineResult, ControlSummary
from interp_steer.intervals import estimate_as_dict, finite_or_none
from interp_steer.measuring import Measured
from interp_steer.report_records import fold_record, report_as_operating_points
from interp_steer.report_text import METHOD_NAMES, probe_table, report_table
from interp_steer.reporting import OperatingPoint, Report

__all__ = [
    "METHOD_NAMES",
    "control_headline",
    "probe_table",
    "report_as_operating_points",
    "report_as_summary",
    "report_table",
]


def report_as_summary(report: Report) -> dict[str, Any]:
    """The headline numbers: trait and coherence 0-100, recovered a fraction.

    Extra keys say how sure they are: intervals, the flattering in-sample figure, scenario counts.
    """
    split = report.split
    summary: dict[str, Any] = {
        "aligned": _baseline_numbers(report.aligned),
        "malicious": _baseline_numbers(report.malicious),
        "methods": _method_numbers(report, MALICIOUS.threat),
        "controls": _control_numbers(report.controls, MALICIOUS.threat),
        "baselines": _reviewers_baselines(report.baselines, MALICIOUS.threat),
        "protocol": split.protocol,
        "n_scenarios": {"selection": len(split.selection), "reporting": len(split.reporting)},
    }
    others = [threat for threat in report.unsteered if threat != MALICIOUS.threat]
    if others:
        summary["threats"] = {
            threat: {
                "unsteered": _baseline_numbers(report.unsteered[threat]),
                "methods": _method_numbers(report, threat),
                "controls": _control_numbers(report.controls, threat),
                "baselines": _reviewers_baselines(report.baselines, threat),
            }
            for threat in others
        }
    return summary


def control_headline(
    controls: Iterable[ControlSummary],
    *,
    kind: str,
    method: str,
    threat: str = MALICIOUS.threat,
) -> dict[str, Any] | None:
    """One kind and method over its scopes; None without draws.

    `mean` is that of the scope with the larger mean, `max` the largest draw of any scope: the
    stricter reading wherever scopes differ.
    """
    wanted = (kind, method, threat)
    mine = [c for c in controls if (c.kind, c.method, c.group.threat) == wanted]
    if not mine:
        return None
    scopes = {
        c.scope: {
            "mean": finite_or_none(c.mean),
            "max": finite_or_none(c.max),
            "draws": [finite_or_none(value) for value in c.recovered],
            "coherence": c.coherence,
            "n_scenarios": c.n_scenarios,
        }
        for c in mine
    }
    return {
        "mean": finite_or_none(max(c.mean for c in mine)),
        "max": finite_or_none(max(c.max for c in mine)),
        "scopes": scopes,
    }


def _method_numbers(report: Report, threat: str) -> dict[str, dict[str, Any]]:
    methods: dict[str, dict[str, Any]] = {method: {} for method in METHODS}
    for point in report.points:
        if point.choice.threat == threat:
            methods[point.choice.method][point.choice.scope] = _point_numbers(point)
    return {method: scopes for method, scopes in methods.items() if scopes}


def _baseline_numbers(measured: Measured) -> dict[str, Any]:
    return {
        "trait": measured.trait.value,
        "coherence": measured.coherence.value,
        "intervals": {
            "trait": estimate_as_dict(measured.trait),
            "coherence": estimate_as_dict(measured.coherence),
        },
        "n_scenarios": measured.n_scenarios,
        "n_clusters": measured.n_clusters,
        "n_missing": measured.n_missing,
    }


def _recovering_numbers(measured: Measured) -> dict[str, Any]:
    numbers = _baseline_numbers(measured)
    numbers["intervals"]["recovered"] = estimate_as_dict(measured.recovered)
    return numbers | {"recovered": finite_or_none(measured.recovered.value)}


def _point_numbers(point: OperatingPoint) -> dict[str, Any]:
    return {
        "layer": point.selected.cell.layer,
        "alpha": point.selected.cell.alpha,
        **_recovering_numbers(point.reported),
        "recovered_in_sample": finite_or_none(point.in_sample_recovered),
        "keeps_coherence": point.choice.keeps_coherence,
        "folds": [fold_record(fold) for fold in point.folds],
    }


def _control_numbers(controls: Sequence[ControlSummary], threat: str) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for kind in CONTROL_KINDS:
        for method in METHODS:
            headline = control_headline(controls, kind=kind, method=method, threat=threat)
            if headline is not None:
                numbers.setdefault(kind, {})[method] = headline
    return numbers


def _reviewers_baselines(baselines: Sequence[BaselineResult], threat: str) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for baseline in baselines:
        group, found = baseline.group, _recovering_numbers(baseline.measured)
        if group is None:
            if threat == MALICIOUS.threat:
                numbers[baseline.name] = found
        elif group.threat == threat:
            scopes = numbers.setdefault(baseline.name, {}).setdefault(group.method, {})
            scopes[group.scope] = found
    return numbers
