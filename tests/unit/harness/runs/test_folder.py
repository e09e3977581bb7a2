"""A run folder cut off anywhere is found out, and never taken for done."""

import dataclasses
import json
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from harness.files.atomic import sha256_file, sha256_files
from harness.methods.formats import digest as format_digest
from harness.runs.folder import changed_problem, folder_problem, stored_spec
from harness.runs.record import load_record, save_record
from tests.builders import record

FULL = replace(record(), spec={"adapter": {"method": "full"}})
WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "adapter").mkdir()
    save_file({"a": torch.arange(12.0), "b": torch.ones(3, 2)}, tmp_path / WEIGHTS, metadata={"format": "pt"})
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    save_record(tmp_path, record())
    return tmp_path


def test_whole_folder(folder: Path) -> None:
    assert folder_problem(folder, needs_adapter=True) is None
    assert load_record(folder) == record()


def test_missing_parts(folder: Path, tmp_path: Path) -> None:
    assert folder_problem(tmp_path / "nowhere", needs_adapter=True) == "the run folder is gone"
    (folder / "adapter" / "adapter_config.json").unlink()
    assert folder_problem(folder, needs_adapter=True) == "the adapter's files are missing"
    assert folder_problem(folder, needs_adapter=False) is None, "an untouched base leaves no adapter"
    (folder / "record.json").unlink()
    assert folder_problem(folder, needs_adapter=False) == "there is no record.json: it was cut off"


def test_a_changed_file_of_an_adapter_is_named(folder: Path) -> None:
    adapter, config = folder / "adapter", folder / "adapter" / "adapter_config.json"

    def problem(method: str, storage: dict[str, Any] | None = None, **saved: object) -> str | None:
        config.write_text(json.dumps({"r": 4, "lora_alpha": 8} | saved))
        spec = {"adapter": {"method": method, "lora_r": 4, "lora_alpha": 8}}
        changes = {"spec": spec, "adapter_sha256": digest, "storage": storage}
        return changed_problem(adapter, dataclasses.replace(record(), **changes))

    digest = sha256_file(folder / WEIGHTS)
    assert problem("lora") is None
    assert "says {'lora_alpha': 9}, the run was trained with {'lora_alpha': 8}" in str(problem("lora", lora_alpha=9))
    assert "says {'use_rslora': False}" in str(problem("rslora"))
    assert "says {'use_dora': True}" in str(problem("lora", use_dora=True))
    assert "residual.json: missing of a run of adapter=pissa" in str(problem("pissa"))
    (adapter / "residual.json").write_text("{}")
    assert problem("pissa", r=8, lora_alpha=16) is None
    assert "residual.json: is not of a run of adapter=lora" in str(problem("lora"))
    formats = {"formats": {"a": "nf2-u2-bf16-16x16"}}
    (adapter / "residual.json").write_text(json.dumps(formats))
    assert "its layers' formats aren't those that the run was trained in" in str(problem("pissa", r=8, lora_alpha=16))
    stored = {"sha256": format_digest(formats["formats"])}
    assert problem("lq_lora", stored, r=8, lora_alpha=16) is None
    (adapter / "residual.json").write_text("{}")
    assert "its layers' formats" in str(problem("lq_lora", stored, r=8, lora_alpha=16))
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes() + b"x")
    assert "adapter_model.safetensors: sha256" in str(problem("pissa", r=8, lora_alpha=16))


