"""Values of the commands by hand: what each hands on where nothing is said, whom it refuses, what it prints."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from eval.__main__ import app
from eval.answers.prompt_format import PromptFormat
from eval.answers.questions import OpenQuestion
from eval.answers.settings import GenerateSettings
from eval.benchmarks.benchmark import Contestant
from eval.commands import generate, human, judge, recorded, score_runs, self_targets, serving_gap
from eval.commands.agree import _bounds
from eval.commands.beside import NOTHING_BESIDE, Beside, read_scales, together_with
from eval.commands.judge import judge_names, judge_options, run_estimate, run_judge, run_judges
from eval.commands.score_runs import OwnRows, _Asked, _of_model, _opened, score_target
from eval.human.items import ContestOptions
from eval.human.web.server import ServeOptions
from eval.judging.flags import JudgeFlags
from eval.judging.prompts import Mode
from eval.systems import Target
from harness.banks.owned import OwnedBank
from harness.config.schema import DatasetConfig, ModelKind, PathsConfig, QuantMethod
from harness.data.fields import Example
from harness.files.hub import Missing
from harness.runs.scores import eval_file
from harness.runs.steps import load_steps
from tests.builders import spec
from tests.unit.eval.commands.test_beside import _Parts
from tests.voting import make_store, write_rows

NOBODY = Target(model=None, adapters=(), quant=None, run_ids=(), sweep=None, runs=None)


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands leave a record of themselves beside what they make."""
    monkeypatch.chdir(tmp_path)


