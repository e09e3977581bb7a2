"""Records extract.json and expected.json beside this file, from the released judgments.

python -m tests.golden.released.record ../shared/data

What is expected is computed here without this project's ratings: Elo by plain numpy over its own random orderings,
Bradley-Terry by choix, agreement by statsmodels, scikit-learn and scipy, relative scores by the formulas of the paper.
"""

import csv
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
NUM_QUESTIONS = 20
SCORED = ("gpt-4", "bard", "guanaco-65b", "vicuna-13b", "guanaco-7b", "flan-7b")
ORDERINGS, CHUNK = 40_000, 4_000
SETTINGS = {"stated": (32.0, None), "small K": (4.0, None)}
NUM_DRAWN = {"pairwise": 500, "human": 240}
Item = tuple[int, str, str]
Match = tuple[int, str, str, float]  # question, first, second, the first one's score


def rows_of(path: Path) -> list[dict[str, str]]:
    """All rows of a CSV."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def pairwise_extract(rows: list[dict[str, str]]) -> dict[str, str]:
    """ "first second" -> a digit for each question."""
    found: dict[str, list[str]] = defaultdict(lambda: ["?"] * NUM_QUESTIONS)
    for row in rows:
        if int(row["question_id"]) <= NUM_QUESTIONS:
            place = int(row["question_id"]) - 1
            found[f"{row['system_a']} {row['system_b']}"][place] = row["verdict"].replace("-1", "0")
    return {pair: "".join(codes) for pair, codes in sorted(found.items())}


def human_extract(rows: list[dict[str, str]]) -> dict[str, str]:
    """ "left right" -> "question:votes ..."."""
    found: dict[str, dict[int, str]] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: (int(row["question_id"]), int(row["rater_slot"]))):
        question, pair = int(row["question_id"]), f"{row['system_a']} {row['system_b']}"
        if question <= NUM_QUESTIONS:
            found[pair][question] = found[pair].get(question, "") + row["verdict"]
    return {pair: " ".join(f"{q}:{votes}" for q, votes in by.items()) for pair, by in sorted(found.items())}


def relative_extract(rows: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    """System -> order -> "score/reference ..."."""
    found: dict[str, dict[str, list[str]]] = {name: defaultdict(list) for name in SCORED}
    for row in sorted(rows, key=lambda row: int(row["question_id"])):
        if row["system"] in SCORED:
            found[row["system"]][row["order"]].append(f"{row['score_candidate']}/{row['score_chatgpt']}")
    return {name: {order: " ".join(scores) for order, scores in by.items()} for name, by in found.items()}


def judged_matches(extract: dict[str, str]) -> list[Match]:
    """GPT-4's parsed verdicts."""
    score = {"1": 1.0, "2": 0.0, "3": 0.5}
    pairs = [(*pair.split(), codes) for pair, codes in extract.items()]
    return [(n, a, b, score[c]) for a, b, codes in pairs for n, c in enumerate(codes, 1) if c in score]


def people_votes(extract: dict[str, str]) -> dict[Item, list[int]]:
    """(question, two sorted systems) -> 1 for each vote for the first of them, -1 for the second, 0 for a tie."""
    found: dict[Item, list[int]] = defaultdict(list)
    for pair, by_question in extract.items():
        a, b = pair.split()
        for part in by_question.split():
            question, votes = part.split(":")
            sign = 1 if a < b else -1
            item = (int(question), *sorted((a, b)))
            found[item] += [{"1": sign, "2": -sign, "3": 0}[vote] for vote in votes]  # type: ignore[index]
    return found


def people_matches(votes: dict[Item, list[int]]) -> list[Match]:
    """Won by who has more than half of the votes, else a tie."""
    found = []
    for (question, a, b), said in votes.items():
        count = Counter(said)
        best = next((side for side in (1, -1) if 2 * count[side] > len(said)), 0)
        found.append((question, a, b, (best + 1) / 2))
    return found


