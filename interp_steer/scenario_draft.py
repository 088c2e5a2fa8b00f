"""New scenarios of one's own trait, drafted by a chat model after the pattern of a file.

What is well formed and repeats nothing is added to the file at once, whole or not at all, so that a
run that is killed loses the calls under way and no more; the same command goes on from what is
there. Drafts are raw material. A model writes what it has often read: read each draft aloud, mend
or delete it, take the word "draft" out of its notes, and then run `interp-steer scenarios check`.
"""

import logging
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from interp_steer.chat_client import ChatClient, Outcome
from interp_steer.draft_answers import DraftRequest, draft_messages, drafted_scenario, parse_answer
from interp_steer.endpoints import Failure, Usage
from interp_steer.errors import ScenarioError
from interp_steer.files import atomic_write_bytes
from interp_steer.scenario_likeness import (
    KINDS,
    SIDES,
    LexicalLikeness,
    normal_form,
    text_of,
)
from interp_steer.scenarios import Scenario, Split, load_scenarios, scenario_lines

_log = logging.getLogger(__name__)

MAX_FRUITLESS = 3
"""After so many rounds of calls in a row without one usable draft, drafting stops."""

N_EXAMPLES = 4
N_TAKEN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftPlan:
    """What is to be drafted."""

    trait: str
    """The trait of the new scenarios."""
    n: int
    """Drafts that the file holds in the end."""
    categories: tuple[str, ...] = ()
    """What they are about, in turn; the categories of the pattern by default."""
    split: Split = "train"
    """Where they go."""
    meaning: str | None = None
    """What the trait and its opposite are, in a sentence."""
    per_call: int = 4
    """Scenarios that one call asks for."""
    seed: int = 42
    """Which examples of the pattern a call shows."""

    def __post_init__(self) -> None:
        for name in ("n", "per_call"):
            if getattr(self, name) < 1:
                raise ScenarioError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.trait.strip() or not all(c.strip() for c in self.categories):
            raise ScenarioError("the trait and every category must have a name, got an empty one")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafted:
    """What came of it."""

    scenarios: tuple[Scenario, ...]
    """All drafts of the file, those of earlier runs included."""
    n_new: int
    """Drafts of this run."""
    refused: Counter[str]
    """Why answers or entries were not taken, and how often."""
    usage: Usage
    """Calls and tokens."""


def draft_scenarios(
    client: ChatClient, pattern: Sequence[Scenario], plan: DraftPlan, *, out: Path
) -> Drafted:
    """Ask for drafts until the file holds as many as planned.

    Args:
        client: whom to ask.
        pattern: chat scenarios; those to train on are shown as examples, none is repeated.
        plan: what is to be drafted.
        out: JSONL file; drafts that are there count.

    Raises:
        ScenarioError: a pattern without chat scenarios to train on, a file of another trait, a file
            that changed under our hands, or a model that gives nothing usable; what was drafted
            until then is in the file.
        EndpointError: no call to the endpoint can succeed.
    """
    examples = [s for s in pattern if s.split == "train" and not s.is_raw]
    if not examples:
        raise ScenarioError(
            "expected a pattern with chat scenarios of split 'train' to show as examples, got "
            f"none among {len(pattern)} scenarios"
        )
    desk = _Desk(pattern, plan, out)
    n_before, n_fruitless = len(desk.drafts), 0
    rng = random.Random(f"{plan.seed} {n_before}")
    while desk.n_missing and n_fruitless < MAX_FRUITLESS:
        n_missing = desk.n_missing
        _ask_once(client, desk, lambda: rng.sample(examples, min(N_EXAMPLES, len(examples))))
        n_fruitless = 0 if desk.n_missing < n_missing else n_fruitless + 1
    if desk.n_missing:
        raise ScenarioError(
            f"{client.endpoint.model} gave nothing usable in {MAX_FRUITLESS} rounds of calls in a "
            f"row ({refusals(desk.refused)}); {len(desk.drafts)} of {plan.n} drafts are in {out}. "
            "Try another model or other categories, or ask for fewer"
        )
    return Drafted(
        scenarios=tuple(desk.drafts),
        n_new=len(desk.drafts) - n_before,
        refused=desk.refused,
        usage=client.usage,
    )


def _ask_once(
    client: ChatClient, desk: "_Desk", some_examples: Callable[[], list[Scenario]]
) -> None:
    """One round of calls; what is usable is in the file when it ends."""
    requests = desk.next_requests(client.endpoint.concurrency)
    client.complete_all(
        [draft_messages(request, some_examples(), desk.taken(request)) for request in requests],
        on_done=lambda place, outcome: desk.take(
            requests[place], outcome, model=client.endpoint.model
        ),
    )


