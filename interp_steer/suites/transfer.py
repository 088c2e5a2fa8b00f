"""Another scenario set with the run's probes and operating points: does steering carry over?

The rows are sweep rows, made by the sweep's own machinery in a folder of their own, judge-free
measures included. Nothing is fitted or chosen on the new set; that is the point of it.
"""

import numpy as np

from interp_steer.analysis.frames import numbers, rows_where, texts
from interp_steer.cells import CELL_COLUMNS
from interp_steer.embedders import SentenceTransformerEmbedder
from interp_steer.judges import judge_pin
from interp_steer.packs import SweepSetting
from interp_steer.scenarios import Scenario, scenario_hash
from interp_steer.splits import balanced_order
from interp_steer.suites.configurations import in_order
from interp_steer.suites.evaluation import Evaluation, study_pins
from interp_steer.suites.foreign_files import read_foreign
from interp_steer.suites.settings import SuiteConfig, required
from interp_steer.suites.subject import Subject, clusters_of
from interp_steer.suites.summaries import (
    COHERENCE,
    TRAIT,
    Summary,
    cells_of,
    configuration_columns,
    configuration_values,
    estimates,
    measure_columns,
    paired_change,
    rows_of_cell,
    rows_of_cells,
)
from interp_steer.sweep import read_rows, run_cells
from interp_steer.sweep_rows import SWEEP_SCHEMA, Block
from interp_steer.table_files import Column, Table


def run_transfer(subject: Subject) -> tuple[Evaluation, Summary]:
    """Answer what is missing, then summarise.

    Raises:
        EvaluationError: no scenarios, or a file that does not fit its source.
        RunError: rows were made with other scenarios or settings, by name.
    """
    config, study = subject.config, subject.study
    path = required(config.scenarios, option="scenarios", suite="transfer", what="a scenario file")
    every = read_foreign(path, source=config.source, trait=study.trait)
    scenarios = tuple(balanced_order(every, seed=study.sampling.seed)[: config.limit])
    evaluation = Evaluation(
        study.run,
        f"transfer-{path.stem}",
        schema=SWEEP_SCHEMA,
        key=("scenario", *CELL_COLUMNS),
    )
    judge, embedder = subject.judge(), _embedder(subject, config)
    evaluation.pin(
        {
            **study_pins(study),
            "judge": judge_pin(judge, every),
            "transfer": {"source": config.source, "scenarios": scenario_hash(every)},
            "max_new_tokens": subject.settings().max_new_tokens,
            "embedder": None if embedder is None else embedder.identity(),
        }
    )
    setting = SweepSetting(
        lm=study.lm,
        probes=subject.probes,
        judge=judge,
        generation=subject.settings(),
        batch_size=config.batch_size,
        embedder=embedder,
    )
    cells = subject.configurations.cells("malicious")
    run_cells(evaluation.store, [Block(cells=cells, scenarios=scenarios)], setting=setting)
    return evaluation, _summary(evaluation, subject, scenarios)


def _embedder(subject: Subject, config: SuiteConfig) -> SentenceTransformerEmbedder | None:
    if config.embedder is None:
        return None
    return SentenceTransformerEmbedder(config.embedder, device=str(subject.study.lm.device))


def _summary(evaluation: Evaluation, subject: Subject, scenarios: tuple[Scenario, ...]) -> Summary:
    chosen = subject.configurations
    frame = rows_of_cells(read_rows(evaluation.store), chosen.cells("malicious"))
    cluster = clusters_of(scenarios)
    frame = rows_where(frame, [name in cluster for name in texts(frame, "scenario")])
    names = texts(frame, "scenario")
    frame = frame.assign(item=names, cluster=[cluster[name] for name in names])
    malicious = next(c for c in chosen.cells("malicious") if c.side == "malicious")
    base = rows_of_cell(frame, malicious)
    lines = []
    for cell in in_order(cells_of(frame)):
        rows = rows_of_cell(frame, cell)
        change = None if cell == malicious else paired_change(rows, base, TRAIT)
        named = configuration_values(cell, chosen)
        found = estimates(rows, (TRAIT, COHERENCE))
        lines.append({**named, **found, "change": change, "n": len(rows)})
    trait, coherence, n = measure_columns((TRAIT, COHERENCE))
    change_column = Column(name="change", title="trait against malicious, unsteered", digits=1)
    table = Table(
        name="transfer",
        caption=(
            f"{subject.study.trait} probes and operating points of {subject.study.run.path.name} "
            f"on {len(scenarios)} other scenarios, scope {chosen.scope}; 95 % intervals over "
            "scenarios."
        ),
        columns=(*configuration_columns(), trait, change_column, coherence, n),
        rows=tuple(lines),
    )
    gaps = int(np.isnan(numbers(frame, "trait")).sum())
    notes = (f"the judge gave no trait for {gaps} of {len(frame)} rows",) if gaps else ()
    return Summary(tables=(table,), notes=notes)
