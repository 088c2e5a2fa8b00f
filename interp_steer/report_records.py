"""Everything behind the headline numbers, as operating_points.json holds it.

Every estimate carries its interval and what that interval includes; a number that is not defined is
null, and so is what a sweep did not measure.
"""

from collections.abc import Mapping
from typing import Any

from interp_steer.candidates import Group
from interp_steer.comparisons import BaselineResult, ControlSummary, Difference
from interp_steer.guard import GuardMeasures, GuardPrice
from interp_steer.intervals import Estimate, estimate_as_dict, finite_or_none
from interp_steer.measuring import Measured
from interp_steer.pareto import Front
from interp_steer.reporting import OperatingPoint, Report
from interp_steer.two_fold import FoldChoice

RULES = {
    "split": "chosen on the selection scenarios; every reported number is from the reporting ones",
    "two_fold": (
        "each half of the test scenarios chooses for the other and the halves are pooled; the "
        "operating point itself is chosen on all of them, and its in-sample figure flatters"
    ),
}
INTERVALS = {
    "cluster_bootstrap": "clusters of scenarios resampled",
    "conditional_bootstrap": "the same, given the cells that were chosen",
    "selection_bootstrap": "the same, choosing anew in every resample",
    "wilson": "at 0 or 100 %: the bootstrap's or Wilson's ends, whichever are wider",
    "newcombe": "difference with one side at 0 or 100 %: the bootstrap's or Newcombe's ends",
}


def report_as_operating_points(report: Report) -> dict[str, Any]:
    """What operating_points.json holds: choices, intervals, comparisons, and who chose."""
    split = report.split
    return {
        "protocol": split.protocol,
        "rule": (
            f"highest trait with coherence >= {report.coherence_share:g} x the aligned baseline's, "
            + RULES[split.protocol]
        ),
        "intervals": {"level": 0.95, "kinds": INTERVALS},
        "clusters": {
            "meaning": report.clusters.meaning,
            "n": len(report.clusters),
            "of": dict(report.clusters.of),
        },
        "selection_scenarios": [scenario.id for scenario in split.selection],
        "reporting_scenarios": [scenario.id for scenario in split.reporting],
        "halves": [[scenario.id for scenario in half] for half in split.halves],
        "answering_scenarios": [scenario.id for scenario in split.answering],
        "missing": {"rows": report.n_rows, "without_score": report.n_missing},
        "left_out": list(report.left_out),
        "aligned": _measured_record(report.aligned),
        "unsteered": {t: _measured_record(m) for t, m in report.unsteered.items()},
        "operating_points": [_point_record(point) for point in report.points],
        "controls": [_control_record(control) for control in report.controls],
        "baselines": [_baseline_record(baseline) for baseline in report.baselines],
        "differences": [_difference_record(difference) for difference in report.differences],
        "guards": [_guard_record(guard) for guard in report.guards],
        "pareto": [_front_record(front) for front in report.fronts],
    }


def _group(group: Group) -> dict[str, str]:
    return {"method": group.method, "scope": group.scope, "threat": group.threat}


def _point_record(point: OperatingPoint) -> dict[str, Any]:
    return {
        **_group(point.choice.group),
        "layer": point.selected.cell.layer,
        "alpha": point.selected.cell.alpha,
        "keeps_coherence": point.choice.keeps_coherence,
        "selection": {
            "in_sample": "flatters: these scenarios chose the cell",
            "trait": point.selected.trait,
            "coherence": point.selected.coherence,
            "recovered": finite_or_none(point.in_sample_recovered),
            "n_rows": point.selected.n_rows,
            "n_missing": point.selected.n_missing,
        },
        "reporting": _measured_record(point.reported),
        "folds": [fold_record(fold) for fold in point.folds],
        "finalists": [_with_cell(measured) for measured in point.finalists],
    }


def fold_record(fold: FoldChoice) -> dict[str, Any]:
    """What one half chose."""
    return {
        "layer": fold.cell.layer,
        "alpha": fold.cell.alpha,
        "keeps_coherence": fold.keeps_coherence,
        "same_in_resamples": fold.same_in_resamples,
    }


def _measured_record(measured: Measured) -> dict[str, Any]:
    return {
        "trait": estimate_as_dict(measured.trait),
        "coherence": estimate_as_dict(measured.coherence),
        "recovered": estimate_as_dict(measured.recovered),
        "n_scenarios": measured.n_scenarios,
        "n_clusters": measured.n_clusters,
        "n_missing": measured.n_missing,
    }


def _with_cell(measured: Measured) -> dict[str, Any]:
    (cell,) = measured.cells
    return {"layer": cell.layer, "alpha": cell.alpha, **_measured_record(measured)}


def _control_record(control: ControlSummary) -> Mapping[str, Any]:
    return {
        "control": control.kind,
        **_group(control.group),
        "recovered": [finite_or_none(value) for value in control.recovered],
        "mean": finite_or_none(control.mean),
        "max": finite_or_none(control.max),
        "coherence": control.coherence,
        "n_scenarios": control.n_scenarios,
    }


def _baseline_record(baseline: BaselineResult) -> Mapping[str, Any]:
    group = {} if baseline.group is None else _group(baseline.group)
    return {"baseline": baseline.name, **group, **_measured_record(baseline.measured)}


def _difference_record(difference: Difference) -> Mapping[str, Any]:
    found = difference.contrast
    return {
        "of": difference.of,
        "minus": difference.minus,
        "scope": difference.scope,
        "threat": difference.threat,
        "trait": estimate_as_dict(found.trait),
        "coherence": estimate_as_dict(found.coherence),
        "recovered": estimate_as_dict(found.recovered),
        "n_scenarios": found.n_scenarios,
    }


def _guard_record(guard: GuardPrice) -> Mapping[str, Any]:
    return {
        **_group(guard.group),
        "side": guard.side,
        "steered": _guard_measures(guard.steered),
        "unsteered": _guard_measures(guard.unsteered),
        "trait_change": estimate_as_dict(guard.trait_change),
        "coherence_change": estimate_as_dict(guard.coherence_change),
        "n_scenarios": guard.n_scenarios,
    }


def _guard_measures(measures: GuardMeasures) -> dict[str, Any]:
    def record(estimate: Estimate | None) -> Mapping[str, Any] | None:
        return None if estimate is None else estimate_as_dict(estimate)

    return {
        "trait": record(measures.trait),
        "coherence": record(measures.coherence),
        "fired_share": record(measures.fired_share),
        "kl_to_unsteered": record(measures.kl),
        "n_tokens": record(measures.n_tokens),
    }


def _front_record(front: Front) -> Mapping[str, Any]:
    return {
        **_group(front.group),
        "in_sample": "flatters: drawn from the scenarios that choose",
        "n_candidates": front.n_candidates,
        "cells": [
            {
                "layer": score.cell.layer,
                "alpha": score.cell.alpha,
                "trait": score.trait,
                "coherence": score.coherence,
            }
            for score in front.cells
        ],
    }
