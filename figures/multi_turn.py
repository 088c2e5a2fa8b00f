"""Figure 11. Do trait and coherence hold over turns?

    python -m figures.multi_turn RUN [--out FOLDER] [--no-static]

Trait, coherence and repetition by turn.

Needs: `interp-steer evaluate RUN --suite multi-turn`; refused until then. Writes multi-turn.*
(html, csv, json; svg, pdf, png at one column, and -double.* at two) in some ten seconds, most of
them the browser's.
"""

import sys

from interp_steer.figure_command import figure_main

main = figure_main("multi_turn", __doc__ or "")
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
