"""How readable the trait is by layer, with the null beside it.

Readability says *decodable*, not used and not steerable. In-sample values flatter, the more the
fewer the responses are per dimension; they stand beside the cross-fitted ones for that reason.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from interp_steer.plots.lines import Line, draw_level, draw_line, layer_span, layer_tick
from interp_steer.plots.style import (
    ALIGNED,
    FAINT,
    INK,
    MALICIOUS,
    SCREEN,
    Column,
    finish,
)
from interp_steer.probes import ProbeSet


def readability_by_layer(
    probes: ProbeSet,
    *,
    bands: pd.DataFrame | None = None,
    title: str = "",
    n: str = "",
    column: Column = SCREEN,
) -> go.Figure:
    """Cohen's d, accuracy and AUROC by layer: cross-fitted, with the in-sample value beside it.

    Cross-fitted (solid, filled) is what a layer tells about responses the direction has not seen;
    in-sample (dashed, open) flatters, the more the fewer the responses are per dimension.

    Args:
        probes: whose readability.
        bands: intervals and null of the analysis layer_readability (columns layer, measure, fit,
            value_low, value_high, null_low, null_high), where there are any.
        title: headline.
        n: how many responses stand behind each value, in words.
        column: for which place it is laid out.
    """
    measures = {
        "cohens_d": "Cohen's d (std)",
        "accuracy": "accuracy (share)",
        "auroc": "AUROC (area)",
    }
    narrow = column.is_narrow
    n_rows, n_cols = (3, 1) if narrow else (1, 3)
    panel, gap = column.em(8 if narrow else 13), column.em(1.6)
    height = panel * n_rows + gap * (n_rows - 1)
    figure = make_subplots(
        rows=n_rows,
        cols=n_cols,
        shared_xaxes=narrow,
        horizontal_spacing=0.11,
        vertical_spacing=gap / height if narrow else 0.0,
    )
    layers = list(probes.layers)
    for place, (measure, name) in enumerate(measures.items()):
        row, col = (place + 1, 1) if narrow else (1, place + 1)
        for kind in ("crossfit", "in_sample"):
            values = [getattr(getattr(probe, kind), measure) for probe in probes.probes]
            is_fitted = kind == "crossfit"
            low, high = _ends(bands, measure, kind, "value", layers)
            if is_fitted:
                _draw_null(figure, bands, measure, layers, row=row, col=col, first=place == 0)
            line = Line(
                name="cross-fitted" if is_fitted else "in-sample",
                x=np.array(layers, dtype=np.float64),
                y=np.array(values, dtype=np.float64),
                low=low if is_fitted else None,
                high=high if is_fitted else None,
                colour=ALIGNED if is_fitted else MALICIOUS,
                dash="solid" if is_fitted else "dash",
                marker="circle" if is_fitted else "square-open",
            )
            draw_line(figure, line, row=row, col=col, in_legend=place == 0)
        if measure != "cohens_d":
            draw_level(
                figure,
                "chance",
                0.5,
                span=layer_span(layers),
                colour=INK,
                dash="dot",
                row=row,
                col=col,
                in_legend=place == 1,
            )
        figure.update_yaxes(title_text=name, row=row, col=col)
        figure.update_yaxes(
            {"rangemode": "tozero"} if measure == "cohens_d" else {"range": [-0.04, 1.04]},
            row=row,
            col=col,
        )
        if row == n_rows:
            figure.update_xaxes(title_text="layer (resid_post)", row=row, col=col)
    figure.update_xaxes(range=layer_span(layers), tick0=0, dtick=layer_tick(layers))
    return finish(
        figure,
        title or "readability by layer",
        subtitle=n,
        plot_height=height,
        column=column,
        panel_titles=0.4,
    )


def _ends(
    bands: pd.DataFrame | None, measure: str, kind: str, what: str, layers: Sequence[int]
) -> tuple[Float[np.ndarray, "layer"], Float[np.ndarray, "layer"]]:
    """Lower and upper ends at every layer; NaN where the analysis has none."""
    if bands is None:
        nothing = np.full(len(layers), np.nan)
        return nothing, nothing
    there = (bands["measure"] == measure) & (bands["fit"] == kind)
    rows = bands[there].set_index("layer").reindex(layers)
    low, high = (rows[f"{what}_{end}"].to_numpy(dtype=np.float64) for end in ("low", "high"))
    return low, high


def _draw_null(
    figure: go.Figure,
    bands: pd.DataFrame | None,
    measure: str,
    layers: Sequence[int],
    *,
    row: int,
    col: int,
    first: bool,
) -> None:
    """The range over draws of shuffled labels, grey."""
    low, high = _ends(bands, measure, "crossfit", "null", layers)
    if not np.isfinite(low).any():
        return
    line = Line(
        name="shuffled labels (range)",
        x=np.array(layers, dtype=np.float64),
        y=(low + high) / 2,
        low=low,
        high=high,
        colour=FAINT,
        dash="dot",
        width=1,
    )
    draw_line(figure, line, row=row, col=col, in_legend=first)
