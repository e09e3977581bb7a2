"""Small samples and edges: no interval of width 0 or surer than an exact test, none that rows or names move."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.benchmarks.intervals import mean_interval, mean_score, stratified_interval, wilson_interval
from eval.ratings.agreement import AgreeOptions, agree_files
from eval.ratings.rate import RateOptions, rate_files

HEADER = "question_id,system_a,system_b,verdict\n"
BOTH = ("x,y", "y,x")


def every_order(num: int, *verdicts: str) -> list[str]:
    """The same verdicts on each of `num` prompts."""
    return [f"{question},{verdict}" for question in range(num) for verdict in verdicts]


EDGES = {
    "all won, in both orders": every_order(5, "x,y,1", "y,x,2"),
    "all won, twelve prompts": every_order(12, "x,y,1"),
    "all tied": every_order(6, "x,y,3", "y,x,3"),
    "three in one order": every_order(5, "x,y,1", "y,z,1", "x,z,1"),
    "three in a circle": every_order(5, "x,y,1", "y,z,1", "z,x,1"),
    "three are all tied": every_order(4, "x,y,3", "y,z,3", "x,z,3"),
    "the first always wins": every_order(6, "x,y,1", "y,x,1"),
    "always the same mixture": every_order(4, "x,y,1", "y,x,3"),
    "one wins always, two are even": every_order(6, "x,y,1", "x,z,1", "y,z,3"),
    "one loses always, the others vary": [
        *every_order(6, "x,z,1", "y,z,1"), *(f"{q},x,y,{1 + q % 2}" for q in range(6))
    ],
    "a system on one prompt": [*every_order(6, "x,y,1"), "3,x,z,2"],
    "a system on two of forty prompts": [
        *(f"{q},x,y,{1 + q % 3 % 2}" for q in range(40)), "3,x,z,2", "17,z,y,1"
    ],
    "two prompts": every_order(2, "x,y,1", "y,x,2"),
    "one prompt": ["1,x,y,1", "1,y,x,1"],
    "two that never met": [*every_order(3, "x,y,1"), *every_order(3, "v,w,1")],
}  # fmt: skip


def write(path: Path, rows: list[str]) -> Path:
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def intervals(value: Any) -> Iterator[tuple[float | None, float | None]]:
    """Every (low, high) at any depth."""
    if isinstance(value, dict):
        for low, high in (("low", "high"), ("ordering_low", "ordering_high"), ("low_unadjusted", "high_unadjusted")):
            if low in value and "rank" not in value:
                yield value[low], value[high]
        for item in value.values():
            yield from intervals(item)
    elif isinstance(value, list):
        for item in value:
            yield from intervals(item)


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("resamples", [2, 60])
def test_no_interval_has_width_0_and_no_p_is_below_the_exact_one(tmp_path: Path, name: str, resamples: int) -> None:
    answers = tmp_path / "answers.jsonl"
    lengths = [(q, s, (7 * q + 3 * at) % 11 + 1) for q in range(40) for at, s in enumerate("vwxyz")]
    rows = [{"question_id": q, "system": s, "answer": "word " * length} for q, s, length in lengths]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    verdicts = write(tmp_path / "v.csv", EDGES[name])
    options = RateOptions(orderings=50, resamples=resamples, answers=(answers,), people=(verdicts,))
    result = rate_files([verdicts], options)
    found = json.loads(json.dumps(result.to_json(), allow_nan=False))
    for low, high in intervals(found):
        assert (low is None) == (high is None)
        assert low is None or (high is not None and high - low > 1e-9), name
    for pair in result.comparisons:
        if pair.p_value is not None:
            assert pair.p_value >= 2.0 ** (1 - pair.num_prompts) * (1 - 1e-12)
            assert pair.significant == (pair.low is not None and pair.low > 0) == (pair.p_holm < 0.05)  # type: ignore[operator]
        if (best := result.ranks[pair.higher].best) is not None:
            assert best <= 1 - (1.0 if pair.p_value is None else pair.p_value) / 2 + 1e-12
    for group in result.groups:
        chances = [result.ranks[system].best or 0.0 for system in group]
        assert sum(chances) == pytest.approx(float(result.ranks[group[0]].best is not None))


@pytest.mark.parametrize(
    ("labels", "agreed"),
    [("111111", True), ("121212", True), ("333333", True), ("111111", False), ("121212", False)],
)
def test_agreement_at_0_and_100_percent_keeps_an_interval(tmp_path: Path, labels: str, agreed: bool) -> None:
    a = write(tmp_path / "a.csv", [f"{q},x,y,{label}" for q, label in enumerate(labels)])
    other = labels if agreed else labels.translate(str.maketrans("12", "21"))
    b = write(tmp_path / "b.csv", [f"{q},x,y,{label}" for q, label in enumerate(other)])
    level = agree_files(a, b, AgreeOptions(resamples=50)).example
    share = level.statistics["percent_agreement"]
    exact = 0.025 ** (1 / 6)
    bounds = (exact, 1.0) if agreed else (0.0, 1 - exact)
    assert (share.low, share.high) == pytest.approx(bounds)
    for name, statistic in level.statistics.items():
        assert statistic.low is None or statistic.high - statistic.low > 0.05, name  # type: ignore[operator]


def test_agreement_with_a_file_of_nothing_parsed_says_so(tmp_path: Path) -> None:
    a, b = (write(tmp_path / name, [f"{q},x,y,{v}" for q in range(3)]) for name, v in (("a.csv", 1), ("b.csv", -1)))
    with pytest.raises(ValueError, match=r"b\.csv: none of its 3 verdicts is parsed"):
        agree_files(a, b, AgreeOptions(resamples=10))


def test_agreement_does_not_move_with_rows_or_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pairs = [(q, a, b) for q in range(7) for a, b in ("xy", "yz", "xz")]
    files = [[(*pair, int(rng.integers(1, 4))) for pair in pairs] for _ in range(2)]
    new, found = {"x": "q", "y": "b", "z": "m"}, []
    for renamed in (False, True):
        paths = []
        for name, rows in zip("ab", files, strict=True):
            lines = [f"{100 - q},{new[a]},{new[b]},{v}" if renamed else f"{q},{a},{b},{v}" for q, a, b, v in rows]
            order = rng.permutation(len(lines)) if renamed else range(len(lines))
            paths.append(write(tmp_path / f"{name}.csv", [lines[at] for at in order]))
        result = agree_files(paths[0], paths[1], AgreeOptions(resamples=60))
        found.append((result.example, result.example_decisive, result.system))
    assert found[0] == found[1]


@pytest.mark.parametrize("correct", [0, 1])
def test_macro_mmlu_with_one_question_a_subject_is_not_certain(correct: int) -> None:
    """57 of 57: Wilson's lower bound of one question is 0.2065, and 57 of them are averaged."""
    low, high = stratified_interval([(correct, 1)] * 57)
    width = (1 - wilson_interval(1, 1)[0]) / np.sqrt(57)
    assert (low, high) == pytest.approx((1 - width, 1.0) if correct else (0.0, width))
    assert width > 1 - 0.025 ** (1 / 57)  # no narrower than Clopper & Pearson's


