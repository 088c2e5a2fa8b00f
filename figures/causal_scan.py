"""Figure 9. Where does the trait live?

    python -m figures.causal_scan RUN [--out FOLDER] [--no-static] [--no-analyses]

Layer x segment map of the causal scan, its effects with intervals and control, beside what the
sweep recovers and the probes read.

Needs: the analysis causal_scan, made first where it is missing or out of date (a minute or two for
the demo's run; it loads the model). Writes causal-scan.* (html, csv, json; svg, pdf, png at one
column, and -double.* at two) in some ten seconds more, most of them the browser's.
"""

import sys

from interp_steer.figure_command import figure_main

main = figure_main("causal_scan", __doc__ or "")
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
