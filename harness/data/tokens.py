"""Turns examples into token ids, kept in a memory-mapped Arrow file that is made once.

    tokens = tokenize_dataset(config.dataset, source, tokenizer, cache_dir)
    tokens[0].input_ids                # int32; the first `num_source` of them carry no loss

A long output loses its EOS (`harness.data.encoding`); `num_truncated_targets` counts those, and `notes` says so. The
file's name is a hash of the rows, the tokenizer and the
settings. Rows pass through in batches, so that no dataset is ever held as Python objects.
"""

import copy
import hashlib
import json
import logging
import os
import random
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harness.config.schema import DatasetConfig
from harness.data.encoding import Item, encode_examples, encode_texts, require_template
from harness.data.examples import Skipped, read_examples
from harness.data.formats import ALWAYS_DIALOGUES, DIALOGUES, LABELLED, RULE_VERSIONS, STEP_BY_STEP
from harness.data.labels import label_value
from harness.data.rows import DataError
from harness.data.source import (
    DataSource,
    column,
    fingerprint,
    num_rows,
    require_target,
)
from harness.files.arrow import concatenated, view
from harness.files.atomic import TEMPORARY_SUFFIX
from harness.files.signs import progressed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


EmptyTargets = Literal["refuse", "keep", "drop"]

TASK_FIELD = "task_name"  # of Super-NaturalInstructions' rows, whose tasks differ a lot in size
WARNED_SHARE = 0.05  # of targets that lose their end: from here on it is a warning
SAMPLE_SEED = 42  # of `max_rows`: the paper's data seed, fixed, so that a dataset is the same in every run
_BATCH_EXAMPLES = 1024
_SKIPPED = b"num_skipped_rows"
_WHOLE = b"has_all_rows"  # though a sample was asked for
_FORMAT_VERSION = 1  # part of the cache key: raise it when the columns or the rules change
_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("num_source_tokens", pa.int32()),
        ("num_characters", pa.int32()),  # of input and output, what the original groups by
        ("line", pa.int64()),  # of the row in its file
        ("source_truncated", pa.bool_()),
        ("target_truncated", pa.bool_()),
    ]
)

_RATIONALE_SCHEMA = _SCHEMA.append(pa.field("is_rationale", pa.bool_()))
_LABELLED_SCHEMA = _SCHEMA.append(pa.field("label", pa.float64()))  # a class from 0, or the number to predict

_log = logging.getLogger(__name__)

Lengths = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedExample:
    """The token ids of one example, and where its loss begins."""

    input_ids: NDArray[np.int32]  # [tokens]: source, then target; a read-only view of the file
    num_source: int  # how many leading tokens carry no loss; 0 with `train_on_source`
    label: float | None = None  # of a labelled example: its one target, a class from 0 or a number
    loss_weight: float = 1.0  # of its loss beside those of others


