"""Super-NaturalInstructions: Tk-Instruct's prompt, RougeL by its definition, answers tied to model and rows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from eval.benchmarks.dataset_rows import EvalRows, evaluation_rows
from eval.benchmarks.super_ni.score import exact_match, read_instances, rouge_l, score_super_ni
from eval.benchmarks.super_ni.settings import SuperNiSettings
from harness.banks.load import LoadedBase, load_base
from harness.banks.seq2seq import Seq2SeqBank
from harness.config.choices import dataset_choice
from harness.config.schema import AdapterConfig, DatasetConfig, DType, ModelKind, PathsConfig, QuantConfig, QuantMethod
from harness.data.encoding import source_tokens
from harness.data.formats import super_ni, super_ni_pos2
from harness.data.source import DataSource, locate_dataset
from harness.data.tokens import tokenize_dataset
from harness.models.locate import ModelSource
from tests.lab import write_rows
from tests.tiny_encoders import make_t5, super_ni_rows

PLAIN = QuantConfig(name="fp32", method=QuantMethod.none, compute_dtype=DType.float32)
SHOWN = (
    " Positive Example 1 -\nInput: Say grey.\n Output: grey.\n\n"
    " Positive Example 2 -\nInput: Say white.\n Output: white.\n\n"
)
ASKED = "Now complete the following example -\nInput: Say red.\nOutput: "
DEFINED = "Definition: Repeat the word that you are given.\n\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    folder = make_t5(tmp_path_factory.mktemp("t5"))
    source = ModelSource(kind="folder", location=str(folder), revision="main", max_length=1024)
    loaded = load_base(source, PLAIN, torch.device("cpu"), folder, ModelKind.seq2seq)
    loaded.bank.add_member("a", AdapterConfig(name="lora", lora_r=2, lora_dropout=0.0), seed=0)
    loaded.bank.eval()
    return loaded


@pytest.fixture
def rows(tmp_path: Path) -> EvalRows:
    write_rows(tmp_path / "super_ni" / "test.jsonl", super_ni_rows(6))
    return evaluation_rows(
        dataset_choice("super_ni"), None, None, PathsConfig(data_store=str(tmp_path), cache="unused")
    )


def test_the_prompt_is_tk_instructs() -> None:
    (row,) = super_ni_rows(1)
    (plain,), (shown,) = super_ni(row), super_ni_pos2(row)
    assert plain.input == DEFINED + ASKED
    assert shown.input == DEFINED + SHOWN + ASKED
    assert shown.shorter[-1] == plain.input
    assert plain.output == shown.output == "red"
    ended = super_ni(row | {"inputs": " Say red! ", "definition": "Repeat:"})[0]
    assert ended.input == "Definition: Repeat:\n\n" + ASKED.replace("red.", "red!")
    lone = super_ni_pos2(row | {"pos_1_input": "", "pos_1_output": ""})[0]
    assert lone.input == DEFINED + SHOWN.partition(" Positive Example 2")[0] + ASKED


def test_examples_that_do_not_fit_are_left_out(tmp_path: Path, base: LoadedBase) -> None:
    path = write_rows(tmp_path / "rows.jsonl", super_ni_rows(1))
    (example,) = super_ni_pos2(super_ni_rows(1)[0])
    lengths = [len(source_tokens(text, base.tokenizer)) for text in (example.input, *example.shorter)]
    texts: list[str] = []
    for most in (lengths[0], lengths[0] - 1, lengths[1] - 1):
        config = DatasetConfig(name="x", hub_id="x", format="super_ni_pos2", path=str(path), source_max_tokens=most)
        source = locate_dataset(config, PathsConfig(cache="unused"))
        assert isinstance(source, DataSource)
        data = tokenize_dataset(config, source, base.tokenizer, tmp_path)
        texts.append(str(base.tokenizer.decode(data[0].input_ids[: data[0].num_source].tolist())))
    assert [text.count("Positive Example") for text in texts] == [2, 1, 0]
    assert all(text.endswith("Output: ") for text in texts)


def test_rouge_l_is_the_best_reference_of_the_reference_package() -> None:
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    answer, references = "the cats were running home", ["a dog sleeps", "the cat runs home"]
    expected = max(scorer.score(reference, answer)["rougeL"].fmeasure for reference in references)
    assert rouge_l(answer, references) == expected
    assert rouge_l("running cats", ["run cat"]) == 1.0, "words are stemmed"
    assert rouge_l("the cats home", ["the dog home"]) == pytest.approx(2 / 3), "2 of 3 words in order on both sides"
    assert rouge_l("", ["x"]) == 0.0


def test_exact_match_ignores_case_and_punctuation_only() -> None:
    assert exact_match("  The Answer!", ["no", "the answer"])
    assert not exact_match("answer", ["the answer"])


def test_rows_of_one_id_are_one_instance(rows: EvalRows) -> None:
    found = read_instances(rows, None)
    assert len(found) == 6
    assert [len(instance.references) for instance in found] == [1, 2, 1, 2, 1, 2]
    assert [i.instance_id for i in read_instances(rows, 1)] == ["task000_say_it-0", "task001_say_it-1"]
    assert len(read_instances(rows, 1)[1].references) == 2, "a limit counts instances, not rows"


def test_rows_outside_of_the_test_set_are_passed_over(tmp_path: Path) -> None:
    made = super_ni_rows(4)
    made[0]["eval"] = False
    data = str(write_rows(tmp_path / "mine.jsonl", made))
    rows = evaluation_rows(dataset_choice("super_ni"), data, None, PathsConfig(cache="unused"))
    assert len(read_instances(rows, None)) == 3
    assert rows.split_name == "mine.jsonl"


def test_scores_by_task_and_goes_on_where_it_was_killed(
    base: LoadedBase, rows: EvalRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    generate = Seq2SeqBank.generate

    def counted(self: Seq2SeqBank, sources: Any, max_new_tokens: int) -> list[list[int]]:
        asked.append(len(sources))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return generate(self, sources, max_new_tokens)

    monkeypatch.setattr(Seq2SeqBank, "generate", counted)
    monkeypatch.setattr("eval.benchmarks.super_ni.score.MAX_BATCH", 4)
    settings = SuperNiSettings(max_new_tokens=3)
    with pytest.raises(KeyboardInterrupt):
        score_super_ni(base, "s", "a", rows, settings, partial_dir=tmp_path)
    result = score_super_ni(base, "s", "a", rows, settings, partial_dir=tmp_path)
    assert asked == [4, 2, 2]
    assert (result.n, result.num_tasks, result.split_name) == (6, 2, "test")
    assert result.rouge_l == pytest.approx(sum(p.rouge_l for p in result.predictions) / 6)
    assert {task: score.n for task, score in result.per_task.items()} == {"task000_say_it": 3, "task001_say_it": 3}
    assert score_super_ni(base, "s", "a", rows, settings).predictions == result.predictions, "the same, uninterrupted"
    score_super_ni(base, "s", "a", rows, SuperNiSettings(max_new_tokens=2), partial_dir=tmp_path)
    with torch.no_grad():
        next(iter(base.bank.member_parameters("a").values())).add_(0.01)
    other = score_super_ni(base, "s", "a", rows, settings, partial_dir=tmp_path)
    assert other.model_sha256 != result.model_sha256
    assert len(asked) > 7, "neither other settings nor another adapter reuse answers"
    json.dumps(result.to_json(), allow_nan=False)


def test_a_file_that_may_be_the_training_rows_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "super_ni.jsonl", super_ni_rows(2))
    paths = PathsConfig(data_store=str(tmp_path), cache="unused")
    with pytest.raises(ValueError, match=r"doesn't say that it holds the test split.*call it super_ni/test.jsonl"):
        evaluation_rows(dataset_choice("super_ni"), None, None, paths)
    own = replace(dataset_choice("super_ni"), path=str(tmp_path / "super_ni.jsonl"))
    with pytest.raises(ValueError, match=r"which has no splits: name the rows to score by --data"):
        evaluation_rows(own, None, None, paths)


def test_only_encoder_decoders_are_scored(rows: EvalRows, base: LoadedBase) -> None:
    with pytest.raises(ValueError, match="scores encoder-decoders"):
        score_super_ni(replace(base, bank=torch.nn.Linear(1, 1)), "s", None, rows, SuperNiSettings())  # type: ignore[arg-type]


def test_at_most_so_many_rows_of_each_task(tmp_path: Path, base: LoadedBase) -> None:
    made = super_ni_rows(30, num_tasks=3)
    path = write_rows(tmp_path / "rows.jsonl", made)
    config = DatasetConfig(name="x", hub_id="x", format="super_ni", path=str(path), max_rows_per_task=4)
    source = locate_dataset(config, PathsConfig(cache="unused"))
    assert isinstance(source, DataSource)
    data = tokenize_dataset(config, source, base.tokenizer, tmp_path)
    taken = [made[line - 1]["task_name"] for line in data.lines.tolist()]
    assert {task: taken.count(task) for task in set(taken)} == {f"task00{n}_say_it": 4 for n in range(3)}
    assert data.lines.tolist() == sorted(data.lines.tolist())
    assert len(tokenize_dataset(replace(config, max_rows=5), source, base.tokenizer, tmp_path)) == 5
    assert not data.has_all_rows
    whole = tokenize_dataset(replace(config, max_rows_per_task=99), source, base.tokenizer, tmp_path)
    assert (whole.has_all_rows, len(whole)) == (True, len(made))
