"""Edges of lm-eval's tasks: ends of texts, digests of what is kept, orders of files, what a task does not say."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.benchmarks.benchmark import Contestant, Headline, Place
from eval.benchmarks.registry import BENCHMARKS
from eval.benchmarks.tasks import classes, generation, lm_eval_model
from eval.benchmarks.tasks import results as task_results
from eval.benchmarks.tasks import score as tasks_score
from eval.benchmarks.tasks.benchmark import TasksBenchmark
from eval.benchmarks.tasks.settings import TasksSettings
from harness.config.schema import PathsConfig
from harness.runs.estimate import Estimate
from tests.unit.eval.benchmarks.by_value.test_edges import Words, base_of, made


def bank_model(**more: Any) -> lm_eval_model.BankModel:
    return lm_eval_model.BankModel(base_of(Words()), "tuned", lm_eval_model.Partial(None), **more)


def test_a_model_of_lm_eval_says_its_ends_and_its_name() -> None:
    model = bank_model()
    assert (model.eot_token_id, model.prefix_token_id, model.max_length) == (2, 1, 9)
    assert model.tokenizer_name == "org/model"


@pytest.mark.parametrize(
    ("text", "given", "tokens"),
    [
        ("a bb", None, [1, 3, 4]),  # as the tokenizer says
        ("<s>a bb", None, [1, 3, 4]),  # begins with it already: not twice
        ("a bb", True, [1, 3, 4]),
        ("a bb", False, [3, 4]),
    ],
)
def test_a_text_begins_once(text: str, given: bool | None, tokens: list[int]) -> None:
    model = bank_model()
    assert model.tok_encode(text, add_special_tokens=given) == tokens
    is_begun = text.startswith("<s>")
    assert model.tokenizer.seen[0] == (text, not is_begun if given is None else given)


def test_an_answer_without_a_question_follows_the_prefix_alone() -> None:
    """BOS stands for the empty context; the continuation has none of its own, unless its text has."""
    model = bank_model()
    assert model._pair("", "a bb") == ([1], [3, 4])
    assert model._pair("", "<s>a bb") == ([1], [3, 4])
    assert [special for _, special in model.tokenizer.seen] == [False, False]


def test_likelihoods_of_tokens_and_what_is_kept_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of a request is the digest of its tokens and of the continuation's length: later versions find it."""
    model = bank_model()
    tiny = 1.0 + 2.0**-20
    monkeypatch.setattr(
        lm_eval_model,
        "score_continuations",
        lambda base, waiting, row_tokens: [
            ([place], [made(logprobs=np.array([tiny, 2.0**14], dtype=np.float32), is_greedy=True)])
            for place in range(len(waiting))
        ],
    )
    (one,) = model._loglikelihood_tokens([("text", [1, 3], [4])])
    assert one == (tiny + 2.0**14, True)  # summed in 64 bits: 32 would lose the small part
    key = hashlib.sha256(json.dumps([[1, 3, 4], 1]).encode()).hexdigest()[:24]
    assert list(model.partial.done) == [key]


def test_answers_are_asked_for_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    model = bank_model(on_progress=lambda *done: told.append(done))
    how = generation.DecodingSettings(max_new_tokens=4, greedy=True, temperature=1.0, top_p=1.0)
    wanted = [generation.Generation(tokens=(n,), until=("e",), settings=how, seed=0) for n in (5, 6)]
    monkeypatch.setattr(model, "generations", lambda requests: wanted)

    def together(base: Any, asked: Any, keep: Any, advance: Any) -> None:
        for place, (member, one) in enumerate(asked):
            keep(place, f"{member} {one.tokens}")
            advance(place + 1, len(asked))

    monkeypatch.setattr(lm_eval_model, "answer_together", together)
    assert model.generate_until(["first", "second"]) == ["tuned (5,)", "tuned (6,)"]
    assert told == [(1, 2), (2, 2)]
    assert model.generate_until(["first", "second"]) == ["tuned (5,)", "tuned (6,)"]  # kept
    assert len(told) == 2


def test_the_key_of_an_answer_is_a_digest_of_all_that_decides_it() -> None:
    how = generation.DecodingSettings(max_new_tokens=4, greedy=True, temperature=1.0, top_p=1.0)
    one = generation.Generation(tokens=(5, 6), until=("e",), settings=how, seed=3)
    parts = [[5, 6], ["e"], generation.asdict(how), 3]
    assert one.key == "answer-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def test_a_prompt_and_what_else_a_request_has() -> None:
    """lm-eval's `args` may hold more than the text and its settings: they are not read."""
    own = made(eos_token_id=2)
    base = base_of(Words(), bank=made(base=made(generation_config=own)))
    asked = made(args=("a bb", {"until": ["e"], "max_gen_toks": 3}, "more"), task_name="t")
    found = generation.generation_of(base, lambda text: [3, 4], asked, 0, 0, None)
    assert (found.tokens, found.settings.max_new_tokens) == ((3, 4), 3)


def test_generated_texts_have_no_special_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "decode", lambda *given: iter([made(index=0, tokens=(3, 2))]))
    monkeypatch.setattr(generation, "eos_tokens", lambda base: (2,))
    how = generation.DecodingSettings(max_new_tokens=4, greedy=True, temperature=1.0, top_p=1.0)
    pair = ("tuned", generation.Generation(tokens=(1,), until=("zz",), settings=how, seed=0))
    assert list(generation._texts(base_of(Words()), [pair], ("zz",), how)) == [(0, "x")]


def test_classes_are_those_of_every_question() -> None:
    choices = iter([["bad", "good"], ["bad", "good"], ["bad", "fine"]])
    task = made(
        config=made(doc_to_choice="c"), multiple_input=0, multiple_target=0, doc_to_choice=lambda doc: next(choices)
    )
    assert classes.classes_of(task, [{"doc": n} for n in range(3)]) is None


def test_tasks_over_a_folder_depend_on_its_files(tmp_path: Path) -> None:
    benchmark = BENCHMARKS["tasks"]
    for name in ("b.yaml", "a.yaml", "c.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    files = benchmark.files(TasksSettings(names=["t"], folder=str(tmp_path)))
    assert {key: [path.name for path in paths] for key, paths in files.items()} == {
        "folder": ["a.yaml", "b.yaml", "c.txt"]
    }
    assert benchmark.files(TasksSettings(names=["t"])) == {}
    missing = benchmark.problems(TasksSettings(names=["t"], folder=str(tmp_path / "none")), PathsConfig(), "k.")
    assert missing == [f"k.folder={tmp_path / 'none'}: no such folder"]
    assert benchmark.problems(TasksSettings(names=["t"], folder=str(tmp_path)), PathsConfig(), "k.") == []


def test_the_order_of_a_folder_does_not_change_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / name for name in ("a", "b", "c")]
    for file in files:
        file.touch()
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(files[::-1]))
    assert BENCHMARKS["tasks"].files(TasksSettings(names=["t"], folder=str(tmp_path))) == {"folder": files}


def test_systems_of_two_templates_are_scored_by_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three systems, of which one is read by another template: the progress is that of all three."""
    told: list[Any] = []
    groups = [("base", {"a": None, "b": "m"}), ("read anew", {"c": "n"})]
    monkeypatch.setattr("eval.benchmarks.templates.members_by_template", lambda base, who, chat: iter(groups))

    def score(read: Any, members: Any, settings: Any, progress: Any, partial: Any) -> Any:
        progress(1, 2 * len(members))
        return {name: (read, member, partial) for name, member in members.items()}

    monkeypatch.setattr(tasks_score, "score_tasks", score)
    who = [Contestant(name=name, member=None) for name in "abc"]
    place = Place(paths=PathsConfig(), partial=Path("p"), on_progress=lambda *done: told.append(done))
    base: Any = "base"
    found: Any = BENCHMARKS["tasks"].score(base, who, TasksSettings(names=["t"]), place)
    assert found == {"a": ("base", None, Path("p")), "b": ("base", "m", Path("p")), "c": ("read anew", "n", Path("p"))}
    assert told == [(1, 6), (5, 6)]


def test_a_summary_has_each_task_and_their_mean() -> None:
    """Of metrics of which more is better; where no task has one, of the others, and it says so."""

    def task(*values: float | None, less_is_better: tuple[int, ...] = ()) -> Any:
        metrics = {f"m{n}": Estimate(value=value) for n, value in enumerate(values)}
        better = {f"m{n}": False for n in less_is_better}
        return made(metrics=metrics, crows_pairs=None, higher_is_better=better)

    lambada, words = task(8.0, 0.75, less_is_better=(0,)), task(20.0, less_is_better=(0,))
    result = made(tasks={"p": task(0.5, 0.9), "q": task(0.25), "r": task(None), "s": task(), "l": lambada, "w": words})
    benchmark = TasksBenchmark()
    assert benchmark.summary(result) == {"p": 0.5, "q": 0.25, "l": 8.0, "w": 20.0, "mean_over_tasks": 0.5}
    assert benchmark.headline(result) == Headline(metric="mean_over_tasks", estimate=Estimate(value=0.5, n=3))
    assert benchmark.headline(made(tasks={"r": task(None)})) is None
    lower = Headline(metric="mean_over_tasks", estimate=Estimate(value=20.0, n=1), lower_is_better=True)
    assert benchmark.headline(made(tasks={"w": words})) == lower


def test_the_table_of_tasks_has_a_title_and_a_line_a_metric() -> None:
    metrics = {"acc": Estimate(value=0.5, low=0.25, high=0.75, n=4), "loss": Estimate(value=None)}
    average = Estimate(value=60.0, n=3)
    crows = made(categories={"Age": Estimate(value=50.0, n=2)}, average_of_categories=55.0, average_of_pairs=average)
    result = made(tasks={"t": made(metrics=metrics, crows_pairs=crows)})
    table = BENCHMARKS["tasks"].table({"sys": result})
    assert (table.title, table.caption) == ("Tasks", "95 % intervals; CrowS-Pairs rows in percent, as Table 8")
    rows = list(zip(*(list(column.cells) for column in table.columns), strict=True))
    assert rows == [
        ("sys", "t", "acc", "0.5000 [0.2500, 0.7500]", "4"), ("sys", "t", "loss", "-", ""),
        ("sys", "t", "Age", "50.0", "2"), ("sys", "t", "Average of categories", "55.0", ""),
        ("sys", "t", "Average of pairs", "60.0", "3"),
    ]  # fmt: skip


def test_a_prediction_of_a_question() -> None:
    """Texts are given only where every response is one; a prediction has no extracts and no weights of its own."""
    bare = task_results.TaskPrediction(doc_id=1, target="t", logprobs=(), metrics={})
    assert (bare.extracted, bare.weights, bare.responses) == ({}, {}, ())
    sample = {"doc_id": 0, "target": 1, "metrics": ["acc"], "acc": 1.0, "filtered_resps": [(-1.5, True), (-2.5, False)]}
    mixed = sample | {"resps": [["x"], [(-2.5, False)]]}
    (found,) = task_results.predictions_of([mixed], ["acc"])
    assert (found.responses, found.logprobs) == ((), (-1.5, -2.5))
    (found,) = task_results.predictions_of([mixed | {"resps": [["x"], ["y"]]}], ["acc"])
    assert (found.responses, found.logprobs) == (("x", "y"), ())


def result_of(sample: dict[str, Any], **output: Any) -> Any:
    """The result of a task `t` with one sample, of which lm-eval says nothing but its metric."""
    whole = {"doc_id": 0, "target": 1, "resps": [["x"]], "filtered_resps": ["x"], "metrics": ["acc"], "acc": 1.0}
    facts = {"samples": {"t": [whole | {"arguments": "q", "doc": {}} | sample]}, "results": {"t": {"acc,none": 1.0}}}
    bare: dict[str, Any] = {"versions": {}, "higher_is_better": {}, "n-shot": {}}
    task = made(config=made(doc_to_choice=None))
    return tasks_score._result("sys", "m", {"t": task}, facts | bare | output, TasksSettings(names=["t"]))


def test_what_lm_eval_does_not_say_of_a_task() -> None:
    """No version, no examples, and more is better."""
    score = result_of({}).tasks["t"]
    assert (score.version, score.num_fewshot, score.higher_is_better) == ("", 0, {"acc": True})
    said = result_of({}, versions={"t": 2}, higher_is_better={"t": {"acc": False}}).tasks["t"]
    assert (said.version, said.higher_is_better) == ("2", {"acc": False})


def test_questions_of_any_kind_decide_the_digest() -> None:
    """Arguments that JSON has no form for count by their text."""
    paths = [result_of({"arguments": (Path(name), {"until": Path("x")})}).settings_sha256 for name in "aab"]
    assert paths[0] == paths[1] != paths[2]


def test_lm_eval_and_datasets_are_quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quiet: list[str] = []
    monkeypatch.setattr("datasets.disable_progress_bars", lambda: quiet.append("bars"))
    logger = logging.getLogger("lm_eval")
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    with pytest.raises(ValueError, match="no such folder"):
        tasks_score.load_tasks(TasksSettings(names=["t"], folder=str(tmp_path / "none")))
    assert (quiet, logger.level) == (["bars"], logging.ERROR)
