"""Choosing the next token from its row's logits and one uniform number, and from nothing else.

The cumulative distribution is inverted in a fixed order: probability falling, ties by token id. Two
batches then differ only through the float noise of their logits, which can move a draw across a
boundary between two tokens; that is rare and is not excluded.

To order a whole vocabulary is dear and seldom needed: few tokens hold the mass that is kept. They
are tried first, and a row of many more is looked up by the size of its probabilities.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from interp_steer.sampling import GenerationSettings

SHORTLISTS = (16, 128)
"""Most probable tokens that are ordered, and where the kept set is longer."""
SORTED_WHOLE = 4096
"""Vocabularies up to this size are then simply sorted."""
BUCKETS = 4096
"""Larger ones are counted by size of probability first: 128 sizes an octave, 32 octaves."""


def choose_tokens(
    logits: Float[Tensor, "batch d_vocab"],
    uniforms: Float[Tensor, "batch"],
    settings: GenerationSettings,
) -> Int[Tensor, "batch"]:
    """Pick one token per row: greedy at temperature 0, else top-p sampling at `uniforms`.

    The kept set is the shortest prefix of the tokens, by falling probability, whose mass reaches
    `top_p`; the token chosen is the first whose cumulated mass exceeds u times the kept mass.

    Args:
        logits: float32, any shift.
        uniforms: one number in [0, 1) per row.
        settings: temperature and top_p.
    """
    if settings.temperature == 0.0:
        return logits.argmax(dim=-1)
    probabilities = (logits / settings.temperature).softmax(dim=-1)
    d_vocab = probabilities.shape[-1]
    first, *longer = [n for n in SHORTLISTS if n < d_vocab] or [d_vocab]
    chosen, is_exact = _from_top(first, probabilities, uniforms, settings.top_p)
    for count in (*longer, d_vocab):
        if bool(is_exact.all()):
            break
        rest = (~is_exact).nonzero()[:, 0]
        of_rest = probabilities[rest], uniforms[rest], settings.top_p
        if count < d_vocab:
            chosen[rest], is_exact[rest] = _from_shortlist(count, *of_rest)
        elif d_vocab > SORTED_WHOLE and probabilities.device.type == "cpu":
            chosen[rest] = _from_buckets(*of_rest)
        else:
            chosen[rest] = _from_all(*of_rest)
    return chosen


def _from_top(
    count: int,
    probabilities: Float[Tensor, "batch d_vocab"],
    uniforms: Float[Tensor, "batch"],
    top_p: float,
) -> tuple[Int[Tensor, "batch"], Bool[Tensor, "batch"]]:
    """Return the choice among the `count` most probable tokens, and whether it is the right one.

    It is where the kept set ends before the list does and no two of its probabilities are equal:
    which of them comes first the operation does not say.
    """
    ordered, token_ids = probabilities.topk(count, dim=-1)
    rank, last_kept = _ranks(ordered, uniforms, top_p)
    is_exact = (ordered[:, 1:] < ordered[:, :-1]).all(dim=-1) & (last_kept < count - 1)[:, 0]
    return token_ids.gather(-1, rank)[:, 0], is_exact


def _from_shortlist(
    count: int,
    probabilities: Float[Tensor, "batch d_vocab"],
    uniforms: Float[Tensor, "batch"],
    top_p: float,
) -> tuple[Int[Tensor, "batch"], Bool[Tensor, "batch"]]:
    """Return the choice among the `count` most probable tokens, and whether it is the right one.

    It is where the kept set ends before the list does and its last member is strictly more
    probable than the list's last: then no token outside the list, tied ones included, is kept.
    """
    token_ids = probabilities.topk(count, dim=-1).indices.sort(dim=-1).values
    ordered, order = probabilities.gather(-1, token_ids).sort(dim=-1, descending=True, stable=True)
    rank, last_kept = _ranks(ordered, uniforms, top_p)
    is_exact = ordered.gather(-1, last_kept) > ordered[:, -1:]
    return token_ids.gather(-1, order.gather(-1, rank))[:, 0], is_exact[:, 0]


def _from_all(
    probabilities: Float[Tensor, "batch d_vocab"], uniforms: Float[Tensor, "batch"], top_p: float
) -> Int[Tensor, "batch"]:
    """Return the choice among all tokens, sorted."""
    ordered, token_ids = probabilities.sort(dim=-1, descending=True, stable=True)
    rank, _ = _ranks(ordered, uniforms, top_p)
    return token_ids.gather(-1, rank)[:, 0]


def _ranks(
    ordered: Float[Tensor, "batch count"], uniforms: Float[Tensor, "batch"], top_p: float
) -> tuple[Int[Tensor, "batch 1"], Int[Tensor, "batch 1"]]:
    """Return the places of the chosen and of the last kept token among falling probabilities."""
    mass = ordered.cumsum(dim=-1)
    limit = mass.new_full((len(mass), 1), top_p)
    last_kept = torch.searchsorted(mass, limit).clamp(max=mass.shape[-1] - 1)
    target = uniforms[:, None] * mass.gather(-1, last_kept)
    rank = torch.searchsorted(mass, target, right=True)
    return torch.minimum(rank, last_kept), last_kept


def _from_buckets(
    probabilities: Float[Tensor, "batch d_vocab"], uniforms: Float[Tensor, "batch"], top_p: float
) -> Int[Tensor, "batch"]:
    """Return the choice among all tokens; only those of one bucket and another are sorted."""
    buckets = _Buckets(probabilities)
    kept = buckets.mass[:, -1:]
    if top_p < 1:
        kept, _ = buckets.reached(torch.full_like(kept, top_p), right=False)
    return buckets.reached(uniforms[:, None] * kept, right=True)[1][:, 0]


class _Buckets:
    """The tokens of every row by the size of their probability, with the mass of each size.

    The upper half of a positive float's bits, its exponent and seven bits behind it, rises with
    the number. Masses are float64: sums of so many that they do not depend on the order.

    Args:
        probabilities: float32.
    """

    def __init__(self, probabilities: Float[Tensor, "batch d_vocab"]) -> None:
        self._probabilities = probabilities
        sizes = probabilities.view(torch.int32) >> 16
        fallen = (sizes.amax(dim=-1, keepdim=True) - sizes).clamp(max=BUCKETS - 1)
        self._bucket = fallen
        """Of every token, from 0 with the most probable; the last holds all that are smaller."""
        n_rows = len(probabilities)
        flat = fallen + BUCKETS * torch.arange(n_rows, dtype=fallen.dtype)[:, None]
        sums = torch.bincount(
            flat.flatten(), probabilities.flatten().double(), minlength=n_rows * BUCKETS
        )
        self.mass = sums.view(n_rows, BUCKETS).cumsum(dim=-1)
        """Of each bucket and those before it."""

    def reached(
        self, target: Float[Tensor, "batch 1"], *, right: bool
    ) -> tuple[Float[Tensor, "batch 1"], Int[Tensor, "batch 1"]]:
        """Return the first token by falling probability with which the mass reaches a target.

        Args:
            target: mass, float64.
            right: the mass has to exceed it.

        Returns:
            Mass through that token, and its id; the last token's where no mass is enough.
        """
        at = torch.searchsorted(self.mass, target, right=right)
        at = torch.minimum(at, self._bucket.amax(dim=-1, keepdim=True))
        rows, token_ids = (self._bucket == at).nonzero(as_tuple=True)  # by rising id in every row
        counts = rows.bincount(minlength=len(target))
        places = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
        listed = self._probabilities.new_zeros(len(target), int(counts.max()))
        ids = torch.zeros_like(listed, dtype=torch.long)
        listed[rows, places], ids[rows, places] = self._probabilities[rows, token_ids], token_ids
        listed, order = listed.sort(dim=-1, descending=True, stable=True)
        before = pad(self.mass, (1, 0)).gather(-1, at.long())
        mass = before + listed.double().cumsum(dim=-1)
        rank = torch.searchsorted(mass, target, right=right).minimum(counts[:, None] - 1)
        return mass.gather(-1, rank), ids.gather(-1, order.gather(-1, rank))
