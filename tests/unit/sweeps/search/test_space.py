"""A search's space by hand: what can be drawn, what is left of it, and how a study is opened and shown."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from eval.benchmarks.registry import BENCHMARKS
from sweeps.search import study
from sweeps.search.study import Search, objectives, open_study, parse_search

SETTINGS: dict[str, Any] = {"study": "s", "objective": "final_loss", "num_trials": 5, "num_parallel": 2}


def test_ranges_have_their_ends_and_their_scale() -> None:
    arguments = [
        "a.b=int(1,8,log)",
        "c=int(2,4)",
        "d=float(1,2.5)",
        "e=float(1e-3,1,log)",
        "f=choice(x,[y,z])",
        "model=m",
    ]
    found = parse_search(arguments, **SETTINGS)
    assert found.space == {
        "a.b": IntDistribution(1, 8, log=True),
        "c": IntDistribution(2, 4),
        "d": FloatDistribution(1.0, 2.5),
        "e": FloatDistribution(1e-3, 1.0, log=True),
        "f": CategoricalDistribution(["x", "[y,z]"]),
    }
    assert (found.fixed, found.seed) == (("model=m",), 0)


@pytest.mark.parametrize(
    "text",
    ["a=int(1)", "a=int(1,2,3)", "a=int(1,2,log,x)", "a=float(x,2)", "a=choice()", "a=choice(1,,2)", "a=choice([1,2)"],
)
def test_a_range_that_can_not_be_read_says_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected int\(first,last\[,log\]\), float\(first,last\[,log\]\) or choice"):
        parse_search([text], **SETTINGS)


@pytest.mark.parametrize("numbers", [{"num_trials": 0}, {"num_parallel": 0}])
def test_at_least_one_trial_at_a_time(numbers: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="--trials and --parallel must be at least 1"):
        parse_search(["a=int(1,2)"], **{**SETTINGS, **numbers})
    assert parse_search(["a=int(1,2)"], **{**SETTINGS, "num_trials": 1, "num_parallel": 1}).num_trials == 1


def test_every_benchmark_of_quality_is_an_objective_in_its_direction() -> None:
    found = objectives()
    assert (found["final_loss"].kind, found["final_loss"].key, found["final_loss"].direction) == (
        "train", "final_loss", "minimize",
    )  # fmt: skip
    assert (found["perplexity"].direction, found["mmlu"].direction) == ("minimize", "maximize")
    assert (found["mmlu"].kind, found["mmlu"].key) == ("mmlu", "accuracy_macro")
    assert set(found) == {
        "final_loss",
        "eval_loss",
        "eval_bits_per_byte",
        *(n for n, b in BENCHMARKS.items() if b.higher_is_better is not None),
    }


def test_what_is_left_of_a_finite_space(monkeypatch: pytest.MonkeyPatch) -> None:
    space = {"a": IntDistribution(1, 3), "b": CategoricalDistribution(["x", "y"]), "c": FloatDistribution(2.0, 2.0)}
    every = [{"a": a, "b": b, "c": 2.0} for a in (1, 2, 3) for b in ("x", "y")]
    assert study._left(space, []) == every
    assert study._left(space, [study._values_key(point) for point in every[:4]]) == every[4:]
    assert study._left(space | {"d": FloatDistribution(0.0, 1.0)}, []) is None
    monkeypatch.setattr(study, "LARGEST_LISTED", 6)
    assert study._left(space, []) == every
    monkeypatch.setattr(study, "LARGEST_LISTED", 5)
    assert study._left(space, []) is None


def test_values_are_drawn_on_their_scale() -> None:
    asked: list[tuple[Any, ...]] = []

    class Trial:
        def suggest_int(self, key: str, low: int, high: int, log: bool = False) -> int:
            asked.append((key, low, high, log))
            return low

        def suggest_float(self, key: str, low: float, high: float, log: bool = False) -> float:
            asked.append((key, low, high, log))
            return high

        def suggest_categorical(self, key: str, choices: Any) -> Any:
            return choices[1]

    space = {
        "i": IntDistribution(1, 8, log=True),
        "f": FloatDistribution(0.5, 1.0, log=True),
        "p": FloatDistribution(0.25, 1.0),
        "c": CategoricalDistribution(["x", "y"]),
    }
    assert study._overrides(Trial(), space) == ["i=1", "f=1.0", "p=1.0", "c=y"]  # type: ignore[arg-type]
    assert asked == [("i", 1, 8, True), ("f", 0.5, 1.0, True), ("p", 0.25, 1.0, False)]


def test_a_study_waits_for_a_locked_file_and_keeps_what_it_is_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, Any]] = []

    class Storage(optuna.storages.RDBStorage):
        def __init__(self, url: str, engine_kwargs: Any = None) -> None:
            opened.append((url, engine_kwargs))
            super().__init__(f"sqlite:///{tmp_path}/s.sqlite")

    monkeypatch.setattr(optuna.storages, "RDBStorage", Storage)
    search = parse_search(["a=int(1,2)", "paths.ledger=postgresql://me:secret@host/db"], **SETTINGS)
    made = open_study(search, "sqlite:///x")
    open_study(search, "postgresql://x")
    assert [kwargs for _, kwargs in opened] == [{"connect_args": {"timeout": 60}}, {"connect_args": {}}]
    assert made.direction.name == "MINIMIZE"
    about = made.user_attrs["about"]
    assert (about["objective"], about["seed"]) == ("final_loss", 0)
    assert "secret" not in str(about)
    assert study.describe_study(made) == {
        "study": "s", "objective": "final_loss", "direction": "minimize", "best": None, "trials": [],
    }  # fmt: skip
    with pytest.raises(ValueError, match="--study s is a search with another fixed"):
        open_study(Search(**{**SETTINGS, "space": search.space, "fixed": ("model=m",)}), "sqlite:///x")
