"""Figure 6. What does trait cost in coherence?

    python -m figures.frontiers RUN [--out FOLDER] [--no-static]

Every cell of the sweep, each method's frontier, baselines and operating points; one panel a scope.

Needs: a sweep. Writes frontiers.* (html, csv, json; svg, pdf, png at one column, and -double.* at
two) in some ten seconds, most of them the browser's.
"""

import sys

from interp_steer.figure_command import figure_main

main = figure_main("frontiers", __doc__ or "")
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
