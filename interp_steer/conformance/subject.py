"""What is held to the laws, what it is compared with, and how a law says that it does not hold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from interp_steer.errors import InterpSteerError, ModelError
from interp_steer.model import HookedLM
from interp_steer.names import resid_post
from interp_steer.probes import LayerProbe, ProbeSet, Readability
from interp_steer.tokens import ResidHook, Segment, TokenChunk, TokenizedPrompt

NOISE = 1e-4
"""Float32 noise, relative to the largest value: measured up to 3e-6 on tiny models, 1.4e-4 with
linear attention. A position off by one, or one token of padding that is attended to, moves residual
streams by more than 1e-2."""
LOGPROB_NOISE = 2e-3
"""Of a log-probability, nats: measured up to 2e-5. The errors above move them by more than 1e-1."""
MIN_CONTEXT = 64
"""Positions that the laws need."""


class ConformanceError(InterpSteerError):
    """A law does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferencePass:
    """What a model says of one sequence, by means that this library has no part in."""

    logits: Float[Tensor, "pos d_vocab"]
    """Of every position."""
    residuals: tuple[Float[Tensor, "pos d_model"], ...]
    """The stream that leaves each block."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A wrapped model, held to the laws.

    Raises:
        ModelError: a model that the laws cannot judge.
    """

    lm: HookedLM
    """In float32, with nothing attached."""
    reference: Callable[[Sequence[int]], ReferencePass] | None = None
    """Runs one sequence of token ids; `run_with_cache` of the TransformerLens model by default."""
    noise: float = NOISE
    """Largest error allowed, relative to the largest value; larger for linear attention."""

    def __post_init__(self) -> None:
        if self.lm.dtype != torch.float32:
            raise ModelError(
                f"conformance needs a model in float32, got {self.lm.dtype}, whose rounding hides "
                "what the laws look for; load it with dtype=torch.float32"
            )
        if self.lm.n_ctx < MIN_CONTEXT or self.lm.n_layers < 2:
            raise ModelError(
                f"conformance needs a context of {MIN_CONTEXT} and two layers, got "
                f"{self.lm.n_ctx} and {self.lm.n_layers}; give a larger model, its weights may be "
                "random"
            )
        if self.reference is None and not hasattr(self.lm.bridge, "run_with_cache"):
            raise ModelError(
                f"conformance needs an independent pass to compare with, and "
                f"{type(self.lm.bridge).__name__} has no run_with_cache; give reference=, a "
                "function of token ids"
            )

    def expected(self, token_ids: Sequence[int]) -> ReferencePass:
        """Return what the model says of one sequence by itself."""
        if self.reference is not None:
            return self.reference(token_ids)
        names = [resid_post(layer) for layer in range(self.lm.n_layers)]
        with torch.no_grad():
            logits, cache = self.lm.bridge.run_with_cache(
                torch.tensor([list(token_ids)], device=self.lm.device), names_filter=names
            )
        return ReferencePass(logits=logits[0], residuals=tuple(cache[name][0] for name in names))

    def sequences(
        self, lengths: Sequence[int], *, n_response: int = 0, seed: int = 0
    ) -> list[TokenizedPrompt]:
        """Return random sequences without special tokens, the last tokens RESPONSE."""
        generator = torch.Generator().manual_seed(seed)
        ids = torch.tensor(self._plain_ids)
        made = []
        for length in lengths:
            drawn = ids[torch.randint(len(ids), (length,), generator=generator)].tolist()
            n_prompt = length - n_response
            prompt = TokenizedPrompt(
                token_ids=tuple(drawn[:n_prompt]), segments=(int(Segment.USER),) * n_prompt
            )
            made.append(prompt.with_response(drawn[n_prompt:]))
        return made

    @cached_property
    def _plain_ids(self) -> list[int]:
        """Ids that are ordinary tokens."""
        tokenizer = self.lm.tokenizer
        n = self.lm.d_vocab if tokenizer is None else min(self.lm.d_vocab, len(tokenizer))
        special = set() if tokenizer is None else set(tokenizer.all_special_ids)
        return [token_id for token_id in range(n) if token_id not in special | self.lm.stop_ids]

    @cached_property
    def probes(self) -> ProbeSet:
        """Random directions with a boundary in the middle of tokens: both branches of a gate."""
        sequences = self.sequences((9, 14, 12, 7), seed=5)
        passes = [self.expected(one.token_ids) for one in sequences]
        return ProbeSet(
            probes=tuple(
                _probe(layer, torch.cat([one.residuals[layer].float().cpu() for one in passes]))
                for layer in range(self.lm.n_layers)
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """One statement about every wrapped model, and how it is checked."""

    check: Callable[[Subject], None]
    """Raises `ConformanceError` where the law does not hold."""
    inapplicable: Callable[[Subject], str | None] = lambda _subject: None
    """Why the law says nothing about a subject, if it does not."""

    @property
    def name(self) -> str:
        """The law in a few words."""
        return self.check.__name__

    @property
    def statement(self) -> str:
        """The law in a sentence or two."""
        return " ".join((self.check.__doc__ or "").split())

    def __str__(self) -> str:
        return self.name


class Readings:
    """What hooks saw of every real token, by row, layer and position."""

    def __init__(self, layers: Sequence[int]) -> None:
        self.hooks: dict[int, ResidHook] = {layer: self._reader(layer) for layer in layers}
        self._met: dict[tuple[int, int], list[tuple[Tensor, tuple[int, ...]]]] = {}

    def _reader(self, layer: int) -> ResidHook:
        def read(resid: Float[Tensor, "batch pos d_model"], chunk: TokenChunk) -> None:
            told = (chunk.token_ids, chunk.segments, chunk.positions, chunk.response_index)
            for row, of_row, is_real, *about in zip(
                chunk.rows.tolist(), resid, chunk.is_real, *told, strict=True
            ):
                met = self._met.setdefault((row, layer), [])
                told_of = zip(*(values[is_real].tolist() for values in about), strict=True)
                met += zip(of_row[is_real].clone(), told_of, strict=True)

        return read

    def residuals(self, row: int, layer: int) -> Float[Tensor, "pos d_model"]:
        """What left the block, in the order in which it was met."""
        return torch.stack([resid for resid, _ in self._met[row, layer]])

    def told(self, row: int, layer: int) -> list[tuple[int, ...]]:
        """Token id, segment, position and response index of each."""
        return [told for _, told in self._met.get((row, layer), [])]


def hold(is_true: bool, message: str) -> None:
    """Raise unless something is so.

    Raises:
        ConformanceError: it is not.
    """
    if not is_true:
        raise ConformanceError(message)


def hold_close(what: str, found: Tensor, expected: Tensor, noise: float) -> None:
    """Raise where two tensors differ by more than noise, relative to the largest value.

    Raises:
        ConformanceError: they do, with both numbers.
    """
    hold(found.shape == expected.shape, f"{what}: expected {expected.shape}, got {found.shape}")
    error = relative_error(found, expected)
    hold(
        error <= noise, f"{what}: expected agreement to {noise:.1g} of the largest, got {error:.2g}"
    )


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest expected size."""
    expected = expected.float()
    size = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float((found.float().to(expected.device) - expected).abs().max() / size)


def _probe(layer: int, residuals: Float[Tensor, "token d_model"]) -> LayerProbe:
    v_hat = torch.randn(residuals.shape[-1], generator=torch.Generator().manual_seed(layer))
    v_hat = v_hat / v_hat.norm()
    rho = (residuals @ v_hat).sort().values
    middle, spread = float(rho[len(rho) // 2 - 1 :][:2].mean()), float(rho.std())
    unknown = Readability(cohens_d=1.0, accuracy=0.5, auroc=0.5)
    return LayerProbe(
        layer=layer,
        v_hat=v_hat,
        boundary=middle,
        mu_pos=middle + spread,
        sigma_pos=spread / 4,
        mu_neg=middle - 0.8 * spread,
        sigma_neg=spread / 3,
        delta_mu=1.8 * spread,
        cosine_caa=1.0,
        converged=True,
        crossfit=unknown,
        in_sample=unknown,
    )
