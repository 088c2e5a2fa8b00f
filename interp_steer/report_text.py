"""The tables that a terminal shows, at most 100 columns wide.

They show less than `operating_points.json` and the files of `report_tables`, and no other numbers.
"""

import math
import textwrap

from interp_steer.candidates import Group
from interp_steer.comparisons import DEFENCE, BaselineResult, ControlSummary
from interp_steer.guard import GuardMeasures, GuardPrice
from interp_steer.html_tables import DASH, fixed
from interp_steer.measured_tables import recovered_text, with_interval
from interp_steer.measuring import Measured
from interp_steer.probes import ProbeSet
from interp_steer.reporting import OperatingPoint, Report

METHOD_NAMES = {"swfc": "SwFC", "sttp": "StTP", "stmp": "StMP"}
"""The paper's spelling."""

WIDTH = 100
"""Columns of a terminal that the tables fit in."""


def report_table(report: Report, *, title: str) -> str:
    """The table of one run, as plain text."""
    lines = [title, "", _columns("", "layer", "alpha", "trait", "coherence", "recovered")]
    lines.append(_baseline_line("aligned prompt, unsteered", report.aligned))
    for threat, measured in report.unsteered.items():
        lines.append(_baseline_line(f"{threat_name(threat)}, unsteered", measured))
    lines.extend(_reviewer_line(b) for b in report.baselines if b.name == DEFENCE)
    lines.extend(_point_line(point) for point in report.points)
    lines.extend(_reviewer_line(b) for b in report.baselines if b.name != DEFENCE)
    if report.controls:
        lines += ["", _columns("control", "draws", "", "", "coherence", "mean  (max)")]
        lines.extend(_control_line(control) for control in report.controls)
    if report.guards:
        lines += ["", _columns("price of a guard", "", "fired", "trait", "coherence", "KL, nats")]
        lines += _guard_lines(report.guards)
    return "\n".join([*lines, "", *_footnotes(report)])


def probe_table(probes: ProbeSet) -> str:
    """Readability of every layer, as plain text; a dash stands for what is not defined."""
    widths = (5, 12, 14, 12, 12, 12)
    names = ("layer", "Cohen's d", "d in-sample", "accuracy", "AUROC", "cosine CAA")
    lines = ["".join(f"{n:>{w}}" for n, w in zip(names, widths, strict=True))]
    for probe in probes.probes:
        fitted = probe.crossfit
        values = (
            str(probe.layer),
            fixed(fitted.cohens_d, 2),
            fixed(probe.in_sample.cohens_d, 2),
            fixed(fitted.accuracy, 3),
            fixed(fitted.auroc, 3),
            fixed(probe.cosine_caa, 3),
        )
        line = "".join(f"{v:>{w}}" for v, w in zip(values, widths, strict=True))
        lines.append(line if probe.converged else f"{line}  (did not converge)")
    note = "Cross-fitted unless named in-sample. A readable layer is not thereby a steerable one."
    return "\n".join([*lines, "", note])


def threat_name(threat: str) -> str:
    """A threat in words: "malicious prompt", "prefill of 8"."""
    kind, _, k = threat.partition(":")
    return f"{kind} of {k}" if k else kind.replace("_", " ")


def _baseline_line(name: str, measured: Measured) -> str:
    return _columns(name, "", "", *_scores(measured), "")


def _scores(measured: Measured | GuardMeasures) -> tuple[str, str]:
    return with_interval(measured.trait), with_interval(measured.coherence)


def _reviewer_line(baseline: BaselineResult) -> str:
    name = "prompt-only defence"
    if baseline.group is not None:
        name = f"mean difference, {_short(baseline.group)}"
    found = baseline.measured
    return _columns(name, "", "", *_scores(found), recovered_text(found))


def _point_line(point: OperatingPoint) -> str:
    cell, group = point.selected.cell, point.choice.group
    name = f"{METHOD_NAMES[group.method]}, scope {_where(group)}"
    return _columns(
        name if point.choice.keeps_coherence else f"{name} *",
        str(cell.layer),
        f"{cell.alpha:g}",
        *_scores(point.reported),
        recovered_text(point.reported),
    )


