"""What a launch refuses, what sbatch is asked for, how a launcher waits; real clusters are in tests/pipeline."""

import json
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.config.schema import (
    Config,
    Device,
    LaunchConfig,
    Launcher,
    PathsConfig,
    RayConfig,
    SlurmConfig,
    TrackingConfig,
)
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Job
from sweeps.jobs.settings import WorkerSettings
from sweeps.launch.launchers import LAUNCHERS
from sweeps.launch.progress import SweepProgress
from sweeps.launch.ray import _room, _runtime_env
from sweeps.launch.slurm import (
    SlurmWorker,
    Submission,
    sbatch_parameters,
    sbatch_text,
    submissions,
    submissions_file,
    submit,
)
from sweeps.launch.waiting import NoWorkersError, wait_for_jobs
from sweeps.plan.cluster import launch_problems
from sweeps.workers.forkserver import PRELOAD_CUDA

POSTGRES = "postgresql://me:secret@db/harness"


def config(url: str | None = None, **launch: Any) -> Config:
    return Config(launch=LaunchConfig(**launch), paths=PathsConfig(runs="runs", cache=".cache", ledger_url=url))


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster's commands that write down what they were given."""
    for name, text in (("sbatch", "Submitted batch job 42"), ("srun", "")):
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(
            f'#!/bin/sh\necho "$HARNESS_LEDGER_URL" > {tmp_path}/url\ncp "$1" {tmp_path}/script\necho {text}\n'
        )
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.delenv("HARNESS_LEDGER_URL", raising=False)
    return tmp_path


def test_a_dry_run_shows_the_batch_script_that_would_be_submitted(
    sbatch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sbatch)
    asked = config(POSTGRES, launcher=Launcher.slurm, slurm=SlurmConfig(partition="gpu", setup=["module load cuda"]))
    text = sbatch_text(asked, "my sweep", 3)
    settings = WorkerSettings(ledger_url=POSTGRES, paths=asked.paths, launch=asked.launch, tracking=asked.tracking)
    submit(replace(settings, sweep="my sweep"), 3)
    submitted = (sbatch / "script").read_text().splitlines()
    assert [line for line in text.splitlines() if not line.startswith("srun")] == [
        line for line in submitted if not line.startswith("srun")
    ]
    assert "#SBATCH --array=0-2%3" in submitted
    assert "#SBATCH --partition=gpu" in submitted
    assert "secret" not in text


def test_every_launcher_has_its_entry() -> None:
    assert set(LAUNCHERS) == set(Launcher)


def test_sqlite_is_refused_where_workers_may_be_on_many_machines(sbatch: Path) -> None:
    for launch in ({"launcher": Launcher.slurm}, {"launcher": Launcher.ray, "ray": RayConfig(address="head:6379")}):
        (problem,) = launch_problems(config(**launch))
        assert "runs/ledger.sqlite" in problem
        assert "paths.ledger_url=postgresql://user@host/database" in problem
        assert "--allow-sqlite" in problem
        assert not launch_problems(config(POSTGRES, **launch))
        assert not launch_problems(config(**launch, allow_sqlite=True))
    assert not launch_problems(config(launcher=Launcher.ray)), "its own cluster is this machine"
    assert not launch_problems(config())


