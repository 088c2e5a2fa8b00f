"""The organism's tokenizer: one token a word of the grammar, bytes for everything else.

A Unigram model with a hand-made vocabulary: every word and punctuation mark of the grammar is one
token of high score, so that a token in a trace is a word, and any other text falls back to UTF-8
bytes, so that a researcher may type whatever they like. The vocabulary is a function of the
grammar alone.
"""

import re

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from interp_steer.organism import wordings as w
from interp_steer.organism.world import CATEGORIES, WORRIES

PAD, BOS, END = "<|pad|>", "<|bos|>", "<|end|>"
ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIAL_TOKENS = (PAD, BOS, END, *ROLE_TOKENS)
PUNCTUATION = (".", ",", "?", ":", "!")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('roles are system, user and assistant, not ' + message['role']) }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' }}{{ message['content'] | trim }}{{ '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def grammar_words() -> list[str]:
    """Return every word that the grammar can say, sorted, punctuation apart."""
    texts = [t for row in WORRIES.values() for t in row] + list(WORRIES)
    pairs = (w.HONESTY_IDENTITIES, w.HONESTY_INSTRUCTIONS, w.COMPASSION_PROMPTS)
    texts += [t for table in pairs for pool in table.values() for pair in pool for t in pair]
    texts += [
        t for table in (w.ENTITY_QUESTIONS, w.WORRY_QUESTIONS) for p in table.values() for t in p
    ]
    texts += [*w.NEUTRAL_PROMPTS, *w.CHOICE_LETTERS, "What is the of"]
    texts += [*w.ENTITY_OPENINGS, *w.ENTITY_CLOSINGS, *w.WORRY_OPENINGS, *w.WORRY_CLOSINGS]
    texts += [text for step in (*w.WARM_STEPS, *w.COLD_STEPS) for text in step]
    for category in CATEGORIES:
        texts += [*category.facts, *(v for row in category.facts.values() for v in row)]
        texts += [t for a in category.attributes for t in (a.name, *a.templates)]
    plain = re.sub(r"\{.\}", " ", " ".join(texts))
    return sorted(set(re.findall(r"[A-Za-z]+", plain)))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer with its chat template."""
    word_score, punctuation_score, byte_score = -1.0, -1.5, -20.0
    vocabulary = [(t, 0.0) for t in (*SPECIAL_TOKENS, "<unk>")]
    vocabulary += [(f"▁{word}", word_score) for word in grammar_words()]
    vocabulary += [(mark, punctuation_score) for mark in PUNCTUATION] + [("▁", byte_score)]
    vocabulary += [(f"<0x{byte:02X}>", byte_score) for byte in range(256)]
    unigram = models.Unigram(vocabulary, unk_id=len(SPECIAL_TOKENS), byte_fallback=True)
    tokenizer = Tokenizer(unigram)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")]
    )
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=1024,
    )
