"""Texts as token ids: what a generative model reads of an example, and what a classifier does.

BOS + input, and output + EOS, are tokenized apart and each cut on the right: the collator of
artidoro/qlora (qlora.py, `DataCollatorForCausalLM`). So a long output loses its EOS, as it did there. A dialogue loses
its oldest turns (`harness.data.render`). A classifier reads a text or two in the frame that its model knows.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.config.schema import DatasetConfig
from harness.data.fields import Example, RowError
from harness.data.render import no_template_problem, render
from harness.data.rows import DataError
from harness.data.source import SourceRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Item = tuple[SourceRow, Example]
Encoded = tuple[list[int], int, int, bool, bool]  # ids, source tokens, characters, source cut, target cut


def encode_examples(
    batch: Sequence[Item], config: DatasetConfig, tokenizer: "PreTrainedTokenizerBase"
) -> list[Encoded | DataError]:
    """Token ids of each example, or what is wrong with it.

    BOS and EOS go through the tokenizer as text, as in the original; without a BOS nothing is prepended.
    """
    max_source, max_target = config.source_max_tokens, config.target_max_tokens
    texts = [_texts(example, row, config, tokenizer) for row, example in batch]
    rendered = [("", "") if isinstance(text, DataError) else text[:2] for text in texts]
    sources = token_ids(tokenizer, [source for source, _ in rendered])
    targets = token_ids(tokenizer, [target for _, target in rendered])
    found: list[Encoded | DataError] = []
    for (row, example), text, source, target in zip(batch, texts, sources, targets, strict=True):
        if isinstance(text, DataError):
            found.append(text)
            continue
        source = shorten(source, example, tokenizer, max_source)
        ids = source[:max_source] + target[:max_target]
        num_source = min(len(source), max_source)
        if len(ids) <= max(num_source, 1):  # the first token of all is never predicted
            problem = "no token is left to learn; raise dataset.target_max_tokens or give the row an input"
            found.append(DataError(problem, file=row.where, line=row.line, field=example.target_field))
            continue
        num_characters = len(example.input) + len(example.output)
        found.append((ids, num_source, num_characters, len(source) > max_source or text[2], len(target) > max_target))
    return found


def shorten(source: list[int], example: Example, tokenizer: "PreTrainedTokenizerBase", max_tokens: int) -> list[int]:
    """The first of the example's inputs that fits whole, else the shortest one, which is cut later."""
    for text in example.shorter:
        if len(source) <= max_tokens:
            break
        source = source_tokens(text, tokenizer)
    return source


def source_tokens(text: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The token ids that a generative model reads: BOS, if its tokenizer has one, and the text."""
    return token_ids(tokenizer, [(tokenizer.bos_token or "") + text])[0]


def _texts(
    example: Example, row: SourceRow, config: DatasetConfig, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[str, str, bool] | DataError:
    """-> source text and target text with special tokens, and whether a dialogue lost turns to fit"""
    if not example.messages:
        return (tokenizer.bos_token or "") + example.input, f"{example.output}{tokenizer.eos_token}", False
    require_template(tokenizer, config.format)
    try:
        return render(example, tokenizer, config.source_max_tokens)
    except RowError as error:
        return DataError(error.problem, file=row.where, line=row.line, field=error.field)


def encode_texts(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[tuple[str, str | None]], max_tokens: int
) -> tuple[list[list[int]], list[int]]:
    """Tokenizes the texts that a classifier reads. -> token ids of each text or pair, and how many tokens were cut off

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
    """Cuts the end of the longer text and leaves special tokens whole."""
    one, two = texts
    pair = {} if two is None else {"text_pair": two}
    ids: list[int] = tokenizer(one, **pair, truncation="longest_first", max_length=max_tokens)["input_ids"]
    return ids


def token_ids(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> list[list[int]]:
    """Token ids of each text; special tokens are those that the text spells out."""
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def require_template(tokenizer: "PreTrainedTokenizerBase", format: str) -> None:
    if not tokenizer.chat_template:
        raise ValueError(no_template_problem(tokenizer.name_or_path or "this model", format))
