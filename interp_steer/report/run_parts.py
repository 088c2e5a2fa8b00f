"""Everything that a page embeds: each run's parts, under a name that a link can carry.

A run directory is taken as it is; a folder whose sub-folders are runs gives one entry a run. What
is pinned and the hashes of what was read travel with the page, so that two pages can be told apart.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interp_steer import __version__
from interp_steer.errors import RunError
from interp_steer.plots.sources import RunSource
from interp_steer.plots.style import METHOD_TITLES
from interp_steer.report.boundary_parts import pooled_part, tokens_part
from interp_steer.report.layer_parts import probes_part, readability_part, scan_part, sweep_part
from interp_steer.report.parts import MOST_VALUES, part, plain
from interp_steer.report.trace_parts import traces_part
from interp_steer.runs import Run
from interp_steer.specs import SteeringSpec
from interp_steer.trace_blocks import MARKS, N_STEPS, make_visible

USUAL_SCOPES = ("all", "response")


def open_runs(path: Path) -> list[Run]:
    """The run at `path`, or the runs in its sub-folders, by name.

    Raises:
        RunError: there is neither.
    """
    if (path / "manifest.json").exists() or not path.is_dir():
        return [Run.open(path)]
    inside = sorted(folder for folder in path.iterdir() if (folder / "manifest.json").is_file())
    if not inside:
        raise RunError(
            f"expected a run directory, or a folder of some, got {path} (no manifest.json in it or "
            "in its sub-folders); make a run with `interp-steer fit --out` or `interp-steer demo`"
        )
    return [Run.open(folder) for folder in inside]


def report_data(runs: Sequence[Run]) -> dict[str, Any]:
    """What the page shows, as JSON: every run by name, and the constants that views share."""
    names = _names(runs)
    return {
        "format": 1,
        "version": __version__,
        "methods": dict(METHOD_TITLES),
        "marks": {name: list(pair) for name, pair in MARKS.items()},
        "n_steps": N_STEPS,
        "most_values": MOST_VALUES,
        "cap_sigmas": SteeringSpec(method="stmp", layer=0, alpha=1).cap_sigmas,
        "runs": [_run(run, name) for run, name in zip(runs, names, strict=True)],
    }


def _names(runs: Sequence[Run]) -> list[str]:
    """The trait of each run, with its folder where two have the same."""
    traits = [make_visible(str(run.manifest.get("trait", "trait"))) for run in runs]
    folders = [make_visible(run.path.resolve().name) for run in runs]
    repeated = {trait for trait, n in Counter(traits).items() if n > 1}
    return [
        f"{trait} ({folder})" if trait in repeated else trait
        for trait, folder in zip(traits, folders, strict=True)
    ]


def _run(run: Run, name: str) -> dict[str, Any]:
    source, manifest = RunSource(run), run.manifest
    sweep = part(lambda: sweep_part(source))
    traces = part(lambda: traces_part(source))
    scopes = [*USUAL_SCOPES, *sweep.get("scopes", ()), *(t["scope"] for t in _of(traces))]
    return {
        "name": name,
        "model": make_visible(_model_name(manifest)),
        "path": make_visible(str(run.path)),
        "probes": part(lambda: probes_part(source)),
        "readability": part(lambda: readability_part(source)),
        "sweep": sweep,
        "scan": part(lambda: scan_part(source)),
        "pooled": part(lambda: pooled_part(source)),
        "tokens": part(lambda: tokens_part(source, list(dict.fromkeys(scopes)))),
        "traces": traces,
        "provenance": plain({"pins": manifest["pins"], "inputs": source.digests()}),
    }


def _model_name(manifest: dict[str, Any]) -> str:
    """The last two parts of where the model came from: a hub name as it is, no one's folders."""
    named = manifest.get("sources", manifest.get("model", {})).get("model", "unknown")
    return "/".join(Path(str(named)).parts[-2:])


def _of(traces: dict[str, Any]) -> list[dict[str, Any]]:
    return traces.get("traces", [])
