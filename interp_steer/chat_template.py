"""A chat rendered through a model's own template, with the place of every message's text.

Where a text ends up is found by rendering the template a second time with a unique mark in place of
every text, never by searching the output for the text: a message may repeat, or quote the template.
Templates that render a message differently depending on what it says are refused, since no span
could be trusted then.

What else a template may write is pinned, so that a run can be repeated: the date (Llama 3 puts
today's into the system turn) and whether the model is to think (Qwen3). A template without a system
role gets the system prompt in front of the user's text, which is what Gemma 3's does by itself.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import product
from typing import Any, Literal

from interp_steer.errors import ModelError
from interp_steer.scenarios import Message
from interp_steer.tokens import Segment

SEGMENT_OF_ROLE = {
    "system": Segment.SYSTEM,
    "user": Segment.USER,
    "assistant": Segment.ASSISTANT,
}

Span = tuple[int, int, Segment]
"""Start and end character of a piece of text, and its segment."""

SystemRole = Literal["own", "in_user_turn", "folded"]
"""own: the template has a turn, or marks, for the system prompt. in_user_turn: it writes it before
the user's text, white space between. folded: it knows no system prompt, and this library puts it
there before rendering."""

_MARK = re.compile("\ue000(\\d+)\ue001")
_CLOCK = re.compile(r"strftime_now\s*\(\s*(['\"])(.*?)\1\s*\)")
_BETWEEN = "\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """What a chat template may be told, beside the messages."""

    enable_thinking: bool = False
    """Let a thinking model think; otherwise templates with that switch close the block at once."""
    date: str = "2024-07-26"
    """Date that templates may write, year-month-day (this one is what Llama 3 writes offline)."""

    def __post_init__(self) -> None:
        try:
            date.fromisoformat(self.date)
        except ValueError as error:
            raise ModelError(
                f"the chat date must be year-month-day like 2024-07-26, got {self.date!r}"
            ) from error

    def arguments(self) -> dict[str, Any]:
        """The options as templates name them."""
        today = date.fromisoformat(self.date)
        return {
            "enable_thinking": self.enable_thinking,
            "thinking": self.enable_thinking,
            "date_string": today.strftime("%d %b %Y"),
        }

    def pinned(self, template: str) -> str:
        """Return the template with the date written out wherever it asks the clock.

        Raises:
            ModelError: it asks in a form that is not a literal.
        """
        today = date.fromisoformat(self.date)
        fixed = _CLOCK.sub(lambda asked: repr(today.strftime(asked[2])), template)
        if re.search(r"strftime_now\s*\(", fixed):
            raise ModelError(
                "the chat template asks the clock in a form that cannot be pinned, so no run with "
                "it could be repeated; write the date into the template, or give raw prompts"
            )
        return fixed

    def recorded(self, template: str) -> dict[str, Any]:
        """Those options that `template` mentions, hence those that change a prompt."""
        found: dict[str, Any] = {}
        if re.search(r"\b(enable_)?thinking\b", template):
            found["enable_thinking"] = self.enable_thinking
        if re.search(r"\b(date_string|strftime_now)\b", template):
            found["date"] = self.date
        return found

    @classmethod
    def from_record(cls, record: Mapping[str, Any] | None) -> "ChatOptions":
        """The options of a manifest's record; what it does not mention changes nothing."""
        names = ("enable_thinking", "date")
        return cls(**{name: value for name, value in (record or {}).items() if name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Text of one message."""

    role: str
    """Whose text."""
    text: str
    """What is said."""


_Turn = tuple[str, Sequence[_Piece]]
"""Role of a turn, and the pieces that it is made of."""


def render_chat(
    tokenizer: Any, messages: Sequence[Message], options: ChatOptions | None = None
) -> tuple[str, list[Span]]:
    """Render messages through the chat template, with the spans of their texts.

    Returns:
        The text up to where the assistant's answer starts, and the character spans of the
        messages' texts; everything else is template.

    Raises:
        ModelError: no template, or one that refuses, drops, repeats or alters a message.
    """
    options = options or ChatOptions()
    _require_template(tokenizer)
    turns: list[_Turn] = [(m.role, [_Piece(role=m.role, text=m.content)]) for m in messages]
    has_system = any(message.role == "system" for message in messages)
    if has_system and system_role(tokenizer, options) == "folded":
        turns = list(_folded(messages))
    pieces = [piece for _, parts in turns for piece in parts]
    text = _apply(tokenizer, [(role, [p.text for p in parts]) for role, parts in turns], options)
    marked = _apply(tokenizer, _marked(turns), options)
    _require_every_mark_once(marked, pieces)
    roles = sorted({piece.role for piece in pieces})
    for trims in product((False, True), repeat=len(roles)):
        rebuilt, spans = _fill_marks(marked, pieces, dict(zip(roles, trims, strict=True)))
        if rebuilt == text:
            return text, spans
    raise ModelError(
        "the chat template renders a message differently depending on its text, so the segments "
        "cannot be told; simplify the template, or render it yourself and give a raw prompt"
    )


def system_role(tokenizer: Any, options: ChatOptions | None = None) -> SystemRole:
    """What the template does with a system prompt, seen by rendering one.

    Raises:
        ModelError: the tokenizer has no chat template, or one that refuses a lone user turn too.
    """
    _require_template(tokenizer)
    options = options or ChatOptions()
    pair: list[_Turn] = [(role, [_Piece(role=role, text=role)]) for role in ("system", "user")]
    try:
        marked = _apply(tokenizer, _marked(pair), options)
    except ModelError as refused:
        try:
            _apply(tokenizer, _marked(pair[1:]), options)
        except ModelError:
            raise refused from None  # a template that refuses the user's turn too
        return "folded"
    places = [(int(m[1]), m.start(), m.end()) for m in _MARK.finditer(marked)]
    if [place[0] for place in places] == [1]:
        return "folded"
    is_joined = [p[0] for p in places] == [0, 1] and not marked[places[0][2] : places[1][1]].strip()
    return "in_user_turn" if is_joined else "own"


def chat_record(tokenizer: Any, options: ChatOptions) -> dict[str, Any]:
    """What a manifest must say of how prompts were rendered; empty where nothing is special."""
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return {}
    record = options.recorded(str(template))
    try:
        role = system_role(tokenizer, options)
    except ModelError:  # a template that refuses everything says so when it is used
        return record
    return record if role == "own" else {**record, "system_role": role}


def _require_template(tokenizer: Any) -> None:
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            "chat messages need a tokenizer with a chat template, and this one has none; give a "
            "raw prompt (Prompt(text=...)) or a chat model"
        )


def _folded(messages: Sequence[Message]) -> Iterator[_Turn]:
    """Turns in which each system message opens the user's turn after it."""
    waiting: list[_Piece] = []
    for message in messages:
        piece = _Piece(role=message.role, text=message.content.strip())
        if message.role == "system":
            waiting.append(piece)
        elif message.role == "user":
            yield "user", [*waiting, piece]
            waiting = []
        else:
            yield message.role, [_Piece(role=message.role, text=message.content)]
    if waiting:
        raise ModelError(
            "the model's chat template has no system role, and no user message follows the system "
            "message that could carry it; add one"
        )


def _marked(turns: Sequence[_Turn]) -> list[tuple[str, list[str]]]:
    """The turns with a mark in place of every text."""
    n, marked = 0, []
    for role, parts in turns:
        marked.append((role, [f"\ue000{n + i}\ue001" for i in range(len(parts))]))
        n += len(parts)
    return marked


def _apply(tokenizer: Any, turns: Sequence[tuple[str, Sequence[str]]], options: ChatOptions) -> str:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            [{"role": role, "content": _BETWEEN.join(parts)} for role, parts in turns],
            chat_template=options.pinned(tokenizer.get_chat_template()),
            tokenize=False,
            add_generation_prompt=True,
            **options.arguments(),
        )
    except TemplateError as error:
        roles = ", ".join(role for role, _ in turns)
        raise ModelError(
            f"the model's chat template refuses messages with the roles {roles}: {error}"
        ) from error


def _require_every_mark_once(marked: str, pieces: Sequence[_Piece]) -> None:
    found = [int(match[1]) for match in _MARK.finditer(marked)]
    for index, piece in enumerate(pieces):
        if found.count(index) != 1:
            raise ModelError(
                f"the model's chat template {'repeats' if index in found else 'drops'} the "
                f"{piece.role} message; it cannot carry this prompt"
            )


def _fill_marks(
    marked: str, pieces: Sequence[_Piece], trims: Mapping[str, bool]
) -> tuple[str, list[Span]]:
    """Put the texts back where their marks are; a template may have moved them.

    Args:
        marked: rendering with marks.
        pieces: whose texts they stand for.
        trims: roles whose texts the template strips.
    """
    text, spans, at = "", [], 0
    for match in _MARK.finditer(marked):
        piece = pieces[int(match[1])]
        content = piece.text.strip() if trims[piece.role] else piece.text
        text += marked[at : match.start()]
        spans.append((len(text), len(text) + len(content), SEGMENT_OF_ROLE[piece.role]))
        text, at = text + content, match.end()
    return text + marked[at:], spans
