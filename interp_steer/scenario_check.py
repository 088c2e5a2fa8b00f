"""What is wrong with a scenario file that loads: repeats, look-alikes, sides told by their length.

A probe fitted on train scenarios and scored on test scenarios that repeat them measures memory; so
repeats are searched exactly (spacing, case and punctuation aside) and by likeness, and refused with
the ids that are at fault. A file that passes is not thereby good: that the two sides of a scenario
differ in the trait and in nothing else is for a reader to see.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from interp_steer.scenario_lengths import LENGTH_TOLERANCE, MIN_PAIRS, SideLengths, side_lengths
from interp_steer.scenario_likeness import (
    KINDS,
    SIDES,
    AlikePair,
    Kind,
    TextLikeness,
    alike_pairs,
    normal_form,
    scenarios_by_text,
    text_of,
)
from interp_steer.scenarios import Scenario, Split

SPLITS: tuple[Split, ...] = get_args(Split)

Verdict = Literal["ok", "note", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at and what came of it."""

    verdict: Verdict
    """ok, note (to be read; nothing is refused) or refused."""
    said: str
    """What was found and, where that is needed, what to do."""
    ids: tuple[str, ...] = ()
    """Scenarios at fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioCheck:
    """What a check measured and decided."""

    counts: Mapping[str, Mapping[Split, int]]
    """Scenarios by category and split."""
    lengths: tuple[SideLengths, ...]
    """By split that has scenarios."""
    measure: str
    """What the cosines of `pairs` mean."""
    threshold: float
    """From which cosine on a pair across the splits is refused."""
    pairs: tuple[AlikePair, ...]
    """Closest pairs of different texts, closest first, and every pair at the threshold or above."""
    findings: tuple[Finding, ...]
    """One or more for everything that was looked at."""

    @property
    def refused(self) -> tuple[Finding, ...]:
        """What is to be mended before the file is used."""
        return tuple(finding for finding in self.findings if finding.verdict == "refused")


def check_scenarios(
    scenarios: Sequence[Scenario],
    likeness: TextLikeness,
    *,
    threshold: float | None = None,
    length_tolerance: float = LENGTH_TOLERANCE,
    n_closest: int = 3,
) -> ScenarioCheck:
    """Measure a set and say what is to be mended.

    Args:
        scenarios: as loaded.
        likeness: how alike two texts are.
        threshold: from which likeness on a pair of texts, one in train and one in test, is refused;
            the measure's own by default.
        length_tolerance: how far from 0.5 the AUROC of lengths may be, chance apart.
        n_closest: pairs to keep of each kind, across and within splits, however far apart.
    """
    limit = likeness.threshold if threshold is None else threshold
    pairs = alike_pairs(scenarios, likeness, limit=limit, n_closest=n_closest)
    measured = (side_lengths(scenarios, split) for split in SPLITS)
    lengths = tuple(found for found in measured if found is not None)
    findings = (
        *_composition(scenarios),
        *_shared(scenarios),
        *_repeated(scenarios),
        *_too_alike(pairs, limit),
        *(_balance(side, length_tolerance) for side in lengths),
    )
    return ScenarioCheck(
        counts=_counts(scenarios),
        lengths=lengths,
        measure=likeness.name,
        threshold=limit,
        pairs=pairs,
        findings=findings,
    )


def _counts(scenarios: Sequence[Scenario]) -> dict[str, dict[Split, int]]:
    counts = {scenario.category: dict.fromkeys(SPLITS, 0) for scenario in scenarios}
    for scenario in scenarios:
        counts[scenario.category][scenario.split] += 1
    return counts


def _composition(scenarios: Sequence[Scenario]) -> Iterator[Finding]:
    traits = sorted({scenario.trait for scenario in scenarios})
    if len(traits) > 1:
        said = f"{len(traits)} traits ({', '.join(traits)}); a run takes one, so split the file"
        yield Finding(verdict="refused", said=said)
    for split in SPLITS:
        if all(scenario.split != split for scenario in scenarios):
            yield Finding(verdict="note", said=f"no {split} scenarios; a whole study needs some")
    yield _finding(
        [s.id for s in scenarios if len({_normal(s, side) for side in SIDES}) == 1],
        ok="the two sides of every scenario differ",
        refused="both sides of a scenario say the same, so there is no contrast; write one anew",
    )


def _shared(scenarios: Sequence[Scenario]) -> Iterator[Finding]:
    for kind in KINDS:
        groups = scenarios_by_text(scenarios, kind).values()
        yield _finding(
            [s.id for group in groups if len({s.split for s in group}) > 1 for s in group],
            ok=f"no {kind} is shared by train and test",
            refused=f"the same {kind} in train and in test; rewrite it in one of them",
        )


def _repeated(scenarios: Sequence[Scenario]) -> Iterator[Finding]:
    for split in SPLITS:
        some = [scenario for scenario in scenarios if scenario.split == split]
        again = [g for g in scenarios_by_text(some, "request").values() if len(g) > 1]
        if again:
            said = f"{split}: the same request under several system prompts; meant as variants?"
            yield Finding(verdict="note", said=said, ids=tuple(s.id for g in again for s in g))
    whole: dict[tuple[str, ...], list[str]] = {}
    for scenario in scenarios:
        key = (scenario.split, *(_normal(scenario, kind) for kind in KINDS))
        whole.setdefault(key, []).append(scenario.id)
    yield _finding(
        [i for ids in whole.values() if len(ids) > 1 for i in ids],
        ok="no scenario is there twice",
        refused="the same scenario under several ids; keep one (how often each is answered is for "
        "--responses-per-scenario of `fit`)",
    )


def _too_alike(pairs: Sequence[AlikePair], threshold: float) -> Iterator[Finding]:
    for is_across, where in ((True, "train and test"), (False, "one split")):
        near = [p for p in pairs if p.is_across is is_across and p.cosine >= threshold]
        ids = tuple(dict.fromkeys(i for pair in near for i in (pair.first, pair.second)))
        limit = f"a cosine of {threshold:.2f}"
        if not near:
            yield Finding(verdict="ok", said=f"no two texts of {where} reach {limit}")
        elif is_across:
            said = f"{len(near)} pairs of {where} reach {limit}; rewrite one text of each"
            yield Finding(verdict="refused", said=said, ids=ids)
        else:
            said = f"{len(near)} pairs of {where} reach {limit}; read them side by side"
            yield Finding(verdict="note", said=said, ids=ids)


def _balance(side: SideLengths, tolerance: float) -> Finding:
    measured = f"AUROC {side.auroc_characters:.2f} by characters, {side.auroc_words:.2f} by words"
    if not side.is_judged:
        few = f"{side.n_pairs} pairs of prompts, fewer than {MIN_PAIRS}"
        return Finding(verdict="note", said=f"{side.split}: lengths not judged ({few})")
    if side.is_balanced(tolerance):
        said = f"{side.split}: length does not tell the sides apart ({measured})"
        return Finding(verdict="ok", said=said)
    margin = side.margin(tolerance)
    span = f"{0.5 - margin:.2f} to {0.5 + margin:.2f}"
    said = (
        f"{side.split}: length alone tells the sides apart ({measured}, expected {span}); lengthen "
        "prompts of the shorter side or shorten the others"
    )
    return Finding(verdict="refused", said=said)


def _normal(scenario: Scenario, kind: Kind) -> str:
    return normal_form(text_of(scenario, kind) or "")


def _finding(ids: Sequence[str], *, ok: str, refused: str) -> Finding:
    if not ids:
        return Finding(verdict="ok", said=ok)
    return Finding(verdict="refused", said=refused, ids=tuple(dict.fromkeys(ids)))
