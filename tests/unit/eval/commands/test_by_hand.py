"""Parts of the commands by hand: which systems and rows are scored, what each is compared with, who answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eval.answers.questions import OpenQuestion
from eval.answers.settings import GenerateSettings
from eval.commands import generate, score_runs
from eval.commands.beside import Beside
from eval.commands.generate import _of_model, _of_runs, _without_answer, generated_lines
from eval.commands.recorded import _folders, _inputs, _run_folders, masked
from eval.commands.score_runs import OwnRows, _Asked, _compared_with, _require_kind, _rows
from eval.systems import Target
from harness.config.choices import dataset_choice
from harness.config.schema import ModelKind, PathsConfig


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


def system(kind: ModelKind = ModelKind.causal, name: str = "run") -> Any:
    quant = made(name="nf4")
    spec = made(model=made(kind=kind, name="m"), quant=quant)
    return made(name=name, run_id="id", member=name, folder=Path(name), spec=spec)


NOBODY = Target(model=None, adapters=(), quant=None, run_ids=(), sweep=None, runs=None)


def test_a_command_scores_models_of_its_kind() -> None:
    for kind in ModelKind:
        _require_kind(system(kind), kind)
    with pytest.raises(ValueError, match="run: a model of kind classifier scores no next token of a whole text"):
        _require_kind(system(ModelKind.classifier), ModelKind.causal)
    with pytest.raises(ValueError, match=r"run id \(run\): model.kind=causal; this command scores model.kind=seq2seq"):
        _require_kind(system(), ModelKind.seq2seq)


def test_what_each_row_is_compared_with() -> None:
    base, one, two = (
        made(name=n, member=m, system=system(name=n)) for n, m in (("base", None), ("a", "a"), ("b", "b"))
    )
    both = Beside(with_base=True)
    assert _compared_with([base, one, two], both, {}) == {"base": "base", "a": "base", "b": "base"}
    assert _compared_with([one, two], both, {"id": "m base"}) == {"a": "m base", "b": "m base"}  # loaded later
    assert _compared_with([one, two], Beside(scales=(0.5,)), {}) == {}
    named = made(name="merged", member=None, system=system(name="a"))
    assert _compared_with([named, made(name="x", member=None, system=None)], Beside(serving_gap=True), {}) == {
        "merged": "a unmerged on nf4"
    }


def test_the_rows_are_of_the_dataset_that_is_named_else_of_the_training() -> None:
    own, trained_on = dataset_choice("glue_mrpc"), dataset_choice("glue_sst2")

    def rows(options: OwnRows, trained: Any = trained_on, own_dataset: bool = True) -> Any:
        benchmark = made(scores_own_dataset=own_dataset, rows=lambda settings, dataset, paths: dataset)
        asked = _Asked(benchmark=benchmark, settings=None, target=NOBODY, own_rows=options, paths=PathsConfig())
        return _rows(asked, trained, "run")

    assert rows(OwnRows(), own_dataset=False) is None
    assert (rows(OwnRows()).name, rows(OwnRows()).eval_split) == (trained_on.name, trained_on.eval_split)
    assert rows(OwnRows(dataset="glue_mrpc")).name == own.name
    assert rows(OwnRows(split="test")).eval_split == "test"
    with pytest.raises(ValueError, match="run: nothing says which dataset it is for; name it by --dataset"):
        rows(OwnRows(), trained=None)


def test_a_model_of_another_kind_is_scored_itself_or_with_its_adapters_one_after_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    members: list[str] = []
    base = made(bank=made(remove_member=members.remove))
    for name, value in {
        "locate_model": lambda *_: "source",
        "load_base": lambda *_: base,
        "say_if_slow": lambda *_: None,
        "record_beside": lambda folder: None,
        "load_adapter_of": lambda base, name, folder, model: members.append(name),
        "with_own_tokenizer": lambda base, folder: (base, folder),
    }.items():
        monkeypatch.setattr(score_runs, name, value)
    benchmark = made(
        kind=ModelKind.classifier, scores_own_dataset=True, rows=lambda settings, dataset, paths: dataset.name
    )

    def scored(*adapters: Path) -> list[tuple[Any, list[tuple[str, str | None, Any]], list[str]]]:
        target = replace(NOBODY, model="roberta_large", quant="none", adapters=adapters)
        asked = _Asked(
            benchmark=benchmark,
            settings=None,
            target=target,
            own_rows=OwnRows(dataset="glue_mrpc"),
            paths=PathsConfig(),
        )
        return [
            (found, [(one.name, one.member, one.rows) for one in contestants], list(members))
            for found, contestants in score_runs._of_model(asked)
        ]

    assert scored() == [(base, [("roberta_large", None, "glue_mrpc")], [])]
    assert scored(Path("x/a"), Path("x/b")) == [
        ((base, Path(f"x/{name}")), [(name, name, "glue_mrpc")], [name]) for name in "ab"
    ]
    assert members == []


@pytest.mark.parametrize(("stored", "engine"), [(True, "own"), (True, "vllm"), (False, "own"), (False, "vllm")])
def test_who_answers_for_runs(stored: bool, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, opened = system(), list[str]()

    @contextmanager
    def loaded(systems: Any, paths: Any, device: Any) -> Iterator[str]:
        opened.append("own")
        yield "own"

    monkeypatch.setattr(generate, "chosen_systems", lambda *_: [run])
    monkeypatch.setattr(generate, "by_base", lambda systems: [systems])
    monkeypatch.setattr(generate, "tokenizer_here", lambda model, paths: "sha")
    monkeypatch.setattr(generate, "loaded", loaded)
    monkeypatch.setattr(generate, "load_vllm", lambda systems, paths: opened.append("vllm") or "vllm")

    def kept(systems: Any, settings: Any, tokenizer_sha256: str) -> Any:
        assert tokenizer_sha256 == "sha"
        return {"run": ["kept"]} if stored else None

    settings = GenerateSettings(engine=engine)
    found = list(_of_runs(NOBODY, settings, lambda base, systems: {"run": [base]}, kept))
    assert found == [(run, ["kept" if stored else engine])]
    assert opened == ([] if stored else [engine])


def test_what_does_not_go_together_when_answering() -> None:
    for changes, engine, message in (
        ({}, "vllm", "--engine vllm: answers for finished runs"),
        ({"run_ids": ("r",)}, "own", "--model: answers for itself"),
        ({"sweep": "s"}, "own", "--model: answers for itself"),
    ):
        target = replace(NOBODY, model="m", **changes)
        with pytest.raises(ValueError, match=message):
            list(_of_model(target, GenerateSettings(engine=engine), lambda *_: {}, Path("answers")))
    quantized = replace(NOBODY, quant="nf4", run_ids=("r",))
    with pytest.raises(ValueError, match="--quant: a run's own record says how its base is stored"):
        list(_of_runs(quantized, GenerateSettings(), lambda *_: {}, lambda *_: None))


def test_what_is_said_of_answers() -> None:
    asked = [OpenQuestion(question_id="1", turns=("a", "b")), OpenQuestion(question_id="2", turns=("a",))]
    answers: Any = [made(question_id="1", turn=0), made(question_id="2", turn=0)]
    assert _without_answer(asked, answers) == ["1"]
    row = {"system": "ann", "num_answers": 3, "path": "p", "num_shortened": 0, "too_long": []}
    assert generated_lines(row, 9) == ["ann: 3 answers in p"]
    assert generated_lines(row | {"num_shortened": 2, "too_long": ["1"]}, 9)[1:] == [
        "ann: 2 dialogues are too long for the context with an answer of 9 tokens; they were asked without their "
        "oldest turns",
        "ann: 1 questions are longer than the context: 1",
    ]


def test_where_a_command_is_recorded_and_what_it_read(tmp_path: Path) -> None:
    (tmp_path / "o.json").write_text("{}")
    runs = [Path("r1"), Path("r2")]
    assert _folders({"tournament": "t", "out": "o"}, runs) == [Path("t")]
    assert _folders({"out": "o"}, runs) == runs
    assert _folders({"out": "o", "in_runs": False}, runs) == [Path("o")]
    assert _folders({"out": tmp_path / "o.json"}, []) == [tmp_path]
    assert _folders({}, []) == []
    read = list(_inputs({"tournament": "t", "bench": "b", "out": "o", "k": 3, "judge": ["replay:v.csv"]}, runs))
    answers, weights = Path("answers/b.jsonl"), "adapter_model.safetensors"
    assert read == [
        *(run / answers for run in runs),
        *(path for name in ("t", "b", "v.csv") for path in (Path(name), Path(name) / answers, Path(name) / weights)),
    ]
    assert next(_inputs({"bench": "b"}, runs)) == Path("b")
    assert list(_run_folders({"sweep": None, "run": None})) == []
    assert list(_run_folders({"run": ["a", "b", "a"], "runs": tmp_path})) == [tmp_path / "a", tmp_path / "b"]
    assert list(masked(iter(["sk-0123456789abcdef", "sk-short", "task_sk-0123"]))) == [
        "***",
        "sk-short",
        "task_sk-0123",
    ]
