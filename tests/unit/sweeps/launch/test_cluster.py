"""SLURM and Ray as a launch sees them, their commands and library scripted: what is told, waited for and ended."""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.config.schema import Device, LaunchConfig, Launcher, PathsConfig, RayConfig, SlurmConfig, TrackingConfig
from harness.files.atomic import append_jsonl
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Job
from sweeps.jobs.settings import WorkerSettings
from sweeps.launch import ray as ray_launch
from sweeps.launch import slurm
from sweeps.launch.ray import run_ray
from sweeps.launch.slurm import Submission, run_slurm, scancel, still_there, submissions, task_states
from sweeps.launch.waiting import NoWorkersError

EARLIER = Submission(job_id="7", num_workers=2, submitted="2026-11-22", log_folder="logs")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Two queued runs."""
    made = Ledger.open(tmp_path / "ledger.sqlite")
    made.add([Job(kind="train", spec_hash=n, run_id=n, group="g", label=n, payload="{}") for n in "ab"], sweep="s")
    return made


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cluster's commands, which is the whole PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def script(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def settings(folder: Path, **launch: Any) -> WorkerSettings:
    paths = PathsConfig(runs=str(folder / "runs"), cache=str(folder))
    url = str(folder / "ledger.sqlite")
    return WorkerSettings(
        ledger_url=url, paths=paths, launch=LaunchConfig(**launch), tracking=TrackingConfig(), sweep="s"
    )


def on_slurm(folder: Path, **launch: Any) -> WorkerSettings:
    return settings(folder, launcher=Launcher.slurm, **launch)


def notes(told: list[dict[str, Any]]) -> list[str]:
    return [message["note"] for message in told if message["phase"] == "note"]


def test_the_states_of_tasks_are_squeues(commands: Path) -> None:
    assert still_there([EARLIER]) == [], "a machine without squeue"
    script(commands, "squeue", 'echo "$*" > "$0.asked"; echo "RUNNING (None)"; echo "PENDING (Resources)"')
    assert task_states("7") == ["RUNNING", "PENDING (Resources)"]
    assert "--array --jobs 7 " in (commands / "squeue.asked").read_text()
    assert still_there([EARLIER]) == [EARLIER]
    script(commands, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert task_states("7") == [], "SLURM has forgotten it"
    assert still_there([EARLIER]) == []
    script(commands, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert task_states("7") == ["UNKNOWN"]
    assert still_there([EARLIER]) == [EARLIER], "nobody is written off"


def test_scancel_ends_all_or_says_why_not(commands: Path) -> None:
    with pytest.raises(ValueError, match="there is no scancel on this machine"):
        scancel([EARLIER])
    script(commands, "scancel", 'echo "$*" > "$0.asked"')
    scancel([EARLIER, replace(EARLIER, job_id="8")])
    assert (commands / "scancel.asked").read_text() == "7 8\n"
    script(commands, "scancel", "echo 'Access denied' >&2; exit 1")
    with pytest.raises(ValueError, match=r"--scancel: Access denied$"):
        scancel([EARLIER])


def test_changes_of_the_tasks_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    script = [["PENDING (Priority)"] * 2, ["PENDING (Priority)"] * 2, ["RUNNING", "PENDING (Priority)"], []]
    monkeypatch.setattr(slurm, "task_states", lambda job_id: script.pop(0))
    told: list[dict[str, Any]] = []
    ask = slurm._tasks_left(EARLIER, told.append)
    assert [ask() for _ in range(4)] == [True, True, True, False]
    assert notes(told) == [
        "SLURM job 7: 2 PENDING (Priority)",
        "SLURM job 7: 1 PENDING (Priority), 1 RUNNING",
        "SLURM job 7: no task is left",
    ]


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of workers that were submitted."""
    numbers: list[int] = []

    def submit(settings: WorkerSettings, num_workers: int) -> Submission:
        numbers.append(num_workers)
        return replace(EARLIER, job_id="42", num_workers=num_workers)

    monkeypatch.setattr(slurm, "submit", submit)
    monkeypatch.setattr(slurm, "task_states", lambda job_id: [])
    return numbers


