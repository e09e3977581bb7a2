"""From a sweep to its leaderboard by one command: killed in the middle, the same command ends with the same site."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.runs.steps import STEPS_FILE
from tests.lab import Lab, make_lab, wait_until, write_rows

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(1200)]

OUT = "my site"
END_SECONDS = 500.0  # the machine may be loaded by others
COMMAND = (
    *("analysis", "leaderboard", "--sweep", "tiny", "--answers", "other.jsonl", "--questions", "questions.jsonl"),
    *("--max-questions", "6", "--benchmarks", "mmlu", "--judge", "local:models/llama7b", "--out", OUT),
    *("--with", "generate --max-new-tokens 24 --slots 1", "--with", "judge --max-answer-tokens 8"),
    *("--with", "mmlu --limit-per-subject 1", "--with", "rate --orderings 50 --resamples 50"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Two finished runs over one tiny base, six questions, and the answers of another system to them."""
    lab = make_lab(tmp_path_factory.mktemp("trained"), models={"llama7b": 0})
    done = lab.harness(
        *("-m", "model=llama7b", "sweep_name=tiny", "dataset=oasst1,flan", "quant=none"),
        *("train.max_steps=2", "train.batch_size=4"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    write_rows(lab.folder / "questions.jsonl", [{"question_id": n, "text": f"What is {n} plus 1?"} for n in range(8)])
    write_rows(
        lab.folder / "other.jsonl", [{"question_id": n, "model_id": "other", "text": f"It is {n}."} for n in range(6)]
    )
    return lab


def copy_of(lab: Lab, folder: Path) -> Lab:
    shutil.copytree(lab.folder, folder)
    return replace(lab, folder=folder, cwd=folder, extra={"HARNESS_RUNS": "runs", "HARNESS_MODEL_STORE": "models"})


def site(lab: Lab) -> dict[str, bytes]:
    """What a reader would be shown: all files of the site but the tournament and the record."""
    files = [path for path in (lab.folder / OUT).rglob("*") if path.is_file()]
    names = {str(path.relative_to(lab.folder / OUT)): path for path in files}
    return {n: p.read_bytes() for n, p in names.items() if not n.startswith("tournament/") and n != STEPS_FILE}


def started(lab: Lab) -> "subprocess.Popen[str]":
    with (lab.folder / "output.txt").open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *COMMAND],
            cwd=lab.cwd,
            env=lab.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def to_the_end(lab: Lab) -> None:
    assert started(lab).wait(END_SECONDS) == 0, (lab.folder / "output.txt").read_text()


def children_of(pid: int) -> list[str]:
    """Processes whose parent is this one."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def is_gone(pid: str) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_killed_twice_and_stopped_once_it_ends_with_the_same_site(trained: Lab, tmp_path: Path) -> None:
    whole, cut = copy_of(trained, tmp_path / "whole"), copy_of(trained, tmp_path / "cut")
    to_the_end(whole)
    rows = json.loads((whole.folder / OUT / "leaderboard.json").read_text())
    assert {row["system"] for row in rows} == {"llama7b-oasst1-fp32", "llama7b-flan-fp32", "other"}
    assert all(row["mmlu_macro"] is not None for row in rows if row["run_id"])

    def answers() -> int:
        return sum(len(path.read_text().splitlines()) for path in cut.runs.glob("*/answers/open.jsonl"))

    moments = (
        (lambda: answers() > 1, signal.SIGKILL),
        (lambda: (cut.folder / OUT / "tournament" / "judgments.sqlite").is_file(), signal.SIGKILL),
        (lambda: "ratings: " in (cut.folder / "output.txt").read_text(), signal.SIGINT),
    )
    for moment, number in moments:
        process = started(cut)
        wait_until(moment, f"the moment for {number.name}", process)
        children = children_of(process.pid)
        os.kill(process.pid, number)
        assert process.wait(60) == (130 if number is signal.SIGINT else -signal.SIGKILL)
        wait_until(lambda children=children: all(map(is_gone, children)), "the end of the children")
    before = answers()
    to_the_end(cut)
    assert before == answers() == 12
    assert site(cut) == site(whole)
    again = cut.call(*COMMAND, "--json")
    assert [step["state"] for step in json.loads(again.stdout)["steps"]] == ["there"] * 4 + ["done"]
    assert site(cut) == site(whole)
