"""Figures about runs: MMLU by subject and against rating, cost against quality, memory, losses."""

import math
from dataclasses import replace

from analysis.report.content import Content
from analysis.report.figures import bin_means
from analysis.report.plots.charts import Line, Point, curves, heat_map, scatter
from analysis.report.plots.drawing import Figure
from analysis.report.records import Run
from eval.benchmarks.mmlu.questions import NUM_CHOICES
from harness.memory.runs import predict_run
from harness.runs.record import RECORD_FILE
from harness.runs.spec import RunSpec

MAX_SYSTEMS = 30  # of the heat map of subjects
MAX_LINES = 8  # loss curves that can be told apart
MAX_BINS = 60  # points of a loss curve
GIB = 2**30


def mmlu_by_subject(content: Content) -> Figure:
    """Accuracy of each system on each subject."""
    scored = [run for run in content.runs if run.mmlu is not None]
    subjects = sorted({subject for run in scored for subject in (run.mmlu.subjects if run.mmlu else ())})
    shown = scored[:MAX_SYSTEMS]
    cells = [[_accuracy(run, subject) for run in shown] for subject in subjects]
    chance = 100 / NUM_CHOICES
    spread = max((abs(value - chance) for row in cells for value in row if value is not None), default=1.0) or 1.0
    return Figure(
        name="mmlu-by-subject",
        title="MMLU by subject",
        caption=f"Percent correct; grey is chance, {chance:.0f} percent."
        if subjects
        else "Not measured: no run was scored on MMLU by subject.",
        columns=("system", "run_id", "subject", "accuracy", "n"),
        rows=tuple(
            (run.record.label, run.record.run_id, subject, *run.mmlu.subjects[subject])
            for run in scored
            for subject in subjects
            if run.mmlu and subject in run.mmlu.subjects
        ),
        drawing=heat_map(subjects, [run.record.label for run in shown], cells, chance - spread, chance + spread)
        if subjects
        else None,
    )


def mmlu_against_rating(content: Content) -> Figure:
    """Do systems that know more answer better?"""
    rows = [row for row in content.rows if row.mmlu_macro is not None and row.bt_rating is not None]
    points = [
        Point(label=row.system, x=100 * row.mmlu_macro, y=row.bt_rating)
        for row in rows
        if row.mmlu_macro is not None and row.bt_rating is not None
    ]
    return Figure(
        name="mmlu-against-rating",
        title="MMLU against rating",
        caption="One dot a system; pointed at, a dot tells its name."
        if points
        else "Not measured: no system has both a rating and MMLU.",
        columns=("system", "mmlu_macro", "bradley_terry"),
        rows=tuple((row.system, row.mmlu_macro, row.bt_rating) for row in rows),
        drawing=scatter(points, "MMLU, percent", "Bradley-Terry, points") if points else None,
    )


def cost_against_quality(content: Content) -> Figure:
    """Training time against rating, or against MMLU where nothing was rated."""
    is_rated = any(row.bt_rating is not None and row.train_seconds for row in content.rows)
    found = [
        (row, row.train_seconds, row.bt_rating if is_rated else 100 * row.mmlu_macro if row.mmlu_macro else None)
        for row in content.rows
    ]
    points = [
        Point(label=row.system, x=cost, y=quality) for row, cost, quality in found if cost and quality is not None
    ]
    unit = "Bradley-Terry, points" if is_rated else "MMLU, percent"
    return Figure(
        name="cost-against-quality",
        title="Cost against quality",
        caption="Training time of each system, and what it reached. Memory and tokens are in the CSV."
        if points
        else "Not measured: no trained system has a rating or MMLU.",
        columns=("system", "train_seconds", "peak_memory_bytes", "target_tokens", "bradley_terry", "mmlu_macro"),
        rows=tuple(
            (r.system, r.train_seconds, r.peak_memory_bytes, r.target_tokens, r.bt_rating, r.mmlu_macro)
            for r, cost, quality in found
            if cost and quality is not None
        ),
        drawing=scatter(points, "training time, seconds", unit, is_log=True) if points else None,
    )


def memory(content: Content) -> Figure:
    """The peak that was predicted from shapes alone, and the one that was measured."""
    found = [(run, _predicted_bytes(run)) for run in content.runs if run.record.peak_memory_bytes]
    known = [(run, predicted) for run, predicted in found if predicted is not None]
    points = [
        Point(label=run.record.label, x=predicted / GIB, y=run.record.peak_memory_bytes / GIB)
        for run, predicted in known
    ]
    return Figure(
        name="memory",
        title="Memory, predicted and measured",
        caption="Peak of a run in GiB; on the dashed line both are alike. Nothing in the prediction is fitted."
        if points
        else "Not measured: no run has a measured peak and a model whose shape is known.",
        columns=("system", "run_id", "predicted_bytes", "measured_bytes"),
        rows=tuple((r.record.label, r.record.run_id, p, r.record.peak_memory_bytes) for r, p in known),
        drawing=scatter(points, "predicted, GiB", "measured, GiB", equal=True) if points else None,
    )


def losses(content: Content) -> Figure:
    """Training losses of the best systems on one pair of axes, and their losses on held-out text."""
    trained = [run for run in content.runs if run.losses]
    shown = trained[:MAX_LINES]
    lines = [
        Line(
            label=run.record.label,
            points=bin_means(run.losses, math.ceil(len(run.losses) / MAX_BINS)),
            end=_held_out_loss(run),
            beside=run.eval_losses,
        )
        for run in shown
    ]
    return Figure(
        name="losses",
        title="Loss and held-out loss",
        caption=f"Nats a target token in training, means of following steps; the best {len(shown)} systems. Rings: "
        "loss on held-out text, nats a token, from the perplexity benchmark, where it was measured; small rings: on "
        "the run's own held-out rows (train.eval_rows)."
        if shown
        else "Not measured: no run has a metrics.jsonl with losses.",
        columns=("system", "run_id", "kind", "step", "loss"),
        rows=tuple(row for run in shown for row in _loss_rows(run)),
        drawing=curves(lines, "step", "loss, nats a token") if lines else None,
    )


def _loss_rows(run: Run) -> list[tuple[str, str, str, int, float]]:
    label, run_id = run.record.label, run.record.run_id
    rows = [(label, run_id, "training", step, loss) for step, loss in run.losses]
    rows += [(label, run_id, "held-out rows", step, loss) for step, loss in run.eval_losses]
    held_out = _held_out_loss(run)
    return rows if held_out is None else [*rows, (label, run_id, "held out", run.losses[-1][0], held_out)]


def _held_out_loss(run: Run) -> float | None:
    """Nats a token of held-out text, after training; the first text that was scored."""
    found = [score.value for score in run.scores if score.metric == "token_perplexity" and score.value > 0]
    return math.log(found[0]) if found else None


def _accuracy(run: Run, subject: str) -> float | None:
    found = run.mmlu.subjects.get(subject) if run.mmlu else None
    return None if found is None else 100 * found[0]


def _predicted_bytes(run: Run) -> int | None:
    spec = RunSpec.from_dict(run.record.spec, str(run.folder / RECORD_FILE))
    if spec.train is not None and run.record.row_tokens is not None:
        spec = replace(spec, train=replace(spec.train, max_microbatch_tokens=run.record.row_tokens))
    prediction = predict_run(spec)
    return None if prediction is None else prediction.resident_bytes
