"""MMLU as a benchmark: five-shot multiple choice over 57 subjects. Source: arXiv 2009.03300."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table

from eval.benchmarks.benchmark import (
    BYTES_A_TOKEN,
    Benchmark,
    Contestant,
    Headline,
    Option,
    Place,
    QuestionScores,
    cell,
    hundredfold,
)
from eval.benchmarks.mmlu.questions import (
    HUB,
    LETTERS,
    Question,
    Role,
    choose_shots,
    load_questions,
    question_files,
    select,
)
from eval.benchmarks.mmlu.settings import MmluSettings, Protocol
from harness.config.schema import DatasetConfig, PathsConfig, TrainConfig
from harness.progress import Progress, part_of
from harness.runs.estimate import Estimate

if TYPE_CHECKING:
    from eval.benchmarks.mmlu.results import MmluResult
    from eval.systems import Target
    from harness.banks.load import LoadedBase

HUB_QUESTIONS = {f"{HUB}test": 14_042, f"{HUB}validation": 1_531, f"{HUB}dev": 285}  # of cais/mmlu
QUESTION_BYTES, NUM_SUBJECTS = 445, 57  # of a question there, in the mean over the validation split
SETS = {"questions": Role.questions, "shots_file": Role.shots}  # settings that name questions


class MmluBenchmark(Benchmark):
    """Scores causal models on multiple-choice questions."""

    name = command = "mmlu"
    title = "MMLU"
    about = "Five-shot multiple choice: accuracy with intervals, every prediction kept."
    parts = "questions"
    settings_type = MmluSettings
    scores_sharded_base = True
    headline_key = "accuracy_macro"
    lower_is_better = frozenset({"ece", "brier"})
    options = (Option(name="checkpoints", sentence="Of one --run: all, last, or steps as 100,200."),)

    def problems(self, settings: MmluSettings, paths: PathsConfig, key: str) -> list[str]:
        """As `Benchmark.problems`; questions on the hub are left to the job."""
        return mmlu_problems(settings, key)

    def files(self, settings: MmluSettings) -> Mapping[str, Sequence[Path]]:
        return {key: question_files(getattr(settings, key), role) for key, role in SETS.items()}

    def wants_template(self, settings: MmluSettings) -> bool:
        return settings.chat

    def reads_own_template(self) -> bool:
        return True

    def num_tokens(
        self, settings: MmluSettings, paths: PathsConfig, dataset: DatasetConfig | None, num_rows: int | None
    ) -> int | None:
        """As `Benchmark.num_tokens`; what the questions of a subject share is encoded once."""
        asked = _num_bytes(settings.questions, Role.questions, settings)
        shots = _num_bytes(settings.shots_file, Role.shots, settings)
        return None if asked is None or shots is None else (asked + shots) // BYTES_A_TOKEN

    def num_questions(self, settings: MmluSettings, num_rows: int | None) -> int | None:
        return _num_questions(settings)

    def score(
        self, base: "LoadedBase", contestants: Sequence[Contestant], settings: MmluSettings, place: Place
    ) -> "dict[str, MmluResult]":
        from eval.benchmarks.mmlu.score import score_mmlu
        from eval.benchmarks.templates import members_by_template

        results: dict[str, MmluResult] = {}
        for read, members in members_by_template(base, contestants, settings.chat):
            progress = part_of(place.on_progress, len(results), len(members), len(contestants))
            results |= score_mmlu(read, members, settings, progress, place.partial)
        return results

    def headline(self, result: "MmluResult") -> Headline:
        estimate = Estimate.of(result.accuracy_macro, result.accuracy_macro_ci95, result.n)
        return Headline(metric="accuracy_macro", estimate=estimate)

    def by_question(self, values: Mapping[str, Any]) -> Iterator[QuestionScores]:
        rows = values["predictions"]
        yield QuestionScores(
            metric="accuracy",
            unit="share",
            higher_is_better=True,
            names=[f"{row['subject']} {row['index']}" for row in rows],
            values=[float(row["choice"] == row["answer"]) for row in rows],
            categories=[row["subject"] for row in rows],
            given=[LETTERS[row["choice"]] for row in rows],
            expected=[[LETTERS[row["answer"]]] for row in rows],
        )

    def table(self, results: "Mapping[str, MmluResult]") -> Table:
        caption = "percent, ECE too; 95 % intervals; Brier: 0 is perfect, 2 sure and wrong"
        table = Table(title=self.title, title_justify="left", caption=caption)
        for column in ("system", "mean over subjects", "mean over questions", "ECE", "Brier", "n"):
            table.add_column(column, justify="left" if column == "system" else "right")
        for name, result in results.items():
            macro = Estimate.of(result.accuracy_macro, result.accuracy_macro_ci95)
            micro = Estimate.of(result.accuracy_micro, result.accuracy_micro_ci95)
            ece, brier = Estimate.of(result.ece, result.ece_ci95), Estimate.of(result.brier, result.brier_ci95)
            shares = [cell(hundredfold(share), 1) for share in (macro, micro, ece)]
            table.add_row(name, *shares, cell(brier, 3), str(result.n))
        return table

    def settings_of_options(self, values: Mapping[str, Any]) -> MmluSettings:
        """As `Benchmark.settings_of_options`; without --shots, the examples for other questions come from the hub."""
        own = values.get("shots_file") in (None, "")
        shots = "embedded" if values.get("questions", "embedded") == "embedded" else f"{HUB}dev"
        return MmluSettings(**{**values, **({"shots_file": shots} if own else {})})

    def by_options(
        self, target: "Target", settings: MmluSettings, options: Mapping[str, Any], out: Path, on_progress: Progress
    ) -> tuple[dict[str, Any], RenderableType] | None:
        """--checkpoints: the kept adapters of one run, by step."""
        if options["checkpoints"] is None:
            return None
        from eval.benchmarks.mmlu.checkpoints import checkpoints_table, score_checkpoints
        from harness.config.paths import paths_of_environment

        if len(target.run_ids) != 1 or target.model is not None or target.sweep is not None:
            raise ValueError("--checkpoints goes with exactly one --run, and no --model or --sweep")
        paths = paths_of_environment(target.runs)
        folder = Path(paths.runs) / target.run_ids[0]
        result = score_checkpoints(folder, options["checkpoints"], settings, out, paths, on_progress)
        return result.to_json(), checkpoints_table(result)


def _num_bytes(where: str, role: Role, settings: MmluSettings) -> int | None:
    """Bytes of the questions that are asked, or of the examples before them; at most, for those of the hub."""
    if role is Role.shots and settings.num_shots == 0:
        return 0
    limits = (None, settings.num_shots) if role is Role.shots else (settings.limit, settings.limit_per_subject)
    if where.startswith(HUB):
        return QUESTION_BYTES * _at_most(where, limits) or None
    try:
        questions = load_questions(where, role)
    except ValueError:
        return None  # `problems` says so
    chosen = [questions[place] for place in select(questions, *limits)]
    return sum(len(text.encode()) for one in chosen for text in (one.question, *one.choices))


def _at_most(where: str, limits: tuple[int | None, int | None]) -> int:
    """Questions of a split on the hub, at most: all, and by subject. 0: a split that isn't known."""
    most = [HUB_QUESTIONS.get(where, 0), limits[0], None if limits[1] is None else NUM_SUBJECTS * limits[1]]
    return min(limit for limit in most if limit is not None)


