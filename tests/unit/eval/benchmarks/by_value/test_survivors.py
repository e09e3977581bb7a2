"""Values of benchmarks that other tests run past: defaults, what is handed on, draws, questions, checkpoints, tasks."""

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from eval.benchmarks import held_out_rows
from eval.benchmarks.answers import AnswersSettings
from eval.benchmarks.benchmark import BYTES_A_TOKEN, QuestionScores
from eval.benchmarks.changes import changes_from, front
from eval.benchmarks.glue import class_scores
from eval.benchmarks.glue import score as glue_score
from eval.benchmarks.glue.settings import GlueSettings
from eval.benchmarks.mmlu import benchmark as mmlu_benchmark
from eval.benchmarks.mmlu import calibration, checkpoints, prompts, results
from eval.benchmarks.mmlu import score as mmlu_score
from eval.benchmarks.mmlu.questions import HUB, Question, Role, load_questions
from eval.benchmarks.mmlu.settings import MmluSettings, Protocol
from eval.benchmarks.perplexity.settings import PerplexitySettings
from eval.benchmarks.perplexity.texts import TextSource
from eval.benchmarks.registry import BENCHMARKS, eval_config
from eval.benchmarks.replicates import (
    Components,
    Source,
    Spreads,
    _as_wide_as_exact,
    _cochran,
    _least_spread,
    _rest,
    detectable,
    detectable_by,
)
from eval.benchmarks.rouge.settings import RougeSettings
from eval.benchmarks.super_ni import score as super_ni
from eval.benchmarks.super_ni.settings import SuperNiSettings
from eval.benchmarks.tasks import classes
from eval.benchmarks.tasks import results as task_results
from eval.benchmarks.tasks import score as tasks
from eval.benchmarks.tasks.settings import ZERO_SHOT, TasksSettings
from harness.banks.seq2seq import Seq2SeqBank
from harness.config.schema import AdapterMethod, ModelKind, PathsConfig
from harness.runs.estimate import Estimate
from tests.tiny import make_tokenizer


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


def test_knowing_the_benchmarks_loads_no_torch() -> None:
    code = "import sys, eval.benchmarks.registry; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("kind", "later", "no_identity", "required", "options"),
    [
        (AnswersSettings, {"prompt_format"}, set(), set(), {}),
        (GlueSettings, set(), set(), set(), {}),
        (MmluSettings, {"protocol", "chat", "limit", "split_name"}, {"row_tokens"}, set(), {"shots_file": "--shots"}),
        (PerplexitySettings, {"field", "only", "joined"}, {"row_tokens"}, {"text"}, {}),
        (RougeSettings, set(), set(), set(), {}),
        (SuperNiSettings, set(), set(), set(), {}),
        (
            TasksSettings, {"chat", "max_gen_toks", "seed"}, {"row_tokens"}, {"names"},
            {"names": "--tasks", "folder": "--task-folder"},
        ),
    ],
)  # fmt: skip
def test_which_settings_a_job_of_earlier_days_had(
    kind: Any, later: set[str], no_identity: set[str], required: set[str], options: dict[str, str]
) -> None:
    known = {one.name: one.metadata for one in fields(kind)}
    assert {name for name, facts in known.items() if "identity_since" in facts} == later
    assert all(known[name]["identity_since"] == kind.__dataclass_fields__[name].default for name in later)
    assert {name for name, facts in known.items() if not facts["identity"]} == no_identity
    assert {name for name, facts in known.items() if facts["is_required"]} == required
    assert {name: facts["option"] for name, facts in known.items() if facts["option"]} == options
    assert {name: facts["option_default"] for name, facts in known.items() if facts["option_default"] is not None} == (
        {"shots_file": ""} if kind is MmluSettings else {}
    )


def test_settings_are_named_and_the_config_takes_no_other() -> None:
    config: Any = eval_config()()
    assert not hasattr(config, "__dict__")
    with pytest.raises(TypeError, match="positional"):
        eval_config()(["mmlu"])  # type: ignore[misc]
    source = PerplexitySettings(text="t", field="f", only="k=v", joined=True, limit=3).source
    assert source == TextSource(where="t", field="f", only="k=v", joined=True, limit=3)
    assert TasksSettings().names == list(ZERO_SHOT)
    assert BYTES_A_TOKEN == 4
    assert mmlu_benchmark.HUB_QUESTIONS == {"hub:test": 14_042, "hub:validation": 1_531, "hub:dev": 285}
    assert (results.SCHEMA_VERSION, super_ni.MAX_BATCH_TOKENS, super_ni.MAX_BATCH) == (1, 16_384, 64)


ROW = {"rouge_l": 0.5, "exact_match": True, "answer": "said", "reference": "right", "name": "n", "task": "t"}

TASK_ROW = {"doc_id": 3, "metrics": {"acc": 1.0}, "responses": ["r"], "target": "y"}


@pytest.mark.parametrize(
    ("name", "values", "found"),
    [
        (
            "mmlu",
            {"predictions": [{"subject": "law", "index": 4, "choice": 1, "answer": 2}]},
            [("accuracy", "share", True, ["law 4"], [0.0], ["law"], None, "", ["B"], [["C"]])],
        ),
        (
            "glue",
            {"num_labels": 2, "predictions": [{"line": 3, "choice": 1.0, "answer": 1.0}]},
            [("accuracy", "share", True, ["row 3"], [1.0], None, None, "", ["1"], [["1"]])],
        ),
        (
            "glue",
            {"num_labels": 1, "predictions": [{"line": 3, "choice": 1.5, "answer": 4.0}]},
            [("squared_error", "", False, ["row 3"], [6.25], None, None, "", ["1.5"], [["4"]])],
        ),
        (
            "super_ni",
            {"predictions": [ROW | {"instance_id": "i"}]},
            [
                ("rouge_l", "share", True, ["t i"], [0.5], ["t"], None, "", ["said"], None),
                ("exact_match", "share", True, ["t i"], [1.0], ["t"], None, "", ["said"], None),
            ],
        ),
        (
            "rouge",
            {"predictions": [ROW]},
            [
                ("rouge_l", "share", True, ["n"], [0.5], None, None, "", ["said"], [["right"]]),
                ("exact_match", "share", True, ["n"], [1.0], None, None, "", ["said"], [["right"]]),
            ],
        ),
        (
            "perplexity",
            {"documents": [{"nll": 6.0, "num_tokens": 4}]},
            [("nll_per_token", "nats a token", False, ["document 0"], [1.5], None, [4.0], "", None, None)],
        ),
        (
            "tasks",
            {"tasks": {"p": {"predictions": [TASK_ROW]}}},
            [("acc", "", True, ["document 3"], [1.0], None, None, "p", ["r"], [["y"]])],
        ),
    ],
)  # fmt: skip
def test_what_a_result_says_of_each_question(name: str, values: dict[str, Any], found: list[tuple[Any, ...]]) -> None:
    keys = (
        "metric",
        "unit",
        "higher_is_better",
        "names",
        "values",
        "categories",
        "weights",
        "part",
        "given",
        "expected",
    )
    said = list(BENCHMARKS[name].by_question(values))
    assert said == [QuestionScores(**dict(zip(keys, one, strict=True))) for one in found]


@pytest.mark.parametrize(
    ("name", "result", "metric", "estimate"),
    [
        ("glue", made(score_name="f1", score=0.5, score_ci95=(0.4, 0.6), n=9), "f1", 9),
        ("super_ni", made(rouge_l=0.5, rouge_l_ci95=(0.4, 0.6), n=9), "rouge_l", 9),
        ("rouge", made(rouge_l=0.5, rouge_l_ci95=(0.4, 0.6), n=9), "rouge_l", 9),
        (
            "perplexity",
            made(token_perplexity=0.5, token_perplexity_ci95=(0.4, 0.6), num_documents=9),
            "token_perplexity",
            9,
        ),
    ],
)
def test_the_one_number_of_a_result(name: str, result: Any, metric: str, estimate: int) -> None:
    found = BENCHMARKS[name].headline(result)
    assert found is not None
    assert (found.metric, found.estimate) == (metric, Estimate(value=0.5, low=0.4, high=0.6, n=estimate))
    assert BENCHMARKS[name].summary(result) == {BENCHMARKS[name].headline_key: 0.5}


@pytest.mark.parametrize("name", ["mmlu", "glue", "super_ni", "rouge", "tasks"])
def test_titles_of_tables_are_on_the_left(name: str) -> None:
    table = BENCHMARKS[name].table({})
    assert table.title_justify == "left"
    assert "95 % intervals" in str(table.caption)


def test_problems_and_files_of_what_mmlu_and_perplexity_read(tmp_path: Path) -> None:
    paths, mmlu, perplexity = PathsConfig(), BENCHMARKS["mmlu"], BENCHMARKS["perplexity"]
    none = str(tmp_path / "none.jsonl")
    assert mmlu.problems(MmluSettings(), paths, "k.") == []
    (problem,) = mmlu.problems(MmluSettings(questions=f"{HUB}test", shots_file=none), paths, "k.")
    assert problem.startswith(f"k.shots_file: {none}: no such file")
    first, second = mmlu.problems(MmluSettings(questions=none, shots_file=none), paths, "k.")
    assert (first.split(":")[0], second.split(":")[0]) == ("k.questions", "k.shots_file")
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"subject": "law", "question": "x" * 99, "choices": list("abcd"), "answer": 0}) + "\n")
    settings = MmluSettings(questions=str(asked), shots_file=f"{HUB}dev", num_shots=0)
    assert mmlu.files(settings) == {"questions": [asked], "shots_file": []}
    assert mmlu.num_tokens(settings, paths, None, None) == 103 // 4
    assert perplexity.problems(PerplexitySettings(text=str(asked)), paths, "k.") == []
    (problem,) = perplexity.problems(PerplexitySettings(text=str(tmp_path / "x")), paths, "k.")
    assert problem.startswith(f"k.text: {tmp_path / 'x'}: ")
    assert perplexity.files(PerplexitySettings(text=str(asked))) == {"text": [asked]}


@pytest.mark.parametrize("given", [None, "lm-eval is not installed"])
def test_problems_of_tasks_say_that_lm_eval_is_missing(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_results, "missing_lm_eval", lambda: given)
    found = BENCHMARKS["tasks"].problems(TasksSettings(names=["a"]), PathsConfig(), "k.")
    assert found == ([] if given is None else [f"tasks: {given}"])


def test_a_systems_own_values_decide_the_front_whatever_their_scale() -> None:
    class One(type(BENCHMARKS["glue"])):  # type: ignore[misc]
        def by_question(self, values: Any) -> Any:
            yield QuestionScores(metric="m", unit="", higher_is_better=False, names=["a", "b"], values=values["v"])

    changes = changes_from(One(), ("base", {"v": [1.0, 2.0]}), {"s": {"v": [2.0, 4.0]}, "t": {"v": [0.0, 1.0]}})
    assert [(c.before, c.after, c.change.value, c.change.n) for c in changes] == [
        (1.5, 3.0, 1.5, 2),
        (1.5, 0.5, -1.0, 2),
    ]
    assert front(changes) == ["t"]


def test_letters_of_very_unlikely_texts_have_probabilities() -> None:
    found = calibration.letter_probabilities([[-2000.0] * 4, [-2000.0, -2000.0, -9000.0, -9000.0]])
    assert found.tolist() == [[0.25] * 4, [0.5, 0.5, 0.0, 0.0]]


def test_resamples_come_in_parts_that_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def multinomial(n: int, shares: Any, size: int) -> Any:
        sizes.append(size)
        return np.ones((size, n))

    def integers(n: int, size: tuple[int, int]) -> Any:
        sizes.append(size[0])
        return np.tile(np.arange(n), (size[0], 1))

    rng: Any = made(multinomial=multinomial, integers=integers)
    monkeypatch.setattr(calibration, "_AT_ONCE", 1000)
    ece, brier = calibration._resampled(np.array([[0.5, 0.0], [0.0, -0.5], [0.0, 0.0]]), np.array([0.0, 1.0, 2.0]), rng)
    assert (sizes, len(ece), set(brier)) == ([333, 333, 333, 1], 1000, {1.0})
    assert ece[0] == pytest.approx(1 / 3)
    sizes.clear()
    monkeypatch.setattr(class_scores, "_RESAMPLED_AT_ONCE", 1000)
    class_scores.number_scores([1.0, 2.0, 3.0], [1.0, 3.0, 2.0], rng)
    assert sizes == [333, 333, 333, 1]
    assert (calibration.NUM_BINS, calibration.NUM_RESAMPLES, class_scores.NUM_RESAMPLES) == (15, 1000, 1000)


QUESTION = Question(subject="law", question="Which?", choices=("a", "b", "c", "d"), answer=0)


def test_a_question_that_fits_nowhere_is_named_with_its_length(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    alone = len(prompts.encode_prompt(tokenizer, Protocol.hendrycks, [], QUESTION, 10_000).tokens)
    with pytest.raises(ValueError, match=f"'Which.'... has {alone} tokens without any example; {alone - 1} fit"):
        prompts.encode_prompt(tokenizer, Protocol.hendrycks, [QUESTION] * 3, QUESTION, alone - 1)
    data = mmlu_score.MmluSet(indices=(4,), questions=(QUESTION,), shots={"law": ()}, sha256="s")
    base: Any = made(tokenizer=tokenizer, max_length=3)
    with pytest.raises(ValueError, match=r"^embedded, question 5: subject law: .* has"):
        mmlu_score.encode_set(base, data, MmluSettings(protocol=Protocol.hendrycks))


def test_a_beginning_of_text_is_written_once() -> None:
    asked: list[bool] = []

    def encode(text: str, add_special_tokens: bool) -> list[int]:
        asked.append(add_special_tokens)
        return [5]

    tokenizer: Any = made(bos_token="<s>", encode=encode, all_special_ids=[])
    for bos, text in (("<s>", "<s>a"), ("<s>", "a"), (None, "<s>a")):
        tokenizer.bos_token = bos
        assert prompts._encode(tokenizer, Protocol.lm_eval, text, False) == [5]
    assert asked == [False, True, True]


def test_questions_in_tables_are_utf8_with_lines_in_cells(tmp_path: Path) -> None:
    (tmp_path / "law_val.csv").write_bytes('"Wo\r\nliegt Köln?",a,b,c,d,D\r\n'.encode())
    (one,) = load_questions(str(tmp_path), Role.questions)
    assert (one.subject, one.question, one.answer) == ("law", "Wo\r\nliegt Köln?", 3)
    code = (
        "import sys; from eval.benchmarks.mmlu.questions import Role, load_questions as f;"
        "sys.exit('K\\xf6ln' not in f(sys.argv[1], Role.questions)[0].question)"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(Path.cwd())}
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=plain, check=False).returncode == 0


def test_checkpoints_are_scored_over_one_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    spec: Any = made(
        adapter=made(method=AdapterMethod.lora),
        label="by its spec",
        model=made(kind=ModelKind.causal),
        own_template="own",
    )

    @contextmanager
    def loaded(systems: Any, paths: Any, device: Any, with_adapters: bool) -> Any:
        seen["loaded"] = (systems, paths, device, with_adapters)
        yield "base"

    def score(base: Any, together: Any, settings: Any, out: Path, on_progress: Any) -> Any:
        on_progress(1, 1)
        seen.setdefault("scored", []).append((base, [one.step for one in together], settings, out))
        return {one.step: step_result(one.step) for one in together}

    def step_result(step: int) -> Any:
        return made(
            accuracy_macro=0.5 + step, accuracy_macro_ci95=(0.25, 0.75), accuracy_micro=0.125, n=9, model_sha256="m",
            accuracy_micro_ci95=(0.0, 0.5), protocol=f"p{step}", settings_sha256=f"s{step}",
            to_json=lambda: {"step": step},
        )  # fmt: skip

    steps = [checkpoints.Snapshot(step=step, folder=tmp_path) for step in (1, 2)]
    for name, value in {
        "find_snapshots": lambda folder, which: steps,
        "stored_spec": lambda folder: spec,
        "load_record": lambda folder: seen.get("record"),
        "loaded": loaded,
        "resolve_device": lambda device: device,
        "require_causal": lambda *given: seen.setdefault("causal", []).append(given),
        "read_by_template": lambda base, template: (base, template),
        "_in_memory": lambda base, snapshots, shares: seen.update(shares=shares) or [[one] for one in snapshots],
        "_score": score,
    }.items():
        monkeypatch.setattr(checkpoints, name, value)
    run, settings, paths = tmp_path / "run", MmluSettings(), PathsConfig()
    done: list[Any] = []
    found = checkpoints.score_checkpoints(run, "all", settings, tmp_path / "o", paths, lambda *n: done.append(n))
    (systems, given, device, with_adapters) = seen["loaded"]
    assert [(one.name, one.run_id, one.spec, one.folder) for one in systems] == [("by its spec", "run", spec, run)]
    assert (given, device.value, with_adapters, seen["causal"]) == (
        paths, "auto", False, [("by its spec", ModelKind.causal)],
    )  # fmt: skip
    assert (seen["shares"], done) == (True, [(1, 2), (2, 2)])
    assert seen["scored"] == [(("base", None), [step], settings, tmp_path / "o") for step in (1, 2)]
    assert found.to_json() == {
        "run_id": "run", "system": "by its spec", "protocol": "p1", "settings_sha256": "s1", "schema_version": 1,
        "steps": tuple(
            {
                "step": step, "accuracy_macro": 0.5 + step, "accuracy_macro_ci95": (0.25, 0.75),
                "accuracy_micro": 0.125, "accuracy_micro_ci95": (0.0, 0.5), "n": 9, "model_sha256": "m",
            }
            for step in (1, 2)
        ),
    }  # fmt: skip
    assert json.loads((tmp_path / "o" / "step-2" / "mmlu.json").read_text()) == {"step": 2}
    assert json.loads((tmp_path / "o" / "checkpoints.json").read_text())["steps"][1]["step"] == 2
    seen["record"] = made(label="by its record")
    seen["scored"].clear()
    chat = replace(settings, chat=True)
    assert checkpoints.score_checkpoints(run, "all", chat, tmp_path / "o", paths, print).system == "by its record"
    assert seen["scored"][0][0] == ("base", "own")
    spec.adapter.method = AdapterMethod.full
    checkpoints.score_checkpoints(run, "all", chat, tmp_path / "o", paths, print)
    assert seen["shares"] is False
    spec.adapter.method = AdapterMethod.none
    with pytest.raises(ValueError, match="run: an untouched base has no steps; leave --checkpoints out"):
        checkpoints.score_checkpoints(run, "all", chat, tmp_path / "o", paths, print)


def test_adapters_leave_the_bank_after_they_were_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    bank = made(configs={"step-1": 1}, load_member=lambda *one: calls.append(one), remove_member=calls.append)
    steps = [checkpoints.Snapshot(step=step, folder=tmp_path / str(step)) for step in (1, 2)]
    base: Any = made(bank=bank)
    monkeypatch.setattr(
        checkpoints, "score_mmlu", lambda *given: calls.append(given[1:]) or {name: name for name in given[1]}
    )
    found = checkpoints._score(base, steps, MmluSettings(), tmp_path, print)
    assert found == {1: "step-1", 2: "step-2"}
    members = {"step-1": "step-1", "step-2": "step-2"}
    assert calls == [
        ("step-1", tmp_path / "1"), ("step-2", tmp_path / "2"), (members, MmluSettings(), print, tmp_path / "partial"),
        "step-1",
    ]  # fmt: skip


def test_rows_of_a_classifier_are_handed_on_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    items: list[Any] = []
    bank: Any = made(
        label_logits=lambda given: items.extend(given) or torch.tensor([[0.0, 1.0]] * len(given)),
        base=made(config=made(num_labels=2)),
    )
    assert glue_score._scores(bank, [[1, 2], [3]], [1, 0]) == [[0.0, 1.0], [0.0, 1.0]]
    assert [(i.member, i.tokens.tolist(), i.tokens.dtype, i.num_source, i.dropout_key, i.weight) for i in items] == [
        ("", [3], np.int32, 0, 1, 1.0), ("", [1, 2], np.int32, 0, 0, 1.0),
    ]  # fmt: skip
    asked: dict[str, Any] = {}
    rows: Any = made(dataset=made(source_max_tokens=7))
    for name, value in {
        "_classifier": lambda base, rows: bank,
        "_labelled_rows": lambda rows, limit, num: [
            made(line=n, answer=1.0, example=made(input=f"i{n}", pair=None)) for n in (1, 2, 3)
        ],
        "encode_texts": lambda tokenizer, texts, most: (
            asked.update(texts=texts, most=most) or ([[1], [2], [3]], [0, 1, 9])
        ),
        "model_sha256": lambda base, member: "m",
        "read_by": lambda base: "r",
        "_settings_sha256": lambda rows, settings, most: f"s{most}",
        "require_finite": lambda base, members, scores: asked.update(finite=(members, scores.dtype)),
        "_result": lambda *given: given,
    }.items():
        monkeypatch.setattr(glue_score, name, value)
    base: Any = made(tokenizer="t", max_length=9)
    monkeypatch.setattr(glue_score, "_score", lambda bank, ids, waiting: [(list(waiting), [[0.0, 1.0]] * len(waiting))])
    done: list[Any] = []
    found: Any = glue_score.score_glue(base, "sys", "a", rows, GlueSettings(), lambda *n: done.append(n))
    name, _, predictions, num_labels, num_truncated, settings, model = found
    assert (name, num_labels, num_truncated, settings, model) == ("sys", 2, 2, "s7", "m")
    assert [(one.line, one.choice, one.scores) for one in predictions] == [(n, 1.0, (0.0, 1.0)) for n in (1, 2, 3)]
    assert (asked["most"], asked["texts"][0], asked["finite"]) == (7, ("i1", None), (["a"] * 3, np.float32))
    assert done == [(3, 3)]


def test_rows_that_have_a_split_of_their_own_are_its(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out_rows, "split_examples", lambda spec, base, paths: "own")
    base: Any = None
    assert held_out_rows.held_out_examples(base, Path("r"), base, PathsConfig()) == "own"


def test_answers_of_encoder_decoders_are_their_words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {(5, 1): " said </s>", (6, 1): "more</s>"}
    bank = object.__new__(Seq2SeqBank)
    seen: dict[str, Any] = {}

    def decode(row: list[int], skip_special_tokens: bool = False) -> str:
        return texts[tuple(row)].removesuffix("</s>" * skip_special_tokens)

    for name, value in {
        "read_instances": lambda rows, limit: [made(example=made(input=text)) for text in ("a" * 9, "b" * 8)],
        "source_tokens": lambda text, tokenizer: list(text),
        "shorten": lambda ids, example, tokenizer, most: ids,
        "model_sha256": lambda base, member: "m",
        "read_by": lambda base: "r",
        "_settings_sha256": lambda rows, settings, most: f"s{most}",
        "_generate": lambda bank, sources, missing, most: (
            seen.update(sources=sources, missing=missing, most=most) or [([1], [[6, 1]]), ([0], [[5, 1]])]
        ),
        "_prediction": lambda instance, answer: answer,
        "_result": lambda *given: given,
    }.items():
        monkeypatch.setattr(super_ni, name, value)
    base: Any = made(bank=bank, tokenizer=made(decode=decode), max_length=8)
    rows: Any = made(dataset=made(source_max_tokens=20))
    done: list[Any] = []
    found: Any = super_ni.score_super_ni(
        base, "sys", None, rows, SuperNiSettings(max_new_tokens=3), lambda *n: done.append(n)
    )
    assert found[2] == ("said", "more")
    assert found[4:] == (1, "s8", "m")
    assert ([len(ids) for ids in seen["sources"]], seen["missing"], seen["most"]) == ([8, 8], [0, 1], 3)
    assert done == [(1, 2), (2, 2)]
    with pytest.raises(ValueError, match=r"x: `eval super_ni` scores encoder-decoders"):
        super_ni.score_super_ni(made(bank=1, source=made(location="x")), "s", None, rows, SuperNiSettings())


