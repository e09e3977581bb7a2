"""Benchmarks by hand: intervals, what their tables print, how many tokens a plan counts, which rows go together."""

import gzip
import io
import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.table import Table

from eval.benchmarks.benchmark import cell, hundredfold, percent, result_values, save_results
from eval.benchmarks.dataset_rows import split_problem
from eval.benchmarks.glue import score as glue_score
from eval.benchmarks.glue.class_scores import class_scores, number_scores
from eval.benchmarks.glue.settings import GlueSettings
from eval.benchmarks.intervals import (
    mean_interval,
    mean_score,
    percentile_interval,
    stratified_interval,
    wilson_interval,
)
from eval.benchmarks.mmlu import benchmark as mmlu_benchmark
from eval.benchmarks.mmlu import checkpoints
from eval.benchmarks.mmlu import results as mmlu_results
from eval.benchmarks.mmlu.questions import HUB
from eval.benchmarks.mmlu.settings import MmluSettings, Protocol
from eval.benchmarks.perplexity import score as perplexity
from eval.benchmarks.perplexity.settings import PerplexitySettings
from eval.benchmarks.perplexity.texts import _has, load_documents, source_problem, text_files
from eval.benchmarks.registry import BENCHMARKS
from eval.benchmarks.rouge import score as rouge
from eval.benchmarks.rouge.settings import RougeSettings
from eval.benchmarks.settings import require_at_least
from eval.benchmarks.super_ni import score as super_ni
from eval.benchmarks.super_ni.settings import SuperNiSettings
from eval.benchmarks.tasks import results as tasks_results
from eval.benchmarks.tasks.settings import TasksSettings
from eval.human import store
from eval.ratings import agreement, rate
from eval.ratings.intervals import ratio_interval
from harness.config.choices import dataset_choice
from harness.config.schema import PathsConfig
from harness.runs.estimate import Estimate


def printed(table: Table) -> list[list[str]]:
    """Title, rows and caption, blanks folded."""
    out = io.StringIO()
    Console(file=out, width=200).print(table)
    lines = [
        line.translate(dict.fromkeys(map(ord, "┏┓┗┛━┃│┡┩╇┳┻┴└┘─├┤┼"), " ")) for line in out.getvalue().splitlines()
    ]
    return [line.split() for line in lines if line.split()]


def justified(table: Table) -> list[str]:
    return [f"{column.header}:{column.justify}" for column in table.columns]


def test_intervals_of_shares_by_hand() -> None:
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775328), abs=1e-6)
    assert wilson_interval(10, 10) == pytest.approx((0.7224672, 1.0), abs=1e-6)
    assert wilson_interval(1, 4) == pytest.approx((0.0455873, 0.6993582), abs=1e-6)
    (a, b), (c, d) = wilson_interval(1, 4), wilson_interval(6, 8)
    below, above = np.hypot(0.25 - a, 0.75 - c) / 2, np.hypot(b - 0.25, d - 0.75) / 2
    assert stratified_interval([(1, 4), (6, 8)]) == pytest.approx((0.5 - below, 0.5 + above))
    assert stratified_interval([(4, 4)]) == wilson_interval(4, 4)


def test_intervals_of_means_by_hand() -> None:
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-5)
    assert mean_interval([2.0, 2.0]) is None
    assert mean_interval([1.0]) == wilson_interval(1, 1)
    assert percentile_interval(np.arange(101.0)) == (2.5, 97.5)
    assert percentile_interval(np.array([np.nan, np.inf])) is None
    assert percentile_interval(np.array([3.0, 3.0, np.nan])) is None
    one, two = mean_score([[1.0, 2.0, 3.0]]), mean_score([[1.0], [2.0, 6.0]])
    assert one.value == 2.0
    assert one.ci95 == pytest.approx(mean_interval([1.0, 2.0, 3.0]))
    assert two.value == 3.0


