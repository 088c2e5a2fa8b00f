"""The whole protocol on the bundled model: two traits, from contrastive prompts to a table.

The demo calls the stages that the command line offers one by one, on a model that anybody can run.
Its numbers are about a model of two million parameters on a toy grammar: they show that the
pipeline works and what its artifacts look like, not how strong a method is on a large model.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from interp_steer.config import (
    PAPER_GRID,
    DemoConfig,
    FitConfig,
    MethodName,
    ProjectConfig,
    SamplingConfig,
    SweepConfig,
)
from interp_steer.fit_stage import fit, project
from interp_steer.model import HookedLM
from interp_steer.named_judges import judge_of
from interp_steer.organism import MODEL_DIR, Trait, multiple_choice_questions, scenarios_path
from interp_steer.reporting import Report
from interp_steer.runs import atomic_write_json
from interp_steer.sampling import GenerationSettings
from interp_steer.study import Sources, Study, start_study, versions
from interp_steer.suites.running import evaluate
from interp_steer.suites.settings import SuiteConfig, SuiteName
from interp_steer.summary import report_as_summary, report_table
from interp_steer.sweep_stage import select, sweep
from interp_steer.trace_stage import trace_examples

_log = logging.getLogger(__name__)

SAMPLING = SamplingConfig(max_new_tokens=96)
"""The paper's sampling, but shorter: no reply of the organism's grammar is longer than 70
tokens, and a text that runs on past 96 has come apart."""

DEMO_SUITES: dict[SuiteName, int] = {"multi-turn": 16, "choice": 176, "cost": 12}
"""Suites that `demo-full` runs for each trait, and how many scenarios or questions of each."""
CROSSED_SCENARIOS = 40
"""Scenarios of each trait that the suite cross-trait asks."""
TRACED_SCENARIOS = 3
"""Reporting scenarios whose traces the demo stores, for each method and scope."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What a demo leaves behind."""

    text: str
    """The table of both traits, the paths of the figures, and what to try next."""
    summary: dict[str, Any]
    """What summary.json holds."""
    summary_file: Path
    """Where it lies."""


@dataclass(slots=True)
class Stopwatch:
    """Seconds spent in each stage, over both traits."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock seconds by stage."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time inside the block to `name`."""
        _log.info("%s ...", name)
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 3)


def run_demo(config: DemoConfig) -> DemoResult:
    """Run every stage for every trait, resuming what is there.

    Returns:
        The table and the summary; everything else is in the run directories.

    Raises:
        RunError: the output directory holds runs that were made differently, by name.
    """
    watch, out = Stopwatch(), output_folder(config)
    started = time.perf_counter()
    with watch.stage("load"):
        lm = HookedLM.load(
            MODEL_DIR,
            device=config.device,
            device_map=config.device_map,
            n_devices=config.n_devices,
            reference=config.reference,
        )
    reports, figures = {}, []
    for trait in config.traits:
        reports[trait], pages = _run_trait(lm, out / trait, trait, config, watch)
        figures += pages
    with watch.stage("multiple_choice"):
        score = multiple_choice_score(lm)
    watch.seconds["total"] = round(time.perf_counter() - started, 3)
    summary = {
        "traits": {trait: report_as_summary(report) for trait, report in reports.items()},
        "multiple_choice": score,
        "seconds": watch.seconds,
        "versions": versions(),
        "model": lm.identity(),
        "variant": variant(config),
    }
    atomic_write_json(out / "summary.json", summary)
    return DemoResult(
        text=_text(reports, summary, figures, out),
        summary=summary,
        summary_file=out / "summary.json",
    )


def variant(config: DemoConfig) -> str:
    """Which demo it is: quick, full or standard."""
    return "quick" if config.quick else "full" if config.full else "standard"


def output_folder(config: DemoConfig) -> Path:
    """Where the demo writes."""
    suffix = {"quick": "-quick", "full": "-full", "standard": ""}[variant(config)]
    return config.out if config.out is not None else Path("runs") / f"demo{suffix}"


def demo_sweep(config: DemoConfig) -> SweepConfig:
    """The sweep of each variant."""
    standard = SweepConfig(protocol="split")
    if config.quick:
        return replace(
            standard,
            layers=(2, 3, 4, 5),
            swfc_alphas=(2,),
            sttp_alphas=(6,),
            stmp_alphas=(2,),
            selection_scenarios=6,
            reporting_scenarios=16,
            finalists=1,
            control_draws=2,
            control_scenarios=8,
        )
    if config.full:
        return replace(
            standard,
            swfc_alphas=PAPER_GRID["swfc"],
            sttp_alphas=PAPER_GRID["sttp"],
            stmp_alphas=PAPER_GRID["stmp"],
            selection_scenarios=56,
            finalists=3,
            control_scenarios=56,
        )
    return standard


