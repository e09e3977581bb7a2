"""Edges of what benchmarks ask and show: questions, prompts, tables, tokens, intervals, single runs."""

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.benchmarks import changes, intervals, registry, templates
from eval.benchmarks.answers import AnswersSettings, PromptFormat
from eval.benchmarks.benchmark import Contestant, Place
from eval.benchmarks.glue import score as glue_score
from eval.benchmarks.glue.settings import GlueSettings
from eval.benchmarks.mmlu import calibration
from eval.benchmarks.mmlu import score as mmlu_score
from eval.benchmarks.mmlu.questions import Role, load_questions, parse_question
from eval.benchmarks.mmlu.settings import MmluSettings, Protocol
from eval.benchmarks.perplexity import texts
from eval.benchmarks.perplexity.settings import PerplexitySettings
from eval.benchmarks.registry import BENCHMARKS
from eval.benchmarks.replicates import ONE_RUN, Difference, Source, Spreads, _as_wide_as_exact
from eval.benchmarks.rouge import score as rouge
from eval.benchmarks.rouge.settings import RougeSettings
from eval.benchmarks.super_ni import score as super_ni_score
from eval.benchmarks.super_ni.settings import SuperNiSettings
from eval.scoring.partial import Partial
from harness.config.schema import EvalConfig, PathsConfig
from harness.runs.estimate import Estimate
from tests.unit.eval.benchmarks.by_value.test_edges import Words, base_of, made


def test_prompts_are_scored_packed_padded_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmlu_score, "score_padded", lambda *given: iter([("padded", *given[1:])]))
    monkeypatch.setattr(mmlu_score, "score_rows", lambda *given: iter([("rows", *given[1:])]))
    for is_packed, name in ((True, "rows"), (False, "padded")):
        base: Any = made(bank=made(layout=made(is_packed=is_packed)))
        prompts: Any = ["p"]
        assert list(mmlu_score._score(base, prompts, [[1]], 7)) == [(name, ["p"], [[1]], 7)]
        assert list(mmlu_score._score(base, [], [[1]], 7)) == []


def test_a_text_that_is_not_utf8_is_named_with_its_byte(tmp_path: Path) -> None:
    (file := tmp_path / "a.txt").write_bytes(b"ab\xff")
    with pytest.raises(ValueError, match=r"a.txt: not UTF-8 \(invalid start byte at byte 2\): save the file as UTF-8"):
        texts._read_text(file)
    file.write_bytes("\u00e9\r\n".encode())
    assert texts._read_text(file) == "\u00e9\n"


