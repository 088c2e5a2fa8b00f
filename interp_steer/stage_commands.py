"""Commands that make a run: `demo`, `fit`, `sweep`, `select`, `trace`, and `plan` before them.

Nothing heavy is imported until a command runs, so that `--help` is quick.
"""

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from interp_steer.command_options import Common, UsageError
from interp_steer.config import (
    DemoConfig,
    EngineConfig,
    FitConfig,
    ModelPlace,
    ProjectConfig,
    SweepConfig,
    TraceConfig,
)
from interp_steer.plan_command import PlanConfig

if TYPE_CHECKING:
    from interp_steer.runs import Run
    from interp_steer.scenarios import Prompt
    from interp_steer.trace_stage import Traced


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Say what a study would need: memory, time by stage, rows, disk; no weights are loaded."""

    config: PlanConfig = field(default_factory=PlanConfig)
    """Model, lengths, device."""
    sweep: SweepConfig = field(default_factory=SweepConfig)
    """The grid, as `sweep` takes it."""
    common: Common = field(default_factory=Common)
    """Options of every command."""

    def run(self) -> str:
        """Return the plan."""
        from interp_steer.plan_command import plan_text

        return plan_text(self.config, self.sweep)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """Run the whole pipeline on the bundled model, for both traits, and print the table."""

    config: DemoConfig = field(default_factory=DemoConfig)
    """What to run."""
    common: Common = field(default_factory=Common)
    """Options of every command."""

    def run(self) -> str:
        """Return the table, the paths of the figures and what to try next."""
        from interp_steer.demo import run_demo

        if self.config.quick and self.config.full:
            raise UsageError("give --quick or --full, not both")
        return run_demo(self.config).text


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Sample training responses of both sides, capture residuals, fit a probe for every layer."""

    model: str
    """Local directory or hub name of a model that TransformerLens supports."""
    scenarios: Path
    """Scenario file, JSONL, one trait; or the name of a bundled set: honesty, compassion."""
    out: Path
    """Run directory to write; one that is there is resumed."""
    config: FitConfig = field(default_factory=FitConfig)
    """Sampling and probes."""
    project: ProjectConfig = field(default_factory=ProjectConfig)
    """Per-token projections."""
    common: Common = field(default_factory=Common)
    """Options of every command."""

    def run(self) -> str:
        """Return how readable the trait is at every layer."""
        from interp_steer.fit_stage import fit, project
        from interp_steer.model import ChatOptions, HookedLM
        from interp_steer.study import Sources, start_study
        from interp_steer.summary import probe_table

        config = self.config
        lm = HookedLM.load(
            self.model,
            device=config.device,
            dtype=config.dtype,
            device_map=config.device_map,
            n_devices=config.n_devices,
            reference=config.reference,
            revision=config.revision,
            chat=ChatOptions(enable_thinking=config.enable_thinking, date=config.chat_date),
        )
        sources = Sources(model=self.model, scenarios=self.scenarios)
        study = start_study(self.out, lm, sources, sampling=self.config.sampling)
        probes = fit(study, self.config)
        project(study, self.project)
        return f"{probe_table(probes)}\n\nnext: interp-steer sweep {self.out}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Generate the grid, choose operating points, hold controls against them; resumes."""

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """A run with probes."""
    config: SweepConfig = field(default_factory=SweepConfig)
    """Grid, scenarios, protocol, controls and measures."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """Who generates."""
    common: Common = field(default_factory=Common)
    """Options of every command."""

    def run(self) -> str:
        """Return the table of operating points and controls."""
        from interp_steer.engine_choice import chosen_engine
        from interp_steer.fit_stage import load_probes
        from interp_steer.named_judges import judge_of, spent
        from interp_steer.runs import Run
        from interp_steer.study import reopen_study
        from interp_steer.sweep_stage import select, sweep

        run = Run.open(self.run_folder)
        load_probes(run)
        judge = judge_of(self.config, str(run.manifest["trait"]))
        with chosen_engine(self.run_folder, self.config, self.engine) as engine:
            study = reopen_study(self.run_folder, place=self.engine)
            sweep(study, self.config, judge=judge, engine=engine)
        return _table(study.run, select(study.run)) + spent(judge)


@dataclass(frozen=True, slots=True, kw_only=True)
class Select:
    """Choose operating points on the selection scenarios and report them on the others."""

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """A run with a sweep."""
    coherence_share: float | None = None
    """Share of the aligned baseline's coherence to keep; the sweep's own by default."""
    common: Common = field(default_factory=Common)
    """Options of every command."""

    def run(self) -> str:
        """Return the table of operating points and controls."""
        from interp_steer.runs import Run
        from interp_steer.sweep_stage import select

        run = Run.open(self.run_folder)
        return _table(run, select(run, coherence_share=self.coherence_share))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Steer one generation and show, token by token, what fired and how far it was moved."""

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """A run with probes."""
    config: TraceConfig = field(default_factory=TraceConfig)
    """Method, layer, coefficient, scope."""
    steering: Path | None = None
    """A folder with a steering.json, for instance an imported one, instead of the four."""
    prompt: str | None = None
    """What the user says; or give --scenario."""
    system: str | None = None
    """System prompt that goes with --prompt."""
    scenario: str | None = None
    """Id of one of the run's scenarios; or give --prompt."""
    side: Literal["aligned", "malicious", "neutral"] = "malicious"
    """Whose system prompt of the scenario is used."""
    html: Path | None = None
    """Also write the trace as one small HTML page."""
    parquet: Path | None = None
    """Also write the trace's rows."""
    place: ModelPlace = field(default_factory=ModelPlace)
    """Where the model runs."""
    common: Common = field(default_factory=Common)
    """Options of every command."""

    def run(self) -> str:
        """Return the trace as text, coloured where stdout is a terminal."""
        from interp_steer.runs import atomic_write_bytes
        from interp_steer.steering_trace import trace_steering
        from interp_steer.study import reopen_study
        from interp_steer.trace_files import write_traces
        from interp_steer.trace_stage import trace
        from interp_steer.trace_view import render_html, render_terminal

        if (self.prompt is None) == (self.scenario is None):
            raise UsageError("give either --prompt TEXT (with --system TEXT) or --scenario ID")
        if self.prompt is not None and not self.prompt.strip():
            raise UsageError("--prompt has no text; give the words that the model is asked")
        if self.system is not None and self.prompt is None:
            raise UsageError("--system goes with --prompt; a scenario brings its own")
        if self.steering is not None and self.config != TraceConfig():
            raise UsageError("--steering says what is done; leave out method, layer, alpha, scope")
        study = reopen_study(self.run_folder, place=self.place)
        if self.steering is not None:
            prompt, scenario, side = self._asked(study.run)
            table = trace_steering(study, self.steering, prompt, scenario=scenario, side=side)
            title = f"{scenario}: {self.steering.name}"
        else:
            traced = self._traced(study.run)
            table, title = trace(study, [traced]), f"{traced.scenario}: {traced.cell.label}"
        if self.html is not None:
            page = render_html(table, title)
            atomic_write_bytes(self.html, page.encode("utf-8"))
        if self.parquet is not None:
            write_traces(table, self.parquet)
        return render_terminal(table).rstrip("\n")

    def _traced(self, run: "Run") -> "Traced":
        from interp_steer.trace_stage import Traced, cell_to_trace

        cell = cell_to_trace(run, self.config)
        prompt, scenario, side = self._asked(run)
        return Traced(cell=cell, prompt=prompt, scenario=scenario, side=side)

    def _asked(self, run: "Run") -> "tuple[Prompt, str, str]":
        """What the model is asked, the name of it, and whose prompt it is."""
        from interp_steer.errors import ScenarioError
        from interp_steer.scenarios import Prompt
        from interp_steer.study import run_scenarios

        if self.prompt is not None:
            return Prompt.chat(self.prompt, self.system), "prompt", "neutral"
        known = {scenario.id: scenario for scenario in run_scenarios(run)}
        if scenario := known.get(str(self.scenario)):
            return scenario.prompt(self.side), scenario.id, self.side
        close = difflib.get_close_matches(str(self.scenario), known) or list(known)[:3]
        raise ScenarioError(
            f"the run {run.path} has no scenario {self.scenario!r}; its ids are like "
            f"{', '.join(close)}"
        )


def _table(run: "Run", report: object) -> str:
    from interp_steer import reporting
    from interp_steer.summary import report_table

    if not isinstance(report, reporting.Report):
        raise TypeError(f"expected a Report, got {type(report).__name__}")
    title = f"{run.manifest['trait']} ({run.path})"
    written = f"{run.operating_points_file}, {run.tables_folder}/"
    return f"{report_table(report, title=title)}\n\nwritten: {written}"