class TokenizedDataset:
    """Tokenized examples in the order of the rows, in a memory-mapped file. Arrays have an entry for each example."""

    def __init__(self, path: Path, *, name: str, train_on_source: bool = False, rationale_weight: float = 1.0) -> None:
        """Opens a file that `tokenize_dataset` wrote.

        Raises:
            pyarrow.ArrowInvalid: the file is not whole.
        """
        self.path, self.name = path, name
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        facts = _facts(reader)
        self.num_skipped_rows = int(facts.get(_SKIPPED, 0))
        self.has_all_rows = _WHOLE in facts  # where `max_rows` asks for as many as there are, or more
        table = reader.read_all()
        ids = table.column("input_ids")
        chunks = [chunk for chunk in ids.chunks if len(chunk)]
        self._tokens = [view(chunk.values) for chunk in chunks]
        self._offsets = [view(chunk.offsets) for chunk in chunks]
        self._starts = np.cumsum([0, *(len(chunk) for chunk in chunks)])
        source: NDArray[np.int32] = concatenated(table.column("num_source_tokens").chunks)
        self.lengths: NDArray[np.int32] = concatenated(pc.list_value_length(ids).chunks)  # in tokens
        self.num_source: NDArray[np.int32] = np.zeros_like(source) if train_on_source else source
        self.num_characters: NDArray[np.int32] = concatenated(table.column("num_characters").chunks)
        self.lines: NDArray[np.int64] = concatenated(table.column("line").chunks)
        labelled = "label" in table.column_names
        self.labels: NDArray[np.float64] | None = concatenated(table.column("label").chunks) if labelled else None
        self.loss_weights: NDArray[np.float64] | None = None  # of each example; None: all alike
        if "is_rationale" in table.column_names:
            is_rationale = table.column("is_rationale").to_numpy()
            self.loss_weights = np.where(is_rationale, rationale_weight, 1.0)
        self.num_truncated_sources = _count(table, "source_truncated")
        self.num_truncated_targets = _count(table, "target_truncated")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> TokenizedExample:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: example {index} of {len(self)}")
        chunk = int(np.searchsorted(self._starts, index, side="right")) - 1
        offsets, row = self._offsets[chunk], index - int(self._starts[chunk])
        return TokenizedExample(
            input_ids=self._tokens[chunk][offsets[row] : offsets[row + 1]],
            num_source=int(self.num_source[index]),
            label=None if self.labels is None else float(self.labels[index]),
            loss_weight=1.0 if self.loss_weights is None else float(self.loss_weights[index]),
        )

    @property
    def notes(self) -> list[str]:
        """Says what was cut or left out, for the console and the run's record; empty if nothing was."""
        notes = []
        if self.num_skipped_rows:
            notes.append(f"{self.name}: {self.num_skipped_rows:,} rows that can't be read were left out")
        if self.num_truncated_sources:
            notes.append(f"{self.name}: {self.num_truncated_sources:,} of {len(self):,} inputs were cut")
        if self.num_truncated_targets:
            share = self.num_truncated_targets / len(self)
            remedy = f" ({share:.0%} lose their end, EOS included): raise dataset.target_max_tokens"
            said = f"{self.name}: {self.num_truncated_targets:,} of {len(self):,} targets were cut"
            notes.append(said + (remedy if share > WARNED_SHARE else ""))
        return notes

    def require_fits(self, max_length: int, apart: bool = False) -> None:
        """Checks the longest example against the model's limit in tokens.

        Args:
            max_length: the limit.
            apart: source and target go into different stacks (T5's encoder and decoder), so each has to fit by itself.

        Raises:
            DataError: an example is longer; the message names its row.
        """
        lengths = np.maximum(self.num_source, self.lengths - self.num_source) if apart else self.lengths
        longest = int(np.argmax(lengths))
        if lengths[longest] > max_length:
            problem = (
                f"{lengths[longest]} tokens, and the model takes {max_length}: lower "
                "dataset.source_max_tokens or dataset.target_max_tokens, so that "
                f"{'each' if apart else 'their sum'} fits"
            )
            raise DataError(problem, file=self.name, line=int(self.lines[longest]))


def tokenize_dataset(
    config: DatasetConfig,
    source: DataSource,
    tokenizer: "PreTrainedTokenizerBase",
    cache_dir: Path | str,
    *,
    empty_targets: EmptyTargets = "refuse",
) -> TokenizedDataset:
    """Tokenizes the rows of `source` by the format's rule, or opens the file of an earlier call.

    Args:
        empty_targets: what to do with a row whose output is blank: refuse the dataset, keep the row (it
            teaches EOS alone, as in the original code) or drop it.

    Raises:
        DataError: a row that can't be read, an empty target, no rows at all.
        ValueError: the tokenizer has no EOS or is not a fast one; a limit that is not positive.
    """
    tokenizer = with_chat_template(tokenizer, config.chat_template)
    _check(config, tokenizer)
    versions = _versions(source)
    path = Path(cache_dir) / f"{_cache_key(config, source, tokenizer, empty_targets)}.arrow"
    if path.is_file():
        try:
            return _opened(path, config)
        except pa.ArrowInvalid as error:
            _log.warning("%s: not whole (%s), made again", path, error)
    skipped, sample = Skipped(), _sample(config, source)
    batches = _batches(_unchanged(_examples(config, source, sample, empty_targets, skipped), source, versions))
    limited = config.max_rows is not None or config.max_rows_per_task is not None
    facts = {_WHOLE: b"1"} if limited and sample is None and source.stream_rows is None else {}
    if config.format in LABELLED:
        schema, encoded = _LABELLED_SCHEMA, (_encode_labelled(batch, config, tokenizer) for batch in batches)
    else:
        schema = _RATIONALE_SCHEMA if config.format == STEP_BY_STEP else _SCHEMA
        encoded = (_encode(batch, config, tokenizer, skipped, schema) for batch in batches)
    _write(path, schema, encoded, source, skipped, facts)
    for problem in skipped.first:
        _log.warning("left out: %s", problem)
    return _opened(path, config)


