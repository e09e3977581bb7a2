"""Holds the cost that `judge` tells after 50 judgments against the bill of a priced server, by lengths of replies.

    python -m benchmarks.evaluation.judge_estimates --tournaments 20

A chat server on loopback draws each reply's number of tokens from a distribution, takes time in proportion to it, and
counts as OpenAI's does. `share` is what the plan tells when 50 judgments are stored (they have cost so much, the rest
will cost so much), over the whole bill; `share of the rest` the same without the part that is paid. Before the first
reply a plan assumes 250 tokens; `before` is that estimate over the bill. Records: benchmarks/results/judge-faults-*.md.
"""

import argparse
import math
import os
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.judges.tournament import MEASURED_AFTER, run
from eval.judging.options import Estimate
from eval.judging.prompts import JudgePrompt
from eval.judging.store import DATABASE
from tests.servers.judge_server import PRICES, Answer, completion, options_in, serving

SECONDS_PER_TOKEN = 2e-5
BYTES_PER_TOKEN = 3.6  # of prompts, as this server's tokenizer has it; the plan doesn't know
LIMIT = 0.25  # of the bill, by which an estimate may be off
KEY_VARIABLE = "JUDGE_TEST_KEY"

Draw = Callable[[random.Random], float]
LENGTHS: Mapping[str, Draw] = {
    "a digit": lambda drawn: 2,
    "short, 15 to 40": lambda drawn: drawn.uniform(15, 40),
    "explained, 150 to 350": lambda drawn: drawn.uniform(150, 350),
    "long, 600 to 1,000": lambda drawn: drawn.uniform(600, 1000),
    "either 20 or 900": lambda drawn: 20 if drawn.random() < 0.8 else 900,
    "reasoning, log-normal, median 700, sigma 0.5": lambda drawn: 700 * math.exp(drawn.gauss(0, 0.5)),
    "reasoning, log-normal, median 700, sigma 1": lambda drawn: 700 * math.exp(drawn.gauss(0, 1)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A plan's costs against the bill, in US dollars."""

    before: float  # of everything, before the first call
    paid: float  # by the judgments that were stored at the second plan
    rest: float  # as the second plan tells it
    bill: float  # of the server, at the end

    @property
    def share(self) -> float:
        """Of the whole bill that is foreseen after 50 judgments."""
        return (self.paid + self.rest) / self.bill

    @property
    def share_of_rest(self) -> float:
        """Of the bill's part that is ahead then."""
        return self.rest / (self.bill - self.paid)


def main() -> None:
    """Judges, and prints a row for each distribution."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tournaments", type=int, default=20, help="of each distribution")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--concurrent", type=int, default=8)
    arguments = parser.parse_args()
    print(
        "| tokens of a reply | before | share, median | least | most | within 25 % | rest: least | most | within 25 % |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, draw in LENGTHS.items():
        found = []
        for seed in range(arguments.tournaments):
            with tempfile.TemporaryDirectory() as scratch:
                found.append(told_of(Path(scratch), draw, seed, arguments.questions, arguments.concurrent))
        print(row_of(name, found))


def told_of(folder: Path, draw: Draw, seed: int, num_questions: int, num_concurrent: int) -> Told:
    """Judges one tournament, two matches a question; more than 50 in all."""
    bill = 0.0

    def script(number: int, request: dict[str, Any]) -> Answer:
        nonlocal bill
        system, user = (message["content"] for message in request["messages"])
        drawn = random.Random(f"{seed} {JudgePrompt(system=system, user=user).sha256}")
        counts = (round(len(system + user) / BYTES_PER_TOKEN), max(1, round(draw(drawn))))
        bill += price(*counts)
        time.sleep(counts[1] * SECONDS_PER_TOKEN)
        return Answer(body=completion(usage={"prompt_tokens": counts[0], "completion_tokens": counts[1]}))

    plans: list[tuple[Estimate, float]] = []
    os.environ.setdefault(KEY_VARIABLE, "none")
    with serving(script) as server:
        options = options_in(
            folder, server.url, num_questions, num_concurrent=num_concurrent, max_tokens=16_384, seed=seed
        )
        run(options, on_estimate=lambda ahead: plans.append((ahead, _paid(options.tournament))))
    (before, _), (after, paid) = plans
    assert after.num_measured == MEASURED_AFTER
    assert before.cost_usd is not None
    assert after.cost_usd is not None
    return Told(before=before.cost_usd, paid=paid, rest=after.cost_usd, bill=bill)


def price(num_prompt_tokens: int, num_completion_tokens: int) -> float:
    """US dollars."""
    return (
        num_prompt_tokens * PRICES["usd_per_million_prompt_tokens"]
        + num_completion_tokens * PRICES["usd_per_million_completion_tokens"]
    ) / 1e6


def row_of(name: str, found: list[Told]) -> str:
    """A distribution's row of the table."""
    shares, rests = sorted(told.share for told in found), sorted(told.share_of_rest for told in found)
    before = sorted(told.before / told.bill for told in found)[len(found) // 2]
    cells = [f"{before:.2f}", f"{shares[len(shares) // 2]:.2f}"]
    for values in (shares, rests):
        cells += [f"{values[0]:.2f}", f"{values[-1]:.2f}", f"{num_within(values)} of {len(values)}"]
    return f"| {name} | {' | '.join(cells)} |"


def num_within(shares: list[float]) -> int:
    """How many are off by a quarter of the bill at most."""
    return sum(abs(share - 1) <= LIMIT for share in shares)


def _paid(tournament: Path) -> float:
    with closing(sqlite3.connect(tournament / DATABASE)) as database:
        return float(database.execute("SELECT COALESCE(SUM(cost_usd), 0) FROM judgments").fetchone()[0])


if __name__ == "__main__":
    main()
