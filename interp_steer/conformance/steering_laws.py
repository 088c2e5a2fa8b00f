"""Laws of steering on a model: what is edited, by how much, along what; what traces say of it.

Expected projections are the paper's formulas (arXiv 2604.08169v2, equations 3-5) written out here,
in the coordinates of v_hat, apart from the code that steers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp_steer.conformance.forward_laws import logits_of
from interp_steer.conformance.generation_laws import GREEDY, SAMPLED, hold_scored
from interp_steer.conformance.subject import Law, Readings, Subject, hold, hold_close
from interp_steer.probes import LayerProbe
from interp_steer.specs import SteeringSpec
from interp_steer.steering import SteeringPlan, steer
from interp_steer.tokens import TokenizedPrompt
from interp_steer.traces import TraceRecorder

Rho = Float[Tensor, "token"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One intervention, what it fires on and where that goes."""

    spec: SteeringSpec
    fires: Callable[[LayerProbe, Rho], Bool[Tensor, "token"]]
    lands: Callable[[LayerProbe, Rho], Rho]


def cases(layer: int) -> Iterator[Case]:
    """Yield each method in both directions; without a cap on StMP."""
    everything = lambda _p, rho: torch.ones_like(rho, dtype=torch.bool)
    below, above = (lambda p, rho: rho < p.boundary), (lambda p, rho: rho > p.boundary)
    yield Case(
        spec=SteeringSpec(method="swfc", layer=layer, alpha=1.5),
        fires=everything,
        lands=lambda p, rho: rho + 1.5 * p.delta_mu,
    )
    yield Case(
        spec=SteeringSpec(method="swfc", layer=layer, alpha=1.5, direction="reversed"),
        fires=everything,
        lands=lambda p, rho: rho - 1.5 * p.delta_mu,
    )
    yield Case(
        spec=SteeringSpec(method="sttp", layer=layer, alpha=2.0),
        fires=below,
        lands=lambda p, rho: torch.full_like(rho, p.mu_pos + 2 * p.sigma_pos),
    )
    yield Case(
        spec=SteeringSpec(method="sttp", layer=layer, alpha=2.0, direction="reversed"),
        fires=above,
        lands=lambda p, rho: torch.full_like(rho, p.mu_neg - 2 * p.sigma_neg),
    )
    yield Case(
        spec=SteeringSpec(method="stmp", layer=layer, alpha=1.0, cap_sigmas=None),
        fires=below,
        lands=lambda p, rho: 2 * p.boundary - rho,
    )
    yield Case(
        spec=SteeringSpec(
            method="stmp", layer=layer, alpha=0.75, cap_sigmas=None, direction="reversed"
        ),
        fires=above,
        lands=lambda p, rho: rho + 1.5 * (p.boundary - rho),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Edited:
    """The tokens of one sequence at the steered layer, before and after the edit."""

    before: Float[Tensor, "token d_model"]
    after: Float[Tensor, "token d_model"]
    n_prompt: int


def _edited(subject: Subject, spec: SteeringSpec, chunk: int | None) -> Iterator[Edited]:
    """Run a padded batch under the spec; yield what its layer saw."""
    layer, probes = spec.layers[0], subject.probes
    before, after = Readings((layer,)), Readings((layer,))
    sequences = subject.sequences((24, 9, 17), n_response=5)
    with (
        subject.lm.hooks(before.hooks),
        steer(subject.lm, spec, probes),
        subject.lm.hooks(after.hooks),
    ):
        subject.lm.forward(sequences, return_logits=False, chunk=chunk)
    for row, one in enumerate(sequences):
        yield Edited(
            before=before.residuals(row, layer).cpu(),
            after=after.residuals(row, layer).cpu(),
            n_prompt=one.n_prompt,
        )


def edits_are_what_the_formulas_say(subject: Subject) -> None:
    """SwFC, StTP and StMP move gated tokens to their formulas' projection, along v_hat alone.

    Tokens outside the gate keep every bit; what is orthogonal to v_hat stays.
    """
    n_fired = n_left = 0
    for layer, chunk in ((0, None), (subject.lm.n_layers - 1, 3)):
        probe = subject.probes.probe(layer)
        for case in cases(layer):
            for one in _edited(subject, case.spec, chunk):
                fired = _hold_case(f"{_name(case)}, chunk {chunk}", subject, case, probe, one)
                n_fired += int(fired.sum())
                n_left += int((~fired).sum())
    hold(min(n_fired, n_left) > 20, f"{n_fired} tokens fired and {n_left} did not: too few to tell")


def _hold_case(
    what: str, subject: Subject, case: Case, probe: LayerProbe, one: Edited
) -> Bool[Tensor, "token"]:
    rho = one.before @ probe.v_hat
    fired, size = case.fires(probe, rho), float(one.before.abs().max())
    sure = (rho - probe.boundary).abs() > subject.noise * size  # noise may gate the others
    hold(
        torch.equal(one.before[sure & ~fired], one.after[sure & ~fired]),
        f"{what}: a token outside the gate was moved",
    )
    moved = one.after - one.before
    across = moved - (moved @ probe.v_hat)[:, None] * probe.v_hat
    hold(
        float(across.abs().max()) <= subject.noise * size,
        f"{what}: the edit has a component across v_hat, {float(across.abs().max()):.2g}",
    )
    is_edited = sure & fired
    if is_edited.any():
        found, wanted = (one.after @ probe.v_hat)[is_edited], case.lands(probe, rho)[is_edited]
        error = float((found - wanted).abs().max())
        bound = subject.noise * max(size, float(wanted.abs().max()))
        hold(error <= bound, f"{what}: projections miss their formula by {error:.2g}")
    return fired


def scopes_are_kept(subject: Subject) -> None:
    """Scope response leaves the prompt's bits alone, scope prompt the response's."""
    for scope in ("response", "prompt"):
        spec = SteeringSpec(method="swfc", layer=0, alpha=1.5, scope=scope)
        for chunk in (None, 3):
            for one in _edited(subject, spec, chunk):
                same = (one.before == one.after).all(dim=-1)
                inside = torch.arange(len(same)) >= one.n_prompt
                inside = inside if scope == "response" else ~inside
                hold(
                    bool((same == ~inside).all()),
                    f"scope {scope}, chunk {chunk}: other tokens were edited than those in it",
                )


def steered_generation_is_steered_forcing(subject: Subject) -> None:
    """Steering acts on the prompt, on each decoding step and on what the cache keeps of both."""
    layers = (0, subject.lm.n_layers - 2) if subject.lm.n_layers > 2 else (0,)
    everywhere = range(subject.lm.n_layers)
    prompts = subject.sequences((5, 9, 12))
    for method, alpha in (("swfc", 1.0), ("sttp", 2.0), ("stmp", 1.0)):
        spec = SteeringSpec(method=method, layer=layers, alpha=alpha)
        cached, forced = Readings(everywhere), Readings(everywhere)
        with steer(subject.lm, spec, subject.probes):
            with subject.lm.hooks(cached.hooks):
                made = subject.lm.generate(prompts, GREEDY, sample_keys="abc")
            with subject.lm.hooks(forced.hooks):
                subject.lm.forward([one.sequence for one in made], return_logits=False)
            hold_scored(f"steered by {method}", subject, made)
        for row in range(len(prompts)):
            for layer in everywhere:
                found, expected = (one.residuals(row, layer) for one in (cached, forced))
                what = f"{method}, layer {layer} of row {row}"
                hold_close(what, found, expected, subject.noise)


def packed_rows_keep_to_their_own(subject: Subject) -> None:
    """Rows of a batch with different interventions, or none, are as each is alone."""
    lm, last = subject.lm, subject.lm.n_layers - 1
    sequences = subject.sequences((14, 8, 20, 11), n_response=5)
    specs = [
        SteeringSpec(method="swfc", layer=0, alpha=1.0),
        None,
        SteeringSpec(method="sttp", layer=(0, last), alpha=2.0, scope="response"),
        SteeringSpec(method="stmp", layer=last, alpha=1.0, direction="reversed"),
    ]
    with steer(lm, SteeringPlan(specs, subject.probes)):
        packed = logits_of(subject, sequences)
    for row, (one, spec) in enumerate(zip(sequences, specs, strict=True)):
        alone = _alone(subject, one, spec)
        hold_close(f"row {row} of a pack", packed[row, -len(one) :], alone, subject.noise)
    unsteered = subject.expected(sequences[1].token_ids).logits
    hold_close("the unsteered row", packed[1, -len(sequences[1]) :], unsteered, subject.noise)


def _alone(subject: Subject, sequence: TokenizedPrompt, spec: SteeringSpec | None) -> Tensor:
    with steer(subject.lm, SteeringPlan([spec], subject.probes)):
        return logits_of(subject, [sequence])[0]


def steered_rows_that_share_say_the_same(subject: Subject) -> None:
    """Rows of one prompt with different edits share what is below them, and say the same."""
    layers = range(subject.lm.n_layers)
    specs = [
        None,
        *(SteeringSpec(method="sttp", layer=n, alpha=2.0, scope="response") for n in layers),
        *(SteeringSpec(method="swfc", layer=n, alpha=0.5) for n in layers),
    ]
    prompts = [subject.sequences((12, 21))[row % 2] for row in range(len(specs))]
    keys = [str(row % 2) for row in range(len(specs))]
    made = []
    for share in (False, True):
        with steer(subject.lm, SteeringPlan(specs, subject.probes)):
            made.append(
                subject.lm.generate(prompts, SAMPLED, sample_keys=keys, share_prefixes=share)
            )
    apart, shared = ([one.token_ids for one in rows] for rows in made)
    hold(apart == shared, "steered rows that share a prefix say something else than apart")


def traces_say_what_happened(subject: Subject) -> None:
    """A trace has every token of a row once a layer, with its own projection and probability."""
    lm, probes, layer = subject.lm, subject.probes, subject.lm.n_layers - 1
    probe, before = probes.probe(layer), Readings((layer,))
    prompts, recorder = subject.sequences((6, 13)), TraceRecorder()
    spec = SteeringSpec(method="sttp", layer=layer, alpha=2.0)
    with lm.hooks(before.hooks), steer(lm, spec, probes, recorder=recorder):
        made = lm.generate(prompts, SAMPLED, sample_keys="ab")
    named = _Named(subject)
    table = recorder.table(
        named, made, samples=["0", "1"], scenarios=["s", "s"], sides=["neutral"] * 2
    ).to_pylist()
    for row, one in enumerate(made):
        rows = [entry for entry in table if entry["sample"] == str(row)]
        ids = tuple(entry["token_id"] for entry in rows)
        hold(
            ids == one.sequence.token_ids, f"the trace of row {row} has other tokens than its text"
        )
        rho = (before.residuals(row, layer).float().cpu() @ probe.v_hat).double()
        traced = torch.tensor([entry["projection_before"] for entry in rows]).double()
        hold_close(f"traced projections of row {row}", traced, rho, subject.noise)
        fired = [entry["fired"] for entry in rows]
        sure = (rho - probe.boundary).abs() > subject.noise * rho.abs().max()
        wanted = (rho < probe.boundary).tolist()
        is_right = [f == w for f, w, s in zip(fired, wanted, sure.tolist(), strict=True) if s]
        hold(all(is_right), f"the trace of row {row} says that other tokens fired")
        logprobs = tuple(entry["logprob"] for entry in rows[len(one.prompt) :])
        hold(logprobs == one.logprobs, f"the trace of row {row} has other log-probabilities")


class _Named:
    """Names tokens by their number where there is no tokenizer."""

    def __init__(self, subject: Subject) -> None:
        self._lm = subject.lm

    def token_strings(self, token_ids: Sequence[int]) -> list[str]:
        """Return one string a token."""
        if self._lm.tokenizer is None:
            return [str(token_id) for token_id in token_ids]
        return self._lm.token_strings(token_ids)


def _name(case: Case) -> str:
    spec = case.spec
    return f"{spec.method} {spec.direction} at layer {spec.layer}"


STEERING_LAWS = (
    Law(check=edits_are_what_the_formulas_say),
    Law(check=scopes_are_kept),
    Law(check=steered_generation_is_steered_forcing),
    Law(check=packed_rows_keep_to_their_own),
    Law(check=steered_rows_that_share_say_the_same),
    Law(check=traces_say_what_happened),
)
