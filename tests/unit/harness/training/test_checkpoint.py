"""The checkpoint format: every tree that it holds comes back as it was, and damage anywhere is noticed."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from harness.training import checkpoint
from harness.training.checkpoint import META_FILE, STATE_FILE, checkpoints, load_newest, save_checkpoint

ADAPTER = {"layer.lora_A.weight": nn.Parameter(torch.arange(6.0).reshape(2, 3))}


def save(folder: Path, state: dict[str, Any], step: int = 1, keep: int = 2) -> Path:
    return save_checkpoint(folder, "run", step, ADAPTER, state, keep)


def round_trip(folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    save(folder, state)
    found, problems = load_newest(folder, "run")
    assert problems == []
    assert found is not None
    assert found.step == 1
    assert torch.equal(found.adapter["layer.lora_A.weight"], ADAPTER["layer.lora_A.weight"].detach())
    return found.state


def test_containers_and_scalars_come_back_as_they_were(tmp_path: Path) -> None:
    state: dict[str, Any] = {
        "state": {0: {"step": 3, "__nested__": {"deep": [1, (2.5, None), []]}}, 11: {}},
        "groups": [{"betas": (0.9, 0.999), "fused": True, "foreach": None, "params": [0, 1], "name": "a/b"}],
        "infinite": (math.inf, -math.inf),
        "tenth": 0.1,
        "1": "a string key",
        1: "an integer key",
    }
    assert round_trip(tmp_path, state) == state
    assert type(round_trip(tmp_path, state)["groups"][0]["betas"]) is tuple
    assert math.isnan(round_trip(tmp_path, {"x": math.nan})["x"])


def as_bytes(tensor: torch.Tensor) -> list[int]:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(torch.tensor(7.0), id="0-dim"),
        pytest.param(torch.arange(12.0).reshape(3, 4).T, id="not contiguous"),
        pytest.param(torch.arange(24.0)[3:20:2], id="strided"),
        pytest.param(torch.zeros(0, 3), id="empty"),
        pytest.param(torch.randn(5).bfloat16(), id="bfloat16"),
        pytest.param(torch.randn(5).half(), id="float16"),
        pytest.param(torch.arange(256).to(torch.uint8), id="uint8"),
        pytest.param(torch.tensor([True, False]), id="bool"),
        pytest.param(torch.arange(5), id="int64"),
        pytest.param(torch.randn(6).to(torch.float8_e4m3fn), id="float8_e4m3fn"),
        pytest.param(torch.randn(6).to(torch.float8_e5m2), id="float8_e5m2"),
        pytest.param(nn.Parameter(torch.randn(2, 2)), id="parameter"),
    ],
)
def test_tensors_come_back_as_they_were(tmp_path: Path, tensor: torch.Tensor) -> None:
    found = round_trip(tmp_path, {"a": {"b": [tensor]}})["a"]["b"][0]
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert found.requires_grad is False
    assert as_bytes(found) == as_bytes(tensor)


def test_a_shared_tensor_is_stored_once_and_shared_again(tmp_path: Path) -> None:
    qmap = torch.randn(20_000)
    folder = save(tmp_path, {"state": {i: {"quant": {"qmap1": qmap}} for i in range(10)}})
    assert (folder / STATE_FILE).stat().st_size < 2 * qmap.nbytes
    read, _ = load_newest(tmp_path, "run")
    assert read is not None
    found = [read.state["state"][i]["quant"]["qmap1"] for i in range(10)]
    assert all(tensor is found[0] for tensor in found)
    assert torch.equal(found[0], qmap)


def test_tensors_that_overlap_in_memory_stay_apart(tmp_path: Path) -> None:
    whole = torch.arange(10.0)
    found = round_trip(tmp_path, {"whole": whole, "head": whole[:4], "tail": whole[2:], "square": whole.view(2, 5)})
    assert torch.equal(found["whole"], whole)
    assert torch.equal(found["head"], whole[:4])
    assert torch.equal(found["tail"], whole[2:])
    assert torch.equal(found["square"], whole.view(2, 5))


def test_keys_with_a_slash_or_of_another_type_do_not_collide(tmp_path: Path) -> None:
    one, two, three, four = (torch.full((2,), float(i)) for i in range(4))
    found = round_trip(tmp_path, {"a/b": one, "a": {"b": two}, "1": three, 1: four})
    assert [found["a/b"][0], found["a"]["b"][0], found["1"][0], found[1][0]] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({1, 2}, "set"),
        (np.float64(1), "float64"),
        (object(), "object"),
        ({1.5: 0}, "dict"),
        (torch.zeros(2, dtype=torch.complex128), "complex128"),
        (torch.zeros(2).to_sparse(), "sparse"),
    ],
)
def test_what_it_cannot_hold_is_refused_by_name(tmp_path: Path, value: object, what: str) -> None:
    with pytest.raises(ValueError, match=rf"state/optimizer/state/3/odd: a checkpoint can't hold .*{what}"):
        save(tmp_path, {"optimizer": {"state": {3: {"odd": value}}}})
    assert checkpoints(tmp_path) == []


def test_the_newest_are_kept_and_another_runs_is_not_read(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, {"step": step}, step)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000003", "step-00000002"]
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000003", "step-00000002"}
    found, problems = load_newest(tmp_path, "other")
    assert found is None
    assert all("it belongs to run run" in problem for problem in problems)
    assert len(problems) == 2


@pytest.mark.parametrize("failing", [STATE_FILE, META_FILE])
def test_a_full_disk_leaves_the_older_ones_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    write = checkpoint.write_atomically

    def full(path: Path, data: bytes | str) -> None:
        if path.name == failing:
            raise OSError(28, "No space left on device")
        write(path, data)

    save(tmp_path, {"step": 1}, 1)
    monkeypatch.setattr(checkpoint, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, {"step": 2}, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_what_a_tensor_shows_counts_and_not_where_it_lies(tmp_path: Path) -> None:
    """Views of one memory are one tensor only where dtype, shape and strides agree as well."""
    whole = torch.arange(4.0).reshape(2, 2)
    views = {"whole": whole, "turned": whole.T, "row": whole[0], "bits": whole.view(torch.int32), "again": whole}
    found = round_trip(tmp_path, views)
    assert all(torch.equal(found[name], view) for name, view in views.items())
    assert found["again"] is found["whole"]
    empty = round_trip(tmp_path, {"one": torch.zeros(0, 3), "two": torch.zeros(0, 3)})
    assert [tuple(tensor.shape) for tensor in empty.values()] == [(0, 3), (0, 3)]


def test_another_schema_version_is_said(tmp_path: Path) -> None:
    meta = save(tmp_path, {}) / META_FILE
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"schema_version": 1}))
    found, (problem,) = load_newest(tmp_path, "run")
    assert found is None
    assert "another version of this code wrote it: its schema version is 1" in problem


@pytest.mark.parametrize("file", [STATE_FILE, META_FILE])
def test_damage_at_any_place_falls_back_to_the_one_before(tmp_path: Path, file: str) -> None:
    state = {"optimizer": {"state": {0: {"step": 5, "exp_avg": torch.randn(4)}}}, "kind": "adamw"}
    save(tmp_path, state, 1)
    path = save(tmp_path, state, 2) / file
    whole = path.read_bytes()
    damaged = [whole[:length] for length in (0, 1, len(whole) // 2, len(whole) - 1)] + [b"[]", b"null", whole + b"x"]
    for place in range(0, len(whole), 1 if file == META_FILE else 13):
        damaged += [whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :] for flip in (1, 0x80)]
    for data in damaged:
        path.write_bytes(data)
        found, problems = load_newest(tmp_path, "run")
        assert found is not None
        assert found.step == 1, data
        assert len(problems) == 1
    path.write_bytes(whole)
    found, problems = load_newest(tmp_path, "run")
    assert (found is not None and found.step, problems) == (2, [])
