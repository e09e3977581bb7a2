"""Makes signs of what a run reads, which go into its job, so that the worker refuses what changed after the plan."""

from collections.abc import Mapping
from typing import Any

from harness.config.schema import ModelConfig, PathsConfig
from harness.files.hub import Missing
from harness.models.locate import locate_model
from harness.models.sign import checkpoint_signs
from harness.runs.spec import RunSpec
from sweeps.plan.once import Once
from sweeps.plan.rows import local_fingerprint

INPUTS = "inputs"  # the payload's key; jobs that were queued by earlier versions have none
WEIGHTS, TOKENIZER, DATA = "weights", "tokenizer", "data"
_NAMES = {
    WEIGHTS: "the weights or the config of {model}",
    TOKENIZER: "the tokenizer or the chat template of {model}",
    DATA: "the rows of {dataset}",
}


def planned_inputs(spec: RunSpec, paths: PathsConfig, once: Once) -> dict[str, str]:
    """-> a sign of each input that lies on this machine; what the hub serves is pinned by its revision."""
    signs = dict(once(_model_signs, spec.model, paths))
    if spec.dataset is not None and spec.data_sha256 is None:
        local = once(local_fingerprint, spec.dataset, paths)
        signs |= {} if local is None else {DATA: local[0]}
    return signs


def inputs_of(payload: Mapping[str, Any]) -> dict[str, str]:
    """The signs in a job's payload; the content of `dataset.path` is a part of its spec."""
    signs: dict[str, str] = payload.get(INPUTS, {})
    data = payload["spec"].get("data_sha256")
    return signs if data is None else signs | {DATA: data}


def require_planned(planned: Mapping[str, str], now: Mapping[str, str | None], spec: RunSpec) -> None:
    """Raises ValueError where one of `now` differs from its planned sign."""
    for name, sign in now.items():
        if sign is None or planned.get(name, sign) == sign:
            continue
        dataset = "" if spec.dataset is None else spec.dataset.path or spec.dataset.name
        what = _NAMES[name].format(model=spec.model.path or spec.model.name, dataset=dataset)
        raise ValueError(
            f"{what} changed after this run was planned (then {planned[name][:12]}, now {sign[:12]}): restore the old "
            "files, or give the sweep's command again, which plans with what is there now"
        )


def _model_signs(model: ModelConfig, paths: PathsConfig) -> dict[str, str]:
    source = locate_model(model, paths)
    return {} if isinstance(source, Missing) else checkpoint_signs(source)
