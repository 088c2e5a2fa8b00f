"""Chat templates of real models: where each text lands; what is folded, pinned and refused."""

import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_templates import TEMPLATES, tokenizer_for
from conftest import save_tiny, tiny_tokenizer
from interp_steer.chat_template import ChatOptions, chat_record, render_chat, system_role
from interp_steer.errors import ModelError
from interp_steer.model import HookedLM
from interp_steer.scenarios import Message, Prompt
from interp_steer.tokenization import tokenize_prompt
from interp_steer.tokens import Segment, TokenizedPrompt

TOKENIZERS = {name: tokenizer_for(name) for name in TEMPLATES}
ROLES = {
    "llama-3": "own",
    "qwen-3": "own",
    "qwen-3.5": "own",
    "qwen-2.5": "own",
    "gemma-3": "in_user_turn",
    "gemma-2": "folded",
    "mistral-old": "folded",
    "mistral-v3": "in_user_turn",
    "smollm-2": "own",
    "chatml": "own",
}
WITH_BOS = ("llama-3", "gemma-3", "gemma-2", "mistral-old", "mistral-v3")
WORDS = ("be", "honest", "user", "assistant", "Today", "lie\n", "why?", "é")
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)


def chat(*turns: tuple[str, str]) -> Prompt:
    return Prompt(messages=tuple(Message(role=role, content=text) for role, text in turns))


def tokenize(name: str, prompt: Prompt, **options: object) -> TokenizedPrompt:
    return tokenize_prompt(
        TOKENIZERS[name], prompt, prepend_bos=True, options=ChatOptions(**options)
    )


def text_of(name: str, tokens: TokenizedPrompt, segment: Segment) -> str:
    ids = [i for i, s in zip(tokens.token_ids, tokens.segments, strict=True) if s == segment]
    return TOKENIZERS[name].decode(ids)


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=8)
@given(system=texts, users=st.lists(texts, min_size=2, max_size=2), answer=texts)
def test_every_segment_holds_its_text(
    name: str, system: str, users: list[str], answer: str
) -> None:
    """Texts quote roles and one another; two user turns with an answer between."""
    turns = [("system", system), ("user", users[0]), ("assistant", answer), ("user", users[1])]
    tokens = tokenize(name, chat(*turns))
    assert text_of(name, tokens, Segment.SYSTEM).strip() == system.strip()
    assert text_of(name, tokens, Segment.ASSISTANT).strip() == answer.strip()
    spoken = text_of(name, tokens, Segment.USER)
    assert "".join(spoken.split()) == "".join("".join(users).split())


@pytest.mark.parametrize("name", TEMPLATES)
def test_tokens_are_those_of_the_tokenizers_own_rendering(name: str) -> None:
    """Where the template takes a system prompt; BOS once, though the tokenizer would add one."""
    turns = [("system", "Be honest."), ("user", "Who are you?")]
    if ROLES[name] == "folded":
        turns = [("user", "Be honest.\n\nWho are you?")]
    messages = [{"role": role, "content": text} for role, text in turns]
    theirs = TOKENIZERS[name].apply_chat_template(
        messages, add_generation_prompt=True, enable_thinking=False, date_string="26 Jul 2024"
    )["input_ids"]
    ours = tokenize(name, chat(("system", "Be honest."), ("user", "Who are you?")))
    assert list(ours.token_ids) == theirs
    bos = TOKENIZERS[name].bos_token_id
    assert ours.token_ids.count(bos) == (1 if name in WITH_BOS else 0)
    assert TOKENIZERS[name].encode("a")[0] == bos  # the control: it does add one


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_becomes_of_a_system_prompt_is_seen(name: str) -> None:
    assert system_role(TOKENIZERS[name]) == ROLES[name]


def test_a_template_that_drops_the_system_prompt_gets_it_in_the_user_turn() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] != 'system' %}<|{{ m['role'] }}|> "
        "{{ m['content'] }} {% endif %}{% endfor %}"
    )
    prompt = chat(("system", "tell the truth"), ("user", "the lion"))
    text, spans = render_chat(tokenizer, prompt.messages)
    assert text == "<|user|> tell the truth\n\nthe lion "
    assert [(text[a:b], segment) for a, b, segment in spans] == [
        ("tell the truth", Segment.SYSTEM),
        ("the lion", Segment.USER),
    ]
    with pytest.raises(ModelError, match="no user message follows the system message"):
        render_chat(tokenizer, chat(("user", "the lion"), ("system", "tell")).messages)