def call(*words: Any, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == code, done.output
    return done.output


def test_self_targets_hands_on_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    row = {"path": "o", "num_kept": 3, "num_right": 2, "num_rows": 4, "system": "s", "right": "exact"}
    monkeypatch.setattr(self_targets, "run_self_targets", lambda *given: calls.append(given[:-1]) or row)
    assert call("self-targets", "--out", "o", "--right", "exact") == (
        "o: 3 rows, 2 of 4 with an answer of s that is right by exact\n"
    )
    usual = GenerateSettings(max_new_tokens=256, greedy=False, temperature=0.7, seed=0)
    assert calls[0] == (NOBODY, None, None, "exact", "target", 1, None, usual, Path("o"), False)
    given = ["--dataset", "d", "--data", "x", "--run", "r", "--model", "m", "--adapter", "a", "--quant", "nf4"]
    given += ["--otherwise", "drop", "--samples", 3, "--limit", 5, "--max-new-tokens", 7, "--greedy"]
    given += ["--temperature", 0.5, "--seed", 9, "--fresh", "--runs", "there", "--json"]
    assert json.loads(call("self-targets", "--out", "o", "--right", "number", *given)) == row
    target = Target(model="m", adapters=(Path("a"),), quant="nf4", run_ids=("r",), sweep=None, runs=Path("there"))
    own = GenerateSettings(max_new_tokens=7, greedy=True, temperature=0.5, seed=9)
    assert calls[1] == (target, "d", Path("x"), "number", "drop", 3, 5, own, Path("o"), True)


def test_serving_the_vote_hands_on_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(human, "_open_or_begin", lambda *given: calls.append(given) or "store")
    monkeypatch.setattr(human, "_announce_or_serve", lambda *given: calls.append(given))
    call("human", "serve", "--tournament", "t")
    assert calls == [
        (ContestOptions(answers=(), tournament=Path("t")), None, None, None), ("store", ServeOptions(), [], False),
    ]  # fmt: skip
    calls.clear()
    given = ["--questions", "q", "--bench", "b", "--max-questions", 3, "--only-judged", "--allow-empty"]
    given += ["--rater", " ann ", "--rater", "ann", "--raters-per-item", 4, "--check-rate", 0.25, "--checks", "c"]
    given += ["--claim-minutes", 2, "--order", "informative", "--seed", 5, "--host", "localhost", "--port", 81]
    given += ["--public-url", "https://v", "--prepare"]
    call("human", "serve", "a", "--tournament", "t", *given)
    options = ContestOptions(
        answers=(Path("a"),), tournament=Path("t"), questions=Path("q"), benchmark="b", max_questions=3,
        only_judged=True, allow_empty=True, checks=Path("c"), order="informative", seed=5,
    )  # fmt: skip
    where = ServeOptions(host="localhost", port=81, public_url="https://v")
    assert calls == [(options, 4, 0.25, 2.0), ("store", where, ["ann"], True)]


def test_runs_answers_are_looked_for_where_runs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.systems.judged_answers", lambda *given: given)
    assert human._sources([Path("a")], None, [], None) == (Path("a"),)
    for sweep, runs in (("s", []), (None, ["r"])):
        assert human._sources([Path("a")], sweep, runs, Path("x")) == ([Path("a")], sweep, runs, Path("x"))


def test_a_package_that_is_missing_is_named_with_its_remedy() -> None:
    with (
        pytest.raises(ValueError, match=r"nh3 is not installed; pip install 'qlora-harness\[human\]'"),
        _lacking("nh3"),
    ):
        pass
    with pytest.raises(ModuleNotFoundError), _lacking("numpy"):
        pass


@contextmanager
def _lacking(name: str) -> Iterator[None]:
    with human._needs_extra():
        yield
        raise ModuleNotFoundError(name=name)


def test_links_lead_to_where_the_vote_was_served_and_are_shown_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path)
    store.set_fact("url", "https://v")
    where = ("--tournament", tmp_path / "tournament")
    assert call("human", "raters", "add", "ann", *where).startswith("ann: https://v/enter/1.")
    said: list[Any] = []
    monkeypatch.setattr("eval.human.web.server.serve", lambda store, options, announce: announce(*said))
    for token, shown in (
        ("secret", "admin: http://x/admin/enter/secret"),
        (None, "admin: http://x/admin (its token: HARNESS_HUMAN_TOKEN)"),
    ):
        said[:] = ["http://x", token]
        human._announce_or_serve(store, ServeOptions(), ["ann", "bob"], prepare=False)
        out = capsys.readouterr()
        assert (out.out, out.err.splitlines()[-1]) == ("", shown)
        assert "ann: keeps the link of before" in out.err
        assert ("bob: http://x/enter/2." in out.err) == (token is not None)
        assert "no raters yet" not in out.err
    other = make_store(tmp_path / "other")
    human._announce_or_serve(other, ServeOptions(), ["eve"], prepare=True)
    out = capsys.readouterr()
    assert out.out.startswith("eve: http://127.0.0.1:8000/enter/1.")
    assert out.err == ""


def test_a_batch_is_imported_with_what_it_rejected(tmp_path: Path) -> None:
    make_store(tmp_path)
    header = "WorkerId,AssignmentStatus,Input.question_id,Input.system_a,Input.system_b,Answer.verdict\n"
    files = []
    for name in "ab":
        files.append(tmp_path / f"{name}.csv")
        rows = f"W1,Approved,1,okapi-7,zebra-3,1\nW{name},Rejected,1,okapi-7,zebra-3,1\nW1,,99,okapi-7,zebra-3,1\n"
        files[-1].write_text(header + rows)
    command = ["human", "import", *files, "--tournament", tmp_path / "tournament", "--format", "mturk"]
    assert "question 99" in " ".join(call(*command, code=2).split())
    found = json.loads(call(*command, "--only-known", "--json"))
    assert found == {"num_stored": 1, "num_known": 1, "num_foreign": 2, "num_rejected": 2, "num_new_raters": 1}
    assert " ".join(call(*command, "--only-known").split()) == (
        "0 votes added, 2 were here already, 2 on other items left out, 2 rejected assignments left out; 0 new raters"
    )


