"""Races: who goes on at a rung, that a killed race goes on as if it had not been, and that stopped runs can go on."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from rich.console import Console

from harness.config.compose import compose_grid
from harness.config.schema import Config, TrainConfig
from harness.ledger.finished import sweep_runs
from harness.ledger.kept import DECISIONS_FILE, keep_decisions, kept_decisions
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Decision, Job, JobStatus, Verdict
from harness.training.checkpoint import checkpoints
from sweeps.launch.result import show_result
from sweeps.plan.enqueue import Stops, enqueue
from sweeps.plan.jobs import UNTIL, make_jobs, plan_runs
from sweeps.search import pruning
from sweeps.search.pruning import Pruner
from sweeps.search.race import Race, describe_race, halved, make_race, race_table, run_race
from sweeps.search.rungs import Rungs, make_rungs
from sweeps.search.study import describe_study, open_study, parse_search, run_search
from sweeps.watch.garbage import find_garbage
from sweeps.watch.rebuild import rebuild
from sweeps.watch.results import read_results, results_json
from sweeps.watch.show import read_run, run_text
from sweeps.watch.status import read_status
from tests.tiny import make_checkpoint
from tests.worker import OneWorker

STEPS = 60
RUNGS = Rungs(first=5, eta=3)
Curve = Callable[[Config, int], float]


@cache
def smollm2() -> Config:
    return compose_grid(["model=smollm2", "train.eval_rows=8", f"train.max_steps={STEPS}", "sweep_name=r"])[0].config


def points(number: int) -> list[Config]:
    """The best of them is the one whose seed is 3."""
    return [replace(smollm2(), train=replace(smollm2().train, seed=seed)) for seed in range(number)]


def falling(config: Config, step: int) -> float:
    """A curve that falls to the distance of the seed from 3."""
    return abs(config.train.seed - 3) + 10 / (1 + step)


class Engine:
    """Stands for the sweep engine: ends each job in the ledger by a curve. It may be killed within a launch."""

    def __init__(self, folder: Path, curve: Curve = falling) -> None:
        self.folder, self.url, self.curve = folder, folder / "ledger.sqlite", curve
        self.trained: dict[int, list[int]] = {}  # seed -> steps that were made, in order
        self.dies_after: int | None = None  # so many jobs
        self.num_launches = 0

    def open(self) -> Ledger:
        return Ledger.open(self.url)

    def launch(self, configs: Sequence[Config], stops: Stops | None) -> int:
        self.num_launches += 1
        runs = plan_runs(configs)
        by_run = {run.run_id: config for run, config in zip(runs, configs, strict=True)}
        with closing(self.open()) as ledger:
            enqueue(ledger, self.folder, runs, make_jobs(runs), "r", ["x"], stops)
            while claims := ledger.claim("me", ["train"], max_jobs=1, lease_seconds=60, max_attempts=1):
                if self.dies_after == 0:
                    ledger.release(claims)
                    raise KeyboardInterrupt
                self.dies_after = None if self.dies_after is None else self.dies_after - 1
                self._end(ledger, claims[0], by_run[claims[0].run_id])
        return 0

    def _end(self, ledger: Ledger, claim: Any, config: Config) -> None:
        until = json.loads(claim.payload).get(UNTIL) or STEPS
        step, made = min(until, STEPS), self.trained.setdefault(config.train.seed, [])
        made += range(max(made, default=0) + 1, step + 1)
        loss = self.curve(config, step)
        if loss < 0:
            ledger.fail(claim, "diverged", retry=False)
        elif step < STEPS:
            ledger.stop(claim, {"eval_loss": loss, "eval_step": step}, 1.0, f"stopped at step {step}")
        else:
            ledger.finish(claim, {"eval_loss": loss, "eval_step": step}, 1.0)

    def race(self, number: int = 20, promoted: Sequence[str] = (), rungs: Rungs = RUNGS) -> dict[str, Any]:
        race = make_race(points(number), rungs, "eval_loss")
        assert run_race(race, self.launch, self.open, promoted) == 0
        with closing(self.open()) as ledger:
            return describe_race(race, ledger)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


def verdicts(values: dict[str, Any]) -> list[list[str]]:
    return [[str(decision["verdict"]) for decision in run["decisions"]] for run in values["runs"]]


def test_the_best_third_goes_on_and_the_best_trains_to_its_end(engine: Engine) -> None:
    values = engine.race()
    assert values["best"]["run_id"] == plan_runs([points(4)[3]])[0].run_id
    assert {seed: len(steps) for seed, steps in engine.trained.items()} == {
        **dict.fromkeys(range(20), 5),
        **dict.fromkeys(range(7), 15),
        **dict.fromkeys((2, 3, 4), 45),
        3: 60,
    }
    assert all(steps == list(range(1, len(steps) + 1)) for steps in engine.trained.values()), "no step is made twice"
    assert engine.num_launches == 4, "5, 15 and 45 steps, and to the end"
    first = values["runs"][3]["decisions"][0]
    assert (first["rank"], first["num_judged"], first["num_kept"], first["step"]) == (1, 20, 7, 5)
    assert first["limit"] == falling(points(7)[6], 5)
    assert first["rule"] == "halving by eval_loss, eta 3, from step 5"
    assert verdicts(values)[19] == ["stops"]
    assert verdicts(values)[3] == ["goes on"] * 4
    assert len(race_table(values).rows) == 20
    assert race_table(values).rows[0][0] == values["best"]["run_id"]
    again = engine.num_launches
    assert engine.race() == values
    assert engine.num_launches == again, "what is decided is not run again"


@pytest.mark.parametrize("kills", [[0], [8, 0, 1], [9], [12, 0]])  # 9 jobs at the first rung, then 3, then 1
def test_a_race_that_was_killed_anywhere_goes_on_and_repeats_nothing(tmp_path: Path, kills: list[int]) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, killed = Engine(tmp_path / "whole"), Engine(tmp_path / "killed")
    wanted = whole.race(9)
    for jobs in kills:
        killed.dies_after = jobs
        with pytest.raises(KeyboardInterrupt):
            killed.race(9)
    killed.dies_after = None
    assert killed.race(9) == wanted
    assert killed.trained == whole.trained


def test_a_kill_between_the_last_result_and_the_decision_decides_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, later = Engine(tmp_path), Engine(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "record_decisions", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            engine.race(9)
    values = later.race(9)
    assert later.trained.keys() == {2, 3, 4}, "the first rung was made before"
    assert values["best"]["run_id"] == plan_runs([points(4)[3]])[0].run_id


def test_a_run_that_fails_is_out_and_takes_no_place(tmp_path: Path) -> None:
    engine = Engine(tmp_path, lambda config, step: -1.0 if config.train.seed in (3, 11) else falling(config, step))
    values = engine.race()
    assert verdicts(values)[3] == verdicts(values)[11] == ["failed"]
    assert values["runs"][0]["decisions"][0]["num_judged"] == 18
    assert values["best"]["run_id"] in {run.run_id for run in plan_runs([points(5)[2], points(5)[4]])}
    assert len(engine.trained[3]) == 5, "it is not tried again at the next rung"
    with closing(engine.open()) as ledger:
        assert ledger.counts("r")["train"][JobStatus.failed] == 2


def test_a_race_of_failures_only_ends(tmp_path: Path) -> None:
    assert Engine(tmp_path, lambda *_: -1.0).race()["best"] is None


def test_stopped_runs_are_neither_done_nor_failed(engine: Engine) -> None:
    values = engine.race()
    stopped, best = values["runs"][19]["run_id"], values["best"]["run_id"]
    with closing(engine.open()) as ledger:
        counts = ledger.counts("r")["train"]
        assert (counts[JobStatus.done], counts[JobStatus.stopped], counts[JobStatus.failed]) == (1, 19, 0)
        status = read_status(ledger, "r", engine.folder)
        assert (status.counts["train"]["stopped"], status.num_failures) == (19, 0)
        found = {result.run_id: result for result in read_results(ledger, "r", sort="eval_loss")}
        assert (found[stopped].status, found[best].status) == ("stopped", "done")
        assert (found[stopped].value("eval_loss"), found[stopped].value("eval_step")) == (falling(points(20)[19], 5), 5)
        shown = read_run(ledger, engine.folder, stopped)
        assert shown["decisions"][0]["verdict"] == "stops"
        assert "rung 0: stops, held-out loss 17.6667 at step 5, 20 of 20; 7 go on, to 4.6667" in run_text(shown)
        listed = results_json("r", list(found.values()))["runs"]
        assert [row["decisions"][-1]["verdict"] for row in listed if row["run"] == stopped] == ["stops"]
        assert show_result(ledger, 20, "r", Console(quiet=True)) == 0
    known = sweep_runs("r", str(engine.url))
    assert known.run_ids == (best,)
    assert len(known.unfinished) == 19
    assert "stopped at step" in known.unfinished[0][1]
    shown = [(label, made.run_id, made.rung) for label, made in known.decisions]
    labels = {run["run_id"]: run["label"] for run in values["runs"]}
    assert shown == [(labels[run_id], run_id, rung) for _, run_id, rung in shown]
    assert len(shown) == sum(len(run["decisions"]) for run in values["runs"]) > 20


@pytest.mark.parametrize("times", [1, 2])
def test_a_stopped_run_is_promoted_by_hand(engine: Engine, times: int) -> None:
    stopped = engine.race()["runs"][19]["run_id"]
    for _ in range(times):
        values = engine.race(promoted=[stopped[:8]])
    assert values["runs"][19]["status"] == "done"
    assert engine.trained[19] == list(range(1, STEPS + 1)), "from its checkpoint"
    assert verdicts(values)[19] == ["stops", "promoted"]
    assert [run["status"] for run in values["runs"]].count("stopped") == 18
    with pytest.raises(ValueError, match="--promote zzz: 0 runs of the race"):
        engine.race(promoted=["zzz"])


def test_the_plain_command_promotes_all(engine: Engine) -> None:
    engine.race()
    assert engine.launch(points(20), None) == 0
    assert all(steps == list(range(1, STEPS + 1)) for steps in engine.trained.values())


def test_evaluations_wait_for_a_stopped_run_and_come_when_it_goes_on(tmp_path: Path) -> None:
    with closing(Ledger.open(tmp_path / "l.sqlite")) as ledger:
        train = Job(kind="train", spec_hash="a", run_id="a", group="g", label="a", payload="{}")
        score = Job(kind="mmlu", spec_hash="b", run_id="a", group="g", label="a", payload="{}", after=train.job_id)
        ledger.add([train, score], sweep="s")
        (claim,) = ledger.claim("w", ["train"], 1, 60.0, 1)
        assert ledger.stop(claim, {"eval_loss": 1.0}, 2.0, "at step 5")
        assert not ledger.stop(claim, {}, 2.0, "again"), "the claim has ended"
        assert not ledger.claim("w", ["train", "mmlu"], 2, 60.0, 1)
        assert [row.status for row in ledger.rows()] == [JobStatus.stopped] * 2
        later = Job(kind="glue", spec_hash="c", run_id="a", group="g", label="a", payload="{}", after=train.job_id)
        ledger.add([later], sweep="s")
        assert [row.status for row in ledger.rows(kinds=["glue"])] == [JobStatus.stopped]
        assert ledger.requeue([JobStatus.stopped]) == 3
        (claim,) = ledger.claim("w", ["train", "mmlu"], 2, 60.0, 1)
        assert claim.kind == "train"
        ledger.finish(claim, {}, 1.0)
        assert len(ledger.claim("w", ["mmlu"], 2, 60.0, 1)) == 1


def test_a_ledger_from_before_races_takes_decisions(engine: Engine) -> None:
    with closing(engine.open()) as ledger:
        ledger.now()
    connection = sa.create_engine(f"sqlite:///{engine.url}")
    with connection.begin() as begun:
        begun.exec_driver_sql("DROP TABLE decisions")
    with closing(engine.open()) as ledger:
        assert ledger.decisions("r") == []
    engine.race(3)
    with closing(engine.open()) as ledger:
        assert len(ledger.decisions("r")) == 4


def test_other_runs_or_rules_under_one_name_are_refused(engine: Engine) -> None:
    engine.race()
    with pytest.raises(ValueError, match=r"sweep r is a race of other runs, or by another rule .*sweep_name="):
        engine.race(19)
    with pytest.raises(ValueError, match="by another rule"):
        engine.race(rungs=Rungs(first=6, eta=3))


def test_what_does_not_compare_is_refused() -> None:
    def race(*configs: Config, objective: str = "eval_loss") -> Race:
        return make_race(configs, RUNGS, objective)

    one = points(1)[0]
    with pytest.raises(ValueError, match=r"add train\.eval_rows=N"):
        race(one, replace(one, train=replace(one.train, eval_rows=0)))
    with pytest.raises(ValueError, match="losses on other rows don't compare"):
        race(one, replace(one, train=replace(one.train, data_seed=1)))
    other = replace(one, model=replace(one.model, hub_id="owner/other"))
    with pytest.raises(ValueError, match="eval_bits_per_byte"):
        race(one, other)
    assert race(one, other, objective="eval_bits_per_byte").objective == "eval_bits_per_byte"
    with pytest.raises(ValueError, match="--objective mmlu"):
        race(one, objective="mmlu")


@pytest.mark.parametrize(
    ("steps", "eta", "first", "wanted"), [(100, 3, None, 4), (27, 3, None, 1), (100, 3, 7, 7), (None, 2, 8, 8)]
)
def test_rungs(steps: int | None, eta: int, first: int | None, wanted: int) -> None:
    found = make_rungs(TrainConfig(max_steps=steps), eta, first)
    assert [found.step(rung) for rung in range(3)] == [wanted, wanted * eta, wanted * eta**2]


@pytest.mark.parametrize(
    ("steps", "eta", "first", "problem"),
    [(100, 1, None, "--eta 1"), (None, 3, None, "say by --min-steps"), (100, 3, 0, "--min-steps 0")],
)
def test_rungs_that_can_not_be(steps: int | None, eta: int, first: int | None, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make_rungs(TrainConfig(max_steps=steps), eta, first)


def test_of_equal_losses_the_earlier_run_goes_on() -> None:
    assert halved({"a": 1.0, "b": 1.0, "c": 0.5, "d": 1.0}, 2) == ["c", "a"]
    assert halved({"a": 1.0}, 3) == ["a"]
    assert halved({}, 3) == []


def pruned_search(engine: Engine, pruner: Pruner) -> dict[str, Any]:
    def compose(overrides: Sequence[str]) -> Config:
        seed = next(int(text.split("=")[1]) for text in overrides if text.startswith("train.seed"))
        return replace(smollm2(), train=replace(smollm2().train, seed=seed))

    search = parse_search(
        ["model=smollm2", "train.seed=int(0,40)"],
        **{"study": "p", "objective": "eval_loss", "num_trials": 10, "num_parallel": 5},
        pruner=pruner,
        min_steps=5,
    )
    engine.open().close()
    url = f"sqlite:///{engine.url}"
    assert run_search(search, url, compose, engine.launch, engine.open) == 0
    return describe_study(open_study(search, url))


@pytest.mark.parametrize(("pruner", "kills"), [(Pruner.hyperband, [2, 3, 5]), (Pruner.median, [])])
def test_pruned_trials_stop_and_a_killed_search_goes_on(tmp_path: Path, pruner: Pruner, kills: list[int]) -> None:
    engine = Engine(tmp_path)
    for jobs in kills:
        engine.dies_after = jobs
        with pytest.raises(KeyboardInterrupt):
            pruned_search(engine, pruner)
    engine.dies_after = None
    trials = pruned_search(engine, pruner)["trials"]
    states = [trial["state"] for trial in trials]
    assert len(trials) == 10
    assert set(states) == {"complete", "pruned"}
    assert all(steps == list(range(1, len(steps) + 1)) for steps in engine.trained.values())
    pruned = {trial["params"]["train.seed"] for trial in trials if trial["state"] == "pruned"}
    assert {seed for seed, steps in engine.trained.items() if len(steps) < STEPS} == pruned
    with closing(engine.open()) as ledger:
        stops = [made.run_id for made in ledger.decisions("r") if made.verdict is Verdict.stops]
        assert set(stops) == {trial["run_id"] for trial in trials if trial["state"] == "pruned"}
        assert ledger.counts("r")["train"][JobStatus.stopped] == len(pruned)


def test_a_pruner_wants_the_held_out_loss() -> None:
    with pytest.raises(ValueError, match="--pruner median judges trials on held-out rows: say --objective eval_loss"):
        parse_search(
            ["train.seed=int(0,4)"],
            **{"study": "p", "objective": "final_loss", "num_trials": 1, "num_parallel": 1},
            pruner=Pruner.median,
        )
    assert isinstance(
        pruning.make_pruner(Pruner.hyperband, RUNGS, TrainConfig(max_steps=60)), pruning.optuna.pruners.HyperbandPruner
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def worker(tmp_path: Path, model: Path) -> Iterator[OneWorker]:
    worker = OneWorker(tmp_path, model)
    yield worker
    worker.ledger.close()


def test_a_real_race_keeps_checkpoints_and_promotes_to_the_same_weights(
    worker: OneWorker, tmp_path: Path, model: Path
) -> None:
    rates = (1e-2, 1e-5, 3e-3)
    configs = [worker.config(eval_rows=6, max_steps=4, learning_rate=rate) for rate in rates]
    race = make_race(configs, Rungs(first=2, eta=3), "eval_loss")

    def launch(configs: Sequence[Config], stops: Stops) -> int:
        worker.plan(configs, race.sweep, stops)
        worker.work()
        return 0

    def ledger() -> Ledger:
        return Ledger.open(str(worker.folder / "ledger.sqlite"))

    assert run_race(race, launch, ledger) == 0
    values = describe_race(race, worker.ledger)
    (best,) = [run for run in values["runs"] if run["status"] == "done"]
    stopped = [run for run in values["runs"] if run["status"] == "stopped"]
    assert best == values["best"]
    assert [run["step"] for run in stopped] == [2, 2]
    runs = worker.folder / "runs"
    for run in stopped:
        assert checkpoints(runs / run["run_id"] / "checkpoint")[0].name == "step-00000002"
        assert not (runs / run["run_id"] / "record.json").exists()
        assert not (runs / run["run_id"] / "adapter").exists()
        assert worker.metrics(run["run_id"])[-1]["eval_loss"] == run["loss"]
    garbage, _ = find_garbage(runs, worker.ledger)
    assert garbage == [], "the checkpoint of a stopped run is needed"
    assert run_race(race, launch, ledger, [stopped[0]["run_id"]]) == 0
    (tmp_path / "straight").mkdir()
    straight = OneWorker(tmp_path / "straight", model)
    straight.plan(configs)
    straight.work()
    promoted = worker.record(stopped[0]["run_id"])
    assert promoted.adapter_sha256 == straight.record(promoted.run_id).adapter_sha256
    assert worker.record(best["run_id"]).eval_loss == pytest.approx(straight.record(best["run_id"]).eval_loss, abs=1e-6)
    straight.ledger.close()


def test_a_race_whose_ledger_was_lost_stands_by_its_decisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rebuilt after the first rung: the runs that stopped there stay as they are, and none is judged again."""
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"  # where the configs have them
    for run in plan_runs(points(9)):
        (runs / run.run_id).mkdir(parents=True)
    (tmp_path / "whole").mkdir()
    wanted = Engine(tmp_path / "whole").race(9)
    for run in plan_runs(points(9)):
        (runs / run.run_id / DECISIONS_FILE).unlink()
    engine = Engine(runs)
    engine.dies_after = 9  # the first rung is decided
    with pytest.raises(KeyboardInterrupt):
        engine.race(9)
    engine.url.unlink()
    made = rebuild(runs, str(engine.url))
    assert (made.num_runs, made.num_decisions) == (0, 9)
    engine.dies_after = None
    values = engine.race(9)
    assert values["best"]["run_id"] == wanted["best"]["run_id"]
    assert verdicts(values) == verdicts(wanted)
    assert {seed for seed, steps in engine.trained.items() if len(steps) > 5} == {2, 3, 4}


def test_decisions_on_another_run_are_not_taken(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    numbers: dict[str, Any] = {"step": 5, "loss": 1.0, "rank": 2, "num_judged": 2, "num_kept": 1, "limit": 0.5}
    decision = Decision(sweep="r", run_id="a", rung=0, verdict=Verdict.stops, rule="halving", **numbers)
    keep_decisions(tmp_path, [decision, decision])
    assert kept_decisions(tmp_path / "a") == [decision]
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(ValueError, match="on another run"):
        kept_decisions(tmp_path / "b")
    (tmp_path / "b" / DECISIONS_FILE).write_text('{"sweep": "r"}\n{}\n')
    with pytest.raises(ValueError, match=r"decisions\.jsonl: run_id"):
        kept_decisions(tmp_path / "b")