def multiple_choice_score(lm: HookedLM, *, batch_size: int = 256) -> float:
    """Percent of the bundled multiple-choice questions answered right, greedily, unsteered."""
    questions = multiple_choice_questions()
    greedy = GenerationSettings(temperature=0.0, max_new_tokens=8)
    right = 0
    for start in range(0, len(questions), batch_size):
        batch = questions[start : start + batch_size]
        prompts = [lm.tokenize(question.question) for question in batch]
        keys = [f"choice {start + i}" for i in range(len(batch))]
        answers = lm.generate(prompts, greedy, sample_keys=keys)
        right += sum(
            answer.text.strip() == question.answer
            for answer, question in zip(answers, batch, strict=True)
        )
    return 100.0 * right / len(questions)


def _run_trait(
    lm: HookedLM, out: Path, trait: str, config: DemoConfig, watch: Stopwatch
) -> tuple[Report, list[Path]]:
    sources = Sources(model=str(MODEL_DIR), scenarios=scenarios_path(cast(Trait, trait)))
    study = start_study(out, lm, sources, sampling=SAMPLING)
    with watch.stage("fit"):
        fit(study, FitConfig(batch_size=256))
    with watch.stage("project"):
        project(study, ProjectConfig(projected_responses=20 if config.quick else None))
    with watch.stage("sweep"):
        settings = demo_sweep(config)
        sweep(study, settings, judge=judge_of(settings, trait))
    with watch.stage("select"):
        report = select(study.run)
    with watch.stage("trace"):
        trace_examples(study, report, n_scenarios=1 if config.quick else TRACED_SCENARIOS)
    if config.full:
        with watch.stage("suites"):
            _run_suites(study, out, config)
    with watch.stage("figures"):
        pages = _figures(study, report)
    return report, pages


def _run_suites(study: Study, out: Path, config: DemoConfig) -> None:
    """The suites that the bundled model can answer; cross-trait once the other trait is there."""
    methods: tuple[MethodName, ...] = ("swfc", "sttp", "stmp")
    for suite, limit in DEMO_SUITES.items():
        evaluate(study, suite, SuiteConfig(methods=methods, limit=limit))
    before = [trait for trait in config.traits if trait != study.trait]
    for other in (out.parent / trait for trait in before):
        if (other / "operating_points.json").exists():
            settings = SuiteConfig(methods=methods, limit=CROSSED_SCENARIOS, other=other)
            evaluate(study, "cross-trait", settings)


def _figures(study: Study, report: Report) -> list[Path]:
    from interp_steer.run_figures import write_figures, write_trace_pages

    pages = write_figures(study.run, report, command="interp-steer demo")
    return [*pages, *write_trace_pages(study.run)]


def _text(
    reports: dict[str, Report], summary: dict[str, Any], figures: list[Path], out: Path
) -> str:
    lines = []
    for trait, report in reports.items():
        lines += [report_table(report, title=trait.upper()), ""]
    seconds = summary["seconds"]
    stages = ", ".join(f"{name} {spent:.0f}" for name, spent in seconds.items() if name != "total")
    lines += [
        f"multiple choice (unsteered): {summary['multiple_choice']:.1f} %",
        f"seconds: {seconds['total']:.0f} in all ({stages})",
    ]
    if summary["variant"] == "quick":
        lines.append("This was the quick variant: few layers, coefficients, scenarios and draws.")
    lines += ["", "figures (open in a browser):", *(f"  {page}" for page in figures)]
    lines += [f"summary: {out / 'summary.json'}", "", "try next:", *_next_steps(out, reports)]
    return "\n".join(lines)


def _next_steps(out: Path, reports: dict[str, Report]) -> list[str]:
    trait, report = next(iter(reports.items()))
    run = out / trait
    scenario = report.split.reporting[0].id
    grid = "--layers 3 4 --methods sttp --alphas 3 9 --scopes first:8"
    return [
        f"  interp-steer trace {run} --method sttp --scenario {scenario}",
        f"  interp-steer sweep {run} --protocol split {grid}",
        f"  interp-steer select {run}",
    ]