def test_a_record_says_when_and_how_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = made(
        params={"tournament": tmp_path},
        meta={recorded.WORDS: ("--x", "--json")},
        info_name="serve",
        parent=made(info_name="human", parent=made(info_name="eval", parent=None)),
    )
    assert recorded._names(ctx) == ["human", "serve"]
    monkeypatch.setattr(recorded.time, "monotonic", lambda: 11.26)
    recorded._record(ctx, recorded.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=recorded.UTC), 10.0, is_done=True)
    (step,) = load_steps(tmp_path).values()
    assert (step.seconds, step.started) == (1.3, "2026-01-02T03:04:05+00:00")
    assert step.command == ["python", "-m", "eval", "human", "serve", "--x"]
    monkeypatch.setattr("harness.ledger.finished.sweep_runs", lambda name, url: made(run_ids=("a", "b")))
    folders = recorded._run_folders({"sweep": "s", "run": ["b", "c"], "runs": tmp_path})
    assert list(folders) == [tmp_path / name for name in "abc"]


class Owned(OwnedBank):
    item_losses = read = None  # type: ignore[assignment]


def test_scales_have_their_ends_and_members_no_dot() -> None:
    assert read_scales("0,100") == (0.0, 100.0)
    with pytest.raises(ValueError, match=r"--adapter-scale 100\.5: expected different numbers from 0 to 100"):
        read_scales("100.5")
    scaled: list[Any] = []
    config = made(method=spec().adapter.method)
    base: Any = made(bank=made(configs={"r": config}, add_scaled=lambda *given: scaled.append(given)))
    found = together_with(base, [Contestant(name="run", member="r")], Beside(with_base=True, scales=(0.5, 2.0)), "b")
    assert [(one.name, one.member) for one in found] == [("b", None), ("run x0.5", "r x0_5"), ("run x2", "r x2")]
    assert scaled == [("r x0_5", "r", 0.5), ("r x2", "r", 2.0)]
    owned = object.__new__(Owned)
    owned.__dict__["configs"] = {"r": config}
    with pytest.raises(
        ValueError, match=r"--with-base: run is adapter\.method=lora, whose base is loaded for it alone"
    ):
        together_with(made(bank=owned), [Contestant(name="run", member="r")], Beside(with_base=True), "b")


def test_a_bound_that_is_missing_is_not_shown() -> None:
    assert [_bounds(None, 0.5), _bounds(0.5, None), _bounds(0.25, 0.5)] == ["", "", " (95 %: 25.0% to 50.0%)"]


class Scored(_Parts):
    """Gives each contestant's number."""

    title = about = parts = "numbers"
    kind = ModelKind.causal
    scores_own_dataset = False

    def __init__(self) -> None:
        self.places: list[Any] = []

    def score(self, base: Any, contestants: Any, settings: Any, place: Any) -> dict[str, Any]:
        self.places.append(place)
        values = {one.name: float(len(one.name)) for one in contestants}
        return {name: made(to_json=lambda v=v: {"gain": [[v, v], None, True]}) for name, v in values.items()}

    def headline(self, result: Any) -> None:
        return None


def test_scores_are_written_with_changes_where_there_is_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = made(name="run", spec=made(quant=made(name="nf4")))
    rows = [Contestant(name="base", member=None), Contestant(name="tuned", member="t")]
    monkeypatch.setattr(score_runs, "_opened", lambda asked: iter([(None, rows)]))

    def scored(beside: Beside, out: str, options: Any = {}) -> Any:  # noqa: B006
        benchmark = Scored()
        values, shown = score_target(benchmark, None, NOBODY, OwnRows(), options, tmp_path / out, print, beside)
        (place,) = benchmark.places
        assert (place.partial, place.on_progress) == (tmp_path / out / "partial", print)
        assert values["tuned"] == json.loads((tmp_path / out / "tuned" / "parts.json").read_text())
        return shown

    assert scored(Beside(), "plain").title == "numbers"
    assert not (tmp_path / "plain" / "changes.json").exists()
    _, changes = scored(Beside(with_base=True), "beside").renderables
    assert changes.title == "Change from the untouched base"
    kept = json.loads((tmp_path / "beside" / "changes.json").read_text())
    assert kept["schema_version"] == 1
    assert [(one["system"], one["change"]["value"]) for one in kept["changes"]] == [("tuned", 1.0)]
    rows[:] = [
        Contestant(name="run unmerged on nf4", member="t", system=system),
        Contestant(name="tuned", member=None, system=system),
    ]
    _, changes = scored(Beside(serving_gap=True), "gap").renderables
    assert changes.title == "Change from the unmerged run"
    rows[:] = [Contestant(name="tuned", member="t"), Contestant(name="other", member="o")]
    assert scored(Beside(scales=(1.0,)), "scales").title == "numbers"
    with pytest.raises(ValueError, match="score whole runs; leave out --some-option"):
        scored(Beside(with_base=True), "no", {"other": None, "some_option": 1})


