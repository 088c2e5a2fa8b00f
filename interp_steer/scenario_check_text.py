"""A scenario check as text for a terminal.

Ids and categories come from a file that somebody else may have written: they are shown with
everything invisible spelled out.
"""

import textwrap

from interp_steer.scenario_check import Finding, ScenarioCheck
from interp_steer.scenario_lengths import SideLengths
from interp_steer.scenario_likeness import AlikePair
from interp_steer.trace_blocks import make_visible

WIDTH = 100
"""Columns of a terminal that the lines fit in."""

N_IDS = 12
"""Ids that one verdict lists, at most."""


def check_text(check: ScenarioCheck, *, title: str) -> str:
    """The report: counts, lengths, closest pairs, verdicts.

    Args:
        check: what was found.
        title: which file.
    """
    sections = (
        title,
        "\n".join(_count_lines(check)),
        "\n".join(_length_lines(check.lengths)),
        "\n".join(_pair_lines(check)),
        "\n".join(line for finding in check.findings for line in _finding_lines(finding)),
    )
    return "\n\n".join(sections)


def _count_lines(check: ScenarioCheck) -> list[str]:
    splits = ("train", "test")
    rows = [(make_visible(name), *map(n.get, splits)) for name, n in check.counts.items()]
    totals = (sum(n[split] for n in check.counts.values()) for split in splits)
    return [
        f"{'scenarios':<40.40}{'train':>8}{'test':>8}",
        *(f"{name:<40.40}{train:>8}{test:>8}" for name, train, test in rows),
        "{:<40}{:>8}{:>8}".format("all", *totals),
    ]


def _length_lines(lengths: tuple[SideLengths, ...]) -> list[str]:
    heads = ("pairs", "aligned", "malicious", "AUROC", "AUROC words", "longer")
    return [
        f"{'length of prompts':<20}" + "".join(f"{head:>13}" for head in heads),
        *(
            f"{side.split:<20}{side.n_pairs:>13}{side.mean_aligned:>13.1f}"
            f"{side.mean_malicious:>13.1f}{side.auroc_characters:>13.2f}{side.auroc_words:>13.2f}"
            f"{side.share_longer:>13.0%}"
            for side in lengths
        ),
        "characters (mean); AUROC of a classifier by length alone; pairs whose aligned prompt is "
        "longer",
    ]


def _pair_lines(check: ScenarioCheck) -> list[str]:
    lines = [f"closest pairs, {make_visible(check.measure)}"]
    for pair in check.pairs:
        where = "train / test" if pair.is_across else "one split"
        ids = "  ".join(make_visible(i) for i in (pair.first, pair.second))
        lines.append(f"{_cosine(pair)}  {pair.kind:<18}{where:<14}{ids}")
    return lines if check.pairs else [*lines, "none: fewer than two texts of a kind"]


def _cosine(pair: AlikePair) -> str:
    return f"{pair.cosine:6.3f}"


def _finding_lines(finding: Finding) -> list[str]:
    said = make_visible(finding.said)
    if finding.ids:
        shown = ", ".join(make_visible(i) for i in finding.ids[:N_IDS])
        left = len(finding.ids) - N_IDS
        said += f": {shown}" + (f" and {left} more" if left > 0 else "")
    indent = " " * 9
    head = f"{finding.verdict:<9}"
    return textwrap.wrap(said, WIDTH, initial_indent=head, subsequent_indent=indent)