def test_a_mean_over_clusters_by_hand() -> None:
    """Three clusters of means 0, 1, 2 and two values each: mean 1, error sqrt(1 / 3), t of 2 degrees of freedom."""
    score = mean_score([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    assert score.value == 1.0
    assert score.ci95 == pytest.approx((1 - 4.302653 / np.sqrt(3), 1 + 4.302653 / np.sqrt(3)))
    assert mean_score([[0.5, 0.5], [0.5]]).ci95 is None
    assert mean_interval([1.0, 1.0, 1.0]) == wilson_interval(3, 3)
    assert mean_interval([0.5, 0.5]) is None


@pytest.mark.parametrize(("verdict", "said"), [("3", "x and y are even"), ("1", "x is ahead"), ("2", "y is ahead")])
def test_nobody_is_ahead_after_a_tie(tmp_path: Path, verdict: str, said: str) -> None:
    result = rate_files([write(tmp_path / "v.csv", [f"1,x,y,{verdict}"])], RateOptions(orderings=10, resamples=10))
    (sentence,) = result.verdict
    names, _, rest = sentence.partition(" are even" if "even" in said else ",")
    assert sorted(names.split(" and ")) == sorted(said.removesuffix(" are even").split(" and "))
    assert rest.endswith("on a single prompt: that can't say how sure it is")
