"""The command line: `interp-steer demo`, `fit`, `sweep`, `select`, `trace`, `figures`, and so on.

Results go to stdout, narration and progress to stderr. Exit codes: 0, 1 (the domain said no, with
what was expected, what arrived and what to do), 2 (usage). The commands themselves stand in
`*_command.py` and `*_commands.py`; none of them imports anything heavy before it runs.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from interp_steer.command_options import UsageError
from interp_steer.errors import InterpSteerError
from interp_steer.evaluate_command import Evaluate
from interp_steer.exchange_commands import Export, Import
from interp_steer.judge_commands import JudgeQuality, JudgeTournament
from interp_steer.narration import narrated
from interp_steer.presets import with_preset
from interp_steer.rescore_command import Rescore
from interp_steer.scenario_command import Scenarios
from interp_steer.stage_commands import Demo, Fit, Plan, Select, Sweep, Trace
from interp_steer.view_commands import Explore, Figures, Report

_INTERRUPTED = 130


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Fit, tyro.conf.subcommand("fit")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Select, tyro.conf.subcommand("select")]
    | Annotated[Trace, tyro.conf.subcommand("trace")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Figures, tyro.conf.subcommand("figures")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Explore, tyro.conf.subcommand("explore")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[JudgeTournament, tyro.conf.subcommand("judge-tournament")]
    | Annotated[JudgeQuality, tyro.conf.subcommand("judge-quality")]
    | Annotated[Rescore, tyro.conf.subcommand("rescore")]
    | Annotated[Plan, tyro.conf.subcommand("plan")]
    | Annotated[Scenarios, tyro.conf.subcommand("scenarios")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    Args:
        argv: arguments after the program's name; those of the process by default.
    """
    try:
        return _main(argv)
    except BrokenPipeError:  # the reader of our output (head, a pager) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _main(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["demo-full"]:
        arguments[:1] = ["demo", "--full"]
    try:
        command = _parse(with_preset(arguments))
    except InterpSteerError as error:
        return _refuse(str(error), 1)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        with narrated(quiet=command.common.quiet):
            print(command.run())
    except UsageError as error:
        return _refuse(f"{error}\nsee: interp-steer {arguments[0]} --help", 2)
    except InterpSteerError as error:
        if command.common.traceback:
            raise
        return _refuse(str(error), 1)
    except KeyboardInterrupt:
        return _refuse("stopped; the same command goes on from here", _INTERRUPTED)
    return 0


def _parse(
    arguments: list[str],
) -> (
    Demo
    | Fit
    | Sweep
    | Select
    | Trace
    | Evaluate
    | Figures
    | Report
    | Explore
    | Export
    | Import
    | JudgeTournament
    | JudgeQuality
    | Rescore
    | Plan
    | Scenarios
):
    return tyro.cli(
        Command,  # pyright: ignore[reportArgumentType] - a union of annotated classes is a form
        prog="interp-steer",
        description="Find, steer and diagnose a trait in the residual stream of a language model.",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )


def _refuse(message: str, code: int) -> int:
    print(f"interp-steer: {message}", file=sys.stderr)
    return code
