"""Search: the space, trials as ordinary runs, and going on after an end in the middle. Nothing is trained here."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from harness.config.compose import compose_grid
from harness.config.schema import Config
from harness.ledger.ledger import Ledger
from sweeps.plan.enqueue import Stops
from sweeps.plan.jobs import make_jobs, plan_runs
from sweeps.search import study
from sweeps.search.pruning import Pruner
from sweeps.search.study import (
    Search,
    describe_study,
    objectives,
    open_study,
    parse_search,
    run_search,
    study_table,
)

SPACE = [
    "train.learning_rate=float(1e-5,1e-3,log)",
    "adapter.lora_r=int(8,64,log)",
    "adapter.lora_dropout=choice(0,0.1)",
]
SETTINGS: dict[str, Any] = {"study": "s", "objective": "final_loss", "num_trials": 5, "num_parallel": 2, "seed": 3}


@cache
def smollm2() -> Config:
    """Composed once: trials set their values in it, as Hydra would."""
    return compose_grid(["model=smollm2"])[0].config


class Engine:
    """Stands for the sweep engine: ends each job in the ledger; may be killed before a launch or after it."""

    def __init__(self, folder: Path) -> None:
        self.ledger = folder / "ledger.sqlite"
        self.launches: list[list[str]] = []
        self.trained: list[str] = []
        self.dies: str | None = None

    def compose(self, overrides: Sequence[str]) -> Config:
        config = smollm2()
        chosen = dict(text.split("=") for text in overrides)
        rate = {"learning_rate": float(chosen.get("train.learning_rate", 1e-4))}
        keys = {"lora_r": int, "lora_dropout": float, "lora_alpha": int}
        adapter = {key: kind(chosen[f"adapter.{key}"]) for key, kind in keys.items() if f"adapter.{key}" in chosen}
        return replace(config, train=replace(config.train, **rate), adapter=replace(config.adapter, **adapter))

    def launch(self, configs: Sequence[Config], _: Stops | None = None) -> int:
        if self.dies == "before":
            raise KeyboardInterrupt
        runs = plan_runs(configs)
        self.launches.append([run.run_id for run in runs])
        ledger = Ledger.open(self.ledger)
        ledger.add(make_jobs(runs), sweep="s")
        while claims := ledger.claim("me", ["train"], max_jobs=1, lease_seconds=60, max_attempts=1):
            spec = next(run.spec for run in runs if run.run_id == claims[0].run_id)
            self.trained.append(spec.run_id)
            if spec.adapter.lora_r > 50:
                ledger.fail(claims[0], "diverged", retry=False)
            else:
                assert spec.train is not None
                ledger.finish(claims[0], {"final_loss": abs(spec.train.learning_rate - 1e-4)}, 1.0)
        ledger.close()
        if self.dies == "after":
            raise KeyboardInterrupt
        return 0

    def search(self, search: Search) -> optuna.Study:
        Ledger.open(self.ledger).close()
        url = f"sqlite:///{self.ledger}"
        assert run_search(search, url, self.compose, self.launch, lambda: Ledger.open(self.ledger)) == 0
        return open_study(search, url)


def search(*more: str, **changes: Any) -> Search:
    return parse_search(["model=smollm2", *SPACE, *more], **SETTINGS | changes)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


def test_trials_are_ordinary_runs(engine: Engine) -> None:
    study = engine.search(search())
    found = describe_study(study)
    assert len(engine.launches) == 3, "5 trials, 2 at once"
    assert len(found["trials"]) == 5
    for trial in found["trials"][:2]:
        (point,) = compose_grid(["model=smollm2", *(f"{key}={value}" for key, value in trial["params"].items())])
        assert plan_runs([point.config])[0].run_id == trial["run_id"]
    done = [trial for trial in found["trials"] if trial["state"] == "complete"]
    assert found["best"] == min(done, key=lambda trial: float(trial["value"]))
    assert len(study_table(study).rows) == 5


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_search_goes_on_and_repeats_nothing(tmp_path: Path, when: str) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, killed = Engine(tmp_path / "whole"), Engine(tmp_path / "killed")
    wanted = describe_study(whole.search(search()))
    killed.dies = when
    with pytest.raises(KeyboardInterrupt):
        killed.search(search())
    killed.dies = None
    assert describe_study(killed.search(search())) == wanted, "as if it had never been killed"
    assert sorted(killed.trained) == sorted(set(killed.trained)) == sorted(set(whole.trained))


def test_more_trials_may_be_asked_for_later(engine: Engine) -> None:
    first = describe_study(engine.search(search(num_trials=2)))["trials"]
    assert describe_study(engine.search(search(num_trials=4)))["trials"][:2] == first
    before = len(engine.trained)
    engine.search(search(num_trials=4))
    assert len(engine.trained) == before


def test_a_trial_that_was_cut_off_while_it_was_asked_for(engine: Engine) -> None:
    Ledger.open(engine.ledger).close()
    study = open_study(search(), f"sqlite:///{engine.ledger}")
    study.ask().suggest_float("train.learning_rate", 1e-5, 1e-3, log=True)
    rate = study.trials[0].params["train.learning_rate"]
    trial = describe_study(engine.search(search()))["trials"][0]
    assert trial["params"].keys() == search().space.keys()
    assert trial["params"]["train.learning_rate"] == rate


def test_a_failed_run_is_a_failed_trial(engine: Engine) -> None:
    study = engine.search(search("adapter.lora_alpha=choice(1)", num_trials=8, seed=0))
    states = {trial["params"]["adapter.lora_r"] > 50: trial["state"] for trial in describe_study(study)["trials"]}
    assert states[False] == "complete"
    assert states.get(True, "fail") == "fail"
    assert not study.get_trials(states=(TrialState.RUNNING,))


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        (["model=smollm2"], {}, "search over what?"),
        (["train.seed=int(1)"], {}, r"train\.seed=int\(1\): 1 values; expected int"),
        (["train.seed=int(5,1)"], {}, "train.seed=int"),
        (["train.seed=float(a,b)"], {}, "could not convert"),
        (["train.seed=choice()"], {}, "an empty choice"),
        (["adapter.targets=choice([a,b)"], {}, "a bracket or a quote that is not closed"),
        (["launch.workers=int(1,4)"], {}, r"launch\.workers=int\(1,4\): can't vary within a sweep"),
        (
            ["train.seed=int(1,2)"],
            {"objective": "elo"},
            "elo: there are final_loss, eval_loss, eval_bits_per_byte, mmlu, perplexity",
        ),
        (["train.seed=int(1,2)"], {"num_trials": 0}, "--trials and --parallel"),
    ],
)
def test_bad_searches(arguments: list[str], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_search(arguments, **SETTINGS | changes)


def test_choices_may_be_lists() -> None:
    found = parse_search(["adapter.targets=choice([q_proj,v_proj],[all-linear])", "x=choice('a,b',c)"], **SETTINGS)
    assert [kind.choices for kind in found.space.values() if isinstance(kind, CategoricalDistribution)] == [
        ("[q_proj,v_proj]", "[all-linear]"),
        ("'a,b'", "c"),
    ]


def test_spaces_are_read_as_they_are_typed() -> None:
    typed = ["a.b=int(1,5)", "c=int(8,64,log)", "d=float(0.1,0.5)", "e=float(1e-5,1e-3,log)", "model=smollm2", "f=3"]
    found = parse_search(typed, **SETTINGS)
    assert found.space == {
        "a.b": IntDistribution(1, 5),
        "c": IntDistribution(8, 64, log=True),
        "d": FloatDistribution(0.1, 0.5),
        "e": FloatDistribution(1e-5, 1e-3, log=True),
    }
    assert found.fixed == ("model=smollm2", "f=3")
    assert parse_search(["a=int(1,2)"], **SETTINGS | {"num_trials": 1, "num_parallel": 1}).num_parallel == 1
    for wrong in ("a=int(1,2,3)", "a=int(1,2,log,4)", "a=int(1.5,2)", "a=float(1)"):
        with pytest.raises(ValueError, match="expected int"):
            parse_search([wrong], **SETTINGS)
    with pytest.raises(ValueError, match="--trials and --parallel must be at least 1"):
        parse_search(["a=int(1,2)"], **SETTINGS | {"num_parallel": 0})


def test_objectives_know_which_way_is_better() -> None:
    found = objectives()
    assert (found["final_loss"].key, found["final_loss"].direction) == ("final_loss", "minimize")
    assert (found["mmlu"].key, found["mmlu"].direction) == ("accuracy_macro", "maximize")
    assert found["perplexity"].direction == "minimize"
    assert "answers" not in found, "their number is no measure of quality"


@pytest.mark.parametrize(
    ("space", "known", "left"),
    [
        ({"a": IntDistribution(1, 3)}, [{"a": 2}], [{"a": 1}, {"a": 3}]),
        (
            {"a": CategoricalDistribution(("x", "y")), "b": FloatDistribution(1, 1)},
            [{"b": 1.0, "a": "y"}],
            [{"a": "x", "b": 1.0}],
        ),
        ({"a": IntDistribution(1, 1)}, [{"a": 1}], []),
        ({"a": FloatDistribution(0, 1)}, [], None),
        ({"a": IntDistribution(1, study.LARGEST_LISTED + 1)}, [], None),
    ],
)
def test_what_is_left_of_a_finite_space(space: Any, known: list[dict[str, Any]], left: Any) -> None:
    assert study._left(space, {study._values_key(values) for values in known}) == left


def test_the_largest_space_that_is_listed() -> None:
    assert len(study._left({"a": IntDistribution(1, study.LARGEST_LISTED)}, []) or ()) == study.LARGEST_LISTED


def test_a_finite_space_ends_when_it_is_exhausted(engine: Engine) -> None:
    space = ["adapter.lora_r=int(8,10)", "adapter.lora_dropout=choice(0,0.1)"]
    study = engine.search(parse_search(["model=smollm2", *space], **SETTINGS | {"num_trials": 50}))
    trials = describe_study(study)["trials"]
    assert len({(t["params"]["adapter.lora_r"], t["params"]["adapter.lora_dropout"]) for t in trials}) == 6
    assert len(trials) == len(set(engine.trained)) == len(engine.trained) == 6
    assert len(study_table(study).rows) == 6


def test_values_of_one_run_are_one_trial(engine: Engine) -> None:
    space = ["adapter.lora_dropout=choice(0.1,0.10,1e-1)", "adapter.lora_r=choice(8,16)"]
    study = engine.search(parse_search(["model=smollm2", *space], **SETTINGS | {"num_trials": 6}))
    assert [trial["state"] for trial in describe_study(study)["trials"]] == ["complete"] * 2
    assert len(engine.trained) == 2


def test_a_study_is_one_search(engine: Engine) -> None:
    engine.search(search(num_trials=1))
    with pytest.raises(ValueError, match="--study s is a search with another space, fixed"):
        engine.search(parse_search(["model=7b", "train.seed=int(0,9)"], **SETTINGS))


def test_the_held_out_loss_wants_held_out_rows(engine: Engine) -> None:
    with pytest.raises(ValueError, match=r"--objective eval_loss is measured on held-out rows: add train\.eval_rows=N"):
        engine.search(search(objective="eval_loss"))


def test_the_objective_must_be_measured(engine: Engine) -> None:
    with pytest.raises(ValueError, match="--objective mmlu is measured by eval=mmlu: add it"):
        engine.search(search(objective="mmlu"))


@pytest.mark.parametrize("new_in", [0, 3])
def test_a_search_ends_where_it_draws_known_runs_round_after_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_in: int
) -> None:
    engine, rounds = Engine(tmp_path), list[int]()
    monkeypatch.setattr(study, "_drawn", lambda *_: rounds.append(len(rounds)) or ["a trial"])
    monkeypatch.setattr(study, "_is_new", lambda *_: len(rounds) == new_in)
    monkeypatch.setattr(study, "_train", lambda *_: 0)
    monkeypatch.setattr(study, "_tell", lambda *_: None)
    search = parse_search(SPACE, **SETTINGS)
    storage = f"sqlite:///{tmp_path / 's.sqlite'}"
    assert run_search(search, storage, engine.compose, engine.launch, lambda: Ledger.open(engine.ledger)) == 0
    assert len(rounds) == new_in + study.MAX_REPEATS + 1, "a new run begins the count anew"


def test_a_study_is_of_one_pruner_and_its_numbers(tmp_path: Path) -> None:
    """Trials that other rungs have cut off can't be held against these."""
    storage = f"sqlite:///{tmp_path / 's.sqlite'}"
    plain = parse_search(SPACE, **SETTINGS)
    pruned = replace(plain, pruner=Pruner.median, eta=3)
    open_study(pruned, storage)
    assert open_study(pruned, storage).study_name == "s"
    for other, differs in ((replace(pruned, eta=2), "eta"), (plain, "pruner, eta")):
        with pytest.raises(ValueError, match=rf"--study s is a search with another {differs}"):
            open_study(other, storage)
