"""Laws of forward passes: tokens, logits, residual streams, hooks that come and go."""

import json
from collections.abc import Callable

import torch
from torch import Tensor

from interp_steer.conformance.subject import (
    ConformanceError,
    Law,
    Readings,
    Subject,
    hold,
    hold_close,
    relative_error,
)
from interp_steer.errors import ModelError
from interp_steer.scenarios import Prompt
from interp_steer.tokens import ResidHook, Segment, TokenChunk, TokenizedPrompt

LENGTHS = (40, 3, 23, 1, 39)
"""Of a batch that is padded on the left by 0 to 39 tokens."""
CHUNKS = (None, 2, 7)
"""Whole, and on a key-value cache in pieces. Single positions are not for every model."""


def tokens_have_segments(subject: Subject) -> None:
    """Every token has its segment: BOS once, the prompts of system and user where they stand."""
    lm = subject.lm
    raw = lm.tokenize(Prompt(text="is the lion red"))
    bos = lm.tokenizer.bos_token_id
    hold(raw.token_ids.count(bos) <= 1, f"a raw prompt has BOS twice: {raw.token_ids}")
    hold(
        _letters(subject, raw, Segment.USER) == _letters_of(subject, "is the lion red"),
        "the USER tokens of a raw prompt are not its text",
    )
    if not getattr(lm.tokenizer, "chat_template", None):
        return
    asked = {Segment.SYSTEM: "you are honest", Segment.USER: "tell me of the lion"}
    chat = lm.tokenize(Prompt.chat(asked[Segment.USER], asked[Segment.SYSTEM]))
    for segment, text in asked.items():
        hold(
            _letters(subject, chat, segment) == _letters_of(subject, text),
            f"the {segment.name} tokens of a chat are not its text",
        )
    hold(chat.n_prompt == len(chat), "a prompt ends in RESPONSE tokens")


def _letters(subject: Subject, prompt: TokenizedPrompt, segment: Segment) -> str:
    pairs = zip(prompt.token_ids, prompt.segments, strict=True)
    return _letters_of(subject, subject.lm.decode([t for t, s in pairs if s == segment]))


def _letters_of(subject: Subject, text: str) -> str:
    """As the tokenizer spells it, without white space."""
    ids = subject.lm.tokenizer.encode(text, add_special_tokens=False)
    return "".join(subject.lm.decode(ids).split())


def logits_are_the_references(subject: Subject) -> None:
    """Logits of a left-padded batch, whole or in pieces on a cache, are those of single rows."""
    sequences = subject.sequences(LENGTHS)
    expected = [subject.expected(one.token_ids).logits for one in sequences]
    for chunk in CHUNKS:
        logits = logits_of(subject, sequences, chunk)
        for row, one in enumerate(expected):
            what = f"logits of row {row}, {len(one)} tokens, chunk {chunk}"
            hold_close(what, logits[row, -len(one) :], one, subject.noise)


def residuals_are_the_references(subject: Subject) -> None:
    """Hooks see at every layer the residual streams of single sequences, each token once."""
    sequences = subject.sequences(LENGTHS, n_response=1)
    layers = range(subject.lm.n_layers)
    expected = [subject.expected(one.token_ids).residuals for one in sequences]
    for chunk in CHUNKS:
        readings = Readings(layers)
        with subject.lm.hooks(readings.hooks):
            subject.lm.forward(sequences, return_logits=False, chunk=chunk)
        for row, one in enumerate(sequences):
            for layer in layers:
                what = f"layer {layer} of row {row}, chunk {chunk}"
                hold(readings.told(row, layer) == _said_of(one), f"{what}: told of other tokens")
                found = readings.residuals(row, layer)
                hold_close(f"resid_post at {what}", found, expected[row][layer], subject.noise)


def _said_of(sequence: TokenizedPrompt) -> list[tuple[int, ...]]:
    """Token id, segment, position and response index of each token."""
    after = [max(place - sequence.n_prompt, -1) for place in range(len(sequence))]
    return list(
        zip(sequence.token_ids, sequence.segments, range(len(sequence)), after, strict=True)
    )


def one_token_is_more_than_noise(subject: Subject) -> None:
    """Control: another first token moves the last logits far more than is allowed as noise."""
    one, other = subject.sequences((6, 6))
    changed = TokenizedPrompt(
        token_ids=(other.token_ids[0], *one.token_ids[1:]), segments=one.segments
    )
    found, expected = (logits_of(subject, [s])[0, -1] for s in (changed, one))
    error = relative_error(found, expected)
    hold(
        error > 10 * subject.noise,
        f"another token moves the logits by {error:.2g} of the largest, noise is "
        f"{subject.noise:.1g}: the laws would see nothing. Give a model whose logits depend more "
        "on its tokens, or a smaller noise",
    )


