"""The model provider `interp-steer/RUN` of Inspect: a run's model, steered or as it is.

    inspect eval TASK --model interp-steer/RUN -M method=sttp

Texts are those of the sweep where the prompt, the sample's id and its epoch are: the random numbers
of a request hang on (the run's seed, sample id, epoch) alone. What the hooks did to each response
is in the output's metadata. Loading this module needs the extra `inspect`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

from inspect_ai.model import (  # pyright: ignore[reportMissingImports]
    ChatCompletionChoice,
    ChatMessageAssistant,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.solver._task_state import (  # pyright: ignore[reportMissingImports]
    sample_state,
)

from interp_steer.cells import NONE, Cell
from interp_steer.inspecting.batches import Batches
from interp_steer.inspecting.steered_run import Reply, Request, open_run
from interp_steer.inspecting.steering_choice import SteeringChoice
from interp_steer.model import Generation, GenerationSettings, TokenizedPrompt
from interp_steer.scenarios import Message
from interp_steer.suites.settings import EvaluationError
from interp_steer.sweep_rows import sample_key

OPTION = "interp_steer"
"""Key of a request's own configuration in `extra_body`, and of diagnostics in metadata."""
REFUSED = (
    "top_k frequency_penalty presence_penalty logit_bias best_of top_logprobs prompt_logprobs "
    "response_schema"
).split()
"""Settings that this library's sampling does not have, and which change texts or what is asked."""
STOP_REASONS: dict[str, Literal["stop", "max_tokens", "model_length"]] = {
    "stop_token": "stop",
    "length": "max_tokens",
    "context": "model_length",
}
"""Ours to Inspect's."""


