"""The stages that read a trait: training responses, their residuals, probes, token projections.

Every stage writes artifacts into the run directory and does only what is missing there; what could
change them is pinned by the run's manifest, and a changed pin is refused by name. What is fitted
here is readable; whether it can be steered, the sweep says.
"""

import logging
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from interp_steer.config import FitConfig, ProjectConfig
from interp_steer.errors import RunError
from interp_steer.files import require_columns
from interp_steer.probes import ProbeSet, fit_probes
from interp_steer.projections import project_tokens
from interp_steer.residuals import (
    PooledResiduals,
    ResidualPair,
    capture_generated,
    load_residuals,
    save_residuals,
)
from interp_steer.runs import Run, atomic_write_table, read_table
from interp_steer.sampling import Generation
from interp_steer.scenarios import Scenario, Side
from interp_steer.study import Study
from interp_steer.sweep_rows import sample_key

_log = logging.getLogger(__name__)

SIDES: tuple[Side, ...] = ("aligned", "malicious")

RESPONSE_SCHEMA = pa.schema(
    [
        pa.field("response_id", pa.string(), nullable=False),
        pa.field("scenario", pa.string(), nullable=False),
        pa.field("side", pa.string(), nullable=False),
        pa.field("response_index", pa.int32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("stop_reason", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
    ]
)
"""Columns of responses.parquet; the aligned rows come first."""


def fit(study: Study, config: FitConfig) -> ProbeSet:
    """On-policy responses of both sides, their pooled residuals, and the probes of every layer.

    Returns:
        The probes, which are also in the run.

    Raises:
        RunError: the run was fitted with another number of responses or another method.
    """
    run = study.run
    with run.lock():
        run.pin({"responses_per_scenario": config.responses_per_scenario, "probe": config.probe})
        if run.probes_file.exists():
            _log.info("probes are there already: %s", run.probes_file)
            return ProbeSet.load(run.path)
        if not (run.responses_file.exists() and run.residuals_file.exists()):
            _respond(study, config)
        probes = _fit_probes(study, config)
        probes.save(run.path)
    return probes


def _respond(study: Study, config: FitConfig) -> None:
    """Sample both sides' training responses; responses.parquet comes last and stands for all."""
    rows: list[tuple[Scenario, Side, int]] = [
        (scenario, side, index)
        for side in SIDES
        for scenario in study.split("train")
        for index in range(config.responses_per_scenario)
    ]
    captured = capture_generated(
        study.lm,
        [study.lm.tokenize(scenario.prompt(side)) for scenario, side, _ in rows],
        study.settings,
        sample_keys=[sample_key(scenario.id, index) for scenario, _, index in rows],
        batch_size=config.batch_size,
    )
    n_aligned = len(rows) // 2
    pair = ResidualPair(
        aligned=_responses_between(captured.residuals, 0, n_aligned),
        malicious=_responses_between(captured.residuals, n_aligned, len(rows)),
        provenance=dict(study.pins),
    )
    save_residuals(study.run.residuals_file, pair)
    table = _responses_table(rows, captured.generations, seed=study.sampling.seed)
    atomic_write_table(study.run.responses_file, table)


def _responses_between(residuals: PooledResiduals, start: int, stop: int) -> PooledResiduals:
    return PooledResiduals(
        values=residuals.values[start:stop],
        layers=residuals.layers,
        n_tokens=residuals.n_tokens[start:stop],
    )


def _responses_table(
    rows: Sequence[tuple[Scenario, str, int]], generations: Sequence[Generation], *, seed: int
) -> pa.Table:
    records = [
        {
            "response_id": f"{scenario.id}/{side}/{index}",
            "scenario": scenario.id,
            "side": side,
            "response_index": index,
            "text": generation.text,
            "token_ids": list(generation.token_ids),
            "stop_reason": generation.stop_reason,
            "seed": seed,
        }
        for (scenario, side, index), generation in zip(rows, generations, strict=True)
    ]
    return pa.Table.from_pylist(records, schema=RESPONSE_SCHEMA)


def read_responses(run: Run) -> pa.Table:
    """The training responses of a run; refused by name where there are none."""
    remedy = "run `interp-steer fit` first"
    table = read_table(run.responses_file, remedy=remedy)
    require_columns(table, RESPONSE_SCHEMA, source=run.responses_file, remedy=remedy)
    return table


def training_scenario_ids(responses: pa.Table) -> tuple[list[str], list[str]]:
    """Scenario of each aligned and of each malicious response, in the order of the residuals."""
    aligned, malicious = (
        responses.filter(pc.field("side") == side)["scenario"].to_pylist() for side in SIDES
    )
    return aligned, malicious


def _fit_probes(study: Study, config: FitConfig) -> ProbeSet:
    pair = load_residuals(study.run.residuals_file)
    ids = training_scenario_ids(read_responses(study.run))
    by_id = {scenario.id: scenario for scenario in study.scenarios}
    systems = (
        [str(by_id[i].system_aligned) for i in ids[0]],
        [str(by_id[i].system_malicious) for i in ids[1]],
    )
    return fit_probes(
        pair.aligned.values,
        pair.malicious.values,
        layers=pair.aligned.layers,
        scenario_ids=ids,
        system_ids=None if study.scenarios[0].is_raw else systems,
        n_tokens=(pair.aligned.n_tokens, pair.malicious.n_tokens),
        method=config.probe,
        seed=study.sampling.seed,
        provenance=dict(study.pins),
    )


def load_probes(run: Run) -> ProbeSet:
    """The probes of a run.

    Raises:
        RunError: it has none.
    """
    if not run.probes_file.exists():
        raise RunError(
            f"the run {run.path} has no probes; run `interp-steer fit --out {run.path}` first"
        )
    return ProbeSet.load(run.path)


def project(study: Study, config: ProjectConfig) -> None:
    """Per-token projections of the training responses, teacher-forced, into projections.parquet."""
    run = study.run
    if run.projections_file.exists():
        _log.info("projections are there already: %s", run.projections_file)
        return
    probes, responses = load_probes(run), read_responses(run)
    by_id = {scenario.id: scenario for scenario in study.scenarios}
    chosen = [
        record
        for side in SIDES
        for record in responses.filter(pc.field("side") == side).to_pylist()[
            : config.projected_responses
        ]
    ]
    sequences = [
        study.lm.tokenize(by_id[r["scenario"]].prompt(r["side"])).with_response(r["token_ids"])
        for r in chosen
    ]
    with run.lock():
        project_tokens(
            study.lm,
            sequences,
            probes,
            path=run.projections_file,
            scenario_ids=[r["scenario"] for r in chosen],
            sides=[r["side"] for r in chosen],
            response_indices=[r["response_index"] for r in chosen],
        )
