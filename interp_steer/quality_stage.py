"""The quality of a judge on a run's stored responses, as a table in RUN/analyses/.

judge_quality: one row a measure (see `judge_quality`): about, measure, value with its interval, n,
n_missing. Half of the responses are unsteered, so that the range of the trait is there; the others
are of steered configurations under the malicious prompt.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from interp_steer.analysis.bootstrap import as_columns
from interp_steer.analysis.run_rows import scenario_clusters
from interp_steer.analysis.tidy_tables import Findings, write_findings
from interp_steer.cells import CELL_COLUMNS, MALICIOUS, NONE
from interp_steer.config import QualityConfig
from interp_steer.errors import JudgeError
from interp_steer.judge_quality import JudgedSample, QualityMeasure, judge_quality
from interp_steer.judges import Answer, JudgeScore, judge_pin
from interp_steer.llm_judge import LlmJudge
from interp_steer.pairs import AnswerPair
from interp_steer.runs import Run
from interp_steer.scenarios import Scenario
from interp_steer.study import run_scenarios
from interp_steer.sweep import read_rows

NAME = "judge_quality"
"""Name of the table."""


def measure_judge(
    run: Run, config: QualityConfig, *, judge: LlmJudge
) -> tuple[list[QualityMeasure], list[Path]]:
    """Judge stored responses twice and pairs in both orders; write the table.

    Args:
        run: a run with a sweep.
        config: how many responses and pairs.
        judge: the judge in question.

    Returns:
        The measures and the parquet files.

    Raises:
        JudgeError: the judge failed, or the sweep holds no scored responses.
        RunError: another writer.
    """
    sample = stored_sample(run, config)
    found = judge_quality(sample, judge, seed=config.seed)
    reference = run.manifest["pins"].get("judge")
    frame = pd.DataFrame([_row(measure) for measure in found])
    findings = Findings(
        tables={"": frame},
        inputs=(run.sweep_folder,),
        config={"judge": judge_pin(judge, run_scenarios(run)), "reference": reference},
    )
    settings = {k: v for k, v in asdict(config).items() if k != "judge_config"}
    command = f"interp-steer judge-quality {run.path.resolve().name}"
    with run.lock():
        return found, write_findings(run, NAME, findings, command=command, config=settings)


def stored_sample(run: Run, config: QualityConfig) -> JudgedSample:
    """Responses and pairs of a run's sweep, with the scores that it has stored.

    Raises:
        JudgeError: the sweep holds none that were scored.
    """
    by_id = {scenario.id: scenario for scenario in run_scenarios(run)}
    cluster = scenario_clusters(run)
    rows = _scored(read_rows(run))
    generator = np.random.default_rng(config.seed)
    chosen = _chosen(rows, config.responses, generator)
    pairs = _pairs(rows, by_id, config.pairs, generator)
    return JudgedSample(
        answers=tuple(_answer(row, by_id) for row in chosen),
        reference=tuple(
            JudgeScore(trait=row["trait"], coherence=row["coherence"]) for row in chosen
        ),
        clusters=tuple(cluster[row["scenario"]] for row in chosen),
        pairs=pairs,
        pair_clusters=tuple(cluster[pair.first.scenario.id] for pair in pairs),
    )


def _scored(rows: pa.Table) -> pa.Table:
    """Unprefilled rows under the aligned or the malicious prompt, without controls, with scores."""
    columns = ["scenario", "response_index", *CELL_COLUMNS]
    wanted = (
        (pc.field("control") == NONE)
        & pc.field("side").isin(["aligned", "malicious"])
        & pc.field("threat").isin([NONE, MALICIOUS.threat])
        & ~pc.field("trait").is_nan()
        & ~pc.field("coherence").is_nan()
    )
    found = rows.filter(wanted).select([*columns, "response", "stop_reason", "trait", "coherence"])
    if not found.num_rows:
        raise JudgeError("the sweep holds no scored responses; run `interp-steer sweep` first")
    return found


def _chosen(rows: pa.Table, n: int, generator: np.random.Generator) -> list[dict[str, Any]]:
    """Half unsteered, half steered; the other half fills up where one is short."""
    is_steered = rows["method"].to_numpy() != NONE
    parts = [generator.permutation(np.flatnonzero(is_steered == steered)) for steered in (0, 1)]
    half = max(n // 2, n - len(parts[1]))
    unsteered = parts[0][:half]
    places = np.concatenate([unsteered, parts[1][: n - len(unsteered)]])
    return rows.take(pa.array(np.sort(places))).to_pylist()


def _pairs(
    rows: pa.Table, by_id: dict[str, Scenario], n: int, generator: np.random.Generator
) -> tuple[AnswerPair, ...]:
    """An aligned and a malicious response of one scenario whose stored traits differ."""
    sides: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for row in rows.filter(pc.field("method") == NONE).to_pylist():
        key = (row["scenario"], row["response_index"])
        sides.setdefault(key, {})[row["side"]] = row
    there = [
        sorted(two.values(), key=lambda row: -row["trait"])
        for _, two in sorted(sides.items())
        if len(two) == 2 and two["aligned"]["trait"] != two["malicious"]["trait"]
    ]
    order = generator.permutation(len(there))[:n]
    return tuple(
        AnswerPair(first=_answer(there[i][0], by_id), second=_answer(there[i][1], by_id))
        for i in sorted(order.tolist())
    )


def _answer(row: dict[str, Any], by_id: dict[str, Scenario]) -> Answer:
    return Answer(
        scenario=by_id[row["scenario"]],
        text=row["response"],
        stopped=row["stop_reason"] == "stop_token",
    )


def _row(measure: QualityMeasure) -> dict[str, Any]:
    return {
        "about": measure.about,
        "measure": measure.measure,
        **as_columns("value", measure.estimate),
        "n": measure.n,
        "n_missing": measure.n_missing,
    }
