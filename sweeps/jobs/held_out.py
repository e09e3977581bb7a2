"""Finds the rows that a run's held-out loss is measured on where they are a split of their own, and counts bytes."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from eval.benchmarks.dataset_rows import evaluation_rows
from harness.banks.load import LoadedBase
from harness.config.schema import EvalSource, ModelKind, PathsConfig
from harness.data.tokens import EncodedExamples, TokenizedDataset, tokenize_dataset
from harness.runs.spec import RunSpec
from sweeps.plan.rows import split_problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def split_examples(spec: RunSpec, base: LoadedBase, paths: PathsConfig) -> TokenizedDataset | None:
    """The rows of `dataset.eval_split`, a seeded sample of `train.eval_rows`; None where a run doesn't take them there.

    Raises:
        ValueError: the dataset has no such split, or too few rows in it.
    """
    if spec.train is None or spec.dataset is None or spec.train.eval_source is not EvalSource.split:
        return None
    if (problem := split_problem(spec.dataset)) is not None:
        raise ValueError(problem)
    rows = evaluation_rows(spec.dataset, None, None, paths)
    config = replace(rows.dataset, max_rows=spec.train.eval_rows)
    cache = Path(paths.cache) / "tokenized"
    found = tokenize_dataset(config, rows.source, base.tokenizer, cache, empty_targets=config.empty_targets.value)
    if len(found) < spec.train.eval_rows:
        raise ValueError(
            f"train.eval_rows={spec.train.eval_rows}: the split {rows.split_name} of {spec.dataset.name} has "
            f"{len(found)} rows; give fewer"
        )
    found.require_fits(base.max_length, apart=spec.model.kind is ModelKind.seq2seq)
    return found


def target_bytes(examples: EncodedExamples, tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """Bytes of all targets, as UTF-8 and without special tokens; None where targets are labels."""
    if getattr(examples[0], "label", None) is not None:
        return None
    each = (examples[index] for index in range(len(examples)))
    targets: list[list[int]] = [example.input_ids[max(example.num_source, 1) :].tolist() for example in each]
    texts = tokenizer.batch_decode(targets, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return sum(len(text.encode()) for text in texts)