@pytest.mark.parametrize("name", ["perplexity", "rouge"])
def test_a_benchmark_hands_all_on_to_its_scores(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    place = Place(paths=PathsConfig(), partial=Path("p"), on_progress=lambda *done: None)
    who = [Contestant(name="a", member="m"), Contestant(name="b", member=None)]
    base: Any = "base"
    if name == "rouge":
        monkeypatch.setattr(rouge, "score_rouge", lambda *given: given)
        settings: Any = RougeSettings()
        assert BENCHMARKS[name].score(base, who, settings, place) == (base, who, settings, place)
        return
    monkeypatch.setattr("eval.benchmarks.perplexity.benchmark.load_documents", lambda source, paths: (source, paths))
    monkeypatch.setattr("eval.benchmarks.perplexity.score.score_perplexity", lambda *given: given)
    settings = PerplexitySettings(text="t")
    members = {"a": "m", "b": None}
    documents = (settings.source, place.paths)
    found: Any = BENCHMARKS[name].score(base, who, settings, place)
    assert found == (base, members, documents, settings, place.on_progress, Path("p"))


@pytest.mark.parametrize(
    ("name", "scorer"),
    [("glue", "eval.benchmarks.glue.score.score_glue"), ("super_ni", "eval.benchmarks.super_ni.score.score_super_ni")],
)
def test_each_run_is_scored_on_its_own_rows(monkeypatch: pytest.MonkeyPatch, name: str, scorer: str) -> None:
    monkeypatch.setattr(scorer, lambda *given: given)
    place = Place(paths=PathsConfig(), partial=Path("p"), on_progress=lambda *done: None)
    rows: Any = ["r1", "r2"]
    who = [Contestant(name=n, member=m, rows=r) for n, m, r in zip("ab", ("m", None), rows, strict=True)]
    base: Any = "base"
    found: Any = BENCHMARKS[name].score(base, who, "settings", place)
    assert found == {
        n: (base, n, m, r, "settings", place.on_progress, Path("p"))
        for n, m, r in zip("ab", ("m", None), rows, strict=True)
    }


def test_rows_and_tokens_of_an_own_rows_benchmark(tmp_path: Path) -> None:
    (file := tmp_path / "rows.jsonl").touch()
    dataset: Any = made(source_max_tokens=100)
    for name, written, settings in (("super_ni", 7, SuperNiSettings(max_new_tokens=7)), ("glue", 0, GlueSettings())):
        benchmark = BENCHMARKS[name]
        assert benchmark.num_tokens(settings, PathsConfig(), dataset, 5) == 5 * (100 + written)
        assert benchmark.num_tokens(settings, PathsConfig(), None, 5) is None
        assert benchmark.num_tokens(settings, PathsConfig(), dataset, None) is None
        assert benchmark.scores_own_dataset is True
        assert benchmark.files(made(data=str(file))) == {"data": [file]}
        assert benchmark.files(made(data=str(tmp_path / "none"))) == {"data": []}
        assert benchmark.files(made(data=None)) == {}


def test_what_is_no_classifier_or_has_no_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: Any = made(dataset=made(format="glue_rte", name="rte"), split_name="dev", source="s")
    with pytest.raises(ValueError, match=r"^org/model: trained to write text, not to classify; `eval glue` scores"):
        glue_score._classifier(base_of(Words(), bank="a causal bank"), rows)
    monkeypatch.setattr(glue_score, "declared_labels", lambda dataset: None)
    monkeypatch.setattr(glue_score, "read_rows", lambda source: [])
    with pytest.raises(ValueError, match=r"^rte, dev: no rows to score$"):
        glue_score._labelled_rows(rows, None, 2)
    monkeypatch.setattr(super_ni_score, "read_rows", lambda source: [])
    with pytest.raises(ValueError, match=r"^rte, dev: no rows to score$"):
        super_ni_score.read_instances(rows, None)


def test_an_exact_test_that_asks_for_less_changes_nothing() -> None:
    """Four of four for one system: McNemar's exact p is 2/16; of equal halves it is 1, which widens nothing."""
    ones, zeros = np.ones((1, 4)), np.zeros((1, 4))
    halves = np.array([[1.0, 0.0, 1.0, 0.0]])
    assert Spreads.of([ones, zeros]).difference(0, 1).p_two_sided() is None  # all differ alike: nothing to measure by
    balanced = Spreads.of([halves, 1.0 - halves]).difference(0, 1)
    assert balanced.p_two_sided() == pytest.approx(1.0)
    found = Spreads.of([np.array([[1.0, 1.0, 1.0, 0.0]]), zeros]).difference(0, 1)
    assert found.p_two_sided() == pytest.approx(2 / 8)


@pytest.mark.parametrize(
    ("at_once", "passes"), [(8, [2, 2, 1]), (11, [2, 2, 1]), (12, [3, 2]), (3, [1] * 5), (1, [1] * 5), (10**6, [5])]
)
def test_calibration_is_resampled_in_parts(monkeypatch: pytest.MonkeyPatch, at_once: int, passes: list[int]) -> None:
    """Four questions, five resamples of each question once: all are the scores themselves."""
    monkeypatch.setattr(calibration, "NUM_RESAMPLES", 5)
    monkeypatch.setattr(calibration, "_AT_ONCE", at_once)
    drawn: list[Any] = []

    def multinomial(n: int, shares: Any, size: int) -> Any:
        drawn.append((n, shares.tolist(), size))
        return np.ones((size, n))

    gaps = np.array([[0.5, 0.0], [-0.25, 0.0], [0.0, -0.5], [0.0, 0.25]])
    rng: Any = made(multinomial=multinomial)
    ece, brier = calibration._resampled(gaps, np.array([0.0, 1.0, 2.0, 0.5]), rng)
    assert drawn == [(4, [0.25] * 4, count) for count in passes]
    assert (ece.tolist(), brier.tolist()) == ([0.125] * 5, [0.875] * 5)


def cells_of(table: Any) -> list[tuple[Any, ...]]:
    return list(zip(*(list(column.cells) for column in table.columns), strict=True))


def test_tables_of_results_row_by_row() -> None:
    ci = (0.25, 0.75)
    mmlu = made(
        accuracy_macro=0.5, accuracy_macro_ci95=ci, accuracy_micro=0.6, accuracy_micro_ci95=None, ece=0.1, ece_ci95=ci,
        brier=0.75, brier_ci95=None, n=9,
    )  # fmt: skip
    table = BENCHMARKS["mmlu"].table({"a": mmlu})
    assert cells_of(table) == [("a", "50.0 [25.0, 75.0]", "60.0", "10.0 [25.0, 75.0]", "0.750", "9")]
    assert table.caption == "percent, ECE too; 95 % intervals; Brier: 0 is perfect, 2 sure and wrong"
    rows = made(dataset="d", rouge_l=0.5, rouge_l_ci95=ci, exact_match=0.25, num_cut=2, n=9)
    table = BENCHMARKS["rouge"].table({"a": rows})
    assert cells_of(table) == [("a", "d", "50.0 [25.0, 75.0]", "25.0", "2", "9")]
    assert (table.title, table.caption) == ("RougeL on held-out rows", "95 % intervals over rows")
    own = made(split_name="s", rouge_l=0.5, rouge_l_ci95=ci, rouge_l_macro=0.4, exact_match=0.25, num_tasks=3, n=9)
    table = BENCHMARKS["super_ni"].table({"a": own})
    assert cells_of(table) == [("a", "s", "50.0 [25.0, 75.0]", "40.0", "25.0", "3", "9")]
    assert (table.title, table.caption) == ("Super-NaturalInstructions", "95 % intervals over tasks")
    text = made(
        text="t", num_documents=2, num_tokens=30, window=8, stride=4, token_perplexity=5.0,
        token_perplexity_ci95=(4, 6),
        bits_per_byte=1.0, bits_per_byte_ci95=None, word_perplexity=99.0,
    )  # fmt: skip
    table = BENCHMARKS["perplexity"].table({"a": text})
    assert cells_of(table) == [("a", "5.000 [4.000, 6.000]", "1.0000", "99.00")]
    assert (table.title, table.title_justify) == ("Perplexity of t: 2 documents, 30 tokens", "left")
    assert table.caption == "window 8, stride 4; 95 % intervals over documents"
    for name, result in (("mmlu", mmlu), ("rouge", rows), ("super_ni", own), ("perplexity", text)):
        justify = [column.justify for column in BENCHMARKS[name].table({"a": result}).columns]
        num_left = {"rouge": 2, "super_ni": 2}.get(name, 1)
        assert justify == ["left"] * num_left + ["right"] * (len(justify) - num_left)


def test_how_many_tokens_a_text_has(tmp_path: Path) -> None:
    """4 bytes each; through overlapping windows as often as they overlap; windows without overlap once."""
    (file := tmp_path / "t.txt").write_text("x" * 4000)
    benchmark, paths = BENCHMARKS["perplexity"], PathsConfig()

    def tokens(**settings: Any) -> int | None:
        return benchmark.num_tokens(PerplexitySettings(text=str(file), **settings), paths, None, None)

    sizes = [tokens(), tokens(window=8), tokens(window=8, stride=2), tokens(window=8, stride=8)]
    assert sizes == [1000, 1000, 4000, 1000]
    assert benchmark.num_tokens(PerplexitySettings(text="hub:a:test"), paths, None, None) is None


def test_how_many_tokens_and_questions_mmlu_asks() -> None:
    benchmark, paths = BENCHMARKS["mmlu"], PathsConfig()
    hub: dict[str, Any] = {"questions": "hub:validation", "shots_file": "hub:dev"}

    def asked(**settings: Any) -> tuple[int | None, int | None]:
        chosen = MmluSettings(**(hub | settings))
        return benchmark.num_questions(chosen, None), benchmark.num_tokens(chosen, paths, None, None)

    assert asked() == (1531, (1531 * 445 + 285 * 445) // 4)
    assert asked(limit=100, num_shots=0) == (100, 100 * 445 // 4)
    assert asked(limit_per_subject=2, num_shots=1) == (114, (114 * 445 + 57 * 445) // 4)
    assert asked(limit=50, limit_per_subject=2, num_shots=9) == (50, (50 * 445 + 285 * 445) // 4)
    assert asked(questions="hub:nobodys") == (None, None)
    assert asked(questions="none.jsonl") == (None, None)
    embedded = MmluSettings(num_shots=0, limit=3)
    chosen = load_questions("embedded", Role.questions)[:3]
    size = sum(len(text.encode()) for one in chosen for text in (one.question, *one.choices))
    assert benchmark.num_tokens(embedded, paths, None, None) == size // 4
    assert benchmark.num_questions(embedded, None) == 3


def test_the_front_is_of_those_that_nobody_is_better_than_everywhere() -> None:
    """a gains most and forgets most; b between; c is b, less; d lacks a measure, and of the other has more than b."""

    def change(system: str, measure: str, value: float, higher: bool = True) -> Any:
        return made(system=system, measure=measure, higher_is_better=higher, change=Estimate(value=value))

    found = [
        change("a", "acc", 3.0), change("a", "loss", 3.0, False), change("b", "acc", 2.0),
        change("b", "loss", 1.0, False), change("c", "acc", 1.0), change("c", "loss", 1.0, False),
        change("d", "acc", 2.5),
    ]  # fmt: skip
    assert changes.front(found) == ["a"]
    assert changes.front(found[:6]) == ["a", "b"]
    assert changes.front(found[:2] * 2) == ["a"]
    one, other = {"acc": 2.0, "loss": 0.0}, {"acc": 1.0, "loss": 1.0}
    assert changes._is_better(one, other) is changes._is_better(other, one) is changes._is_better(one, one) is False
    assert changes._is_better(one, {"acc": 1.0, "loss": 0.0})
    assert not changes._is_better(one, {"other": 1.0})


def test_how_many_tokens_answers_take(tmp_path: Path) -> None:
    """4 bytes of a turn are a token; each turn is answered by as many as are allowed."""
    rows = [{"question_id": 1, "turns": ["x" * 40, "\u00e9" * 10]}, {"question_id": 2, "turns": ["x" * 21]}]
    (file := tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    benchmark, paths = BENCHMARKS["answers"], PathsConfig()
    settings = AnswersSettings(questions=str(file), max_new_tokens=100)
    assert benchmark.num_tokens(settings, paths, None, None) == (40 + 20 + 21) // 4 + 3 * 100
    one = AnswersSettings(questions=str(file), max_new_tokens=7, limit=1)
    assert benchmark.num_tokens(one, paths, None, None) == 15 + 2 * 7
    assert benchmark.files(settings) == {"questions": [file]}
    missing = AnswersSettings(questions=str(tmp_path / "none.jsonl"))
    assert benchmark.num_tokens(missing, paths, None, None) is None
    assert benchmark.files(missing) == {"questions": []}
    [problem] = benchmark.problems(missing, paths, "k.")
    assert problem.startswith("k.questions: ")
    assert benchmark.problems(settings, paths, "k.") == []
    assert [benchmark.wants_template(AnswersSettings(prompt_format=f)) for f in PromptFormat] == [
        f is PromptFormat.chat for f in PromptFormat
    ]


def test_answers_of_runs_are_counted_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def generate(base: Any, systems: Any, questions: Any, bench: str, how: Any, on_progress: Any) -> Any:
        seen.append(([one.name for one in systems], len(questions), bench, how.max_new_tokens, how.prompt_format))
        return {"s1": ["x", "y"], "s2": []}

    monkeypatch.setattr("eval.answers.generate.generate_answers", generate)
    who = [Contestant(name=n, member=None, system=s) for n, s in (("a", made(name="s1")), ("b", made(name="s2")))]
    who.append(Contestant(name="c", member=None))
    settings = AnswersSettings(bench="mine", max_new_tokens=7, limit=2, prompt_format=PromptFormat.human)
    place = Place(paths=PathsConfig(), partial=None, on_progress=lambda *done: None)
    base: Any = "base"
    found: Any = BENCHMARKS["answers"].score(base, who, settings, place)
    assert {name: (one.num_answers, one.path) for name, one in found.items()} == {
        "a": (2, "answers/mine.jsonl"), "b": (0, "answers/mine.jsonl"),
    }  # fmt: skip
    assert seen == [(["s1", "s2"], 2, "mine", 7, PromptFormat.human)]
    assert BENCHMARKS["answers"].summary(found["a"]) == {"num_answers": 2}
    assert BENCHMARKS["answers"].headline(found["a"]) is None


def test_intervals_of_shares_stay_between_nothing_and_all() -> None:
    """Of 16 of 16 rounding alone would reach beyond 1, of 0 of 21 below 0; several strata reach beyond by far."""
    for n in range(1, 100):
        assert intervals.wilson_interval(n, n)[1] <= 1.0
        assert intervals.wilson_interval(0, n)[0] >= 0.0
    assert intervals.stratified_interval([(1, 1)]) == pytest.approx(intervals.wilson_interval(1, 1))
    low, high = intervals.stratified_interval([(16, 16), (40, 40)])
    assert high == 1.0
    assert 0.0 < low < 1.0
    assert intervals.stratified_interval([(0, 21), (0, 37)])[0] == 0.0
    one, other = intervals.wilson_interval(1, 4), intervals.wilson_interval(3, 6)
    low, high = intervals.stratified_interval([(1, 4), (3, 6)])
    assert low == pytest.approx(0.375 - ((0.25 - one[0]) ** 2 + (0.5 - other[0]) ** 2) ** 0.5 / 2)
    assert high == pytest.approx(0.375 + ((one[1] - 0.25) ** 2 + (other[1] - 0.5) ** 2) ** 0.5 / 2)


def test_an_interval_of_a_mean_is_wilsons_of_shares_and_students_of_others() -> None:
    assert intervals.mean_interval([0.0, 1.0, 1.0]) == intervals.wilson_interval(2, 3)
    assert intervals.mean_interval([1.0]) == intervals.wilson_interval(1, 1)
    assert intervals.mean_interval([0.5]) is intervals.mean_interval([0.5, 0.5]) is None
    low, high = intervals.mean_interval([1.0, 2.0, 3.0]) or (0.0, 0.0)
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-5)
    draws = np.array([np.nan, *np.arange(101.0), np.inf])
    assert intervals.percentile_interval(draws) == (2.5, 97.5)
    assert intervals.percentile_interval(np.array([np.nan])) is intervals.percentile_interval(np.ones(3)) is None


def test_what_scoring_mmlu_asks_keeps_and_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two systems, three questions, one answered before: five are asked, in groups of what begins alike."""
    questions = [made(subject=s, answer=n) for n, s in enumerate(("law", "law", "art"))]
    encoded = [
        made(tokens=[7, 8], num_shots=5, num_truncated=0), made(tokens=[9], num_shots=5, num_truncated=3),
        made(tokens=[7, 1], num_shots=4, num_truncated=0),
    ]  # fmt: skip
    data = made(questions=questions, indices=(4, 5, 9), sha256="d")
    parts = {"a": Partial[int](None, {0: [0.0] * 4}), "b": Partial[int](None)}
    seen: list[Any] = []
    told: list[Any] = []

    def score(base: Any, prompts: Any, letters: Any, row_tokens: int | None) -> Iterator[Any]:
        seen.append((prompts, letters, row_tokens))
        yield [4, 0], np.array([[4.0] * 4, [0.5] * 4], dtype=np.float32)
        yield [1, 2, 3], np.array([[float(n)] * 4 for n in (1, 2, 3)], dtype=np.float32)

    for name, value in {
        "load_set": lambda settings: data,
        "encode_set": lambda *given: encoded,
        "_letter_tokens": lambda *given: [[1], [2], [3]],
        "_open_job": lambda base, name, member, *rest: mmlu_score._Job(name, member, "sha", parts[name]),
        "_score": score,
        "_result": lambda job, *rest: sorted((at, found[0]) for at, found in job.logprobs.items()),
    }.items():
        monkeypatch.setattr(mmlu_score, name, value)
    base: Any = "base"
    found: Any = mmlu_score.score_mmlu(
        base, {"a": None, "b": "m"}, MmluSettings(row_tokens=9), lambda *done: told.append(done)
    )
    [(prompts, letters, row_tokens)] = seen
    assert [(one.tokens, one.member, one.group) for one in prompts] == [
        ([9], None, "law/1"), ([7, 1], None, "art/shots=4"), ([7, 8], "m", "law/shots=5"), ([9], "m", "law/1"),
        ([7, 1], "m", "art/shots=4"),
    ]  # fmt: skip
    assert (letters, row_tokens, told) == ([[2], [3], [1], [2], [3]], 9, [(3, 6), (6, 6)])
    assert found == {"a": [(0, 0.0), (1, 0.5), (2, 1.0)], "b": [(0, 2.0), (1, 3.0), (2, 4.0)]}


def test_letters_are_found_once_a_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(mmlu_score, "answer_tokens", lambda *given: asked.append(given) or [len(asked)])
    questions = [made(subject=s) for s in ("law", "art", "law")]
    data: Any = made(questions=questions, shots={"law": "l", "art": "a"})
    settings = MmluSettings(protocol=Protocol.hendrycks, chat=True, num_shots=1)
    assert mmlu_score._letter_tokens(base_of("t"), data, settings) == [[1], [2], [1]]
    assert asked == [("t", Protocol.hendrycks, s, q, True) for s, q in (("l", questions[0]), ("a", questions[1]))]


def test_a_question_that_does_not_fit_is_named_by_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(tokenizer: Any, protocol: Any, shots: Any, question: Any, most: int, chat: bool) -> Any:
        if question.subject == "art":
            raise ValueError("too long")
        return protocol, shots, most, chat

    monkeypatch.setattr(mmlu_score, "encode_prompt", encode)
    questions = [made(subject=s) for s in ("law", "art")]
    data: Any = made(indices=(3, 7), questions=questions, shots={"law": "l", "art": "a"})
    settings = MmluSettings(questions="f.jsonl", chat=True, num_shots=0)
    with pytest.raises(ValueError, match=r"^f.jsonl, question 8: too long$"):
        mmlu_score.encode_set(base_of("t"), data, settings)
    data.questions = questions[:1] * 2
    assert mmlu_score.encode_set(base_of("t"), data, settings) == [(settings.protocol, "l", 9, True)] * 2


def test_a_result_of_mmlu_counts_cut_prompts_and_dropped_examples() -> None:
    questions = [made(subject=s, answer=a) for s, a in (("astronomy", 1), ("astronomy", 0), ("anatomy", 3))]
    logprobs = [[0.0, 1.0, -1.0, -1.0], [0.0, 1.0, -1.0, -1.0], [0.0, 0.0, 0.0, 2.0]]
    encoded: Any = [made(num_shots=n, num_truncated=cut) for n, cut in ((5, 0), (3, 2), (4, 1))]
    job = mmlu_score._Job("sys", None, "sha", Partial(None, dict(enumerate(logprobs))))
    data: Any = made(questions=questions, indices=(4, 5, 9), sha256="d")
    found = mmlu_score._result(job, data, encoded, MmluSettings(split_name="s"))
    assert (found.num_truncated_prompts, found.num_dropped_shots, found.num_shots, found.chat) == (2, 3, 5, False)
    assert (found.accuracy_macro, found.accuracy_micro) == (0.75, pytest.approx(2 / 3))
    assert (found.n, found.num_subjects) == (3, 2)
    assert [(p.subject, p.index, p.choice, p.answer, p.num_shots, p.num_truncated) for p in found.predictions] == [
        ("astronomy", 4, 1, 1, 5, 0), ("astronomy", 5, 1, 0, 3, 2), ("anatomy", 9, 3, 3, 4, 1),
    ]  # fmt: skip
    assert (found.system, found.model_sha256, found.settings_sha256, found.split_name) == ("sys", "sha", "d", "s")
    assert found.protocol == "lm_eval"


def test_only_single_runs_of_whole_numbers_are_as_wide_as_the_exact_test() -> None:
    """Four questions of five for one system: McNemar's p is 2/16, whoever is first; a second run is no single one."""
    ones, last = np.ones((1, 5)), np.array([[0.0, 0.0, 0.0, 0.0, 1.0]])
    found = Difference(value=0.8, sources=(Source(variance=0.04, freedom=4),), note=ONE_RUN)
    wide = _as_wide_as_exact(found, ones, last)
    assert wide.p_two_sided() == pytest.approx(2 / 16)
    assert wide.note == ONE_RUN
    other_way = replace(found, value=-0.8)
    assert _as_wide_as_exact(other_way, last, ones).p_two_sided() == pytest.approx(2 / 16)
    twice = np.concatenate([ones, ones])
    assert _as_wide_as_exact(found, twice, last) is _as_wide_as_exact(found, ones, np.concatenate([last] * 2)) is found
    assert _as_wide_as_exact(replace(found, note=""), ones, last).note == ""
    assert _as_wide_as_exact(found, ones * 0.5, last * 0.5) is found
    wider = replace(found, sources=(Source(variance=0.4, freedom=4),))
    assert _as_wide_as_exact(wider, ones, last) is wider  # it says less than the exact test already
    assert _as_wide_as_exact(replace(found, sources=()), ones, last).sources == ()


def test_the_config_of_evaluations_is_made_of_each_benchmarks_settings() -> None:
    made_of: Any = registry._eval_config.__wrapped__((("glue", GlueSettings), ("rouge", RougeSettings)))
    config = made_of()
    assert isinstance(config, EvalConfig)
    assert (config.glue, config.rouge, config.after_training) == (GlueSettings(), RougeSettings(), [])
    assert not hasattr(config, "__dict__")
    with pytest.raises(TypeError, match="positional"):
        made_of([])
    assert made_of(glue=GlueSettings(limit=3)).glue.limit == 3
    assert registry.settings_of(config, "rouge") == RougeSettings()
    assert registry.settings_of(EvalConfig(), "rouge") == RougeSettings()


def test_lines_of_a_packed_text_are_counted_from_one(tmp_path: Path) -> None:
    (file := tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n\n{"text": "b"}'))
    assert list(texts._packed_rows(file)) == [(f"{file}, line 1", {"text": "a"}), (f"{file}, line 2", {"text": "b"})]
    for content, said in ((b"[1]\n", "expected an object a line"), (b"{\n", "can't be unpacked into JSON lines")):
        file.write_bytes(gzip.compress(content))
        with pytest.raises(ValueError, match=said):
            list(texts._packed_rows(file))
    file.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"a.jsonl.gz: can't be unpacked into JSON lines .*fetch the file again"):
        list(texts._packed_rows(file))


def test_words_of_one_stem_are_equal_for_rouge() -> None:
    scorer = super_ni_score._scorer.__wrapped__()
    assert scorer.score("he runs quickly", "he run quickly")["rougeL"].fmeasure == 1.0
    assert scorer.score("he walks", "he run")["rougeL"].fmeasure == 0.5
    assert super_ni_score.rouge_l("he runs", ["they walk", "he run"]) == 1.0


@pytest.mark.parametrize(
    ("changes_of", "said"),
    [
        (None, "expected an object with subject, question, choices, answer"),
        ({"subject": " "}, "subject is ' '; expected text"),
        ({"question": 5}, "question is 5; expected text"),
        ({"choices": "abcd"}, "choices is 'abcd'; expected a list of 4 texts"),
        ({"choices": ["a", "b", "c", 4]}, "expected a list of 4 texts"),
        ({"choices": ["a", "b", "c"]}, "choices has 3 entries; expected 4"),
        ({"choices": list("abcde")}, "choices has 5 entries; expected 4"),
        ({"answer": True}, "answer is True; expected 0 to 3, the place of the right choice"),
        ({"answer": 4}, "answer is 4; expected 0 to 3"),
        ({"answer": -1}, "answer is -1; expected 0 to 3"),
        ({"answer": "A"}, "answer is 'A'; expected 0 to 3"),
    ],
)
def test_what_is_no_question_of_mmlu_is_named(changes_of: dict[str, Any] | None, said: str) -> None:
    row = {"subject": "law", "question": "Who?", "choices": list("abcd"), "answer": 3}
    with pytest.raises(ValueError, match=rf"^f, line 3: .*{re.escape(said)}"):
        parse_question(5 if changes_of is None else row | changes_of, "f, line 3")
    assert [parse_question(row | {"answer": n}, "f").answer for n in (0, 3)] == [0, 3]
    assert parse_question(row, "f").choices == ("a", "b", "c", "d")


def test_contestants_of_one_template_are_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """By each run's own template, and only where a benchmark asks through one; what is no run has none."""
    monkeypatch.setattr(templates, "own_template", lambda system: system.template)
    monkeypatch.setattr(templates, "read_by_template", lambda base, template: (base, template))
    who = [
        Contestant(name=name, member=name.upper(), system=None if own is None else made(template=own))
        for name, own in (("a", "x"), ("b", None), ("c", "y"), ("d", "x"))
    ]
    base: Any = "base"
    found: Any = list(templates.members_by_template(base, who, True))
    assert found == [(("base", "x"), {"a": "A", "d": "D"}), (("base", None), {"b": "B"}), (("base", "y"), {"c": "C"})]
    together: Any = list(templates.members_by_template(base, who, False))
    assert together == [(("base", None), {name: name.upper() for name in "abcd"})]
