"""A seventh benchmark: one class and one entry in the registry, and every part of the project knows it."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from analysis.report.leaderboard import write_scores
from analysis.report.records import load_run
from analysis.report.sections import scores_views
from eval.benchmarks.benchmark import Benchmark, Contestant, Headline, Place
from eval.benchmarks.registry import BENCHMARKS, eval_config
from eval.benchmarks.settings import require_at_least, setting
from eval.commands.scores import add_commands
from harness.config.compose import ConfigError, compose_grid
from harness.config.overrides import check_overrides
from harness.config.schema import Config, PathsConfig
from harness.export.card import model_card
from harness.ledger.ledger import Ledger
from harness.ledger.tables import JobStatus
from harness.runs.estimate import Estimate
from harness.runs.scores import eval_file
from sweeps.jobs.context import Context
from sweeps.jobs.settings import WorkerSettings
from sweeps.plan.enqueue import enqueue
from sweeps.plan.planned import Planned, planned
from sweeps.search.study import objectives, parse_search
from sweeps.workers.serve import work_once
from tests.builders import record, spec
from tests.tiny import make_checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsSettings:
    text: str = setting("words.txt", "A file with the text.", is_required=True)
    num_tokens: int = setting(4, "Tokens of the text that are read.")

    def __post_init__(self) -> None:
        require_at_least(self, 1, "num_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsResult:
    system: str
    largest: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class LogitsBenchmark(Benchmark):
    """The largest value in the embeddings of a text's first tokens."""

    name = command = "logits"
    title = "Largest values"
    about = "The largest value that a model has for a text."
    parts = "systems"
    settings_type = LogitsSettings
    headline_key = "largest"

    def problems(self, settings: LogitsSettings, paths: PathsConfig, key: str) -> list[str]:
        return [] if Path(settings.text).is_file() else [f"{key}text: {settings.text}: no such file"]

    def files(self, settings: LogitsSettings) -> Mapping[str, Sequence[Path]]:
        return {"text": [Path(settings.text)] * Path(settings.text).is_file()}

    def score(
        self, base: Any, contestants: Sequence[Contestant], settings: LogitsSettings, place: Place
    ) -> dict[str, LogitsResult]:
        tokens = base.tokenizer.encode(Path(settings.text).read_text(), return_tensors="pt")[:, : settings.num_tokens]
        largest = float(base.bank.base.get_input_embeddings()(tokens).max())
        place.on_progress(1, 1)
        return {one.name: LogitsResult(system=one.name, largest=largest) for one in contestants}

    def headline(self, result: LogitsResult) -> Headline:
        return Headline(metric="largest", estimate=Estimate(value=result.largest, low=0.0, high=9.0, n=4))


@pytest.fixture(autouse=True)
def seventh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BENCHMARKS, "logits", LogitsBenchmark())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seventh")
    make_checkpoint(folder / "model")
    (folder / "words.txt").write_text("Eat well, sleep well, move often.")
    return folder


@cache
def composed(folder: Path, *overrides: str) -> Config:
    where = (f"model.path={folder / 'model'}", f"paths.runs={folder / 'runs'}", f"paths.cache={folder / 'cache'}")
    fixed = ("model=local", "adapter=none", "quant=fp32", "launch.device=cpu", "eval.after_training=[logits]")
    (point,) = compose_grid([*fixed, *where, f"eval.logits.text={folder / 'words.txt'}", *overrides], eval_config())
    return point.config


@pytest.fixture
def scored(folder: Path) -> Iterator[tuple[Path, Any]]:
    """The run's folder and the ledger's row of its evaluation, made by a worker."""
    config = composed(folder)
    plan = planned([config])
    assert plan.problems == []
    url = str(folder / "ledger.sqlite")
    ledger = Ledger.open(url)
    enqueue(ledger, folder / "runs", plan.runs, plan.jobs, "s", ["test"])
    settings = WorkerSettings(ledger_url=url, paths=config.paths, launch=config.launch, tracking=config.tracking)
    context = Context(settings=settings, ledger=ledger, should_stop=lambda: False, send=lambda message: None)
    while work_once(context, "worker"):
        pass
    (row,) = [row for row in ledger.rows() if row.kind == "logits"]
    yield folder / "runs" / row.run_id, row
    ledger.close()


