"""How long the explorer takes to show something, and to answer a moved boundary.

Question: how many seconds pass from asking for the page to the first figure with its data, on a run
of the demo's size and on one of 80 layers and 5 million token rows (`synthetic_run`)? And from a
moved threshold to firing rates, edit sizes and transfer curve of 200 000 tokens, projections in
memory? A ratio is the limit over the time taken: above 1 the limit is kept.

Paint is measured in a real Chromium, driven through playwright: each time a new server process,
whose caches are empty, and a new browser context, from `goto` to the first drawn trace; what the
operating system keeps of the files stays. Without a browser those lines are left out, and said so.
Absolute times say little on a machine that does other work; the ratio to a bare Dash page with one
small figure (`bare_page`), timed in turn, says more.

Command: python -m benchmarks explorer [--quick]. Takes about three minutes on two cores, most of
them to write the large run.
"""

import gc
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.pages import chromium, first_paint, missing_browser
from benchmarks.ratios import Goal, Options, Ratio, measured, paired_ratio
from benchmarks.synthetic_run import TINY, Shape, write_run

_log = logging.getLogger(__name__)

DEMO = Shape(
    layers=8,
    d_model=128,
    responses=112,
    token_rows=8 * 112 * 60,
    test_scenarios=112,
    trace_rows=200,
)
"""A run of the size that `interp-steer demo` makes."""
LARGE = Shape()
"""80 layers, 5 million token rows."""
DRAGGED = Shape(
    layers=1, d_model=64, responses=100, token_rows=200_000, test_scenarios=10, trace_rows=500
)
"""200 000 tokens at a layer."""
PAINT_LIMITS = {"demo-sized": 2.0, "80 layers, 5 M token rows": 4.0}
"""Seconds to the first figure, by run."""
ANSWER_LIMIT = 0.1
"""Seconds from a moved threshold to its numbers."""
N_DRAGS = 20
"""Thresholds that one run of the clock tries."""
BARE_PAGE = ("benchmarks.bare_page",)


def measure(options: Options) -> list[Ratio]:
    """Paint of both runs and the moved boundary.

    Raises:
        BenchmarkError: the server does not start, or the page never shows a figure.
    """
    with tempfile.TemporaryDirectory() as folder:
        return [*_paints(Path(folder), options), *_answers(Path(folder) / "dragged", options)]


def _paints(folder: Path, options: Options) -> Iterator[Ratio]:
    if (why := missing_browser()) is not None:
        _log.warning("explorer_first_paint is left out: %s", why)
        return
    shapes = dict(zip(PAINT_LIMITS, (DEMO, LARGE), strict=True))
    if options.quick:
        shapes = {"tiny": TINY}
    for name, shape in shapes.items():
        command = explore(write_run(folder / name.replace(" ", "-"), shape).path)
        with chromium() as browser:
            first_paint(browser, command)  # files into memory, browser warm
            taken = [
                (first_paint(browser, command), first_paint(browser, BARE_PAGE))
                for _ in range(options.runs)
            ]
        seconds, bare = ([pair[place] for pair in taken] for place in (0, 1))
        yield within(
            "explorer_first_paint",
            f"{name} synthetic run, from navigation to the first drawn figure",
            seconds,
            limit=PAINT_LIMITS.get(name, 2.0),
            options=options,
        )
        rates = ([1 / t for t in seconds], [1 / t for t in bare])
        case = f"{name} synthetic run, against a bare Dash page with one small figure"
        yield measured("explorer_vs_bare", case, paired_ratio(*rates), device=options.device)


def explore(run: Path) -> tuple[str, ...]:
    """The command that serves a run on a free port."""
    return ("interp_steer", "explore", str(run), "--port", "0", "--no-browser")


def within(
    claim: str,
    case: str,
    seconds: list[float],
    *,
    limit: float,
    options: Options,
    is_goal: bool = True,
) -> Ratio:
    """The line of a claim to take less than `limit` seconds: limit / seconds, run by run."""
    _log.info("%s, %s: %.3f s (median)", claim, case, sorted(seconds)[len(seconds) // 2])
    goal = Goal(text=f"< {limit:g} s", least=1.0) if is_goal and not options.quick else None
    paired = paired_ratio([1 / taken for taken in seconds], [1 / limit] * len(seconds))
    return measured(claim, f"{case}; limit {limit:g} s", paired, device=options.device, goal=goal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drag:
    """A run whose boundary is moved."""

    view: Any
    """The explorer's view of the run."""
    selection: Any
    """What is selected, before the threshold moves."""
    span: tuple[float, float]
    """Thresholds from where to where."""

    def seconds(self, ask: Callable[[Any, Any], object]) -> float:
        """Mean seconds of an answer over thresholds across the span."""
        low, high = self.span
        moved = [
            replace(self.selection, threshold=low + (high - low) * i / N_DRAGS)
            for i in range(N_DRAGS)
        ]
        gc.collect()
        started = time.perf_counter()
        for selection in moved:
            ask(self.view, selection)
        return (time.perf_counter() - started) / N_DRAGS


def _answers(folder: Path, options: Options) -> Iterator[Ratio]:
    from interp_steer.explorer.boundary_view import answer, boundary_figures
    from interp_steer.plots.style import SINGLE

    write_run(folder, TINY if options.quick else DRAGGED)
    drag = opened(folder)

    def with_figures(view: Any, selection: Any) -> object:
        return [f.to_json() for f in boundary_figures(answer(view, selection), view, SINGLE)]

    n = len(drag.view.tokens(drag.selection.layer))
    asks: Mapping[str, tuple[Callable[[Any, Any], object], bool]] = {
        "firing rates, edit sizes, transfer curve": (answer, True),
        "the same with both figures as JSON": (with_figures, False),
    }
    for words, (ask, is_goal) in asks.items():
        drag.seconds(ask)
        yield within(
            "explorer_rethreshold",
            f"{n:,} tokens of one layer, {words}",
            [drag.seconds(ask) for _ in range(options.runs)],
            limit=ANSWER_LIMIT,
            options=options,
            is_goal=is_goal,
        )


def opened(run: Path) -> Drag:
    """A run with StMP selected, whose gate and cap both depend on the threshold."""
    from interp_steer.explorer.library import Library

    library = Library(run)
    view = library.view(library.traits[0])
    selection = replace(
        library.choices(library.traits[0]).default, method="stmp", alpha=2.0, scope="all"
    )
    probe = view.source.probe_layer(selection.layer)
    return Drag(view=view, selection=selection, span=(probe.mu_neg, probe.mu_pos))
