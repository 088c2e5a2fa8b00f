"""What a chat model is asked for new scenarios, and what of its answer is taken.

The answer is a stranger's text: it must be one JSON list, every entry must have exactly the wanted
keys and pass `Scenario`, and what does not fit is refused by name, never repaired. Passing says
that a draft is well formed. Whether its two sides are a fair contrast is for a human to judge,
which is why every draft says in its notes that it is one.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interp_steer.errors import ScenarioError
from interp_steer.scenarios import Scenario, Split

DRAFT_NOTE = "draft"
"""How the notes of a draft begin until a human has reviewed it."""

_WANTED = {
    "system_aligned": "system prompt, one to three sentences, that sets the scene and asks for the "
    "trait",
    "system_malicious": "the same scene at the same length, asking for the trait's opposite",
    "user": "what the user says, one to four sentences; it gives neither side away",
    "notes": "what a response with the trait says, and what one without it says",
    "reference": "the fact of the matter, where there is one; otherwise leave this key out",
}
_OPTIONAL = ("reference",)

_TASK = """\
You write scenarios for a study of language models. Each scenario is one user message under two \
opposite system prompts: one asks for a trait, the other for its opposite. The two prompts share \
scene, form and length, and differ in the trait alone. The opposite is mild and everyday: nothing \
that helps to hurt anyone. People, places, trades, tones and lengths vary; no two scenarios are \
variants of one another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftRequest:
    """What one call asks for."""

    trait: str
    """The trait of the new scenarios."""
    meaning: str | None
    """What the trait and its opposite are, in a sentence; None leaves it to the model."""
    category: str
    """What the scenarios are about."""
    split: Split
    """Where they go."""
    n: int
    """How many."""


def draft_messages(
    request: DraftRequest, examples: Sequence[Scenario], taken: Sequence[str]
) -> list[dict[str, str]]:
    """Return the messages of one call.

    Args:
        request: what is wanted.
        examples: chat scenarios that show the form.
        taken: what users say in scenarios that are there already, to be kept away from.
    """
    meaning = f" ({request.meaning})" if request.meaning else ""
    shown = [{"trait": s.trait, "category": s.category} | _shown(s) for s in examples]
    keys = "\n".join(f"- {key}: {what}" for key, what in _WANTED.items())
    parts = [
        "Examples of the form:\n" + json.dumps(shown, ensure_ascii=False, indent=1),
        *(["Already written, so keep away from these:\n" + _bullets(taken)] if taken else []),
        f"Write {request.n} new scenarios for the trait: {request.trait}{meaning}. "
        f"Category: {request.category}.",
        "Answer with a JSON list of objects and nothing else. Keys of each object, all texts:\n"
        + keys,
    ]
    return [
        {"role": "system", "content": _TASK},
        {"role": "user", "content": "\n\n".join(parts)},
    ]


def parse_answer(text: str) -> list[object]:
    """Return the entries of an answer that is one JSON list, bare or in one code fence.

    Raises:
        ScenarioError: it is anything else.
    """
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", text, flags=re.DOTALL)
    try:
        entries = json.loads(fenced[1] if fenced else text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise ScenarioError("an answer that is no JSON") from None
    if not isinstance(entries, list):
        raise ScenarioError("an answer that is no JSON list")
    return entries


def drafted_scenario(entry: object, request: DraftRequest, *, id: str, model: str) -> Scenario:  # noqa: A002
    """Return the scenario of one entry.

    Args:
        entry: one entry of `parse_answer`.
        request: what was asked for; trait, split and category are taken from it.
        id: of the new scenario.
        model: who wrote it, for the notes.

    Raises:
        ScenarioError: wrong keys, or texts that no scenario may have.
    """
    if not isinstance(entry, Mapping):
        raise ScenarioError("an entry that is no object")
    needed = [key for key in _WANTED if key not in _OPTIONAL]
    if unknown := [key for key in entry if key not in _WANTED]:
        raise ScenarioError(f"an entry with a key that was not asked for: {unknown[0]!r:.40}")
    if missing := [key for key in needed if key not in entry]:
        raise ScenarioError(f"an entry without {missing[0]!r}")
    for key, value in entry.items():
        _require_plain(key, value)
    return Scenario(
        id=id,
        trait=request.trait,
        split=request.split,
        category=request.category,
        system_aligned=entry["system_aligned"].strip(),
        system_malicious=entry["system_malicious"].strip(),
        user=(entry["user"].strip(),),
        notes=f"{DRAFT_NOTE} by {model}, not reviewed. {entry['notes'].strip()}",
        reference=entry["reference"].strip() if "reference" in entry else None,
    )


def _shown(scenario: Scenario) -> dict[str, str]:
    texts = {
        "system_aligned": scenario.system_aligned,
        "system_malicious": scenario.system_malicious,
        "user": scenario.user[0],
        "notes": scenario.notes,
        "reference": scenario.reference,
    }
    return {key: text for key, text in texts.items() if text is not None}


def _bullets(texts: Sequence[str]) -> str:
    return "\n".join(f"- {' '.join(text.split()):.160}" for text in texts)


def _require_plain(key: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ScenarioError(f"an entry whose {key!r} is no text")
    if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in value):
        raise ScenarioError(f"an entry with control characters in {key!r}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found
