"""A launch from its plan to its exit status, with a launcher that only looks; and what a search hands to it."""

import io
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from harness.config.schema import Config, Device, LaunchConfig, Launcher, PathsConfig, SlurmConfig
from harness.devices.hardware import Place
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Job
from sweeps.jobs.settings import WorkerSettings
from sweeps.launch import launch as launching
from sweeps.plan.jobs import make_jobs, plan_runs
from sweeps.plan.planned import Planned
from sweeps.search import command as searching
from sweeps.search.study import parse_search
from tests.builders import config

COMMAND = ["python", "-m", "harness.run"]


@pytest.fixture
def point(tmp_path: Path) -> Config:
    made = config(adapter="none")
    paths = PathsConfig(runs=str(tmp_path / "new" / "runs"), cache=str(tmp_path / "cache"))
    return replace(made, paths=paths, launch=LaunchConfig(device=Device.cpu))


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, point: Config) -> io.StringIO:
    """What the launch prints; its plan is the point's one run, without a problem."""
    runs = plan_runs([point])
    plan = Planned(
        runs=runs, jobs=make_jobs(runs), finished=set(), problems=[], num_examples={}, notes=["something was decided"]
    )
    monkeypatch.setattr(launching, "planned", lambda configs: plan)
    return io.StringIO()


def launched(point: Config, out: io.StringIO) -> int:
    return launching.launch([point], COMMAND, Console(file=out, width=200, color_system=None))


def as_launcher(monkeypatch: pytest.MonkeyPatch, work: Callable[[WorkerSettings, Ledger, Any], bool]) -> None:
    monkeypatch.setitem(launching.LAUNCHERS, Launcher.local, work)