def test_the_config_knows_its_settings(folder: Path) -> None:
    settings: Any = composed(folder).eval
    assert settings.logits == LogitsSettings(text=str(folder / "words.txt"), num_tokens=4)
    assert check_overrides(["eval.logits.num_tokens=3"], evals=eval_config()) == []
    problems = check_overrides(
        ["eval.logits.num_token=3", "eval.logits.num_tokens=x", "eval.logits_num_tokens=3"], evals=eval_config()
    )
    assert problems[0] == "eval.logits.num_token: no such key in eval.logits. Did you mean num_tokens?"
    assert problems[1].startswith("eval.logits.num_tokens=x: Value 'x' of type 'str' could not be converted")
    assert problems[2] == "eval.logits_num_tokens: this key is eval.logits.num_tokens now"
    with pytest.raises(ConfigError, match=r"^eval\.logits\.num_tokens=0: expected 1 or more"):
        composed(folder, "eval.logits.num_tokens=0")


def test_the_plan_has_its_job_and_asks_it_what_is_missing(folder: Path) -> None:
    config = composed(folder)

    def plan_with(**changes: Any) -> Planned:
        settings = LogitsSettings(**{"text": str(folder / "words.txt"), **changes})
        return planned([dataclasses.replace(config, eval=dataclasses.replace(config.eval, logits=settings))])

    plan = plan_with(text="nowhere.txt")
    assert [job.kind for job in plan.jobs] == ["train", "logits"]
    assert plan.problems == ["eval.logits.text: nowhere.txt: no such file"]
    assert len({found.jobs[1].job_id for found in (plan, plan_with(), plan_with(num_tokens=3))}) == 3


def test_a_job_scores_it_and_report_card_and_search_read_it(scored: tuple[Path, Any], tmp_path: Path) -> None:
    run_folder, row = scored
    assert (row.status, row.reason) == (JobStatus.done, None)
    written = json.loads(eval_file(run_folder, "logits").read_text())
    assert written["job"] == row.spec_hash
    assert math.isfinite(written["largest"])
    objective = objectives()["logits"]
    assert (objective.kind, objective.direction) == ("logits", "maximize")
    assert row.result[objective.key] == written["largest"] == written["headline"]["value"]
    wanted: dict[str, Any] = {"study": "s", "num_trials": 1, "num_parallel": 1, "objective": "logits"}
    assert parse_search(["train.seed=int(0,1)"], **wanted).objective == "logits"
    run = load_run(run_folder)
    (view,) = scores_views([run])
    assert (view.title, view.columns[0].metric) == ("Largest values", "largest")
    write_scores(tmp_path, [run])
    assert f"logits,largest,{written['largest']},0.0,9.0,4" in (tmp_path / "scores.csv").read_text()
    card = model_card(dataclasses.replace(record(), spec=spec().to_dict()), run_folder)
    assert f"| logits largest | {written['largest']:.4g} | 0 to 9 | 4 |" in card


def test_its_command_has_the_common_options_and_its_own(folder: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    add_commands(app)
    asked = ["logits", "--text", str(folder / "words.txt"), "--num-tokens", "2", "--model", str(folder / "model")]
    done = CliRunner().invoke(app, [*asked, "--out", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    (values,) = json.loads(done.stdout).values()
    assert values == json.loads((tmp_path / "logits.json").read_text())
    assert values["headline"]["metric"] == "largest"
    table = CliRunner().invoke(app, [*asked, "--out", str(tmp_path)])
    assert "Largest values" in table.stdout
    refused = CliRunner().invoke(app, [*asked, "--out", str(tmp_path), "--text", "nowhere.txt"])
    assert refused.exit_code == 2
