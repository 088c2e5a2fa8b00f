"""From a prompt to token ids with segments, and from token ids to text.

A chat is rendered first (`chat_template`), then tokenized without special tokens: the template has
written them, BOS included. A raw prompt gets BOS once, whether its text starts with it or not.
"""

from collections.abc import Sequence
from typing import Any

from interp_steer.chat_template import ChatOptions, Span, render_chat
from interp_steer.errors import ModelError
from interp_steer.scenarios import Prompt
from interp_steer.tokens import Segment, TokenizedPrompt


def tokenize_prompt(
    tokenizer: Any, prompt: Prompt, *, prepend_bos: bool, options: ChatOptions | None = None
) -> TokenizedPrompt:
    """Tokenize a raw prompt or chat messages.

    Args:
        tokenizer: a fast Hugging Face tokenizer (it must know character offsets).
        prompt: messages, or raw text.
        prepend_bos: whether a raw prompt gets the BOS token in front (unless its text starts with
            it). A chat template writes BOS itself or not at all.
        options: what a chat template is told; its defaults without.

    Raises:
        ModelError: no tokenizer, a slow one, no chat template for messages, a template that
            refuses or alters them, special tokens inside a message.
    """
    if tokenizer is None:
        raise ModelError(
            "tokenizing needs a tokenizer, and this model came without one; load a directory that "
            "holds tokenizer files, or boot the bridge with tokenizer=..."
        )
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"segments need the character offsets of a fast tokenizer, got {type(tokenizer)}; "
            "convert it (a tokenizer.json beside the model)"
        )
    if prompt.text is not None:
        return _tokenize_raw(tokenizer, prompt.text, prepend_bos)
    text, spans = render_chat(tokenizer, prompt.messages, options)
    return _tokenize_spans(tokenizer, text, spans)


def _tokenize_raw(tokenizer: Any, text: str, prepend_bos: bool) -> TokenizedPrompt:
    token_ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    segments = (int(Segment.USER),) * len(token_ids)
    bos = tokenizer.bos_token_id
    if bos is not None and token_ids[:1] == (bos,):
        segments = (int(Segment.TEMPLATE), *segments[1:])
    elif bos is not None and prepend_bos:
        token_ids = (bos, *token_ids)
        segments = (int(Segment.TEMPLATE), *segments)
    return TokenizedPrompt(token_ids=token_ids, segments=segments)


def _tokenize_spans(tokenizer: Any, text: str, spans: Sequence[Span]) -> TokenizedPrompt:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    token_ids = encoded["input_ids"]
    segments = [_segment_at(text, start, end, spans) for start, end in encoded["offset_mapping"]]
    control = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for token_id, segment in zip(token_ids, segments, strict=True):
        if segment != Segment.TEMPLATE and token_id in control:
            raise ModelError(
                f"a {segment.name.lower()} message contains the special token "
                f"{tokenizer.convert_ids_to_tokens(token_id)!r} as text, which the model would "
                "read as a control token; remove it from the message"
            )
    return TokenizedPrompt(
        token_ids=tuple(token_ids), segments=tuple(int(segment) for segment in segments)
    )


def _segment_at(text: str, start: int, end: int, spans: Sequence[Span]) -> Segment:
    """Segment of a token: that of its first character which is not white space.

    Word-initial tokens carry the space before them, and a last token may merge a full stop with
    the template's line break.
    """
    piece = text[start:end]
    first = start + len(piece) - len(piece.lstrip()) if piece.strip() else start
    for span_start, span_end, segment in spans:
        if span_start <= first < span_end and end > start:
            return segment
    return Segment.TEMPLATE


def decode_tokens(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """Return the text of `token_ids`, special tokens skipped, spaces as they are."""
    return tokenizer.decode(
        list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )


def token_strings(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """Return one readable string per token, with the space it starts with.

    Each token is decoded behind another one and the other's text cut off, because decoders drop
    the space in front of a sequence's first word. A token that is part of a character shows as
    the replacement character.
    """
    anchor = _anchor_token(tokenizer)
    cut = len(_decode_verbatim(tokenizer, [anchor]))
    strings = {
        token_id: _decode_verbatim(tokenizer, [anchor, token_id])[cut:]
        for token_id in set(token_ids)
    }
    return [strings[token_id] for token_id in token_ids]


def _anchor_token(tokenizer: Any) -> int:
    for token_id in tokenizer.encode("a", add_special_tokens=False)[::-1]:
        return token_id
    return 0


def _decode_verbatim(tokenizer: Any, token_ids: list[int]) -> str:
    return tokenizer.decode(
        token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