def _num_questions(settings: MmluSettings) -> int | None:
    """The questions that are asked; at most, for those of the hub."""
    limits = (settings.limit, settings.limit_per_subject)
    if settings.questions.startswith(HUB):
        return _at_most(settings.questions, limits) or None
    try:
        return len(select(load_questions(settings.questions, Role.questions), *limits))
    except ValueError:
        return None  # `problems` says so


def training_settings(train: TrainConfig) -> MmluSettings:
    """The settings of MMLU in training (`train.mmlu_*`). Raises ValueError for numbers that make no sense."""
    return MmluSettings(
        questions=train.mmlu_questions,
        shots_file=train.mmlu_shots_file,
        num_shots=train.mmlu_num_shots,
        limit=train.mmlu_limit,
        protocol=Protocol.qlora_callback,
    )


def mmlu_problems(settings: MmluSettings, key: str) -> list[str]:
    """The problems of MMLU after or in training. Args: key: the text before a setting's name."""
    problems: list[str] = []
    questions_by_setting: dict[str, list[Question]] = {}
    for name, role in SETS.items():
        where: str = getattr(settings, name)
        if where.startswith(HUB) or (role is Role.shots and settings.num_shots == 0):
            continue
        try:
            questions_by_setting[name] = load_questions(where, role)
        except ValueError as error:
            problems.append(f"{key}{name}: {error}")
    if len(questions_by_setting) < len(SETS):
        return problems
    questions, pool = questions_by_setting.values()
    chosen = [questions[place] for place in select(questions, settings.limit, settings.limit_per_subject)]
    try:
        choose_shots(chosen, pool, settings.num_shots, settings.questions, settings.shots_file)
    except ValueError as error:
        problems.append(f"{key}num_shots: {error}")
    return problems
