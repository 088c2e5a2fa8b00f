"""The causal scan of a run: its own responses, its own probes, every layer.

Contrasts come from the training responses (which fitted the probes) or from the unsteered baselines
of the sweep's test scenarios (which did not). Both answer the same question; the second owes
nothing to the probes' data.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tqdm.auto import tqdm

from interp_steer.analysis.bootstrap import ClusterBootstrap
from interp_steer.analysis.causal_scan import (
    Patch,
    ScanError,
    ScanSegment,
    batched,
    has_absolute_positions,
    scan_layer,
    scan_patches,
)
from interp_steer.analysis.contrasts import Contrast, ContrastBatch, LogOdds
from interp_steer.analysis.run_rows import is_cell, scenario_clusters, sweep_frame
from interp_steer.analysis.scan_effects import EffectScale, joined
from interp_steer.cells import ALIGNED, MALICIOUS
from interp_steer.fit_stage import load_probes, read_responses
from interp_steer.study import Study

_log = logging.getLogger(__name__)

Positions = Literal["relative", "absolute", "not settable"]
"""relative: equal position ids change nothing but rounding. absolute: they were set equal, so that
the shorter prompt starts later than position 0. not settable: the model takes no position ids."""

Source = Literal["train", "test"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunScan:
    """Log-odds of every patch at every layer, and the two ends they are measured between."""

    scale: EffectScale
    """Unpatched log-odds under both prompts, one entry a contrast."""
    patched: dict[tuple[int, Patch], LogOdds]
    """Log-odds by layer and patch, contrasts in the same order."""
    contrasts: tuple[Contrast, ...]
    """What was scanned, in that order."""
    positions: Positions
    """What position ids mean to the model."""
    n_left_out: int
    """Pairs of responses left out because one of them is empty or missing."""


def run_contrasts(study: Study, source: Source) -> tuple[list[Contrast], int]:
    """The contrasts of a run, and how many pairs were left out.

    Raises:
        RunError: the run has no training responses.
        AnalysisError: no sweep, for the test scenarios.
        ScanError: no pair of responses is left.
    """
    texts = _training(study) if source == "train" else _baselines(study)
    by_id = {scenario.id: scenario for scenario in study.scenarios}
    keys = sorted({(scenario, index) for _, scenario, index in texts})
    pairs = [(key, texts.get(("aligned", *key)), texts.get(("malicious", *key))) for key in keys]
    found = [
        Contrast(
            scenario=key[0],
            aligned=study.lm.tokenize(by_id[key[0]].prompt("aligned")),
            malicious=study.lm.tokenize(by_id[key[0]].prompt("malicious")),
            aligned_response=one,
            malicious_response=other,
        )
        for key, one, other in pairs
        if one and other
    ]
    if not found:
        raise ScanError(
            f"the run {study.run.path} has no scenario with a response of both sides that is not "
            "empty; there is nothing to teacher-force"
        )
    return found, len(keys) - len(found)


Texts = dict[tuple[str, str, int], tuple[int, ...]]


def _training(study: Study) -> Texts:
    rows = read_responses(study.run).to_pylist()
    return {(r["side"], r["scenario"], r["response_index"]): tuple(r["token_ids"]) for r in rows}


def _baselines(study: Study) -> Texts:
    frame = sweep_frame(study.run)
    return {
        (side, row["scenario"], row["response_index"]): tuple(int(t) for t in row["token_ids"])
        for side, cell in (("aligned", ALIGNED), ("malicious", MALICIOUS))
        for row in frame.loc[is_cell(frame, cell)].to_dict("records")
    }


def scan_run(
    study: Study,
    *,
    source: Source = "train",
    segments: Sequence[ScanSegment] = ("system", "user", "template", "response", "after_system"),
    layers: Sequence[int] = (),
    n_draws: int = 2,
    n_scenarios: int | None = None,
    batch_size: int = 16,
) -> RunScan:
    """Patch every layer and segment of a run.

    Args:
        study: the run with its model.
        source: train (the training responses) or test (the sweep's unsteered baselines).
        segments: where to patch.
        layers: which layers; all that have a probe by default.
        n_draws: random vectors of each control.
        n_scenarios: at most so many scenarios, in the order of their ids; None for all.
        batch_size: contrasts teacher-forced together (twice as many sequences).

    Raises:
        RunError, AnalysisError, ScanError, ProbeError: what the run lacks, by name.
    """
    probes = load_probes(study.run)
    contrasts, n_left_out = run_contrasts(study, source)
    kept = sorted({contrast.scenario for contrast in contrasts})[:n_scenarios]
    batches = batched([c for c in contrasts if c.scenario in kept], batch_size)
    patches = scan_patches(segments, n_draws=n_draws)
    wanted = [probes.probe(layer) for layer in (layers or probes.layers)]
    seed = study.sampling.seed
    patched: dict[tuple[int, Patch], list[LogOdds]] = {}
    for probe in tqdm(wanted, desc="causal scan", unit="layer", delay=2.0, leave=False):
        for batch in batches:
            for patch, odds in scan_layer(study.lm, batch, probe, patches, seed=seed):
                patched.setdefault((probe.layer, patch), []).append(odds)
    return RunScan(
        scale=_scale(study, batches),
        patched={key: joined(parts) for key, parts in patched.items()},
        contrasts=tuple(_in_order(batches)),
        positions=_positions(study, batches[-1]),
        n_left_out=n_left_out,
    )


def _in_order(batches: Sequence[ContrastBatch]) -> Iterator[Contrast]:
    for batch in batches:
        yield from batch.contrasts


def _scale(study: Study, batches: Sequence[ContrastBatch]) -> EffectScale:
    equal = study.lm.takes_positions

    def odds(prompt: str) -> LogOdds:
        parts = [
            batch.log_odds(study.lm, prompt=prompt, equal_positions=equal) for batch in batches
        ]
        return joined(parts)

    of = scenario_clusters(study.run)
    clusters = [of[contrast.scenario] for contrast in _in_order(batches)]
    return EffectScale(
        boot=ClusterBootstrap(clusters, seed=study.sampling.seed),
        aligned=odds("aligned"),
        malicious=odds("malicious"),
    )


def _positions(study: Study, batch: ContrastBatch) -> Positions:
    if not study.lm.takes_positions:
        return "not settable"
    is_absolute = has_absolute_positions(study.lm, batch.under_aligned[0])
    if is_absolute:
        _log.info("positions are absolute: shorter prompts start later, so that ids agree")
    return "absolute" if is_absolute else "relative"
