"""What `eval rate` and `eval agree` print of a result, to the last character (tests/golden/tables)."""

from pathlib import Path
from types import SimpleNamespace as Made
from typing import Any

import pytest

from eval.commands import judge
from eval.commands.judge import ensemble_text, estimate_text, position_lines, run_judges, summary_text
from eval.commands.rate import interval
from eval.judges import ensemble
from eval.judges.ensemble import EnsembleSummary
from eval.judging.prompts import Mode
from tests.golden.tables.cases import HERE, tables


def test_tables_are_printed_as_recorded() -> None:
    found = {f"{name}.txt": text for name, text in tables()}
    assert sorted(found) == sorted(path.name for path in HERE.glob("*.txt"))
    for name, text in found.items():
        assert text.splitlines() == (HERE / name).read_text().splitlines(), name


def test_an_interval_has_both_its_ends() -> None:
    assert [interval(*ends) for ends in ((1.0, 2.0), (None, 2.0), (1.0, None))] == ["1 to 2", "-", "-"]
    assert interval(0.25, 0.75, 2) == "0.25 to 0.75"


BIAS = {"first_wins": 0, "second_wins": 0, "ties": 0, "num_pairs": 0}
SUMMARY: dict[str, Any] = {
    "judge": "j", "num_matches": 9, "num_systems": 3, "num_questions": 2, "num_judged": 4, "num_reused": 3,
    "num_failed": 0, "num_unasked": 0, "num_unparsed": 0, "seconds": 1.25, "position_bias": Made(**BIAS),
    "flagged": Made(num_answers=0), "spent_usd": 0.0, "cost_usd": 0.0, "unknown_usd": 0.0, "grades": [],
    "unmatched_systems": [], "notes": [], "failures": {}, "unparsed": {}, "output": "v.csv", "stopped": None,
    "num_changed": None,
}  # fmt: skip


def summed_up(**changes: Any) -> list[str]:
    return summary_text(Made(**{**SUMMARY, **changes})).splitlines()  # type: ignore[arg-type]


def test_a_judges_summary_says_what_there_is_to_say() -> None:
    first = "j: 9 matches of 3 systems on 2 questions; 4 judged now, 3 before, 0 failed, 0 unparsed, 1.2 s"
    assert summed_up() == [first, "verdicts in v.csv"]
    spent = "spent in this folder: 0.5000 USD"
    assert summed_up(spent_usd=0.5)[1] == spent
    assert summed_up(cost_usd=0.25)[1] == "spent in this folder: 0.0000 USD"
    known = ", of which 0.1250 are the most that calls without a known bill can have cost"
    assert summed_up(spent_usd=0.5, unknown_usd=0.125)[1] == spent + known
    flagged = summed_up(flagged=Made(num_answers=2, num_wins=1, num_matches=4, num_ties=3))[1]
    assert flagged.endswith("orders); they win 1 of 4 matches against others, 3 are ties")
    assert summed_up(flagged=Made(num_answers=2, num_wins=0, num_matches=0, num_ties=0))[1].endswith("verdict, orders)")
    lines = summed_up(
        num_failed=1, num_unasked=2, num_unparsed=3, unmatched_systems=["x", "y"], notes=["n"], stopped="no money",
        failures={"time-out": 1}, unparsed={"cut": 3},
    )  # fmt: skip
    assert "1 failed, 2 not asked, 3 unparsed" in lines[0]
    assert lines[1:] == [
        "met nobody, so can't be rated: x, y",
        "note: n",
        "failed: time-out (1 matches)",
        "unparsed: cut (3 matches)",
        "--reparse reads stored replies anew, for nothing; --retry-unparsed asks about them again",
        "verdicts in v.csv",
        "stopped: no money",
        "the same command asks about what has no judgment yet, and about nothing else",
    ]
    for one in ({"num_failed": 1}, {"num_unasked": 1}):
        assert summed_up(**one)[-1].startswith("the same command asks")
    assert summed_up(num_changed=2)[-1] == "read anew: 2 judgments changed; --reparse asks nobody"
    assert summed_up(num_unasked=1, num_changed=0)[-1].startswith("the same command without --reparse asks about what")


