"""Counts the bytes of held-out targets, by which losses of models with several tokenizers compare."""

from typing import TYPE_CHECKING

from harness.data.tokens import EncodedExamples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def target_bytes(examples: EncodedExamples, tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """Bytes of all targets, as UTF-8 and without special tokens; None where targets are labels."""
    if getattr(examples[0], "label", None) is not None:
        return None
    each = (examples[index] for index in range(len(examples)))
    targets: list[list[int]] = [example.input_ids[max(example.num_source, 1) :].tolist() for example in each]
    texts = tokenizer.batch_decode(targets, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return sum(len(text.encode()) for text in texts)
