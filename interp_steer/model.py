"""`HookedLM`: a TransformerLens model behind the small surface that this library needs.

It turns prompts into tokens with segments, runs and samples left-padded batches, and attaches hooks
that are told where each token stands in its sequence (`TokenChunk`). Results do not depend on how
rows are batched, padded, cached or chunked, up to float noise. Nothing here knows what a probe or a
steering method is.
"""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_steer.attached_hooks import LayerHooks
from interp_steer.chat_template import ChatOptions, system_role
from interp_steer.errors import ModelError
from interp_steer.generation import StopRule, sample_responses
from interp_steer.model_identity import WeightHash, model_identity
from interp_steer.model_loading import load_bridge
from interp_steer.placement import DtypeName, Placement
from interp_steer.runners import ModelRunner
from interp_steer.sampling import (
    Generation,
    GenerationSettings,
    GenerationStep,
    StepCallback,
    answer_ids,
)
from interp_steer.scenarios import Prompt
from interp_steer.thinking import ThinkingMarks
from interp_steer.tokenization import decode_tokens, token_strings, tokenize_prompt
from interp_steer.tokens import (
    PaddedBatch,
    ResidHook,
    Segment,
    TokenChunk,
    TokenizedPrompt,
    left_pad,
)
from interp_steer.wrapping import runner_of

__all__ = [
    "ChatOptions",
    "Generation",
    "GenerationSettings",
    "GenerationStep",
    "HookedLM",
    "Prompt",
    "ResidHook",
    "Segment",
    "TokenChunk",
    "TokenizedPrompt",
]

_log = logging.getLogger(__name__)

PAD_ID = 0
"""Token id written at padding. Any valid id does: padding is masked and hooks are told of it."""


