"""The explorer as a running server: on a port of its own, in a thread, until it is stopped.

    with ExplorerServer(Path("runs/demo")) as server:
        print(server.url)

The command line, notebooks and tests start the same one. Threads serve requests, so that a long one
(a picture, a generation's start) does not hold up the page.
"""

import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from interp_steer.config import ModelPlace
from interp_steer.explorer.access import Guard, check_host
from interp_steer.explorer.app import make_app
from interp_steer.explorer.library import ExplorerError, Library
from interp_steer.explorer.live_view import LivePanes

DEFAULT_PORT = 8050


class _QuietHandler(WSGIRequestHandler):
    """No line on stderr for every request."""

    def log_request(self, *args: Any, **options: Any) -> None:
        """Say nothing."""


class ExplorerServer:
    """One explorer of one folder; a context manager."""

    def __init__(
        self,
        folder: str | Path,
        *,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        allow_remote: bool = False,
        place: ModelPlace | None = None,
    ) -> None:
        """Find the runs and take the port; `start` or `with` begins to serve.

        Args:
            folder: a run, or a folder of runs.
            host: address to listen on.
            port: 0 takes a free one.
            allow_remote: needed for another host than loopback.
            place: where live generations run; the CPU by default.

        Raises:
            ExplorerError: no run there, a host that needs `allow_remote`, or a port that is taken.
        """
        check_host(host, allow_remote=allow_remote)
        self.library = Library(Path(folder))
        self._live = LivePanes(self.library, place=place)
        app = make_app(self.library, self._live)
        Guard.of(host).protect(app.server, script_hashes=app.csp_hashes())
        self.app = app
        self._server = _listen(host, port, app.server)
        self._host = host
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where the page is."""
        name = self._host if self._host not in ("0.0.0.0", "::", "") else socket.gethostname()
        name = f"[{name}]" if ":" in name else name
        return f"http://{name}:{self._server.server_port}/"

    def start(self) -> "ExplorerServer":
        """Serve in a thread of this process."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
            self._thread.start()
        return self

    def serve(self) -> None:
        """Serve until the process is interrupted."""
        try:
            self._server.serve_forever()
        finally:
            self._end()

    def stop(self) -> None:
        """Stop serving and generating, and free the port."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._end()

    def _end(self) -> None:
        # A thread that is in the middle of a step when Python ends would abort the process.
        self._live.close()
        self._server.server_close()

    def __enter__(self) -> "ExplorerServer":
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _listen(host: str, port: int, app: Any) -> BaseWSGIServer:
    # Werkzeug prints and exits where a port is taken; asking first gives an error to show.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
        return make_server(host, port, app, threaded=True, request_handler=_QuietHandler)
    except (OSError, OverflowError, SystemExit) as error:
        raise ExplorerError(
            f"cannot listen on {host}, port {port}: {error}; choose another with --port (0 takes a "
            "free one)"
        ) from error
