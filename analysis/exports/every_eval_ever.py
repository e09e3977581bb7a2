"""Writes scores as records of Every Eval Ever, the shared schema and data store of the EvalEval coalition.

    out/data/<collection>/<organization>/<label>/<uuid>.json
    out/data/<collection>/<organization>/<label>/<uuid>_samples.jsonl

A file a run, after `eval.schema.json` version 0.3.0 (https://github.com/evaleval/every_eval_ever, package
every-eval-ever 0.3.0), and beside it a line a question and score, after `instance_level_eval.schema.json`;
`every_eval_ever validate` checks them. The uuid follows from the run and its scores, so that writing again writes the
same files. Evaluations are named as they are here; what is not known is left out, empty or "unknown", never guessed:
the questions' origin is `other`, with the digest of questions and protocol. A result keeps no text of its questions,
so a line's input is the question's name. Values that can't be right or wrong (nats a token, a squared error) have no
line, as the schema asks of each whether it is correct.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from analysis.exports.lm_eval import PER_QUESTION, own_version, task_name
from analysis.tidy.rows import higher_is_better, score_unit
from analysis.tidy.sources import FoundRun
from eval.benchmarks.by_question import QuestionRows, read_questions
from harness.files.atomic import write_atomically, write_json
from harness.files.names import file_name
from harness.runs.record import RunRecord
from harness.runs.scores import MeasuredScore, measured_scores

SCHEMA_VERSION = "0.3.0"
UNKNOWN = "unknown"
METRIC_IDS = {"accuracy_micro": "accuracy", "acc": "accuracy", "token_perplexity": "perplexity"}  # those known to all
AGGREGATES = {metric: score for score, metric in PER_QUESTION.items()}  # a question's metric -> its mean's
UNITS = {"share": "proportion"}  # ours -> the schema's word
BOUNDS: dict[str, tuple[float | str, float | str]] = {
    "share": (0.0, 1.0),
    "perplexity": (1.0, "Infinity"),
    "bits a byte": (0.0, "Infinity"),
}


def write_every_eval_ever(
    found: Sequence[FoundRun], out: Path, collection: str, organization: str = UNKNOWN, now: float | None = None
) -> Iterator[Path]:
    """Writes a file for each run that has scores, and one of its questions where there are any. -> the former

    Args:
        found: the runs.
        out: the folder that `data/` is made in.
        collection: the first folder below `data/`: the sweep.
        organization: who trained and measured.
        now: seconds since 1970, the record's time; None: the clock's.

    Raises:
        ValueError: a name that can't be a folder's, or an evaluation's file that can't be read.
    """
    for run in found:
        values = every_eval_ever_record(run, collection, organization, time.time() if now is None else now)
        if values is not None:
            names = (file_name(name, "name") for name in (collection, organization, run.name))
            path = out / "data" / Path(*names) / f"{_uuid(values)}.json"
            samples = path.with_name(f"{path.stem}_samples.jsonl")
            lines = instance_records(run, values)
            samples.unlink(missing_ok=True)
            if lines:
                text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
                write_atomically(samples, text)
                values |= {"detailed_evaluation_results": _pointer(samples.relative_to(out), text, len(lines))}
            write_json(path, values)
            yield path


def instance_records(run: FoundRun, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line for each question of each score whose questions are right or wrong.

    Args:
        run: the run.
        record: its `every_eval_ever_record`.

    Raises:
        ValueError: an evaluation's file that can't be read.
    """
    known = {result["evaluation_result_id"] for result in record["evaluation_results"]}
    lines = []
    for part in read_questions(run.folder / "eval"):
        result_id = _result_id(run.run_id, part.evaluation, AGGREGATES.get(part.scores.metric, part.scores.metric))
        if result_id not in known:
            result_id = _result_id(run.run_id, part.evaluation, part.scores.metric)
        if result_id in known and score_unit(part.scores.metric) == "share":
            lines += [_instance(record, result_id, part, place) for place in range(len(part.scores.names))]
    return lines


def _instance(record: Mapping[str, Any], result_id: str, part: QuestionRows, place: int) -> dict[str, Any]:
    """One line: a question's score."""
    scores = part.scores
    name, value = scores.names[place], scores.values[place]
    given = [] if scores.given is None else [scores.given[place]]
    about = {"category": None if scores.categories is None else scores.categories[place]}
    digest = part.settings_sha256
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": record["evaluation_id"],
        "model_id": record["model_info"]["id"],
        "evaluation_name": task_name(part.evaluation),
        "evaluation_result_id": result_id,
        "sample_id": name,
        "sample_hash": None if digest is None else hashlib.sha256(f"{digest} {name}".encode()).hexdigest(),
        "interaction_type": "single_turn",
        "input": {"raw": name, "reference": [] if scores.expected is None else scores.expected[place]},
        "output": {"raw": given},
        "answer_attribution": [
            {
                "turn_idx": 0,
                "source": "output.raw",
                "extracted_value": text,
                "extraction_method": "exact_match",
                "is_terminal": True,
            }
            for text in given
        ],
        "evaluation": {"score": value, "is_correct": value == 1.0},
        "metadata": _texts({**about, "input": "the question's name; its text is not kept"}),
    }


def _pointer(path: Path, text: str, num_rows: int) -> dict[str, Any]:
    """What an aggregate record says of its lines."""
    return {
        "format": "jsonl",
        "file_path": path.as_posix(),
        "hash_algorithm": "sha256",
        "checksum": hashlib.sha256(text.encode()).hexdigest(),
        "total_rows": num_rows,
    }


def every_eval_ever_record(run: FoundRun, collection: str, organization: str, now: float) -> dict[str, Any] | None:
    """The record of a run; None where it has no score."""
    if run.record is None or not (scores := measured_scores(run.folder / "eval")):
        return None
    finished = int(datetime.fromisoformat(run.record.finished).timestamp())
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"{collection}/{run.run_id}/{finished}",
        "retrieved_timestamp": str(int(now)),
        "source_metadata": {
            "source_name": "qlora-harness",
            "source_type": "evaluation_run",
            "source_organization_name": organization,
            "evaluator_relationship": "first_party",
        },
        "eval_library": {
            "name": "qlora-harness",
            "version": own_version(),
            "additional_details": _texts({"git_commit": run.record.git_commit, "packages": run.record.packages}),
        },
        "model_info": _model(run, run.record, organization),
        "evaluation_results": [_result(run.run_id, score) for score in scores],
    }


def _model(run: FoundRun, record: RunRecord, organization: str) -> dict[str, Any]:
    base = record.spec.get("model", {})
    details = {
        "base_model": base.get("hub_id"),
        "base_model_revision": base.get("revision"),
        "quantization": record.spec.get("quant", {}).get("name"),
        "adapter": record.spec.get("adapter"),
        "dataset": (record.spec.get("dataset") or {}).get("name"),
        "train": record.spec.get("train"),
        "run_id": run.run_id,
        "adapter_sha256": record.adapter_sha256,
        "peak_memory_bytes": record.peak_memory_bytes,
        "train_seconds": record.train_seconds,
    }
    return {
        "name": run.name,
        "id": f"{organization}/{run.name}",
        "developer": organization,
        "inference_engine": {"name": "qlora-harness", "version": own_version()},
        "additional_details": {
            "deployment_type": "self_deployed",
            "model_availability": UNKNOWN,
            **_texts(details),
        },
    }


def _result_id(run_id: str, evaluation: str, metric: str) -> str:
    return f"{run_id}.{task_name(evaluation)}.{metric}"


def _result(run_id: str, score: MeasuredScore) -> dict[str, Any]:
    about = {"settings": score.settings or None, "settings_sha256": score.settings_sha256}
    return {
        "evaluation_result_id": _result_id(run_id, score.evaluation, score.metric),
        "evaluation_name": task_name(score.evaluation),
        "source_data": {
            "dataset_name": task_name(score.evaluation),
            "source_type": "other",
            "additional_details": _texts(about),
        },
        "metric_config": _metric(score, lower_is_better=higher_is_better(score.evaluation, score.metric) is False),
        "score_details": {"score": score.value, **_uncertainty(score)},
    }


def _metric(score: MeasuredScore, lower_is_better: bool) -> dict[str, Any]:
    unit = score_unit(score.metric)
    known = METRIC_IDS.get(score.metric, f"qlora_harness.{score.metric}")
    config: dict[str, Any] = {
        "metric_id": known,
        "metric_name": score.metric,
        "lower_is_better": lower_is_better,
        "additional_details": {"is_headline": "true" if score.is_headline else "false"},
    }
    if unit is None:
        return config
    low, high = BOUNDS[unit]
    scale = {"score_type": "continuous", "min_score": low, "max_score": high}
    return {**config, "metric_unit": UNITS.get(unit, unit), **scale}


def _uncertainty(score: MeasuredScore) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if score.low is not None and score.high is not None:
        found["confidence_interval"] = {"lower": score.low, "upper": score.high, "confidence_level": 0.95}
    if score.n is not None:
        found["num_samples"] = score.n
    return {"uncertainty": found} if found else {}


def _texts(values: dict[str, Any]) -> dict[str, str]:
    """Details as the schema wants them: texts, those that are known."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in values.items()
        if value not in (None, {})
    }


def _uuid(values: dict[str, Any]) -> uuid.UUID:
    """A version 4 uuid from all but the time of writing."""
    stable = {key: value for key, value in values.items() if key != "retrieved_timestamp"}
    digest = hashlib.sha256(json.dumps(stable, sort_keys=True).encode()).digest()
    return uuid.UUID(bytes=digest[:16], version=4)
