"""The least that any page of this kind takes: Dash with one figure of two points.

`benchmarks.explorer` times it beside the explorer: loading Dash and plotly into a browser takes
most of a second or several, depending on the machine, before a page has anything of its own to do.

Command: python -m benchmarks.bare_page; it serves until it is stopped and says where.
"""

import sys

import plotly.graph_objects as go
from dash import Dash, dcc, html
from werkzeug.serving import make_server


def main() -> int:
    """Serve the page on a free port of this machine."""
    app = Dash(__name__)
    figure = go.Figure(go.Scatter(x=[0, 1], y=[0, 1]))
    app.layout = html.Div(dcc.Graph(id="figure", figure=figure), id="view")
    server = make_server("127.0.0.1", 0, app.server, threaded=True)
    sys.stdout.write(f"bare page at http://127.0.0.1:{server.server_port}/\n")
    sys.stdout.flush()
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