def _opened(path: Path, config: DatasetConfig) -> TokenizedDataset:
    return TokenizedDataset(
        path, name=config.name, train_on_source=config.train_on_source, rationale_weight=config.rationale_weight
    )


def _unchanged(items: Iterator[Item], source: DataSource, versions: list[tuple[int, int]]) -> Iterator[Item]:
    """Raises DataError after the last item if a file changed since `versions`: the name of what was made would lie."""
    yield from items
    if _versions(source) != versions:
        raise DataError("changed while it was read; run again", file=", ".join(map(str, source.files)))


def _versions(source: DataSource) -> list[tuple[int, int]]:
    return [(status.st_size, status.st_mtime_ns) for status in (path.stat() for path in source.files)]


def with_chat_template(tokenizer: "PreTrainedTokenizerBase", template: str | None) -> "PreTrainedTokenizerBase":
    """The tokenizer, or a copy of it with another chat template (`dataset.chat_template`)."""
    if template is None:
        return tokenizer
    changed = copy.copy(tokenizer)
    changed.chat_template = template
    return changed


def _facts(reader: pa.RecordBatchFileReader) -> dict[bytes, bytes]:
    """What `_write` says of the rows in a last, empty batch; nothing where there is nothing to be said."""
    if reader.num_record_batches == 0:
        return {}
    metadata = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)[1]
    return dict(metadata or {})


def _count(table: pa.Table, column: str) -> int:
    return int(pc.sum(table.column(column)).as_py() or 0)


def _check(config: DatasetConfig, tokenizer: "PreTrainedTokenizerBase") -> None:
    if tokenizer.eos_token is None and config.format not in LABELLED:
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path or 'this model'} has no EOS token, so outputs would have no "
            "end: set eos_token in the checkpoint's tokenizer_config.json"
        )
    if config.format in ALWAYS_DIALOGUES:
        require_template(tokenizer, config.format)


def _cache_key(
    config: DatasetConfig, source: DataSource, tokenizer: "PreTrainedTokenizerBase", empty_targets: EmptyTargets
) -> str:
    """A hash of all that the file depends on. `train_on_source` is left out: it changes the loss, not the file."""
    parts = {
        "version": _FORMAT_VERSION,
        "rows": fingerprint(source),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "format": config.format,
        "source_max_tokens": config.source_max_tokens,
        "target_max_tokens": config.target_max_tokens,
        "max_rows": config.max_rows,
        "empty_targets": empty_targets,
        "chat_template": tokenizer.chat_template if config.format in DIALOGUES else None,
    }
    added = {"assistant_turns": config.assistant_turns.value, "skip_bad_rows": config.skip_bad_rows}
    parts |= {key: value for key, value in added.items() if value not in ("last", False)}
    if config.format in LABELLED:
        parts |= {"labels": [config.num_labels, config.label_names], "sep": tokenizer.sep_token}
    if config.format in RULE_VERSIONS:
        parts |= {"rule": RULE_VERSIONS[config.format]}
    if config.max_rows_per_task is not None:
        parts |= {"max_rows_per_task": config.max_rows_per_task}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """SHA-256 of a fast tokenizer's own serialization, without the truncation state that calls leave in it.

    Raises:
        ValueError: not a fast tokenizer.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path or 'this model'} is not a fast one: convert it with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...), which writes tokenizer.json"
        )
    text: str = backend.to_str()  # JSON, truncation and padding before all that counts; parsing it takes 0.3 s
    specials = json.dumps([tokenizer.bos_token, tokenizer.eos_token])
    return hashlib.sha256((text[text.index('"added_tokens"') :] + specials).encode()).hexdigest()


def _examples(
    config: DatasetConfig,
    source: DataSource,
    sample: Sequence[int] | None,
    empty_targets: EmptyTargets,
    skipped: Skipped,
) -> Iterator[Item]:
    for row, example in read_examples(config, source, sample, skipped):
        if example.label is not None or example.output.strip() or empty_targets == "keep":
            yield row, example
        elif empty_targets == "refuse":
            try:
                require_target(example, row)
            except DataError as error:
                _skip(error, config, skipped)


def _skip(error: DataError, config: DatasetConfig, skipped: Skipped) -> None:
    """Counts a row's error where such rows are left out, raises it otherwise."""
    if not config.skip_bad_rows:
        raise error
    skipped.add(error)


