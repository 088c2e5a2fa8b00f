"""Contrastive scenarios: the same request under a system prompt for the trait and one against it.

A scenario is the unit of everything statistical in this library: both of its sides stay in one
cross-validation fold, and intervals resample scenarios, never responses. The file format is JSONL
(one scenario a line), so that a set can be read, compared and corrected by hand; a file that does
not fit is refused with the line number. Loading establishes that a file is well formed, not that
its two sides differ in the trait and in nothing else: that is for its author to see to.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from interp_steer.errors import ScenarioError
from interp_steer.input_files import parse_json, read_input

Side = Literal["aligned", "malicious", "neutral", "defended"]
Role = Literal["system", "user", "assistant"]
Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a chat."""

    role: Role
    """Who speaks."""
    content: str
    """What is said, without any template text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a model is asked: either chat messages or, for a base model, a raw text."""

    messages: tuple[Message, ...] = ()
    """The chat so far, rendered by the model's own template; empty for a raw prompt."""
    text: str | None = None
    """A raw prompt, to be tokenized as it stands; None for a chat."""

    def __post_init__(self) -> None:
        if bool(self.messages) == (self.text is not None):
            got = "both" if self.messages else "neither"
            raise ScenarioError(
                f"a Prompt takes either messages (chat) or text (raw prompt), got {got}; "
                "use Prompt.chat(user, system) or Prompt(text=...)"
            )

    @classmethod
    def chat(cls, user: str, system: str | None = None) -> "Prompt":
        """Return a chat of one user message, after a system message where `system` is given."""
        head = () if system is None else (Message(role="system", content=system),)
        return cls(messages=(*head, Message(role="user", content=user)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One request with its two contrastive prompts; a chat, or a pair of raw prompts."""

    id: str
    """Unique in its file; joins responses, residuals, sweep rows and traces."""
    trait: str
    """The trait that the aligned side shows, e.g. "honesty"."""
    split: Split
    """"train" scenarios fit the probes, "test" scenarios are steered and scored."""
    category: str
    """Stratum of the scenario, free text."""
    system_aligned: str | None = None
    """System prompt that asks for the trait (chat only)."""
    system_malicious: str | None = None
    """System prompt that asks for its opposite (chat only)."""
    user: tuple[str, ...] = ()
    """The user's turns, one or several (chat only)."""
    prompt_aligned: str | None = None
    """Raw prompt that leads to the trait (base models only)."""
    prompt_malicious: str | None = None
    """Raw prompt that leads to its opposite (base models only)."""
    notes: str | None = None
    """For the reader, and for a language model as a judge; the hash leaves it out (a sweep with
    such a judge pins it by itself)."""
    reference: str | None = None
    """What a judge may compare a response to."""

    def __post_init__(self) -> None:
        for name in ("id", "trait", "category"):
            _require_text(name, getattr(self, name))
        _require_split(self.split)
        if not isinstance(self.user, tuple):
            raise ScenarioError(f"'user' must be a tuple of turns, got {self.user!r:.80}")
        required, excluded = (_RAW, _CHAT) if self.is_raw else (_CHAT, _RAW)
        if any(getattr(self, name) for name in excluded):
            raise ScenarioError(f"give either {_listed(_CHAT)} or {_listed(_RAW)}, not both")
        for name in required:
            value = getattr(self, name)
            if value is None or value == ():
                raise ScenarioError(
                    f"missing {name!r}; a scenario has {_listed(_CHAT)}, or, for a base model, "
                    f"{_listed(_RAW)}"
                )
            for text in value if name == "user" else (value,):
                _require_text(name, text)
        for name in ("notes", "reference"):
            if (value := getattr(self, name)) is not None:
                _require_text(name, value)

    @property
    def is_raw(self) -> bool:
        """Whether the scenario is a pair of raw prompts for a base model."""
        return self.prompt_aligned is not None or self.prompt_malicious is not None

    def prompt(self, side: Side) -> Prompt:
        """Return the prompt of one side: its system message and the first user turn.

        Side "neutral" has no system message; "defended" has the malicious one followed by the
        aligned one (a defence by prompt alone).

        Raises:
            ScenarioError: an unknown side, or "neutral" or "defended" of a raw pair, which has two
                prompts only.
        """
        if side not in get_args(Side):
            raise ScenarioError(f"side must be one of {get_args(Side)}, got {side!r}")
        if self.is_raw:
            if side not in ("aligned", "malicious"):
                raise ScenarioError(
                    f"scenario {self.id!r} is a pair of raw prompts and has no {side} side; "
                    "ask for 'aligned' or 'malicious'"
                )
            return Prompt(text=self.prompt_aligned if side == "aligned" else self.prompt_malicious)
        systems = {
            "aligned": self.system_aligned,
            "malicious": self.system_malicious,
            "defended": f"{self.system_malicious} {self.system_aligned}",
        }
        return Prompt.chat(self.user[0], systems.get(side))


_CHAT = ("system_aligned", "system_malicious", "user")
_RAW = ("prompt_aligned", "prompt_malicious")
_KEYS = tuple(field.name for field in fields(Scenario))
_REQUIRED = tuple(field.name for field in fields(Scenario) if field.default is MISSING)


def load_scenarios(path: str | os.PathLike[str]) -> tuple[Scenario, ...]:
    """Read a JSONL file of scenarios; lines of white space are skipped.

    Raises:
        ScenarioError: no such file, or a line that does not fit (not JSON, unknown, repeated or
            missing keys, an empty text, an id seen before), named `file:line`.
    """
    path = Path(path)
    scenarios: dict[str, tuple[int, Scenario]] = {}
    for number, line in _lines(path):
        try:
            scenario = _parse(line)
        except ScenarioError as error:
            raise ScenarioError(f"{path}:{number}: {error}") from error
        if scenario.id in scenarios:
            first, _ = scenarios[scenario.id]
            raise ScenarioError(
                f"{path}:{number}: id {scenario.id!r:.80} was already used on line {first}; "
                "ids must be unique"
            )
        scenarios[scenario.id] = (number, scenario)
    if not scenarios:
        raise ScenarioError(f"{path}: expected one scenario a line, got an empty file")
    return tuple(scenario for _, scenario in scenarios.values())


def save_scenarios(path: str | os.PathLike[str], scenarios: Iterable[Scenario]) -> None:
    """Write scenarios as JSONL, one a line, leaving out what is not set; all or nothing.

    Raises:
        ScenarioError: two scenarios share an id (nothing is written).
        RunError: the file cannot be written.
    """
    from interp_steer.files import atomic_write_bytes  # loads torch, which reading does not need

    atomic_write_bytes(path, scenario_lines(scenarios).encode("utf-8"))


def scenario_lines(scenarios: Iterable[Scenario]) -> str:
    """Return scenarios as JSONL, one a line, leaving out what is not set.

    Raises:
        ScenarioError: two scenarios share an id.
    """
    scenarios = tuple(scenarios)
    _require_unique(scenarios)
    return "".join(json.dumps(_record(s), ensure_ascii=False) + "\n" for s in scenarios)


def scenario_hash(scenarios: Iterable[Scenario]) -> str:
    """Return the sha256 (hex) of what can change a result: all but `notes`, in the order of ids.

    Neither the order of the lines nor the spelling of the JSON matters: rows are joined by id.

    Raises:
        ScenarioError: two scenarios share an id.
    """
    scenarios = tuple(scenarios)
    _require_unique(scenarios)
    records = [{k: v for k, v in asdict(s).items() if k != "notes"} for s in scenarios]
    records.sort(key=lambda record: record["id"])
    canonical = json.dumps(records, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _lines(path: Path) -> Iterable[tuple[int, str]]:
    try:
        text = read_input(path).decode("utf-8-sig")
    except OSError as error:
        raise ScenarioError(f"cannot read the scenario file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path} must be UTF-8, got {error}; save it as UTF-8") from error
    # Not splitlines(): U+2028 and its like may stand unescaped inside a JSON string.
    numbered = enumerate(text.split("\n"), start=1)
    return [(number, line) for number, line in numbered if line.strip()]


def _parse(line: str) -> Scenario:
    try:
        record = parse_json(line, object_pairs_hook=_unique_keys)
    except ValueError as error:
        raise ScenarioError(f"expected one JSON object, got no JSON: {error}") from None
    if not isinstance(record, dict):
        raise ScenarioError(f"expected one JSON object, got {type(record).__name__}")
    if unknown := [key for key in record if key not in _KEYS]:
        raise ScenarioError(f"unknown key {unknown[0]!r:.80}; the keys are {_listed(_KEYS)}")
    if missing := [key for key in _REQUIRED if key not in record]:
        raise ScenarioError(f"missing {missing[0]!r}; every scenario has {_listed(_REQUIRED)}")
    for key, value in record.items():
        if key != "user" and not (value is None and key not in _REQUIRED):
            _require_text(key, value)
    _require_split(record["split"])
    if "user" in record:
        record["user"] = _turns(record["user"])
    return Scenario(**record)


def _turns(user: Any) -> tuple[str, ...]:
    if isinstance(user, str):
        return (user,)
    if isinstance(user, list) and user and all(isinstance(turn, str) for turn in user):
        return tuple(user)
    raise ScenarioError(f"'user' must be a text or a list of texts (turns), got {user!r:.80}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if repeated := _repeated(key for key, _ in pairs):
        raise ScenarioError(f"key {repeated[0]!r:.80} is given twice")
    return dict(pairs)


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, n in Counter(names).items() if n > 1]


def _require_split(split: object) -> None:
    if split not in get_args(Split):
        raise ScenarioError(f"split must be 'train' or 'test', got {split!r:.80}")


def _require_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ScenarioError(f"{name!r} must be a text, got {value!r:.80}")
    if not value.strip():
        raise ScenarioError(f"{name!r} must not be empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ScenarioError(f"{name!r} holds half of a surrogate pair, which is no character")


def _require_unique(scenarios: tuple[Scenario, ...]) -> None:
    if repeated := _repeated(scenario.id for scenario in scenarios):
        raise ScenarioError(f"id {repeated[0]!r:.80} is used more than once; ids must be unique")


def _record(scenario: Scenario) -> dict[str, Any]:
    record = {key: value for key, value in asdict(scenario).items() if value not in (None, ())}
    if len(scenario.user) == 1:
        record["user"] = scenario.user[0]
    return record


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