class HookedLM:
    """A causal language model with hooks on the residual stream that leaves each block."""

    def __init__(
        self,
        bridge: Any,
        *,
        model_id: str | None = None,
        revision: str | None = None,
        chat: ChatOptions | None = None,
        reference: bool = False,
    ) -> None:
        """Wrap a `TransformerBridge` or, with TransformerLens 3.x, a `HookedTransformer`.

        Args:
            bridge: either, with a tokenizer if prompts are to be tokenized, a bridge in evaluation
                mode; or a `ModelRunner` of your own, for another model class.
            model_id: name recorded in artifacts; the model's own by default.
            revision: commit of the hub that it was loaded from.
            chat: what the chat template is told.
            reference: run everything through a bridge's own components, eager attention and all,
                instead of Hugging Face's modules underneath. Slower; equal up to rounding.

        Raises:
            ModelError: no residual hooks, a bridge in training mode (dropout), or a model whose
                text would depend on padding (see `hooked_transformer`).
        """
        self._runner = runner_of(bridge, reference=reference)
        self.bridge = self._runner.wrapped
        self.model_id = model_id or str(self._runner.cfg.model_name)
        self.revision = revision
        self.chat = chat or ChatOptions()
        self._told = False
        self._weights = WeightHash()

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | DtypeName = "auto",
        device_map: str | dict[str, str | int] | None = None,
        n_devices: int | None = None,
        revision: str | None = None,
        hf_model: Any | None = None,
        tokenizer: Any | None = None,
        chat: ChatOptions | None = None,
        reference: bool = False,
    ) -> "HookedLM":
        """Load a local Hugging Face directory or a model of the hub.

        Args:
            name_or_path: directory, or hub name (owner/name).
            device: cpu (the default), cuda, cuda:1, mps; or a device map by name.
            dtype: of weights and residual stream; "auto" is bfloat16 on CUDA and float32 elsewhere.
            device_map: spread the model as Hugging Face does: "auto", "balanced", or a dict.
            n_devices: split it evenly over so many GPUs.
            revision: branch, tag or commit of the hub.
            hf_model: the model itself, loaded before with any options (quantised, for instance);
                device, dtype and device map are then its own.
            tokenizer: instead of the one that lies with the model.
            chat: what the chat template is told (`ChatOptions`).
            reference: run everything through the bridge's own components, as a check; slower.

        Raises:
            ModelError: the model cannot be loaded; the message says why and what to do.
        """
        placement = Placement.of(device, dtype, device_map=device_map, n_devices=n_devices)
        loaded = load_bridge(
            name_or_path, placement, revision=revision, hf_model=hf_model, tokenizer=tokenizer
        )
        return cls(
            loaded.bridge,
            model_id=loaded.model_id,
            revision=loaded.revision,
            chat=chat,
            reference=reference,
        )

    @property
    def n_layers(self) -> int:
        """Number of blocks; layers are 0 .. n_layers - 1."""
        return self._runner.n_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self._runner.cfg.d_model)

    @property
    def n_ctx(self) -> int:
        """Longest sequence, in tokens."""
        return int(self._runner.cfg.n_ctx)

    @property
    def d_vocab(self) -> int:
        """Number of logits."""
        return int(self._runner.cfg.d_vocab)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the embeddings, hence of the residual stream; quantised weights have others."""
        return self._embedding.dtype

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the embeddings."""
        return self._embedding.device

    @property
    def _embedding(self) -> Tensor:
        return self._runner.embedding

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer, or None."""
        return self._runner.tokenizer

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a response: the tokenizer's and the generation config's EOS."""
        eos = getattr(self.tokenizer, "eos_token_id", None)
        return self._runner.stop_ids | (frozenset() if eos is None else {int(eos)})

    def tokenize(self, prompt: Prompt) -> TokenizedPrompt:
        """Return the prompt's tokens and segments, ready for a response.

        Raises:
            ModelError: see `interp_steer.tokenization.tokenize_prompt`.
        """
        prepend_bos = bool(getattr(self._runner.cfg, "default_prepend_bos", True))
        tokens = tokenize_prompt(self.tokenizer, prompt, prepend_bos=prepend_bos, options=self.chat)
        if Segment.SYSTEM in tokens.segments:
            self._tell_of_system_role()
        return tokens if self._thinking is None else replace(tokens, thinking=self._thinking)

    @cached_property
    def _thinking(self) -> ThinkingMarks | None:
        return ThinkingMarks.of(self.tokenizer)

    def _tell_of_system_role(self) -> None:
        """Say once where the system prompt goes, if the template has no place of its own for it."""
        role = None if self._told else system_role(self.tokenizer, self.chat)
        self._told = True
        if role in ("in_user_turn", "folded"):
            who = "its own template" if role == "in_user_turn" else "interp_steer"
            _log.warning(
                "%s has no system role: %s puts the system prompt in front of the user's text",
                self.model_id,
                who,
            )

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of `token_ids`, special tokens skipped."""
        return decode_tokens(self._tokenizer(), token_ids)

    def token_strings(self, token_ids: Sequence[int]) -> list[str]:
        """Return one readable string per token, leading space kept."""
        return token_strings(self._tokenizer(), token_ids)

    def _tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise ModelError("decoding needs a tokenizer, and this model came without one")
        return self.tokenizer

    def hooks(self, hooks: LayerHooks) -> AbstractContextManager[None]:
        """Context in which `hooks` run at resid_post of their layers.

        Hooks run in the order given, inner contexts after outer ones; leaving the context in any
        way removes exactly these, and hooks that the caller set on the bridge stay. The hooks see
        the calls of `forward` and `generate` only.

        Raises:
            ModelError: on entering, a layer that the model does not have.
        """
        return self._runner.attached(hooks)

    def forward(
        self,
        sequences: Sequence[TokenizedPrompt],
        *,
        return_logits: bool = True,
        chunk: int | None = None,
        first_positions: Sequence[int] | None = None,
    ) -> Float[Tensor, "batch pos d_vocab"] | None:
        """Run whole sequences (teacher forcing), left-padded to the longest.

        Args:
            sequences: any prompts or prompts with responses.
            return_logits: False for passes made for their hooks: where nobody else listens, they
                end behind the last hooked block.
            chunk: positions per call, on a key-value cache; None runs all in one.
            first_positions: position id of each sequence's first token, so that tokens which two
                sequences share can be given equal ids; 0 for all by default. With rotary or other
                relative positions a shift changes nothing but rounding.

        Returns:
            Logits in the model's dtype, right-aligned: the last position is every row's last
            token. Values at padding mean nothing.

        Raises:
            ModelError: no sequences, an empty one, one longer than the context, or first positions
                that are not one a sequence, negative, or taken by no model of this kind.
        """
        starts = [0] * len(sequences) if first_positions is None else list(first_positions)
        self._check_lengths(sequences, starts)
        batch = left_pad(sequences, pad_id=PAD_ID, device=self.device)
        shift = torch.tensor(starts, device=self.device) if any(starts) else None
        with self._runner.prepared():
            return self._forward_pieces(batch, return_logits, chunk, shift)

    @property
    def takes_positions(self) -> bool:
        """Whether `forward` can be given `first_positions`."""
        return self._runner.takes_positions

    def _check_lengths(self, sequences: Sequence[TokenizedPrompt], starts: Sequence[int]) -> None:
        if len(starts) != len(sequences) or min(starts, default=0) < 0:
            raise ModelError(
                f"first_positions must be one number from 0 for each of the {len(sequences)} "
                f"sequences, got {list(starts)}"
            )
        for row, (sequence, start) in enumerate(zip(sequences, starts, strict=True)):
            if start + len(sequence) > self.n_ctx:
                where = f" from position {start}" if start else ""
                raise ModelError(
                    f"sequence {row} has {len(sequence)} tokens{where}, longer than the model's "
                    f"context of {self.n_ctx}; shorten it"
                )

    def _forward_pieces(
        self,
        batch: PaddedBatch,
        returns_logits: bool,
        size: int | None,
        shift: Int[Tensor, "batch"] | None,
    ) -> Float[Tensor, "batch pos d_vocab"] | None:
        run = self._runner.run if returns_logits else self._runner.run_for_hooks
        mask = batch.chunk.is_real.long()
        if size is None:
            return run(batch.chunk, mask, first_positions=shift)
        if size < 1:
            raise ModelError(f"chunk must be at least 1 position or None, got {size}")
        self._runner.check_piece(batch, size)
        cache = self._runner.new_cache()
        logits = []
        for start in range(0, batch.width, size):
            stop = min(start + size, batch.width)
            piece = batch.piece(start, stop)
            logits.append(run(piece, mask[:, :stop], cache=cache, first_positions=shift))
        return torch.cat(logits, dim=1) if returns_logits else None

    def generate(
        self,
        prompts: Sequence[TokenizedPrompt],
        settings: GenerationSettings,
        *,
        sample_keys: Sequence[str],
        share_prefixes: bool = False,
        on_step: StepCallback | None = None,
    ) -> list[Generation]:
        """Sample one response per prompt.

        Args:
            prompts: tokenized prompts, with a prefill where wanted; one batch.
            settings: sampling settings.
            sample_keys: one string per prompt; with `settings.seed` it fixes the row's random
                numbers, whatever else is in the batch.
            share_prefixes: rows with equal tokens so far, prompt and response, run as one through
                the blocks below the first edit of each. Texts are the same up to float noise.
            on_step: called after every sampled step with its tokens; if it returns True every row
                keeps what it has, and those not finished have the stop reason "stopped".

        Raises:
            ModelError: see `interp_steer.generation.sample_responses`.
            SteeringError: `share_prefixes` with a recorder that needs the prompt's tokens of every
                row (`hook_records.Recorder`).
        """
        rule = StopRule(stop_ids=self.stop_ids, n_ctx=self.n_ctx)
        sampled = sample_responses(
            self._runner,
            prompts,
            settings,
            sample_keys=sample_keys,
            rule=rule,
            pad_id=PAD_ID,
            share_prefixes=share_prefixes,
            on_step=on_step,
        )
        return [
            Generation(
                prompt=prompt,
                token_ids=row.token_ids,
                stop_reason=row.stop_reason,
                logprobs=row.logprobs,
                text=self._answer_text(prompt, row.token_ids),
            )
            for prompt, row in zip(prompts, sampled, strict=True)
        ]

    def _answer_text(self, prompt: TokenizedPrompt, token_ids: Sequence[int]) -> str:
        return "" if self.tokenizer is None else self.decode(answer_ids(prompt, token_ids))

    def identity(self) -> dict[str, Any]:
        """What an artifact must record to know this model again (see `model_identity`)."""
        return model_identity(
            self.tokenizer,
            name=self.model_id,
            weights=self._weights.of(self._runner.model),
            config=self._runner.config_hash(),
            dtype=self.dtype,
            revision=self.revision,
            chat=self.chat,
            quantization=self._runner.quantization,
            weight_processing=self.weight_processing,
        )

    @property
    def weight_processing(self) -> str:
        """What TransformerLens folded or centred on loading; "none" for weights as trained."""
        return self._runner.weight_processing

    def fresh_runner(self) -> ModelRunner:
        """Return what calls the same model with nothing attached to it.

        While hooks of this one are on, a call through it is refused, so that no pass that is meant
        to be unsteered is steered.
        """
        return self._runner.fresh()