def test_scores_in_runs_keep_their_parts_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Contestant(name="run", member="m", system=made(folder=tmp_path / "r"))]
    monkeypatch.setattr(score_runs, "_opened", lambda asked: iter([(None, rows)]))
    monkeypatch.setattr(score_runs, "paths_of_environment", lambda runs: PathsConfig(cache="c"))
    benchmark = Scored()
    values, _ = score_runs.score_in_runs(benchmark, None, NOBODY, OwnRows(), False, print)
    (place,) = benchmark.places
    assert (place.paths.cache, place.partial, place.on_progress) == ("c", Path("c/eval"), print)
    assert values == {"run": {"gain": [[3.0, 3.0], None, True]}}
    assert json.loads(eval_file(tmp_path / "r", "parts").read_text()) == values["run"] | {"system": "run"}


def test_what_can_not_be_opened_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(kind: ModelKind = ModelKind.classifier, beside: Beside = NOTHING_BESIDE, **target: Any) -> _Asked:
        benchmark = made(kind=kind, scores_own_dataset=False)
        return _Asked(
            benchmark=benchmark, settings=None, target=replace(NOBODY, **target), own_rows=OwnRows(),
            paths=PathsConfig(), beside=beside,
        )  # fmt: skip

    for request, message in (
        (asked(adapters=(Path("a"),)), "--adapter needs --model"),
        (asked(model="proxy:m+r"), "--model proxy:m.r: adds logits of causal models; this command scores classifier"),
        (asked(model="m", beside=Beside(serving_gap=True)), "name a --run or a --sweep"),
    ):
        with pytest.raises(ValueError, match=message):
            list(_opened(request))
    assert asked().only_missing is False
    located: list[Any] = []

    def locate(model: Any, paths: Any) -> Any:
        located.append(model.kind)
        return Missing(what="the model", looked_in=("here",), remedy="get it")

    monkeypatch.setattr(score_runs, "locate_model", locate)
    with pytest.raises(ValueError, match="the model: not found"):
        list(_of_model(asked(model="roberta_large")))
    assert located == [ModelKind.classifier]
    seen: list[Any] = []
    base = made(bank=None)
    monkeypatch.setattr(score_runs, "locate_model", lambda model, paths: "source")
    monkeypatch.setattr(score_runs, "resolve_device", lambda device: torch.device("cpu"))
    monkeypatch.setattr(score_runs, "say_if_slow", lambda quant, device: seen.append((quant.name, device.type)))
    monkeypatch.setattr(score_runs, "load_base", lambda source, quant, *rest: seen.append((source, *rest)) or base)
    ((found, (contestant,)),) = list(_of_model(asked(model="roberta_large", quant="none")))
    assert (found, contestant) == (base, Contestant(name="roberta_large", member=None))
    cache = Path(PathsConfig().cache)
    assert seen == [("none", "cpu"), ("source", torch.device("cpu"), cache, ModelKind.classifier)]


