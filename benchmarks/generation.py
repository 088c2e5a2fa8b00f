"""What generation costs here over the same model with nothing around it.

- `generate_vs_hf`: time of an unsteered `generate` over Hugging Face's own, with its fused
  attention, on the same weights and prompts, at batch 1, 16 and 128.
- `steer_overhead`: time of a steered `generate` over the same loop unhooked: SwFC, StTP and StMP at
  the middle layer, on every token.
- `steer_traces_overhead`: likewise with every token's trace recorded (the table is made afterwards
  and not timed: it is written once a run, not once a token).

All make exactly `max_new_tokens` tokens a row (no token stops a response), which is checked before
any time is taken. Ours and Hugging Face's must then agree in greedy tokens; the random numbers that
they sample with differ. What is compared takes turns by itself: a difference of a hundredth would
drown in what changes on a shared machine between more distant turns.

Command: python -m benchmarks generation [--device cuda] [--quick]. Takes four minutes and more
a batch (`--seconds`, for each of four comparisons).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

from benchmarks.ratios import (
    BenchmarkError,
    Goal,
    Options,
    Ratio,
    at_most,
    interleaved,
    measured,
    paired_ratio,
)
from benchmarks.workloads import Workload, in_turn
from interp_steer.model import HookedLM
from interp_steer.sampling import GenerationSettings
from interp_steer.specs import Method, SteeringSpec
from interp_steer.steering import steer
from interp_steer.traces import TraceRecorder

BATCHES = (1, 16, 128)
"""Rows generated together."""
METHODS: tuple[tuple[Method, float], ...] = (("swfc", 2.0), ("sttp", 12.0), ("stmp", 1.0))
"""Methods with their coefficients."""
LEAST_AGREEMENT = 0.95
"""Share of greedy tokens in which ours and Hugging Face's must agree; rounding may flip a tie,
after which the rest of a row differs."""
GENERATE, STEER, TRACE = at_most(1.05), at_most(1.02), at_most(1.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The same rows for every contestant."""

    work: Workload
    """Model and probes."""
    n_rows: int
    """Rows generated together."""
    settings: GenerationSettings
    """Sampling."""

    def ours(
        self, method: Method | None = None, alpha: float = 0.0, *, traced: bool = False
    ) -> float:
        """Generate with this library; return the tokens made."""
        return float(sum(map(len, self.tokens(method, alpha, traced=traced))))

    def tokens(
        self, method: Method | None = None, alpha: float = 0.0, *, traced: bool = False
    ) -> list[tuple[int, ...]]:
        """Response tokens of every row, as this library makes them."""
        lm, probes = self.work.study.lm, self.work.probes
        steering = nullcontext()
        if method is not None:
            spec = SteeringSpec(method=method, layer=lm.n_layers // 2, alpha=alpha, scope="all")
            steering = steer(lm, spec, probes, recorder=TraceRecorder() if traced else None)
        prompts = [lm.tokenize(s.prompt("malicious")) for s in self.work.repeated(self.n_rows)]
        keys = [str(row) for row in range(self.n_rows)]
        with unstopped(lm), steering:
            made = lm.generate(prompts, self.settings, sample_keys=keys)
        return [one.token_ids for one in made]

    def plain(self) -> float:
        """Generate with Hugging Face; return the tokens made."""
        return float(sum(map(len, self.plain_tokens())))

    def plain_tokens(self) -> list[tuple[int, ...]]:
        """Response tokens of every row, as Hugging Face makes them."""
        prompts = self.work.prompts(self.work.repeated(self.n_rows))
        made = self.work.plain.generate(prompts, self.settings, stops=False)
        return [tuple(one) for one in made]


@contextmanager
def unstopped(lm: HookedLM) -> Iterator[None]:
    """Within the block no token ends a response."""
    before = lm.stop_ids
    lm.stop_ids = frozenset()  # a cached property: the instance has its own
    try:
        yield
    finally:
        lm.stop_ids = before


def batches(options: Options) -> tuple[int, ...]:
    """Rows generated together."""
    usual = BATCHES[:2] if options.quick else BATCHES
    return tuple(n for n in usual if not options.batches or n in options.batches)


def measure(options: Options) -> list[Ratio]:
    """Every ratio of this script.

    Raises:
        BenchmarkError: the contestants did not do the same work; nothing is timed then.
    """
    found: list[Ratio] = []
    for work, settings in in_turn(options):
        for n_rows in batches(options):
            found += _overheads(Batch(work=work, n_rows=n_rows, settings=settings), options)
    return found


def _overheads(batch: Batch, options: Options) -> list[Ratio]:
    check_same_tokens(batch)
    contestants: dict[str, Callable[[], float]] = {"plain": batch.plain, "ours": batch.ours}
    for method, alpha in METHODS:
        for traced in (False, True):
            contestants[f"{method} {traced}"] = lambda m=method, a=alpha, t=traced: batch.ours(
                m, a, traced=t
            )
    wanted = batch.n_rows * batch.settings.max_new_tokens
    for name, contestant in contestants.items():  # also warms every path up
        if (made := contestant()) != wanted:
            raise BenchmarkError(f"{name} was to make {wanted} tokens and made {made:.0f}")
    case = f"{batch.work.name}, batch {batch.n_rows}, {batch.settings.max_new_tokens} tokens"

    def overheads(limit: str, claims: dict[str, tuple[str, Goal]], note: str = "") -> list[Ratio]:
        """Claims of the contestants that are compared with one limit, which alone take turns."""
        rates = interleaved(
            {name: contestants[name] for name in (limit, *claims)},
            runs=options.runs,
            seconds=options.seconds,
            device=options.device,
        )
        return [
            measured(
                claim,
                case + note,
                paired_ratio(rates[limit], rates[name]),
                device=options.device,
                goal=None if options.quick else goal,
            )
            for name, (claim, goal) in claims.items()
        ]

    found = overheads("plain", {"ours": ("generate_vs_hf", GENERATE)})
    for method, _ in METHODS:
        claims = {
            f"{method} False": ("steer_overhead", STEER),
            f"{method} True": ("steer_traces_overhead", TRACE),
        }
        found += overheads("ours", claims, f", {method}")
    return found


def check_same_tokens(batch: Batch) -> float:
    """Refuse to compare unless greedy tokens agree; see `check_agreement`."""
    greedy = replace(batch, settings=replace(batch.settings, temperature=0.0))
    return check_agreement(batch.work.name, greedy.tokens(), greedy.plain_tokens())


def check_agreement(
    name: str, ours: Iterable[Sequence[int]], plain: Iterable[Sequence[int]]
) -> float:
    """Refuse to compare contestants whose greedy tokens do not agree.

    Args:
        name: of the workload.
        ours: tokens of every row, as this library makes them.
        plain: the same rows, as plain Hugging Face makes them.

    Returns:
        Share of tokens that agree.

    Raises:
        BenchmarkError: they do not, so the contestants do not do the same.
    """
    pairs = zip(ours, plain, strict=True)
    agree = [a == b for one, other in pairs for a, b in zip(one, other, strict=True)]
    share = sum(agree) / len(agree)
    if share < LEAST_AGREEMENT:
        raise BenchmarkError(
            f"greedy tokens of {name} agree with plain Hugging Face's in {share:.1%}, expected at "
            f"least {LEAST_AGREEMENT:.0%}: the two do not do the same"
        )
    return share
