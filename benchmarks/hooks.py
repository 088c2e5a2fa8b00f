"""Steered generation against hooks written by hand, on the same model, prompts and lengths.

- `peer_hf_hooks`: tokens a second of this library over Hugging Face's `generate` with a forward
  hook on the block (`peers`).
- `peer_tl_hooks`: likewise over TransformerLens' own `TransformerBridge.generate` with a hook at
  resid_post.
- `peer_steering_vectors`, `peer_repeng`: likewise over these packages, on the transformers that
  they pin, in processes of their own that take turns with this one (`peer_packages`; CPU alone).

Additive steering (SwFC) is what every package does; gated steering (StTP) the others can only do by
an operator or a hook of one's own, as here. At the batches of `generation`, prompts of one length,
no token stops a response. Greedy tokens of all must agree before any time is taken.

Command: python -m benchmarks hooks [--device cuda] [--quick]. Takes a minute and more
a batch and kind of steering (`--seconds`).
"""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.generation import batches, check_agreement, unstopped
from benchmarks.peer_packages import PYTHON, PeerProcess, peer_processes
from benchmarks.peers import plain_edit
from benchmarks.ratios import (
    BenchmarkError,
    Options,
    Ratio,
    at_least,
    interleaved,
    measured,
    paired_ratio,
)
from benchmarks.workloads import Workload, in_turn
from interp_steer.cells import Cell, steered_cell
from interp_steer.names import resid_post
from interp_steer.sampling import GenerationSettings
from interp_steer.scenarios import Scenario
from interp_steer.specs import SteeringSpec
from interp_steer.steering import steer

STEERED = {"additive": ("swfc", 2.0), "gated": ("sttp", 12.0)}
"""Kinds of steering: method and coefficient."""

CHECKED_TOKENS = 32
"""Greedy tokens that must agree; steering may need a few before it shows."""

Rows = list[tuple[int, ...]]
"""Response tokens of every row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steered:
    """The same rows, steered alike, for every contestant."""

    work: Workload
    """Model and probes."""
    cell: Cell
    """What is done to every row."""
    scenarios: tuple[Scenario, ...]
    """Prompts of one length."""
    settings: GenerationSettings
    """Sampling."""
    peers: Mapping[str, PeerProcess]
    """Other packages, by claim."""

    def ours(self) -> Rows:
        """This library."""
        lm, cell = self.work.study.lm, self.cell
        if cell.method == "none" or cell.layer is None or cell.alpha is None:
            raise ValueError(f"expected a steered cell, got {cell}")
        spec = SteeringSpec(
            method=cell.method, layer=cell.layer, alpha=cell.alpha, scope=cell.scope
        )
        prompts = [lm.tokenize(scenario.prompt("malicious")) for scenario in self.scenarios]
        keys = [str(row) for row in range(len(prompts))]
        with unstopped(lm), steer(lm, spec, self.work.probes):
            made = lm.generate(prompts, self.settings, sample_keys=keys)
        return [one.token_ids for one in made]

    def hugging_face(self) -> Rows:
        """Hugging Face's `generate` and a forward hook."""
        plain, probe = self.work.plain, self.work.probes.probe(self.cell.layer or 0)
        with plain.steered(self.cell, probe):
            prompts = self.work.prompts(self.scenarios)
            return [tuple(row) for row in plain.generate(prompts, self.settings, stops=False)]

    def transformer_lens(self) -> Rows:
        """TransformerLens' `generate` and a hook at resid_post."""
        lm, layer = self.work.study.lm, self.cell.layer or 0
        edit = plain_edit(self.cell, self.work.probes.probe(layer), device=lm.device)

        def hook(resid: Tensor, **_hook_point: object) -> Tensor:
            return edit(resid)

        tokens = torch.tensor(self.work.prompts(self.scenarios), device=lm.device)
        is_greedy = self.settings.temperature == 0
        with torch.no_grad(), lm.bridge.hooks(fwd_hooks=[(resid_post(layer), hook)]):
            made = lm.bridge.generate(
                tokens,
                max_new_tokens=self.settings.max_new_tokens,
                stop_at_eos=False,
                do_sample=not is_greedy,
                temperature=1.0 if is_greedy else self.settings.temperature,
                top_p=None if is_greedy else self.settings.top_p,
                return_type="input",
                verbose=False,
            )
        return [tuple(row) for row in made[:, tokens.shape[1] :].tolist()]

    def prepare_peers(self) -> None:
        """Tell every package the same work."""
        probe, prompts = (
            self.work.probes.probe(self.cell.layer or 0),
            self.work.prompts(self.scenarios),
        )
        for peer in self.peers.values():
            peer.prepare(self.cell, probe, prompts, self.settings)


