"""Figure 8. Which tokens were touched, and how far were they moved?

    python -m figures.token_strips RUN [--out FOLDER] [--no-static] [--no-analyses]

One scenario's malicious unsteered, steered and aligned responses one under the other, token by
token; the page shows the whole trace row on hover. One figure a method.

Needs: a trace; the analysis baseline_projections tints the unsteered rows, made first where it is
missing or out of date. Writes tokens-METHOD-SCOPE.* (html, csv, json; svg, pdf, png at one column,
and -double.* at two) in some ten seconds, most of them the browser's.
"""

import sys

from interp_steer.figure_command import figure_main

main = figure_main("token_strips", __doc__ or "")
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
