"""The face of an analysis: arguments in, tables and notes out, an exit code back.

Every script of `analyses/` is a question with one function that answers it; this is the rest of the
command, so that all of them read, refuse and write alike. Paths go to stdout, notes to stderr; 0
done, 1 the run cannot answer (and says why), 2 usage.
"""

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from interp_steer.analysis.tidy_tables import Findings, write_findings
from interp_steer.errors import InterpSteerError
from interp_steer.runs import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOption:
    """Options that every analysis has."""

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """The run directory to read; tables go to its analyses/."""


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
            paths, notes = self.write(options, arguments)
        except InterpSteerError as error:
            sys.stderr.write(f"{self.name}: {error}\n")
            return 1
        sys.stderr.writelines(f"note: {note}\n" for note in notes)
        sys.stdout.writelines(f"{path}\n" for path in paths)
        return 0

    def write(
        self, options: Options, arguments: Sequence[str] = ()
    ) -> tuple[list[Path], tuple[str, ...]]:
        """Find and write; the parquet files and the notes.

        Raises:
            InterpSteerError: the run lacks what the question needs, by name.
        """
        run = Run.open(options.run_folder)
        findings = self.find(run, options)
        # The run's name, not its path: a table must not depend on where a run lies.
        shown = [run.path.name if a == str(options.run_folder) else a for a in arguments]
        command = shlex.join(["python", "-m", f"analyses.{self.name}", *(shown or [run.path.name])])
        config = {k: _plain(v) for k, v in asdict(options).items() if k != "run_folder"}
        paths = write_findings(run, self.name, findings, command=command, config=config)
        return paths, findings.notes

    def _parse(self, arguments: list[str]) -> Options:
        return tyro.cli(
            self.options,
            prog=f"python -m analyses.{self.name}",
            description=self.about,
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
