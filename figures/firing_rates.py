"""Figure 9. How often does the gate fire, and where?

    python -m figures.firing_rates RUN [--out FOLDER] [--no-static]

Share of tokens below the boundary, unsteered, and fired, steered, along the response and by
segment.

Needs: probes, projections.parquet; traces for the steered line. Writes firing-rates.* (html, csv,
json; svg, pdf, png at one column, and -double.* at two) in some ten seconds, most of them the
browser's.
"""

import sys

from interp_steer.figure_command import figure_main

main = figure_main("firing_rates", __doc__ or "")
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
