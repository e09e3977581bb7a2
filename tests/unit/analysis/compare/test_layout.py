"""Which axes are searched, held apart or given along, and what `--on` names: by value, on frames made by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.compare import command, scores
from analysis.compare.levels import Layout, axis_title, layout_of, with_choices
from analysis.compare.options import Correction, SelectOn
from analysis.compare.scores import Frames, grid_on, without_value
from analysis.effects.grid import GridResults
from analysis.tidy.sources import FoundRun, Source


def runs_of(*rows: dict[str, Any]) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows))
    frame["run_id"] = [f"id{number}" for number in range(len(frame))]
    frame["label"] = [f"run{number}" for number in range(len(frame))]
    return frame.assign(state="done", reason=None)


def test_axes_are_sorted_by_what_they_vary_within() -> None:
    frame = runs_of(
        *(
            {"adapter": adapter, "method": adapter, "model": model, "learning_rate": rate, "data_type": stored,
             "batch_size": 16 if adapter == "a" else 32, "quant.extra": extra, "seed": seed}
            for adapter in ("a", "b") for model, stored in (("7b", "nf4"), ("13b", "nf4")) for rate in (1.0, 2.0)
            for extra in (1, 2) for seed in (0, 1)
        )
    )  # fmt: skip
    found = layout_of(frame, "adapter")
    assert found == Layout(
        axis="adapter", within=("model", "quant.extra"), searched=("learning_rate",), along=("method", "batch_size"),
        seeds=("seed",),
    )  # fmt: skip
    assert found.columns == ["adapter", "model", "quant.extra", "learning_rate"]
    apart = layout_of(frame, "adapter", ["train.learning_rate"])
    assert (apart.within, apart.searched) == (("learning_rate", "model", "quant.extra"), ())
    by_model = layout_of(frame, "model")
    assert (by_model.axis, by_model.within) == ("model", ("quant.extra",))
    assert (by_model.searched, by_model.along) == (("method", "batch_size", "learning_rate"), ())


def test_a_model_that_goes_with_its_level_is_given_along_and_not_held_apart() -> None:
    frame = runs_of(*({"adapter": a, "method": a, "model": f"m{a}", "seed": 0} for a in ("a", "b")))
    found = layout_of(frame, "adapter")
    assert (found.within, found.searched, found.along, found.seeds) == ((), (), ("model", "method"), ())
    assert layout_of(frame, "method").along == ("model",)


def test_what_is_searched_in_one_level_alone_is_searched() -> None:
    rows = [{"adapter": "a", "method": "a", "lora_r": 8}, {"adapter": "a", "method": "a", "lora_r": 16}]
    found = layout_of(runs_of(*rows, {"adapter": "b", "method": "b", "lora_r": 8}), "adapter")
    assert (found.searched, found.along) == (("lora_r",), ("method",))


def test_what_is_missing_is_a_value_of_its_own() -> None:
    rows = [{"adapter": "a", "method": "a", "max_rows": n} for n in (None, 100)]
    found = layout_of(runs_of(*rows), "dataset.max_rows")
    assert (found.axis, found.within) == ("max_rows", ())
    rows.append({"adapter": "b", "method": "b", "max_rows": 100})
    assert layout_of(runs_of(*rows), "adapter").within == ("max_rows",)


@pytest.mark.parametrize(
    ("axis", "within", "said"),
    [
        ("lora_r", (), "--axis lora_r: all runs have the same; they differ in adapter, method"),
        ("label", (), "--axis label: no axis of these runs; they have adapter, method."),
        ("adapter", ("metod",), "--within metod: no axis of these runs; they have adapter, method. Did you mean me"),
    ],
)  # fmt: skip
def test_an_axis_that_the_runs_do_not_have(axis: str, within: tuple[str, ...], said: str) -> None:
    frame = runs_of(*({"adapter": a, "method": a, "lora_r": 8} for a in ("a", "b")))
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        layout_of(frame, axis, within)
    assert str(caught.value).startswith(said)


def test_runs_that_differ_in_nothing() -> None:
    frame = runs_of(*({"adapter": "a", "method": "a", "lora_r": 8} for _ in range(2)))
    with pytest.raises(ValueError, match="--axis adapter: all runs have the same; they differ in nothing"):
        layout_of(frame, "adapter")


@pytest.mark.parametrize(
    ("axis", "column"),
    [
        ("quant", "data_type"),
        ("train.optimizer", "optimizer"),
        ("train.weight_decay", "train.weight_decay"),
        ("r", None),
    ],
)
def test_names_of_axes(axis: str, column: str | None) -> None:
    rows = [{"adapter": "a", "data_type": d, "optimizer": d, "train.weight_decay": d, "r": d} for d in ("x", "y")]
    if column is None:
        with pytest.raises(ValueError, match="no axis of these runs"):
            layout_of(runs_of(*rows), axis)
    else:
        assert layout_of(runs_of(*rows), axis).axis == column
    assert [axis_title(name) for name in ("adapter", "lora_r", "train.x")] == ["method", "r", "train.x"]


def found_run(**adapter: Any) -> FoundRun:
    fields: dict[str, Any] = dict.fromkeys(FoundRun.__dataclass_fields__)
    return FoundRun(**(fields | {"spec": {"adapter": adapter} if adapter else {}}))


def test_a_choices_name_stands_for_its_method_unless_it_has_several() -> None:
    runs = [
        found_run(name="lora", method="lora"), found_run(name="mine", method="lora"),
        found_run(name="mine", method="rslora"), found_run(method="rslora"), found_run(),
    ]  # fmt: skip
    frame = with_choices(pd.DataFrame({"x": range(5)}), runs)
    assert frame["adapter"].astype("object").tolist()[:4] == ["lora", "mine lora", "mine rslora", "rslora"]
    assert frame["adapter"].isna().tolist() == [False] * 4 + [True]


LAYOUT = Layout(axis="adapter", within=(), searched=(), along=(), seeds=("seed", "data_seed"))


def scores_of(*rows: tuple[str, str, str, float | None, bool | None, str | None]) -> pd.DataFrame:
    names = ("run_id", "evaluation", "metric", "value", "is_headline", "unit")
    frame = pd.DataFrame(list(rows), columns=list(names))
    frame["is_headline"] = frame["is_headline"].astype("boolean")
    frame["value"] = frame["value"].astype("Float64")
    return frame.assign(higher_is_better=True, settings_sha256="s", weight=None, question="")


RUNS = runs_of(
    {"adapter": "a", "method": "a", "seed": 0, "data_seed": None, "final_loss": 1.0, "eval_loss": None},
    {"adapter": "b", "method": "b", "seed": 1, "data_seed": 5, "final_loss": 2.0, "eval_loss": None},
).assign(eval_bits_per_byte=None, train_seconds=None, peak_memory_bytes=None)
SCORES = scores_of(
    ("id0", "glue rte", "accuracy", 0.5, True, "share"), ("id1", "glue rte", "accuracy", 0.75, True, "share"),
    ("id0", "glue rte", "loss", 2.5, False, "nats"), ("id1", "glue rte", "loss", 3.5, False, "nats"),
    ("id0", "glue sst2", "accuracy", 0.5, None, "share"), ("id1", "glue sst2", "accuracy", 1.0, None, "share"),
    ("id0", "super_ni", "rouge_l", None, True, "share"), ("id0", "mmlu", "accuracy", 0.5, True, "share"),
)  # fmt: skip
NONE = scores_of()


def question(run: str, evaluation: str, metric: str, name: str, value: float, unit: str) -> dict[str, Any]:
    return {
        "run_id": run, "evaluation": evaluation, "metric": metric, "question": name, "value": value, "unit": unit,
        "higher_is_better": True, "settings_sha256": "s", "weight": None,
    }  # fmt: skip


QUESTIONS = pd.DataFrame(
    [question(run, "mmlu", "accuracy", f"q{n}", value, "right")
     for n in (1, 2) for run, value in (("id0", 1.0), ("id1", n % 2))]
    + [question(run, "super_ni", metric, f"t{n}", 0.25 * n, unit)
       for n in (1, 2) for run in ("id0", "id1") for metric, unit in (("rouge_l", "share"), ("exact_match", "nats"))]
)  # fmt: skip


def on(name: str, frames: Frames | None = None, layout: Layout = LAYOUT) -> GridResults:
    return grid_on(frames or Frames(runs=RUNS, scores=SCORES, questions=QUESTIONS), layout, name)


@pytest.mark.parametrize(
    ("name", "measure", "unit", "values"),
    [
        ("final_loss", "final_loss", "nats a token", [[1.0], [2.0]]),
        ("glue rte", "glue rte accuracy", "points", [[50.0], [75.0]]),
        ("rte", "glue rte accuracy", "points", [[50.0], [75.0]]),
        ("rte:loss", "glue rte loss", "nats", [[2.5], [3.5]]),
        ("sst2", "glue sst2 accuracy", "points", [[50.0], [100.0]]),
        ("mmlu", "mmlu accuracy", "points", [[100.0, 100.0], [100.0, 0.0]]),
        ("super_ni", "super_ni rouge_l", "points", [[25.0, 50.0]] * 2),
        ("super_ni:exact_match", "super_ni exact_match", "nats", [[0.25, 0.5]] * 2),
    ],
)
def test_what_on_names(name: str, measure: str, unit: str, values: list[list[float]]) -> None:
    found = on(name)
    assert (found.measure, found.unit, found.values.tolist(), found.axes) == (measure, unit, values, ("adapter",))
    assert found.seeds == ("seed", "data_seed")
    assert found.columns == {"adapter": ("a", "b"), "seed": (0, 1), "data_seed": (None, 5.0)}


def test_seeds_that_the_runs_with_a_value_share_stay_seeds() -> None:
    frames = Frames(runs=RUNS.assign(seed=7), scores=SCORES, questions=QUESTIONS)
    assert on("final_loss", frames).columns["seed"] == (7, 7)
    alone = on("final_loss", layout=Layout(axis="adapter", within=(), searched=(), along=(), seeds=("seed",)))
    assert alone.seeds == ("seed",)


def test_a_metric_without_questions_is_taken_of_the_whole_scores() -> None:
    macro = [(run, "mmlu", "macro", value, False, "share") for run, value in (("id0", 0.5), ("id1", 0.25))]
    more = pd.concat([SCORES, scores_of(*macro)])
    found = on("mmlu:macro", Frames(runs=RUNS, scores=more, questions=QUESTIONS))
    assert (found.measure, found.values.tolist()) == ("mmlu macro", [[50.0], [25.0]])
    unknown = Frames(runs=RUNS, scores=NONE, questions=QUESTIONS)
    assert on("super_ni", unknown).measure == "super_ni rouge_l"  # the first of the file


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("eval_loss", "--on eval_loss: no run has it; train with train.eval_rows=N"),
        ("train_seconds", "--on train_seconds: no run has it"),
        ("glue", "--on glue: several evaluations are called so: glue rte, glue sst2"),
        ("mmlo", "--on mmlo: no run has such a score. Did you mean mmlu?"),
        ("final_los", "--on final_los: no run has such a score. Did you mean final_loss?"),
        ("zzz", "--on zzz: no run has such a score. Known: glue rte, glue sst2, mmlu, final_loss"),
    ],
)
def test_what_on_cannot_name(name: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        on(name)
    assert str(caught.value) == said


def test_evaluations_by_their_beginning_their_end_or_whole() -> None:
    frame = scores_of(*((f"id{n}", name, "m", 1.0, True, None) for n, name in enumerate(("a b", "c d", "d", "e f g"))))
    found = [scores._evaluation(frame, name) for name in ("a", "b", "d", "e", "f g", "g", "a b")]
    assert found == ["a b", "a b", "d", "e f g", "e f g", None, "a b"]
    assert scores._evaluation(pd.DataFrame(), "a") is None
    assert scores._names(pd.DataFrame({"evaluation": ["a"]})) == []


def test_the_headline_stands_for_an_evaluation_and_else_its_first_metric_with_a_value() -> None:
    frame = scores_of(
        ("id0", "x", "lost", None, True, None), ("id0", "x", "first", 1.0, None, None),
        ("id0", "x", "second", 2.0, True, None),
        ("id0", "y", "only", 1.0, None, None), ("id0", "z", "none", None, True, None),
    )  # fmt: skip
    assert [scores._headline(frame, name) for name in "xyzw"] == ["second", "only", "", ""]
    assert scores._headline(NONE, "x") == ""
    assert scores._has_metric(frame, "x", "first")
    assert not scores._has_metric(frame, "y", "first")
    rows = [question("id0", "x", metric, "q", 1.0, "u") for metric in ("other", "second")]
    frames = Frames(runs=RUNS, scores=frame, questions=pd.DataFrame(rows))
    assert scores._first_metric(frames, "x") == "second"
    assert scores._first_metric(Frames(runs=RUNS, scores=NONE, questions=frames.questions), "x") == "other"
    assert scores._first_metric(frames, "y") is None


def test_shares_and_rights_and_wrongs_are_points_and_nothing_else_is() -> None:
    def grid(values: Any, unit: str = "") -> GridResults:
        table = np.array(values)
        names = [f"q{n}" for n in range(table.shape[1])]
        return GridResults.of(RUNS, table, measure="m", unit=unit, questions=names, axes=["adapter"], seeds=[])

    for table, unit, is_points in (
        ([[0.5], [1.0]], "share", True), ([[0.0], [1.0]], "", False), ([[0.0, 1.0], [1.0, np.nan]], "", True),
        ([[0.0, 1.0], [1.0, 0.5]], "", False), ([[0.0, 2.0], [1.0, 0.0]], "", False),
    ):  # fmt: skip
        found = scores._in_points(grid(table, unit))
        assert found.unit == ("points" if is_points else unit)
        np.testing.assert_array_equal(found.values, np.array(table) * (100 if is_points else 1))


def test_runs_without_a_value_have_their_reason() -> None:
    frame = runs_of(*({"adapter": a, "method": a} for a in "abcd"))
    frame.loc[1, ["state", "reason"]] = ["failed", "no memory"]
    frame.loc[2, "label"] = None
    frame["final_loss"] = [1.0, None, None, 2.0]
    grid = on("final_loss", Frames(runs=frame, scores=NONE, questions=NONE), Layout(
        axis="adapter", within=(), searched=(), along=(), seeds=()))  # fmt: skip
    assert without_value(frame, grid) == [
        {"run_id": "id1", "label": "run1", "state": "failed", "reason": "no memory"},
        {"run_id": "id2", "label": None, "state": "done", "reason": "no final_loss"},
    ]


def test_margins_by_score() -> None:
    read = command.read_margins
    assert read((), ["mmlu"]) == {}
    assert read(("1.5", "a=b=0.02"), ["a=b"]) == {"": 1.5, "a=b": 0.02}
    for wrong in ("0", "-1", "inf", "nan", "x", "mmlu="):
        with pytest.raises(ValueError, match=f"--margin {wrong}: the largest difference that counts as none, a num"):
            read((wrong,), ["mmlu"])
    with pytest.raises(ValueError, match="--margin loss=1: --on names mmlu, x"):
        read(("loss=1",), ["mmlu", "x"])
    points, nats = on("mmlu"), on("final_loss")
    assert [command._margin({"": 1.5}, "m", grid) for grid in (points, nats)] == [1.5, None]
    assert [command._margin({"": 1.5, "m": 0.5}, "m", grid) for grid in (points, nats)] == [0.5, 0.5]
    assert command._margin({}, "m", points) is None
    grid = on("final_loss", Frames(runs=RUNS.assign(eval_loss=[None, 2.5]), scores=SCORES, questions=QUESTIONS))
    assert command._held_out_losses(grid) == {"run1": 2.5}


def test_the_command_hands_on_what_was_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(command, "contests", lambda *given: seen.append(given) or ["found"])
    monkeypatch.setattr(command, "_show", lambda *given: seen.append(given))
    more: Any = {"ledger_url": "u", "margin": ["2"], "within": "model, quant,", "correction": Correction.bh}
    more |= {"select_on": SelectOn.questions, "out": tmp_path / "o", "as_json": True, "axis": "r"}
    command.compare(on=" mmlu, eval_loss ,", runs=tmp_path, sweep="s", **more)
    (source, *rest), shown = seen
    assert (source.runs_folder, source.sweep, source.ledger_url) == (tmp_path, "s", "u")
    assert rest == ["r", ["mmlu", "eval_loss"], {"": 2.0}, ["model", "quant"], Correction.bh, SelectOn.questions]
    assert shown == (["found"], True, tmp_path / "o")
    seen.clear()
    command.compare(on="mmlu")
    assert seen[0][1:] == ("adapter", ["mmlu"], {}, [], Correction.holm, SelectOn.auto)
    assert (seen[0][0].runs_folder, seen[0][0].sweep, seen[0][0].ledger_url) == (None, None, None)
    assert seen[1] == (["found"], False, None)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--out .*file: it is a file"):
        command.compare(on="mmlu", out=tmp_path / "file")


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{tmp_path}: no runs$"):
        command.compare(on="mmlu", runs=tmp_path)


def test_scores_are_read_of_the_same_sweep_and_every_choice_reaches_the_comparison(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}
    bases = pd.DataFrame({"method": ["none", "a", "b"], "run_id": list("xyz")})

    def frame_of(name: str, frame: pd.DataFrame) -> Any:
        return lambda **given: seen.update({name: given}) or frame

    monkeypatch.setattr("analysis.frames.scores", frame_of("scores", NONE))
    monkeypatch.setattr("analysis.frames.questions", frame_of("questions", NONE))
    monkeypatch.setattr("analysis.tidy.sources.found_runs", lambda source: ["run"])
    monkeypatch.setattr("analysis.tidy.rows.runs_frame", lambda found: bases)
    monkeypatch.setattr("analysis.compare.levels.with_choices", lambda frame, found: frame)
    monkeypatch.setattr("analysis.compare.levels.layout_of", lambda frame, axis, within: (axis, list(within)))
    frames, layout = command._frames(Source(runs_folder=tmp_path, sweep="s", ledger_url="u"), "r", ["quant"])
    assert seen["scores"] == seen["questions"] == {"runs_folder": tmp_path, "sweep": "s", "ledger_url": "u"}
    assert (list(frames.runs.index), list(frames.runs.columns), list(frames.runs["run_id"])) == (
        [0, 1], ["method", "run_id"], ["y", "z"],
    )  # fmt: skip
    assert layout == ("r", ["quant"])  # type: ignore[comparison-overlap]
    compared: list[Any] = []
    frames = Frames(runs=RUNS, scores=SCORES, questions=QUESTIONS)
    monkeypatch.setattr(command, "_frames", lambda *given: (frames, LAYOUT))
    monkeypatch.setattr("analysis.compare.contest.compare_levels", lambda *given: compared.append(given))
    source = Source(runs_folder=tmp_path)
    command.contests(source, "adapter", ["mmlu", "final_loss"], {"": 1.5}, [], Correction.bh, SelectOn.questions)
    options = [given[3] for given in compared]
    assert [(one.margin, one.correction, one.select_on) for one in options] == [
        (1.5, Correction.bh, SelectOn.questions), (None, Correction.bh, SelectOn.questions),
    ]  # fmt: skip


def test_a_text_for_a_file_is_plain_and_of_80_columns() -> None:
    assert command._as_text("[bold]x[/bold] :smile: 12 'a'") == "[bold]x[/bold] :smile: 12 'a'\n"
    assert command._as_text("x" * 81) == "x" * 80 + "\nx\n"
