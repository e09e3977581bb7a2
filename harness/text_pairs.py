"""What does a classifier read? A text or two as token ids, in the frame that its model knows. No torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_texts(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[tuple[str, str | None]], max_tokens: int
) -> tuple[list[list[int]], list[int]]:
    """What a classifier reads. -> token ids of each text or pair, and how many were cut off.

    An encoder's tokenizer (one with a separator token) frames texts and pairs in its own way, `<s> a </s></s> b </s>`
    for RoBERTa. A causal model reads BOS, the first text, a newline and the second one.
    """
    if tokenizer.sep_token is None:
        joined = [(tokenizer.bos_token or "") + (one if two is None else f"{one}\n{two}") for one, two in texts]
        whole = token_ids(tokenizer, joined)
        return [ids[:max_tokens] for ids in whole], [max(0, len(ids) - max_tokens) for ids in whole]
    framed: list[list[int]] = [[] for _ in texts]
    num_cut = [0] * len(texts)
    for paired in (True, False):
        places = [at for at, (_, two) in enumerate(texts) if (two is not None) == paired]
        if not places:
            continue
        pairs = {"text_pair": [texts[at][1] for at in places]} if paired else {}
        whole = tokenizer([texts[at][0] for at in places], **pairs, verbose=False)["input_ids"]
        for at, ids in zip(places, whole, strict=True):
            framed[at] = ids if len(ids) <= max_tokens else _cut_to(tokenizer, texts[at], max_tokens)
            num_cut[at] = len(ids) - len(framed[at])
    return framed, num_cut


def _cut_to(tokenizer: "PreTrainedTokenizerBase", texts: tuple[str, str | None], max_tokens: int) -> list[int]:
    """The longer text loses its end, the frame stays whole."""
    one, two = texts
    pair = {} if two is None else {"text_pair": two}
    ids: list[int] = tokenizer(one, **pair, truncation="longest_first", max_length=max_tokens)["input_ids"]
    return ids


def token_ids(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> list[list[int]]:
    """Token ids of each text, which brings its own special tokens."""
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids
