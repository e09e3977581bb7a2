"""Writes scores as records of Every Eval Ever, the shared schema and data store of the EvalEval coalition.

    out/data/<collection>/<organization>/<label>/<uuid>.json

A file a run, after `eval.schema.json` version 0.3.0 (https://github.com/evaleval/every_eval_ever, package
every-eval-ever 0.3.0); `python -m every_eval_ever validate` checks them. The uuid follows from the run and its scores,
so that writing again writes the same file. Evaluations are named as they are here; what is not known is left out or
"unknown", never guessed: the questions' origin is `other`, with the digest of questions and protocol. Scores by
question are not written (the schema's instance-level records): `analysis.frames.questions` has them.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from analysis.exports.lm_eval import own_version, task_name
from analysis.tidy.rows import SCORE_UNITS, higher_is_better
from analysis.tidy.sources import FoundRun
from harness.files.atomic import write_json
from harness.files.names import file_name
from harness.runs.record import RunRecord
from harness.runs.scores import MeasuredScore, measured_scores

SCHEMA_VERSION = "0.3.0"
UNKNOWN = "unknown"
METRIC_IDS = {"accuracy_micro": "accuracy", "acc": "accuracy", "token_perplexity": "perplexity"}  # those known to all
UNITS = {"share": "proportion"}  # ours -> the schema's word
BOUNDS: dict[str, tuple[float | str, float | str]] = {
    "share": (0.0, 1.0),
    "perplexity": (1.0, "Infinity"),
    "bits a byte": (0.0, "Infinity"),
}


def write_every_eval_ever(
    found: Sequence[FoundRun], out: Path, collection: str, organization: str = UNKNOWN, now: float | None = None
) -> Iterator[Path]:
    """Writes a file for each run that has scores.

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
            write_json(path, values)
            yield path


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


def _result(run_id: str, score: MeasuredScore) -> dict[str, Any]:
    about = {"settings": score.settings or None, "settings_sha256": score.settings_sha256}
    return {
        "evaluation_result_id": f"{run_id}.{task_name(score.evaluation)}.{score.metric}",
        "evaluation_name": task_name(score.evaluation),
        "source_data": {
            "dataset_name": task_name(score.evaluation),
            "source_type": "other",
            "additional_details": _texts(about),
        },
        "metric_config": _metric(score, lower_is_better=higher_is_better(score.evaluation) is False),
        "score_details": {"score": score.value, **_uncertainty(score)},
    }


def _metric(score: MeasuredScore, lower_is_better: bool) -> dict[str, Any]:
    unit = SCORE_UNITS.get(score.metric)
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