def test_folding_is_said_once_and_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lm = HookedLM.load(save_tiny(tmp_path / "tiny"))
    assert "chat" not in lm.identity()
    lm.tokenizer.chat_template = TEMPLATES["gemma-2"]
    prompt = chat(("system", "tell the truth"), ("user", "the lion"))
    with caplog.at_level(logging.WARNING, logger="interp_steer"):
        for _ in range(2):
            lm.tokenize(prompt)
    said = [r.getMessage() for r in caplog.records if "system role" in r.getMessage()]
    assert said == [
        "tiny has no system role: interp_steer puts the system prompt in front of the user's text"
    ]
    assert lm.identity()["chat"] == {"system_role": "folded"}


def test_the_date_is_pinned_and_recorded() -> None:
    prompt = chat(("system", "Be honest."), ("user", "Hi"))
    template = text_of("llama-3", tokenize("llama-3", prompt), Segment.TEMPLATE)
    assert "Today Date: 26 Jul 2024" in template
    moved = tokenize("llama-3", prompt, date="2026-11-24")
    assert "Today Date: 24 Nov 2026" in text_of("llama-3", moved, Segment.TEMPLATE)
    assert chat_record(TOKENIZERS["llama-3"], ChatOptions()) == {"date": "2024-07-26"}
    with pytest.raises(ModelError, match="year-month-day like 2024-07-26, got '26 Jul'"):
        ChatOptions(date="26 Jul")


def test_a_template_that_asks_the_clock_is_pinned_too() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{{ strftime_now('%Y-%m-%d') }} {% for m in messages %}{{ m['content'] }} {% endfor %}"
    )
    text, _ = render_chat(tokenizer, chat(("user", "the lion")).messages)
    assert text == "2024-07-26 the lion "
    tokenizer.chat_template = "{% set f = '%Y' %}{{ strftime_now(f) }}{{ messages[0].content }}"
    with pytest.raises(ModelError, match="asks the clock in a form that cannot be pinned"):
        render_chat(tokenizer, chat(("user", "the lion")).messages)


def test_a_template_without_a_clock_takes_the_date_it_is_given() -> None:
    """Llama 3.3's, which falls back to a date of its own."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ date_string | default('never') }} {{ messages[0]['content'] }}"
    messages = chat(("user", "the lion")).messages
    text, _ = render_chat(tokenizer, messages, ChatOptions(date="2026-11-24"))
    assert text == "24 Nov 2026 the lion"


def test_thinking_is_off_unless_asked_for() -> None:
    prompt = chat(("user", "Hi"))
    closed = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    for name, opened in (("qwen-3", ""), ("qwen-3.5", "<think>\n")):
        tokenizer = TOKENIZERS[name]
        assert tokenizer.decode(tokenize(name, prompt).token_ids).endswith(closed)
        asked = tokenizer.decode(tokenize(name, prompt, enable_thinking=True).token_ids)
        assert asked.endswith(f"<|im_start|>assistant\n{opened}")
        options = ChatOptions(enable_thinking=True)
        assert chat_record(tokenizer, options) == {"enable_thinking": True}
        assert ChatOptions.from_record(chat_record(tokenizer, options)) == options


def test_a_template_that_changes_a_message_is_refused() -> None:
    """Qwen3's cuts what stands before </think> in an earlier answer."""
    turns = [("user", "Hi"), ("assistant", "Hm.</think>Hello"), ("user", "Why?")]
    with pytest.raises(ModelError, match="renders a message differently depending on its text"):
        tokenize("qwen-3", chat(*turns))


def test_a_template_that_repeats_a_message_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + m['content'] }}{% endfor %}"
    with pytest.raises(ModelError, match="repeats the user message"):
        render_chat(tokenizer, chat(("user", "the lion")).messages)


def test_control_words_in_a_message_are_refused_on_every_template() -> None:
    with pytest.raises(ModelError, match=r"contains the special token '<\|eot_id\|>' as text"):
        tokenize("llama-3", chat(("user", "Hi<|eot_id|>")))
