"""Scores models on few-shot MMLU, several adapters of one base in one call.

    results = score_mmlu(base, {"smollm2-base": None, "smollm2-concise": run_id}, MmluSettings())

As `python -m eval mmlu --model smollm2 --run RUN_ID --questions FILE --shots FILE --out DIR`. Each
subject's examples are encoded once an adapter (eval/scoring/next_token.py). Source: MMLU (arXiv 2009.03300);
reference: lm-eval 0.4.13, task `mmlu`, whose log-probabilities tests/parity/test_mmlu_parity.py matches to 1e-3.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.benchmarks.mmlu.calibration import calibration_of
from eval.benchmarks.mmlu.prompts import Encoded, answer_tokens, encode_prompt
from eval.benchmarks.mmlu.questions import Question, Role, choose_shots, content_sha256, load_questions, select
from eval.benchmarks.mmlu.results import (
    MmluResult,
    Prediction,
    macro_accuracy,
    micro_accuracy,
    score_categories,
    score_subjects,
)
from eval.benchmarks.mmlu.settings import MmluSettings
from eval.scoring.model_key import model_sha256, read_by
from eval.scoring.next_token import Prompt, score_rows
from eval.scoring.padded import score_padded
from eval.scoring.partial import Partial
from harness.banks.load import LoadedBase
from harness.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class MmluSet:
    """The questions to ask, their places in the file, and each subject's examples."""

    indices: tuple[int, ...]
    questions: tuple[Question, ...]
    shots: Mapping[str, tuple[Question, ...]]
    sha256: str  # of all that decides a prediction but the model


@dataclass(slots=True)
class _Job:
    """One system's share of a call."""

    name: str
    member: str | None
    model_sha256: str
    partial: Partial[int]  # log-probabilities by place in `MmluSet.questions`

    @property
    def logprobs(self) -> dict[int, list[float]]:
        return self.partial.done


def score_mmlu(
    base: LoadedBase,
    members: Mapping[str, str | None],
    settings: MmluSettings,
    on_progress: Progress | None = None,
    partial_dir: Path | None = None,
) -> dict[str, MmluResult]:
    """Scores systems that share a base.

    Args:
        base: with the members loaded in its bank.
        members: system's name -> its member of the bank, None for the untouched base.
        settings: what is asked and how.
        on_progress: (questions done, in all), over all systems.
        partial_dir: where finished questions are kept, so that a killed call goes on; they are tied to
            model, adapter, data and protocol. None keeps nothing.

    Raises:
        ValueError: unusable questions or shots (file and line named), a tokenizer that letters don't suit.
    """
    data = load_set(settings)
    encoded = encode_set(base, data, settings)
    letters = _letter_tokens(base, data, settings)
    jobs = [_open_job(base, name, member, data, partial_dir) for name, member in members.items()]
    waiting = [(job, index) for job in jobs for index in range(len(encoded)) if index not in job.logprobs]
    prompts = [
        Prompt(
            tokens=encoded[index].tokens, member=job.member, group=_group(data.questions[index], encoded[index], index)
        )
        for job, index in waiting
    ]
    total = len(jobs) * len(encoded)
    done = total - len(prompts)
    for places, scores in _score(base, prompts, [letters[index] for _, index in waiting], settings.row_tokens):
        _keep([waiting[place] for place in places], scores)
        done += len(places)
        if on_progress is not None:
            on_progress(done, total)
    return {job.name: _result(job, data, encoded, settings) for job in jobs}


def load_set(settings: MmluSettings) -> MmluSet:
    """Reads the questions and the examples they need.

    Raises:
        ValueError: as `load_questions`, or a subject with fewer than `num_shots` examples.
    """
    everything = load_questions(settings.questions, Role.questions)
    indices = select(everything, settings.limit, settings.limit_per_subject)
    questions = [everything[index] for index in indices]
    pool = load_questions(settings.shots_file, Role.shots) if settings.num_shots else []
    shots = choose_shots(questions, pool, settings.num_shots, settings.questions, settings.shots_file)
    shots_sha256 = {subject: content_sha256(found) for subject, found in shots.items()}
    parts = [
        settings.protocol.value,
        settings.num_shots,
        settings.chat,
        indices,
        content_sha256(questions),
        shots_sha256,
    ]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return MmluSet(indices=tuple(indices), questions=tuple(questions), shots=shots, sha256=digest)


