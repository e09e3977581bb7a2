"""lm-eval's files, cards of several adapters and all frames of a sweep, from runs made by hand: by value."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from analysis.exports import hub, lm_eval, tables
from analysis.tidy.sources import Source
from harness.export.checks import ExportRefusedError


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


def score(evaluation: str, metric: str, value: float, **more: Any) -> Any:
    values = {"settings": "num_shots 5, x", "settings_sha256": "0123456789abcdef", "n": 9, "low": None, "high": None}
    return made(evaluation=evaluation, metric=metric, value=value, **(values | {"is_headline": True} | more))


def rows(evaluation: str, metric: str, values: list[float], categories: Any = None) -> Any:
    return made(evaluation=evaluation, scores=made(metric=metric, values=values, categories=categories))


def test_tasks_of_lm_eval() -> None:
    scores = [
        score("mmlu", "accuracy_micro", 0.75), score("mmlu", "accuracy_macro", 0.5),
        score("tasks arc_easy", "acc,none", 0.5),
        score("tasks gsm8k", "exact_match,strict", 0.25, settings="", settings_sha256=None, n=None),
        score("nobodys set", "loss", 2.0),
    ]  # fmt: skip
    questions = [
        rows("mmlu", "accuracy", [1.0, 1.0, 0.0, 1.0], ["law", "art", "law", "art"]),
        rows("tasks gsm8k", "exact_match,strict", [1.0, 0.0]), rows("tasks arc_easy", "other", [1.0, 0.0]),
    ]  # fmt: skip
    found = lm_eval._tasks(scores, questions)
    assert list(found) == ["mmlu", "arc_easy", "gsm8k", "nobodys_set", "mmlu_law", "mmlu_art"]
    whole = found["mmlu"]
    assert whole.results == {
        "acc,none": 0.75, "acc_stderr,none": pytest.approx(0.25), "acc_macro,none": 0.5, "acc_macro_stderr,none": "N/A",
    }  # fmt: skip
    assert whole.higher_is_better == {"acc": True, "acc_macro": True}
    assert (whole.num_shots, whole.num_samples, whole.version) == (5, 9, "0123456789ab")
    assert whole.subtasks == ["mmlu_law", "mmlu_art"]
    assert whole.config == {
        "task": "mmlu", "num_fewshot": 5,
        "metadata": {"settings": "num_shots 5, x", "settings_sha256": "0123456789abcdef", "made_by": "qlora-harness"},
    }  # fmt: skip
    law = found["mmlu_law"]
    assert law.results == {"acc,none": 0.5, "acc_stderr,none": pytest.approx(0.5)}
    assert (law.higher_is_better, law.num_shots, law.num_samples, law.version) == ({"acc": True}, 5, 2, whole.version)
    assert law.config == whole.config | {"task": "mmlu_law"}
    strict = found["gsm8k"]
    assert strict.results == {"exact_match,strict": 0.25, "exact_match_stderr,strict": pytest.approx(0.5)}
    assert (strict.num_shots, strict.num_samples, strict.version) == (0, None, "N/A")
    assert found["arc_easy"].results == {"acc,none": 0.5, "acc_stderr,none": "N/A"}
    assert found["nobodys_set"].higher_is_better == {}
    assert lm_eval.standard_error([1.0, 2.0, 4.0]) == pytest.approx(math.sqrt(14 / 3 / 2 / 3))
    assert [lm_eval.standard_error([1.0] * n) for n in (1, 2)] == ["N/A", 0.0]


def run_of(name: str, **more: Any) -> Any:
    record = made(
        spec={"model": {"hub_id": "o/m", "revision": "r"}, "quant": {"compute_dtype": "bfloat16"}}, git_commit="g",
        finished="2026-01-01T00:01:00+00:00", packages={"transformers": "5"}, base_fingerprint="b",
    )  # fmt: skip
    values = {"run_id": f"id-{name}", "name": name, "record": record, "folder": Path(name), "reason": None, "spec": {}}
    return made(**(values | more))


def test_a_results_file_says_of_what_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measured = [score("x", "acc", 0.5)]
    monkeypatch.setattr(lm_eval, "measured_scores", lambda folder: [] if "bare" in str(folder) else measured)
    monkeypatch.setattr(lm_eval, "read_questions", lambda folder: [])
    runs = [run_of("a/b"), run_of("bare"), run_of("cut", record=None)]
    assert [lm_eval.lm_eval_results(run) is None for run in runs] == [False, True, True]
    found: dict[str, Any] = lm_eval.lm_eval_results(runs[0])  # type: ignore[assignment]
    assert found["results"] == {"x": {"alias": "x", "acc,none": 0.5, "acc_stderr,none": "N/A"}}
    assert (found["group_subtasks"], found["n-shot"], found["versions"]) == ({"x": []}, {"x": 5}, {"x": "0123456789ab"})
    assert found["n-samples"] == {"x": {"original": 9, "effective": 9}}
    assert (found["config"]["model_args"], found["config"]["model_revision"], found["config"]["model_dtype"]) == (
        "pretrained=o/m,peft=id-a/b", "r", "bfloat16",
    )  # fmt: skip
    assert (found["git_hash"], found["date"], found["transformers_version"]) == ("g", "2026-01-01T00:01:00+00:00", "5")
    assert (found["model_name"], found["model_name_sanitized"]) == ("a/b", "a__b")
    runs[0].name = "ab"
    assert list(lm_eval.write_lm_eval(runs, tmp_path)) == [tmp_path / "ab" / "results_2026-01-01T00-01-00.json"]


def test_adapters_are_exported_kept_or_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    exported: list[Any] = []

    def export(folder: Path, out: Path, **more: Any) -> Any:
        exported.append((folder, out, more))
        if folder.name == "broken":
            raise ExportRefusedError("no weights")
        return made(notes=("look",))

    monkeypatch.setattr(hub, "export", export)
    measured = [score("mmlu", "acc", 0.51234, low=0.5, high=0.525), score("x", "y", 2.0, is_headline=False)]
    measured.append(score("z", "w", 3.0, low=1.0))
    monkeypatch.setattr(hub, "measured_scores", lambda folder: measured)
    spec = {"adapter": {"method": "lora", "lora_r": 8}}
    runs = [
        run_of("new", spec=spec), run_of("there", spec={"adapter": {"method": "lora", "lora_r": 64}}),
        run_of("broken", spec=spec), run_of("base", spec={"adapter": {"method": "none"}}),
        run_of("cut", record=None, reason="cut off"),
    ]  # fmt: skip
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "README.md").touch()
    done: list[str] = []
    found = hub.write_hub(runs, tmp_path, "T", "mit", "paths", "o/m", done.append)  # type: ignore[arg-type]
    assert found.written == ("new", "there") == tuple(done)
    assert found.left_out == (
        ("broken", "no weights"), ("base", "an untouched base has no adapter"), ("cut", "cut off"),
    )  # fmt: skip
    assert found.notes == ("look",)
    assert exported[0] == (Path("new"), tmp_path / "new", {"license_id": "mit", "paths": "paths", "base": "o/m"})
    card = (tmp_path / "README.md").read_text()
    assert "license: mit\nlibrary_name: peft\ntags:\n- qlora-harness\n" in card
    assert "# T\n\n2 adapters, each in its folder" in card
    assert card.splitlines()[-4:] == [
        "| run | r | mmlu acc | z w |", "| --- | --- | --- | --- |",
        "| [new](./new) | 8 | 0.5123 [0.5, 0.525] | 3 |", "| [there](./there) | 64 | 0.5123 [0.5, 0.525] | 3 |",
    ]  # fmt: skip
    assert hub.write_hub(runs[:1], tmp_path / "silent", "T").written == ("new",)
    runs[1].record = made(base_fingerprint="other")
    with pytest.raises(ValueError, match="--base o/m: these runs were trained on 2 bases; export each base's"):
        hub.write_hub(runs, tmp_path, "T", base="o/m")
    nothing = hub.write_hub(runs[3:], tmp_path / "none", "T")
    assert (nothing.written, (tmp_path / "none").exists()) == ((), False)
    (tmp_path / "there" / "adapter_config.json").write_text('{"base_model_name_or_path": "x"}')
    hub._require_base(tmp_path / "there", "x")
    hub._require_base(tmp_path / "there", None)
    with pytest.raises(ExportRefusedError, match="is there from before, with the base x; remove it to export it anew"):
        hub._require_base(tmp_path / "there", "y")
    assert [hub._text(value) for value in (None, 0.5, 1.0, 8, "a")] == ["", "0.5", "1", "8", "a"]


@pytest.mark.parametrize("tournament", [None, Path("t")])
def test_all_frames_are_of_one_source(monkeypatch: pytest.MonkeyPatch, tournament: Path | None) -> None:
    names = ("runs", "scores", "questions", "metrics", "answers", "verdicts", "ratings")
    for name in names:
        monkeypatch.setattr(tables, name, lambda name=name, **given: (name, given))
    found = tables.all_frames(Source(runs_folder=Path("r"), sweep="s", tournament=tournament, ledger_url="u"))
    given = {"runs_folder": Path("r"), "sweep": "s", "tournament": tournament, "ledger_url": "u"}
    expected = {name: (name, {"tournament": tournament} if name == "verdicts" else given) for name in names}
    assert found == (expected if tournament else {name: expected[name] for name in names[:5]})


def test_frames_are_written_with_a_table_of_their_columns(tmp_path: Path) -> None:
    frames = {"one": pd.DataFrame({"label": ["=x", None], "value": [0.5, 1.0]}), "two": pd.DataFrame({"loss": [2.0]})}
    written = list(tables.write_csv(frames, tmp_path))
    assert [path.name for path in written] == ["one.csv", "two.csv", "columns.csv"]
    assert written[0].read_text().splitlines()[0] == "label,value"
    assert written[0].read_text().splitlines()[2] == ",1.0"
    columns = tables.columns_of(frames)
    assert list(columns) == ["frame", "name", "type", "unit", "about"]
    assert (columns["frame"].tolist(), columns["name"].tolist(), columns.index.tolist()) == (
        ["one", "one", "two"], ["label", "value", "loss"], [0, 1, 2],
    )  # fmt: skip
    assert [path.name for path in tables.write_parquet(frames, tmp_path)] == ["one.parquet", "two.parquet"]
