"""Two commands about other people's formats: `export` and `import`.

Nothing heavy is imported until a command runs, so that `--help` is quick.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from interp_steer.command_options import Common, UsageError
from interp_steer.exchange.choices import ReadOptions, SpecChoice, WriteOptions

if TYPE_CHECKING:
    from interp_steer.exchange.carried import ModelFacts, Outgoing
    from interp_steer.exchange.formats import Imported


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Write an intervention for another tool; a format that cannot carry it says which can."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """A run with probes, or a folder with a steering.json, which holds one intervention."""
    out: Path
    """File to write; for `steering` a folder."""
    format: Literal["steering", "gguf", "svec", "lm-eval", "assistant-axis", "vllm"] = "steering"
    """steering: this library's own. gguf: repeng, llama.cpp. All of them: docs/exchange.md."""
    choice: SpecChoice = field(default_factory=SpecChoice)
    """The intervention."""
    model_type: str | None = None
    """Hugging Face's model type, where the model's directory does not say it."""
    options: WriteOptions = field(default_factory=WriteOptions)
    """What the format leaves open."""
    common: Common = field(default_factory=Common)
    """Options of every command."""

    def run(self) -> str:
        """Return the files written and what is in them."""
        from interp_steer.exchange.formats import FORMATS, export_steering

        outgoing = self._outgoing()
        paths = export_steering(self.out, self.format, outgoing, options=self.options)
        spec = outgoing.spec
        lines = [
            f"{spec.method} alpha {spec.alpha:g}, layers {', '.join(map(str, spec.layers))}, "
            f"scope {spec.token_scope}, {spec.direction}, for {FORMATS[self.format].title}",
            *(f"written: {path}" for path in paths),
        ]
        return "\n".join(lines)

    def _outgoing(self) -> "Outgoing":
        from interp_steer.config import TraceConfig
        from interp_steer.exchange.sources import (
            is_steering_folder,
            outgoing_from_folder,
            outgoing_from_run,
        )
        from interp_steer.fit_stage import load_probes
        from interp_steer.runs import Run
        from interp_steer.trace_stage import cell_to_trace

        if is_steering_folder(self.source):
            if self.choice != SpecChoice():
                raise UsageError(
                    f"{self.source} holds one intervention; options of the method go with a run"
                )
            return outgoing_from_folder(self.source, model_type=self.model_type)
        run, choice = Run.open(self.source), self.choice
        probes, point = load_probes(run), None
        if not choice.layers or choice.alpha is None:
            if len(choice.layers) > 1:
                raise UsageError("several layers have no operating point; give --alpha too")
            asked = TraceConfig(
                method=choice.method,
                layer=choice.layers[0] if choice.layers else None,
                alpha=choice.alpha,
                scope=choice.scope,
            )
            cell = cell_to_trace(run, asked)
            if cell.layer is not None and cell.alpha is not None:
                point = (cell.layer, cell.alpha)
        return outgoing_from_run(run, probes, choice, point=point, model_type=self.model_type)


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """Read another tool's file into a folder with steering.json, to steer and to trace with."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """A .gguf, .svec, .json, .pt or .pth file, or a probe directory of AISteer360."""
    out: Path
    """Folder to write."""
    format: Literal["gguf", "svec", "lm-eval", "assistant-axis", "vllm", "aisteer360"] | None = None
    """By default what the file looks like."""
    options: ReadOptions = field(default_factory=ReadOptions)
    """What the file leaves open."""
    model: str | None = None
    """The model that it is for: local directory or hub name, loaded to know it again; or --run."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """A run on that model: takes its identity without loading anything."""
    common: Common = field(default_factory=Common)
    """Options of every command."""

    def run(self) -> str:
        """Return what was read, what was assumed, and where it is."""
        from interp_steer.exchange.formats import import_steering

        if self.model is not None and self.run_folder is not None:
            raise UsageError("give --model or --run, not both")
        facts, provenance = self._model()
        found = import_steering(
            self.file, self.format, options=self.options, model=facts, provenance=provenance
        )
        saved = found.save(self.out)
        return _imported_text(found, self.out, is_known=saved.provenance["weights"] is not None)

    def _model(self) -> "tuple[ModelFacts | None, dict[str, Any] | None]":
        if self.run_folder is not None:
            from interp_steer.exchange.sources import facts_of_run
            from interp_steer.runs import Run

            run = Run.open(self.run_folder)
            return facts_of_run(run), dict(run.manifest["model"])
        if self.model is not None:
            from interp_steer.exchange.carried import ModelFacts
            from interp_steer.exchange.sources import facts_of_source
            from interp_steer.model import HookedLM

            lm = HookedLM.load(self.model)
            kind = facts_of_source(self.model).model_type
            facts = ModelFacts(model_type=kind, n_layers=lm.n_layers, d_model=lm.d_model)
            return facts, lm.identity()
        return None, None


def _imported_text(found: "Imported", out: Path, *, is_known: bool) -> str:
    spec = found.spec
    layers = ", ".join(map(str, spec.layers))
    lines = [f"{spec.method} {spec.direction}, layers {layers}, every token"]
    lines += [f"note: {note}" for note in found.notes]
    if not is_known:
        lines.append("note: for which model it is, the file does not say; give --model or --run")
    return "\n".join([*lines, f"written: {out}/steering.json, {out}/steering.safetensors"])
