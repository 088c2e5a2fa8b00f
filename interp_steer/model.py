"""`HookedLM`: a TransformerLens bridge behind the small surface that this library needs.

It turns prompts into tokens with segments, runs and samples left-padded batches, and attaches hooks
that are told where each token stands in its sequence (`TokenChunk`). Results do not depend on how
rows are batched, padded, cached or chunked, up to float noise. Nothing here knows what a probe or a
steering method is.
"""

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_steer.errors import ModelError
from interp_steer.forwarding import ChunkRunner, LayerHooks
from interp_steer.generation import StopRule, sample_responses
from interp_steer.sampling import Generation, GenerationSettings, GenerationStep, StepCallback
from interp_steer.scenarios import Prompt
from interp_steer.tokenization import decode_tokens, token_strings, tokenize_prompt
from interp_steer.tokens import (
    PaddedBatch,
    ResidHook,
    Segment,
    TokenChunk,
    TokenizedPrompt,
    left_pad,
)

__all__ = [
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

PAD_ID = 0
"""Token id written at padding. Any valid id does: padding is masked and hooks are told of it."""


class HookedLM:
    """A causal language model with hooks on the residual stream that leaves each block."""

    def __init__(self, bridge: Any, *, model_id: str | None = None) -> None:
        """Wrap a `TransformerBridge`.

        Args:
            bridge: in evaluation mode; with a tokenizer, if prompts are to be tokenized.
            model_id: name recorded in artifacts; the bridge's own by default.

        Raises:
            ModelError: no residual hooks, or the bridge is in training mode (dropout).
        """
        if not hasattr(bridge, "original_model") or not hasattr(bridge, "hook_dict"):
            raise ModelError(
                f"HookedLM wraps a TransformerLens TransformerBridge, got {type(bridge).__name__}; "
                "boot one with TransformerBridge.boot_transformers, or use HookedLM.load"
            )
        if bridge.original_model.training:
            raise ModelError(
                "the model is in training mode, where dropout makes results random; call "
                "bridge.eval() first"
            )
        self.bridge = bridge
        self.model_id = model_id or str(bridge.cfg.model_name)
        self._runner = ChunkRunner(bridge)

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "HookedLM":
        """Load a local Hugging Face directory or a model of the hub.

        Raises:
            ModelError: no such model, or one that TransformerLens has no adapter for.
        """
        from transformer_lens.model_bridge import TransformerBridge

        path = Path(name_or_path)
        try:
            bridge = TransformerBridge.boot_transformers(
                str(name_or_path), device=str(device), dtype=dtype
            )
        except (OSError, ValueError) as error:
            raise ModelError(
                f"could not load the model {str(name_or_path)!r} "
                f"({'a local directory' if path.is_dir() else 'not a local directory'}): {error}. "
                "Give a directory with config.json, model.safetensors and tokenizer files, or a "
                "hub name whose architecture TransformerLens supports"
            ) from error
        # A directory's name, not its path: artifacts must not depend on where a model lies.
        return cls(bridge, model_id=path.resolve().name if path.is_dir() else str(name_or_path))

    @property
    def n_layers(self) -> int:
        """Number of blocks; layers are 0 .. n_layers - 1."""
        return self._runner.n_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.bridge.cfg.d_model)

    @property
    def n_ctx(self) -> int:
        """Longest sequence, in tokens."""
        return int(self.bridge.cfg.n_ctx)

    @property
    def d_vocab(self) -> int:
        """Number of logits."""
        return int(self.bridge.cfg.d_vocab)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights and of the residual stream."""
        return next(self._runner.model.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return next(self._runner.model.parameters()).device

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer, or None."""
        return self.bridge.tokenizer

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a response: the tokenizer's and the generation config's EOS."""
        found = [getattr(self.tokenizer, "eos_token_id", None)]
        config = getattr(self._runner.model, "generation_config", None)
        eos = getattr(config, "eos_token_id", None)
        found += list(eos) if isinstance(eos, list | tuple) else [eos]
        return frozenset(int(token_id) for token_id in found if token_id is not None)

    def tokenize(self, prompt: Prompt) -> TokenizedPrompt:
        """Return the prompt's tokens and segments, ready for a response.

        Raises:
            ModelError: see `interp_steer.tokenization.tokenize_prompt`.
        """
        prepend_bos = bool(getattr(self.bridge.cfg, "default_prepend_bos", True))
        return tokenize_prompt(self.tokenizer, prompt, prepend_bos=prepend_bos)

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
            return_logits: False saves the unembedding, for passes made for their hooks.
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
        n_logits = 0 if return_logits else 1
        with self._runner.prepared():
            logits = self._forward_pieces(batch, n_logits, chunk, shift)
        return logits if return_logits else None

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
        n_logits: int,
        size: int | None,
        shift: Int[Tensor, "batch"] | None,
    ) -> Float[Tensor, "batch pos d_vocab"]:
        mask = batch.chunk.is_real.long()
        if size is None:
            return self._runner.run(batch.chunk, mask, n_logits=n_logits, first_positions=shift)
        if size < 1:
            raise ModelError(f"chunk must be at least 1 position or None, got {size}")
        cache, pieces = self._runner.new_cache(), []
        for start in range(0, batch.width, size):
            stop = min(start + size, batch.width)
            piece = batch.piece(start, stop)
            run = self._runner.run(
                piece, mask[:, :stop], cache=cache, n_logits=n_logits, first_positions=shift
            )
            pieces = [run] if n_logits else [*pieces, run]
        return torch.cat(pieces, dim=1)

    def generate(
        self,
        prompts: Sequence[TokenizedPrompt],
        settings: GenerationSettings,
        *,
        sample_keys: Sequence[str],
        share_prompts: bool = False,
        on_step: StepCallback | None = None,
    ) -> list[Generation]:
        """Sample one response per prompt.

        Args:
            prompts: tokenized prompts, with a prefill where wanted; one batch.
            settings: sampling settings.
            sample_keys: one string per prompt; with `settings.seed` it fixes the row's random
                numbers, whatever else is in the batch.
            share_prompts: run a prompt that several rows have once for all those that are not
                steered in it. Texts are the same up to float noise.
            on_step: called after every sampled step with its tokens; if it returns True every row
                keeps what it has, and those not finished have the stop reason "stopped".

        Raises:
            ModelError: see `interp_steer.generation.sample_responses`.
            SteeringError: `share_prompts` with a recorder that needs the prompt's tokens of every
                row (`layer_hooks.Recorder`).
        """
        rule = StopRule(stop_ids=self.stop_ids, n_ctx=self.n_ctx)
        sampled = sample_responses(
            self._runner,
            prompts,
            settings,
            sample_keys=sample_keys,
            rule=rule,
            pad_id=PAD_ID,
            share_prompts=share_prompts,
            on_step=on_step,
        )
        return [
            Generation(
                prompt=prompt,
                token_ids=row.token_ids,
                stop_reason=row.stop_reason,
                logprobs=row.logprobs,
                text=self.decode(row.token_ids) if self.tokenizer is not None else "",
            )
            for prompt, row in zip(prompts, sampled, strict=True)
        ]

    def identity(self) -> dict[str, str | None]:
        """What an artifact must record to know this model again: its name and SHA-256 hashes."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        template = getattr(self.tokenizer, "chat_template", None)
        return {
            "model": self.model_id,
            "weights": self._weight_hash,
            "dtype": str(self.dtype).removeprefix("torch."),
            "tokenizer": None if backend is None else _sha256([backend.to_str().encode()]),
            "chat_template": None if template is None else _sha256([str(template).encode()]),
        }

    @cached_property
    def _weight_hash(self) -> str:
        """Hash over names, shapes, dtypes and bits of all parameters, in the order of names."""
        return _sha256(_weight_bytes(self._runner.model))


def _weight_bytes(model: torch.nn.Module) -> Iterable[bytes]:
    named = {name.replace("._original_component", ""): p for name, p in model.named_parameters()}
    for name in sorted(named):
        values = named[name].detach().cpu().contiguous()
        yield f"{name} {values.dtype} {tuple(values.shape)}".encode()
        yield values.reshape(-1).view(torch.uint8).numpy().tobytes()


def _sha256(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
