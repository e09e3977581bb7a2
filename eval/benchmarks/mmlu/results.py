"""Turns a system's MMLU choices into accuracies: both means, with intervals.

`accuracy_micro` is the mean over questions (hendrycks/test; Wilson interval), `accuracy_macro` the mean
over subjects (qlora's callback; MOVER on the subjects' Wilson intervals, so that those at 0 or 100 % keep theirs). The
two differ where subjects differ in size, so both are always given, with the split's name.

Source of the categories: hendrycks/test categories.py, as in lm-eval's tags.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eval.benchmarks.intervals import stratified_interval, wilson_interval
from eval.benchmarks.mmlu.calibration import Reliability
from harness.runs.estimate import Interval

SCHEMA_VERSION = 1

CATEGORIES: dict[str, tuple[str, ...]] = {
    "humanities": (
        "formal_logic",
        "high_school_european_history",
        "high_school_us_history",
        "high_school_world_history",
        "international_law",
        "jurisprudence",
        "logical_fallacies",
        "moral_disputes",
        "moral_scenarios",
        "philosophy",
        "prehistory",
        "professional_law",
        "world_religions",
    ),
    "social_sciences": (
        "econometrics",
        "high_school_geography",
        "high_school_government_and_politics",
        "high_school_macroeconomics",
        "high_school_microeconomics",
        "high_school_psychology",
        "human_sexuality",
        "professional_psychology",
        "public_relations",
        "security_studies",
        "sociology",
        "us_foreign_policy",
    ),
    "stem": (
        "abstract_algebra",
        "anatomy",
        "astronomy",
        "college_biology",
        "college_chemistry",
        "college_computer_science",
        "college_mathematics",
        "college_physics",
        "computer_security",
        "conceptual_physics",
        "electrical_engineering",
        "elementary_mathematics",
        "high_school_biology",
        "high_school_chemistry",
        "high_school_computer_science",
        "high_school_mathematics",
        "high_school_physics",
        "high_school_statistics",
        "machine_learning",
    ),
    "other": (
        "business_ethics",
        "clinical_knowledge",
        "college_medicine",
        "global_facts",
        "human_aging",
        "management",
        "marketing",
        "medical_genetics",
        "miscellaneous",
        "nutrition",
        "professional_accounting",
        "professional_medicine",
        "virology",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A system's choice for one question. Log-probabilities are over the full vocabulary, in nats."""

    subject: str
    index: int  # the question's place in its file, from 0
    logprobs: tuple[float, ...]  # of A, B, C, D
    choice: int  # the most likely letter; the first of equals
    answer: int
    num_shots: int  # examples that fitted
    num_truncated: int = 0  # prompt tokens cut off

    @property
    def is_correct(self) -> bool:
        """Whether the choice is the right answer."""
        return self.choice == self.answer


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectScore:
    """How many questions of a subject were answered right."""

    n: int
    num_correct: int
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MmluResult:
    """The accuracies of one system, by one protocol, on one set of questions."""

    system: str
    accuracy_macro: float
    accuracy_macro_ci95: tuple[float, float]
    accuracy_micro: float
    accuracy_micro_ci95: tuple[float, float]
    ece: float  # expected calibration error, and the Brier score: eval/benchmarks/mmlu/calibration.py
    ece_ci95: Interval | None
    brier: float
    brier_ci95: Interval | None
    reliability: Reliability
    n: int
    num_subjects: int
    num_truncated_prompts: int
    num_dropped_shots: int  # over all questions
    protocol: str
    split_name: str
    num_shots: int
    chat: bool
    per_subject: dict[str, SubjectScore]
    per_category: dict[str, SubjectScore]
    settings_sha256: str  # of protocol, questions and shots
    model_sha256: str  # of base, quantization and adapter
    predictions: tuple[Prediction, ...]  # in the file's order
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def score_subjects(predictions: Sequence[Prediction]) -> dict[str, SubjectScore]:
    """The score of each subject, in order of appearance."""
    groups: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        groups.setdefault(prediction.subject, []).append(prediction)
    return {subject: _score(group) for subject, group in groups.items()}


def score_categories(predictions: Sequence[Prediction]) -> dict[str, SubjectScore]:
    """The accuracy over questions of the four categories; subjects that MMLU doesn't have are left out."""
    scores = {}
    for category, subjects in CATEGORIES.items():
        group = [prediction for prediction in predictions if prediction.subject in subjects]
        if group:
            scores[category] = _score(group)
    return scores


def micro_accuracy(scores: Mapping[str, SubjectScore]) -> tuple[float, tuple[float, float]]:
    """-> mean over questions and its Wilson 95 % interval."""
    n, correct = sum(s.n for s in scores.values()), sum(s.num_correct for s in scores.values())
    return correct / n, wilson_interval(correct, n)


def macro_accuracy(scores: Mapping[str, SubjectScore]) -> tuple[float, tuple[float, float]]:
    """-> mean over subjects and its 95 % interval, subjects as strata of equal weight (MOVER on Wilson's intervals)."""
    mean = sum(score.accuracy for score in scores.values()) / len(scores)
    return mean, stratified_interval([(score.num_correct, score.n) for score in scores.values()])


def _score(group: Sequence[Prediction]) -> SubjectScore:
    correct = sum(prediction.is_correct for prediction in group)
    return SubjectScore(n=len(group), num_correct=correct, accuracy=correct / len(group))
