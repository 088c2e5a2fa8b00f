"""Figure 11. What does steering cost in capabilities?

    python -m figures.capabilities RUN [--out FOLDER] [--no-static]

Each suite's score by coefficient, the operating point ringed.

Needs: a suite of capabilities, `interp-steer evaluate RUN --suite choice` (or mmlu, mt-bench,
alpaca-eval); refused until then. Writes capabilities.* (html, csv, json; svg, pdf, png at one
column, and -double.* at two) in some ten seconds, most of them the browser's.
"""

import sys

from interp_steer.figure_command import figure_main

main = figure_main("capabilities", __doc__ or "")
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
