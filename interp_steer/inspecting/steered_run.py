"""A run's model answering batches of chats, each row under a configuration of its own.

Nothing here knows Inspect: it is what a model provider needs, as plain calls. One model is loaded
once a process, however many providers stand on it, and answers one batch at a time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from threading import Lock
from typing import Any

from interp_steer.cells import NONE, Cell
from interp_steer.config import ModelPlace
from interp_steer.controls import ControlDirections
from interp_steer.edit_meter import EditMeter
from interp_steer.fit_stage import load_probes
from interp_steer.inspecting.steering_choice import SteeringChoice
from interp_steer.measures import EDIT_COLUMNS
from interp_steer.model import Generation, GenerationSettings, Prompt, TokenizedPrompt
from interp_steer.scenarios import Message
from interp_steer.study import Study, reopen_study
from interp_steer.suites.settings import EvaluationError
from interp_steer.suites.speaking import Guard, guarded
from interp_steer.sweep_stage import control_directions


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One row of a batch."""

    prompt: TokenizedPrompt
    """What is answered."""
    cell: Cell | None
    """Configuration; None for no steering."""
    sample_key: str
    """Key of its random numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a row became."""

    generation: Generation
    """The response."""
    edits: Mapping[str, float]
    """`measures.EDIT_COLUMNS` that apply: what the hooks did to the row; empty where nothing is
    steered."""


class SteeredRun:
    """Model, probes and operating points of one run.

    Args:
        study: the run with its model.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self._probes = load_probes(study.run)
        self._directions: ControlDirections | None = None
        self._busy = Lock()

    def cell(self, choice: SteeringChoice) -> Cell | None:
        """The configuration of a choice; see `SteeringChoice.cell`.

        Raises:
            EvaluationError: a layer without a probe.
        """
        cell = choice.cell(self.study.run)
        if cell is None:
            return None
        if cell.layer not in self._probes.layers:
            raise EvaluationError(
                f"no probe for layer {cell.layer}; this run has probes for layers "
                f"{', '.join(map(str, self._probes.layers))}"
            )
        if cell.control != NONE and self._directions is None:
            self._directions = control_directions(self.study)
        Guard.of([cell], self._probes, directions=self._directions)  # refuses what cannot be built
        return cell

    def tokenize(self, messages: Sequence[Message]) -> TokenizedPrompt:
        """Tokens of a chat; a base model, which has no chat template, gets one message as it is.

        Raises:
            ModelError: the template does not take these messages.
            EvaluationError: a base model and more than one message.
        """
        lm = self.study.lm
        if getattr(lm.tokenizer, "chat_template", None):
            return lm.tokenize(Prompt(messages=tuple(messages)))
        if len(messages) != 1 or messages[0].role != "user":
            raise EvaluationError(
                f"{lm.model_id} has no chat template, so it takes one user message as its text, "
                f"got {', '.join(message.role for message in messages)}"
            )
        return lm.tokenize(Prompt(text=messages[0].content))

    def answer(self, requests: Sequence[Request], settings: GenerationSettings) -> list[Reply]:
        """One reply a request, in one batch; calls of several threads wait for one another.

        Raises:
            ModelError: a prompt that the model cannot take.
        """
        cells = [request.cell for request in requests]
        guard = Guard.of(cells, self._probes, directions=self._directions)
        meter = EditMeter()
        with self._busy, guarded(self.study.lm, [guard], recorder=meter):
            made = self.study.lm.generate(
                [request.prompt for request in requests],
                settings,
                sample_keys=[request.sample_key for request in requests],
            )
        edits = meter.results(len(requests))
        return [
            Reply(generation=generation, edits=_applying(edits, row))
            for row, generation in enumerate(made)
        ]


def _applying(edits: Mapping[str, Any], row: int) -> dict[str, float]:
    values = {name: float(edits[name][row]) for name in EDIT_COLUMNS}
    return {name: value for name, value in values.items() if isfinite(value)}


@cache
def open_run(path: Path, device: str) -> SteeredRun:
    """The run at an absolute path, loaded once a process.

    Raises:
        RunError: no run there, or it has no probes.
        ModelError: its model cannot be loaded.
    """
    return SteeredRun(reopen_study(path, place=ModelPlace(device=device)))
