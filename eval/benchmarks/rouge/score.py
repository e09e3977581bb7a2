"""Scores runs by RougeL of their greedy answers to the rows that were held out of their training.

    results = score_rouge(base, contestants, RougeSettings(limit=200), place)

A row is asked in the very tokens that training would have shown, up to its target; the reference is the target's text.
Adapters of one base answer together in continuous batches. RougeL is that of Super-NaturalInstructions
(`eval.benchmarks.super_ni.score`), of one reference. Which rows are held out: `harness.data.selection.holdout`.
The paper's Figures 2 and 4 show RougeL of LLaMA 7B finetuned on Alpaca; its rows were not published.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.answers.decoding import decode
from eval.answers.generate import eos_tokens
from eval.answers.sequences import DecodingRequest, DecodingSettings
from eval.benchmarks.benchmark import Contestant, Place
from eval.benchmarks.held_out_rows import held_out_examples
from eval.benchmarks.intervals import mean_share
from eval.benchmarks.rouge.settings import RougeSettings
from eval.benchmarks.super_ni.score import exact_match, rouge_l
from eval.scoring.model_key import model_sha256, read_by
from eval.scoring.partial import Partial
from harness.banks.load import LoadedBase
from harness.data.tokens import EncodedExamples
from harness.runs.estimate import plain_values

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RougePrediction:
    """The answer to one row, and its scores from 0 to 1."""

    name: str  # of the row, by the digest of its tokens: equal for all runs that hold it out
    answer: str
    reference: str
    rouge_l: float
    exact_match: bool
    is_cut: bool  # at `max_new_tokens`


@dataclass(frozen=True, slots=True, kw_only=True)
class RougeResult:
    """One run on its held-out rows. Scores from 0 to 1."""

    system: str
    dataset: str
    rouge_l: float
    rouge_l_ci95: tuple[float, float] | None  # over rows
    exact_match: float
    n: int
    num_cut: int  # answers that reached `max_new_tokens`
    max_new_tokens: int
    data_sha256: str  # of all rows' tokens
    settings_sha256: str  # of rows and lengths
    model_sha256: str
    predictions: tuple[RougePrediction, ...]
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values: dict[str, Any] = plain_values(self)
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One held-out row as it is asked."""

    name: str
    prompt: tuple[int, ...]
    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What one contestant answers, and what it answered before."""

    contestant: Contestant
    dataset: str
    rows: tuple[_Row, ...]
    data_sha256: str
    settings_sha256: str
    model_sha256: str
    partial: Partial[int]  # (text, whether it was cut) by the row's place


def score_rouge(
    base: LoadedBase, contestants: Sequence[Contestant], settings: RougeSettings, place: Place
) -> dict[str, RougeResult]:
    """Answers and scores, by the contestants' names.

    Args:
        base: causal, with the contestants' members in its bank.
        contestants: finished runs.
        settings: how many rows, and how long answers get.
        place: where data lies and answers are kept, so that a killed call goes on.

    Raises:
        ValueError: no run; one without held-out rows, whose data changed, or with a row that has no prompt.
    """
    asked = [_asked(base, contestant, settings, place) for contestant in contestants]
    waiting = [(one, at) for one in asked for at in range(len(one.rows)) if at not in one.partial.done]
    done = in_all = sum(len(one.rows) for one in asked)
    done -= len(waiting)
    requests = [
        DecodingRequest(tokens=one.rows[at].prompt, member=one.contestant.member, system=one.contestant.name)
        for one, at in waiting
    ]
    decoding = DecodingSettings(max_new_tokens=settings.max_new_tokens, greedy=True, temperature=1.0, top_p=1.0)
    for decoded in decode(base, requests, decoding, eos_tokens(base)):
        one, at = waiting[decoded.index]
        text = str(base.tokenizer.decode(list(decoded.tokens), skip_special_tokens=True)).strip()
        one.partial.add({at: (text, decoded.finish_reason == "length")})
        done += 1
        place.on_progress(done, in_all)
    return {one.contestant.name: _result(one, settings) for one in asked}


def _asked(base: LoadedBase, contestant: Contestant, settings: RougeSettings, place: Place) -> _Asked:
    name, system = contestant.name, contestant.system
    if system is None or system.spec.dataset is None or system.spec.train is None or not system.spec.train.eval_rows:
        raise ValueError(f"eval rouge: {name} has no held-out rows; name runs that were trained with train.eval_rows=N")
    examples = held_out_examples(system.spec, system.folder, base, place.paths)
    rows = tuple(_rows(base, examples, settings.limit, f"{name}, dataset {system.spec.dataset.name}"))
    data = hashlib.sha256(json.dumps([row.name for row in rows]).encode()).hexdigest()
    asked = hashlib.sha256(json.dumps([data, settings.max_new_tokens]).encode()).hexdigest()
    model = model_sha256(base, contestant.member)
    return _Asked(
        contestant=contestant,
        dataset=system.spec.dataset.name,
        rows=rows,
        data_sha256=data,
        settings_sha256=asked,
        model_sha256=model,
        partial=Partial.open(place.partial, "rouge", model, asked, read_by(base)),
    )


def _rows(base: LoadedBase, examples: EncodedExamples, limit: int | None, where: str) -> list[_Row]:
    found: list[_Row] = []
    for index in range(min(len(examples), limit or len(examples))):
        example = examples[index]
        tokens, num_source = example.input_ids.tolist(), example.num_source
        if num_source == 0:
            raise ValueError(
                f"{where}: held-out row {index} has no prompt, as rows of plain text don't; eval=rouge wants questions "
                "with answers"
            )
        found.append(
            _Row(
                name=hashlib.sha256(json.dumps([tokens, num_source]).encode()).hexdigest()[:16],
                prompt=tuple(tokens[:num_source]),
                reference=str(base.tokenizer.decode(tokens[num_source:], skip_special_tokens=True)).strip(),
            )
        )
    return found


def _result(asked: _Asked, settings: RougeSettings) -> RougeResult:
    predictions = tuple(_prediction(row, *asked.partial.done[at]) for at, row in enumerate(asked.rows))
    overall = mean_share([[prediction.rouge_l for prediction in predictions]])
    return RougeResult(
        system=asked.contestant.name,
        dataset=asked.dataset,
        rouge_l=float(np.mean([p.rouge_l for p in predictions])),
        rouge_l_ci95=overall.ci95,
        exact_match=float(np.mean([p.exact_match for p in predictions])),
        n=len(predictions),
        num_cut=sum(p.is_cut for p in predictions),
        max_new_tokens=settings.max_new_tokens,
        data_sha256=asked.data_sha256,
        settings_sha256=asked.settings_sha256,
        model_sha256=asked.model_sha256,
        predictions=predictions,
    )


def _prediction(row: _Row, answer: str, is_cut: bool) -> RougePrediction:
    return RougePrediction(
        name=row.name,
        answer=answer,
        reference=row.reference,
        rouge_l=rouge_l(answer, [row.reference]),
        exact_match=exact_match(answer, [row.reference]),
        is_cut=is_cut,
    )