def test_a_submission_is_listed_and_told_with_what_watches_and_ends_it(
    ledger: Ledger, tmp_path: Path, submitted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "still_there", lambda candidates: candidates)
    told: list[dict[str, Any]] = []
    assert not run_slurm(on_slurm(tmp_path, wait=False, workers=9), ledger, told.append), "it has not waited"
    assert submitted == [2], "no more workers than jobs"
    assert notes(told) == [
        "SLURM job 42: 2 workers; logs in logs",
        "watch:  squeue --jobs 42    python -m sweeps status --sweep s --watch",
        "cancel: python -m sweeps cancel --sweep s --scancel",
    ]
    assert [one.job_id for one in submissions(tmp_path / "runs", "s")] == ["42"]
    told.clear()
    run_slurm(on_slurm(tmp_path, wait=False), ledger, told.append)
    assert notes(told)[0] == "SLURM job 42 of this sweep is still there; these workers come beside it"
    assert submitted == [2, 1], "one worker where nothing is said"


@pytest.mark.parametrize(
    ("ends", "error", "message"),
    [
        (None, None, None),
        (
            NoWorkersError("all workers have ended"),
            ValueError,
            "SLURM job 42: all workers have ended; why stands in logs",
        ),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_how_a_wait_for_slurm_ends(
    ends: BaseException | None,
    error: type[BaseException] | None,
    message: str | None,
    ledger: Ledger,
    tmp_path: Path,
    submitted: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wait(given: Ledger, sweep: str, watch: Any, left: Any) -> None:
        assert (given, sweep, left()) == (ledger, "s", False)
        if ends is not None:
            raise ends

    monkeypatch.setattr(slurm, "wait_for_jobs", wait)
    told: list[dict[str, Any]] = []
    if error is None:
        assert run_slurm(on_slurm(tmp_path), ledger, told.append)
        return
    with pytest.raises(error, match=message):
        run_slurm(on_slurm(tmp_path), ledger, told.append)
    goes_on = "SLURM job 42 goes on; end it by scancel 42"
    assert (goes_on in notes(told)) is (error is KeyboardInterrupt)


@pytest.mark.parametrize(
    "row",
    [{"job_id": "--user=me"}, {"job_id": "7 8"}, {"job_id": 7}, {"num_workers": "2"}, {"submitted": None}],
)
def test_rows_of_others_are_no_options_of_scancel(row: dict[str, Any], tmp_path: Path) -> None:
    path = slurm.submissions_file(tmp_path, "s")
    append_jsonl(path, asdict(EARLIER) | row)
    with pytest.raises(ValueError, match=r"slurm/s\.jsonl: a row is no submission to SLURM: "):
        submissions(tmp_path, "s")


def test_where_submissions_and_logs_lie(tmp_path: Path) -> None:
    append_jsonl(
        slurm.submissions_file(tmp_path, "s"), {"job_id": "1", "num_workers": 1} | {"submitted": "", "log_folder": ""}
    )
    assert [one.job_id for one in submissions(tmp_path, "s")] == ["1"]
    logs = slurm.log_folder(LaunchConfig(), PathsConfig(runs=str(tmp_path), cache=""), "../a b")
    assert logs == tmp_path / "slurm" / ".._a_b"
    own = LaunchConfig(launcher=Launcher.slurm, slurm=SlurmConfig(log_folder=str(tmp_path / "here")))
    assert slurm.log_folder(own, PathsConfig(cache=""), "s") == tmp_path / "here"


class Ray:
    """Ray's functions, scripted: each task is a number, which ends by itself unless it is deaf."""

    class RayError(Exception):
        """As Ray's."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.errors: dict[int, Exception] = {}
        self.left: list[int] = []
        self.alive = [{"Alive": True, "Resources": {"CPU": 4.0}}]

    def init(self, **options: Any) -> None:
        self.asked.append(("init", options))

    def shutdown(self) -> None:
        self.asked.append("shutdown")

    def nodes(self) -> list[dict[str, Any]]:
        return self.alive

    def remote(self, **options: Any) -> Any:
        self.asked.append(("remote", options))
        numbers = iter(range(100))
        return lambda work: SimpleNamespace(remote=lambda *given: self.asked.append(("task", *given)) or next(numbers))

    def wait(self, tasks: list[int], num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        assert num_returns == len(tasks)
        return [task for task in tasks if task not in self.left], [task for task in tasks if task in self.left]

    def get(self, task: int) -> None:
        if task in self.errors:
            raise self.errors[task]

    def cancel(self, task: int, force: bool) -> None:
        self.asked.append(("cancel", task, force))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    scripted = Ray()
    monkeypatch.setitem(sys.modules, "ray", scripted)
    return scripted


def on_ray(folder: Path, **launch: Any) -> WorkerSettings:
    return settings(folder, launcher=Launcher.ray, device=Device.cpu, **launch)


def waits(monkeypatch: pytest.MonkeyPatch, ends: BaseException | None = None) -> list[bool]:
    """-> whether workers were left, as the wait was told"""
    left: list[bool] = []

    def wait(ledger: Ledger, sweep: str, watch: Any, workers_left: Any) -> None:
        left.append(workers_left())
        if ends is not None:
            raise ends

    monkeypatch.setattr(ray_launch, "wait_for_jobs", wait)
    return left


def test_a_cluster_of_our_own_listens_on_loopback_and_is_ended(
    ray: Ray, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, told = waits(monkeypatch), list[dict[str, Any]]()
    ray.left = [0, 1]
    assert run_ray(on_ray(tmp_path), ledger, told.append)
    (_, options), (_, needs), *tasks, last = ray.asked
    assert (options["address"], options["_node_ip_address"]) == ("local", "127.0.0.1")
    assert options["include_dashboard"] is False
    assert needs == {"num_cpus": 1.0, "num_gpus": 0, "max_retries": 3}
    assert [task[0] for task in tasks] == ["task"] * 2, "no more workers than jobs"
    (_, moved, threads, _) = tasks[0]
    assert Path(moved.paths.runs).is_absolute()
    assert (threads, last, left) == (1, "shutdown", [True])
    assert notes(told) == ["Ray: 2 workers asked for, room for 4 now"]


def test_a_cluster_elsewhere_is_joined_and_may_grow(
    ray: Ray, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits(monkeypatch)
    ray.alive, told = [], list[dict[str, Any]]()
    config = RayConfig(address="head:6379", cpus_per_worker=2.5, retries=1)
    run_ray(on_ray(tmp_path, ray=config), ledger, told.append)
    (_, options), (_, needs), *tasks, _ = ray.asked
    assert (options["address"], options.keys() & {"_node_ip_address", "num_cpus"}) == ("head:6379", set())
    assert needs == {"num_cpus": 2.5, "num_gpus": 0, "max_retries": 1}
    assert [task[2] for task in tasks] == [2], "one worker, of two whole cores"
    assert notes(told)[0].endswith("launch.ray.cpus_per_worker=2.5 and 0 GPUs now; waiting for one")
    with pytest.raises(ValueError, match=r"no room for a worker with .* and 0 GPUs; without GPUs: launch.device=cpu"):
        run_ray(on_ray(tmp_path), ledger, told.append)


def test_why_rays_workers_ended_is_told_once_each(
    ray: Ray, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits(monkeypatch, NoWorkersError("all workers have ended"))
    error = Ray.RayError("wrapped")
    error.cause = ValueError("no rows\nat all")  # type: ignore[attr-defined]
    ray.errors, told = {0: error, 1: Ray.RayError("node lost")}, list[dict[str, Any]]()
    message = "launch=ray: all workers have ended: ValueError: no rows; RayError: node lost$"
    with pytest.raises(ValueError, match=message):
        run_ray(on_ray(tmp_path, workers=2), ledger, told.append)
    assert [one["reason"] for one in told if one["phase"] == "died"] == ["ValueError: no rows", "RayError: node lost"]
    failures: dict[Any, str] = {}
    again: list[dict[str, Any]] = []
    assert not ray_launch._any_left([0, 2], failures, again.append)
    assert not ray_launch._any_left([0, 2], failures, again.append)
    assert (len(again), failures[2]) == (1, "")
    ray.errors = {}
    with pytest.raises(ValueError, match="no worker said why"):
        run_ray(on_ray(tmp_path), ledger, told.append)


def test_an_interrupt_asks_rays_workers_to_save_and_then_ends_them(
    ray: Ray, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits(monkeypatch, KeyboardInterrupt())
    ray.left = [1]
    with pytest.raises(KeyboardInterrupt):
        run_ray(on_ray(tmp_path, workers=2), ledger, lambda _: None)
    ended = [asked for asked in ray.asked if asked[0] == "cancel"]
    assert ended == [("cancel", 0, False), ("cancel", 1, False), ("cancel", 1, True)]
    assert ray.asked[-1] == "shutdown"


def test_an_address_where_nothing_is_gets_one_line(ray: Ray, ledger: Ledger, tmp_path: Path) -> None:
    def refuse(**options: Any) -> None:
        raise ConnectionError("nobody there")

    ray.init = refuse  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"launch\.ray\.address=head:1: nobody there$"):
        run_ray(on_ray(tmp_path, ray=RayConfig(address="head:1")), ledger, lambda _: None)
