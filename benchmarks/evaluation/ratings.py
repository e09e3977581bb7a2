"""Times ratings beside a plain Python loop and evalica. Prints a JSON record, then a readable line for each.

    python -m benchmarks.evaluation.ratings [VERDICTS.csv] [--skip-large]
    python -m benchmarks.evaluation.ratings --systems 36     # a sweep's tournament alone, both orders, 40 prompts

Without a file, matches like Vicuna's (4,467 among 8 systems on 80 prompts) are drawn. The plain loop and evalica are
timed on a few orderings and scaled up, as 10,000 take minutes; our time is the median of several whole runs with
drawing the orderings included. The large case writes ten million verdicts to a temporary CSV and rates it in a
process of its own, so that its peak memory is its own.
"""

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import evalica
import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from eval.ratings.elo import elo_drawn, elo_given
from eval.ratings.rate import RateOptions, rate_files
from eval.verdicts.table import Matches, load_verdicts, to_matches

NUM_ORDERINGS, K = 10_000, 32.0
LARGE_QUESTIONS, LARGE_SYSTEMS = 25_253, 20  # times 20 * 19 + 16 ordered pairs: ten million rows
LARGE_RESAMPLES = 200


def vicuna_like() -> tuple[Matches, int]:
    """4,467 matches between 8 systems on 80 prompts."""
    rng = np.random.default_rng(0)
    first = rng.integers(8, size=4467)
    matches = Matches(
        question=rng.integers(80, size=4467).astype(np.int32),
        first=first.astype(np.int32),
        second=((first + rng.integers(1, 8, size=4467)) % 8).astype(np.int32),
        half_points=rng.choice([0, 1, 2], size=4467, p=[0.3, 0.13, 0.57]).astype(np.int8),
    )
    return matches, 8


def plain_loop(rows: list[tuple[int, int, float]], num_systems: int) -> list[float]:
    """One ordering's updates, as simply as Python has them."""
    ratings = [1000.0] * num_systems
    for a, b, score in rows:
        gain = K * (score - 1 / (1 + 10 ** ((ratings[b] - ratings[a]) / 400)))
        ratings[a] += gain
        ratings[b] -= gain
    return ratings


def cpu_seconds(run: Callable[[], object], repeats: int) -> float:
    """Median processor seconds, of all threads together: what a busy machine does not stretch much."""
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return median(taken)


def seconds(run: Callable[[], object], repeats: int) -> list[float]:
    """Wall-clock seconds of each repeat."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return taken


def time_elo(matches: Matches, num_systems: int) -> dict[str, float]:
    """Seconds for NUM_ORDERINGS, ours and the others', and the largest difference from the loop."""
    rows = list(zip(matches.first.tolist(), matches.second.tolist(), (matches.half_points / 2).tolist(), strict=True))
    shuffled = list(rows)
    winner = {2: evalica.Winner.X, 0: evalica.Winner.Y, 1: evalica.Winner.Draw}
    winners = [winner[int(points)] for points in matches.half_points]
    firsts, seconds_ = matches.first.tolist(), matches.second.tolist()
    elo_drawn(matches, num_systems, 32, np.random.default_rng(0))  # compiles
    runs = seconds(lambda: elo_drawn(matches, num_systems, NUM_ORDERINGS, np.random.default_rng(0), k=K), 9)
    cpu = cpu_seconds(lambda: elo_drawn(matches, num_systems, NUM_ORDERINGS, np.random.default_rng(0), k=K), 9)
    loop_cpu = cpu_seconds(lambda: plain_loop(rows, num_systems), 60)
    loop = seconds(lambda: plain_loop(rows, num_systems), 60)
    shuffle = seconds(lambda: random.Random(0).shuffle(shuffled), 60)
    peer = seconds(lambda: evalica.elo(firsts, seconds_, winners, k=K), 60)
    orderings = np.array([np.random.default_rng(i).permutation(len(matches)) for i in range(64)], dtype=np.int32)
    ours = elo_given(matches, num_systems, orderings, k=K)
    worst = max(
        float(np.abs(ours[i] - plain_loop([rows[j] for j in ordering], num_systems)).max())
        for i, ordering in enumerate(orderings)
    )
    return {
        "num_matches": len(matches),
        "num_orderings": NUM_ORDERINGS,
        "ours_median_seconds": median(runs),
        "ours_best_seconds": min(runs),
        "ours_worst_seconds": max(runs),
        "ours_cpu_seconds": cpu,
        "times_the_loop_in_cpu_seconds": loop_cpu * NUM_ORDERINGS / cpu,
        "loop_updates_only_seconds": median(loop) * NUM_ORDERINGS,
        "loop_with_shuffle_seconds": (median(loop) + median(shuffle)) * NUM_ORDERINGS,
        "evalica_seconds": median(peer) * NUM_ORDERINGS,
        "times_the_loop_updates_only": median(loop) * NUM_ORDERINGS / median(runs),
        "times_the_loop_with_shuffle": (median(loop) + median(shuffle)) * NUM_ORDERINGS / median(runs),
        "times_evalica": median(peer) * NUM_ORDERINGS / median(runs),
        "largest_difference_points": worst,
    }