def test_metrics_of_a_known_confusion() -> None:
    """Answers 1 1 1 0 0 2 chosen as 1 1 0 0 2 2."""
    rng = np.random.default_rng(0)
    found = class_scores([1, 1, 1, 0, 0, 2], [1, 1, 0, 0, 2, 2], 3, rng)
    assert found["accuracy"].value == pytest.approx(4 / 6)
    f1 = [2 * 1 / 4, 2 * 2 / 5, 2 * 1 / 3]
    assert found["f1_macro"].value == pytest.approx(sum(f1) / 3)
    assert found["f1_weighted"].value == pytest.approx((2 * f1[0] + 3 * f1[1] + f1[2]) / 6)
    assert found["matthews"].value == pytest.approx((4 * 6 - 12) / ((36 - 14) * (36 - 12)) ** 0.5)
    two = class_scores([1, 1, 0, 0], [1, 0, 0, 0], 2, rng)
    assert two["f1"].value == pytest.approx(2 / 3)
    assert two["matthews"].value == pytest.approx((3 * 4 - 8) / ((16 - 8) * (16 - 10)) ** 0.5)
    assert class_scores([1, 1], [1, 1], 2, rng)["matthews"].value == 0.0
    numbers = number_scores([1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 5.0, 9.0], rng)
    assert numbers["pearson"].value == pytest.approx(np.corrcoef([1, 2, 3, 4], [2, 4, 5, 9])[0, 1])
    assert numbers["spearman"].value == pytest.approx(1.0)


def test_a_share_as_a_percentage_keeps_its_number() -> None:
    estimate = Estimate(value=0.5, low=0.25, high=0.75, n=9)
    assert hundredfold(estimate) == Estimate(value=50.0, low=25.0, high=75.0, n=9)
    assert hundredfold(Estimate(value=None, n=3)) == Estimate(value=None, n=3)
    assert (cell(estimate, 2), cell(Estimate(value=None), 2)) == ("0.50 [0.25, 0.75]", "-")
    assert (percent(estimate), percent(Estimate(value=None))) == ("50.0 [25.0, 75.0]", "not defined")


def test_the_table_of_mmlu() -> None:
    result = SimpleNamespace(
        accuracy_macro=0.5, accuracy_macro_ci95=(0.4, 0.6), accuracy_micro=0.25, accuracy_micro_ci95=None, n=12,
        ece=0.125, ece_ci95=None, brier=0.75, brier_ci95=(0.5, 1.0),
    )  # fmt: skip
    table = BENCHMARKS["mmlu"].table({"sys": result})
    columns = ["mean over subjects", "mean over questions", "ECE", "Brier", "n"]
    assert justified(table) == ["system:left", *(f"{column}:right" for column in columns)]
    assert printed(table)[0] == ["MMLU"]
    assert ["sys", "50.0", "[40.0,", "60.0]", "25.0", "12.5", "0.750", "[0.500,", "1.000]", "12"] in printed(table)
    assert " ".join(printed(table)[-1]).endswith("Brier: 0 is perfect, 2 sure and wrong")
    found = BENCHMARKS["mmlu"].headline(result)
    assert found is not None
    assert (found.metric, found.estimate) == ("accuracy_macro", Estimate(value=0.5, low=0.4, high=0.6, n=12))


def test_the_table_of_perplexity() -> None:
    result = SimpleNamespace(
        text="pile", num_documents=7, num_tokens=99, window=512, stride=256, word_perplexity=12.345,
        token_perplexity=5.0, token_perplexity_ci95=(4.0, 6.0), bits_per_byte=0.5, bits_per_byte_ci95=None,
    )  # fmt: skip
    table = BENCHMARKS["perplexity"].table({"sys": result})
    assert justified(table) == ["system:left", "by token:right", "bits per byte:right", "by word:right"]
    assert " ".join(printed(table)[0]) == "Perplexity of pile: 7 documents, 99 tokens"
    assert printed(table)[-2] == ["sys", "5.000", "[4.000,", "6.000]", "0.5000", "12.35"]
    assert " ".join(printed(table)[-1]) == "window 512, stride 256; 95 % intervals over documents"
    found = BENCHMARKS["perplexity"].headline(result)
    assert found is not None
    assert (found.metric, found.estimate) == ("token_perplexity", Estimate(value=5.0, low=4.0, high=6.0, n=7))


def glue(task: str, score: float | None) -> Any:
    metrics = {"f1": Estimate(value=score), "accuracy": Estimate(value=0.25)}
    return SimpleNamespace(
        official=("f1", "accuracy"), metrics=metrics, task=task, split_name="validation", n=4, score=score,
        score_name="f1", score_ci95=None,
    )  # fmt: skip


