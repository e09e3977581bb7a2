"""lm-eval's tasks on our base: resumed by request, CrowS-Pairs as Table 8, clear words where something is missing."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from eval.benchmarks.benchmark import save_results
from eval.benchmarks.registry import BENCHMARKS
from eval.benchmarks.tasks.results import CROWS_CATEGORIES, crows_scores, metric_scores, missing_lm_eval
from eval.benchmarks.tasks.score import load_tasks, score_tasks
from eval.benchmarks.tasks.settings import TasksSettings
from harness.banks.load import LoadedBase
from tests.builders import open_base
from tests.tiny import make_checkpoint

pytest.importorskip("lm_eval", reason="needs the `tasks` extra (lm-eval)")
local = pytest.importorskip("tests.local_tasks", reason="needs the `tasks` extra (lm-eval)")
NAMES = ("hellaswag", "crows_pairs_english")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return open_base(make_checkpoint(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def settings(tmp_path: Path) -> TasksSettings:
    (tmp_path / "tasks").mkdir()
    return TasksSettings(names=list(local.write_local_tasks(tmp_path / "tasks", NAMES)), folder=str(tmp_path / "tasks"))


def count(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    from eval.benchmarks.tasks import lm_eval_model

    counts: list[int] = []
    original = lm_eval_model.score_continuations

    def counting(base: LoadedBase, requests: list[object], row_tokens: int | None) -> object:
        counts.append(len(requests))
        return original(base, requests, row_tokens=64)  # type: ignore[arg-type]

    monkeypatch.setattr(lm_eval_model, "score_continuations", counting)
    return lambda: sum(counts)


def test_a_killed_call_goes_on_and_other_models_do_not_reuse_it(
    base: LoadedBase, settings: TasksSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = count(monkeypatch)
    members = {"base": None, "tuned": "tuned"}
    whole = score_tasks(base, members, settings)
    total = asked() // 2
    assert whole["base"].settings_sha256 == whole["tuned"].settings_sha256
    assert whole["base"].model_sha256 != whole["tuned"].model_sha256
    assert whole["base"].tasks != whole["tuned"].tasks

    def kill(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_tasks(base, members, settings, kill, tmp_path)
    before = asked()
    seen: list[tuple[int, int]] = []
    again = score_tasks(base, members, settings, lambda done, of: seen.append((done, of)), tmp_path)
    assert total < asked() - before < 2 * total  # the second system whole, of the first what was missing
    assert seen[-1][0] == seen[-1][1] == 2 * total
    for name in members:
        for task, score in again[name].tasks.items():
            assert score.metrics == whole[name].tasks[task].metrics
    before = asked()
    score_tasks(base, {"again": None}, settings, partial_dir=tmp_path)
    assert asked() == before
    save_results(BENCHMARKS["tasks"], {"base": again["base"]}, tmp_path)
    assert (tmp_path / "tasks.json").is_file()


def test_crows_pairs_are_given_as_table_8(base: LoadedBase, settings: TasksSettings) -> None:
    result = score_tasks(base, {"base": None}, settings)["base"]
    crows = result.tasks["local_crows_pairs_english"].crows_pairs
    assert crows is not None
    assert tuple(crows.categories) == tuple(CROWS_CATEGORIES.values())
    assert crows.categories["Gender"].n == 2
    assert crows.average_of_pairs.n == 11  # `autre` counts as a pair, and has no row in the table
    values = [score.value for score in crows.categories.values()]
    assert crows.average_of_categories == pytest.approx(sum(values) / 9)
    assert result.tasks["local_hellaswag"].crows_pairs is None
    one = crows_scores([{"pct_stereotype": 1.0, "doc": {"bias_type": "age"}}])
    assert one is not None
    assert one.average_of_categories is None


def test_a_limit_takes_the_first_questions(base: LoadedBase, settings: TasksSettings) -> None:
    limited = TasksSettings(names=settings.names, folder=settings.folder, limit=1)
    result = score_tasks(base, {"base": None}, limited)["base"]
    assert [p.doc_id for p in result.tasks["local_hellaswag"].predictions] == [0]
    assert result.tasks["local_hellaswag"].metrics["acc"].n == 1


def test_intervals_are_of_means_only() -> None:
    samples = [{"acc": 1.0, "perplexity": -2.0}, {"acc": 0.0, "perplexity": -4.0}]
    scores = metric_scores({"acc": 0.5, "perplexity": 20.1}, samples)
    assert scores["acc"].ci95 == pytest.approx((0.0945, 0.9055), abs=1e-3)
    assert scores["perplexity"].ci95 is None


def test_what_can_not_be_served_is_said(settings: TasksSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.folder is not None
    folder = Path(settings.folder)
    published = yaml.safe_load((folder / "local_hellaswag.yaml").read_text())
    fetched = {"include": published["include"], "task": "local_fetched"}
    (folder / "local_fetched.yaml").write_text(yaml.safe_dump(fetched))
    with pytest.raises(ValueError, match=r"local_fetched: the data can't be had .* --task-folder"):
        load_tasks(TasksSettings(names=["local_fetched"], folder=str(folder)))
    running = published | {"task": "local_running", "output_type": "generate_until", "unsafe_code": True}
    (folder / "local_running.yaml").write_text(yaml.safe_dump(running))
    with pytest.raises(ValueError, match=r"local_running: it scores by running the code .* \(unsafe_code\)"):
        load_tasks(TasksSettings(names=["local_running"], folder=str(folder)))
    with pytest.raises(ValueError, match="no such folder"):
        load_tasks(TasksSettings(names=["x"], folder=str(folder / "nowhere")))
    with pytest.raises(ValueError, match="name at least one"):
        TasksSettings(names=[])
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lm_eval" else find(name))
    assert "qlora-harness[tasks]" in str(missing_lm_eval())


@pytest.mark.slow
def test_an_unknown_task_gets_its_near_matches() -> None:
    with pytest.raises(ValueError, match=r"task hellaswagg: lm-eval has no such task; near it: hellaswag"):
        load_tasks(TasksSettings(names=["hellaswagg"]))