def write_large(path: Path) -> int:
    """Verdicts of every ordered pair of 20 systems on each prompt, and a few judged twice; returns their number."""
    rng = np.random.default_rng(0)
    pairs = np.array([(a, b) for a in range(LARGE_SYSTEMS) for b in range(LARGE_SYSTEMS) if a != b])
    block = np.concatenate([pairs, pairs[:16]])
    judge = np.array([0] * len(pairs) + [1] * 16)
    num = LARGE_QUESTIONS * len(block)
    strength = np.linspace(1.0, -1.0, LARGE_SYSTEMS)
    first, second = np.tile(block[:, 0], LARGE_QUESTIONS), np.tile(block[:, 1], LARGE_QUESTIONS)
    chance = 1 / (1 + np.exp(strength[second] - strength[first]))
    verdict = np.where(rng.random(num) < 0.1, 3, np.where(rng.random(num) < chance, 1, 2))
    names = pa.array([f"system-{i}" for i in range(LARGE_SYSTEMS)])
    table = pa.table(
        {
            "question_id": np.repeat(np.arange(LARGE_QUESTIONS), len(block)),
            "system_a": names.take(pa.array(first)),
            "system_b": names.take(pa.array(second)),
            "verdict": verdict,
            "judge": np.tile(judge, LARGE_QUESTIONS),
        }
    )
    arrow_csv.write_csv(table, path)
    return num


def rate_large(path: Path) -> None:
    """Run in a process of its own: rate the file and print what it took."""
    options = RateOptions(orderings=0, resamples=LARGE_RESAMPLES)
    start = time.perf_counter()
    result = rate_files([path], options)
    taken = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": taken, "peak_bytes": peak, "num_matches": result.num_matches}))


def time_large() -> dict[str, float]:
    """Ten million verdicts from CSV to Bradley-Terry, Davidson and 200 resamples of each."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "verdicts.csv"
        num, size = write_large(path), path.stat().st_size
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.evaluation.ratings", "--large-file", str(path)],
            capture_output=True,
            text=True,
            check=True,
        )
    return {"num_verdicts": num, "file_bytes": size, **json.loads(done.stdout)}


def time_command(path: Path) -> dict[str, float]:
    """A fresh process that imports, rates with the defaults and prints the table."""
    code = (
        "import sys; from pathlib import Path; from rich.console import Console; "
        "from eval.ratings.rate import RateOptions; from eval.commands.rate import rate_command; "
        "Console(width=140).print(rate_command([Path(sys.argv[1])], RateOptions())[1])"
    )
    command = [sys.executable, "-c", code, str(path)]
    taken = seconds(lambda: subprocess.run(command, capture_output=True, check=True), 5)
    imports = seconds(
        lambda: subprocess.run([sys.executable, "-c", "import eval.ratings.rate"], capture_output=True, check=True), 5
    )
    return {"command_median_seconds": median(taken), "import_median_seconds": median(imports)}


def write_tournament(path: Path, num_systems: int, num_prompts: int = 40) -> int:
    """Every ordered pair of systems on every prompt, the stronger one winning more often. -> rows"""
    rng = np.random.default_rng(0)
    strength = rng.normal(0, 1, num_systems)
    pairs = [(a, b) for a in range(num_systems) for b in range(num_systems) if a != b]
    rows = ["question_id,system_a,system_b,verdict,judge"]
    for prompt in range(num_prompts):
        for a, b in pairs:
            wins = rng.random() < 1 / (1 + np.exp(strength[b] - strength[a]))
            verdict = 3 if rng.random() < 0.13 else 1 if wins else 2
            rows.append(f"q{prompt},s{a:02d},s{b:02d},{verdict},drawn")
    path.write_text("\n".join(rows) + "\n")
    return len(rows) - 1


def time_tournament(num_systems: int) -> dict[str, float]:
    """`python -m eval rate` with its defaults on such a tournament, from process start, the median of 3."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "verdicts.csv"
        num_rows = write_tournament(path, num_systems)
        command = [sys.executable, "-m", "eval", "rate", str(path)]
        taken = seconds(lambda: subprocess.run(command, capture_output=True, check=True), 3)
    return {"num_systems": num_systems, "num_verdicts": num_rows, "command_median_seconds": median(taken)}


def main() -> None:
    """Times what the command line asks for, and prints the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verdicts", type=Path, nargs="?", help="a verdict file; else matches like Vicuna's are drawn")
    parser.add_argument("--skip-large", action="store_true", help="leave the ten million verdicts out")
    parser.add_argument("--systems", type=int, help="time `eval rate` on a tournament of so many systems, and stop")
    parser.add_argument("--large-file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.large_file is not None:
        rate_large(arguments.large_file)
        return
    if arguments.systems is not None:
        print(json.dumps(time_tournament(arguments.systems)))
        return
    verdicts = load_verdicts([arguments.verdicts]) if arguments.verdicts else None
    matches, num_systems = (to_matches(verdicts), len(verdicts.system_names)) if verdicts else vicuna_like()
    record: dict[str, object] = {
        "machine": {
            "cpus": len(os.sched_getaffinity(0)),
            "load": os.getloadavg()[0],
            "python": platform.python_version(),
        },
        "elo": (elo := time_elo(matches, num_systems)),
        "command": (command := time_command(arguments.verdicts)) if arguments.verdicts else None,
        "large": (large := time_large()) if not arguments.skip_large else None,
    }
    print(json.dumps(record, indent=2))
    print(
        f"Elo, {NUM_ORDERINGS} orderings x {len(matches)} matches: {elo['ours_median_seconds']:.3f} s, "
        f"{elo['times_the_loop_updates_only']:.0f} x the loop ({elo['times_the_loop_with_shuffle']:.0f} x with its "
        f"shuffle), {elo['times_evalica']:.0f} x evalica, differing by {elo['largest_difference_points']:.1e} points"
    )
    if arguments.verdicts:
        print(
            f"rate: {command['command_median_seconds']:.2f} s, of which import {command['import_median_seconds']:.2f} s"
        )
    if not arguments.skip_large:
        print(f"{large['num_verdicts']} verdicts: {large['seconds']:.1f} s, {large['peak_bytes'] / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
