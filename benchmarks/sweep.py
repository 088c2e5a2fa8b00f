"""The packed sweep against the two usual ways of writing one.

Question: how many generations a second does `run_cells` make, compared with (a) one configuration
at a time, all its scenarios in one batch (`sweep_vs_loop`), and (b) one generation at a time
(`sweep_vs_single`), both through plain Hugging Face `generate` with a forward hook (`peers`)?

All make the same rows: the same prompts and cells, the same sampling settings, and, with equal
lengths, exactly `max_new_tokens` tokens each (no token stops a response), which is checked before
any time is taken. So is that the edits are the same: greedy tokens must agree. A second case lets
responses end where they end; then random streams differ, lengths are alike only on average, and
the token totals stand in the case's name. (b) does a sample of the rows, spread evenly over the
work, and is compared by tokens a second. Tokenising the prompts is left out everywhere; decoding,
and what this library does to pack, resume and write its shards, is in. Judges and measures are
off: the peers' loops have none.

Command: python -m benchmarks sweep [--device cuda] [--quick]. Takes about ten minutes on two cores.
"""

import logging
import shutil
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.generation import check_agreement, unstopped
from benchmarks.ratios import (
    BenchmarkError,
    Goal,
    Options,
    Ratio,
    at_least,
    interleaved,
    measured,
    paired_ratio,
)
from benchmarks.workloads import Workload, bundled, random_100m
from interp_steer.cells import Cell
from interp_steer.judges import Answer, JudgeScore
from interp_steer.runs import Run
from interp_steer.sampling import GenerationSettings
from interp_steer.scenarios import Scenario
from interp_steer.sweep import Block, SweepSetting, read_rows, run_cells

_log = logging.getLogger(__name__)

GOALS: dict[str, dict[str, Goal]] = {
    "cpu": {"sweep_vs_loop": at_least(2.5), "sweep_vs_single": at_least(40)},
    "cuda": {"sweep_vs_loop": at_least(4), "sweep_vs_single": at_least(100)},
}
"""For the bundled model at equal lengths."""

Tokens = dict[tuple[Cell, str], list[int]]
"""Response tokens by cell and scenario."""


