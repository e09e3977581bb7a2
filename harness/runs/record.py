"""The record of a run, `record.json`: how it was made, on which machine and data, with which versions.

It is written last and in one step, so a run folder without a record is not done.
"""

import dataclasses
import platform
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import NoneType
from typing import Any

from harness.files.atomic import write_json
from harness.files.typed import read_typed

SCHEMA_VERSION = 1
RECORD_FILE = "record.json"
UNREADABLE = "restore it, or move it away: the same command trains the run again then"
CONFIG_FILE = "config.yaml"  # the resolved config of a run
METRICS_FILE = "metrics.jsonl"  # a line a step
CHECKPOINT_FOLDER = "checkpoint"  # resumable state, while a run trains
RECORDED_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "tokenizers", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A finished training run, or an untouched base that is measured beside runs (`num_steps` 0)."""

    run_id: str
    label: str
    group: str
    spec: dict[str, Any]  # RunSpec.to_dict()
    status: str  # "done"
    num_steps: int
    num_examples: int  # rows in the tokenized dataset
    num_truncated_sources: int
    num_truncated_targets: int
    target_tokens: int  # that carried loss, over all steps
    final_loss: float | None  # mean over the last tenth of the steps, nats
    train_seconds: float  # of the steps, each shared out over the runs that trained in it
    peak_memory_bytes: int
    base_fingerprint: str  # sha256 over the base's weight files
    data_fingerprint: str | None
    adapter_sha256: str | None
    optimizer_used: str | None
    device: str
    notes: tuple[str, ...]
    started: str  # ISO 8601, UTC
    finished: str
    git_commit: str | None
    git_dirty: bool | None
    row_tokens: int | None = None  # of a forward pass at most; less from where `notes` tell of it; None: not recorded
    tokenizer_fingerprint: str | None = None  # sha256 over the base's tokenizer and chat template; None: not recorded
    quantized_share: float | None = None  # of the base's weights, in `quant.method`'s bits; None: not recorded
    num_eval_examples: int | None = None  # held out, whose loss was measured; None: no rows were (`train.eval_rows`)
    eval_loss: float | None = None  # of them, with the weights that the run left, nats a target token
    eval_bits_per_byte: float | None = None  # the same by bytes of the targets; None where they are labels
    eval_step: int | None = None  # after which these weights were; not the last one only with `train.keep_best`
    eval_seconds: float | None = None  # of measuring it, shared out as `train_seconds`, which it isn't in
    storage: dict[str, Any] | None = None  # of layers in formats of their own (`adapter.bits`); None: as `quant` says
    identity: dict[str, Any] | None = None  # the checks of its method (`harness.identity`); None: not recorded
    packages: dict[str, str] = field(default_factory=dict)
    python: str = ""
    schema_version: int = SCHEMA_VERSION


def save_record(folder: Path, record: RunRecord) -> None:
    """Writes `<folder>/record.json` in one step."""
    write_json(folder / RECORD_FILE, dataclasses.asdict(record))


def load_record(folder: Path) -> RunRecord | None:
    """The record of a run folder, or None where it has none (not done, or cut off).

    Raises:
        ValueError: a record that this code can't read.
    """
    path = folder / RECORD_FILE
    if not path.is_file():
        return None
    record = read_typed(path, RunRecord, UNREADABLE)
    if record.schema_version != SCHEMA_VERSION:
        raise ValueError(f"{path}: schema version {record.schema_version}, this code reads {SCHEMA_VERSION}")
    for name in ("model", "quant", "adapter", "dataset", "train"):
        if not isinstance(record.spec.get(name), (dict, NoneType)):
            raise ValueError(f"{path}: spec.{name} is no object; {UNREADABLE}")
    return record


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def package_versions() -> dict[str, str]:
    """The installed versions of the packages that can change a number."""
    versions: dict[str, str] = {}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


@cache
def git_state() -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the harness's own checkout; (None, None) outside of one."""
    here = Path(__file__).resolve().parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return commit, bool(_git(here, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def python_version() -> str:
    """The version of Python, as 3.11.9."""
    return platform.python_version()


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True, timeout=10
    ).stdout.strip()