def test_the_rows_of_generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(tmp_path / "q.jsonl", [{"question_id": n, "text": "a"} for n in (1, 2)])
    answers = {
        "m": [made(question_id="1", turn=0, num_dropped_turns=n) for n in (0, 1, 2)],
        "n": [made(question_id=str(n), turn=0, num_dropped_turns=0) for n in (1, 2)],
    }
    monkeypatch.setattr(generate, "each_base", lambda target: [("base", {"m": None, "n": "n"})])
    calls: list[Any] = []

    def write(base: Any, systems: Any, **how: Any) -> Any:
        calls.append((base, systems, how))
        return answers

    monkeypatch.setattr(generate, "generate_answers", write)
    checked: list[Any] = []
    monkeypatch.setattr(generate, "require_templates", checked.append)
    target = replace(NOBODY, model="m")
    rows = generate.run_generate(target, str(path), "b", None, GenerateSettings(seed=3), True, print, Path("o"))
    assert rows == [
        {"system": "m", "num_answers": 3, "num_shortened": 2, "too_long": ["2"], "path": "o/m/answers/b.jsonl"},
        {"system": "n", "num_answers": 2, "num_shortened": 0, "too_long": [], "path": "o/n/answers/b.jsonl"},
    ]
    assert checked == []
    chat = GenerateSettings(prompt_format=PromptFormat.chat)
    generate.run_generate(target, str(path), "b", None, chat, True, print, Path("o"))
    assert checked == [target]
    base, systems, how = calls[0]
    assert (base, [(one.name, one.member, one.folder) for one in systems]) == (
        "base", [("m", None, Path("o/m")), ("n", "n", Path("o/n"))],
    )  # fmt: skip
    asked = [OpenQuestion(question_id=n, turns=("a",), aliases=how["questions"][0].aliases) for n in ("1", "2")]
    assert how == {
        "questions": asked, "bench": "b", "settings": GenerateSettings(seed=3), "on_progress": print, "fresh": True,
    }  # fmt: skip


def test_judges_are_named_once_and_modes_by_their_names() -> None:
    assert judge_names(["a, b,", "c"]) == ["a", "b", "c"]
    for wrong in ([], [" , "], ["a", "b,a"]):
        with pytest.raises(ValueError, match="name at least one judge, and each once"):
            judge_names(wrong)

    def mode(**how: Any) -> Mode:
        return judge_options((), Path("t"), "replay:v.csv", JudgeFlags(), **how).mode

    assert [mode(), mode(mode="single"), mode(reference="x"), mode(mode="relative", reference="x")] == [
        Mode.pairwise, Mode.single, Mode.relative, Mode.relative,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="--mode each: expected "):
        mode(mode="each")
    with pytest.raises(ValueError, match="take one judge at a time; --mode single takes several"):
        run_judges([made(mode=Mode.relative)] * 2, None, None)  # type: ignore[arg-type]


@dataclass
class Summary:
    num_failed: int = 0
    num_unasked: int = 0
    num_unparsed: int = 0
    output: Path = Path("v.csv")
    mode: Mode = Mode.pairwise


def test_a_judge_is_complete_where_every_match_has_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    summary, seen = Summary(), list[Any]()

    @contextmanager
    def bar() -> Iterator[Any]:
        seen.append("bar")
        yield lambda done, total: seen.append((done, total))
        seen.append("closed")

    def run(options: Any, advance: Any, on_estimate: Any, say: Any, may_pay: Any) -> Summary:
        on_estimate("ahead")
        say("said")
        seen.append(may_pay(made(num_calls=2)))
        seen.append(may_pay(made(num_calls=0)))
        advance(1, 2)
        advance(2, 2)
        return summary

    monkeypatch.setattr(judge, "run", run)
    monkeypatch.setattr(judge, "summary_text", lambda summary: "text")
    monkeypatch.setattr(judge, "estimate_text", lambda ahead: f"text of {ahead}")
    monkeypatch.setattr(judge, "quiet_libraries", lambda: None)
    whole = {"num_failed": 0, "num_unasked": 0, "num_unparsed": 0, "output": "v.csv", "mode": "pairwise"}
    options: Any = made(judge=made())
    assert run_judge(options, bar, seen.append) == (whole, "text", True)
    assert seen == ["text of ahead", "said", True, True, "bar", (1, 2), (2, 2), "closed"]
    seen.clear()
    asked: list[str] = []
    run_judge(options, bar, seen.append, lambda question: bool(asked.append(question)))
    assert (asked, seen[2:4]) == (["Go on?"], [False, True])
    for lack in ("num_failed", "num_unasked", "num_unparsed"):
        summary = Summary(**{lack: 1})  # type: ignore[arg-type]
        assert run_judge(options, bar, seen.append)[2] is False
    monkeypatch.setattr(judge, "estimate", lambda options: Summary(num_failed=3))
    assert run_estimate(None)[0]["num_failed"] == 3  # type: ignore[arg-type]
    assert run_estimate(None)[1].startswith("text of ")  # type: ignore[arg-type]