class NoJudge:
    """Scores nothing, at no cost."""

    name = "none"

    def score(self, answer: Answer) -> JudgeScore:  # noqa: ARG002
        """The same score for all."""
        return JudgeScore(trait=0.0, coherence=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """The contestants on one workload."""

    work: Workload
    """Model, cells, scenarios."""
    settings: GenerationSettings
    """Sampling, of all contestants."""
    stops: bool
    """False forces every response to `max_new_tokens`."""

    def packed(self) -> Tokens:
        """This library: every row through `run_cells`, into shards of a fresh run directory."""
        setting = SweepSetting(
            lm=self.work.study.lm,
            probes=self.work.probes,
            judge=NoJudge(),
            generation=self.settings,
            batch_size=self.work.size.batch_size,
            judge_free=False,
        )
        folder = Path(tempfile.mkdtemp())
        try:
            with nullcontext() if self.stops else unstopped(self.work.study.lm):
                block = Block(cells=self.work.cells, scenarios=self.work.scenarios)
                run_cells(Run.create(folder), [block], setting=setting)
            rows = read_rows(Run(folder)).to_pylist()
        finally:
            shutil.rmtree(folder)
        return {(Cell.from_row(row), row["scenario"]): row["token_ids"] for row in rows}

    def loop(self) -> Tokens:
        """The usual loop: a cell at a time, its scenarios in one batch."""
        made: Tokens = {}
        for cell in self.work.cells:
            made |= self._plain(cell, self.work.scenarios)
        return made

    def single(self) -> Tokens:
        """One generation at a time, for a sample of the rows spread evenly over the work."""
        every = [(cell, scenario) for cell in self.work.cells for scenario in self.work.scenarios]
        step = max(1, len(every) // self.work.size.n_single)
        made: Tokens = {}
        # An odd offset a row, so that the sample does not meet the same scenario in every cell.
        for place in range(self.work.size.n_single):
            cell, scenario = every[(place * step + 7 * place) % len(every)]
            made |= self._plain(cell, [scenario])
        return made

    def _plain(self, cell: Cell, scenarios: "list[Scenario] | tuple[Scenario, ...]") -> Tokens:
        prompts = self.work.prompts(scenarios)
        layer = -1 if cell.layer is None else cell.layer
        with self.work.plain.steered(cell, self.work.probes.probe(layer)):
            made = self.work.plain.generate(prompts, self.settings, stops=self.stops)
        return {(cell, s.id): ids for s, ids in zip(scenarios, made, strict=True)}


def measure(options: Options) -> list[Ratio]:
    """Every ratio of this script.

    Raises:
        BenchmarkError: the contestants did not do the same work; nothing is timed then.
    """
    found: list[Ratio] = []
    for build, runs in ((bundled, options.runs), (random_100m, min(options.runs, 3))):
        with tempfile.TemporaryDirectory() as folder:
            work = build(Path(folder), options)
            goals = GOALS[torch.device(options.device).type] if build is bundled else {}
            timed = replace(options, runs=runs)
            found += _equal_lengths(work, timed, goals)
            if build is bundled:
                found += _natural_lengths(work, timed)
    return found


def _equal_lengths(work: Workload, options: Options, goals: dict[str, Goal]) -> list[Ratio]:
    settings = work.study.settings
    contest = Contest(work=work, settings=settings, stops=False)
    check_same_edits(work)
    for name in ("packed", "loop", "single"):  # also warms every path up
        check_lengths(name, getattr(contest, name)(), contest)
    rates = _rates(contest, ("packed", "loop", "single"), options)
    case = f"{work.name}, {work.n_rows} rows of {settings.max_new_tokens} tokens"
    sampled = f"{case}, {work.size.n_single} of them one at a time"
    return [
        measured(
            claim,
            of,
            paired_ratio(rates["packed"], rates[peer]),
            device=options.device,
            goal=None if options.quick else goals.get(claim),
        )
        for claim, peer, of in (
            ("sweep_vs_loop", "loop", case),
            ("sweep_vs_single", "single", sampled),
        )
    ]


def _natural_lengths(work: Workload, options: Options) -> list[Ratio]:
    """Rows a second where responses end by themselves; lengths differ by chance alone."""
    contest = Contest(work=work, settings=work.study.settings, stops=True)
    totals = {name: _n_tokens(getattr(contest, name)()) for name in ("packed", "loop")}
    rates = _rates(contest, ("packed", "loop"), options, by_rows=True)
    case = (
        f"{work.name}, {work.n_rows} rows that end by themselves "
        f"(tokens: packed {totals['packed']}, loop {totals['loop']})"
    )
    ratio = paired_ratio(rates["packed"], rates["loop"])
    return [measured("sweep_vs_loop", case, ratio, device=options.device)]


def _rates(
    contest: Contest, names: tuple[str, ...], options: Options, *, by_rows: bool = False
) -> dict[str, list[float]]:
    """Tokens (or rows) a second of each contestant, run by run."""

    def contestant(name: str) -> float:
        made = getattr(contest, name)()
        return len(made) if by_rows else _n_tokens(made)

    rates = interleaved(
        {name: lambda name=name: contestant(name) for name in names},
        runs=options.runs,
        device=options.device,
    )
    tokens = 1 if by_rows else contest.settings.max_new_tokens
    for name, values in rates.items():
        median = sorted(values)[len(values) // 2] / tokens
        _log.info("%s: %s makes %.1f rows/s", contest.work.name, name, median)
    return rates


def _n_tokens(made: Tokens) -> int:
    return sum(map(len, made.values()))


def check_lengths(name: str, made: Tokens, contest: Contest) -> None:
    """Refuse a contestant whose rows do not all have `max_new_tokens` tokens.

    Raises:
        BenchmarkError: by the contestant's name.
    """
    wanted = contest.settings.max_new_tokens
    lengths = {len(ids) for ids in made.values()}
    n_rows = contest.work.size.n_single if name == "single" else contest.work.n_rows
    if lengths != {wanted} or len(made) != n_rows:
        raise BenchmarkError(
            f"{name} was to make {n_rows} rows of {wanted} tokens and made {len(made)} of "
            f"{min(lengths, default=0)} to {max(lengths, default=0)}; times would not compare"
        )


def check_same_edits(work: Workload, *, n_scenarios: int = 6) -> float:
    """Refuse to compare unless greedy tokens agree, cell by cell, with a hook that is needed.

    Returns:
        Share of tokens that agree.

    Raises:
        BenchmarkError: they do not, so the contestants do not make the same edit.
    """
    few = replace(work, scenarios=work.scenarios[:n_scenarios])
    greedy = replace(work.study.settings, temperature=0.0)
    contest = Contest(work=few, settings=greedy, stops=False)
    ours, plain = contest.packed(), contest.loop()
    return check_agreement(work.name, [ours[key] for key in plain], plain.values())
