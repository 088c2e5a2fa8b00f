"""Who may talk to the explorer: pages of its own host, nobody else's.

A server on the loopback address is open to every page that the user's browser has open: a foreign
page can send it requests (Origin) or point a name of its own at 127.0.0.1 (DNS rebinding, Host).
The explorer shows a run's text and can make the model generate, so both are refused with 403 before
any of its code runs. There are no accounts: whoever reaches the port sees the run.
"""

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from flask import Flask, Response, request

from interp_steer.explorer.library import ExplorerError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
REMOTE_MEANS = (
    "whoever can reach this machine's port can then read the run, its prompts and responses, and "
    "make the model generate; there is no password and no encryption. Safer: leave the host as it "
    "is and forward the port, `ssh -L 8050:127.0.0.1:8050 MACHINE`"
)


def is_loopback(host: str) -> bool:
    """Whether `host` names this machine to itself alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_host(host: str, *, allow_remote: bool) -> None:
    """Refuse to listen to other machines unless it was asked for.

    Raises:
        ExplorerError: another host than loopback without `allow_remote`.
    """
    if not is_loopback(host) and not allow_remote:
        raise ExplorerError(
            f"--host {host} opens the explorer to other machines: {REMOTE_MEANS}. Add "
            "--allow-remote if that is meant"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Host names under which this server may be addressed."""

    names: frozenset[str]
    """Lower case, without port. Empty: any (bound to all addresses, on request)."""

    @classmethod
    def of(cls, host: str) -> "Guard":
        """The names that belong to the address that a server is bound to."""
        if is_loopback(host):
            return cls(names=frozenset(LOOPBACK))
        if host in ("0.0.0.0", "::", ""):
            return cls(names=frozenset())
        return cls(names=frozenset({host.lower(), socket.gethostname().lower(), *LOOPBACK}))

    def refusal(self, host: str | None, origin: str | None, from_site: str | None) -> str | None:
        """Why a request with these headers is refused; None where it is not.

        Args:
            host: the Host header.
            origin: the Origin header, which browsers send with whatever is not a plain visit.
            from_site: the Sec-Fetch-Site header, where the browser sends one.
        """
        name = _name(f"//{host}") if host else None
        if name is None or (self.names and name not in self.names):
            return f"foreign Host {host!r}"
        if origin is not None and (origin == "null" or urlsplit(origin).netloc != host):
            return f"foreign Origin {origin!r}"
        if from_site == "cross-site" and origin is not None:
            return "a request from another site"
        return None

    def protect(self, app: Flask, *, script_hashes: Sequence[str]) -> None:
        """Answer 403 to every request that `refusal` refuses, whatever it asks for.

        Args:
            app: what is protected.
            script_hashes: of the inline scripts that the page needs, as a Content-Security-Policy
                names them; no other script runs, whatever text a run holds.
        """
        headers = {**_HEADERS, "Content-Security-Policy": _policy(script_hashes)}

        @app.before_request
        def refuse() -> Response | None:
            sent = request.headers
            why = self.refusal(sent.get("Host"), sent.get("Origin"), sent.get("Sec-Fetch-Site"))
            if why is None:
                return None
            expected = ", ".join(sorted(self.names)) or "the host of the page itself"
            text = f"refused: {why}; this explorer answers pages of {expected}"
            return Response(text, status=403, mimetype="text/plain")

        @app.after_request
        def harden(response: Response) -> Response:
            for header, value in headers.items():
                response.headers.setdefault(header, value)
            return response


_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def _policy(script_hashes: Sequence[str]) -> str:
    """Everything from this server; it may be framed by pages of this machine (notebooks) alone."""
    parts = {
        "default-src": ["'self'"],
        "script-src": ["'self'", *script_hashes],
        "style-src": ["'self'", "'unsafe-inline'"],
        "img-src": ["'self'", "data:", "blob:"],
        "font-src": ["'self'", "data:"],
        "worker-src": ["blob:"],
        "object-src": ["'none'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        "frame-ancestors": ["'self'", "http://localhost:*", "http://127.0.0.1:*"],
    }
    return "; ".join(f"{name} {' '.join(values)}" for name, values in parts.items())


def _name(url: str) -> str | None:
    try:
        found = urlsplit(url).hostname
    except ValueError:
        return None
    return found.lower() if found else None