def test_tables_with_a_hole_have_no_spreads() -> None:
    whole, holed = np.array([[1.0, 2.0]]), np.array([[1.0, np.nan]])
    for tables in ([whole, holed], [holed, whole], [holed]):
        with pytest.raises(ValueError, match="a table has a hole"):
            Spreads.of(tables)


def test_the_parts_of_two_systems_by_hand() -> None:
    """Systems 0 4 / 2 6 and 4 2 / 6 4, each with a rest of 0; their ways with the questions are 2 and -2, 1 and -1."""
    one, two = np.array([[0.0, 4.0], [2.0, 6.0]]), np.array([[4.0, 2.0], [6.0, 4.0]])
    found = Components.of([one, two])
    assert found is not None
    assert found == Components(run=2.0, question=9.0, rest=0.0)
    third = Components.of([one, two[:1]])
    assert third is not None
    assert (third.run, third.question) == (2.0, 9.0)
    no_questions = Components.of([one[:, :1], two[:, :1]])
    assert no_questions is not None
    assert (no_questions.question, no_questions.rest) == (0.0, 0.0)


@pytest.mark.parametrize(("num_questions", "freedoms"), [(1, [2]), (2, [2, 1]), (5, [2, 4])])
def test_freedoms_of_a_design(num_questions: int, freedoms: list[int]) -> None:
    planned = Components(run=1.0, question=9.0, rest=24.0)
    assert [source.freedom for source in planned.sources(2, num_questions, 2)] == freedoms
    assert [source.freedom for source in planned.sources(1, num_questions, 2)] == freedoms[1:]


def test_spreads_beside_none_at_all() -> None:
    calm, wild = Source(variance=0.0, freedom=2), Source(variance=4.0, freedom=2)
    assert _cochran([calm, wild], 0.0) == 0.0
    assert _cochran([calm, wild], 2.0) == pytest.approx(2 / (1 + 4.0 / 2.0))  # F(2, 2): 1 / (1 + ratio)
    assert _cochran([wild, None], 0.0) is None
    tables = [np.zeros((2, 4)), np.zeros((3, 4)), np.zeros((1, 4))]
    assert _least_spread(tables, [2.0, 4.0, 0.0]) == (2.0 * 2 / 4 + 4.0 * 3 / 4) / 3
    assert _rest(np.array([[1.0, 2.0, 3.0]])) == _rest(np.array([[1.0], [2.0]])) == 0.0
    assert _rest(np.array([[0.0, 2.0], [2.0, 0.0]])) == pytest.approx(4 / (1 * 1 * 2))


def test_single_runs_are_as_wide_as_mcnemar_asks() -> None:
    mine, theirs = np.array([[1.0] * 5]), np.array([[0.0] * 4 + [1.0]])
    found = Spreads.of([mine, theirs]).difference(0, 1)
    assert found.p_two_sided() == pytest.approx(2 * 0.5**4)
    assert [source.freedom for source in found.sources] == [4]
    half = Spreads.of([mine / 2, theirs]).difference(0, 1)
    assert _as_wide_as_exact(half, mine / 2, theirs) is half


def test_a_classifiers_classes_are_more_than_letters_of_a_list() -> None:
    def found(*choices: str, **more: Any) -> list[str] | None:
        facts = {"multiple_input": 0, "multiple_target": 0, "config": made(doc_to_choice="c")} | more
        return classes.classes_of(made(doc_to_choice=lambda doc: list(choices), **facts), [{"doc": {}}] * 2)

    assert found("A", " B ") is None
    assert found("A", "bad") == ["A", "bad"]
    assert found("1", "-") == ["1", "-"]
    assert found("bad") is None
    assert found("bad", "good", multiple_input=1) is found("bad", "good", multiple_target=1) is None
    assert classes.METRICS == ("f1_weighted", "matthews")


def test_values_of_mixed_kinds_are_none() -> None:
    assert task_results.sample_values([True, 0.5]) == task_results.sample_values((0.5, True)) == []
    assert task_results.sample_values([]) == []