def test_the_table_of_glue_has_a_mean_where_each_system_is_another_task() -> None:
    benchmark = BENCHMARKS["glue"]
    table = benchmark.table({"a": glue("mrpc", 0.5), "b": glue("rte", 0.75)})
    rows = ["system:left", "task:left", "split:left", "score:right", "other:left", "n:right"]
    assert justified(table) == rows
    assert " ".join(printed(table)[0]) == "GLUE and other rows with labels"
    assert ["a", "mrpc", "validation", "f1", "50.0", "accuracy", "25.0", "4"] in printed(table)
    assert ["mean", "over", "2", "tasks", "62.5"] in printed(table)
    assert printed(table)[-1] == ["95", "%", "intervals"]
    for results in (
        {"a": glue("mrpc", 0.5), "b": glue("mrpc", 0.5)},
        {"a": glue("x", 0.5)},
        {"a": glue("x", None), "b": glue("y", 1)},
    ):
        assert not any("mean" in row for row in printed(benchmark.table(results)))


def test_the_table_of_super_natural_instructions() -> None:
    result = SimpleNamespace(
        rouge_l=0.5, rouge_l_ci95=(0.4, 0.6), rouge_l_macro=0.25, exact_match=0.125, split_name="test", num_tasks=3, n=9
    )
    table = BENCHMARKS["super_ni"].table({"sys": result})
    assert [name.partition(":")[2] for name in justified(table)] == ["left", "left", *["right"] * 5]
    assert printed(table)[-2] == ["sys", "test", "50.0", "[40.0,", "60.0]", "25.0", "12.5", "3", "9"]
    assert printed(table)[-1] == ["95", "%", "intervals", "over", "tasks"]
    options = {"limit_per_task": 0, "max_new_tokens": 7}
    assert BENCHMARKS["super_ni"].settings_of_options(options).limit_per_task is None
    assert BENCHMARKS["super_ni"].settings_of_options(options | {"limit_per_task": 5}).limit_per_task == 5


def test_the_table_of_tasks_has_the_categories_of_crows_pairs() -> None:
    crows = SimpleNamespace(
        categories={"Age": Estimate(value=61.25, n=5)},
        average_of_categories=60.0,
        average_of_pairs=Estimate(value=59.0, low=50.0, high=68.0, n=8),
    )
    scores = {
        "piqa": SimpleNamespace(
            metrics={"acc": Estimate(value=0.5, n=4), "acc_norm": Estimate(value=0.75)},
            higher_is_better={},
            crows_pairs=None,
        ),
        "crows": SimpleNamespace(metrics={"pct": Estimate(value=0.25, n=8)}, higher_is_better={}, crows_pairs=crows),
    }
    result = SimpleNamespace(tasks=scores)
    table = BENCHMARKS["tasks"].table({"sys": result})
    assert justified(table) == ["system:left", "task:left", "metric:left", "value:right", "n:right"]
    assert [row[1:] for row in printed(table) if row[0] == "sys"] == [
        ["piqa", "acc", "0.5000", "4"],
        ["piqa", "acc_norm", "0.7500"],
        ["crows", "pct", "0.2500", "8"],
        ["crows", "Age", "61.2", "5"],
        ["crows", "Average", "of", "categories", "60.0"],
        ["crows", "Average", "of", "pairs", "59.0", "[50.0,", "68.0]", "8"],
    ]
    assert " ".join(printed(table)[-1]) == "95 % intervals; CrowS-Pairs rows in percent, as Table 8"
    found = BENCHMARKS["tasks"].headline(result)
    assert found is not None
    assert (found.metric, found.estimate) == ("mean_over_tasks", Estimate(value=0.375, n=2))
    assert BENCHMARKS["tasks"].headline(SimpleNamespace(tasks={})) is None


def test_the_headline_of_tasks_leaves_out_what_is_better_if_less() -> None:
    benchmark = BENCHMARKS["tasks"]
    perplexity = {"perplexity": Estimate(value=900.0)}
    lambada = SimpleNamespace(
        metrics=perplexity | {"acc": Estimate(value=0.25)}, higher_is_better={"perplexity": False, "acc": True}
    )
    wikitext = SimpleNamespace(metrics=perplexity, higher_is_better={"perplexity": False})
    piqa = SimpleNamespace(metrics={"acc": Estimate(value=0.75)}, higher_is_better={"acc": True})
    result = SimpleNamespace(tasks={"lambada": lambada, "piqa": piqa, "wikitext": wikitext}, to_json=dict)
    assert benchmark.summary(result)["mean_over_tasks"] == 0.5
    assert result_values(benchmark, result)["headline"]["n"] == 2
    alone = SimpleNamespace(tasks={"wikitext": wikitext}, to_json=dict)
    shown = result_values(benchmark, alone)["headline"]
    assert (shown["value"], shown["higher_is_better"]) == (900.0, False)
    assert benchmark.summary(alone) == {"wikitext": 900.0}  # a search that looks for the highest one finds none


