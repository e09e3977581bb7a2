"""What a seed gives stays what it was: every number of `rate` and `agree` on small files, to six digits.

tests/golden/ratings.json has them. A change of numbers on the same seed is one that its readers have to be told of;
`python -m tests.unit.eval.ratings.test_seeded_numbers` writes the file anew.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from eval.ratings.agreement import AgreementResult, AgreeOptions, agree_files
from eval.ratings.rate import RateOptions, RatingsResult, rate_files

GOLDEN = Path(__file__).parents[3] / "golden" / "ratings.json"
SYSTEMS = ("ann", "bob", "cyd", "dan")
PAIRS = [(a, b) for a in SYSTEMS for b in SYSTEMS if a < b]
STYLES = ("# Head\n\n- one\n- two\n", "**bold** words\n", "1. first\n", "plain ")


def verdict(question: int, pair: int, salt: int) -> int:
    """1, 2, 3 or, rarely, -1, by a rule that favours the first of a pair."""
    drawn = (7 * question + 5 * pair + 11 * salt + question * pair) % 17
    return -1 if drawn == 16 else 3 if drawn in (4, 9) else 2 if drawn % 3 == 2 else 1


def files(folder: Path) -> dict[str, Path]:
    """Verdicts in both orders, turns, two other judges with raters, people's votes, answers of several styles."""
    plain, turns = ["question_id,system_a,system_b,verdict"], ["question_id,system_a,system_b,verdict,turn"]
    rated = ["question_id,system_a,system_b,verdict,judge,rater"]
    votes, answers = ["question_id,system_a,system_b,verdict"], []
    for q in range(9):
        for at, (a, b) in enumerate(PAIRS):
            plain += [f"{q},{a},{b},{verdict(q, at, 0)}", f"{q},{b},{a},{verdict(q, at, 1)}"]
            turns += [f"{q},{a},{b},{verdict(q, at, turn)},{turn}" for turn in (1, 2)]
            rated += [f"{q},{b},{a},{verdict(q, at, salt)},j,r{salt}" for salt in range(2 + (q + at) % 2)]
            votes += [f"{q},{a},{b},{verdict(q, at, 3)}"] * ((q + at) % 3 == 0)
        for at, system in enumerate(SYSTEMS):
            text = STYLES[at] * (1 + (q + at) % 3) + "word " * ((5 * q + 3 * at) % 13)
            answers.append(json.dumps({"question_id": q, "system": system, "answer": text}))
    scores = ["question_id,system,order,score_candidate,score_reference"]
    scores += [
        f"{q},{system},candidate_{order},{(3 * q + at) % 10},{(q + 2 * at + len(order)) % 10}"
        for q in range(9)
        for at, system in enumerate(SYSTEMS)
        for order in ("first", "second")
    ]
    circle = [*(f"{q},{pair},1" for q in range(6) for pair in ("ann,bob", "bob,cyd", "cyd,ann"))]
    circle += [f"{q},{system},dan,1" for q in range(6) for system in ("ann", "bob", "cyd")]
    sure = [plain[0], *circle, *(f"{q},eve,fay,3" for q in range(4))]
    tables = {
        "sure": sure,
        "plain": plain,
        "turns": turns,
        "rated": rated,
        "votes": votes,
        "scores": scores,
        "answers": answers,
    }
    paths = {name: folder / f"{name}.{'jsonl' if name == 'answers' else 'csv'}" for name in tables}
    for name, rows in tables.items():
        paths[name].write_text("\n".join(rows) + "\n")
    return paths


def numbers(folder: Path) -> dict[str, Any]:
    found = files(folder)
    options = RateOptions(
        orderings=70, resamples=20, seed=5, people=(found["votes"],), answers=(found["answers"],), sample_size=40
    )
    few = RateOptions(orderings=3, resamples=10, k=16.0, start=1500.0, turn=None)
    agree = AgreeOptions(seed=3, resamples=20, own_a="ann", own_b="bob", answers=(found["answers"],))
    results: dict[str, RatingsResult | AgreementResult] = {
        "rate": rate_files([found["plain"], found["scores"]], options),
        "rate, turns": rate_files([found["turns"]], few),
        "rate, raters": rate_files([found["rated"]], RateOptions(orderings=0, resamples=10, aggregate="each")),
        "rate, of one mind": rate_files(
            [found["sure"]], RateOptions(orderings=5, resamples=10, people=(found["sure"],))
        ),
        "agree": agree_files(found["plain"], found["rated"], agree),
        "agree, votes": agree_files(found["votes"], found["turns"], AgreeOptions(resamples=10, without=("dan",))),
    }
    return {name: _rounded(result.to_json()) for name, result in results.items()}


def _rounded(value: Any) -> Any:
    """Numbers to six digits, without methods and settings, which are words and paths."""
    if isinstance(value, dict):
        kept = {name: item for name, item in value.items() if name not in ("methods", "method", "settings", "file")}
        return {str(name): _rounded(item) for name, item in kept.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def differences(found: Any, expected: Any, place: str = "") -> list[str]:
    """Where the two differ by more than the last digits."""
    if isinstance(expected, dict) and isinstance(found, dict):
        if list(found) != list(expected):
            return [f"{place}: {list(found)} for {list(expected)}"]
        return [line for name in expected for line in differences(found[name], expected[name], f"{place}/{name}")]
    if isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        pairs = enumerate(zip(found, expected, strict=True))
        return [line for at, (one, two) in pairs for line in differences(one, two, f"{place}/{at}")]
    if isinstance(expected, float) and isinstance(found, float):
        found = pytest.approx(found, rel=1e-4, abs=1e-5)
    return [] if found == expected else [f"{place}: {found} for {expected}"]


def test_a_seed_gives_the_numbers_that_it_gave(tmp_path: Path) -> None:
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert differences(json.loads(json.dumps(numbers(tmp_path), allow_nan=False)), expected) == []


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        GOLDEN.write_text(json.dumps(numbers(Path(name)), indent=1, allow_nan=False) + "\n", encoding="utf-8")