def _sample(config: DatasetConfig, source: DataSource) -> list[int] | None:
    """Numbers of the rows to take, ascending: at most `max_rows_per_task` of a task, `max_rows` in total; None: all."""
    if source.stream_rows is not None:
        return None  # the stream is the sample
    by_task = None if config.max_rows_per_task is None else _sample_by_task(source, config.max_rows_per_task)
    if config.max_rows is None:
        return by_task
    places: Sequence[int] = range(num_rows(source)) if by_task is None else by_task
    if config.max_rows >= len(places):
        return by_task
    return sorted(random.Random(SAMPLE_SEED).sample(places, config.max_rows))


def _sample_by_task(source: DataSource, most: int) -> list[int] | None:
    """Samples `most` rows of each task in one pass, by a reservoir for each task (algorithm R); None: all are taken."""
    rng, seen, kept = random.Random(SAMPLE_SEED), dict[str, int](), dict[str, list[int]]()
    for place, task in enumerate(column(source, TASK_FIELD)):
        seen[task] = seen.get(task, 0) + 1
        reservoir = kept.setdefault(task, [])
        if len(reservoir) < most:
            reservoir.append(place)
        elif (drawn := rng.randrange(seen[task])) < most:
            reservoir[drawn] = place
    if max(seen.values(), default=0) <= most:
        return None
    return sorted(place for reservoir in kept.values() for place in reservoir)


def _batches(items: Iterator[Item]) -> Iterator[list[Item]]:
    while batch := list(islice(items, _BATCH_EXAMPLES)):
        yield batch


def _encode(
    batch: list[Item],
    config: DatasetConfig,
    tokenizer: "PreTrainedTokenizerBase",
    skipped: Skipped,
    schema: pa.Schema,
) -> pa.RecordBatch:
    encoded = []
    for (row, example), tokens in zip(batch, encode_examples(batch, config, tokenizer), strict=True):
        if isinstance(tokens, DataError):
            _skip(tokens, config, skipped)
        else:
            encoded.append((*tokens, row.line, example.is_rationale))
    columns = [list(values) for values in zip(*encoded, strict=True)] or [[] for _ in _RATIONALE_SCHEMA]
    order = (0, 1, 2, 5, 3, 4, 6)[: len(schema)]
    arrays = [pa.array(columns[at], type=field.type) for at, field in zip(order, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _encode_labelled(batch: list[Item], config: DatasetConfig, tokenizer: "PreTrainedTokenizerBase") -> pa.RecordBatch:
    """Token ids of labelled examples, without target tokens; the longer text is cut to fit `source_max_tokens`."""
    most = config.source_max_tokens
    ids, num_cut = encode_texts(tokenizer, [(example.input, example.pair) for _, example in batch], most)
    columns = [
        ids,
        [len(tokens) for tokens in ids],
        [len(example.input) + len(example.pair or "") for _, example in batch],
        [row.line for row, _ in batch],
        [count > 0 for count in num_cut],
        [False] * len(batch),
        [label_value(example, row, config) for row, example in batch],
    ]
    arrays = [pa.array(values, type=field.type) for values, field in zip(columns, _LABELLED_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_LABELLED_SCHEMA)


def _write(
    path: Path,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    source: DataSource,
    skipped: Skipped,
    facts: dict[bytes, bytes],
) -> None:
    """Writes under a temporary name and renames; a failure leaves nothing behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{TEMPORARY_SUFFIX}")
    num_examples = 0
    try:
        with temporary.open("xb") as stream:
            with pa.ipc.new_file(stream, schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
                    progressed()
                    num_examples += batch.num_rows
                if skipped.num_rows:
                    facts = facts | {_SKIPPED: str(skipped.num_rows).encode()}
                if facts:
                    writer.write_batch(pa.RecordBatch.from_pylist([], schema=schema), custom_metadata=facts)
            stream.flush()
            os.fsync(stream.fileno())
        if num_examples == 0:
            left_out = f" ({skipped.num_rows} were left out, first: {skipped.first[0]})" if skipped.num_rows else ""
            raise DataError(f"no rows to train on{left_out}", file=", ".join(map(str, source.files)) or source.name)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class EncodedExample(Protocol):
    """What training needs of an example. A labelled one also has `label: float | None` (`TokenizedExample`)."""

    @property
    def input_ids(self) -> "np.ndarray[tuple[int], np.dtype[np.int32]]": ...

    @property
    def num_source(self) -> int: ...


class EncodedExamples(Protocol):
    """Tokenized data: `harness.data.tokens.TokenizedDataset`, or a list of `TokenizedExample`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> EncodedExample: ...
