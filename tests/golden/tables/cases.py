"""Tables that commands print of results made by hand; what is printed is kept beside this file, a text for each.

python -m tests.golden.tables.cases   (records them anew; look at the difference before it is committed)
"""

import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace as Made
from typing import Any

from rich.console import Console, RenderableType

from eval.commands.agree import show_agreement
from eval.commands.rate import show_ratings

HERE = Path(__file__).parent
WIDTH = 120


def printed(shown: RenderableType) -> str:
    """As on a terminal of `WIDTH` columns without colours, blanks at the ends of lines taken off."""
    out = io.StringIO()
    Console(file=out, width=WIDTH, color_system=None).print(shown)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def tables() -> Iterator[tuple[str, str]]:
    """(name, text)"""
    yield "rate", printed(show_ratings(_ratings()))
    yield "rate-two-groups", printed(show_ratings(_ratings(groups=[["a", "b"], ["c"]], **_NOTHING)))
    yield "rate-scores-alone", printed(show_ratings(_ratings(groups=[], position_bias=None, **_NOTHING)))
    yield "agree", printed(show_agreement(_agreement()))


def _pair(higher: str, lower: str, significant: bool, **changes: Any) -> Any:
    values = {"difference": 35.4, "low": -3.6, "high": 74.4, "p_holm": 0.0123, "num_prompts": 40}
    more = {"num_prompts_needed": 96}
    return Made(higher=higher, lower=lower, significant=significant, **{**values, **more, **changes})


_PAIRS = [
    _pair("a", "b", False),
    _pair("a", "c", True, p_holm=None, num_prompts_needed=None),
    _pair("b", "c", True, difference=-0.6, low=None),
]
_NOTHING: dict[str, Any] = {
    "comparisons": [], "pairs": [], "elo": {}, "relative": {}, "controlled": None, "people": None, "length_bias": None,
    "notes": [],
}  # fmt: skip


def _record(wins: int, losses: int, ties: int) -> Any:
    return Made(wins=wins, losses=losses, ties=ties)


def _strengths(*points: float) -> dict[str, Any]:
    bounds = [(900.4, 1100.6), (None, 1.0), (1.0, None)]
    return {
        name: Made(rating=rating, low=low, high=high)
        for name, rating, (low, high) in zip("abc", points, bounds, strict=True)
    }


def _ratings(**changes: Any) -> Any:
    elo = [(1010.4, 980.5, 1030.5, 1009.04, 1011.76), (1000.6, None, 1.0, 999.5, None), (989.0, 1.0, 2.0, None, 3.0)]
    names = ("mean", "low", "high", "ordering_low", "ordering_high")
    best = [Made(rank=1, low=1, high=2, best=0.9375), Made(rank=2, low=None, high=None, best=None)]
    people_rating = {"rating": 1020.4, "low": 1000.0, "high": 1040.0, "people_only": 1019.6}
    people = Made(
        verdict=["corrected: a is best"],
        num_votes=12,
        num_prompts=5,
        judge_weight=0.625,
        ratings={
            "a": Made(**people_rating, people_only_low=990.0, people_only_high=1050.0),
            "b": Made(**people_rating, people_only_low=None, people_only_high=None),
        },
        ranks={"a": best[0], "b": best[1]},
        comparisons=[_pair("a", "b", True), _pair("b", "c", True)],
    )
    values: dict[str, Any] = {
        "verdict": ["a is best", "c is alone"],
        "people": people,
        "groups": [["a", "b", "c"]],
        "bradley_terry": _strengths(1040.6, 1003.4, 956.0),
        "davidson": _strengths(1041.4, 1002.6, 955.5),
        "win_matrix": {
            "a": {"b": _record(5, 2, 1), "c": _record(7, 1, 0)},
            "b": {"a": _record(2, 5, 1), "c": _record(4, 4, 0)},
            "c": {"a": _record(1, 7, 0), "b": _record(4, 4, 0)},
        },
        "elo": {name: Made(**dict(zip(names, row, strict=True))) for name, row in zip("abc", elo, strict=True)},
        "comparisons": _PAIRS,
        "pairs": [_PAIRS[0], _PAIRS[2]],
        "ranks": {"a": best[0], "b": best[1], "c": Made(rank=3, low=2, high=3, best=0.0)},
        "relative": {
            "a": Made(first=101.25, second=98.75, mean=100.0, ci95=4.45, low=95.0, high=105.0, num_prompts=80),
            "b": Made(first=None, second=50.0, mean=50.0, ci95=None, low=None, high=None, num_prompts=1),
        },
        "controlled": Made(
            ratings={"a": Made(value=1030.6, low=1000.4, high=1060.0)},
            effects={"length": Made(value=-12.4, low=None, high=None)},
        ),
        "num_matches": 24,
        "num_unparsed": 2,
        "position_bias": Made(
            first_win_rate=0.5625, low=0.5, high=0.625, ties=3, swapped_reversals=4, swapped_pairs=12
        ),
        "length_bias": Made(rate=0.75, num=16.0),
        "notes": ["look out"],
        "settings": {"sample_size": None, "k": 32.0, "start": 1000.0, "orderings": 100, "seed": 7, "resamples": 50},
    }
    return Made(**{**values, **changes})


def _level(num: int, **statistics: Any) -> Any:
    return Made(num=num, statistics=statistics)


def _agreement() -> Any:
    value, bare, none = (Made(value=v, low=low, high=0.75) for v, low in ((0.5, 0.25), (0.125, None), (None, None)))
    own = Made(
        system="a",
        excess=0.125,
        by_itself=Made(rate=0.75, low=0.5, high=0.875),
        by_the_other=Made(rate=0.625, low=None, high=None),
    )
    biased = Made(first_win_rate=0.625, low=0.5, high=0.75, swapped_reversals=3, swapped_pairs=9)
    judges = [
        Made(
            file="gpt4.csv",
            num_verdicts=40,
            num_unparsed=1,
            position_bias=biased,
            length_bias=Made(rate=0.75, num=20.0, low=0.5, high=1.0),
            self_preference=own,
            raters={},
        ),
        Made(
            file="human.csv",
            num_verdicts=20,
            num_unparsed=0,
            position_bias=Made(first_win_rate=None),
            length_bias=Made(rate=None),
            self_preference=Made(system="b", excess=None),
            raters={"all_items": _level(9, fleiss_kappa=value)},
        ),
        Made(
            file="third.csv",
            num_verdicts=1,
            num_unparsed=0,
            position_bias=Made(first_win_rate=1.0, low=None, high=None, swapped_reversals=0, swapped_pairs=0),
            length_bias=None,
            self_preference=None,
            raters={},
        ),
    ]
    return Made(
        example=_level(30, percent_agreement=value, cohen_kappa=bare),
        example_decisive=_level(20, percent_agreement=none),
        system=_level(3, kendall_tau=value),
        judges=judges,
        notes=["few items"],
    )


if __name__ == "__main__":
    for name, text in tables():
        (HERE / f"{name}.txt").write_text(text)
