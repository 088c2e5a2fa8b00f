"""The explorer: choose a layer, move the boundary, type a prompt, see every token that fired.

`interp-steer explore RUN` serves it; in a notebook, `show(run)` puts the same app into a cell. It
needs the extra `explorer` (dash). It shows what a run holds and what a model says; where steering
works is for generations and their controls to say.
"""

import html
from pathlib import Path
from typing import TYPE_CHECKING

from interp_steer.config import ModelPlace
from interp_steer.errors import InterpSteerError

if TYPE_CHECKING:
    from interp_steer.explorer.server import ExplorerServer
    from interp_steer.runs import Run


class Shown:
    """An explorer in a notebook's cell; `stop()` ends it."""

    def __init__(self, server: "ExplorerServer", *, height: int) -> None:
        self.server = server
        self.height = height

    @property
    def url(self) -> str:
        """Where the page is, for a tab of its own."""
        return self.server.url

    def stop(self) -> None:
        """Stop serving; the cell's page is dead afterwards."""
        self.server.stop()

    def __repr__(self) -> str:
        return f"explorer at {self.url}"

    def _repr_html_(self) -> str:
        url = html.escape(self.url, quote=True)
        return (
            f'<iframe src="{url}" width="100%" height="{int(self.height)}" '
            f'style="border: 1px solid #ccc" title="interp_steer explorer"></iframe>'
            f'<div><a href="{url}" target="_blank" rel="noreferrer">open in a tab</a></div>'
        )


def show(
    run: "Run | str | Path", *, height: int = 900, port: int = 0, device: str = "cpu"
) -> Shown:
    """Serve a run on this machine and return what shows it in a notebook's cell.

    Args:
        run: a run, its path, or a folder of runs.
        height: of the cell's frame, in pixels.
        port: 0 takes a free one.
        device: where live generations run.

    Raises:
        InterpSteerError: the extra `explorer` is not installed, or there is no run.
    """
    check_installed()
    from interp_steer.explorer.server import ExplorerServer

    path = Path(run) if isinstance(run, str | Path) else run.path
    server = ExplorerServer(path, port=port, place=ModelPlace(device=device)).start()
    return Shown(server, height=height)


def check_installed() -> None:
    """Refuse to go on without dash, and say how to get it.

    Raises:
        InterpSteerError: it is not installed.
    """
    import importlib.util

    missing = [name for name in ("dash", "dash_ag_grid") if importlib.util.find_spec(name) is None]
    if missing:
        raise InterpSteerError(
            f"the explorer needs {' and '.join(missing)}: pip install 'interp-steer[explorer]'"
        )
