"""Kills `python -m eval judge` at random moments with calls under way, and counts what is asked, and paid, twice.

    python -m benchmarks.evaluation.judge_kills --kills 40

A chat server on loopback notes of every request when it came, when its reply was sent whole and whether the command
read it to the end, which the end of the connection tells. After each kill -9 the tournament's database says what was
stored. A prompt that is asked again is one of:

  stored         its judgment was in the database: paid twice without need. There must be none.
  received       its reply was read by the command, and the kill came before the transaction that stores it
  under way      its reply was not read: not finished, or on its way. A server goes on and bills it, so it may be paid
                 twice; the tournament's books keep the first call at the most that it can have cost

Records: benchmarks/results/judge-faults-*.md.
"""

import argparse
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from eval.judging.prompts import JudgePrompt
from eval.judging.store import DATABASE
from tests.servers.judge_server import Answer, Handler, ScriptedServer, completion, running

KEY_VARIABLE = "JUDGE_KILLS_KEY"
COMMAND = (sys.executable, "-m", "eval", "judge")
PRICES = (10.0, 30.0)  # US dollars for a million tokens, of prompts and replies
REPLY_SECONDS = (0.005, 0.06)  # shortest and longest time until a reply
NUM_TOKENS = (300, 20)  # of every prompt and reply, as the server counts
LONGEST_RUN_SECONDS = 120.0


@dataclass(slots=True, kw_only=True)
class Call:
    """One request, as the server saw it."""

    prompt: str  # the hash of its messages
    run: int  # of the command, from 0
    sent: bool = False  # the reply, to its last byte
    was_read: bool = False  # by the command, before its connection ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a tournament that was killed again and again."""

    num_kills: int
    num_prompts: int
    num_asked: int
    num_sent: int  # replies
    num_read: int  # replies
    num_stored: int
    stored_again: int  # prompts asked again though their judgment was stored
    received_again: int  # prompts asked again whose reply was read and not stored
    under_way_again: int  # prompts asked again whose reply was not read
    under_way: tuple[int, ...]  # calls at each kill without a stored judgment
    bill_usd: float  # of every reply that the server made, read or not
    spent_usd: float  # as the tournament books it
    needed_usd: float  # of one reply a prompt


class _Server(ScriptedServer):
    """Answers each request after a random time, and keeps its books."""

    def __init__(self) -> None:
        super().__init__(lambda number, request: Answer(), _Handler)
        self.made: list[Call] = []
        self.run = 0
        self.num_open = 0
        self.drawn = random.Random(0)


class _Handler(Handler):
    server: _Server

    def do_POST(self) -> None:
        with self.server.lock:
            self.server.num_open += 1
        try:
            self._answer()
        except OSError:
            pass  # nobody is there
        finally:
            with self.server.lock:
                self.server.num_open -= 1

    def _answer(self) -> None:
        server = self.server
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        system, user = (message["content"] for message in request["messages"])
        call = Call(prompt=JudgePrompt(system=system, user=user).sha256, run=server.run)
        with server.lock:
            server.made.append(call)
            seconds = server.drawn.uniform(*REPLY_SECONDS)
        time.sleep(seconds)
        usage = {"prompt_tokens": NUM_TOKENS[0], "completion_tokens": NUM_TOKENS[1]}
        self._send(Answer(body=completion(usage=usage)))
        self.wfile.flush()
        call.sent = True
        self.connection.shutdown(socket.SHUT_WR)
        try:
            call.was_read = self.connection.recv(1) == b""
        except OSError:  # a reset tells that bytes were left unread
            call.was_read = False