def test_what_is_open_goes_to_the_launcher_and_its_end_is_told(
    point: Config, shown: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[WorkerSettings] = []

    def work(settings: WorkerSettings, ledger: Ledger, watch: Any) -> bool:
        seen.append(settings)
        for claim in ledger.claim("w", ["train"], max_jobs=9, lease_seconds=60, max_attempts=1):
            ledger.finish(claim, {"final_loss": 1.0}, 2.5)
        return True

    as_launcher(monkeypatch, work)
    assert launched(point, shown) == 0
    (settings,) = seen
    assert (settings.paths, settings.launch.device, settings.tracking) == (point.paths, Device.cpu, point.tracking)
    assert settings.ledger_url.endswith("ledger.sqlite")
    assert settings.work is not None
    assert str(settings.sweep).startswith("sweep-")
    text = shown.getvalue()
    assert "note: something was decided" in text
    assert f"sweep {settings.sweep}: 1 jobs, 0 done before, runs in {point.paths.runs}" in text
    assert "how the jobs ended" in text
    again = io.StringIO()
    monkeypatch.setattr(launching, "enqueue", lambda *given: None)  # it would do again what left no folder
    assert launched(point, again) == 0, "nothing is left: no launcher is asked"
    assert len(seen) == 1
    assert "1 jobs, 1 done before" in again.getvalue()


def test_a_launch_that_does_not_wait_says_nothing_of_an_end(
    point: Config, shown: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_launcher(monkeypatch, lambda settings, ledger, watch: False)
    assert launched(replace(point, sweep_name="mine"), shown) == 0
    assert "sweep mine: " in shown.getvalue()
    assert "how the jobs ended" not in shown.getvalue()


def test_a_failed_job_and_a_stop_have_their_exit_status(
    point: Config, shown: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(settings: WorkerSettings, ledger: Ledger, watch: Any) -> bool:
        for claim in ledger.claim("w", ["train"], max_jobs=9, lease_seconds=60, max_attempts=1):
            ledger.fail(claim, "no reason", retry=False)
        return True

    def stop(settings: WorkerSettings, ledger: Ledger, watch: Any) -> bool:
        raise KeyboardInterrupt

    as_launcher(monkeypatch, fail)
    assert launched(point, shown) == 1
    as_launcher(monkeypatch, stop)
    assert launched(point, shown) == 130
    assert "stopped; state is saved. The same command goes on where this one ended." in shown.getvalue()


def test_problems_are_all_said_and_nothing_is_started(
    point: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Planned(
        runs=[], jobs=[], finished=set(), problems=["a is missing", "b is missing"], num_examples={}, notes=[]
    )
    monkeypatch.setattr(launching, "planned", lambda configs: found)
    with pytest.raises(ValueError, match=r"^a is missing\nb is missing$"):
        launched(point, io.StringIO())
    assert not (tmp_path / "new").exists()
    many = [f"model m{number}: no such file" for number in range(40)]
    lines = launching._shown_problems(many)
    assert len(lines) < 40
    assert lines[-1].startswith("40 things are missing; ")
    assert launching._shown_problems(many[:1]) == many[:1]


def test_a_dry_run_prints_the_plan_and_what_slurm_would_get(
    point: Config, shown: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "print_plan", lambda plan, first, console: console.print("the plan"))
    dry = replace(point, launch=replace(point.launch, dry_run=True))
    assert launched(dry, shown) == 0
    assert shown.getvalue() == "the plan\n"
    monkeypatch.setattr(launching, "sbatch_text", lambda one, name, workers: f"#SBATCH {name} {workers}")
    slurm = LaunchConfig(
        launcher=Launcher.slurm, dry_run=True, workers=3, device=Device.cpu, slurm=SlurmConfig(time_minutes=90)
    )
    assert launched(replace(point, launch=slurm, sweep_name="mine"), shown) == 0
    text = shown.getvalue()
    assert "sbatch would get:\n#SBATCH mine 1" in text, "no more workers than open jobs"
    assert "1 workers of up to 1.5 h each: at most 1.5 node-hours until they are requeued" in text
    assert not (tmp_path / "new").exists()


def test_a_process_of_torchrun_works_itself_and_only_the_first_plans(
    point: Config, shown: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str | None, int]] = []
    monkeypatch.setattr(launching, "_run_here", lambda settings, place, watch: ran.append((settings.sweep, place.rank)))
    monkeypatch.setattr(launching, "show_result", lambda *given: 7)
    monkeypatch.setattr(launching, "place_of_environment", lambda: Place(rank=1, size=2, local_rank=1))
    assert launched(point, shown) == 0
    assert (ran, shown.getvalue()) == ([(None, 1)], "")
    assert launched(replace(point, launch=replace(point.launch, dry_run=True)), shown) == 0
    assert len(ran) == 1
    monkeypatch.setattr(launching, "place_of_environment", lambda: Place(rank=0, size=2, local_rank=0))
    assert launched(replace(point, sweep_name="mine"), shown) == 7
    assert ran[1:] == [("mine", 0)]

    def stop(settings: WorkerSettings, place: Place, watch: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launching, "_run_here", stop)
    assert launched(point, shown) == 130
    monkeypatch.setattr(launching, "place_of_environment", lambda: Place(rank=1, size=2, local_rank=1))
    assert launched(point, shown) == 130


def test_a_sweep_without_a_name_is_called_by_its_jobs() -> None:
    jobs = [Job(kind="train", spec_hash=n, run_id=n, group="g", label=n, payload="{}") for n in ("a", "b")]
    assert (
        launching._sweep_name(jobs) == launching._sweep_name(jobs[::-1]) == "sweep-" + launching._sweep_name(jobs)[6:]
    )
    assert launching._sweep_name(jobs) != launching._sweep_name(jobs[:1])
    assert len(launching._sweep_name(jobs)) == len("sweep-") + 8


def test_files_of_a_ledger_are_shared_as_the_folder_of_the_runs_is(point: Config, tmp_path: Path) -> None:
    runs = Path(point.paths.runs)
    runs.mkdir(parents=True)
    runs.chmod(0o2770)
    launching._open_ledger(point).close()
    assert stat.S_IMODE((runs / "ledger.sqlite").stat().st_mode) & 0o060 == 0o060


def test_a_search_names_its_sweep_waits_and_shows_its_trials(point: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def run_search(search: Any, storage_url: str, compose: Any, launch: Any, ledger: Any) -> int:
        asked.append((storage_url, compose(["x=1"]).sweep_name, launch([point], {}), ledger().counts("s")))
        return 3

    def compose_grid(overrides: Any, evals: Any, folder: Path | None) -> list[Any]:
        return [SimpleNamespace(config=point), None] if overrides == ["model=m"] else [SimpleNamespace(config=point)]

    monkeypatch.setattr(searching, "compose_grid", compose_grid)
    monkeypatch.setattr(searching, "run_search", run_search)
    monkeypatch.setattr(
        searching, "launch", lambda configs, command, console, stops: (len(configs), tuple(command), stops)
    )
    settings: dict[str, Any] = {"study": "s", "objective": "final_loss", "num_trials": 1, "num_parallel": 1}
    search = parse_search(["adapter.lora_r=int(1,2)", "model=m"], **settings)
    out = io.StringIO()
    for _ in range(2):  # a folder that is there is gone on with
        status, told = searching.search_and_show(search, COMMAND, Console(file=out, width=120), as_json=False)
    assert (status, told["study"]) == (3, "s")
    (url, name, launched_with, counts) = asked[0]
    assert (name, launched_with, counts) == ("s", (1, tuple(COMMAND), {}), {})
    assert url == f"sqlite:///{point.paths.runs}/ledger.sqlite"
    assert "study s: minimize final_loss" in out.getvalue()
    quiet = io.StringIO()
    searching.search_and_show(search, COMMAND, Console(file=quiet), as_json=True)
    assert quiet.getvalue() == ""
    named = replace(point, sweep_name="mine", launch=LaunchConfig(launcher=Launcher.slurm, wait=False))
    monkeypatch.setattr(searching, "compose_grid", lambda *given: [SimpleNamespace(config=named)])
    with pytest.raises(ValueError, match=r"launch\.wait=false: a search needs the result of each trial"):
        searching.search_and_show(search, COMMAND, Console(file=quiet), as_json=True)
