"""From a grid to a leaderboard at test size: every stage of `make demo` as its own command, on a tiny checkpoint."""

import csv
import json
from dataclasses import dataclass
from typing import Any

import pytest

from harness.ledger.tables import JobStatus
from tests.lab import Lab, make_lab

pytestmark = pytest.mark.slow  # the demo itself is run by CI as well

SWEEP = "tiny"
SYSTEMS = {
    "llama7b-oasst1-nf4",
    "llama7b-oasst1-fp32",
    "llama7b-flan-nf4",
    "llama7b-flan-fp32",
    "llama7b-base",
}
NUM_PROMPTS = 2
TRAIN = (
    *("-m", "model=llama7b", f"sweep_name={SWEEP}", "train.max_steps=2", "train.batch_size=4"),
    'grid=[{dataset:"oasst1,flan",quant:"nf4,none"},{dataset:"oasst1,flan",adapter:none,quant:none}]',
    *("eval=mmlu", "eval.mmlu.limit_per_subject=1"),
)


@dataclass(frozen=True)
class Demo:
    lab: Lab
    answers: Any  # what each command printed under --json
    judged: Any
    rated: Any
    reported: Any


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    lab = make_lab(tmp_path_factory.mktemp("demo"), models={"llama7b": 0})
    trained = lab.harness(*TRAIN)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    tournament, report = str(lab.folder / "tournament"), str(lab.folder / "report")
    short = ("--max-questions", str(NUM_PROMPTS), "--max-answer-tokens", "8")
    judge = f"local:{lab.models / 'llama7b'}"
    return Demo(
        lab=lab,
        answers=said(lab, "eval", "generate", "--sweep", SWEEP, "--limit", str(NUM_PROMPTS), "--max-new-tokens", "8"),
        judged=said(lab, "eval", "judge", "--sweep", SWEEP, "--tournament", tournament, "--judge", judge, *short),
        rated=said(
            lab,
            *("eval", "rate", f"{tournament}/verdicts.csv", "--orderings", "50", "--resamples", "50"),
            *("--out", f"{tournament}/ratings.json"),
        ),
        reported=said(lab, "analysis", "report", "--sweep", SWEEP, "--tournament", tournament, "--out", report),
    )


def said(lab: Lab, *arguments: str) -> Any:
    """What a command prints under --json, which must be JSON and nothing else."""
    done = lab.call(*arguments, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_grid_is_trained_and_measured(demo: Demo) -> None:
    jobs = demo.lab.jobs()
    assert {job.status for job in jobs} == {JobStatus.done}
    for kind in ("train", "mmlu"):
        assert {job.label for job in jobs if job.kind == kind} == SYSTEMS
    assert set(demo.lab.records()) == SYSTEMS


def test_untouched_base_is_one_run_over_all_datasets(demo: Demo) -> None:
    record = demo.lab.records()["llama7b-base"]
    assert (record["num_steps"], record["adapter_sha256"], record["spec"]["dataset"]) == (0, None, None)
    assert not (demo.lab.runs / record["run_id"] / "adapter").exists()


def test_every_system_answers_every_prompt(demo: Demo) -> None:
    assert {row["system"] for row in demo.answers} == SYSTEMS
    assert {row["num_answers"] for row in demo.answers} == {NUM_PROMPTS}
    for run_id in {job.run_id for job in demo.lab.jobs()}:
        lines = (demo.lab.runs / run_id / "answers" / "open.jsonl").read_text().splitlines()
        assert len({json.loads(line)["question_id"] for line in lines}) == NUM_PROMPTS


def test_every_pair_is_judged_in_both_orders(demo: Demo) -> None:
    with (demo.lab.folder / "tournament" / "verdicts.csv").open() as file:
        verdicts = list(csv.DictReader(file))
    played = [(row["question_id"], row["system_a"], row["system_b"]) for row in verdicts]
    assert len(played) == len(set(played)) == len(SYSTEMS) * (len(SYSTEMS) - 1) * NUM_PROMPTS
    assert {system for _, a, b in played for system in (a, b)} == SYSTEMS
    assert {row["verdict"] for row in verdicts} <= {"1", "2", "3", "-1"}
    assert demo.judged


def test_ratings_on_disk_are_what_was_printed(demo: Demo) -> None:
    assert json.loads((demo.lab.folder / "tournament" / "ratings.json").read_text()) == demo.rated
    assert {text for text in walk(demo.rated) if isinstance(text, str)} >= SYSTEMS


def test_leaderboard_has_a_row_for_each_system(demo: Demo) -> None:
    folder = demo.lab.folder / "report"
    with (folder / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["system"] for row in rows} == SYSTEMS
    assert len(rows) == len(SYSTEMS)
    assert {row["system"] for row in demo.reported} == SYSTEMS
    page = (folder / "index.html").read_text()
    assert all(system in page for system in SYSTEMS)


def test_doing_it_again_finds_everything_done(demo: Demo) -> None:
    before = demo.lab.jobs()
    again = demo.lab.harness(*TRAIN)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "10 jobs, 10 done before" in again.stdout
    assert demo.lab.jobs() == before


def walk(value: Any) -> list[Any]:
    """All leaves and keys of plain JSON values."""
    if isinstance(value, dict):
        return [*value, *(leaf for inner in value.values() for leaf in walk(inner))]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in walk(inner)]
    return [value]
