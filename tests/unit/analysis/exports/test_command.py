"""What `python -m analysis export` hands on and says, and questions as lines of Every Eval Ever: by value."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.exports import command, every_eval_ever
from analysis.exports.command import Format


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(command, "say", lambda text, *_: lines.append(text))
    return lines


def test_every_choice_reaches_what_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Any] = []
    for name in ("_write_frames", "_write_hub", "_write_scores"):
        monkeypatch.setattr(command, name, lambda *given, name=name: seen.append((name, *given)))
    monkeypatch.setattr("analysis.tidy.sources.found_runs", lambda source: ["run"])
    more: dict[str, Any] = {"sweep": "s", "runs": tmp_path, "ledger_url": "u", "tournament": tmp_path / "t"}
    more |= {"organization": "o", "license_": "l", "base": "b", "project": "p"}
    for format_ in Format:
        command.export(tmp_path, format_, **more)
    command.export(tmp_path, Format.csv)
    named = {one[0]: one for one in seen[:6]}
    frames, scores, hub = (named[name] for name in ("_write_frames", "_write_scores", "_write_hub"))
    assert [one[0] for one in seen[:6]] == ["_write_scores"] * 2 + ["_write_frames"] * 3 + ["_write_hub"]
    source = frames[1]
    assert (source.runs_folder, source.sweep, source.tournament, source.ledger_url) == (
        tmp_path,
        "s",
        tmp_path / "t",
        "u",
    )
    assert frames[2:] == (Format.wandb, tmp_path, "s", "p")
    assert scores[1:-1] == (["run"], Format.every_eval_ever, tmp_path, "s", "o")
    assert hub[1:-1] == (["run"], tmp_path, "s", "l", "b")
    assert seen[6][2:] == (Format.csv, tmp_path, "runs", None)


def test_runs_that_are_left_out_are_named_up_to_five(said: list[str]) -> None:
    left_out = [(f"r{n}", "why") for n in range(6)]
    named = ", ".join(f"r{n} (why)" for n in range(5))
    assert (command._named(left_out), command._named(left_out[:5])) == (f"{named} and 1 more", named)
    for num in (0, 1, 2):
        command._say_left_out(left_out[:num])
    assert said == ["note: left out 1 run: r0 (why)", "note: left out 2 runs: r0 (why), r1 (why)"]


def test_scores_say_how_many_runs_were_written(
    monkeypatch: pytest.MonkeyPatch, said: list[str], tmp_path: Path
) -> None:
    runs = [made(name=name, reason=reason) for name, reason in (("a", None), ("b", "failed"), ("c", None), ("d", None))]

    def write(found: Any, out: Path, *more: str) -> list[Any]:
        if found[0].name == "c":
            raise ValueError("torn")
        return [out, more] if found[0].name == "a" else []

    monkeypatch.setattr("analysis.exports.lm_eval.write_lm_eval", write)
    monkeypatch.setattr("analysis.exports.every_eval_ever.write_every_eval_ever", write)
    for format_ in (Format.lm_eval, Format.every_eval_ever):
        command._write_scores(runs, format_, tmp_path, "s", None, made(folder="f"))
    left_out = "note: left out 3 runs: b (failed), c (torn), d (no scores)"
    assert said == [f"{tmp_path}: 1 of 4 runs written", left_out] * 2
    for some, why in ((runs[1:2], "; b (failed)"), ([], "")):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            command._write_scores(some, Format.lm_eval, tmp_path, "s", None, made(folder="f"))
        assert str(caught.value) == f"f: no finished run has a score; measure with `python -m eval` first{why}"


def test_frames_say_what_was_written(monkeypatch: pytest.MonkeyPatch, said: list[str], tmp_path: Path) -> None:
    monkeypatch.setattr("analysis.exports.tables.all_frames", lambda source: {"runs": 1, "scores": 2})
    monkeypatch.setattr("analysis.exports.wandb_tables.write_wandb", lambda frames, out, *more: "/".join(more))
    for kind in ("csv", "parquet"):
        monkeypatch.setattr(f"analysis.exports.tables.write_{kind}", lambda frames, out, kind=kind: [f"x.{kind}"])
    for format_, project in ((Format.wandb, "p"), (Format.wandb, None), (Format.parquet, None), (Format.csv, None)):
        command._write_frames(made(), format_, tmp_path, "s", project)
    assert said == [
        "s/p: runs, scores; `wandb sync s/p` uploads them",
        "s/qlora-harness: runs, scores; `wandb sync s/qlora-harness` uploads them",
        "written: x.parquet",
        "written: x.csv",
    ]


def test_adapters_say_what_was_written(monkeypatch: pytest.MonkeyPatch, said: list[str], tmp_path: Path) -> None:
    result = made(written=["a", "b"], left_out=[("c", "no adapter")], notes=["look"], folder="f")
    seen: list[Any] = []
    monkeypatch.setattr("analysis.exports.hub.write_hub", lambda *given: seen.append(given) or result)
    command._write_hub(["run"], tmp_path, "s", None, "b", made(folder=tmp_path))  # type: ignore[list-item]
    assert said == ["f: 2 adapters", "note: left out 1 run: c (no adapter)", "note: look"]
    assert (seen[0][:4], seen[0][5]) == ((["run"], tmp_path, "s", "unknown"), "b")
    result.written = []
    with pytest.raises(ValueError, match=r"no run has an adapter to export; c \(no adapter\)"):
        command._write_hub([], tmp_path, "s", "mit", None, made(folder=tmp_path))
    assert seen[1][3] == "mit"


def test_questions_that_are_right_or_wrong_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def part(evaluation: str, metric: str, **more: Any) -> Any:
        values = {"names": ["q1", "q2"], "values": [1.0, 0.0], "given": ["A", "B"], "expected": [["A"], ["C"]]}
        scores = made(metric=metric, categories=["x", "y"], **(values | more))
        return made(evaluation=evaluation, scores=scores, settings_sha256="d")

    parts = [part("mmlu", "accuracy"), part("mmlu", "loss"), part("other", "accuracy")]
    parts.append(part("z", "nats"))
    monkeypatch.setattr(every_eval_ever, "read_questions", lambda folder: parts)
    ids = [every_eval_ever._result_id("r", name, metric) for name, metric in (("mmlu", "accuracy"), ("z", "nats"))]
    record = {
        "evaluation_id": "e",
        "model_info": {"id": "m"},
        "evaluation_results": [{"evaluation_result_id": name} for name in ids],
    }
    lines = every_eval_ever.instance_records(made(run_id="r", folder=Path("f")), record)
    assert [(line["sample_id"], line["evaluation"]["is_correct"]) for line in lines] == [("q1", True), ("q2", False)]
    assert [line["evaluation"]["score"] for line in lines] == [1.0, 0.0]
    first = lines[0]
    assert (first["evaluation_id"], first["model_id"], first["evaluation_result_id"]) == ("e", "m", ids[0])
    assert (first["input"], first["output"]) == ({"raw": "q1", "reference": ["A"]}, {"raw": ["A"]})
    assert first["answer_attribution"] == [
        {
            "turn_idx": 0,
            "source": "output.raw",
            "extracted_value": "A",
            "extraction_method": "exact_match",
            "is_terminal": True,
        }
    ]


def test_lines_of_an_earlier_export_do_not_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines: list[Any] = [[{"a": 1}], []]
    monkeypatch.setattr(every_eval_ever, "every_eval_ever_record", lambda *given: {"now": given[-1]})
    monkeypatch.setattr(every_eval_ever, "_uuid", lambda values: "u")
    monkeypatch.setattr(every_eval_ever, "instance_records", lambda run, values: lines.pop(0))
    for num in (1, 0):
        [path] = every_eval_ever.write_every_eval_ever([made(name="r")], tmp_path, "c", "o", now=5.0)
        assert path == tmp_path / "data" / "c" / "o" / "r" / "u.json"
        assert len(list(path.parent.glob("*_samples.jsonl"))) == num
        assert ("detailed_evaluation_results" in path.read_text()) is bool(num)
    lines.append([{"a": float("nan")}])
    with pytest.raises(ValueError, match="JSON"):
        list(every_eval_ever.write_every_eval_ever([made(name="r")], tmp_path, "c", "o", now=5.0))