@pytest.fixture
def lm_eval(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for lm-eval's manager and loader."""
    seen: dict[str, Any] = {"made": [], "known": {}, "loads": lambda names: {"tasks": {}}}

    class TaskManager:
        def __init__(self, **how: Any) -> None:
            seen["made"].append(how)
            self.task_index = seen["known"].get(how.get("include_defaults", True), {})

        def load(self, names: list[str]) -> Any:
            return seen["loads"](names)

    def load_yaml(path: Any, resolve_func: bool = True) -> dict[str, Any]:
        seen["yaml"] = (path, resolve_func)
        return {"unsafe_code": path == "unsafe"}

    monkeypatch.setitem(sys.modules, "lm_eval", made(__version__="1"))
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", made(TaskManager=TaskManager))
    monkeypatch.setitem(sys.modules, "lm_eval.tasks._yaml_loader", made(load_yaml=load_yaml))
    return seen


def test_published_tasks_are_read_only_where_one_is_asked_for(lm_eval: Any, tmp_path: Path) -> None:
    entry = made(yaml_path=None)
    lm_eval["known"] = {False: {"mine": entry}, True: {"mine": entry, "piqa": entry}}
    folder = str(tmp_path)
    tasks.load_tasks(TasksSettings(names=["mine"], folder=folder))
    own = {"include_path": folder, "include_defaults": False}
    assert lm_eval["made"] == [own]
    tasks.load_tasks(TasksSettings(names=["mine", "piqa"], folder=folder))
    assert lm_eval["made"][1:] == [own, {"include_path": folder}]
    tasks.load_tasks(TasksSettings(names=["piqa"]))
    assert lm_eval["made"][3:] == [{"include_path": None}]
    with pytest.raises(ValueError, match=r"task folder .*none: no such folder"):
        tasks.load_tasks(TasksSettings(names=["mine"], folder=str(tmp_path / "none")))


def test_tasks_that_nobody_has_are_named_with_those_near_them(lm_eval: Any, tmp_path: Path) -> None:
    lm_eval["known"] = {True: {f"piqa_{n}": made(yaml_path=None) for n in range(5)}}
    with pytest.raises(ValueError, match=r"task piqa: lm-eval has no such task; near it: piqa_\d(, piqa_\d){2}$"):
        tasks.load_tasks(TasksSettings(names=["piqa"]))
    with pytest.raises(ValueError, match=r"task zz: lm-eval has no such task$"):
        tasks.load_tasks(TasksSettings(names=["zz"]))
    with pytest.raises(ValueError, match=rf"task zz: lm-eval has no such task, and {tmp_path} has none either$"):
        tasks.load_tasks(TasksSettings(names=["zz"], folder=str(tmp_path)))
    lm_eval["known"] = {True: {"bad": made(yaml_path="unsafe")}}
    with pytest.raises(ValueError, match="task bad: it scores by running the code"):
        tasks.load_tasks(TasksSettings(names=["bad"]))
    assert lm_eval["yaml"] == ("unsafe", False)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("no net\nmore"), r"tasks a, b: the data can't be had \(ConnectionError: no net\); run once"),
        (ModuleNotFoundError("No module named 'x'"), r"tasks a, b: their code needs a package .*'x'.*pip install"),
    ],
)
def test_data_and_packages_that_are_not_here(lm_eval: Any, error: Exception, message: str) -> None:
    def loads(names: list[str]) -> Any:
        raise error

    lm_eval["known"] = {True: {name: made(yaml_path="safe") for name in "ab"}}
    lm_eval["loads"] = loads
    with pytest.raises(ValueError, match=message):
        tasks.load_tasks(TasksSettings(names=["a", "b"]))


class Task:
    """A stand-in for lm-eval's."""

    OUTPUT_TYPE = "multiple_choice"

    def __init__(self, fixed: int | None = None, **facts: Any) -> None:
        self.fixed, self.calls, self.config = fixed, list[Any](), made(task="t")
        self.__dict__ |= facts

    def get_config(self, key: str) -> int | None:
        assert key == "num_fewshot"
        return self.fixed

    def set_config(self, key: str, value: int) -> None:
        self.calls.append((key, value))

    def set_fewshot_seed(self, seed: int) -> None:
        self.calls.append(seed)


@pytest.mark.parametrize(
    ("fixed", "wanted", "calls"),
    [
        (None, None, [("num_fewshot", 0), 1234]),
        (None, 3, [("num_fewshot", 3), 1234]),
        (5, None, [1234]),
        (5, 3, [("num_fewshot", 3), 1234]),
        (5, 0, [("num_fewshot", 0), 1234]),
        (0, 3, [1234]),
    ],
)
def test_examples_of_a_task_are_those_asked_for(
    fixed: int | None, wanted: int | None, calls: list[Any], lm_eval: Any
) -> None:
    task = Task(fixed)
    lm_eval["known"] = {True: {"t": made(yaml_path=None)}}
    lm_eval["loads"] = lambda names: {"tasks": {"t": task}}
    assert tasks.load_tasks(TasksSettings(names=["t"], num_fewshot=wanted)) == {"tasks": {"t": task}}
    assert task.calls == calls


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"UNSAFE_CODE": True}, "task t: it scores by running the code"),
        ({"MULTIMODAL": True}, "task t: it shows images or plays sounds"),
        ({"OUTPUT_TYPE": "x"}, "task t: its output is x; served are multiple_choice, loglikelihood, "),
    ],
)
def test_tasks_that_are_not_served(facts: dict[str, Any], message: str, lm_eval: Any) -> None:
    lm_eval["known"] = {True: {"t": made(yaml_path=None)}}
    lm_eval["loads"] = lambda names: {"tasks": {"t": Task(**facts)}}
    with pytest.raises(ValueError, match=message):
        tasks.load_tasks(TasksSettings(names=["t"]))