def test_how_much_the_order_decides() -> None:
    def said(**changes: int) -> list[str]:
        return position_lines(Made(**{**BIAS, **changes}))  # type: ignore[arg-type]

    assert said() == []
    assert said(ties=2) == ["position: the first answer wins 0, the second 0, 2 ties"]
    assert said(first_wins=3, second_wins=1) == [
        "position: the first answer wins 3, the second 1 (75% of decisive verdicts), 0 ties"
    ]
    pairs = said(first_wins=1, num_pairs=5, num_consistent=2, num_reversed=1, num_tie_and_win=2)
    assert pairs[1] == "swapped order: of 5 pairs 2 keep their verdict, 1 reverse it, 2 are a tie in one order only"


def test_what_several_judges_say_together() -> None:
    statistics = {
        "fleiss_kappa": Made(value=0.25, low=-0.125, high=0.5),
        "percent_agreement": Made(value=0.5, low=0.25, high=None),
        "alpha": Made(value=None, low=None, high=None),
    }
    grades = [
        Made(system="ann", mean=8.125, ci95=(7.5, 8.75), num_answers=4),
        Made(system="bob", mean=3.0, ci95=None, num_answers=1),
    ]
    together: Any = Made(
        judges=("x", "y"), num_items=7, agreement={"no_ties": Made(num=5, statistics=statistics)}, grades=grades,
        output="t/ensemble.csv",
    )  # fmt: skip
    assert ensemble_text(together).splitlines() == [
        "2 judges together: 7 items (a question, two systems)",
        "agreement, no ties (5 items): fleiss kappa 0.250 (-0.125 to 0.500), percent agreement 0.500, alpha undefined",
        "grade of ann: 8.12 (7.50 to 8.75, 95 %) over 4 answers",
        "grade of bob: 3.00 over 1 answers",
        "majority of the judges: python -m eval rate t/ensemble.csv",
    ]
    assert summed_up(grades=grades)[1].startswith("grade of ann: 8.12")


def test_judges_are_combined_under_different_names_and_complete_together(monkeypatch: pytest.MonkeyPatch) -> None:
    results = {"a": ({"judge": "a"}, "said a", True), "b": ({"judge": "b"}, "said b", False)}
    monkeypatch.setattr(judge, "run_judge", lambda options, *_: results[options.judge])
    combined: list[Any] = []

    def combine(*args: Any) -> EnsembleSummary:
        combined.append(args)
        return EnsembleSummary(judges=args[1], num_items=0, agreement={}, grades=(), output=Path("e.csv"))

    monkeypatch.setattr(ensemble, "combine", combine)

    def judged(*names: str) -> tuple[dict[str, Any], str, bool]:
        options = [Made(judge=n, mode=Mode.pairwise, tournament="t", seed=3, benchmark="open") for n in names]
        return run_judges(options, None, None)  # type: ignore[arg-type]

    values, text, complete = judged("a", "b")
    assert combined == [("t", ["a", "b"], Mode.pairwise, 3, "open")]
    assert values["judges"] == [{"judge": "a"}, {"judge": "b"}]
    assert (values["ensemble"]["num_items"], values["ensemble"]["output"]) == (0, "e.csv")
    assert text.startswith("said a\n\nsaid b\n\n2 judges together")
    assert complete is False
    results["b"] = ({"judge": "b"}, "said b", True)
    assert judged("a", "b")[2] is True
    with pytest.raises(ValueError, match="two judges have the name a, so they can't be told apart"):
        judged("a", "a")


def test_what_is_ahead_of_a_judge() -> None:
    ahead: dict[str, Any] = {
        "num_calls": 2, "num_prompt_tokens": 30, "num_completion_tokens": 4, "max_completion_tokens": 8,
        "num_measured": 0, "cost_usd": 0.25, "max_cost_usd": 0.5, "price_source": "a list", "batch": False,
    }  # fmt: skip

    def said(**changes: Any) -> str:
        return estimate_text(Made(**{**ahead, **changes}))  # type: ignore[arg-type]

    begin = "ahead: 2 calls, about 30 tokens to read and 4 to write "
    assert said() == f"{begin}(assumed, none is measured yet), at most 8; about 0.2500 USD, at most 0.5000 without " + (
        "retries (a list)"
    )
    assert said(batch=True).endswith("(a list, at the batch price)")
    assert said(num_measured=7).startswith(f"{begin}(measured on 7 judgments)")
    for unknown in ({"cost_usd": None}, {"max_cost_usd": None}):
        assert "no price is known, so no cost" in said(**unknown)
