"""The face of an analysis: arguments in, tables and notes out, an exit code back.

Every script of `analyses/` is a question with one function that answers it; this is the rest of the
command, so that all of them read, refuse and write alike. Paths go to stdout, notes to stderr; 0
done, 1 the run cannot answer (and says why), 2 usage.
"""

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from interp_steer.analysis.tidy_tables import AnalysisError, Findings, write_findings
from interp_steer.config import ModelPlace
from interp_steer.errors import InterpSteerError
from interp_steer.runs import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOption:
    """Options that every analysis has."""

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """The run directory to read; tables go to its analyses/."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOption(RunOption):
    """Options of an analysis that loads the run's model, as `config.ModelPlace` has them."""

    device: str | None = None
    """Where the model runs: cpu (without a word), cuda, cuda:1, mps; or a device map."""
    device_map: str | None = None
    """Spread the model over devices: auto, balanced, sequential."""
    n_devices: int | None = None
    """Split the model evenly over so many GPUs."""
    reference: bool = False
    """Run everything through TransformerLens' own components: slower, a check of the fast path."""

    @property
    def place(self) -> ModelPlace:
        """Where the model runs."""
        return ModelPlace(
            device=self.device,
            device_map=self.device_map,
            n_devices=self.n_devices,
            reference=self.reference,
        )


Options = TypeVar("Options", bound=RunOption)


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis(Generic[Options]):
    """One question about a run."""

    name: str
    """Name of the module and of its main table."""
    about: str
    """Docstring of the script: question, command, outputs, runtime."""
    options: type[Options]
    """Its options."""
    find: Callable[[Run, Options], Findings]
    """Answers it."""

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the command; return its exit code.

        Args:
            argv: arguments after the module's name; those of the process by default.
        """
        arguments = list(sys.argv[1:] if argv is None else argv)
        try:
            options = self._parse(arguments)
        except SystemExit as stop:
            return int(stop.code or 0)
        try:
            paths, notes = self.write(options)
        except InterpSteerError as error:
            sys.stderr.write(f"{self.name}: {error}\n")
            return 1
        sys.stderr.writelines(f"note: {note}\n" for note in notes)
        sys.stdout.writelines(f"{path}\n" for path in paths)
        return 0

    def write(self, options: Options) -> tuple[list[Path], tuple[str, ...]]:
        """Find and write; the parquet files and the notes.

        Raises:
            InterpSteerError: the run lacks what the question needs, by name.
        """
        run = Run.open(options.run_folder)
        findings = self._find(run, options)
        # The run's name, not its path: a table must not depend on where a run lies.
        words = ["python", "-m", f"analyses.{self.name}", run.path.resolve().name]
        command = shlex.join([*words, *_arguments(options)])
        config = {k: _plain(v) for k, v in asdict(options).items() if k != "run_folder"}
        paths = write_findings(run, self.name, findings, command=command, config=config)
        return paths, findings.notes

    def _find(self, run: Run, options: Options) -> Findings:
        """Findings; what a damaged or unfamiliar artifact raises becomes a refusal that names it.

        Raises:
            AnalysisError: for missing keys and columns, values of another type, and numbers that
                the question cannot do with.
        """
        try:
            return self.find(run, options)
        except InterpSteerError:
            raise
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise AnalysisError(
                f"an artifact of the run {run.path} does not fit this question "
                f"({type(error).__name__}: {error}); make the stage that it comes from again"
            ) from error

    def _parse(self, arguments: list[str]) -> Options:
        return tyro.cli(
            self.options,
            prog=f"python -m analyses.{self.name}",
            description=self.about,
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )


def _arguments(options: RunOption) -> list[str]:
    """The options that differ from their defaults, as they are given on the command line."""
    found: list[str] = []
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name != "run_folder" and value != field.default:
            values = value if isinstance(value, tuple) else (value,)
            found += [f"--{field.name.replace('_', '-')}", *map(str, values)]
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