def test_what_scoring_tasks_hands_on(lm_eval: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {"models": [], "evaluated": [], "done": []}

    def evaluate(*given: Any, **how: Any) -> Any:
        seen["evaluated"].append((given, how))
        given[0]["on_progress"](1, 2)
        return "output"

    task = Task()
    monkeypatch.setitem(sys.modules, "lm_eval.evaluator", made(evaluate=evaluate))
    model: Any = lambda base, member, **how: {"base": base, "member": member, **how}  # noqa: E731
    monkeypatch.setitem(sys.modules, "eval.benchmarks.tasks.lm_eval_model", made(BankModel=model))
    for name, value in {
        "missing_lm_eval": lambda: None,
        "load_tasks": lambda settings: {"tasks": {"t": task}},
        "_generate_all": lambda models, loaded, settings, on_progress: seen.update(generated=(len(models), loaded)),
        "model_sha256": lambda base, member: f"sha of {member}",
        "read_by": lambda base: "r",
        "Partial": made(open=lambda *given: given),
        "_result": lambda *given: given,
    }.items():
        monkeypatch.setattr(tasks, name, value)
    base: Any = "base"
    settings = TasksSettings(names=["t"], limit=3, chat=True, row_tokens=7, seed=5, max_gen_toks=9)
    found: Any = tasks.score_tasks(
        base, {"plain": None, "tuned": "m"}, settings, lambda *n: seen["done"].append(n), Path("p")
    )
    assert found["tuned"] == ("tuned", "sha of m", {"t": task}, "output", settings)
    ((first, loaded), how), _ = seen["evaluated"]
    assert seen["generated"] == (2, loaded)
    assert loaded == {"tasks": {"t": task}}
    assert how == {
        "bootstrap_iters": 0, "log_samples": True, "limit": 3, "apply_chat_template": True,
        "fewshot_as_multiturn": True,
    }  # fmt: skip
    assert (first["partial"], first["row_tokens"], first["seed"], first["max_new_tokens"]) == (
        (Path("p"), "tasks", "sha of None", "r"), 7, 5, 9,
    )  # fmt: skip
    assert (task.calls, seen["done"]) == ([1234, 1234], [(1, 4), (3, 4)])
    monkeypatch.setattr(tasks, "missing_lm_eval", lambda: "not here")
    with pytest.raises(ValueError, match="not here"):
        tasks.score_tasks(base, {}, settings)


def test_a_result_of_tasks_is_known_by_all_that_was_asked(lm_eval: Any) -> None:
    sample = {"doc_id": 0, "target": 1, "resps": [["x"]], "filtered_resps": ["x"], "metrics": ["acc"], "acc": 1.0}

    def result(version: int = 1, asked: str = "q", **settings: Any) -> Any:
        output = {
            "samples": {"t": [sample | {"arguments": asked, "doc": {}}]},
            "versions": {"t": version},
            "higher_is_better": {"t": {"acc": False}},
            "results": {"t": {"acc,none": 1.0}},
            "n-shot": {"t": 2},
        }
        task = made(config=made(doc_to_choice=None))
        return tasks._result("sys", "m", {"t": task}, output, TasksSettings(names=["t"], **settings))

    found = result()
    one = found.tasks["t"]
    assert (one.version, one.num_fewshot, one.higher_is_better) == ("1", 2, {"acc": False})
    assert (found.system, found.model_sha256, found.lm_eval_version) == ("sys", "m", "1")
    others = [
        result(version=2), result(asked="r"), result(num_fewshot=1), result(chat=True), result(seed=1),
        result(max_gen_toks=3),
    ]  # fmt: skip
    assert len({one.settings_sha256 for one in [found, *others]}) == 7
    same = [result(limit=1), result(row_tokens=3), result(folder="f")]  # what they change is in the questions
    assert {one.settings_sha256 for one in same} == {found.settings_sha256}


def test_each_question_has_its_own_highest_letter() -> None:
    assert calibration.letter_probabilities([[0.0] * 4, [-2000.0] * 4]).tolist() == [[0.25] * 4] * 2


def test_what_a_design_detects_follows_from_its_sources() -> None:
    assert detectable_by([Source(variance=0.04, freedom=7.0)]) == pytest.approx(detectable(0.2, 7.0))
    assert detectable_by([]) is None


@pytest.mark.parametrize(
    ("first", "size", "expected"),
    [(10**9, 64, [0]), (0, 64, [0, 1, 2]), (256, 2, [0, 1]), (16_384, 64, [0]), (8_192, 64, [0, 1])],
)
def test_a_batch_is_as_large_as_its_longest_source_allows(first: int, size: int, expected: list[int]) -> None:
    sources = [range(first), range(0), range(0)]
    assert super_ni._next_batch([0, 1, 2], sources, size) == expected


def test_no_source_at_all_counts_as_one_token() -> None:
    size = super_ni.MAX_BATCH  # as many as one token each would allow, not half of them
    sources = [range(0)] * super_ni.MAX_BATCH_TOKENS
    assert len(super_ni._next_batch(range(len(sources)), sources, size)) == size