def elo(matches: list[Match], k: float, num_drawn: int | None, seed: int) -> dict[str, list[float]]:
    """System -> [mean over orderings, its standard error]."""
    systems = sorted({name for _, a, b, _ in matches for name in (a, b)})
    one, two = (np.array([systems.index(match[side]) for match in matches]) for side in (1, 2))
    score, rng = np.array([match[3] for match in matches]), np.random.default_rng(seed)
    finals = []
    for _ in range(ORDERINGS // CHUNK):
        orders = rng.permuted(np.tile(np.arange(len(matches), dtype=np.int16), (CHUNK, 1)), axis=1)
        rating, every = np.full((CHUNK, len(systems)), 1000.0), np.arange(CHUNK)
        for step in range(num_drawn or len(matches)):
            at = orders[:, step]
            ours, theirs = rating[every, one[at]], rating[every, two[at]]
            gain = k * (score[at] - 1 / (1 + 10 ** ((theirs - ours) / 400)))
            rating[every, one[at]] += gain
            rating[every, two[at]] -= gain
        finals.append(rating)
    every_final = np.concatenate(finals)
    error = every_final.std(axis=0) / np.sqrt(ORDERINGS)
    means = every_final.mean(axis=0)
    return {name: [round(float(means[i]), 3), round(float(error[i]), 3)] for i, name in enumerate(systems)}


def bradley_terry(matches: list[Match]) -> dict[str, float]:
    """Points with a mean of 1000; a tie counts half a win for each."""
    import choix

    systems = sorted({name for _, a, b, _ in matches for name in (a, b)})
    wins = np.zeros((len(systems), len(systems)))
    for _, a, b, score in matches:
        wins[systems.index(a), systems.index(b)] += score
        wins[systems.index(b), systems.index(a)] += 1 - score
    nats = choix.ilsr_pairwise_dense(wins, alpha=0.0, tol=1e-12)
    points = 400 / np.log(10) * (nats - nats.mean()) + 1000
    return {name: round(float(points[i]), 4) for i, name in enumerate(systems)}


def agreement(judged: list[Match], people: list[Match], votes: dict[Item, list[int]]) -> dict[str, float]:
    """Of items, each counted once as it is and once with its two systems exchanged; and of raters with one another."""
    from sklearn.metrics import cohen_kappa_score
    from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

    net: dict[Item, float] = defaultdict(float)
    for question, a, b, score in judged:
        net[question, min(a, b), max(a, b)] += (2 * score - 1) * (1 if a < b else -1)
    labels = {(q, a, b): int(2 * score - 1) for q, a, b, score in people}
    shared = sorted(net.keys() & labels.keys())
    one = [int(np.sign(net[item])) for item in shared]
    two = [labels[item] for item in shared]
    both = np.array([one + [-v for v in one], two + [-v for v in two]]).T
    three = [said for said in votes.values() if len(said) == 3]
    raters = np.array(three + [[-vote for vote in said] for said in three])
    return {
        "num_items": len(shared),
        "percent_agreement": fmean(a == b for a, b in zip(one, two, strict=True)),
        "cohen_kappa": float(cohen_kappa_score(both[:, 0], both[:, 1])),
        "fleiss_kappa": float(fleiss_kappa(aggregate_raters(both)[0])),
        "num_items_with_three_votes": len(three),
        "fleiss_kappa_of_three": float(fleiss_kappa(aggregate_raters(raters)[0])),
    }


def relative(extract: dict[str, str]) -> dict[str, float]:
    """Percent of ChatGPT's score by order and in all, and the paper's half width; -1 is a score that was not read."""
    pairs = {order: [tuple(map(float, p.split("/"))) for p in text.split()] for order, text in extract.items()}
    read = {order: [pair for pair in scores if -1 not in pair] for order, scores in pairs.items()}
    ratio = {order: 100 * sum(s for s, _ in scores) / sum(r for _, r in scores) for order, scores in read.items()}
    asked = [[pair for pair in both if -1 not in pair] for both in zip(*pairs.values(), strict=True)]
    by_question = [(fmean(s for s, _ in both), fmean(r for _, r in both)) for both in asked if both]
    ours, theirs = ([pair[side] for pair in by_question] for side in (0, 1))
    mean = fmean(ours) / fmean(theirs)
    worst, best = (
        fmean(values) + sign * 1.96 * pstdev(values) / len(values) ** 0.5 for values, sign in ((ours, -1), (theirs, 1))
    )
    return ratio | {"mean": 100 * mean, "ci95": 100 * (mean - worst / best)}


def ranking_agreement(one: dict[str, float], two: dict[str, float]) -> dict[str, float]:
    """Kendall's tau and Spearman's rho of two ratings of the same systems."""
    from scipy.stats import kendalltau, spearmanr

    values: tuple[NDArray[np.float64], ...] = tuple(np.array([r[name] for name in sorted(one)]) for r in (one, two))
    return {"kendall_tau": float(kendalltau(*values)[0]), "spearman": float(spearmanr(*values)[0])}


def main(data: Path) -> None:
    """Writes both files."""
    extract: dict[str, Any] = {
        "pairwise": pairwise_extract(rows_of(data / "qlora" / "vicuna_gpt4_pairwise.csv")),
        "human": human_extract(rows_of(data / "human" / "vicuna_human_pairwise.csv")),
        "relative": relative_extract(rows_of(data / "qlora" / "vicuna_gpt4_relative.csv")),
    }
    votes = people_votes(extract["human"])
    matches = {"pairwise": judged_matches(extract["pairwise"]), "human": people_matches(votes)}
    ratings = {name: bradley_terry(played) for name, played in matches.items()}
    expected = {
        name: {
            "num_matches": len(played),
            "bradley_terry": ratings[name],
            "elo": {
                setting: elo(played, k, num_drawn, seed=1)
                for setting, (k, num_drawn) in (SETTINGS | {"drawn": (32.0, NUM_DRAWN[name])}).items()
            },
        }
        for name, played in matches.items()
    }
    expected["agreement"] = agreement(matches["pairwise"], matches["human"], votes)
    expected["ranking"] = ranking_agreement(ratings["pairwise"], ratings["human"])  # type: ignore[assignment]
    expected["relative"] = {name: relative(by_order) for name, by_order in extract["relative"].items()}
    for name, values in (("extract", extract), ("expected", expected)):
        (HERE / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
