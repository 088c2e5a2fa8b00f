"""From stored tokens to the results of figure 8: strips and layer x token maps, without a model.

The steered strip is a stored trace. The unsteered rows beside it are the sweep's baselines of the
same scenario: their projections come from the table `baseline_projections` where the run has it,
else they are shown as plain text that says so. Token strings of stored ids are those that the
run's other artifacts spell out.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from interp_steer.analysis.frames import numbers, rows_where, texts
from interp_steer.analysis.run_rows import is_cell
from interp_steer.cells import ALIGNED, MALICIOUS, Cell
from interp_steer.fit_stage import read_responses
from interp_steer.names import resid_post
from interp_steer.plots.figure_files import Drawing, MissingStageError
from interp_steer.plots.from_sweep import file_name
from interp_steer.plots.sources import RunSource
from interp_steer.plots.style import METHOD_TITLES, number
from interp_steer.plots.text import as_text
from interp_steer.plots.token_map import TokenMap, token_maps
from interp_steer.plots.token_page import StripToken, TokenStrip, TokenStrips
from interp_steer.plots.tokens import token_strips

BASELINE_TABLE = "baseline_projections"
"""Projections of the unsteered baselines' tokens, an analysis that needs the model."""
MOST_TOKENS = 240
"""Tokens of a strip that are drawn."""
MOST_MAPPED = 96
"""Tokens of a map that are drawn."""
SCOPE_ORDER = ("all", "response")


def draw_strips(source: RunSource) -> list[Drawing]:
    """Figure 8, the strips: one drawing a traced method, in the widest traced scope."""
    traces = source.traces
    drawings = []
    for method in METHOD_TITLES:
        mine = rows_where(traces, (traces["method"] == method) & (traces["side"] == "malicious"))
        if mine.empty:
            continue
        scopes = list(dict.fromkeys(mine["scope"]))
        scope = min(scopes, key=lambda s: SCOPE_ORDER.index(s) if s in SCOPE_ORDER else 9)
        one = rows_where(mine, mine["scope"] == scope)
        one = rows_where(one, [sample == one["sample"].tolist()[0] for sample in one["sample"]])
        for name in ("layer", "turn"):
            one = rows_where(one, one[name] == numbers(one, name).min())
        drawings.append(_strip_drawing(source, one, method, scope))
    if not drawings:
        raise MissingStageError(
            "the run has no trace of a scenario under its malicious prompt",
            command=f"{source.command('trace')} --scenario ID --parquet RUN/traces/NAME.parquet",
        )
    return drawings


def _strip_drawing(source: RunSource, rows: pd.DataFrame, method: str, scope: str) -> Drawing:
    first = rows.iloc[0]
    layer, scenario = int(first["layer"]), str(first["scenario"])
    edit = f"{METHOD_TITLES[method]} at layer {layer}, α = {first['alpha']:g}, scope {scope}"
    strips = [
        _baseline_strip(source, MALICIOUS, scenario, layer),
        _traced_strip(source, rows, f"malicious prompt, steered: {edit}"),
        _baseline_strip(source, ALIGNED, scenario, layer),
    ]
    kept = tuple(strip for strip in strips if strip is not None)
    result = TokenStrips(strips=kept, hook=resid_post(layer))
    title = f"{source.heading}: which tokens of {as_text(scenario, n_most=60)} are moved?"
    notes = ()
    if not _has_baselines(source, scenario):
        notes = (
            "the unsteered rows are not tinted: their projections come from `python -m "
            f"analyses.{BASELINE_TABLE} {source.run.path}`",
        )
    return Drawing(
        name=f"tokens-{method}-{file_name(scope)}",
        table=result.table(),
        build=lambda column: token_strips(result, title=title, column=column),
        notes=notes,
    )