class SteeredRunAPI(ModelAPI):
    """One run behind Inspect.

    Args:
        model_name: the run directory.
        base_url: not used.
        api_key: not used.
        config: generation settings of all requests.
        model_args: `device` (cpu), `batch_size` (16), and the fields of `SteeringChoice`.

    Raises:
        EvaluationError: an option that does not fit.
        RunError: no run there, or no operating point where one is needed.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: Any = None,
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        options = dict(model_args)
        device = str(options.pop("device", "cpu"))
        self._batch_size = int(options.pop("batch_size", 16))
        if self._batch_size < 1:
            raise EvaluationError(f"batch_size must be at least 1, got {self._batch_size}")
        self.run = open_run(Path(model_name).resolve(), device)
        self.choice = SteeringChoice.of(options)
        self._cells: dict[SteeringChoice, Cell | None] = {}
        self.cell_of(self.choice)
        self._batches = Batches(self.run, self._batch_size)
        self._asked: Counter[tuple[str, str, int]] = Counter()

    def max_connections(self) -> int:
        """Requests under way at once: those of one batch."""
        return self._batch_size

    def connection_key(self) -> str:
        """Requests of one run wait for one another."""
        return f"interp-steer {self.model_name}"

    def max_tokens(self) -> int | None:
        """None: the run's own limit."""
        return None

    def collapse_user_messages(self) -> bool:
        """Join neighbours, which chat templates refuse."""
        return True

    def collapse_assistant_messages(self) -> bool:
        """Join neighbours, which chat templates refuse."""
        return True

    def collapse_system_messages(self) -> bool:
        """Join neighbours, which chat templates refuse."""
        return True

    def cell_of(self, choice: SteeringChoice) -> Cell | None:
        """A choice with the run's operating point filled in, read once."""
        if choice not in self._cells:
            self._cells[choice] = self.run.cell(choice)
        return self._cells[choice]

    async def generate(
        self,
        input: Sequence[Any],  # noqa: A002  (Inspect's name)
        tools: Sequence[Any],
        tool_choice: Any,
        config: Any,
    ) -> Any:
        """Answer one chat; several times for `num_choices`.

        Raises:
            EvaluationError: tools, content that is no text, or a setting that sampling lacks.
            ModelError: a prompt that the model cannot take.
        """
        del tool_choice
        if tools:
            raise EvaluationError(
                f"a steered model calls no tools, got {len(tools)}; choose a task without tools"
            )
        settings = generation_settings(config, self.run.study.settings)
        choice = self._choice(config)
        cell = self.cell_of(choice)
        messages = [chat_message(message) for message in input]
        prompt = self.run.tokenize(messages)
        key = self._key(prompt, n_answers=sum(m.role == "assistant" for m in messages))
        replies = [
            await self._batches.answer(
                Request(prompt=prompt, cell=cell, sample_key=f"{key}\x1f+{i}" if i else key),
                settings,
            )
            for i in range(config.num_choices or 1)
        ]
        return self._output(replies, cell, config)

    def _choice(self, config: Any) -> SteeringChoice:
        body = dict(config.extra_body or {})
        own = body.pop(OPTION, None)
        if body:
            raise EvaluationError(
                f"extra_body of a steered model holds {OPTION} alone, got {', '.join(body)}"
            )
        return self.choice if own is None else SteeringChoice.of(own)

    def _key(self, prompt: TokenizedPrompt, n_answers: int) -> str:
        """Key of a request's random numbers: of sample and epoch, as in a sweep.

        Later turns and repeated requests of one sample have others.
        """
        state = sample_state()
        uid, name, index = ("", "", 0)
        if state is not None:
            uid, name, index = state.uuid, str(state.sample_id), state.epoch - 1
        key = sample_key(name, index) + (f"\x1f{n_answers}" if n_answers else "")
        place = (uid, key, hash(prompt.token_ids))
        self._asked[place] += 1
        again = self._asked[place] - 1
        return f"{key}\x1f#{again}" if again else key

    def _output(self, replies: Sequence[Reply], cell: Cell | None, config: Any) -> Any:
        made = [reply.generation for reply in replies]
        n_input = len(made[0].prompt)
        n_output = sum(len(generation.token_ids) for generation in made)
        rows = [
            {"stop_reason": r.generation.stop_reason, "fired_share": None, **r.edits}
            for r in replies
        ]
        steering: dict[str, object] = {"method": NONE}
        if cell is not None:  # side and threat of a cell are the sweep's prompt, not this one
            names = [field.name for field in fields(SteeringChoice)]
            steering = {name: getattr(cell, name) for name in names}
        return ModelOutput(
            model=self.model_name,
            choices=[self._completion(generation, config) for generation in made],
            usage=ModelUsage(
                input_tokens=n_input, output_tokens=n_output, total_tokens=n_input + n_output
            ),
            metadata={OPTION: {"steering": steering, "rows": rows}},
        )

    def _completion(self, generation: Generation, config: Any) -> Any:
        text, reason = cut(generation.text, config.stop_seqs or ())
        logprobs = None
        if config.logprobs:
            names = self.run.study.lm.token_strings(generation.token_ids)
            pairs = zip(names, generation.logprobs, strict=True)
            logprobs = Logprobs(content=[Logprob(token=t, logprob=p) for t, p in pairs])
        return ChatCompletionChoice(
            message=ChatMessageAssistant(content=text, model=self.model_name, source="generate"),
            stop_reason=reason or STOP_REASONS[generation.stop_reason],
            logprobs=logprobs,
        )


def generation_settings(config: Any, settings: GenerationSettings) -> GenerationSettings:
    """The run's sampling with what Inspect was told.

    Raises:
        EvaluationError: a setting that this library's sampling does not have.
    """
    refused = [name for name in REFUSED if getattr(config, name, None)]
    if refused:
        raise EvaluationError(
            f"a steered model does not take {', '.join(refused)}; it has temperature, top_p, seed, "
            "max_tokens, stop_seqs, num_choices and logprobs"
        )
    given = {
        "max_new_tokens": config.max_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "seed": config.seed,
    }
    return replace(settings, **{k: v for k, v in given.items() if v is not None})


def chat_message(message: Any) -> Message:
    """A message of Inspect as one of ours.

    Raises:
        EvaluationError: a tool's message, or content that is no text.
    """
    if message.role not in ("system", "user", "assistant"):
        raise EvaluationError(f"a steered model takes no messages of a {message.role}")
    if isinstance(message.content, str):
        return Message(role=message.role, content=message.content)
    kinds = {part.type for part in message.content} - {"text", "reasoning"}
    if kinds:
        raise EvaluationError(f"a steered model reads text, got {', '.join(sorted(kinds))}")
    parts = [part.text for part in message.content if part.type == "text"]
    return Message(role=message.role, content="\n".join(parts))


def cut(text: str, stops: Sequence[str]) -> tuple[str, Literal["stop"] | None]:
    """The text before the first stop string, and that it stopped there."""
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return (text[: min(places)], "stop") if places else (text, None)
