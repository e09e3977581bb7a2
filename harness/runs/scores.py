"""Reads every score that evaluations of a run left in its folder `eval/`.

    for score in measured_scores(run_folder / "eval"):
        print(score.evaluation, score.metric, score.value, score.low, score.high)

The model card and the report read scores here, so both show an evaluation as soon as its file has numbers like the
others: `x` beside `x_ci95`, or `{"metrics": {"x": {"value": ..., "ci95": ...}}}`, of the whole or of each of its
`tasks`. Every benchmark's file has a `headline`, which is a score of its own unless its metric is among these.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SCORE_SETTINGS = ("protocol", "split_name", "num_shots", "chat")  # what a score can't be compared without
LARGEST = 1e300  # beyond it a number is a mistake
_INTERVAL = "_ci95"
_SUBJECT = ("task", "dataset", "text")  # what an evaluation was made on, by the key that says so
_COUNTS = ("n", "num_documents")
_END_BYTES = 1 << 16  # of a long file, at each end
_LIST_START, _LIST_END = b": [\n    {\n", b"\n  ]"  # of a list of objects, one of the file's own values
_ROW_START, _ROW_END, _ROW_KEY = b"\n    {\n", b"\n    }", re.compile(rb'\n      "(\w+)":')


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredScore:
    """One number of one evaluation with its 95 % interval; the bounds are None where the file has none."""

    evaluation: str  # "mmlu", "glue rte", "tasks hellaswag"
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int | None  # questions, rows or documents
    settings: str  # in words
    settings_sha256: str | None  # of questions and protocol: scores of different ones can't be compared
    is_headline: bool = False  # whether it stands for the whole evaluation


def eval_file(run_folder: Path, name: str) -> Path:
    """Where an evaluation's result lies; after a sweep its key `job` says which settings it belongs to."""
    return run_folder / "eval" / name / f"{name}.json"


def measured_scores(folder: Path, leave_out: Sequence[str] = ()) -> list[MeasuredScore]:
    """All scores of a run, sorted by the name of the evaluation.

    Args:
        folder: `runs/<run_id>/eval`.
        leave_out: evaluations whose files aren't opened.

    Raises:
        ValueError: a file that is not JSON.
    """
    files = [file for file in sorted(folder.rglob("*.json")) if file.relative_to(folder).parts[0] not in leave_out]
    return [score for file in files for score in _of_file(folder, file)]


def evaluation_name(kind: str, values: dict[str, Any]) -> str:
    """What an evaluation is called: its kind, and what it was made on where its file says it."""
    subject = next((Path(str(values[key])).name for key in _SUBJECT if values.get(key)), "")  # of a path, its end only
    return f"{kind} {subject}" if subject not in ("", kind) else kind


def _of_file(folder: Path, path: Path) -> Iterator[MeasuredScore]:
    try:
        values = _read_without_questions(path)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); score the run again") from error
    if not isinstance(values, dict):
        return
    name = evaluation_name(path.relative_to(folder).parts[0].removesuffix(".json"), values)
    headline = values.get("headline")
    first = str(headline.get("metric")) if isinstance(headline, dict) else None
    for score in _of_values(name, values):
        is_headline = score.evaluation == name and score.metric == first
        yield replace(score, is_headline=True) if is_headline else score


def _read_without_questions(path: Path) -> Any:
    """The content of a file; of a long one without its list of predictions or documents, 99 % of its bytes.

    Only the ends of a long file are read. The list is left out where its first row stands in the one end and its last
    in the other, told by their keys; else all is read. The layout is `write_json`'s, and a text in JSON holds no end of
    a line.
    """
    size = path.stat().st_size
    if size <= 2 * _END_BYTES:
        return json.loads(path.read_bytes())
    with path.open("rb") as file:
        head = file.read(_END_BYTES)
        file.seek(size - _END_BYTES)
        tail = file.read()
    list_start, list_end = head.find(_LIST_START), tail.find(_LIST_END)
    if list_start >= 0 and list_end >= 0:
        list_start = head.index(b"[", list_start) + 1
        first = head[list_start : head.find(_ROW_END, list_start)]
        last = tail[tail.rfind(_ROW_START, 0, list_end) : list_end]
        if _ROW_KEY.findall(first) == _ROW_KEY.findall(last) != []:
            return json.loads(head[:list_start] + tail[list_end:])
    return json.loads(path.read_bytes())


def _of_values(name: str, values: dict[str, Any]) -> Iterator[MeasuredScore]:
    about: dict[str, Any] = {
        "n": next((values[key] for key in _COUNTS if isinstance(values.get(key), int)), None),
        "settings": ", ".join(f"{k} {values[k]}" for k in SCORE_SETTINGS if _is_said(values.get(k))),
        "settings_sha256": values.get("settings_sha256"),
    }
    for key, interval in values.items():
        metric = key.removesuffix(_INTERVAL)
        if metric != key and isinstance(values.get(metric), (int, float)) and "metrics" not in values:
            yield _score(name, metric, values[metric], interval, about)
    yield from _of_metrics(name, values, about)
    yield from _of_headline(name, values, about)
    tasks = values.get("tasks")
    for task, found in (tasks if isinstance(tasks, dict) else {}).items():
        if not isinstance(found, dict):
            continue
        shots = {"settings": f"num_fewshot {found['num_fewshot']}"} if "num_fewshot" in found else {}
        yield from _of_metrics(f"{name} {task}", found, about | shots)


def _is_said(value: object) -> bool:
    """Whether a setting is there; `num_shots` 0 is."""
    return value is not None and value is not False and value != ""


def _of_headline(name: str, values: dict[str, Any], about: dict[str, Any]) -> Iterator[MeasuredScore]:
    """The headline's score, unless the file has its metric with an interval elsewhere or among `metrics`."""
    headline = values.get("headline")
    if not isinstance(headline, dict) or not isinstance(headline.get("value"), (int, float)):
        return
    metric, metrics = str(headline.get("metric")), values.get("metrics")
    if f"{metric}{_INTERVAL}" in values or (isinstance(metrics, dict) and metric in metrics):
        return
    counted = {"n": headline["n"]} if isinstance(headline.get("n"), int) else {}
    yield _score(name, metric, headline["value"], headline.get("ci95"), about | counted)


def _of_metrics(name: str, values: dict[str, Any], about: dict[str, Any]) -> Iterator[MeasuredScore]:
    metrics = values.get("metrics")
    for metric, score in (metrics if isinstance(metrics, dict) else {}).items():
        if isinstance(score, dict) and isinstance(score.get("value"), (int, float)):
            counted = {"n": score["n"]} if isinstance(score.get("n"), int) else {}
            yield _score(name, metric, score["value"], score.get("ci95"), about | counted)


def _score(name: str, metric: str, value: float, interval: Any, about: dict[str, Any]) -> MeasuredScore:
    """Raises ValueError for a value that is no score, in a file that other people may have written."""
    if not abs(value) <= LARGEST:
        raise ValueError(f"{name}: {metric} is {value!r:.40}: no score; score the run again")
    bounds = interval if isinstance(interval, list) and len(interval) == 2 else (None, None)
    low, high = (b if isinstance(b, (int, float)) and abs(b) <= LARGEST else None for b in bounds)
    return MeasuredScore(evaluation=name, metric=metric, value=value, low=low, high=high, **about)