def test_a_run_is_opened_in_three_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Base:
        source: Any
        tokenizer: Any
        tokenizer_fingerprint: str

    @dataclass
    class Source:
        kind: str
        location: str
        revision: str = "main"

    one = spec()
    system: Any = made(name="run", spec=one, member="m", folder=tmp_path)
    opened: list[Any] = []

    @contextmanager
    def loaded(systems: Any, paths: Any, device: Any) -> Iterator[Base]:
        yield Base(Source("hub", "x"), made(save_pretrained=lambda folder: opened.append(folder)), "t")

    def load(source: Any, quant: Any, device: Any, cache: Path) -> Base:
        opened.append((source, quant, cache))
        return Base(source, "own", "u")

    for name, value in {
        "loaded": loaded,
        "checkpoint_folder": lambda place, cache: Path("kept"),
        "write_16_bit": lambda *given: opened.append(given),
        "load_base": load,
    }.items():
        monkeypatch.setattr(serving_gap, name, value)
    found = list(serving_gap.each_serving([system], PathsConfig(cache="c"), "cpu"))  # type: ignore[arg-type]
    names = [(row.name, row.member, row.system) for _, (row,) in found]
    quant = one.quant.name
    assert names == [
        (f"run unmerged on {quant}", "m", system), ("run merged in 16 bits", None, system),
        (f"run merged and quantized again ({quant})", None, system),
    ]  # fmt: skip
    (checkpoint, adapter, folder), saved, merged, again = opened
    assert folder.name.startswith("merged-")
    assert (checkpoint, adapter, str(folder)) == (Path("kept"), tmp_path / "adapter", saved)
    assert merged == (Source("folder", saved), replace(one.quant, method=QuantMethod.none), Path("c"))
    assert again == (Source("folder", saved), one.quant, Path("c"))
    trained: Any = found[0][0]
    assert [(base.tokenizer, base.tokenizer_fingerprint) for base, _ in found] == [(trained.tokenizer, "t")] * 3


def test_rounds_of_self_targets_by_hand() -> None:
    settings = GenerateSettings(seed=5, prompt_format=PromptFormat.chat, stop=("x",))
    text, chat = (self_targets._settings(settings, 2, has) for has in (False, True))
    assert (text.seed, text.prompt_format, text.stop) == (7, PromptFormat.human, ())
    assert (chat.seed, chat.prompt_format, chat.stop) == (7, PromptFormat.auto, ("x",))
    assert self_targets._dataset(None, Path("x/mine.jsonl")) == DatasetConfig(
        name="mine", hub_id="local", format="auto", path="x/mine.jsonl"
    )
    assert self_targets._dataset("glue_sst2", None).name == "glue_sst2"
    tools = ({"type": "function"},)
    example = Example(input="Hi", output="x", messages=({"role": "user", "content": "Hi"},), tools=tools)
    assert self_targets._with_target(example, None)["tools"] == [{"type": "function"}]
    row = self_targets._Row(key="3.1", line=3, example=Example(input="a", output="b"), prompt_tokens=(1,))
    answer: Any = made(answer="c", seed=4)
    assert self_targets._with_target(row.example, answer) == {"input": "a", "output": "c"}
    assert self_targets._origin(row, answer, "s") == {
        "line": 3, "origin": "self", "system": "s", "seed": 4, "target": "b",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("greedy", "samples", "message"),
    [(True, 2, "--greedy with --samples 2"), (True, 1, "name the rows"), (False, 2, "name the")],
)
def test_the_likeliest_answer_is_asked_for_once(greedy: bool, samples: int, message: str) -> None:
    settings = GenerateSettings(greedy=greedy)
    with pytest.raises(ValueError, match=message):
        self_targets.run_self_targets(
            NOBODY, None, None, "exact", "target", samples, None, settings, Path("o"), False, print
        )