def edits_act_on_their_tokens(subject: Subject) -> None:
    """An edit of response tokens at two layers: exact where it is made, alike however it is run."""
    lm, last = subject.lm, subject.lm.n_layers - 1
    sequences = subject.sequences((30, 21, 35), n_response=9)
    size = subject.expected(sequences[0].token_ids).residuals[0].abs().max()
    vector = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(1))
    vector = (vector * size / vector.norm()).to(lm.device)

    def edit(resid: Tensor, chunk: TokenChunk) -> Tensor:
        is_response = (chunk.segments == Segment.RESPONSE)[..., None]
        return torch.where(is_response, resid + vector.to(resid.device), resid)

    def run(rows: list[TokenizedPrompt], chunk: int | None) -> tuple[Readings, Readings, Tensor]:
        before, after = Readings((0, last)), Readings((0, last))
        with lm.hooks(before.hooks), lm.hooks({0: edit, last: edit}), lm.hooks(after.hooks):
            return before, after, logits_of(subject, rows, chunk)

    for chunk in CHUNKS:
        before, after, logits = run(sequences, chunk)
        for row, one in enumerate(sequences):
            for layer in (0, last):
                was, now = before.residuals(row, layer), after.residuals(row, layer)
                untouched = torch.equal(was[: one.n_prompt], now[: one.n_prompt])
                hold(untouched, f"layer {layer}: an edit of response tokens moved the prompt's")
                exact = torch.equal(
                    was[one.n_prompt :] + vector.to(was.device), now[one.n_prompt :]
                )
                hold(exact, f"layer {layer}: what left the block is not what the hook returned")
            *_, alone = run([one], None)
            what = f"edited logits of row {row}, chunk {chunk}"
            hold_close(what, logits[row, -len(one) :], alone[0], subject.noise)
            plain = subject.expected(one.token_ids).logits
            hold(
                relative_error(alone[0], plain) > 10 * subject.noise,
                "an edit of the size of the residual stream leaves the logits as they were",
            )


def hooks_come_and_go(subject: Subject) -> None:
    """Hooks run outer before inner, in the order given; once left, however, nothing remains."""
    lm, sequences, calls = subject.lm, subject.sequences((5, 9)), list[str]()

    def noting(name: str) -> ResidHook:
        return lambda _resid, _chunk: calls.append(name)

    def failing(_resid: Tensor, _chunk: TokenChunk) -> Tensor:
        raise _PlantedError

    untouched = logits_of(subject, sequences)
    with lm.hooks([(1, noting("a")), (1, noting("b"))]), lm.hooks({1: noting("c")}):
        watched = logits_of(subject, sequences)
    hold(calls == ["a", "b", "c"], f"hooks a, b and inner c ran as {calls}")
    hold(torch.equal(watched, untouched), "hooks that change nothing changed the logits")
    try:
        with lm.hooks({0: lambda resid, _chunk: resid + 1, 1: failing}):
            lm.forward(sequences)
    except _PlantedError:
        pass
    else:
        raise ConformanceError("what a hook raises does not come through")
    try:
        after = logits_of(subject, sequences)
    except _PlantedError:
        raise ConformanceError("a hook ran after an error had ended its context") from None
    hold(torch.equal(after, untouched), "something stayed attached")
    hold(calls == ["a", "b", "c"], "a hook ran after its context was left")


class _PlantedError(Exception):
    """What a hook raises here."""


def what_cannot_be_right_is_refused(subject: Subject) -> None:
    """Refused: an unknown layer, an edit of another shape, a call within a call."""
    lm, sequences, calls = subject.lm, subject.sequences((5,)), list[int]()

    def call_again(_resid: Tensor, _chunk: TokenChunk) -> None:
        calls.append(1)
        if len(calls) == 1:
            lm.forward(sequences)

    hooks: dict[str, dict[int, Callable]] = {
        "a layer that is not there": {lm.n_layers: lambda _resid, _chunk: None},
        "an edit of another shape": {0: lambda resid, _chunk: resid[:, :1]},
        "an edit of another dtype": {0: lambda resid, _chunk: resid.double()},
        "a call within a call": {0: call_again},
    }
    for what, attached in hooks.items():
        try:
            with lm.hooks(attached):
                lm.forward(sequences)
        except ModelError:
            continue
        raise ConformanceError(f"{what} is not refused")


def the_identity_is_a_value(subject: Subject) -> None:
    """What artifacts record of the model is JSON, the same each time, and names the weights."""
    first, second = subject.lm.identity(), subject.lm.identity()
    hold(first == second == json.loads(json.dumps(first)), "identity() is not one value of JSON")
    wanted = {"model", "weights", "config", "dtype", "weight_processing", "tokenizer"}
    hold(wanted <= set(first), f"identity() lacks {sorted(wanted - set(first))}")


def logits_of(
    subject: Subject, sequences: list[TokenizedPrompt], chunk: int | None = None
) -> Tensor:
    """Return the logits of a forward."""
    logits = subject.lm.forward(sequences, chunk=chunk)
    if logits is None:
        raise ConformanceError("forward returned no logits")
    return logits


FORWARD_LAWS = (
    Law(
        check=tokens_have_segments,
        inapplicable=lambda s: "the model has no tokenizer" if s.lm.tokenizer is None else None,
    ),
    Law(check=logits_are_the_references),
    Law(check=residuals_are_the_references),
    Law(check=one_token_is_more_than_noise),
    Law(check=edits_act_on_their_tokens),
    Law(check=hooks_come_and_go),
    Law(check=what_cannot_be_right_is_refused),
    Law(check=the_identity_is_a_value),
)
