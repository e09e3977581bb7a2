"""Resumable training state of one run: adapter and optimizer, whole or not at all.

A checkpoint is a folder `step-00000040` that appears by one rename, with one safetensors file and a JSON that
holds its sha256: safetensors catches truncation, not a flipped bit. Random streams and the data's position are
functions of the step (`harness.schedule`, `harness.adapters`), so there is nothing more to save. No pickle.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from harness.files import write_atomically

SCHEMA_VERSION = 1
STATE_FILE = "state.safetensors"
META_FILE = "checkpoint.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A whole checkpoint, read into memory."""

    step: int  # optimizer steps done
    adapter: dict[str, Tensor]
    optimizer: dict[str, Any]  # as torch.optim.Optimizer.state_dict


def save_checkpoint(
    folder: Path, run_id: str, step: int, adapter: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, keep: int
) -> Path:
    """Writes `<folder>/step-...`, then removes all but the newest `keep`.

    Raises:
        OSError: the disk is full or not writable; older checkpoints are untouched.
    """
    tensors = {f"adapter/{name}": p.detach().cpu().contiguous() for name, p in adapter.items()}
    state = optimizer.state_dict()
    scalars: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value.detach().cpu().contiguous()
            else:
                scalars.setdefault(str(index), {})[key] = value
    data = save(tensors)
    meta = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "step": step,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    target = folder / f"step-{step:08d}"
    partial = folder / f".partial-{os.getpid()}-{step}"
    try:
        write_atomically(partial / STATE_FILE, data)
        write_atomically(
            partial / META_FILE,
            json.dumps(meta | {"optimizer_scalars": scalars, "param_groups": state["param_groups"]}),
        )
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in checkpoints(folder)[keep:]:
        shutil.rmtree(old)
    return target


def load_newest(folder: Path, run_id: str) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint of this run, and a sentence for each newer one that is damaged."""
    problems: list[str] = []
    for path in checkpoints(folder):
        try:
            return _read(path, run_id), problems
        except (ValueError, OSError, KeyError) as error:
            problems.append(f"{path} is not usable ({error}); trying the one before")
    return None, problems


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _read(path: Path, run_id: str) -> Checkpoint:
    meta = json.loads((path / META_FILE).read_text())
    if meta["run_id"] != run_id:
        raise ValueError(f"it belongs to run {meta['run_id']}")
    if meta["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"its schema version is {meta['schema_version']}, this code reads {SCHEMA_VERSION}")
    data = (path / STATE_FILE).read_bytes()
    if hashlib.sha256(data).hexdigest() != meta["sha256"]:
        raise ValueError("its sha256 differs from the recorded one: truncated or changed on disk")
    adapter: dict[str, Tensor] = {}
    state: dict[int, dict[str, Any]] = {
        int(index): dict(entries) for index, entries in meta["optimizer_scalars"].items()
    }
    for name, tensor in load(data).items():
        kind, _, rest = name.partition("/")
        if kind == "adapter":
            adapter[rest] = tensor
        else:
            index, _, key = rest.partition("/")
            state.setdefault(int(index), {})[key] = tensor
    return Checkpoint(
        step=meta["step"], adapter=adapter, optimizer={"state": state, "param_groups": meta["param_groups"]}
    )
