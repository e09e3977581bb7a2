"""Saves and loads the resumable training state of one run: adapter, optimizer and all else a step depends on.

A checkpoint is a folder `step-00000040` that appears by one rename. Its one large file is safetensors: the tensors,
and in the metadata a JSON tree that says where each belongs. The other file holds the first one's sha256:
safetensors catches truncation, not a flipped bit. Random streams and the data's position are functions of the step
(`harness.training.schedule`, `harness.banks.shared`), so there is nothing more to save. No pickle.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from harness.files.atomic import write_atomically

SCHEMA_VERSION = 2
STATE_FILE = "state.safetensors"
META_FILE = "checkpoint.json"
_TREE = "tree"  # the metadata's key
_HEADER_SIZE_BYTES = 8  # safetensors begins with the length of its JSON header, little-endian
_STORABLE = frozenset(
    {
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A whole checkpoint, read into memory."""

    step: int  # optimizer steps done
    adapter: dict[str, Tensor]
    state: dict[str, Any]  # as it was saved


def save_checkpoint(
    folder: Path, run_id: str, step: int, adapter: Mapping[str, nn.Parameter], state: Mapping[str, Any], keep: int
) -> Path:
    """Writes `<folder>/step-...`, then removes all but the newest `keep`.

    Args:
        folder: of this run's checkpoints.
        run_id: the run's; no other run reads them.
        step: optimizer steps done.
        adapter: what is trained, by name.
        state: what else the next step depends on: dicts (keys are strings or integers), lists and tuples, nested as
            may be, of tensors, numbers, strings, booleans and None. A tensor that occurs several times is stored once.
        keep: checkpoints that stay.

    Raises:
        OSError: the disk is full or not writable; older checkpoints are untouched.
        ValueError: something in `state` is of another kind; the message names it.
    """
    tensors = _Tensors()
    tree = {
        "run_id": run_id,
        "step": step,
        "adapter": _encode(dict(adapter), "adapter", tensors),
        "state": _encode(dict(state), "state", tensors),
    }
    data = save(tensors.stored, metadata={_TREE: json.dumps(tree)})
    meta = {"schema_version": SCHEMA_VERSION, "sha256": hashlib.sha256(data).hexdigest()}
    target = folder / f"step-{step:08d}"
    partial = folder / f".partial-{os.getpid()}-{step}"
    try:
        write_atomically(partial / STATE_FILE, data)
        write_atomically(partial / META_FILE, json.dumps(meta))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in checkpoints(folder)[keep:]:
        shutil.rmtree(old)
    return target


def load_newest(folder: Path, run_id: str) -> tuple[Checkpoint | None, list[str]]:
    """Loads the newest whole checkpoint of this run. -> it, and a sentence for each newer one that is damaged"""
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
    if not isinstance(meta, dict):
        raise ValueError(f"{META_FILE} holds no object")
    if meta["schema_version"] != SCHEMA_VERSION:
        raise ValueError(
            f"another version of this code wrote it: its schema version is {meta['schema_version']}, "
            f"this code reads {SCHEMA_VERSION}"
        )
    data = (path / STATE_FILE).read_bytes()
    if hashlib.sha256(data).hexdigest() != meta["sha256"]:
        raise ValueError("its sha256 differs from the recorded one: truncated or changed on disk")
    header_end = _HEADER_SIZE_BYTES + int.from_bytes(data[:_HEADER_SIZE_BYTES], "little")
    tree = json.loads(json.loads(data[_HEADER_SIZE_BYTES:header_end])["__metadata__"][_TREE])
    if tree["run_id"] != run_id:
        raise ValueError(f"it belongs to run {tree['run_id']}")
    tensors = load(data)
    return Checkpoint(
        step=tree["step"], adapter=_decode(tree["adapter"], tensors), state=_decode(tree["state"], tensors)
    )


@dataclass(slots=True)
class _Tensors:
    """Collects the tensors of a tree, each once, by the path at which it occurs first."""

    stored: dict[str, Tensor] = field(default_factory=dict)
    _names: dict[tuple[Any, ...], str] = field(default_factory=dict)  # what a tensor shows of which memory -> its name
    _used: set[int] = field(default_factory=set)  # storages of `stored`: each belongs to one tensor

    def add(self, tensor: Tensor, path: str) -> str:
        """-> the name under which the tensor is stored: its path, which a key with a slash may have taken."""
        view = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and view in self._names:
            return self._names[view]
        host = tensor.detach().cpu().contiguous()
        if host.untyped_storage().data_ptr() in self._used:  # safetensors refuses tensors that overlap in memory
            host = host.clone()
        name = path if path not in self.stored else f"{path}#{len(self.stored)}"
        self._used.add(host.untyped_storage().data_ptr())
        self._names[view] = name
        self.stored[name] = host
        return name


def _encode(value: Any, path: str, tensors: _Tensors) -> Any:
    """Turns a value into JSON; containers and tensors become one-key objects that name their kind.

    Raises:
        ValueError: a value of a kind that a checkpoint doesn't hold.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor) and value.layout is torch.strided and value.dtype in _STORABLE:
        return {"tensor": tensors.add(value, path)}
    if type(value) in (list, tuple):
        items = [_encode(item, f"{path}/{place}", tensors) for place, item in enumerate(value)]
        return {type(value).__name__: items}
    if isinstance(value, dict) and all(type(key) in (int, str) for key in value):
        return {"dict": [[key, _encode(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    what = f"a tensor of {value.dtype}, {value.layout}" if isinstance(value, Tensor) else f"{type(value).__name__}"
    raise ValueError(
        f"{path}: a checkpoint can't hold {what}; it holds plain tensors, numbers, strings, None, lists, tuples and "
        "dicts whose keys are strings or integers"
    )


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in content}
    items = [_decode(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
