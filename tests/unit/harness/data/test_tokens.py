"""Tokenized datasets: equal to the original collator's rule done with lists, made once, never half of a file."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from harness.config.schema import AssistantTurns, DatasetConfig, PathsConfig, TrainConfig
from harness.data import encoding, tokens
from harness.data.encoding import encode_texts, shorten
from harness.data.fields import Example
from harness.data.rows import DataError
from harness.data.selection.holdout import divided
from harness.data.source import DataSource, locate_dataset, read_rows, row_examples
from harness.data.tokens import (
    EncodedExamples,
    TokenizedDataset,
    TokenizedExample,
    tokenize_dataset,
    tokenizer_fingerprint,
)
from tests.golden.rows.extract import real_file

SAMPLE = ["The cat sat on the mat.", "What colour is the sky?", "Below is an instruction that describes a task."]


def tiny_tokenizer(**specials: str | None) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 tokens, `<s>` and `</s>` among them."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SAMPLE, trainer)
    chosen = {"bos_token": "<s>", "eos_token": "</s>"} | specials
    return PreTrainedTokenizerFast(tokenizer_object=backend, **chosen)  # type: ignore[no-untyped-call]


TOKENIZER = tiny_tokenizer()


def config(**changes: Any) -> DatasetConfig:
    return DatasetConfig(**{"name": "mine", "hub_id": "o/mine", "format": "input_output"} | changes)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def located(settings: DatasetConfig) -> DataSource:
    found = locate_dataset(settings, PathsConfig(cache="unused"))
    assert isinstance(found, DataSource)
    return found


def tokenized(settings: DatasetConfig, cache: Path, **options: Any) -> TokenizedDataset:
    return tokenize_dataset(settings, located(settings), options.pop("tokenizer", TOKENIZER), cache, **options)


def by_collator(settings: DatasetConfig) -> list[tuple[list[int], int]]:
    """`DataCollatorForCausalLM` of artidoro/qlora in lists: (input ids, tokens without loss) an example."""
    expected = []
    for row in read_rows(located(settings)):
        for example in row_examples(row, settings.format):
            source = TOKENIZER("<s>" + example.input, add_special_tokens=False)["input_ids"]
            target = TOKENIZER(example.output + "</s>", add_special_tokens=False)["input_ids"]
            source, target = source[: settings.source_max_tokens], target[: settings.target_max_tokens]
            expected.append((source + target, 0 if settings.train_on_source else len(source)))
    return expected


def assert_equal(dataset: TokenizedDataset, expected: list[tuple[list[int], int]]) -> None:
    assert len(dataset) == len(expected)
    for index, (ids, num_source) in enumerate(expected):
        example = dataset[index]
        assert example.input_ids.dtype == np.int32
        assert example.input_ids.tolist() == ids
        assert example.num_source == num_source
    assert dataset.lengths.tolist() == [len(ids) for ids, _ in expected]
    assert dataset.num_source.tolist() == [num_source for _, num_source in expected]


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(TEXTS, TEXTS.filter(str.strip)), min_size=1, max_size=12),
    limits=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    train_on_source=st.booleans(),
    batch=st.integers(1, 5),
)
def test_equals_the_original_collator(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str]],
    limits: tuple[int, int],
    train_on_source: bool,
    batch: int,
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    path = write(folder / "x.jsonl", [{"input": source, "output": target} for source, target in rows])
    chosen = config(
        path=str(path),
        source_max_tokens=limits[0],
        target_max_tokens=limits[1],
        train_on_source=train_on_source,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "_BATCH_EXAMPLES", batch)
        dataset = tokenized(chosen, folder)
    assert_equal(dataset, by_collator(chosen))
    assert dataset.num_characters.tolist() == [len(source) + len(target) for source, target in rows]
    assert dataset.lines.tolist() == list(range(1, len(rows) + 1))


@pytest.mark.parametrize(
    ("file", "format", "source_max_tokens", "target_max_tokens"),
    [
        ("alpaca.jsonl", "alpaca", 384, 128),
        ("chip2_format_derived.jsonl", "chip2", 384, 128),
        ("self_instruct_repo_t0_prompt_completion.jsonl", "self_instruct", 384, 128),
        ("hh_rlhf.jsonl", "hh_rlhf", 384, 768),
        ("openassistant_guanaco_text_derived.jsonl", "oasst1", 16, 512),
        ("oasst1_qlora_pairs.jsonl", "input_output", 384, 512),
        ("flan_v2_cot.tsv", "flan", 384, 128),
        ("flan_v2_hf_fields_derived.jsonl", "flan", 384, 128),
    ],
)
def test_real_rows_equal_the_original_collator(
    tmp_path: Path, file: str, format: str, source_max_tokens: int, target_max_tokens: int
) -> None:
    chosen = config(
        path=str(real_file(file, tmp_path)),
        format=format,
        source_max_tokens=source_max_tokens,
        target_max_tokens=target_max_tokens,
    )
    assert_equal(tokenized(chosen, tmp_path), by_collator(chosen))


def test_truncation_is_counted_and_takes_eos(tmp_path: Path) -> None:
    rows = [{"input": "x " * 9, "output": "y"}, {"input": "x", "output": "y " * 9}, {"input": "x", "output": "y"}]
    chosen = config(path=str(write(tmp_path / "x.jsonl", rows)), source_max_tokens=4, target_max_tokens=4)
    dataset = tokenized(chosen, tmp_path)
    assert (dataset.num_truncated_sources, dataset.num_truncated_targets) == (1, 1)
    ends = [dataset[index].input_ids[-1] == TOKENIZER.eos_token_id for index in range(3)]
    assert ends == [True, False, True]
    assert dataset[0].input_ids[0] == TOKENIZER.bos_token_id
    assert dataset[0].num_source == 4


def test_several_examples_a_row(tmp_path: Path) -> None:
    instances = [{"instruction_with_input": word, "output": word} for word in ("one", "two")]
    chosen = config(path=str(write(tmp_path / "x.jsonl", [{"instances": instances}] * 2)), format="unnatural")
    dataset = tokenized(chosen, tmp_path)
    assert_equal(dataset, by_collator(chosen))
    assert dataset.lines.tolist() == [1, 1, 2, 2]


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    encode = tokens._encode

    def counted(batch: Any, *others: Any) -> pa.RecordBatch:
        calls.append(len(batch))
        return encode(batch, *others)

    monkeypatch.setattr(tokens, "_encode", counted)
    return calls


ROWS = [{"input": f"question {n}", "output": f"answer {n}", "task_name": "t"} for n in range(7)]


def test_made_once_for_the_same_content_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(monkeypatch)
    cache = tmp_path / "cache"
    first = tokenized(config(path=str(write(tmp_path / "a.jsonl", ROWS))), cache)
    copy = write(tmp_path / "b.jsonl", ROWS)
    again = tokenized(config(path=str(copy), name="another"), cache)
    on_source = tokenized(config(path=str(copy), train_on_source=True), cache)
    assert calls == [7]
    assert first.path == again.path == on_source.path
    assert not on_source.num_source.any()
    assert [path.name for path in cache.iterdir()] == [first.path.name]


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"source_max_tokens": 5}, {}),
        ({"target_max_tokens": 5}, {}),
        ({"max_rows": 3}, {}),
        ({"format": "longform"}, {}),
        ({}, {"tokenizer": tiny_tokenizer(bos_token=None)}),
        ({}, {"empty_targets": "keep"}),
        ({"skip_bad_rows": True}, {}),
        ({"assistant_turns": AssistantTurns.all}, {}),
        ({"max_rows_per_task": 3}, {}),
    ],
)
def test_made_again_for_other_settings(tmp_path: Path, changes: dict[str, Any], options: dict[str, Any]) -> None:
    path = str(write(tmp_path / "a.jsonl", ROWS))
    cache = tmp_path / "cache"
    assert tokenized(config(path=path), cache).path != tokenized(config(path=path, **changes), cache, **options).path


def test_every_setting_that_changes_the_file_names_another(tmp_path: Path) -> None:
    rows = write(tmp_path / "a.jsonl", ROWS)
    source = located(config(path=str(rows)))
    keys = set()
    variants: list[dict[str, Any]] = [
        {},
        *({"source_max_tokens": n} for n in (5, 6)),
        *({"target_max_tokens": n} for n in (5, 6)),
        *({"max_rows": n} for n in (3, 4)),
        *({"max_rows_per_task": n} for n in (3, 4)),
        *({"format": name} for name in ("alpaca", "chat", "super_ni", "classification", "glue_rte")),
        *({"format": "glue_rte", "num_labels": n} for n in (2, 3)),
        *({"format": "glue_rte", "label_names": names} for names in (["a", "b"], ["b", "a"])),
        {"skip_bad_rows": True},
        {"assistant_turns": AssistantTurns.all},
    ]
    for changes in variants:
        keys.add(tokens._cache_key(config(**changes), source, TOKENIZER, "refuse"))
    keys |= {tokens._cache_key(config(), source, TOKENIZER, empty) for empty in ("keep", "drop")}
    templated = [tiny_tokenizer() for _ in range(2)]
    for number, tokenizer in enumerate(templated):
        tokenizer.chat_template = str(number)
        keys.add(tokens._cache_key(config(format="chat"), source, tokenizer, "refuse"))
        assert tokens._cache_key(config(), source, tokenizer, "refuse") in keys, "no template is used there"
    assert len(keys) == len(variants) + 4
    assert tokens._cache_key(config(train_on_source=True), source, TOKENIZER, "refuse") in keys


def test_made_again_for_other_content(tmp_path: Path) -> None:
    path, cache = tmp_path / "a.jsonl", tmp_path / "cache"
    before = tokenized(config(path=str(write(path, ROWS))), cache).path
    assert tokenized(config(path=str(write(path, ROWS[1:]))), cache).path != before


def test_use_leaves_the_fingerprint_alone(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["a", "b c"], truncation=True, max_length=2)
    assert json.loads(tokenizer.backend_tokenizer.to_str())["truncation"] is not None
    assert tokenizer_fingerprint(tokenizer) == before


def test_the_file_is_memory_mapped(tmp_path: Path) -> None:
    dataset = tokenized(config(path=str(write(tmp_path / "a.jsonl", ROWS * 500))), tmp_path)
    before = pa.total_allocated_bytes()
    opened = TokenizedDataset(dataset.path, name="mine")
    ids = [opened[index].input_ids for index in range(len(opened))]
    assert sum(map(len, ids)) == opened.lengths.sum()
    assert not any(array.flags.owndata or array.flags.writeable for array in ids)
    assert pa.total_allocated_bytes() - before < opened.lengths.nbytes * 8  # a few columns of numbers, not the ids


@pytest.mark.parametrize("index", [-1, 7])
def test_no_such_example(tmp_path: Path, index: int) -> None:
    dataset = tokenized(config(path=str(write(tmp_path / "a.jsonl", ROWS))), tmp_path)
    with pytest.raises(IndexError, match=f"example {index} of 7"):
        dataset[index]


def test_a_torn_file_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chosen = config(path=str(write(tmp_path / "a.jsonl", ROWS)))
    path = tokenized(chosen, tmp_path / "cache").path
    whole = path.read_bytes()
    for kept in (0, 5, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:kept])
        assert_equal(tokenized(chosen, tmp_path / "cache"), by_collator(chosen))
        assert path.read_bytes() == whole
    assert caplog.text.count("not whole") == 4


def test_a_failure_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_BATCH_EXAMPLES", 2)
    path = write(tmp_path / "a.jsonl", [*ROWS, {"input": "no output"}])
    with pytest.raises(DataError, match=r"a.jsonl, line 8, field 'output': missing"):
        tokenized(config(path=str(path)), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.data.tokens.os.fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        tokenized(config(path=str(write(tmp_path / "a.jsonl", ROWS))), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_max_rows_is_a_seeded_sample_in_file_order(tmp_path: Path) -> None:
    rows = [{"input": str(n), "output": "x"} for n in range(50)]
    path = write(tmp_path / "a.jsonl", rows)
    dataset = tokenized(config(path=str(path), max_rows=9), tmp_path)
    expected = sorted(random.Random(42).sample(range(50), 9))
    assert dataset.lines.tolist() == [number + 1 for number in expected]
    everything = tokenized(config(path=str(path), max_rows=50), tmp_path)
    assert (dataset.has_all_rows, everything.has_all_rows) == (False, True)
    assert everything.lines.tolist() == list(range(1, 51))


@pytest.mark.parametrize("blank", ["", "  \n"])
def test_an_empty_target_is_refused_kept_or_dropped(tmp_path: Path, blank: str) -> None:
    rows = [ROWS[0], {"prompt": "x", "completion": blank}]
    rows[0] = {"prompt": "x", "completion": "y"}
    chosen = config(path=str(write(tmp_path / "a.jsonl", rows)), format="self_instruct")
    with pytest.raises(DataError, match=r"a.jsonl, line 2, field 'completion': the target is empty"):
        tokenized(chosen, tmp_path)
    assert_equal(tokenized(chosen, tmp_path, empty_targets="keep"), by_collator(chosen))
    assert tokenized(chosen, tmp_path, empty_targets="drop").lines.tolist() == [1]


def test_no_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"empty.jsonl: no rows"):
        tokenized(config(path=str(write(tmp_path / "empty.jsonl", []))), tmp_path)


def test_a_row_longer_than_the_model_takes(tmp_path: Path) -> None:
    rows = [ROWS[0], {"input": "x " * 40, "output": "y"}]
    dataset = tokenized(config(path=str(write(tmp_path / "a.jsonl", rows))), tmp_path)
    dataset.require_fits(int(dataset.lengths.max()))
    with pytest.raises(DataError, match=r"mine, line 2: \d+ tokens, and the model takes 20: lower dataset.source_max"):
        dataset.require_fits(20)


def test_a_tokenizer_without_eos_or_bos(tmp_path: Path) -> None:
    chosen = config(path=str(write(tmp_path / "a.jsonl", ROWS)))
    with pytest.raises(ValueError, match=r"no EOS token.*tokenizer_config.json"):
        tokenized(chosen, tmp_path, tokenizer=tiny_tokenizer(eos_token=None))
    dataset = tokenized(chosen, tmp_path, tokenizer=tiny_tokenizer(bos_token=None))
    assert TOKENIZER.decode(dataset[3].input_ids.tolist()) == "question 3answer 3</s>"


@pytest.mark.parametrize("key", ["source_max_tokens", "target_max_tokens", "max_rows"])
def test_limits_are_positive(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match=f"dataset.{key}=0: must be above 0"):
        tokenized(config(path=str(write(tmp_path / "a.jsonl", ROWS)), **{key: 0}), tmp_path)


@pytest.mark.parametrize(
    ("counts", "notes"),
    [
        ((0, 0, 20), []),
        ((1, 0, 2), ["mine: 1 of 2 inputs were cut"]),
        ((0, 1, 20), ["mine: 1 of 20 targets were cut"]),
        (
            (2, 2, 20),
            [
                "mine: 2 of 20 inputs were cut",
                "mine: 2 of 20 targets were cut (10% lose their end, EOS included): raise dataset.target_max_tokens",
            ],
        ),
    ],
)
def test_what_was_cut_is_said(tmp_path: Path, counts: tuple[int, int, int], notes: list[str]) -> None:
    sources, targets, total = counts
    long, short = "x " * 9, "x"
    rows = [{"input": long if n < sources else short, "output": long if n < targets else short} for n in range(total)]
    chosen = config(path=str(write(tmp_path / "a.jsonl", rows)), source_max_tokens=6, target_max_tokens=6)
    dataset = tokenized(chosen, tmp_path)
    assert (dataset.num_truncated_sources, dataset.num_truncated_targets, len(dataset)) == counts
    assert dataset.notes == notes


def test_source_and_target_may_have_to_fit_apart(tmp_path: Path) -> None:
    rows = [{"input": "x " * 9, "output": "y"}, {"input": "x", "output": "y " * 4}]
    dataset = tokenized(config(path=str(write(tmp_path / "a.jsonl", rows))), tmp_path)
    sides = [
        (int(source), int(length - source)) for source, length in zip(dataset.num_source, dataset.lengths, strict=True)
    ]
    longest = max(max(side) for side in sides)
    assert longest == sides[0][0] > max(sides[1])
    dataset.require_fits(longest, apart=True)
    with pytest.raises(DataError, match=rf"mine, line 1: {longest} tokens.*so that each fits"):
        dataset.require_fits(longest - 1, apart=True)
    dataset.require_fits(sum(sides[0]))
    with pytest.raises(DataError, match=rf"mine, line 1: {sum(sides[0])} tokens.*so that their sum fits"):
        dataset.require_fits(sum(sides[0]) - 1)


def test_some_rows_of_each_task(tmp_path: Path) -> None:
    rows = [{"input": str(n), "output": "x", "task_name": f"t{n % 3 if n < 30 else 3}"} for n in range(31)]
    path = str(write(tmp_path / "a.jsonl", rows))
    lines = tokenized(config(path=path, max_rows_per_task=4), tmp_path).lines.tolist()
    assert lines == sorted(lines)
    by_task = [sum(rows[line - 1]["task_name"] == f"t{task}" for line in lines) for task in range(4)]
    assert by_task == [4, 4, 4, 1]
    assert max(lines[:-1]) > 12, "not the first rows of each"
    assert lines == tokenized(config(path=path, max_rows_per_task=4, max_rows=13), tmp_path).lines.tolist()
    fewer = tokenized(config(path=path, max_rows_per_task=4, max_rows=12), tmp_path).lines.tolist()
    assert len(fewer) == 12
    assert set(fewer) < set(lines)


def test_every_row_of_a_task_is_as_likely() -> None:
    """Algorithm R by hand, with the numbers that are drawn."""
    drawn = random.Random(tokens.SAMPLE_SEED)
    kept = [0, 1]
    for seen in range(3, 41):
        place = drawn.randrange(seen)
        if place < 2:
            kept[place] = seen - 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "column", lambda *_: iter(["t"] * 40))
        source = DataSource(name="x", files=(Path("x"),))
        assert tokens._sample(config(max_rows_per_task=2), source) == sorted(kept)


@pytest.mark.parametrize(("limit", "expected"), [(99, "whole text of it"), (8, "shorter"), (1, "s")])
def test_the_first_input_that_fits(limit: int, expected: str) -> None:
    example = Example("whole text of it", "y", shorter=("a shorter one of them", "shorter", "s"))
    sources = {text: encoding.source_tokens(text, TOKENIZER) for text in (example.input, *example.shorter)}
    assert len(sources["shorter"]) <= 8 < len(sources["a shorter one of them"])
    assert shorten(sources[example.input], example, TOKENIZER, limit) == sources[expected]


def test_texts_of_a_causal_classifier() -> None:
    texts: list[tuple[str, str | None]] = [("abc", None), ("a", "bc")]
    whole, cut = encode_texts(TOKENIZER, texts, 99)
    assert [TOKENIZER.decode(ids) for ids in whole] == ["<s>abc", "<s>a\nbc"]
    assert cut == [0, 0]
    short, cut = encode_texts(TOKENIZER, texts, 3)
    assert short == [ids[:3] for ids in whole]
    assert cut == [len(ids) - 3 for ids in whole]
    assert encode_texts(tiny_tokenizer(bos_token=None), [("abc", None)], 99)[0] == [whole[0][1:]]


def test_first_reasons_and_a_count_of_rows_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [*ROWS[:2], *[{"input": "a", "output": n} for n in range(5)], {"input": "a", "output": " "}]
    chosen = config(path=str(write(tmp_path / "a.jsonl", rows)), skip_bad_rows=True)
    dataset = tokenized(chosen, tmp_path / "cache")
    assert (len(dataset), dataset.num_skipped_rows) == (2, 6)
    said = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in said] == ["left out"] * 3
    assert [f"line {n}" in line for n, line in zip((3, 4, 5), said, strict=True)] == [True] * 3


HELD_ROWS: EncodedExamples = [
    TokenizedExample(input_ids=np.array([number], dtype=np.int32), num_source=0) for number in range(50)
]
HELD_LENGTHS = np.arange(50, dtype=np.int64)


def test_the_rows_left_are_those_that_datasets_leaves() -> None:
    split = Dataset.from_dict({"row": list(range(50))}).train_test_split(test_size=11, shuffle=True, seed=42)
    found = divided(HELD_ROWS, HELD_LENGTHS, TrainConfig(original_eval_carve=11))
    assert rows_of(found.examples) == sorted(split["train"]["row"]) == found.num_characters.tolist()


def test_nothing_is_left_out_by_default() -> None:
    found = divided(HELD_ROWS, HELD_LENGTHS, TrainConfig())
    assert found.examples is HELD_ROWS
    assert found.num_characters is HELD_LENGTHS
    assert found.held_out is None


def test_one_row_at_least_must_be_left() -> None:
    with pytest.raises(ValueError, match=r"train\.original_eval_carve=50: the dataset has 50 rows"):
        divided(HELD_ROWS, HELD_LENGTHS, TrainConfig(original_eval_carve=50))


def rows_of(examples: EncodedExamples | None) -> list[int]:
    assert examples is not None
    return [int(examples[index].input_ids[0]) for index in range(len(examples))]


@pytest.mark.parametrize("carve", [0, 11])
def test_held_out_rows_never_train_and_depend_on_the_data_seed_alone(carve: int) -> None:
    train = TrainConfig(eval_rows=12, original_eval_carve=carve)
    found = divided(HELD_ROWS, HELD_LENGTHS, train)
    held, trains = rows_of(found.held_out), rows_of(found.examples)
    assert len(held) == 12
    assert len(trains) == 50 - carve - 12
    assert not set(held) & set(trains)
    assert found.num_characters.tolist() == trains
    left = rows_of(divided(HELD_ROWS, HELD_LENGTHS, TrainConfig(original_eval_carve=carve)).examples)
    assert sorted(held + trains) == left  # the original's holdout is neither trained nor measured on
    other = dataclasses.replace(train, seed=7, batch_size=3, learning_rate=1e-3, max_steps=5, eval_every_steps=1)
    assert rows_of(divided(HELD_ROWS, HELD_LENGTHS, other).held_out) == held
    reseeded = dataclasses.replace(train, data_seed=1)
    assert rows_of(divided(HELD_ROWS, HELD_LENGTHS, reseeded).held_out) != held


def test_all_examples_of_a_row_are_held_out_together() -> None:
    lines = np.repeat(np.arange(25), 2).astype(np.int64)  # two answers a dialogue
    found = divided(HELD_ROWS, HELD_LENGTHS, TrainConfig(eval_rows=5), lines)
    held = rows_of(found.held_out)
    assert len(held) == 10
    assert {number // 2 for number in held} & {number // 2 for number in rows_of(found.examples)} == set()


def test_rows_that_are_equal_to_a_held_out_one_do_not_train() -> None:
    doubled = [*HELD_ROWS, *HELD_ROWS, dataclasses.replace(HELD_ROWS[0], num_source=1)]
    found = divided(doubled, np.array([*HELD_LENGTHS, *HELD_LENGTHS, 0]), TrainConfig(eval_rows=8))
    held, trains = set(rows_of(found.held_out)), rows_of(found.examples)
    assert found.num_twins == sum(number in held for number in range(50)) - (8 - len(held)) > 0
    others = [number for number in trains if number in held]
    assert others in ([], [0]), "the last row has another target"
    assert len(trains) == len(doubled) - 8 - found.num_twins
    with pytest.raises(ValueError, match=r"train\.eval_rows=1: all other rows are equal"):
        divided([HELD_ROWS[3]] * 4, np.full(4, 3), TrainConfig(eval_rows=1))


@pytest.mark.parametrize(("eval_rows", "carve", "left"), [(50, 0, 50), (99, 0, 50), (39, 11, 39)])
def test_one_row_at_least_must_be_left_beside_the_held_out(eval_rows: int, carve: int, left: int) -> None:
    with pytest.raises(ValueError, match=rf"train\.eval_rows={eval_rows}: there are {left} rows"):
        divided(HELD_ROWS, HELD_LENGTHS, TrainConfig(eval_rows=eval_rows, original_eval_carve=carve))
