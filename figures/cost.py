"""Figure 11. What does steering cost in time?

    python -m figures.cost RUN [--out FOLDER] [--no-static]

Latency, throughput and the time a token as a ratio to the unsteered model, each method at its
operating point, diagnostics off and on.

Needs: `interp-steer evaluate RUN --suite cost`; refused until then. Writes cost.* (html, csv, json;
svg, pdf, png at one column, and -double.* at two) in some ten seconds, most of them the browser's.
"""

import sys

from interp_steer.figure_command import figure_main

main = figure_main("cost", __doc__ or "")
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