def test_results_are_saved_alone_or_in_a_folder_each(tmp_path: Path) -> None:
    benchmark = BENCHMARKS["tasks"]
    result = SimpleNamespace(
        tasks={"piqa": SimpleNamespace(metrics={"acc": Estimate(value=0.5)}, higher_is_better={})},
        to_json=lambda: {"a": 1},
    )
    headline = {"metric": "mean_over_tasks", "value": 0.5, "ci95": None, "n": 1, "higher_is_better": True}
    assert result_values(benchmark, result) == {"a": 1, "headline": headline}
    bare = SimpleNamespace(tasks={}, to_json=lambda: {"a": 1})
    assert result_values(benchmark, bare) == {"a": 1}
    save_results(benchmark, {"x": bare}, tmp_path / "one")
    save_results(benchmark, {"x": bare, "y": bare}, tmp_path / "two")
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json"))
    assert files == ["one/tasks.json", "two/x/tasks.json", "two/y/tasks.json"]
    assert json.loads((tmp_path / "one" / "tasks.json").read_text()) == {"a": 1}


def question(words: str) -> dict[str, Any]:
    return {"subject": "law", "question": words, "choices": ["a", "b", "c", "d"], "answer": 0}


def test_a_plan_counts_the_bytes_of_what_mmlu_asks(tmp_path: Path) -> None:
    paths = PathsConfig()

    def tokens(**settings: Any) -> int | None:
        return BENCHMARKS["mmlu"].num_tokens(MmluSettings(**settings), paths, None, None)

    asked, shots = tmp_path / "asked.jsonl", tmp_path / "shots.jsonl"
    asked.write_text("".join(json.dumps(question("x" * 96)) + "\n" for _ in range(4)))
    shots.write_text("".join(json.dumps(question("y" * 36)) + "\n" for _ in range(5)))
    local = {"questions": str(asked), "shots_file": str(shots)}
    assert tokens(**local) == (4 * 100 + 5 * 40) // 4
    assert tokens(**local, num_shots=0) == 100
    assert tokens(**local, num_shots=2, limit=3) == (300 + 80) // 4
    assert tokens(**local, num_shots=2, limit_per_subject=1) == (100 + 80) // 4
    assert tokens(questions=str(tmp_path / "none.jsonl"), shots_file=str(shots)) is None
    hub = {"questions": f"{HUB}test", "shots_file": f"{HUB}dev"}
    assert tokens(**hub) == 445 * (14_042 + 285) // 4
    assert tokens(**hub, limit=100, num_shots=2) == 445 * (100 + 2 * 57) // 4
    assert tokens(**hub, limit_per_subject=1, num_shots=0) == 445 * 57 // 4
    assert tokens(questions=f"{HUB}other", shots_file=f"{HUB}dev") is None


def test_mmlu_without_shots_of_ones_own() -> None:
    chosen = BENCHMARKS["mmlu"].settings_of_options
    assert chosen({"questions": "embedded", "shots_file": None}).shots_file == "embedded"
    assert chosen({"questions": "mine.jsonl", "shots_file": ""}).shots_file == f"{HUB}dev"
    assert chosen({"questions": "mine.jsonl", "shots_file": "x"}).shots_file == "x"


def test_what_mmlu_can_not_ask_is_said_by_key(tmp_path: Path) -> None:
    asked, shots = tmp_path / "asked.jsonl", tmp_path / "shots.jsonl"
    asked.write_text(json.dumps(question("x")) + "\n")
    shots.write_text(json.dumps(question("y")) + "\n")
    local = {"questions": str(asked), "shots_file": str(shots)}
    assert mmlu_benchmark.mmlu_problems(MmluSettings(**local, num_shots=1), "eval.mmlu.") == []
    (few,) = mmlu_benchmark.mmlu_problems(MmluSettings(**local, num_shots=2), "eval.mmlu.")
    assert few.startswith("eval.mmlu.num_shots: ")
    missing = local | {"shots_file": str(tmp_path / "none")}
    (absent,) = mmlu_benchmark.mmlu_problems(MmluSettings(**missing), "k.")
    assert absent.startswith("k.shots_file: ")
    assert mmlu_benchmark.mmlu_problems(MmluSettings(**missing, num_shots=0), "k.") == []