def _control_line(control: ControlSummary) -> str:
    name = f"{control.kind.replace('_', ' ')}, {_short(control.group)}"
    recovered = f"{_percent(control.mean)}  ({_percent(control.max)})"
    return _columns(
        name, str(len(control.recovered)), "", "", fixed(control.coherence, 0), recovered
    )


def _guard_lines(guards: tuple[GuardPrice, ...]) -> list[str]:
    """By side: the unsteered model once, then every operating point."""
    lines = []
    for side in dict.fromkeys(guard.side for guard in guards):
        mine = [guard for guard in guards if guard.side == side]
        alone = f"{side} prompt, unsteered"
        lines.append(_columns(alone, "", "", *_scores(mine[0].unsteered), ""))
        for guard in mine:
            fired, kl = guard.steered.fired_share, guard.steered.kl
            share = DASH if fired is None else _percent(fired.value)
            divergence = with_interval(kl, digits=3 if kl is None or kl.value < 1 else 1)
            name = f"  {_short(guard.group)}"
            lines.append(_columns(name, "", share, *_scores(guard.steered), divergence))
    return lines


def _where(group: Group) -> str:
    usual = group.threat == "malicious_prompt"
    return group.scope if usual else f"{group.scope}, {threat_name(group.threat)}"


def _short(group: Group) -> str:
    return f"{METHOD_NAMES[group.method]}, {_where(group)}"


def _percent(share: float) -> str:
    return f"{fixed(100 * share, 0)} %" if math.isfinite(share) else DASH


def _footnotes(report: Report) -> list[str]:
    split, clusters = report.split, report.clusters
    notes = [
        f"In brackets: 95 % intervals; {report.aligned.n_clusters} clusters resampled "
        f"({clusters.meaning})."
    ]
    if report.controls or any(baseline.group for baseline in report.baselines):
        notes.append(
            "Controls and mean difference: same gate and signed shift along another unit vector, "
            f"{len(split.answering)} scenarios."
        )
    if not all(point.choice.keeps_coherence for point in report.points):
        notes.append(
            f"* no cell kept {report.coherence_share:.0%} of the aligned coherence; shown is the "
            "most coherent one."
        )
    if report.n_missing:
        notes.append(
            f"Missing: the judge gave no usable score for {report.n_missing} of {report.n_rows} "
            "rows; means are over the others, the tables say how many each mean lacks."
        )
    notes += [f"Left out: {what}." for what in report.left_out]
    return [*_who_chose(report), *(line for note in notes for line in textwrap.wrap(note, WIDTH))]


def _who_chose(report: Report) -> list[str]:
    split = report.split
    if not split.halves:
        note = (
            f"Layer and alpha were chosen on {len(split.selection)} selection scenarios; the "
            f"numbers are from {len(split.reporting)} others, their intervals given that choice."
        )
        return textwrap.wrap(note, WIDTH)
    note = (
        f"Two-fold: each half of {len(split.reporting)} scenarios chose for the other, and the "
        "intervals choose anew. The layer and alpha shown were chosen on all scenarios; what they "
        "recover there flatters:"
    )
    lines = textwrap.wrap(note, WIDTH)
    for point in report.points:
        chose = " | ".join(f"layer {f.cell.layer} alpha {f.cell.alpha:g}" for f in point.folds)
        in_sample = f"in-sample {_percent(point.in_sample_recovered):>5}"
        lines.append(f"  {_short(point.choice.group):<32}{in_sample}   halves chose {chose}")
    return lines


def _columns(name: str, *values: str) -> str:
    """A line with the values flush right in their columns; a long name takes the empty ones."""
    line, edge = f"{name:<34}".rstrip(), 34
    for value, width in zip(values, (6, 6, 17, 17, 19), strict=True):
        edge += width
        if value:
            line += value.rjust(max(edge - len(line), len(value) + 1))
    return line
