"""Other steering packages, each in a process of its own environment (`peer_worker`).

They pin an older transformers than this project's, so `make peers` installs them, from
`requirements-peers.lock`, into an environment beside the project's. Process and model stay up
through a benchmark; a request is one line, whose cost is below a thousandth of what is timed.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from benchmarks.ratios import BenchmarkError
from interp_steer.cells import Cell
from interp_steer.layer_probe import LayerProbe
from interp_steer.sampling import GenerationSettings

PYTHON = Path(sys.prefix) / "peers" / "bin" / "python"
"""Interpreter of the peers' environment."""

PACKAGES = {"peer_steering_vectors": "steering_vectors", "peer_repeng": "repeng"}
"""Import names of the packages, by claim."""


class PeerProcess:
    """A package that generates on request."""

    def __init__(self, process: "subprocess.Popen[str]", package: str, said: IO[str]) -> None:
        self._process = process
        self._said = said  # its standard error, in a file: a full pipe would stop it
        self.package = package

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send one request and wait for the answer.

        Raises:
            BenchmarkError: the process ended; its last words are in the message.
        """
        to, back = self._process.stdin, self._process.stdout
        if to is None or back is None:
            raise ValueError("the process needs pipes")
        try:
            to.write(json.dumps({"do": do, **request}) + "\n")
            to.flush()
            answer = back.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._said.seek(0)
            said = self._said.read().strip()[-500:]
            raise BenchmarkError(f"{self.package} ended at {do!r}: {said}")
        return json.loads(answer)

    def prepare(
        self,
        cell: Cell,
        probe: LayerProbe,
        prompts: Sequence[Sequence[int]],
        settings: GenerationSettings,
    ) -> None:
        """Say how to steer and what to generate.

        Args:
            cell: swfc or sttp in scope all.
            probe: of the cell's layer.
            prompts: token ids, of one length.
            settings: sampling; no token stops a response.
        """
        alpha = float(cell.alpha or 0.0)
        gate = {"below": probe.boundary, "target": probe.mu_pos + alpha * probe.sigma_pos}
        self.ask(
            "steer",
            layer=cell.layer,
            v_hat=probe.v_hat.tolist(),
            shift=alpha * probe.delta_mu,
            gate=gate if cell.method == "sttp" else None,
        )
        self.ask(
            "work",
            prompts=[list(one) for one in prompts],
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
        )

    def generate(self) -> float:
        """Do the work; return the tokens made."""
        return float(self.ask("generate")["n_tokens"])

    def tokens(self) -> list[tuple[int, ...]]:
        """Do the work; return the responses."""
        self.generate()
        return [tuple(one) for one in self.ask("tokens")["tokens"]]


@contextmanager
def peer_processes(model: Path) -> Iterator[dict[str, PeerProcess]]:
    """Start every package on one model directory; by claim. Ended on leaving.

    Raises:
        BenchmarkError: their environment is not installed, or a package does not start.
    """
    if not PYTHON.is_file():
        raise BenchmarkError(f"{PYTHON} is missing; install the peers first: make peers")
    with ExitStack() as stack:
        peers = {
            claim: stack.enter_context(_started(package)) for claim, package in PACKAGES.items()
        }
        for peer in peers.values():
            peer.ask("load", folder=str(model), package=peer.package)
        yield peers


@contextmanager
def _started(package: str) -> Iterator[PeerProcess]:
    command = [str(PYTHON), str(Path(__file__).with_name("peer_worker.py"))]
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=said, text=True)
        try:
            yield PeerProcess(process, package, said)
        finally:
            process.kill()
            process.communicate()
