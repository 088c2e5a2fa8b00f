"""Figure 6. The whole grid, drawn.

    python -m figures.layer_alpha RUN [--out FOLDER] [--no-static]

Layer x alpha maps of trait and coherence for each method, cells below the coherence limit crossed,
the operating point framed; one figure a scope (the content of table C.1).

Needs: a sweep. Writes layer-alpha-SCOPE.* (html, csv, json; svg, pdf, png at one column, and
-double.* at two) in some ten seconds, most of them the browser's.
"""

import sys

from interp_steer.figure_command import figure_main

main = figure_main("layer_alpha", __doc__ or "")
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