def test_missing_sbatch_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (problem,) = launch_problems(config(POSTGRES, launcher=Launcher.slurm))
    assert "no sbatch on this machine" in problem


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        (
            {"slurm": SlurmConfig(partition="gpu")},
            r"launch\.slurm\.\.\.: has no effect with launch=local; add launch=slurm",
        ),
        ({"launcher": Launcher.slurm, "ray": RayConfig(retries=1)}, r"add launch=ray"),
        ({"wait": False}, r"launch\.wait=false"),
        ({"launcher": Launcher.ray, "workers_per_device": 2}, r"launch\.workers_per_device"),
        ({"workers": 0}, r"launch\.workers=0"),
    ],
)
def test_settings_without_effect_are_refused(launch: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LaunchConfig(**launch)


def test_sbatch_is_asked_for_what_the_keys_say(sbatch: Path) -> None:
    slurm = SlurmConfig(
        partition="gpu", account="lab", qos="high", constraint="a100", time_minutes=90, gpus_per_worker=2,
        cpus_per_worker=6, mem_gb=1.5, setup=["module load cuda"], extra={"exclude": "n7", "exclusive": True},
        log_folder=str(sbatch / "logs"),
    )  # fmt: skip
    submission = submit(settings(sbatch, LaunchConfig(launcher=Launcher.slurm, slurm=slurm)), 3)
    assert (submission.job_id, submission.num_workers) == ("42", 3)
    script = (sbatch / "script").read_text()
    for line in (
        "partition=gpu", "account=lab", "qos=high", "constraint=a100", "time=90", "gpus-per-node=2", "cpus-per-task=6",
        "mem=1536MB", "array=0-2%3", "signal=USR2@90", "exclude=n7", "exclusive", "requeue", "job-name=harness-s",
    ):  # fmt: skip
        assert f"#SBATCH --{line}\n" in script, (line, script)
    assert "\nmodule load cuda\n" in script
    assert f"{sbatch}/logs/%A_%a_%t_log.out" in script


def test_a_cpu_launch_asks_for_no_gpu() -> None:
    asked = sbatch_parameters(LaunchConfig(launcher=Launcher.slurm, device=Device.cpu), "s", 1)
    assert not {"gpus_per_node", "partition", "mem", "setup"} & asked.keys()


def test_the_password_goes_by_the_environment_never_into_a_file(sbatch: Path) -> None:
    submit(settings(sbatch, LaunchConfig(launcher=Launcher.slurm)), 2)
    assert (sbatch / "url").read_text().strip() == POSTGRES
    written = [path for path in (sbatch / "runs").rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if b"secret" in path.read_bytes()]


def test_a_signal_is_handed_to_submitit_once_all_is_saved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[str] = []
    before = signal.signal(signal.SIGUSR2, lambda *_: told.append("submitit's handler"))
    monkeypatch.setenv("HARNESS_LEDGER_URL", POSTGRES)
    worker = SlurmWorker(settings=settings(tmp_path, LaunchConfig()), threads=1)
    ends = {signal.SIGUSR2: None, None: None, signal.SIGTERM: 143}
    try:
        for stopped_by, status in ends.items():

            def work(given: WorkerSettings, threads: int, stop_on: Any, stopped_by: Any = stopped_by) -> Any:
                assert given.ledger_url == POSTGRES
                assert set(stop_on) == {signal.SIGTERM, signal.SIGUSR2}
                told.append("worker")
                return stopped_by

            monkeypatch.setattr("sweeps.launch.slurm.start_cluster_worker", work)
            if status is None:
                worker()
            else:
                with pytest.raises(SystemExit) as end:
                    worker()
                assert end.value.code == status
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert told == ["worker", "submitit's handler", "worker", "worker"]
    assert pickle.loads(pickle.dumps(worker.checkpoint().function)) == worker


def test_a_task_without_the_ledgers_address_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HARNESS_LEDGER_URL", raising=False)
    with pytest.raises(ValueError, match="sbatch must hand on the environment"):
        SlurmWorker(settings=settings(tmp_path, LaunchConfig()), threads=1)()


def test_submissions_are_listed_by_sweep(tmp_path: Path) -> None:
    assert submissions(tmp_path, "a/b") == []
    path = submissions_file(tmp_path, "a/b")
    assert path == tmp_path / "slurm" / "a_b.jsonl"
    path.parent.mkdir()
    row = {"job_id": "7", "num_workers": 2, "submitted": "2026-11-22", "log_folder": "logs"}
    path.write_text(json.dumps(row) + "\n")
    assert submissions(tmp_path, "a/b") == [Submission(**row)]


def test_ray_room_is_what_whole_workers_need_on_one_node() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 2.0}},
        {"Alive": True, "Resources": {"CPU": 3.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    assert _room(nodes, cpus=4, gpus=1) == 2
    assert _room(nodes, cpus=4, gpus=0.5) == 4
    assert _room(nodes, cpus=2, gpus=0) == 9
    assert _room(nodes, cpus=0.1, gpus=0.1) == 20
    assert _room([], cpus=1, gpus=0) == 0


def test_ray_workers_find_this_project() -> None:
    assert str(Path(__file__).resolve().parents[4]) in _runtime_env(RayConfig())["env_vars"]["PYTHONPATH"]
    given = _runtime_env(RayConfig(runtime_env={"working_dir": ".", "env_vars": {"A": "1"}}))
    assert given == {"working_dir": ".", "env_vars": {"A": "1"}}, "a working_dir carries the project itself"


def test_waiting_tells_of_changes_and_ends_with_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.launch.waiting.POLL_SECONDS", 0.01)
    ledger = ledger_with_a_job(tmp_path)
    told: list[dict[str, Any]] = []

    def watch(message: dict[str, Any]) -> None:
        told.append(message["counts"])
        if len(told) == 2:
            (claim,) = ledger.claim("w", ["train"], 1, 60, 2)
            threading.Thread(target=ledger.finish, args=(claim, {}, 1.0)).start()

    wait_for_jobs(ledger, "s", watch, lambda: True)
    assert told[0]["queued"] == 1
    assert told[-1] == {"queued": 0, "claimed": 0, "done": 1, "failed": 0, "cancelled": 0, "stopped": 0}


def test_waiting_ends_where_no_worker_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.launch.waiting.POLL_SECONDS", 0.01)
    monkeypatch.setattr("sweeps.launch.waiting.SETTLE_SECONDS", 0.05)
    with pytest.raises(NoWorkersError, match="all workers have ended, but 1 jobs are open"):
        wait_for_jobs(ledger_with_a_job(tmp_path), "s", lambda message: None, lambda: False)


def test_progress_of_workers_elsewhere_is_a_line_a_change() -> None:
    out = StringIO()
    counts = {"queued": 3, "claimed": 1, "done": 0, "failed": 0, "cancelled": 0}
    with SweepProgress(Console(file=out, width=100), 4, 0) as progress:
        for message in (counts, counts, counts | {"queued": 2, "done": 1}):
            progress({"phase": "counts", "label": "s", "counts": message})
    assert out.getvalue().splitlines() == ["[0/4] 1 claimed, 3 queued", "[1/4] 1 claimed, 2 queued"]


def test_nothing_heavy_is_imported_unless_chosen() -> None:
    code = "import sys, sweeps.launch.launchers; print([m for m in ('ray', 'submitit', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_what_the_forkserver_loads_on_a_gpu_machine_opens_no_cuda() -> None:
    """bitsandbytes asks the device at import; a process forked after that can't use it."""
    code = f"import sys, {PRELOAD_CUDA}; print([m for m in ('bitsandbytes', 'peft') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def settings(folder: Path, launch: LaunchConfig) -> WorkerSettings:
    paths = PathsConfig(runs=str(folder / "runs"), cache=str(folder / "cache"), ledger_url=POSTGRES)
    return WorkerSettings(ledger_url=POSTGRES, paths=paths, launch=launch, tracking=TrackingConfig(), sweep="s")


def ledger_with_a_job(folder: Path) -> Ledger:
    ledger = Ledger.open(folder / "ledger.sqlite")
    ledger.add([Job(kind="train", spec_hash="x", run_id="x", group="g", label="x", payload="{}")], sweep="s")
    return ledger
