"""Figure 8. Where does one response lie, layer by layer?

    python -m figures.token_layer_map RUN [--out FOLDER] [--no-static]

Projections of every token of one training scenario's responses at every layer, relative to each
layer's boundary.

Needs: probes, projections.parquet. Writes token-layer-map.* (html, csv, json; svg, pdf, png at one
column, and -double.* at two) in some ten seconds, most of them the browser's.
"""

import sys

from interp_steer.figure_command import figure_main

main = figure_main("token_layer_map", __doc__ or "")
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