def test_a_plan_counts_a_token_once_for_each_window_it_is_in(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("x" * 400)

    def tokens(**settings: Any) -> int | None:
        made = PerplexitySettings(text=settings.pop("text", str(file)), **settings)
        return BENCHMARKS["perplexity"].num_tokens(made, PathsConfig(), None, None)

    assert tokens() == 100
    assert tokens(window=64, stride=16) == 400
    assert tokens(window=64, stride=64) == 100
    assert tokens(text=str(tmp_path / "none.txt")) is None


def test_a_row_is_chosen_by_a_field_in_a_field() -> None:
    row = {"meta": {"name": "cc", "n": 1}, "flat": "x"}
    assert _has(row, "meta.name", "cc")
    assert _has(row, "meta.n", "1")
    assert not any(_has(row, *pair) for pair in (("meta.name", "c4"), ("meta.x", "cc"), ("flat.x", "x"), ("no", "x")))


def test_packed_lines_are_read_across_blocks_and_faults_are_named(tmp_path: Path) -> None:
    file = tmp_path / "pile.jsonl.gz"
    texts = ["a" * (1 << 20), "b", "c" * 3]
    with gzip.open(file, "wt") as stream:
        stream.write("\n\n".join(json.dumps({"text": text}) for text in texts))
    assert load_documents(PerplexitySettings(text=str(file)).source, PathsConfig()) == texts
    with gzip.open(file, "wt") as stream:
        stream.write("[1]\n")
    with pytest.raises(ValueError, match="expected an object a line"):
        load_documents(PerplexitySettings(text=str(file)).source, PathsConfig())
    file.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"pile.jsonl.gz: can't be unpacked into JSON lines .*; fetch the file again"):
        load_documents(PerplexitySettings(text=str(file)).source, PathsConfig())