def refusals(refused: Counter[str]) -> str:
    """Why drafts were not taken, most frequent first."""
    return "; ".join(f"{n} x {why}" for why, n in refused.most_common()) or "none refused"


class _Desk:
    """The file under way: what is in it, what is missing, what may come in."""

    def __init__(self, pattern: Sequence[Scenario], plan: DraftPlan, out: Path) -> None:
        self.plan, self._out = plan, out
        self.drafts = list(load_scenarios(out)) if out.is_file() else []
        if others := {s.trait for s in self.drafts} - {plan.trait}:
            raise ScenarioError(
                f"{out} holds scenarios of the trait {min(others)!r}, asked for {plan.trait!r}; "
                "give another file"
            )
        self._on_disk = self._read()
        self._pattern = list(pattern)
        self._categories = plan.categories or tuple(dict.fromkeys(s.category for s in pattern))
        self.refused: Counter[str] = Counter()

    @property
    def n_missing(self) -> int:
        return max(0, self.plan.n - len(self.drafts))

    def next_requests(self, n_calls: int) -> list[DraftRequest]:
        """At most so many calls, the categories with the fewest drafts first."""
        n_calls = min(n_calls, math.ceil(self.n_missing / self.plan.per_call))
        planned = Counter(dict.fromkeys(self._categories, 0))
        planned.update(s.category for s in self.drafts if s.category in planned)
        requests = []
        for _ in range(n_calls):
            category = min(self._categories, key=planned.__getitem__)
            planned[category] += self.plan.per_call
            requests.append(
                DraftRequest(
                    trait=self.plan.trait,
                    meaning=self.plan.meaning,
                    category=category,
                    split=self.plan.split,
                    n=min(self.plan.per_call, self.n_missing),
                )
            )
        return requests

    def taken(self, request: DraftRequest) -> list[str]:
        """What users say in the latest drafts of the category."""
        return [s.user[0] for s in self.drafts if s.category == request.category][-N_TAKEN:]

    def take(self, request: DraftRequest, outcome: Outcome, *, model: str) -> None:
        """Add what is usable of one answer to the file."""
        n_before = len(self.drafts)
        try:
            entries = _entries(outcome)
        except ScenarioError as error:
            self.refused[str(error)] += 1
            entries = []
        for entry in entries:
            if not self.n_missing:
                break
            try:
                draft = drafted_scenario(entry, request, id=self._new_id(request), model=model)
                self._require_new(draft)
            except ScenarioError as error:
                self.refused[str(error)] += 1
            else:
                self.drafts.append(draft)
        if len(self.drafts) > n_before:
            self._save()
        _log.info("%d of %d drafts", len(self.drafts), self.plan.n)

    def _new_id(self, request: DraftRequest) -> str:
        words = (self.plan.trait, request.split, request.category, "draft")
        stem = "-".join(re.sub(r"\W+", "-", word.casefold()).strip("-") for word in words)
        used, number = {s.id for s in (*self._pattern, *self.drafts)}, 1
        while f"{stem}-{number:02d}" in used:
            number += 1
        return f"{stem}-{number:02d}"

    def _require_new(self, draft: Scenario) -> None:
        """Refuse what repeats a scenario that is there, in the same words or nearly so."""
        if len({normal_form(text_of(draft, side) or "") for side in SIDES}) == 1:
            raise ScenarioError("an entry whose two sides say the same")
        there, likeness = [*self._pattern, *self.drafts], LexicalLikeness()
        for kind in KINDS:
            texts = [text for s in there if (text := text_of(s, kind)) is not None]
            cosines = likeness.cosines([text_of(draft, kind) or "", *texts])[0, 1:]
            if len(cosines) and float(cosines.max()) >= likeness.threshold:
                raise ScenarioError(f"a {kind} too near to one that is there")

    def _save(self) -> None:
        if self._read() != self._on_disk:
            raise ScenarioError(
                f"{self._out} was changed by somebody else while drafts were being made; run the "
                "same command again to go on from what it holds now"
            )
        self._on_disk = scenario_lines(self.drafts).encode("utf-8")
        atomic_write_bytes(self._out, self._on_disk)

    def _read(self) -> bytes | None:
        return self._out.read_bytes() if self._out.is_file() else None


def _entries(outcome: Outcome) -> list[object]:
    if isinstance(outcome, Failure):
        raise ScenarioError(f"a call that failed ({outcome.reason})")
    if outcome.finish_reason == "length":
        raise ScenarioError("an answer cut off at its token limit")
    return parse_answer(outcome.text)