def main() -> None:
    """Kills, counts and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--concurrent", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = kill_and_count(
            Path(scratch), arguments.kills, arguments.questions, arguments.concurrent, arguments.seed
        )
    print("\n".join(report_lines(found)))


def report_lines(found: Outcome) -> list[str]:
    """The outcome as a table of counts."""
    return [
        f"{found.num_kills} kills; calls under way at each: {', '.join(map(str, found.under_way))}",
        "| prompts | asked | replies sent | read by the command | stored |",
        "| ---: | ---: | ---: | ---: | ---: |",
        f"| {found.num_prompts} | {found.num_asked} | {found.num_sent} | {found.num_read} | {found.num_stored} |",
        "| asked again though stored | read, not stored | under way |",
        "| ---: | ---: | ---: |",
        f"| {found.stored_again} | {found.received_again} | {found.under_way_again} |",
        f"bill {found.bill_usd:.4f} USD, booked {found.spent_usd:.4f}, one reply a prompt {found.needed_usd:.4f}",
    ]


def kill_and_count(folder: Path, num_kills: int, num_questions: int, num_concurrent: int, seed: int = 0) -> Outcome:
    """Runs the command until it ends by itself, killing it `num_kills` times on the way.

    Args:
        folder: for the tournament; empty.
        num_kills: how often.
        num_questions: two matches each; enough of them that something is left to ask at the last kill.
        num_concurrent: calls under way at once.
        seed: of the moments.

    Raises:
        RuntimeError: the command ended before a kill, or failed at the end.
    """
    write_contest(folder, num_questions)
    moments = random.Random(seed)
    stored_after: dict[str, int] = {}  # prompt -> the first run after which it was stored
    under_way = []
    with running(_Server()) as server:
        command = command_in(folder, server.url, num_concurrent)
        for _ in range(num_kills):
            _run_and_kill(command, server, moments.uniform(0.0, 0.4))
            for prompt in _stored(folder):
                stored_after.setdefault(prompt, server.run)
            asked = {call.prompt for call in server.made if call.run == server.run}
            under_way.append(len(asked - stored_after.keys()))
            server.run += 1
        ended = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"the last run ended with {ended.returncode}: {ended.stdout}{ended.stderr}")
    again = _asked_again(server.made, stored_after)
    cost = sum(price * num for price, num in zip(PRICES, NUM_TOKENS, strict=True)) / 1e6
    return Outcome(
        num_kills=num_kills,
        num_prompts=2 * num_questions,
        num_asked=len(server.made),
        num_sent=sum(call.sent for call in server.made),
        num_read=sum(call.was_read for call in server.made),
        num_stored=len(_stored(folder)),
        stored_again=again["stored"],
        received_again=again["received"],
        under_way_again=again["under way"],
        under_way=tuple(under_way),
        bill_usd=cost * len(server.made),
        spent_usd=_spent_usd(folder),
        needed_usd=cost * 2 * num_questions,
    )


def write_contest(folder: Path, num_questions: int) -> None:
    """Questions, and answers of two systems."""
    ids = range(1, num_questions + 1)
    questions = [{"question_id": n, "text": f"Question {n}?"} for n in ids]
    answers = [{"question_id": n, "system": name, "answer": f"{name} on {n}"} for name in ("ann", "bob") for n in ids]
    for name, rows in (("questions", questions), ("answers", answers)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def command_in(folder: Path, url: str, num_concurrent: int) -> list[str]:
    """The command that judges what `write_contest` wrote."""
    prices = zip(("prompt", "completion"), PRICES, strict=True)
    return [
        *(*COMMAND, str(folder / "answers.jsonl"), "--questions", str(folder / "questions.jsonl")),
        *("--tournament", str(folder / "tournament"), "--judge", "judge", "--base-url", url),
        *("--key-variable", KEY_VARIABLE, "--num-concurrent", str(num_concurrent)),
        *(part for kind, price in prices for part in (f"--usd-per-million-{kind}-tokens", str(price))),
    ]


def _environment() -> dict[str, str]:
    return {**os.environ, KEY_VARIABLE: "none"}


def _run_and_kill(command: Sequence[str], server: _Server, seconds: float) -> None:
    """Kills the command so long after its first call."""
    before, started = len(server.made), time.monotonic()
    with subprocess.Popen(command, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while len(server.made) == before and process.poll() is None:
            if time.monotonic() - started > LONGEST_RUN_SECONDS:
                process.kill()
                raise RuntimeError(f"no call within {LONGEST_RUN_SECONDS:g} s")
            time.sleep(0.002)
        time.sleep(seconds)
        if process.poll() is not None:
            raise RuntimeError("the command ended before it was killed; take more questions")
        os.kill(process.pid, signal.SIGKILL)
    while server.num_open:  # replies on their way to nobody
        time.sleep(0.01)


def _asked_again(calls: Sequence[Call], stored_after: dict[str, int]) -> Counter[str]:
    """What was known of the earlier call, for each call about a prompt that was asked before."""
    found: Counter[str] = Counter()
    earlier: dict[str, Call] = {}
    for call in calls:
        if (before := earlier.get(call.prompt)) is not None:
            was_stored = stored_after.get(call.prompt, call.run) < call.run
            found["stored" if was_stored else "received" if before.was_read else "under way"] += 1
        earlier[call.prompt] = call
    return found


def _stored(folder: Path) -> set[str]:
    with closing(sqlite3.connect(folder / "tournament" / DATABASE)) as database:
        return {row[0] for row in database.execute("SELECT prompt_sha256 FROM judgments")}


def _spent_usd(folder: Path) -> float:
    with closing(sqlite3.connect(folder / "tournament" / DATABASE)) as database:
        return float(database.execute("SELECT SUM(COALESCE(cost_usd, reserved_usd)) FROM calls").fetchone()[0])


if __name__ == "__main__":
    main()
