"""Figure 11. What does the guard of one trait do to the other?

    python -m figures.cross_trait RUN [--out FOLDER] [--no-static]

Trait and coherence of both traits' scenarios: unsteered, under the own guard, the other's, both,
and under controls of the other guard.

Needs: `interp-steer evaluate RUN --suite cross-trait --other OTHER_RUN`; refused until then. Writes
cross-trait.* (html, csv, json; svg, pdf, png at one column, and -double.* at two) in some ten
seconds, most of them the browser's.
"""

import sys

from interp_steer.figure_command import figure_main

main = figure_main("cross_trait", __doc__ or "")
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
