"""A key in the environment appears in no file, log, wandb folder or process argument."""

import json
from pathlib import Path

import pytest

from harness.ledger.tables import JobStatus
from tests.lab import Lab, make_lab, wait_until

CANARY = "canary0123456789abcdef0123456789abcdef0123456789"
KEYS = ("OPENAI_API_KEY", "WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "ANTHROPIC_API_KEY")
ARGUMENTS = ("-m", "model=llama7b,13b", "dataset=flan", "train.max_steps=60", "train.max_epochs=1000")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, dict[int, str]]:
    """One run trained and one failed with a stack trace, keys in the environment; all commands that were seen."""
    folder = tmp_path_factory.mktemp("guarded")
    made = make_lab(folder)
    (made.models / "llama13b" / "model.safetensors").write_bytes(b"no weights")
    (folder / "elsewhere").mkdir()
    keys = dict.fromkeys(KEYS, CANARY) | {"HOME": str(folder / "home"), "TMPDIR": str(folder / "elsewhere")}
    lab = Lab(folder=folder, extra=keys, cwd=folder / "elsewhere")
    seen: dict[int, str] = {}
    process = lab.start(*ARGUMENTS, "train.batch_size=2")

    def over() -> bool:
        seen.update(lab.processes())
        return process.poll() is not None

    try:
        wait_until(over, "its end")
    finally:
        lab.end_processes()
    assert process.returncode == 1, (folder / "output.txt").read_text()
    return lab, seen


@pytest.mark.slow
def test_key_is_in_no_file(guarded: tuple[Lab, dict[int, str]]) -> None:
    lab, _ = guarded
    files = [path for path in lab.folder.rglob("*") if path.is_file()]
    assert any("wandb" in path.parts and path.suffix == ".wandb" for path in files), "wandb wrote its offline run"
    assert any(path.name == "error.log" for path in files), "the failed run left its stack trace"
    assert any(path.name == "output.txt" and path.stat().st_size for path in files)
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []


@pytest.mark.slow
def test_key_is_in_no_process_argument(guarded: tuple[Lab, dict[int, str]]) -> None:
    _, seen = guarded
    assert any("forkserver" in command for command in seen.values()), "the worker was seen"
    assert len(seen) >= 3
    assert [command for command in seen.values() if CANARY in command] == []


@pytest.mark.slow
def test_key_is_in_no_ledger_row(guarded: tuple[Lab, dict[int, str]]) -> None:
    lab, _ = guarded
    assert {job.status for job in lab.jobs()} == {JobStatus.done, JobStatus.failed}
    assert not [job for job in lab.jobs() if CANARY in json.dumps([job.payload, job.result, job.reason])]


@pytest.mark.slow
def test_key_is_not_said_when_the_hub_cannot_be_reached(tmp_path: Path) -> None:
    lab = Lab(folder=tmp_path, extra=dict.fromkeys(KEYS, CANARY))
    refused = lab.harness(
        "model=llama7b", "dataset=flan", HF_HUB_OFFLINE="0", HF_ENDPOINT="http://127.0.0.1:9", HF_DEBUG="1"
    )
    assert refused.returncode == 2
    assert "could not be reached" in refused.stderr
    assert CANARY not in refused.stdout + refused.stderr