def _traced_strip(source: RunSource, rows: pd.DataFrame, heading: str) -> TokenStrip:
    rows = rows.sort_values("pos")
    kept = rows.head(MOST_TOKENS)
    fired, in_scope = (int(numbers(rows, name).sum()) for name in ("fired", "in_scope"))
    note = f"fired on {fired} of {in_scope} tokens in scope"
    cell = _steered_cell(rows.iloc[0].to_dict())
    return TokenStrip(
        heading=heading,
        tokens=tuple(traced_token(row) for row in kept.to_dict("records")),
        note="; ".join(filter(None, (_scores(source, cell, str(rows["scenario"].iloc[0])), note))),
        n_left_out=len(rows) - len(kept),
    )


def _steered_cell(row: dict[str, Any]) -> Cell:
    return Cell(
        side="malicious",
        threat=MALICIOUS.threat,
        direction=str(row["direction"]),
        method=str(row["method"]),
        layer=int(row["layer"]),
        alpha=float(row["alpha"]),
        scope=str(row["scope"]),
    )


def traced_token(row: dict[str, Any]) -> StripToken:
    """One trace row as a token of a strip."""
    return StripToken(
        text=str(row["token"]),
        segment=str(row["segment"]),
        distance=float(row["projection_before"]) - float(row["boundary"]),
        moved=abs(float(row["projection_after"]) - float(row["projection_before"])),
        fired=bool(row["fired"]),
        capped=bool(row["capped"]),
        row=tuple((name, _shown(value)) for name, value in row.items()),
    )


def _shown(value: object) -> str:
    if value is None or value is pd.NA:
        return "–"
    if isinstance(value, float):
        return number(value, 4)
    return str(value)


def _baseline_strip(source: RunSource, cell: Cell, scenario: str, layer: int) -> TokenStrip | None:
    """One unsteered response of the scenario; None where the sweep has none."""
    try:
        sweep = source.sweep
    except MissingStageError:
        return None
    rows = sweep[is_cell(sweep, cell) & (sweep["scenario"] == scenario)]
    if rows.empty:
        return None
    row = rows.iloc[0]
    heading = f"{cell.side} prompt, unsteered"
    scores = _score_words(row)
    tinted = list(_tinted_tokens(source, scenario, cell.side, layer))
    if tinted:
        tokens, note = tuple(tinted), scores
    else:
        tokens = tuple(_plain_tokens(source, row))
        note = f"{scores}; projections of this row are not stored"
    return TokenStrip(
        heading=heading,
        tokens=tokens[:MOST_TOKENS],
        note=note,
        n_left_out=max(0, len(tokens) - MOST_TOKENS),
    )


def _scores(source: RunSource, cell: Cell, scenario: str) -> str:
    """Scores of the sweep's row of the same cell and scenario, where it has one."""
    try:
        sweep = source.sweep
    except MissingStageError:
        return ""
    rows = sweep[is_cell(sweep, cell) & (sweep["scenario"] == scenario)]
    if rows.empty:
        return ""
    row = rows.iloc[0]
    return _score_words(row)


def _score_words(row: pd.Series) -> str:
    """Both scores in words; one that the judge could not give is said to be missing."""
    words = (
        f"{name} {row[name]:.0f}" if np.isfinite(row[name]) else f"{name} missing"
        for name in ("trait", "coherence")
    )
    return ", ".join(words)


def _has_baselines(source: RunSource, scenario: str) -> bool:
    return any(True for _ in _tinted_tokens(source, scenario, "malicious", source.probes.layers[0]))


def _tinted_tokens(source: RunSource, scenario: str, side: str, layer: int) -> Iterator[StripToken]:
    """Tokens of a baseline with their projections; none where the table is missing."""
    try:
        table = source.analysis(BASELINE_TABLE, ["scenario", "side", "layer", "pos", "token"])
    except MissingStageError:
        return
    boundary = source.probe_layer(layer).boundary
    mine = rows_where(table, (table["scenario"] == scenario) & (table["side"] == side))
    mine = rows_where(mine, (mine["layer"] == layer) & (mine["response_index"] == 0))
    mine = mine.sort_values("pos")
    for row in mine.to_dict("records"):
        yield StripToken(
            text=str(row["token"]),
            segment=str(row["segment"]),
            distance=float(row["projection"]) - boundary,
            row=tuple(
                (name, _shown(value)) for name, value in (row | {"boundary": boundary}).items()
            ),
        )