def test_self_targets_asks_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"input": "a", "output": "b"}])
    wanted = self_targets.SelfTargets(
        dataset=self_targets._dataset(None, path), right="exact", keeps_others=True, num_samples=1, limit=None,
        settings=GenerateSettings(),
    )  # fmt: skip
    for bases in ([("base", {"a": None, "b": "b"})], [("base", {"a": None}), ("other", {"b": None})]):
        monkeypatch.setattr(self_targets, "each_base", lambda target, bases=bases: iter(bases))
        with pytest.raises(ValueError, match="self-targets asks one model"):
            self_targets.write_self_targets(NOBODY, wanted, tmp_path / "o", False, print)


def test_self_targets_asks_about_all_rows_and_only_for_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[DatasetConfig] = []

    def locate(config: DatasetConfig, paths: Any) -> Missing:
        found.append(config)
        return Missing(what="rows", looked_in=("here",), remedy="get them")

    monkeypatch.setattr(self_targets, "locate_dataset", locate)
    dataset = DatasetConfig(name="d", hub_id="local", format="alpaca", max_rows=2, max_rows_per_task=1)
    wanted = self_targets.SelfTargets(
        dataset=replace(dataset, train_on_source=True), right="exact", keeps_others=True, num_samples=1, limit=None,
        settings=GenerateSettings(),
    )  # fmt: skip
    with pytest.raises(ValueError, match="rows: not found"):
        self_targets.write_self_targets(NOBODY, wanted, Path("o"), False, print)
    assert (found[0].max_rows, found[0].max_rows_per_task, found[0].train_on_source) == (None, None, False)
    assert found[0].format == "alpaca"


def test_every_number_of_a_line_is_asked_by_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [(made(line=line), Example(input="a", output="b")) for line in (1, 1, 2, 4, 4, 4)]
    monkeypatch.setattr(self_targets, "read_examples", lambda *_: examples)

    class Data(list[Any]):
        num_source = [2] * 6

    data = Data(made(input_ids=np.arange(5)) for _ in examples)
    monkeypatch.setattr(self_targets, "tokenize_dataset", lambda *_: data)
    config = DatasetConfig(name="d", hub_id="local", format="auto")
    base: Any = made(tokenizer=None)
    rows = self_targets._rows(base, None, config, PathsConfig())  # type: ignore[arg-type]
    assert [row.key for row in rows] == ["1", "1.1", "2", "4", "4.1", "4.2"]
    assert {row.prompt_tokens for row in rows} == {(0, 1)}
    data.pop()
    with pytest.raises(ValueError, match="dataset d: a row of it can't be tokenized"):
        self_targets._rows(base, None, config, PathsConfig())  # type: ignore[arg-type]
    examples[3] = (made(line=4), Example(input="a", output="b", label=1))
    with pytest.raises(ValueError, match="dataset d: its targets are labels, which no model writes"):
        self_targets._rows(base, None, config, PathsConfig())  # type: ignore[arg-type]


def test_groups_of_commands_say_what_they_are_for() -> None:
    for words, about in (
        (["human"], "Let people vote on pairs of answers, blind."),
        (["human", "raters"], "Who may vote: each rater has a link of their own."),
    ):
        shown = CliRunner().invoke(app, words)
        assert about in shown.output
        assert "Usage" in shown.output