def test_where_a_text_is_looked_for(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text("x")
    assert [path.name for path in text_files(str(tmp_path), None)] == ["a.txt", "b.txt"]
    assert text_files(str(tmp_path / "none"), None) == text_files(f"{HUB}x:y", None) == []
    assert source_problem("hub:wikitext:test", None) is None
    for where in ("hub:wikitext", "hub:a::b", "hub:a:b:c:d"):
        assert "expected hub:ID:SPLIT or hub:ID:SUBSET:SPLIT" in str(source_problem(where, None))
    assert str(source_problem(str(tmp_path / "c.md"), None)).startswith(f"{tmp_path / 'c.md'}: unknown kind of file")
    assert source_problem(str(tmp_path), None) is None


def test_benchmarks_ask_as_the_docs_say_where_nothing_else_is_said() -> None:
    asked = [MmluSettings(), PerplexitySettings(text="t"), TasksSettings(names=["a"]), GlueSettings()]
    assert [asdict(settings) for settings in [*asked, SuperNiSettings(), RougeSettings()]] == [
        {
            "questions": "embedded", "shots_file": "embedded", "num_shots": 5, "limit_per_subject": None,
            "protocol": Protocol.lm_eval, "chat": False, "limit": None, "split_name": "", "row_tokens": None,
        },
        {
            "text": "t", "window": None, "stride": None, "limit": None, "field": "text", "only": "", "joined": False,
            "row_tokens": None,
        },
        {
            "names": ["a"], "num_fewshot": None, "limit": None, "folder": None, "chat": False, "max_gen_toks": None,
            "seed": 0, "row_tokens": None,
        },
        {"data": None, "limit": None},
        {"data": None, "limit_per_task": 100, "max_new_tokens": 128},
        {"limit": None, "max_new_tokens": 256},
    ]  # fmt: skip


def test_files_of_results_have_the_version_that_readers_know() -> None:
    """Who changes a file's fields raises its version, here too, and says what readers do with older ones."""
    results = (checkpoints.CheckpointsResult, mmlu_results.MmluResult, perplexity.PerplexityResult)
    results += (tasks_results.TasksResult, glue_score.GlueResult, super_ni.SuperNiResult, rouge.RougeResult)
    assert {field.default for kind in results for field in fields(kind) if field.name == "schema_version"} == {1}
    assert (agreement.SCHEMA_VERSION, rate.SCHEMA_VERSION, store.SCHEMA_VERSION) == (1, 1, 2)


def test_a_held_out_split_is_another_than_the_trained_one() -> None:
    dataset = dataset_choice("glue_sst2")
    assert split_problem(dataset) is None
    same = split_problem(replace(dataset, eval_split=dataset.split))
    assert same is not None
    assert same.startswith("train.eval_source=split: dataset.eval_split=train is the split that glue_sst2 trains on")
    of_file = split_problem(replace(dataset, path="x.jsonl"))
    assert of_file is not None
    assert "glue_sst2 is the file x.jsonl, which has no splits" in of_file


def test_checkpoints_are_named_by_their_steps() -> None:
    assert checkpoints._steps("200, 100,200") == [100, 200]
    for wrong in ("", "a", "100,", "1.5"):
        with pytest.raises(ValueError, match=f"--checkpoints {wrong}: expected all, last, or steps with commas"):
            checkpoints._steps(wrong)


def test_a_folder_of_tasks_has_to_be_there(tmp_path: Path) -> None:
    def problems(folder: Path | None) -> list[str]:
        chosen = TasksSettings(names=["a"], folder=None if folder is None else str(folder))
        return [line for line in BENCHMARKS["tasks"].problems(chosen, PathsConfig(), "k.") if "folder" in line]

    assert problems(None) == problems(tmp_path) == []
    assert problems(tmp_path / "none") == [f"k.folder={tmp_path / 'none'}: no such folder"]


def test_the_longest_sources_are_answered_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(super_ni, "MAX_BATCH", 2)
    bank: Any = SimpleNamespace(device=torch.device("cpu"), generate=lambda sources, most: [[len(s)] for s in sources])
    sources = [[0] * size for size in (2, 5, 3, 4)]
    assert list(super_ni._generate(bank, sources, [0, 1, 3], 9)) == [([1, 3], [[5], [4]]), ([0], [[2]])]

    def cramped(sources: Any, most: int) -> Any:
        if len(sources) > room:
            raise torch.OutOfMemoryError("no room")
        return [[len(s)] for s in sources]

    bank.generate, room = cramped, 1
    assert list(super_ni._generate(bank, sources, [0, 1], 9)) == [([1], [[5]]), ([0], [[2]])]
    room = 0
    with pytest.raises(torch.OutOfMemoryError, match="too few for one source with its answer"):
        list(super_ni._generate(bank, sources, [0], 9))


def test_a_number_may_be_the_least_or_unset() -> None:
    settings = SimpleNamespace(a=1, b=None, c=0)
    require_at_least(settings, 1, "a", "b")
    with pytest.raises(ValueError, match="c=0: expected 1 or more, or leave it out"):
        require_at_least(settings, 1, "a", "b", "c")


def test_a_batch_of_sources_is_bounded_by_its_padded_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(super_ni, "MAX_BATCH", 8)
    monkeypatch.setattr(super_ni, "MAX_BATCH_TOKENS", 32)
    sources = [[0] * length for length in (10, 4, 4, 1, 0)]
    assert super_ni._next_batch([0, 1, 2, 3], sources, 8) == [0, 1, 2]
    assert super_ni._next_batch([1, 2, 3, 4], sources, 8) == [1, 2, 3, 4]
    assert super_ni._next_batch([1, 2, 3, 4], sources, 4) == [1, 2, 3, 4]
    assert super_ni._next_batch([1, 2, 3, 4], sources, 2) == [1, 2]
    assert super_ni._next_batch([0, 1], sources, 1) == [0]
    assert super_ni._next_batch([4, 3], sources, 1) == [4]


def test_documents_without_a_token_are_refused_and_others_counted_by_hand() -> None:
    """Two documents of two tokens and one, whose log-probabilities are -1, and -3."""

    def result(documents: list[str], cut: list[list[tuple[list[int], int]]], logprobs: dict[int, float]) -> Any:
        return perplexity._result("sys", documents, cut, logprobs, "text", 8, 4, "s", "m")

    with pytest.raises(ValueError, match="text: its documents hold no token"):
        result([""], [[([1], 1)]], {0: 0.0})
    found = result(["a b", "c"], [[([0, 1, 2], 1)], [([0, 1], 1)]], {0: -1.0, 1: -3.0})
    assert (found.num_tokens, found.num_documents) == (3, 2)
    assert found.token_perplexity == pytest.approx(np.exp(4 / 3))
    assert found.bits_per_byte == pytest.approx(4 / np.log(2) / 4)
    nats = ratio_interval(np.array([1.0, 3.0]), np.array([3.0, 1.0]))
    assert nats is not None
    assert found.bits_per_byte_ci95 == pytest.approx([bound / np.log(2) for bound in nats])
    assert found.word_perplexity == pytest.approx(np.exp(4 / 3))