def _plain_tokens(source: RunSource, row: pd.Series) -> Iterator[StripToken]:
    """Tokens of a stored response; its words where an id was never spelled out."""
    names = token_names(source)
    ids = [int(token) for token in row["token_ids"]]
    texts = [names.get(token) for token in ids]
    if any(text is None for text in texts):
        texts = [f" {word}" for word in str(row["response"]).split()]
    for text in texts:
        yield StripToken(text=str(text), segment="response")


def token_names(source: RunSource) -> dict[int, str]:
    """Token strings by id, as far as traces and training responses spell them out."""
    found: dict[int, str] = {}
    try:
        responses = read_responses(source.run).to_pylist()
        spelled = source.projections(
            ["scenario", "side", "response_index", "pos", "token"],
            [("segment", "==", "response"), ("layer", "==", source.probes.layers[0])],
        )
    except MissingStageError:
        responses, spelled = [], pd.DataFrame()
    if len(spelled):
        keyed = spelled.sort_values("pos").groupby(["scenario", "side", "response_index"])["token"]
        strings = {key: list(tokens) for key, tokens in keyed}
        for r in responses:
            tokens = strings.get((r["scenario"], r["side"], r["response_index"]), [])
            if len(tokens) == len(r["token_ids"]):
                found |= dict(zip(r["token_ids"], tokens, strict=True))
    traces = source.traces.drop_duplicates("token_id")
    return found | dict(zip(traces["token_id"].astype(int), traces["token"], strict=True))


def draw_token_map(source: RunSource) -> list[Drawing]:
    """Figure 8, the map: one training scenario's response of each side, every layer."""
    names = ["scenario", "side", "pos", "token", "segment", "layer", "projection"]
    heads = source.projections(["scenario", "side"]).drop_duplicates()
    n_sides = Counter(texts(heads, "scenario"))
    scenario = min(n_sides, key=lambda name: (-n_sides[name], name))
    rows = source.projections(names, [("scenario", "==", scenario), ("response_index", "==", 0)])
    maps = tuple(
        token_map_of(source, rows_where(rows, rows["side"] == side), f"{side} prompt")
        for side in ("malicious", "aligned")
        if side in set(rows["side"])
    )
    shown = as_text(str(scenario), n_most=60)
    title = f"{source.heading}: on which side is each token of {shown}, unsteered?"
    return [
        Drawing(
            name="token-layer-map",
            table=pd.concat([one.table() for one in maps], ignore_index=True),
            build=lambda column: token_maps(maps, title=title, column=column),
        )
    ]


def token_map_of(source: RunSource, rows: pd.DataFrame, heading: str) -> TokenMap:
    """Response tokens of one sequence and what stands just before them (the end of the prompt).

    Args:
        source: gives the layers' boundaries.
        rows: the sequence's tokens, a row a token and layer: pos, token, segment, layer,
            projection.
        heading: what the map is called (untrusted).
    """
    wide = rows.pivot_table(index="layer", columns="pos", values="projection", aggfunc="first")
    names = rows.drop_duplicates("pos").set_index("pos")
    is_response = (names.loc[wide.columns, "segment"] == "response").to_numpy()
    first = max(0, int(np.flatnonzero(is_response)[0]) - 2) if is_response.any() else 0
    shown = wide.columns[first : first + MOST_MAPPED]
    probes = [source.probe_layer(int(layer)) for layer in wide.index]
    boundary = np.array([probe.boundary for probe in probes])
    half = np.array([abs(probe.delta_mu) / 2 or np.nan for probe in probes])
    values = (wide[shown].to_numpy(dtype=np.float64) - boundary[:, None]) / half[:, None]
    return TokenMap(
        heading=heading,
        tokens=tuple(str(token) for token in names.loc[shown, "token"]),
        segments=tuple(str(name) for name in names.loc[shown, "segment"]),
        layers=tuple(int(layer) for layer in wide.index),
        values=values,
    )
