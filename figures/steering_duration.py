"""Figure 10. How long must one steer?

    python -m figures.steering_duration RUN [--out FOLDER] [--no-static]

Trait by K for scope first:K, continuous steering beside it, and by P after a prefilled start of P
tokens.

Needs: a sweep with scopes first:K, or with threats prefill:P. Writes steering-duration.* (html,
csv, json; svg, pdf, png at one column, and -double.* at two) in some ten seconds, most of them the
browser's.
"""

import sys

from interp_steer.figure_command import figure_main

main = figure_main("steering_duration", __doc__ or "")
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
