"""Draws the paper's figures from the runs of their grids, and of the predicted memory, as SVG and CSV.

    figure = paper_figure("4", OwnRuns.of_sweep(runs, "lora_r", ledger_url))

The points of the paper's figures 2 to 4 are not printed, so ours stand alone; Figure 6's totals are, and stand beside
ours. Figures 2 and 4 show RougeL on held-out Alpaca rows that the authors didn't publish: ours are held-out rows of our
own (`eval=rouge`); runs that were not scored by it show their final training loss instead, and say so.

Source: QLoRA (arXiv 2305.14314), Figures 2, 3, 4 and 6.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean

from analysis.paper.own import OwnRun, OwnRuns, headline_of
from analysis.paper.places import Spec, data_type_of
from analysis.paper.values import value
from analysis.report.plots.charts import Interval, Line, curves, intervals
from analysis.report.plots.drawing import Figure
from harness.config.schema import ShapeConfig
from harness.memory.paper import LLAMA_SIZES, recipe_prediction
from harness.models.locate import num_parameters

GIGA = 1e9
BITS = {"BF16": 16.0, "fp4": 4.5, "nf4": 4.5, "nf4 + DQ": 4.127}  # a parameter, with its constants (section 3)
LOSS_UNIT = "nats a target token"
ROUGE = (
    "RougeL of greedy answers to held-out rows of our own, %; bars span the runs of a setting. The paper's rows are "
    "not published."
)
LOSS = "Final training loss, nats a target token; bars span the runs of a setting. No run was scored by eval=rouge."
PARTLY = "{} of {} runs were not scored by eval=rouge and are left out."


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperFigure:
    """How a figure is made."""

    grid: str | None  # whose runs it shows; None: no run is needed
    title: str
    draw: Callable[[OwnRuns], Figure]


def paper_figure(name: str, own: OwnRuns) -> Figure:
    """One of the paper's figures; without a drawing where nothing was run.

    Args:
        name: "2", "3", "4" or "6".
        own: the finished runs of its grid (`FIGURES[name].grid`).

    Raises:
        ValueError: another figure, or a result that can't be read.
    """
    if name not in FIGURES:
        raise ValueError(f"figure {name!r}: expected one of {', '.join(FIGURES)}")
    return FIGURES[name].draw(own)


def _by_setting(name: str, title: str, own: OwnRuns, group: Callable[[Spec], str]) -> Figure:
    """RougeL, or the final loss where no run has it, by a setting: the mean over runs, the smallest and the largest."""
    rouge = [(run, score[0]) for run in own.runs if (score := _rouge(run)) is not None]
    loss = [(run, run.final_loss) for run in own.runs if run.final_loss is not None]
    what, unit, caption, measured = ("rouge_l", "%", ROUGE, rouge) if rouge else ("final_loss", LOSS_UNIT, LOSS, loss)
    if rouge and len(rouge) < len(own.runs):
        caption = f"{caption} {PARTLY.format(len(own.runs) - len(rouge), len(own.runs))}"
    by_group: dict[str, list[float]] = {}
    for run, number in measured:
        by_group.setdefault(group(run.spec), []).append(number)
    rows = tuple((label, len(those), fmean(those), min(those), max(those)) for label, those in by_group.items())
    shown = [Interval(label=label, value=mean, low=low, high=high) for label, _, mean, low, high in rows]
    grid = FIGURES[name.removeprefix("figure")].grid
    return Figure(
        name=name,
        title=title,
        caption=caption if rows else f"not run: python -m sweeps run +grid={grid}",
        columns=("setting", "runs", f"{what}_mean", f"{what}_min", f"{what}_max"),
        rows=rows,
        drawing=intervals(shown, unit) if rows else None,
    )


def _rouge(run: OwnRun) -> tuple[float, float | None, float | None] | None:
    if "rouge" not in run.results:
        return None
    return headline_of(run.results["rouge"], f"{run.run_id}: rouge", 100.0)


def _placement(spec: Spec) -> str:
    """The layers with an adapter, and the base's data type."""
    if spec["adapter"]["method"] == "full":
        return "full finetuning, BF16"
    targets = spec["adapter"]["targets"]
    words = {"all-linear": "all layers", "gate_proj": "feed-forward", "q_proj": "attention"}
    first = next((words[key] for key in words if key in targets), ", ".join(targets))
    return f"{first}, {data_type_of(spec)}"


def _figure_2(own: OwnRuns) -> Figure:
    return _by_setting("figure2", "Figure 2: which layers have an adapter", own, _placement)


def _figure_4(own: OwnRuns) -> Figure:
    by_r = sorted(own.runs, key=lambda run: int(run.spec["adapter"]["lora_r"]))
    ordered = OwnRuns(where=own.where, runs=tuple(by_r), notes=own.notes)
    return _by_setting("figure4", "Figure 4: LoRA r", ordered, lambda spec: f"r = {spec['adapter']['lora_r']}")


def _figure_3(own: OwnRuns) -> Figure:
    """Mean zero-shot accuracy over the bits of the model, a line a data type."""
    rows = sorted(row for run in own.runs if (row := _accuracy(run)) is not None)
    by_type: dict[str, list[tuple[float, float]]] = {}
    for kind, size_gb, accuracy, _ in rows:
        by_type.setdefault(kind, []).append((size_gb, accuracy))
    lines = [Line(label=kind, points=points) for kind, points in by_type.items()]
    return Figure(
        name="figure3",
        title="Figure 3: zero-shot accuracy by data type",
        caption="Mean over the tasks that were scored." if rows else "not run: python -m sweeps run +grid=data_types",
        columns=("data_type", "model_gb", "accuracy", "label"),
        rows=tuple(rows),
        drawing=curves(lines, "model, GB", "mean zero-shot accuracy, %") if rows else None,
    )


def _accuracy(run: OwnRun) -> tuple[str, float, float, str] | None:
    """(data type, gigabytes of the base, accuracy, label); None where it was not scored."""
    kind = data_type_of(run.spec)
    if "tasks" not in run.results or kind not in BITS:
        return None
    found = headline_of(run.results["tasks"], f"{run.run_id}: tasks", 100.0)
    size_gb = num_parameters(ShapeConfig(**run.spec["model"]["shape"])) * BITS[kind] / 8 / GIGA
    return None if found is None else (kind, size_gb, found[0], run.label)


def _figure_6(_: OwnRuns) -> Figure:
    """The memory of the recipe by size: ours predicted on the device, the paper's printed total as a ring."""
    rows = []
    for size in LLAMA_SIZES:
        ours = recipe_prediction(size)
        printed = value("figure 6", size.upper(), "total_memory_gb")
        rows.append((size.upper(), printed, ours.resident_bytes / GIGA, ours.total_bytes / GIGA))
    shown = [Interval(label=size, value=resident, other=float(paper)) for size, paper, resident, _ in rows]
    return Figure(
        name="figure6",
        title="Figure 6: memory by size",
        caption="Dots: ours, predicted, without what is paged to the host. Rings: the paper's total.",
        columns=("size", "paper_gb", "ours_gb", "ours_with_paged_gb"),
        rows=tuple(rows),
        drawing=intervals(shown, "GB"),
    )


FIGURES: Mapping[str, PaperFigure] = {
    "2": PaperFigure(grid="lora_placement", title="which layers have an adapter", draw=_figure_2),
    "3": PaperFigure(grid="data_types", title="zero-shot accuracy by data type", draw=_figure_3),
    "4": PaperFigure(grid="lora_r", title="LoRA r", draw=_figure_4),
    "6": PaperFigure(grid=None, title="memory by size", draw=_figure_6),
}