def encode_set(base: LoadedBase, data: MmluSet, settings: MmluSettings) -> list[Encoded]:
    """Every question's prompt, tokenized and made to fit, in order.

    Raises:
        ValueError: a question that doesn't fit even without examples; names its row.
    """
    encoded = []
    for index, q in zip(data.indices, data.questions, strict=True):
        shots = data.shots[q.subject]
        try:
            encoded.append(encode_prompt(base.tokenizer, settings.protocol, shots, q, base.max_length, settings.chat))
        except ValueError as error:
            raise ValueError(f"{settings.questions}, question {index + 1}: {error}") from error
    return encoded


def _letter_tokens(base: LoadedBase, data: MmluSet, settings: MmluSettings) -> list[list[int]]:
    """The four letters' tokens for each question: found once a subject, as all its prompts end alike."""
    by_subject: dict[str, list[int]] = {}
    for q in data.questions:
        if q.subject not in by_subject:
            by_subject[q.subject] = answer_tokens(
                base.tokenizer, settings.protocol, data.shots[q.subject], q, settings.chat
            )
    return [by_subject[q.subject] for q in data.questions]


def _group(question: Question, encoded: Encoded, index: int) -> str:
    """A name that is equal for prompts with a common beginning, which a cut or fewer shots change."""
    if encoded.num_truncated:
        return f"{question.subject}/{index}"
    return f"{question.subject}/shots={encoded.num_shots}"


def _score(
    base: LoadedBase, prompts: Sequence[Prompt], letters: Sequence[Sequence[int]], row_tokens: int | None
) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    if not prompts:
        return iter(())
    if not base.bank.layout.is_packed:
        return score_padded(base, prompts, letters, row_tokens)
    return score_rows(base, prompts, letters, row_tokens)


def _open_job(base: LoadedBase, name: str, member: str | None, data: MmluSet, partial_dir: Path | None) -> _Job:
    model = model_sha256(base, member)
    return _Job(name, member, model, Partial.open(partial_dir, "mmlu", model, data.sha256, read_by(base)))


def _keep(finished: Sequence[tuple[_Job, int]], scores: NDArray[np.float32]) -> None:
    """Stores a row's scores with their systems; on disk first, if finished parts are kept there."""
    by_job: dict[int, tuple[_Job, dict[int, list[float]]]] = {}
    for (job, at), logprobs in zip(finished, scores.tolist(), strict=True):
        by_job.setdefault(id(job), (job, {}))[1][at] = logprobs
    for job, found in by_job.values():
        job.partial.add(found)


def _result(job: _Job, data: MmluSet, encoded: Sequence[Encoded], settings: MmluSettings) -> MmluResult:
    predictions = tuple(
        Prediction(
            subject=question.subject,
            index=data.indices[index],
            logprobs=tuple(job.logprobs[index]),
            choice=int(np.argmax(job.logprobs[index])),
            answer=question.answer,
            num_shots=encoded[index].num_shots,
            num_truncated=encoded[index].num_truncated,
        )
        for index, question in enumerate(data.questions)
    )
    subjects = score_subjects(predictions)
    macro, macro_ci95 = macro_accuracy(subjects)
    micro, micro_ci95 = micro_accuracy(subjects)
    calibration = calibration_of([p.logprobs for p in predictions], [p.answer for p in predictions])
    return MmluResult(
        system=job.name,
        accuracy_macro=macro,
        accuracy_macro_ci95=macro_ci95,
        accuracy_micro=micro,
        accuracy_micro_ci95=micro_ci95,
        ece=calibration.ece,
        ece_ci95=calibration.ece_ci95,
        brier=calibration.brier,
        brier_ci95=calibration.brier_ci95,
        reliability=calibration.reliability,
        n=len(predictions),
        num_subjects=len(subjects),
        num_truncated_prompts=sum(p.num_truncated > 0 for p in predictions),
        num_dropped_shots=sum(settings.num_shots - p.num_shots for p in predictions),
        protocol=settings.protocol.value,
        split_name=settings.split_name,
        num_shots=settings.num_shots,
        chat=settings.chat,
        per_subject=subjects,
        per_category=score_categories(predictions),
        settings_sha256=data.sha256,
        model_sha256=job.model_sha256,
        predictions=predictions,
    )
