"""Conversations under way: user turns, answers under steering, and what is measured of each turn.

A batch holds conversations of any configurations, turn by turn; what one says depends on its
scenario, its configuration and its own earlier turns, never on its neighbours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from interp_steer.cells import Cell
from interp_steer.embedders import SentenceTransformerEmbedder
from interp_steer.judges import Answer, Judge, JudgeScore, score_answers
from interp_steer.model import Generation, Prompt
from interp_steer.scenarios import Message, Scenario, Side
from interp_steer.suites.evaluation import cell_key, cell_record
from interp_steer.suites.follow_ups import Script, SimulatedUser, UserTurn
from interp_steer.suites.settings import EvaluationError
from interp_steer.suites.speaking import Guard, speak
from interp_steer.suites.subject import Subject
from interp_steer.suites.turn_measures import repeated_across, repeated_within, reused_sentences
from interp_steer.sweep_rows import CELL_FIELDS, sample_key

SCHEMA = pa.schema(
    [
        pa.field("scenario", pa.string(), nullable=False),
        *CELL_FIELDS,
        pa.field("turn", pa.int32(), nullable=False),
        pa.field("user", pa.string(), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("n_prompt_tokens", pa.int32(), nullable=False),
        pa.field("stop_reason", pa.string(), nullable=False),
        pa.field("judge", pa.string(), nullable=False),
        pa.field("trait", pa.float64()),
        pa.field("coherence", pa.float64()),
        pa.field("sentence_reuse", pa.float64()),
        pa.field("repeated_within", pa.float64()),
        pa.field("repeated_across", pa.float64()),
    ]
)
"""One row a turn, counted from 1; null where there is no score, or nothing to measure."""
NO_ROOM = "no_room"
"""Stop reason of a turn that was not generated: the conversation had filled the context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationUnit:
    """One conversation that is to be held."""

    scenario: Scenario
    """What it begins with, and whose system prompt it is under."""
    cell: Cell
    """The configuration."""

    @property
    def key(self) -> tuple[object, ...]:
        """Scenario and configuration."""
        return (self.scenario.id, *cell_key(self.cell))


def chat_prompt(
    scenario: Scenario, side: Side, exchanges: Sequence[tuple[str, str]], user: str
) -> Prompt:
    """One side's system prompt, the exchanges (user, assistant) so far, and the next message."""
    head = scenario.prompt(side).messages[:-1]
    said = [
        Message(role=role, content=text or " ")  # a template may refuse an empty message
        for exchange in exchanges
        for role, text in zip(("user", "assistant"), exchange, strict=True)
    ]
    return Prompt(messages=(*head, *said, Message(role="user", content=user)))


