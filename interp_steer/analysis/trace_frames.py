"""The stored traces of a run as one frame, with what analyses of tokens group by.

A trace file holds whatever was traced: operating points on a few scenarios by default. Everything
counted from them is about those sequences, few as they may be; clusters are attached so that
intervals say so.
"""

import unicodedata

import pandas as pd

from interp_steer.analysis.run_rows import scenario_clusters
from interp_steer.analysis.tidy_tables import require
from interp_steer.runs import Run
from interp_steer.trace_files import read_traces

CELL = ["method", "direction", "scope", "layer", "alpha"]
"""Columns of a trace that say what was done."""

TOKEN_TYPES = ("template", "word", "word_part", "number", "punctuation", "white_space", "other")
"""What a token is, by its text; template by its segment."""


def trace_command(run: Run) -> str:
    """What adds a trace to a run; without operating points it has to say what to apply."""
    what = "" if run.operating_points_file.exists() else " --layer LAYER --alpha ALPHA"
    return (
        f"interp-steer trace {run.path}{what} --scenario ID --parquet "
        f"{run.traces_folder}/NAME.parquet"
    )


def trace_frame(run: Run) -> pd.DataFrame:
    """Every traced token, with `cluster`, `token_type` and `response_pos`.

    `response_pos` counts response tokens from 0 and is -1 elsewhere. A prompt of one's own, which
    is no scenario, is a cluster of its own.

    Raises:
        AnalysisError: the run has no traces.
    """
    folder = require(run.traces_folder, "traces", command=trace_command(run))
    parts = [read_traces(path).to_pandas() for path in sorted(folder.glob("*.parquet"))]
    frame = pd.concat(parts, ignore_index=True)
    frame = frame.drop_duplicates(["sample", "side", "turn", "layer", "pos"])
    of = scenario_clusters(run)
    ids = zip(frame["scenario"], frame["sample"], strict=True)
    cluster = [of.get(str(scenario), str(sample)) for scenario, sample in ids]
    in_response = frame["segment"] == "response"
    order = in_response.groupby([frame[c] for c in ("sample", "side", "turn", "layer")]).cumsum()
    return frame.assign(
        cluster=cluster,
        token_type=[_type(t, s) for t, s in zip(frame["token"], frame["segment"], strict=True)],
        response_pos=(order - 1).where(in_response, -1),
    )


def _type(token: str, segment: str) -> str:
    return "template" if segment == "template" else token_type(token)


def token_type(token: str) -> str:
    """What a token is, by its text.

    word starts with a space (or is the whole of a first word), word_part does not; a token of
    letters with marks inside counts by its letters.
    """
    text = token.strip()
    if not text:
        return "white_space"
    kinds = {unicodedata.category(character)[0] for character in text}
    if "L" in kinds:
        return "word" if token[0].isspace() or text[0].isupper() else "word_part"
    if "N" in kinds:
        return "number"
    return "punctuation" if kinds <= {"P", "S"} else "other"