def n_tokens(rows: Rows) -> float:
    """Tokens of all rows."""
    return float(sum(map(len, rows)))


def measure(options: Options) -> list[Ratio]:
    """Every ratio of this script.

    Raises:
        BenchmarkError: the contestants did not do the same work; nothing is timed then.
    """
    found: list[Ratio] = []
    for work, settings in in_turn(options):
        with peers_of(work, options) as peers:
            for kind, (method, alpha) in STEERED.items():
                layer = work.study.lm.n_layers // 2
                cell = steered_cell(method=method, layer=layer, alpha=alpha, scope="all")
                for n_rows in batches(options):
                    steered = Steered(
                        work=work,
                        cell=cell,
                        scenarios=of_one_length(work, n_rows),
                        settings=settings,
                        peers=peers,
                    )
                    found += _against(steered, kind, options)
    return found


def peers_of(work: Workload, options: Options) -> AbstractContextManager[Mapping[str, PeerProcess]]:
    """The other packages on the same model; none in a smoke test without their environment."""
    if options.device != "cpu" or (options.quick and not PYTHON.is_file()):
        return nullcontext({})
    return peer_processes(work.model)


def of_one_length(work: Workload, n_rows: int) -> tuple[Scenario, ...]:
    """Scenarios whose prompts are of the most frequent length, again and again."""
    lengths = [len(prompt) for prompt in work.prompts(work.scenarios)]
    usual = Counter(lengths).most_common(1)[0][0]
    alike = [s for s, n in zip(work.scenarios, lengths, strict=True) if n == usual]
    return tuple(alike[row % len(alike)] for row in range(n_rows))


def check_same_tokens(steered: Steered) -> float:
    """Refuse to compare unless greedy tokens agree; return the smallest share that does."""
    settings = replace(steered.settings, temperature=0.0, max_new_tokens=CHECKED_TOKENS)
    greedy = replace(steered, settings=settings)
    greedy.prepare_peers()
    ours, name = greedy.ours(), steered.work.name
    others = [greedy.hugging_face(), greedy.transformer_lens()]
    others += [peer.tokens() for peer in greedy.peers.values()]
    return min(check_agreement(name, ours, other) for other in others)


def _against(steered: Steered, kind: str, options: Options) -> list[Ratio]:
    check_same_tokens(steered)
    steered.prepare_peers()
    contestants: dict[str, Callable[[], float]] = {
        "ours": lambda: n_tokens(steered.ours()),
        "peer_hf_hooks": lambda: n_tokens(steered.hugging_face()),
        "peer_tl_hooks": lambda: n_tokens(steered.transformer_lens()),
        **{claim: peer.generate for claim, peer in steered.peers.items()},
    }
    wanted = len(steered.scenarios) * steered.settings.max_new_tokens
    for name, make in contestants.items():  # warms every path up
        if (made := make()) != wanted:
            raise BenchmarkError(f"{name} was to make {wanted} tokens and made {made:.0f}")
    rates = interleaved(
        contestants, runs=options.runs, seconds=options.seconds, device=options.device
    )
    case = (
        f"{steered.work.name}, {kind}, batch {len(steered.scenarios)}, "
        f"{steered.settings.max_new_tokens} tokens"
    )
    return [
        measured(
            claim,
            case,
            paired_ratio(rates["ours"], rates[claim]),
            device=options.device,
            goal=None if options.quick else at_least(1),
        )
        for claim in contestants
        if claim != "ours"
    ]