@dataclass(slots=True, kw_only=True)
class _Conversation:
    """A conversation under way."""

    unit: ConversationUnit
    users: list[UserTurn] = field(default_factory=list)
    made: list[Generation | None] = field(default_factory=list)
    """One a turn; None where there was no room."""

    @property
    def exchanges(self) -> list[tuple[str, str]]:
        made = (one.text for one in self.made if one is not None)
        return [(u.text, text) for u, text in zip(self.users, made, strict=False)]

    def prompt(self, user: UserTurn) -> Prompt:
        """The conversation so far and the user's next message."""
        return chat_prompt(self.unit.scenario, self.unit.cell.side, self.exchanges, user.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """Who talks and who listens: everything but the conversations."""

    subject: Subject
    """Model, probes, sampling."""
    judge: Judge
    """Scores every turn."""
    script: Script | None
    """User turns that are written already; None for a simulated user."""
    simulator: SimulatedUser | None = None
    """The user, where nothing is written."""
    embedder: SentenceTransformerEmbedder | None = None
    """For sentence reuse."""

    def hold(self, units: Sequence[ConversationUnit]) -> pa.Table:
        """Hold some conversations, all turns of each; one row a turn."""
        chats = [_Conversation(unit=unit) for unit in units]
        for turn in range(self.subject.config.turns):
            self._ask(chats, turn)
            self._answer(chats, turn)
        scores = self._scores(chats)
        reuse = self._reuse(chats)
        rows = [
            row
            for chat, own, shares in zip(chats, scores, reuse, strict=True)
            for row in _rows(chat, own, shares, judge=self.judge.name)
        ]
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    def _ask(self, chats: Sequence[_Conversation], turn: int) -> None:
        if self.script is not None:
            n = self.subject.config.turns
            for chat in chats:
                chat.users.append(self.script.turns(chat.unit.scenario, n)[turn])
            return
        if self.simulator is None:
            raise EvaluationError("a conversation needs a script or a simulator, got neither")
        if turn == 0:
            for chat in chats:
                scenario = chat.unit.scenario
                first = UserTurn(text=scenario.user[0], reference=scenario.reference)
                chat.users.append(first)
            return
        talking = [chat for chat in chats if chat.made[-1] is not None]
        for chat, said in zip(
            talking, self.simulator.next_turns([c.exchanges for c in talking]), strict=True
        ):
            chat.users.append(said)
        for chat in chats:
            if chat.made[-1] is None:
                chat.users.append(UserTurn(text=""))

    def _answer(self, chats: Sequence[_Conversation], turn: int) -> None:
        """Generate one turn of all conversations that have room for it."""
        lm, subject = self.subject.study.lm, self.subject
        open_chats, prompts = [], []
        for chat in chats:
            is_closed = turn > 0 and chat.made[-1] is None
            tokens = None if is_closed else lm.tokenize(chat.prompt(chat.users[turn]))
            if tokens is None or len(tokens) >= lm.n_ctx:
                chat.made.append(None)
            else:
                open_chats.append(chat)
                prompts.append(tokens)
        if not prompts:
            return
        keys = [sample_key(chat.unit.scenario.id, 0) for chat in open_chats]
        made = speak(
            lm,
            prompts,
            [Guard.of([chat.unit.cell for chat in open_chats], subject.probes)],
            subject.settings(),
            # The first turn's numbers are those of the sweep: it says there what it says here.
            sample_keys=[key if turn == 0 else f"{key}\x1fturn {turn + 1}" for key in keys],
        )
        for chat, one in zip(open_chats, made, strict=True):
            chat.made.append(one)

    def _scores(self, chats: Sequence[_Conversation]) -> list[list[JudgeScore | None]]:
        places, answers = [], []
        for row, chat in enumerate(chats):
            for turn, one in enumerate(chat.made):
                if one is not None:
                    places.append((row, turn))
                    answers.append(_answer_of(chat, turn, one))
        scores: list[list[JudgeScore | None]] = [[None] * len(chat.made) for chat in chats]
        for (row, turn), score in zip(places, score_answers(self.judge, answers), strict=True):
            scores[row][turn] = score
        return scores

    def _reuse(self, chats: Sequence[_Conversation]) -> list[list[float]]:
        texts = [[one.text for one in chat.made if one is not None] for chat in chats]
        if self.embedder is None:
            return [[math.nan] * len(turns) for turns in texts]
        return reused_sentences(self.embedder, texts)


def _answer_of(chat: _Conversation, turn: int, made: Generation) -> Answer:
    return turn_answer(
        chat.unit.scenario,
        chat.users[turn],
        chat.exchanges[:turn],
        text=made.text,
        stopped=made.stop_reason == "stop_token",
    )


def turn_answer(
    scenario: Scenario,
    user: UserTurn,
    before: Sequence[tuple[str, str]],
    *,
    text: str,
    stopped: bool,
) -> Answer:
    """What the judge reads: the turn as if it were asked alone, what was said before as a note."""
    notes = scenario.notes
    if before:
        said = "\n".join(f"User: {u}\nAssistant: {a}" for u, a in before)
        notes = "\n\n".join([*([notes] if notes else []), f"Earlier in the conversation:\n{said}"])
    asked = replace(scenario, user=(user.text,), notes=notes, reference=user.reference)
    return Answer(scenario=asked, text=text, stopped=stopped)


def _rows(
    chat: _Conversation,
    scores: Sequence[JudgeScore | None],
    reuse: Sequence[float],
    *,
    judge: str,
) -> list[dict[str, object]]:
    texts = [one.text for one in chat.made if one is not None]
    measured = zip(reuse, repeated_within(texts), repeated_across(texts), strict=True)
    shares = dict(enumerate(measured))
    rows = []
    for turn, (user, made, score) in enumerate(zip(chat.users, chat.made, scores, strict=True)):
        reused, within, across = shares.get(turn, (math.nan,) * 3)
        rows.append(
            {
                "scenario": chat.unit.scenario.id,
                **cell_record(chat.unit.cell),
                "turn": turn + 1,
                "user": user.text,
                "response": "" if made is None else made.text,
                "token_ids": [] if made is None else list(made.token_ids),
                "n_tokens": 0 if made is None else len(made.token_ids),
                "n_prompt_tokens": 0 if made is None else len(made.prompt),
                "stop_reason": NO_ROOM if made is None else made.stop_reason,
                "judge": judge,
                "trait": None if score is None else score.trait,
                "coherence": None if score is None else score.coherence,
                "sentence_reuse": None if math.isnan(reused) else reused,
                "repeated_within": None if math.isnan(within) else within,
                "repeated_across": None if math.isnan(across) else across,
            }
        )
    return rows