def test_a_changed_file_of_a_whole_checkpoint_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, glob = folder / "adapter", Path.glob  # which lists files as the disk has them
    monkeypatch.setattr(Path, "glob", lambda path, pattern: iter(sorted(glob(path, pattern), reverse=True)))
    for number in (1, 2):
        (adapter / f"model-{number}.safetensors").write_bytes(bytes([number]))
    (folder / WEIGHTS).unlink()
    files = sorted(adapter.glob("*.safetensors"))
    full = dataclasses.replace(record(), spec={"adapter": {"method": "full"}}, adapter_sha256=sha256_files(files))
    assert changed_problem(adapter, full) is None
    files[1].write_bytes(b"other")
    assert "changed after training" in str(changed_problem(adapter, full))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_adapter_cut_off_anywhere(folder: Path, data: st.DataObject) -> None:
    path = folder / WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    try:
        assert folder_problem(folder, needs_adapter=True) == "the adapter's weights are cut off"
    finally:
        path.write_bytes(whole)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_record_cut_off_anywhere(folder: Path, data: st.DataObject) -> None:
    path = folder / "record.json"
    whole = path.read_text()
    path.write_text(whole[: data.draw(st.integers(0, len(whole.rstrip()) - 1))])
    try:
        assert (folder_problem(folder, needs_adapter=True) or "").startswith("record.json can't be read")
    finally:
        path.write_text(whole)


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"schema_version": 1}', '{"schema_version": 99, "notes": []}'])
def test_json_that_is_no_record(folder: Path, text: str) -> None:
    (folder / "record.json").write_text(text)
    assert (folder_problem(folder, needs_adapter=True) or "").startswith("record.json can't be read")


def test_the_folder_of_another_run(folder: Path) -> None:
    assert folder_problem(folder, needs_adapter=True, run_id="0123456789ab") is None
    problem = folder_problem(folder, needs_adapter=True, run_id="another")
    assert problem == "its record is that of another run, 0123456789ab"


def test_a_whole_checkpoint_after_full_finetuning(folder: Path) -> None:
    adapter = folder / "adapter"
    save_record(folder, FULL)
    assert folder_problem(folder, needs_adapter=True) == "the adapter's files are missing"
    for number in (1, 2):
        save_file({"a": torch.ones(3)}, adapter / f"model-0000{number}-of-00002.safetensors")
    assert folder_problem(folder, needs_adapter=True) == "the adapter's files are missing"
    (adapter / "config.json").write_text("{}")
    assert folder_problem(folder, needs_adapter=True) is None
    last = adapter / "model-00002-of-00002.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    assert folder_problem(folder, needs_adapter=True) == "the adapter's weights are cut off"


def test_weights_without_tensors_are_whole(folder: Path) -> None:
    save_file({}, folder / WEIGHTS)
    assert folder_problem(folder, needs_adapter=True) is None


ODD_HEADERS = [b"not json", b"[1, 2]", b'{"a": 3}', b'{"a": {"shape": []}}', b"\xff\xfe"]
ODD_OFFSETS = [b'{"a": {"data_offsets": []}}', b'{"a": {"data_offsets": [0, "x"]}}']


@pytest.mark.parametrize("header", [*ODD_HEADERS, *ODD_OFFSETS])
def test_damaged_header(folder: Path, header: bytes) -> None:
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header)
    assert folder_problem(folder, needs_adapter=True) == "the header of the adapter's weights is damaged"


def test_file_that_goes_on_too_long(folder: Path) -> None:
    with (folder / WEIGHTS).open("ab") as file:
        file.write(b"more")
    assert folder_problem(folder, needs_adapter=True) == "the adapter's weights are cut off"


def test_record_of_a_later_version_is_refused(folder: Path) -> None:
    values = json.loads((folder / "record.json").read_text()) | {"schema_version": 2}
    (folder / "record.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="schema version 2, this code reads 1"):
        load_record(folder)


def test_a_folder_of_somebody_else_is_said_and_stops_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refused)
    problem = folder_problem(folder, needs_adapter=True)
    assert problem == f"it can't be read ({folder / 'record.json'}: Permission denied)"


def test_an_adapter_part_that_is_no_object_is_refused(folder: Path) -> None:
    record = json.loads((folder / "record.json").read_text())
    record["spec"]["adapter"] = ["full"]
    (folder / "record.json").write_text(json.dumps(record))
    assert "spec.adapter is no object" in str(folder_problem(folder, needs_adapter=True))


@pytest.mark.parametrize("text", ["a: [", "&a [*a", "\tx: 1", "- 1", "5", "model: {name: x}"])
def test_a_config_that_is_no_spec_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "config.yaml"))):
        stored_spec(tmp_path)
