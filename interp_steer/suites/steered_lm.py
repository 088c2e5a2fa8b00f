"""The steered model as lm-evaluation-harness wants it: log-likelihoods and greedy text.

A scored continuation counts as the response: in scope `response` its tokens are edited and the
question's are not, exactly as when the model had written them. The harness gives plain text, so
everything before the continuation is one prompt (segment user). Loading this module needs the
extra `eval`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM

from interp_steer.cells import Cell
from interp_steer.model import GenerationSettings, HookedLM, Prompt, Segment, TokenizedPrompt
from interp_steer.probes import ProbeSet
from interp_steer.suites.settings import EvaluationError
from interp_steer.suites.speaking import Guard, guarded, speak

LONGEST_ANSWER = 256
"""New tokens of a generated answer where the task sets no limit."""


class SteeredLM(TemplateLM):
    """One model under one configuration.

    Args:
        lm: the model.
        cell: the configuration; a baseline for none.
        probes: the run's probes.
        batch_size: sequences of one forward pass.
    """

    def __init__(self, lm: HookedLM, cell: Cell, probes: ProbeSet, *, batch_size: int = 16) -> None:
        super().__init__()
        self._lm, self._cell, self._probes = lm, cell, probes
        self._batch_size = batch_size
        self.tokenizer = lm.tokenizer

    @property
    def eot_token_id(self) -> int:
        """Token that ends a text."""
        return min(self._lm.stop_ids)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context: BOS, or the end-of-text token."""
        bos = self._lm.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_options: Any
    ) -> list[int]:
        """Tokens of a text; BOS in front where the model has one, unless told otherwise."""
        if add_special_tokens is False:
            return list(self._lm.tokenizer.encode(string, add_special_tokens=False))
        return list(self._lm.tokenize(Prompt(text=string)).token_ids)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_options: Any
    ) -> list[tuple[float, bool]]:
        """Summed log-probability of each continuation, and whether it is the greedy one."""
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i][1] + requests[i][2]))
        found: dict[int, tuple[float, bool]] = {}
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            sequences = [self._sequence(*requests[i][1:]) for i in batch]
            for i, value in zip(batch, self._score(sequences), strict=True):
                found[i] = value
        return [found[i] for i in range(len(requests))]

    def _sequence(self, context: Sequence[int], continuation: Sequence[int]) -> TokenizedPrompt:
        """Context and continuation as prompt and response; the context is cut from the left."""
        room = self._lm.n_ctx - len(continuation)
        kept = tuple(context[-room:]) if room > 0 else ()
        if not kept or not continuation:
            raise EvaluationError(
                f"a continuation of {len(continuation)} tokens cannot be scored after "
                f"{len(context)} in a context of {self._lm.n_ctx}; at least one token must stand "
                "before it, and it must hold one"
            )
        bos = self._lm.tokenizer.bos_token_id
        segments = [int(Segment.USER)] * len(kept)
        if kept[0] == bos:
            segments[0] = int(Segment.TEMPLATE)
        return TokenizedPrompt(token_ids=kept, segments=tuple(segments)).with_response(continuation)

    def _score(self, sequences: Sequence[TokenizedPrompt]) -> list[tuple[float, bool]]:
        with guarded(self._lm, [Guard.of([self._cell] * len(sequences), self._probes)]):
            logits = self._lm.forward(sequences)
        if logits is None:
            raise EvaluationError("the model returned no logits")
        values = []
        for row, sequence in enumerate(sequences):
            n = len(sequence) - sequence.n_prompt
            wanted = torch.tensor(sequence.token_ids[-n:], device=logits.device)
            own = logits[row, -n - 1 : -1].float().log_softmax(dim=-1)
            chosen = own.gather(-1, wanted[:, None])
            is_greedy = bool((own.argmax(dim=-1) == wanted).all())
            values.append((float(chosen.sum()), is_greedy))
        return values

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Refused: a whole text scored from nothing has no prompt that scopes could leave out.

        Raises:
            EvaluationError: always.
        """
        del disable_tqdm
        raise EvaluationError(
            f"tasks of perplexity (loglikelihood_rolling, {len(requests)} requests) are not "
            "offered; choose multiple-choice or generation tasks"
        )

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Greedy text of each request, cut at its stop strings."""
        del disable_tqdm  # one bar a configuration is enough
        made: list[str] = []
        for start in range(0, len(requests), self._batch_size):
            batch = [request.args for request in requests[start : start + self._batch_size]]
            limit = max(int(o.get("max_gen_toks") or LONGEST_ANSWER) for _, o in batch)
            answers = speak(
                self._lm,
                [self._lm.tokenize(Prompt(text=context)) for context, _ in batch],
                [Guard.of([self._cell] * len(batch), self._probes)],
                GenerationSettings(temperature=0.0, max_new_tokens=limit),
                sample_keys=[f"{start + i}" for i in range(len(batch))],
            )
            made += [_cut(a.text, o) for a, (_, o) in zip(answers, batch, strict=True)]
        return made


def _cut(text: str, options: dict[str, Any]) -> str:
    stops = options.get("until") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.split(stop)[0] if stop else text
    return text
