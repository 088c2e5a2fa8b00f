"""How long capturing residual streams takes while generating; `capture_memory` has what it needs.

Response-averaged resid_post of all layers, in four ways:

- plain: nothing is captured; the limit.
- pooled: this library, sums inside the hooks of the same generation (`PooledCapture`).
- cached: generate, then TransformerLens' `run_with_cache` of the sequences, filtered to resid_post,
  and the mean over response tokens: a second pass, every token's residual in memory.
- returned: `TransformerBridge.generate(return_cache=True)`, which takes one prompt at a time, and
  the mean likewise.

Claims:

- `capture_overhead`: time of pooled over plain.
- `capture_vs_run_with_cache`, `capture_vs_return_cache`: time of that way over pooled (the second
  at batch 1).

Pooled and cached must find the same means before any time is taken; tokens are equal in number
everywhere (what `return_cache` samples are its own draws).

Command: python -m benchmarks capture [--device cuda] [--quick]. Takes a minute and more
a batch (`--seconds`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.generation import batches, unstopped
from benchmarks.ratios import (
    BenchmarkError,
    Options,
    Ratio,
    at_least,
    at_most,
    interleaved,
    measured,
    paired_ratio,
)
from benchmarks.workloads import Workload, in_turn
from interp_steer.model import HookedLM
from interp_steer.names import resid_post
from interp_steer.residuals import PooledCapture
from interp_steer.sampling import Generation, GenerationSettings
from interp_steer.scenarios import Scenario
from interp_steer.tokens import Segment, TokenizedPrompt, left_pad

Means = Float[Tensor, "response layer d_model"]

WAYS = ("plain", "pooled", "cached", "returned")
MEANS_NOISE = 1e-3
"""Largest difference of a mean, relative to the largest entry: two passes round differently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """The same prompts for every way."""

    lm: HookedLM
    """The model."""
    name: str
    """As cases call it."""
    scenarios: Sequence[Scenario]
    """Where the prompts come from, again from the first where they are too few."""
    n_rows: int
    """Prompts of a batch."""
    settings: GenerationSettings
    """Sampling."""

    @classmethod
    def of(cls, work: Workload, n_rows: int, settings: GenerationSettings) -> "Capture":
        """The prompts of a workload."""
        return cls(
            lm=work.study.lm,
            name=work.name,
            scenarios=work.scenarios,
            n_rows=n_rows,
            settings=settings,
        )

    @property
    def prompts(self) -> list[TokenizedPrompt]:
        """One a row."""
        some = [self.scenarios[row % len(self.scenarios)] for row in range(self.n_rows)]
        return [self.lm.tokenize(scenario.prompt("malicious")) for scenario in some]

    def plain(self) -> list[Generation]:
        """Generate and capture nothing."""
        with unstopped(self.lm):
            keys = [str(row) for row in range(self.n_rows)]
            return self.lm.generate(self.prompts, self.settings, sample_keys=keys)

    def pooled(self) -> Means:
        """This library's way."""
        lm = self.lm
        capture = PooledCapture(self.n_rows, layers=range(lm.n_layers))
        with lm.hooks(capture.hooks()):
            self.plain()
        return capture.result().values

    def cached(self) -> Means:
        """A second pass through `run_with_cache`."""
        lm, made = self.lm, self.plain()
        batch = left_pad([one.sequence for one in made], pad_id=0, device=lm.device)
        names = [resid_post(layer) for layer in range(lm.n_layers)]
        with torch.no_grad():
            _, cache = lm.bridge.run_with_cache(
                batch.chunk.token_ids,
                attention_mask=batch.chunk.is_real.long(),
                names_filter=names,
            )
        return _means([cache[name] for name in names], batch.chunk.segments == Segment.RESPONSE)

    def returned(self) -> Means:
        """`generate(return_cache=True)`, prompt by prompt; its tokens are its own draws."""
        lm = self.lm
        names = [resid_post(layer) for layer in range(lm.n_layers)]
        means = []
        for prompt in self.prompts:
            tokens = torch.tensor([prompt.token_ids], device=lm.device)
            made, cache = lm.bridge.generate(
                tokens,
                max_new_tokens=self.settings.max_new_tokens,
                stop_at_eos=False,
                temperature=self.settings.temperature,
                top_p=self.settings.top_p,
                return_type="input",
                return_cache=True,
                names_filter=names,
                verbose=False,
            )
            if made.shape[1] != len(prompt) + self.settings.max_new_tokens:
                raise BenchmarkError(f"return_cache made {made.shape[1]} tokens")
            is_response = torch.arange(made.shape[1], device=lm.device)[None] >= len(prompt)
            means.append(_means([cache[name] for name in names], is_response))
        return torch.cat(means)


def _means(residuals: Sequence[Tensor], is_response: Tensor) -> Means:
    """Mean over response tokens, layer by layer."""
    kept = is_response[..., None]
    n_tokens = is_response.sum(dim=1)[:, None]
    return torch.stack(
        [r.float().masked_fill(~kept, 0).sum(dim=1) / n_tokens for r in residuals], dim=1
    ).cpu()


def measure(options: Options) -> list[Ratio]:
    """Every ratio of this script.

    Raises:
        BenchmarkError: the ways do not find the same means; nothing is timed then.
    """
    found: list[Ratio] = []
    for work, settings in in_turn(options):
        for n_rows in (1, 4) if options.quick else batches(options):
            found += _times(Capture.of(work, n_rows, settings), options)
    return found


def _times(capture: Capture, options: Options) -> list[Ratio]:
    check_same_means(capture)
    ways: dict[str, Callable[[], Any]] = {
        way: getattr(capture, way) for way in WAYS if way != "returned" or capture.n_rows == 1
    }
    for way in ways.values():  # warms every path up
        way()
    rates = interleaved(
        {name: lambda way=way: float(len(way())) for name, way in ways.items()},
        runs=options.runs,
        seconds=options.seconds,
        device=options.device,
    )
    tokens = capture.settings.max_new_tokens
    case = f"{capture.name}, batch {capture.n_rows}, {tokens} tokens, all layers"

    def ratio(claim: str, ours: str, theirs: str, goal: Any) -> Ratio:
        paired = paired_ratio(rates[ours], rates[theirs])
        goal = None if options.quick else goal
        return measured(claim, case, paired, device=options.device, goal=goal)

    found = [
        ratio("capture_overhead", "plain", "pooled", at_most(1.10)),
        ratio("capture_vs_run_with_cache", "pooled", "cached", at_least(1)),
    ]
    if "returned" in rates:
        found.append(ratio("capture_vs_return_cache", "pooled", "returned", at_least(1)))
    return found


def check_same_means(capture: Capture) -> float:
    """Refuse to compare unless pooled and cached find the same means.

    Returns:
        Largest difference, relative to the largest entry.

    Raises:
        BenchmarkError: they do not.
    """
    pooled, cached = capture.pooled(), capture.cached()
    off = float((pooled - cached).abs().max() / cached.abs().max())
    if off > MEANS_NOISE:
        raise BenchmarkError(
            f"pooled means of {capture.name} differ from run_with_cache's by {off:.1e} of the "
            f"largest entry, expected at most {MEANS_NOISE:.0e}"
        )
    return off
